//! One request: leases, bytes, the desk's leave, the teacher, and the bill settled.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillhouse_core::label::LabelError;
use stillhouse_core::trace::Stage;
use stillhouse_core::{Key, Sample};
use stillhouse_ledger::{Permit, RequestId};
use stillhouse_queue::{Lease, LeaseId, Reference};
use stillhouse_teacher::{Answer, Attempt, FailureKind, TeacherFailure};
use stillhouse_trace::{Kind as SpanKind, Place, Span};
use tokio::time::Instant;

use super::{Gateway, GatewaySources};
use crate::desk::message::{Begun, Outcome, Settled};

/// What a connection does after a request.
pub(super) enum Next {
    /// Asks on.
    GoOn,
    /// Asks nothing for so long.
    Wait(Duration),
    /// Ends.
    Over,
}

/// References that this gateway can render, and their bytes.
struct Rendered {
    leases: Vec<Lease>,
    /// `[n, channels, height, width]`.
    images: Vec<u8>,
}

impl Gateway {
    /// Asks for everything leased, in one request or as the desk says. What is not asked goes back to
    /// the queue.
    pub(super) async fn ask(&self, leases: Vec<Lease>) -> Next {
        let mut waiting = self.render(leases).await;
        while !waiting.leases.is_empty() {
            let request = self.name();
            let permits: Vec<Permit> = waiting.leases.iter().map(|lease| permit(&lease.reference)).collect();
            let mut span = self.span(&waiting.leases);
            span.set("stillhouse.request", request.to_string());
            let leave = span.part("wait for leave", SpanKind::Client);
            let begun = self.counter.begin(request, permits).await;
            drop(leave);
            let (considered, accepted) = match begun {
                Begun::Send { considered, accepted } => (considered as usize, accepted),
                Begun::Wait { time } => {
                    self.hand_back(&waiting.leases).await;
                    return Next::Wait(time);
                }
                Begun::Over => {
                    self.hand_back(&waiting.leases).await;
                    return Next::Over;
                }
            };
            let rest = waiting.split_off(considered);
            let settled = match accepted.is_empty() {
                // References that came twice, or of an earlier life: somebody else sees to them.
                true => Settled::GoOn,
                false => self.send(request, &waiting, accepted, &mut span).await,
            };
            // The ledger knows: whoever gets these references again finds their permits used.
            self.acknowledge(&waiting.leases).await;
            if settled == Settled::Over {
                self.hand_back(&rest.leases).await;
                return Next::Over;
            }
            waiting = rest;
        }
        Next::GoOn
    }

    /// A name that no other request has: the gateway's own, which is random, and a count.
    fn name(&self) -> RequestId {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        RequestId(u128::from(self.counter.gateway().0) << 64 | u128::from(count))
    }

    /// Sends what the desk accepted, and settles it.
    async fn send(&self, request: RequestId, considered: &Rendered, accepted: Vec<Permit>, span: &mut Span) -> Settled {
        let images = considered.of(&accepted);
        span.set("stillhouse.images", accepted.len() as i64);
        let mut asking = span.part("ask the teacher", SpanKind::Client);
        let attempt = Attempt {
            request_id: request.to_string(),
            idempotency_key: self.idempotency_key(&accepted),
            trace_parent: asking.place().and_then(|place| place.header()),
        };
        let sent = Instant::now();
        let answer = self.teacher.infer(&images, accepted.len(), &attempt).await;
        if let Err(failure) = &answer {
            asking.fail(failure.kind.name());
        }
        drop(asking);
        let _settling = span.part("settle", SpanKind::Client);
        let metrics = stillhouse_metrics::gateway();
        let outcome_is = if answer.is_ok() { "answered" } else { "failed" };
        metrics.requests.with_label_values(&[outcome_is]).inc();
        metrics.images.inc_by(accepted.len() as u64);
        metrics.seconds.observe(sent.elapsed().as_secs_f64());
        self.counter.settle(request, outcome(accepted, answer, sent)).await
    }

    /// The span of a request for `leases`, which were rendered just now, in the trace of the batch that the first
    /// belongs to. A request may have some of the other arm's, too.
    fn span(&self, leases: &[Lease]) -> Span {
        let Reference { arm, round, .. } = leases.first().expect("a request is for something").reference;
        let place = Place::of(self.sources.trace.batch(arm, round), Stage::Querying);
        let mut span = place.span("request", SpanKind::Consumer);
        span.set("stillhouse.gateway", self.counter.gateway().to_string());
        span
    }

    /// Where the job relies on them: the name of the query and its charge, the same whenever it is
    /// sent. Such requests carry one image.
    fn idempotency_key(&self, accepted: &[Permit]) -> Option<String> {
        match accepted {
            [permit] if self.sends_idempotency_keys => Some(format!("{}-{}", permit.key, permit.charge)),
            _ => None,
        }
    }

