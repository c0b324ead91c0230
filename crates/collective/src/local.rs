//! A world of one.

use crate::{
    collective::{Collective, gathered_len},
    error::CollectiveError,
};

/// The world of a single rank: every sum is what it already holds.
///
/// ```
/// use stillhouse_collective::{Collective, Local};
/// let mut world = Local;
/// let mut gradient = [0.5, -1.0];
/// world.all_reduce(&mut gradient)?;
/// assert_eq!(gradient, [0.5, -1.0]);
/// assert_eq!(world.all_gather(&gradient, &[2])?, gradient);
/// # Ok::<(), stillhouse_collective::CollectiveError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Collective for Local {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize]) -> Result<Vec<f32>, CollectiveError> {
        gathered_len(0, 1, mine, counts)?;
        Ok(mine.to_vec())
    }

    fn all_reduce(&mut self, _data: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
