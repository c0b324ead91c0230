//! What a request came to, and what that means for ledger, pace and breaker.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use stillhouse_core::SoftLabel;
use stillhouse_core::job::OnAmbiguous;
use stillhouse_ledger::{Permit, Proof, RequestId};
use stillhouse_teacher::{Billing, FailureKind, TeacherFailure};
use tokio::time::Instant;

use super::breaker::Verdict;
use super::message::Outcome;
use super::{AskingStopped, DeskEvent, Shared};

impl Shared {
    /// Writes an outcome into the ledger. Pace and breaker learn from it once, by the request that is
    /// under way: one that is settled again, or was abandoned, is only an entry in the books.
    ///
    /// # Errors
    /// What makes asking on unwise.
    pub(super) async fn settle(&self, request: RequestId, outcome: Outcome) -> Result<(), AskingStopped> {
        let sent = {
            let control = self.control();
            control.under_way.get(&request).map(|under_way| under_way.since)
        };
        count(&outcome);
        match outcome {
            Outcome::Answered {
                labels,
                useless,
                cause,
                declined,
                reason,
                latency,
            } => {
                let (labels, foreign) = self.of_this_job(labels);
                let cause = match foreign.is_empty() {
                    true => cause,
                    false => format!("expected labels of {} classes, found another number", self.classes),
                };
                let useless = useless.into_iter().chain(foreign).collect();
                self.keep(labels, sent, latency).await?;
                self.decline(request, declined, reason, sent).await?;
                self.write_off(request, useless, cause).await
            }
            Outcome::Failed { permits, failure } => self.failed(request, permits, failure, sent).await,
        }
    }

    /// Labels with the job's number of classes, and the permits of the others.
    fn of_this_job(&self, labels: Vec<(Permit, SoftLabel)>) -> (Vec<(Permit, SoftLabel)>, Vec<Permit>) {
        let fits = |(_, label): &(Permit, SoftLabel)| label.probabilities().len() == self.classes;
        let (fitting, others): (Vec<_>, Vec<_>) = labels.into_iter().partition(fits);
        (fitting, others.into_iter().map(|(permit, _)| permit).collect())
    }

    async fn keep(
        &self,
        labels: Vec<(Permit, SoftLabel)>,
        sent: Option<Instant>,
        latency: Duration,
    ) -> Result<(), AskingStopped> {
        let n = labels.len();
        self.ledger.commit(labels).await?;
        if sent.is_some() && n > 0 {
            let mut control = self.control();
            control.pace.answered(n, Instant::now());
            control.breaker.answered();
            drop(control);
            self.tell(DeskEvent::Answered { n, latency });
        }
        Ok(())
    }

    /// What the teacher would not label was paid for. The asking goes on, unless that is all it does.
    async fn decline(
        &self,
        request: RequestId,
        permits: Vec<Permit>,
        reason: String,
        sent: Option<Instant>,
    ) -> Result<(), AskingStopped> {
        if permits.is_empty() {
            return Ok(());
        }
        let queries = permits.len();
        self.ledger.spent(request, permits, &reason).await?;
        self.tell(DeskEvent::Failed {
            message: format!("the teacher declined {queries} queries (billed, and not asked again): {reason}"),
        });
        if sent.is_some() && self.control().breaker.declined(queries) {
            return Err(AskingStopped::Useless { queries, cause: reason });
        }
        Ok(())
    }

    /// A bad answer was paid for, and ends the asking.
    async fn write_off(&self, request: RequestId, permits: Vec<Permit>, cause: String) -> Result<(), AskingStopped> {
        if permits.is_empty() {
            return Ok(());
        }
        let queries = permits.len();
        self.ledger.spent(request, permits, cause.clone()).await?;
        let stopped = AskingStopped::Useless { queries, cause };
        self.tell(DeskEvent::Failed {
            message: stopped.to_string(),
        });
        Err(stopped)
    }

