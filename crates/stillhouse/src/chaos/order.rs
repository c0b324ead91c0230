//! How a coordinator is asked to cut or slow one of its links: one JSON frame each way over a link that proves the job's
//! token for this purpose alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stillhouse_runtime::link::{self, Connection, LinkError, Purpose, Target};

use crate::failure::{Failure, Kind};

/// Longest frame of such a link.
pub const MAX_ORDER_BYTES: usize = 4 << 10;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest pause that a coordinator makes its links wait for: below the silence that it takes for a loss.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Longest time for which a coordinator keeps a link slow.
pub const MAX_TIME: Duration = Duration::from_secs(60);

/// What is to be done to one of the links: number `pick` modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "do",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Order {
    /// Cut it.
    Cut {
        /// Which.
        pick: u64,
    },
    /// Make every read and write wait.
    Slow {
        /// Which.
        pick: u64,
        /// How long each waits, at most [`MAX_PAUSE`].
        pause_ms: u64,
        /// For how long, at most [`MAX_TIME`].
        time_ms: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "camelCase")]
pub enum Answer {
    /// It was done to the link of this worker or gateway.
    Done {
        /// `worker N`, or the gateway's name.
        of: String,
    },
    /// There is no link.
    Nobody,
    /// This coordinator does not do it.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Nobody answers: the coordinator is stopped, dead, or just being started.
    #[error("the coordinator does not answer")]
    Away,
    /// It does not take orders from here.
    #[error("the coordinator refuses: {0}")]
    Refused(String),
}

impl From<OrderError> for Failure {
    fn from(error: OrderError) -> Self {
        let hint = match &error {
            OrderError::Refused(_) => "start the job with --chaos, or leave links out: --targets worker",
            OrderError::Away => "is it still running? stillhouse status says",
        };
        Self::new(Kind::Usage, error).hint(hint)
    }
}

/// Gives `order` to the coordinator at `target`; the name of the worker or gateway whose link it was, `None` when there is no
/// link.
///
/// # Errors
/// When nobody answers, or the coordinator refuses.
pub async fn give(target: &Target, order: Order) -> Result<Option<String>, OrderError> {
    let link = link::connect(target, Purpose::Tormentor, MAX_ORDER_BYTES).await;
    let connection = link.map_err(|error| match error {
        LinkError::Refused { reason, .. } => OrderError::Refused(reason.to_owned()),
        _ => OrderError::Away,
    })?;
    let answer = tokio::time::timeout(ANSWER, ask(connection, order)).await;
    match answer.ok().flatten().ok_or(OrderError::Away)? {
        Answer::Done { of } => Ok(Some(of)),
        Answer::Nobody => Ok(None),
        Answer::Refused { reason } => Err(OrderError::Refused(reason)),
    }
}

async fn ask(connection: Connection, order: Order) -> Option<Answer> {
    let (sender, mut receiver) = connection.split();
    let frame = serde_json::to_vec(&order).expect("plain numbers");
    sender.send(frame).await.ok()?;
    let answer = receiver.recv().await.ok()??;
    serde_json::from_slice(&answer).ok()
}
