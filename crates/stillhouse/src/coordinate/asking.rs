//! Puts a query batch to the teacher: ledger, queue, gateway, and back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillhouse_core::key::{Fingerprint, Key};
use stillhouse_core::plan::Arm;
use stillhouse_core::{Sample, SoftLabel};
use stillhouse_ledger::{Admission, Ledger, LedgerError, Request};
use stillhouse_protocol::{AskOutcome, Student};
use stillhouse_queue::{Queue, QueueError, Reference};

use crate::inputs::Inputs;
use crate::reuse::Library;

/// Requests admitted and pushed together: one commit of the ledger for so many.
const CHUNK: usize = 1_024;
/// How often unanswered queries are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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

/// Asks query batches one after another, and remembers the labels.
pub struct Asker {
    inputs: Arc<Inputs>,
    fingerprint: Fingerprint,
    ledger: Ledger,
    queue: Arc<dyn Queue>,
    library: Library,
}

impl Asker {
    /// An asker for the teacher with `fingerprint`, who asks nothing that `library` knows.
    pub fn new(
        inputs: Arc<Inputs>,
        fingerprint: Fingerprint,
        ledger: Ledger,
        queue: Arc<dyn Queue>,
        library: Library,
    ) -> Self {
        Self {
            inputs,
            fingerprint,
            ledger,
            queue,
            library,
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
    /// When ledger or queue fail. The teacher's failures are the gateway's to report.
    pub async fn ask(
        &self,
        student: Student,
        samples: &[Sample],
        mut observe: impl FnMut(u64),
    ) -> Result<AskOutcome, AskError> {
        let begun = Instant::now();
        let mut open: HashMap<Key, Sample> = samples.iter().map(|sample| (self.key(*sample), *sample)).collect();
        self.reuse(student.arm, &open).await?;
        let (mut labelled, mut held) = (0, 0);
        while !open.is_empty() {
            for (key, admission) in self.admit(student.arm, &open).await? {
                match admission {
                    Admission::Known(_) => labelled += 1,
                    Admission::Held { .. } | Admission::Exhausted => held += 1,
                    Admission::Permitted(_) | Admission::InFlight => continue,
                }
                open.remove(&key);
            }
            observe(labelled + held);
            if !open.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(AskOutcome { labelled, held, millis })
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
    async fn admit(&self, arm: Arm, open: &HashMap<Key, Sample>) -> Result<Vec<(Key, Admission)>, AskError> {
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
        let mut answers = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(CHUNK) {
            let admissions = self.ledger.admit(chunk.to_vec()).await?;
            let references = chunk
                .iter()
                .zip(&admissions)
                .filter_map(|(request, admission)| match admission {
                    Admission::Permitted(permit) => Some(Reference {
                        key: request.key,
                        sample: request.sample,
                        epoch: permit.epoch,
                        charge: permit.charge,
                        arm,
                    }),
                    _ => None,
                });
            let references: Vec<Reference> = references.collect();
            if !references.is_empty() {
                self.queue.push(references).await?;
            }
            answers.extend(chunk.iter().map(|request| request.key).zip(admissions));
        }
        Ok(answers)
    }
}