    async fn failed(
        &self,
        request: RequestId,
        permits: Vec<Permit>,
        failure: TeacherFailure,
        sent: Option<Instant>,
    ) -> Result<(), AskingStopped> {
        match failure.billing() {
            Billing::NotSent => {
                self.ledger.release(request, permits, Proof::NeverConnected).await?;
                self.back_off(&failure, sent)
            }
            Billing::Refused => {
                let status = status_of(&failure);
                self.ledger.release(request, permits, Proof::Refused { status }).await?;
                if failure.is_fatal() {
                    return Err(AskingStopped::Rejected { cause: failure.message });
                }
                self.back_off(&failure, sent)
            }
            Billing::Billed => self.write_off(request, permits, failure.message).await,
            Billing::Ambiguous => self.in_doubt(request, permits, &failure, sent).await,
        }
    }

    async fn in_doubt(
        &self,
        request: RequestId,
        permits: Vec<Permit>,
        failure: &TeacherFailure,
        sent: Option<Instant>,
    ) -> Result<(), AskingStopped> {
        let (n, cause) = (permits.len(), &failure.message);
        self.ledger.ambiguous(request, permits, cause).await?;
        self.tell(DeskEvent::Failed {
            message: format!("{n} queries may or may not have been billed: {cause}"),
        });
        if let OnAmbiguous::IdempotencyKey(_) = self.policy {
            // It will be asked again under the same key, at no cost: the teacher is only slow.
            return self.back_off(failure, sent);
        }
        if sent.is_none() {
            return Ok(());
        }
        let (ends, queries) = {
            let breaker = &mut self.control().breaker;
            (breaker.ambiguous(n), breaker.in_doubt())
        };
        let cause = cause.clone();
        if ends {
            return Err(AskingStopped::InDoubt { queries, cause });
        }
        Ok(())
    }

    /// Nothing more was billed: pauses every gateway, or gives up.
    fn back_off(&self, failure: &TeacherFailure, sent: Option<Instant>) -> Result<(), AskingStopped> {
        let Some(sent) = sent else {
            return Ok(());
        };
        let now = Instant::now();
        let mut control = self.control();
        let verdict = control.breaker.refused(sent, now, failure.retry_after, jitter());
        let (until, slower) = match verdict {
            Verdict::Wait { until, slower } => (until, slower),
            Verdict::GiveUp { waited } => {
                let cause = failure.message.clone();
                return Err(AskingStopped::TeacherDown { waited, cause });
            }
        };
        if slower && matches!(failure.kind, FailureKind::Busy { .. }) {
            control.pace.halve(now);
        }
        let longer = until > control.pace.paused();
        control.pace.pause(until);
        drop(control);
        if longer {
            let metrics = stillhouse_metrics::desk();
            metrics.waits.inc();
            metrics
                .pause_seconds
                .inc_by(until.saturating_duration_since(now).as_secs_f64());
            let reason = failure.message.clone();
            self.tell(DeskEvent::Waiting { reason, until });
        }
        Ok(())
    }
}

/// What the metrics say of a request.
fn count(outcome: &Outcome) {
    let metrics = stillhouse_metrics::desk();
    let images = |name: &str, n: usize| metrics.answers.with_label_values(&[name]).inc_by(n as u64);
    match outcome {
        Outcome::Answered {
            labels,
            useless,
            declined,
            latency,
            ..
        } => {
            metrics.requests.with_label_values(&["answered"]).inc();
            metrics.latency.observe(latency.as_secs_f64());
            images("labelled", labels.len());
            images("useless", useless.len());
            images("declined", declined.len());
        }
        Outcome::Failed { permits, failure } => {
            metrics.requests.with_label_values(&[failure.kind.name()]).inc();
            let images_are = match failure.billing() {
                Billing::NotSent | Billing::Refused => "refused",
                Billing::Billed => "useless",
                Billing::Ambiguous => "in-doubt",
            };
            images(images_are, permits.len());
            let status = status_of(failure);
            if (100..600).contains(&status) {
                metrics.statuses.with_label_values(&[&status.to_string()]).inc();
            }
        }
    }
}

fn status_of(failure: &TeacherFailure) -> u16 {
    match failure.kind {
        FailureKind::Busy { status } | FailureKind::Rejected { status } | FailureKind::Server { status } => status,
        FailureKind::Unreachable | FailureKind::Deadline | FailureKind::Lost | FailureKind::Malformed => 0,
    }
}

/// Uniform in 0..1. Only spreads waits; nothing that is computed depends on it.
fn jitter() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}
