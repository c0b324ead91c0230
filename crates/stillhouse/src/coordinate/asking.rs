//! Puts a query batch to the teacher: ledger, queue, gateways, and back.
//!
//! The queue is transport and may lose everything at any moment. It is filled again from the ledger
//! when it says that it was emptied, or holds fewer references than the ledger has permits that
//! nobody has used: a reference stays in the queue until its permit is used, so fewer means lost.
//! What is put in twice is asked once: the ledger sees to that.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stillhouse_core::key::{Fingerprint, Key};
use stillhouse_core::plan::Arm;
use stillhouse_core::trace::{JobTrace, Stage};
use stillhouse_core::{Sample, SoftLabel};
use stillhouse_ledger::{Admission, Ledger, LedgerError, Permit, Request};
use stillhouse_protocol::{AskOutcome, Student};
use stillhouse_queue::{Queue, QueueError, Reference};
use stillhouse_trace::{Kind, Place};
use tokio::sync::{Mutex, RwLock};

use crate::inputs::Inputs;
use crate::reuse::Library;

/// Requests admitted and pushed together: one commit of the ledger for so many.
const CHUNK: usize = 4_096;
/// How often unanswered queries are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Part of the time that the ledger may be busy with looks: one at a million takes a while.
const LOOKING: u32 = 10;
/// Longest time between looks: a process that was stopped in the middle of one only seems to be slow.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// Pause before a queue that could not be reached is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(500);

