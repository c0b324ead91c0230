//! One request: leases, bytes, permits on disk, the teacher, and the bill settled.

use std::hash::{BuildHasher, RandomState};

use stillhouse_core::Key;
use stillhouse_ledger::{LedgerError, Permit, Proof, RequestId};
use stillhouse_queue::{Lease, LeaseId, Reference};
use stillhouse_teacher::{Answer, Billing, FailureKind, TeacherFailure};
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use super::breaker::Verdict;
use super::{GatewayError, GatewayEvent, Shared};

/// The right to have a request under way.
enum Turn<'a> {
    /// With any others.
    Together { _guard: RwLockReadGuard<'a, ()> },
    /// One image, while nothing else is under way: the teacher has to prove itself.
    Alone { _guard: RwLockWriteGuard<'a, ()> },
}

/// What became of a request that did not fail for good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// Labels are on disk, or somebody else saw to that.
    Answered,
    /// Not asked now: the gateway pauses or stops.
    PutOff,
}

/// What one request asks, and on which permits.
struct Request {
    id: RequestId,
    permits: Vec<Permit>,
    /// `[n, channels, height, width]`.
    images: Vec<u8>,
}

impl Request {
    /// Drops every image, of `size` bytes, whose permit is not among `marked`: some of its own, in
    /// their order.
    fn keep(&mut self, marked: &[Permit], size: usize) {
        if marked == self.permits {
            return;
        }
        let mut rest = marked.iter().peekable();
        let mut kept = Vec::with_capacity(marked.len() * size);
        for (permit, image) in self.permits.iter().zip(self.images.chunks_exact(size)) {
            if rest.next_if_eq(&permit).is_some() {
                kept.extend_from_slice(image);
            }
        }
        self.permits = marked.to_vec();
        self.images = kept;
    }
}

impl Shared {
    /// Asks for everything leased, in one request or, when the teacher has to prove itself, first
    /// one image. What is not asked goes back to the queue.
    pub(super) async fn ask(&self, leases: Vec<Lease>) -> Result<(), GatewayError> {
        let mut waiting = leases;
        while !waiting.is_empty() {
            let turn = self.turn().await;
            let size = match turn {
                Turn::Alone { .. } => 1,
                Turn::Together { .. } => waiting.len(),
            };
            let rest = waiting.split_off(size);
            let settled = self.exchange(waiting).await;
            if settled.is_err() {
                // Before the turn ends: no other request begins after the one that failed.
                self.stop.cancel();
            }
            if !matches!(settled, Ok(Settled::Answered)) {
                self.hand_back(&rest).await;
                return settled.map(|_| ());
            }
            waiting = rest;
        }
        Ok(())
    }

