//! The coordinator's side of [`order`](super::order): its links, and who may do what to them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use stillhouse_runtime::link::{Connection, Reins};
use tokio::sync::mpsc;

use super::order::{Answer, MAX_PAUSE, MAX_TIME, Order};

/// How long whoever gives an order may take to say it: one order is looked at at a time.
const ORDER: Duration = Duration::from_secs(2);
/// What was done that the event log has not yet; orders come seconds apart, and wait for it.
const NOTES: usize = 16;
/// What a coordinator says that is not there to be disturbed.
const FORBIDDEN: &str = "it was started without --chaos";

/// Every link of a coordinator whose reins it holds. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<Line>>>);

#[derive(Clone, Debug)]
struct Line {
    /// The worker or gateway at its other end.
    of: String,
    reins: Reins,
}

impl Lines {
    /// Enters the link of the worker or gateway that is called `of`. One without reins is left out.
    pub fn enter(&self, of: String, reins: Option<Reins>) {
        if let Some(reins) = reins {
            self.living().push(Line { of, reins });
        }
    }

    /// The links that have not ended.
    fn living(&self) -> MutexGuard<'_, Vec<Line>> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|line| !line.reins.is_over());
        lines
    }

    fn pick(&self, pick: u64) -> Option<Line> {
        let lines = self.living();
        let at = pick.checked_rem(lines.len() as u64)?;
        lines.get(at as usize).cloned()
    }

    fn obey(&self, order: Order) -> Answer {
        let (Order::Cut { pick } | Order::Slow { pick, .. }) = order;
        if let Order::Slow { pause_ms, time_ms, .. } = order
            && (u128::from(pause_ms) > MAX_PAUSE.as_millis() || u128::from(time_ms) > MAX_TIME.as_millis())
        {
            let reason =
                format!("expected a pause of at most {MAX_PAUSE:?} for at most {MAX_TIME:?}, found longer ones");
            return Answer::Refused { reason };
        }
        let Some(Line { of, reins }) = self.pick(pick) else {
            return Answer::Nobody;
        };
        match order {
            Order::Cut { .. } => reins.cut(),
            Order::Slow { pause_ms, time_ms, .. } => {
                reins.slow(Duration::from_millis(pause_ms), Duration::from_millis(time_ms));
            }
        }
        Answer::Done { of }
    }
}

/// Takes orders about `lines` from whoever comes over `links`, where the job was started to be disturbed, and refuses them
/// with a sentence where it was not. What is done comes back, for the event log.
#[must_use]
pub fn serve(mut links: mpsc::Receiver<Connection>, lines: Lines, is_allowed: bool) -> mpsc::Receiver<Value> {
    let (notes, noted) = mpsc::channel(NOTES);
    tokio::spawn(async move {
        while let Some(connection) = links.recv().await {
            let peer = connection.peer();
            match tokio::time::timeout(ORDER, attend(connection, &lines, is_allowed)).await {
                Ok(Some(note)) => drop(notes.send(note).await),
                Ok(None) => {}
                Err(_) => tracing::warn!(%peer, "a tormentor gave no order in time"),
            }
        }
    });
    noted
}

/// One order; what was done.
async fn attend(connection: Connection, lines: &Lines, is_allowed: bool) -> Option<Value> {
    let (sender, mut receiver) = connection.split();
    let frame = receiver.recv().await.ok()??;
    let order = serde_json::from_slice::<Order>(&frame);
    let answer = match &order {
        _ if !is_allowed => Answer::Refused {
            reason: FORBIDDEN.to_owned(),
        },
        Ok(order) => lines.obey(*order),
        Err(error) => Answer::Refused {
            reason: format!("expected an order of this version: {error}"),
        },
    };
    let text = serde_json::to_vec(&answer).expect("plain text");
    // Whoever asked may be gone; what was done is noted all the same.
    let _told = sender.send(text).await;
    let _told = sender.flush().await;
    match (order, answer) {
        (Ok(order), Answer::Done { of }) => Some(json!({ "link": of, "order": order })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_beyond_what_a_job_must_bear_is_refused_and_one_for_nobody_hits_nobody() {
        let lines = Lines::default();
        let slow = |pause_ms, time_ms| Order::Slow {
            pick: 3,
            pause_ms,
            time_ms,
        };
        assert_eq!(lines.obey(slow(100, 1_000)), Answer::Nobody);
        assert_eq!(lines.obey(Order::Cut { pick: u64::MAX }), Answer::Nobody);
        for order in [slow(5_001, 1), slow(1, 60_001), slow(u64::MAX, u64::MAX)] {
            assert!(matches!(lines.obey(order), Answer::Refused { .. }), "{order:?}");
        }
    }

    #[test]
    fn an_order_is_read_as_it_is_written_and_nothing_else_is_an_order() {
        let order = Order::Slow {
            pick: 1,
            pause_ms: 2,
            time_ms: 3,
        };
        let text = serde_json::to_string(&order).expect("text");
        assert_eq!(text, r#"{"do":"slow","pick":1,"pauseMs":2,"timeMs":3}"#);
        assert_eq!(serde_json::from_str::<Order>(&text).expect("an order"), order);
        for wrong in [
            r#"{"do":"kill","pick":1}"#,
            r#"{"do":"cut"}"#,
            r#"{"do":"cut","pick":1,"force":true}"#,
        ] {
            assert!(serde_json::from_str::<Order>(wrong).is_err(), "{wrong}");
        }
    }
}