/// What went wrong while asking.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The ledger failed: nothing more may be sent.
    #[error("the ledger failed while a query batch was asked")]
    Ledger(#[from] LedgerError),
    /// The queue failed.
    #[error("the queue failed while a query batch was asked")]
    Queue(#[from] QueueError),
}

/// What the ledger said of every open query.
struct Look {
    answers: Vec<(Key, Admission)>,
    /// What that cost the ledger. Waiting for a queue is no part of it.
    took: Duration,
}

/// How long to leave the ledger alone after a look.
fn pause_after(look: Duration) -> Duration {
    (look * LOOKING).clamp(LOOK_EVERY, LOOK_AT_LEAST_EVERY)
}

/// Asks query batches, and remembers the labels.
pub struct Asker {
    inputs: Arc<Inputs>,
    fingerprint: Fingerprint,
    ledger: Ledger,
    queue: Arc<dyn Queue>,
    /// Held for reading from a permit to its reference in the queue: meanwhile the queue has fewer
    /// references than there are permits.
    pushing: RwLock<()>,
    /// Held while the queue is filled again.
    refilling: Mutex<()>,
    library: Library,
    trace: JobTrace,
    /// The round that each arm asks for now or asked for last.
    rounds: std::sync::Mutex<HashMap<Arm, u32>>,
}

impl Asker {
    /// An asker for the teacher with `fingerprint`, who asks nothing that `library` knows.
    pub fn new(
        inputs: Arc<Inputs>,
        fingerprint: Fingerprint,
        ledger: Ledger,
        queue: Arc<dyn Queue>,
        library: Library,
        trace: JobTrace,
    ) -> Self {
        Self {
            inputs,
            fingerprint,
            ledger,
            queue,
            pushing: RwLock::default(),
            refilling: Mutex::default(),
            library,
            trace,
            rounds: std::sync::Mutex::default(),
        }
    }

    /// The key of a sample: a function of its exact bytes and the teacher.
    #[must_use]
    pub fn key(&self, sample: Sample) -> Key {
        Key::of(self.fingerprint, self.inputs.shape(), &self.inputs.pixels(sample))
    }

    /// Labels of samples, `None` where there is none.
    ///
    /// # Errors
    /// When the ledger fails.
    pub async fn labels(&self, samples: &[Sample]) -> Result<Vec<Option<SoftLabel>>, AskError> {
        let keys = samples.iter().map(|sample| self.key(*sample)).collect();
        Ok(self.ledger.labels(keys).await?)
    }

    /// Asks `samples` for `student` and returns when each is answered or given up. `observe` is
    /// told how many are through. What is known already is not asked again, so a batch can be
    /// asked anew after a crash.
    ///
    /// # Errors
    /// When ledger or queue fail for good. The teacher's failures are the desk's to report.
    pub async fn ask(
        &self,
        student: Student,
        samples: &[Sample],
        mut observe: impl FnMut(u64),
    ) -> Result<AskOutcome, AskError> {
        let begun = Instant::now();
        self.rounds().insert(student.arm, student.round);
        let mut open: HashMap<Key, Sample> = samples.iter().map(|sample| (self.key(*sample), *sample)).collect();
        self.reuse(student.arm, &open).await?;
        let (mut labelled, mut held) = (0, 0);
        let mut is_first = true;
        while !open.is_empty() {
            let look = self.look(student, &open).await?;
            count(&look.answers, is_first);
            is_first = false;
            for (key, admission) in look.answers {
                match admission {
                    Admission::Known(_) => labelled += 1,
                    Admission::Held { .. } | Admission::Exhausted => held += 1,
                    Admission::Permitted(_) | Admission::InFlight => continue,
                }
                open.remove(&key);
            }
            observe(labelled + held);
            if !open.is_empty() {
                self.refill_what_was_lost().await?;
                tokio::time::sleep(pause_after(look.took)).await;
            }
        }
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let classes = match student.round {
            0 => self.seed_classes().await?,
            _ => Vec::new(),
        };
        Ok(AskOutcome {
            labelled,
            held,
            millis,
            classes,
        })
    }

    /// What a batch of pairs of classes in turn is made by: nothing, where they take no turns.
    async fn seed_classes(&self) -> Result<Vec<u32>, AskError> {
        let Inputs { job, plan, .. } = &*self.inputs;
        let diversity = job.spec.acquisition.diversity;
        if !diversity.is_some_and(|diversity| diversity.class_pairs) {
            return Ok(Vec::new());
        }
        let seeds: Vec<Sample> = (0..plan.seeds).map(Sample::Seed).collect();
        let class = |label: Option<SoftLabel>| label.and_then(|label| u32::try_from(label.class()).ok());
        let labels = self.labels(&seeds).await?;
        Ok(labels
            .into_iter()
            .map(|label| class(label).unwrap_or(u32::MAX))
            .collect())
    }

    fn rounds(&self) -> MutexGuard<'_, HashMap<Arm, u32>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the ledger the labels of other jobs that are wanted now. It keeps what it knows already.
    async fn reuse(&self, arm: Arm, open: &HashMap<Key, Sample>) -> Result<(), AskError> {
        let known = |(key, sample): (&Key, &Sample)| Some((*key, *sample, arm, self.library.get(key)?.clone()));
        let mut known: Vec<(Key, Sample, Arm, SoftLabel)> = open.iter().filter_map(known).collect();
        known.sort_unstable_by_key(|(_, sample, ..)| *sample);
        for chunk in known.chunks(CHUNK) {
            self.ledger.import(chunk.to_vec()).await?;
        }
        Ok(())
    }

    /// Asks the ledger about every open query, and queues those that got a permit.
    async fn look(&self, student: Student, open: &HashMap<Key, Sample>) -> Result<Look, AskError> {
        let Student { arm, round } = student;
        let mut requests: Vec<Request> = open
            .iter()
            .map(|(key, sample)| Request {
                key: *key,
                sample: *sample,
                arm,
            })
            .collect();
        // In order of samples, so that a batch is asked in a reproducible order.
        requests.sort_unstable_by_key(|request| request.sample);
        let mut look = Look {
            answers: Vec::with_capacity(requests.len()),
            took: Duration::ZERO,
        };
        for chunk in requests.chunks(CHUNK) {
            let pushing = self.pushing.read().await;
            let asked = Instant::now();
            let admissions = self.ledger.admit(chunk.to_vec()).await?;
            look.took += asked.elapsed();
            let references = chunk.iter().zip(&admissions);
            let permitted = |(request, admission): (&Request, &Admission)| match admission {
                Admission::Permitted(permit) => Some(reference(permit, request.sample, arm, round)),
                Admission::Known(_) | Admission::InFlight | Admission::Held { .. } | Admission::Exhausted => None,
            };
            let references: Vec<Reference> = references.filter_map(permitted).collect();
            if !references.is_empty() {
                let place = Place::of(self.trace.batch(arm, round), Stage::Querying);
                let mut span = place.span("queue references", Kind::Producer);
                span.set("stillhouse.references", references.len() as i64);
                self.push(references).await?;
            }
            drop(pushing);
            look.answers
                .extend(chunk.iter().map(|request| request.key).zip(admissions));
        }
        Ok(look)
    }

    /// Puts references into the queue, however long it cannot be reached.
    async fn push(&self, references: Vec<Reference>) -> Result<(), AskError> {
        loop {
            match self.queue.push(references.clone()).await {
                // Refilling puts in everything outstanding, these too.
                Err(QueueError::Lost) => return self.refill().await,
                Err(error @ QueueError::Unavailable { .. }) => self.wait_for_queue(&error).await,
                done => return Ok(done?),
            }
        }
    }

    async fn wait_for_queue(&self, error: &QueueError) {
        stillhouse_metrics::queue().errors.inc();
        tracing::debug!(%error, "waiting for the queue");
        tokio::time::sleep(QUEUE_PAUSE).await;
    }

    /// Fills the queue again when it holds fewer references than there are unused permits.
    async fn refill_what_was_lost(&self) -> Result<(), AskError> {
        let Ok(_nobody_pushes) = self.pushing.try_write() else {
            return Ok(());
        };
        // In this order: a permit that is used in between can only hide a loss until the next look.
        let depth = match self.queue.depth().await {
            Ok(depth) => depth as u64,
            Err(QueueError::Lost) => 0,
            Err(QueueError::Unavailable { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let unsent = self.ledger.counts().await?.unsent();
        if depth >= unsent {
            return Ok(());
        }
        tracing::warn!(found = depth, expected = unsent, "the queue lost references");
        self.refill().await
    }

    /// Empties the queue and puts in everything that the ledger has unused permits for.
    async fn refill(&self) -> Result<(), AskError> {
        let _one_at_a_time = self.refilling.lock().await;
        loop {
            let outstanding = self.ledger.outstanding().await?;
            match self.begin_anew(outstanding).await {
                Err(QueueError::Lost) => {}
                Err(error @ QueueError::Unavailable { .. }) => self.wait_for_queue(&error).await,
                done => return Ok(done?),
            }
        }
    }

    async fn begin_anew(&self, outstanding: Vec<(Permit, Sample, Arm)>) -> Result<(), QueueError> {
        self.queue.restart().await?;
        stillhouse_metrics::queue().restored.inc();
        tracing::info!(references = outstanding.len(), "the queue is filled again");
        let rounds = self.rounds().clone();
        let queued = |(permit, sample, arm): &(Permit, Sample, Arm)| {
            let round = rounds.get(arm).copied().unwrap_or_default();
            reference(permit, *sample, *arm, round)
        };
        for chunk in outstanding.chunks(CHUNK) {
            self.queue.push(chunk.iter().map(queued).collect()).await?;
        }
        Ok(())
    }
}

/// What the metrics say of a look. What is known or asked for already is told once a batch.
fn count(answers: &[(Key, Admission)], is_first: bool) {
    let metrics = stillhouse_metrics::desk();
    for (_, admission) in answers {
        match admission {
            Admission::Known(_) if is_first => metrics.known.inc(),
            Admission::InFlight if is_first => metrics.shared.inc(),
            Admission::Permitted(_) => metrics.permitted.inc(),
            Admission::Held { .. } | Admission::Exhausted => metrics.held.inc(),
            Admission::Known(_) | Admission::InFlight => {}
        }
    }
}

/// What travels for a permitted query.
#[must_use]
pub fn reference(permit: &Permit, sample: Sample, arm: Arm, round: u32) -> Reference {
    Reference {
        key: permit.key,
        sample,
        epoch: permit.epoch,
        charge: permit.charge,
        arm,
        round,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_is_looked_at_often_but_not_all_the_time() {
        let (short, middling, stopped) = (Duration::ZERO, Duration::from_millis(300), Duration::from_secs(60));
        assert_eq!(pause_after(short), LOOK_EVERY);
        assert_eq!(pause_after(middling), Duration::from_secs(3));
        assert_eq!(pause_after(stopped), LOOK_AT_LEAST_EVERY);
    }
}
