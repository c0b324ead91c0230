//! How far a job is, in a few words: what a coordinator tells whoever manages it.

use serde::{Deserialize, Serialize};

/// How far a job is. Holds no secret, image or label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Standing {
    /// Whether it goes on.
    pub state: StandingState,
    /// What it waits for, or what ended it.
    pub reason: Option<String>,
    /// What goes on: `scoring`, `querying` or `training`.
    pub stage: Option<String>,
    /// Rounds that were trained; round 0, on the seed images, is not counted.
    pub rounds: u32,
    /// Rounds that the budget pays for.
    pub rounds_planned: u32,
    /// Queries that are billed, or may be.
    pub billed: u64,
    /// Queries that may be billed.
    pub budget: u64,
    /// Of the latest student with the teacher, 0 to 1, where the teacher was asked.
    pub agreement: Option<f64>,
    /// Of the latest student, 0 to 1, where true classes are known.
    pub accuracy: Option<f64>,
    /// Workers that are there.
    pub workers: u32,
}

/// Whether a job goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandingState {
    /// It begins: nothing is known yet.
    #[default]
    Starting,
    /// Rounds are left.
    Running,
    /// It asks nothing for a while, and goes on by itself.
    Paused,
    /// Budget, pool or stopping rule ended it.
    Finished,
    /// Something else ended it; it can go on.
    Stopped,
}

impl Standing {
    /// Longest text of [`Self::reason`] in bytes: a termination message holds 4 KiB.
    pub const MAX_REASON_BYTES: usize = 2048;

    /// Cuts what is too long for a termination message.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if let Some(reason) = &mut self.reason {
            reason.truncate(reason.floor_char_boundary(Self::MAX_REASON_BYTES));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_fits_a_termination_message_and_stays_text() {
        let standing = Standing {
            reason: Some("ü\n".repeat(4096)),
            ..Standing::default()
        };
        let text = serde_json::to_string(&standing.bounded()).unwrap();
        assert!(text.len() <= 4096, "{}", text.len());
        assert!(
            serde_json::from_str::<Standing>(&text)
                .unwrap()
                .reason
                .unwrap()
                .starts_with('ü')
        );
    }

    #[test]
    fn what_another_version_leaves_out_has_a_default() {
        let standing: Standing = serde_json::from_str(r#"{ "state": "paused", "new": 1 }"#).unwrap();
        assert_eq!((standing.state, standing.billed), (StandingState::Paused, 0));
    }
}