    /// The canonical bytes of every reference, each checked against its key: no other bytes are
    /// ever sent on its permit. References that name none of this gateway's images are dropped.
    async fn render(&self, leases: Vec<Lease>) -> Rendered {
        let begun = Instant::now();
        let shape = self.sources.seeds.shape();
        let fingerprint = self.teacher.info().fingerprint;
        let mut rendered = Rendered {
            leases: Vec::with_capacity(leases.len()),
            images: Vec::with_capacity(leases.len() * shape.len()),
        };
        let mut foreign = vec![];
        let mut pixels = vec![0; shape.len()];
        for lease in leases {
            let Reference { key, sample, .. } = lease.reference;
            self.fetch_generated(sample).await;
            let exists = self.sources.sources().render_into(sample, &mut pixels);
            let found = exists.then(|| Key::of(fingerprint, shape, &pixels));
            if found == Some(key) {
                rendered.leases.push(lease);
                rendered.images.extend_from_slice(&pixels);
                continue;
            }
            let found = found.map_or_else(|| "no such image".to_owned(), |found| found.to_string());
            self.counter
                .report_foreign(format!("{sample:?}: expected key {key}, found {found}"))
                .await;
            foreign.push(lease);
        }
        let metrics = stillhouse_metrics::gateway();
        metrics.foreign.inc_by(foreign.len() as u64);
        metrics.render_seconds.inc_by(begun.elapsed().as_secs_f64());
        self.acknowledge(&foreign).await;
        rendered
    }

    /// Sees to it that the generated images are here, if the sample is one of them.
    async fn fetch_generated(&self, sample: Sample) {
        let GatewaySources { generated, pool, .. } = &self.sources;
        let is_generated = matches!(sample, Sample::Mix(candidate) if candidate.pair.0 >= pool.pairs());
        if is_generated
            && generated.get().is_none()
            && let Some(images) = self.counter.generated().await
        {
            // Another connection of this gateway may have been quicker.
            let _same = generated.set(images);
        }
    }

    async fn acknowledge(&self, leases: &[Lease]) {
        if leases.is_empty() {
            return;
        }
        if let Err(error) = self.queue.ack(&ids(leases)).await {
            // They come again, and find their permits used.
            tracing::debug!(%error, "deliveries were not acknowledged");
        }
    }

    /// Returns leases whose permits were not touched.
    async fn hand_back(&self, leases: &[Lease]) {
        if leases.is_empty() {
            return;
        }
        if let Err(error) = self.queue.nack(&ids(leases)).await {
            // They are reclaimed when they are old, or asked for anew when the queue lost them.
            tracing::debug!(%error, "deliveries were not given back");
        }
    }
}

impl Rendered {
    /// Keeps the first `considered`, at least one; returns the others.
    fn split_off(&mut self, considered: usize) -> Self {
        let at = considered.clamp(1, self.leases.len());
        let image_bytes = self.images.len() / self.leases.len();
        Self {
            leases: self.leases.split_off(at),
            images: self.images.split_off(at * image_bytes),
        }
    }

    /// The bytes of the images of `accepted`, which are in the order of the leases.
    fn of(&self, accepted: &[Permit]) -> Cow<'_, [u8]> {
        if accepted.len() == self.leases.len() {
            return Cow::Borrowed(&self.images);
        }
        let image_bytes = self.images.len() / self.leases.len();
        let mut wanted = accepted.iter().peekable();
        let chosen = self.leases.iter().zip(self.images.chunks_exact(image_bytes));
        let chosen = chosen.filter(|(lease, _)| wanted.next_if(|next| **next == permit(&lease.reference)).is_some());
        Cow::Owned(chosen.flat_map(|(_, pixels)| pixels).copied().collect())
    }
}

/// What came of a request for `permits`.
fn outcome(permits: Vec<Permit>, answer: Result<Answer, TeacherFailure>, sent: Instant) -> Outcome {
    let n = permits.len();
    let answer = match answer {
        Ok(answer) if answer.len() == n => answer,
        Ok(answer) => {
            let message = format!("expected {n} labels, found {}", answer.len());
            let failure = TeacherFailure::new(FailureKind::Malformed, message);
            return Outcome::Failed { permits, failure };
        }
        Err(failure) => return Outcome::Failed { permits, failure },
    };
    let (mut labels, mut useless, mut cause) = (vec![], vec![], String::new());
    let (mut declined, mut reason) = (vec![], String::new());
    for (permit, label) in permits.into_iter().zip(answer) {
        match label {
            Ok(label) => labels.push((permit, label)),
            Err(error @ LabelError::Declined { .. }) => {
                declined.push(permit);
                reason = error.to_string();
            }
            Err(error) => {
                useless.push(permit);
                cause = error.to_string();
            }
        }
    }
    Outcome::Answered {
        labels,
        useless,
        cause,
        declined,
        reason,
        latency: sent.elapsed(),
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
