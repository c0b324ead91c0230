//! A connection of a rank to a neighbour, and the lane beside it where there is one.

use super::{lane::Lane, wire::Wire};

/// What leads to a neighbour. Floats go one way.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) wire: Wire,
    pub(super) lane: Option<Lane>,
}
