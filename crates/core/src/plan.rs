//! The steps of a job.
use serde::{Deserialize, Serialize};
/// Which of a job's students a query or a training is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The student whose queries the acquisition function chooses.
    Active,
    /// The random control at equal queries.
    Control,
}