    async fn turn(&self) -> Turn<'_> {
        loop {
            let together = self.alone.read().await;
            if self.is_proven() {
                return Turn::Together { _guard: together };
            }
            drop(together);
            // Waits until every request under way is settled.
            let alone = self.alone.write().await;
            if !self.is_proven() {
                return Turn::Alone { _guard: alone };
            }
        }
    }

    fn is_proven(&self) -> bool {
        self.control().breaker.is_proven()
    }

    async fn exchange(&self, leases: Vec<Lease>) -> Result<Settled, GatewayError> {
        let rendered = self.render(&leases);
        let may_send = rendered.is_ok() && self.wait_to_send(leases.len()).await;
        let images = match rendered {
            Ok(images) if may_send => images,
            not_sent => {
                self.hand_back(&leases).await;
                return not_sent.map(|_| Settled::PutOff);
            }
        };
        let permits: Vec<Permit> = leases.iter().map(|lease| permit(&lease.reference)).collect();
        let id = self.next_request();
        let settled = self.send(Request { id, permits, images }).await;
        // The ledger knows: whoever gets these references again finds their permits used.
        self.gateway.queue.ack(&ids(&leases)).await;
        settled
    }

    /// Marks as sent (invariant I2), sends, settles. A reference that came twice, or of an earlier
    /// life, is not sent: somebody else sees, or saw, to it.
    async fn send(&self, mut request: Request) -> Result<Settled, GatewayError> {
        let given = request.permits.clone();
        let marked = self.gateway.ledger.mark_sent(request.id, given).await?;
        let size = request.images.len() / request.permits.len();
        request.keep(&marked, size);
        let n = marked.len();
        if n == 0 {
            return Ok(Settled::Answered);
        }
        let sent = Instant::now();
        match self.gateway.teacher.infer(&request.images, n).await {
            Ok(answer) => self.settle_answer(request, answer, sent).await,
            Err(failure) => self.settle_failure(request.id, request.permits, failure, sent).await,
        }
    }

    /// The canonical bytes of every reference, each checked against its key: no other bytes are
    /// ever sent on its permit.
    fn render(&self, leases: &[Lease]) -> Result<Vec<u8>, GatewayError> {
        let shape = self.gateway.sources.seeds.shape();
        let fingerprint = self.gateway.teacher.info().fingerprint;
        let sources = self.gateway.sources.sources();
        let mut images = vec![0; leases.len() * shape.len()];
        for (lease, pixels) in leases.iter().zip(images.chunks_exact_mut(shape.len())) {
            let Reference { key, sample, .. } = lease.reference;
            let exists = sources.render_into(sample, pixels);
            let found = exists.then(|| Key::of(fingerprint, shape, pixels));
            if found != Some(key) {
                return Err(GatewayError::Foreign {
                    sample,
                    expected: key.to_string(),
                    found: found.map_or_else(|| "no such image".to_owned(), |found| found.to_string()),
                });
            }
        }
        Ok(images)
    }

    /// Waits for the rate; `false` when the gateway pauses or stops.
    async fn wait_to_send(&self, n: usize) -> bool {
        loop {
            let now = Instant::now();
            let (taken, paused) = {
                let pace = &mut self.control().pace;
                (pace.take(n, now), pace.paused() > now)
            };
            match taken {
                Ok(()) => return !self.stop.is_cancelled(),
                Err(_) if paused => return false,
                Err(free) if self.sleep_until(free).await => {}
                Err(_) => return false,
            }
        }
    }

    /// Keeps every usable label. A bad one was paid for too, and ends the asking.
    async fn settle_answer(&self, request: Request, answer: Answer, sent: Instant) -> Result<Settled, GatewayError> {
        let n = request.permits.len();
        if answer.len() != n {
            let message = format!("expected {n} labels, found {}", answer.len());
            let failure = TeacherFailure::new(FailureKind::Malformed, message);
            return self.settle_failure(request.id, request.permits, failure, sent).await;
        }
        let (mut labels, mut bad, mut cause) = (vec![], vec![], None);
        for (permit, label) in request.permits.into_iter().zip(answer) {
            match label {
                Ok(label) => labels.push((permit, label)),
                Err(error) => {
                    bad.push(permit);
                    cause.get_or_insert(error.to_string());
                }
            }
        }
        let good = labels.len();
        let permits: Vec<Permit> = labels.iter().map(|(permit, _)| *permit).collect();
        let kept = self.gateway.ledger.commit(labels).await;
        if let Err(error @ LedgerError::Classes { .. }) = kept {
            bad.extend(permits);
            return self.useless(request.id, bad, error.to_string()).await;
        }
        kept?;
        let now = Instant::now();
        self.control().pace.answered(good, now);
        self.tell(GatewayEvent::Answered {
            n: good,
            latency: now.saturating_duration_since(sent),
        });
        match cause {
            None => {
                self.control().breaker.answered();
                Ok(Settled::Answered)
            }
            Some(cause) => self.useless(request.id, bad, cause).await,
        }
    }

    async fn settle_failure(
        &self,
        request: RequestId,
        permits: Vec<Permit>,
        failure: TeacherFailure,
        sent: Instant,
    ) -> Result<Settled, GatewayError> {
        match failure.billing() {
            Billing::NotSent => {
                self.gateway
                    .ledger
                    .release(request, permits, Proof::NeverConnected)
                    .await?;
                self.back_off(&failure, sent)
            }
            Billing::Refused => {
                let status = status_of(&failure);
                self.gateway
                    .ledger
                    .release(request, permits, Proof::Refused { status })
                    .await?;
                if failure.is_fatal() {
                    return Err(GatewayError::Rejected { cause: failure.message });
                }
                self.back_off(&failure, sent)
            }
            Billing::Billed => self.useless(request, permits, failure.message).await,
            Billing::Ambiguous => self.in_doubt(request, permits, failure.message).await,
        }
    }

    async fn useless(&self, request: RequestId, permits: Vec<Permit>, cause: String) -> Result<Settled, GatewayError> {
        let queries = permits.len();
        self.gateway.ledger.spent(request, permits, cause.clone()).await?;
        let error = GatewayError::Useless { queries, cause };
        let message = error.to_string();
        self.tell(GatewayEvent::Failed { message });
        Err(error)
    }

    async fn in_doubt(&self, request: RequestId, permits: Vec<Permit>, cause: String) -> Result<Settled, GatewayError> {
        let n = permits.len();
        self.gateway.ledger.ambiguous(request, permits, cause.clone()).await?;
        self.tell(GatewayEvent::Failed {
            message: format!("{n} queries may or may not have been billed: {cause}"),
        });
        let (ends, queries) = {
            let breaker = &mut self.control().breaker;
            (breaker.ambiguous(n), breaker.in_doubt())
        };
        if ends {
            return Err(GatewayError::InDoubt { queries, cause });
        }
        Ok(Settled::PutOff)
    }

    /// Nothing was billed: pauses every connection, or gives up.
    fn back_off(&self, failure: &TeacherFailure, sent: Instant) -> Result<Settled, GatewayError> {
        let now = Instant::now();
        let mut control = self.control();
        let verdict = control.breaker.refused(sent, now, failure.retry_after, jitter());
        let (until, slower) = match verdict {
            Verdict::Wait { until, slower } => (until, slower),
            Verdict::GiveUp { waited } => {
                let cause = failure.message.clone();
                return Err(GatewayError::TeacherDown { waited, cause });
            }
        };
        if slower && matches!(failure.kind, FailureKind::Busy { .. }) {
            control.pace.halve(now);
        }
        let longer = until > control.pace.paused();
        control.pace.pause(until);
        drop(control);
        if longer {
            let reason = failure.message.clone();
            self.tell(GatewayEvent::Waiting { reason, until });
        }
        Ok(Settled::PutOff)
    }

    /// Returns leases whose permits were not touched.
    async fn hand_back(&self, leases: &[Lease]) {
        self.gateway.queue.nack(&ids(leases)).await;
    }
}

fn ids(leases: &[Lease]) -> Vec<LeaseId> {
    leases.iter().map(|lease| lease.id).collect()
}

fn permit(reference: &Reference) -> Permit {
    Permit {
        key: reference.key,
        epoch: reference.epoch,
        charge: reference.charge,
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
