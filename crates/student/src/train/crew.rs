//! The threads that compute shards: they live as long as a training, each owns some shards and one
//! core.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::shard::{Material, Shard, Step};
use crate::error::StudentError;
use crate::ffi::compute_alone;

/// Keeps libtorch's own threads out of the way of ours: while it lives, the calling thread and
/// threads that start use one each.
pub(crate) struct SingleThreaded {
    before: i32,
}

impl SingleThreaded {
    pub(crate) fn enter() -> Self {
        let before = tch::get_num_threads();
        tch::set_num_threads(1);
        Self { before }
    }
}

impl Drop for SingleThreaded {
    fn drop(&mut self) {
        tch::set_num_threads(self.before);
    }
}

/// A step as it travels to a thread.
#[derive(Clone)]
struct Task {
    index: u64,
    epoch: u32,
    samples: Arc<[u32]>,
}

/// One thread and the two ends of its channels. Both hold one message: a step begins only when the
/// one before it has been answered.
struct Hand<'scope> {
    tasks: Option<SyncSender<Task>>,
    answers: Receiver<Result<Parts, StudentError>>,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

/// Where the time of a thread went in a step.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    forward: Duration,
    whole: Duration,
}

/// Threads that compute steps together.
pub(crate) struct Crew<'scope> {
    hands: Vec<Hand<'scope>>,
}

impl<'scope> Crew<'scope> {
    /// Starts at most `threads` threads and deals them the shards.
    pub(crate) fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        material: Material<'env>,
        shards: Vec<Shard>,
        threads: usize,
    ) -> Result<Self, StudentError> {
        let mut dealt: Vec<Vec<Shard>> = (0..threads.clamp(1, shards.len().max(1))).map(|_| Vec::new()).collect();
        let threads = dealt.len();
        for shard in shards {
            dealt[shard.index() % threads].push(shard);
        }
        let hands: Result<Vec<_>, _> = dealt
            .into_iter()
            .map(|shards| Hand::start(scope, material, shards))
            .collect();
        Ok(Self { hands: hands? })
    }

    /// Has all shards computed for `step`, and waits for all of them. Returns how long images and forward took the
    /// thread that took longest in all.
    pub(crate) fn compute(&mut self, step: &Step<'_>) -> Result<Duration, StudentError> {
        let task = Task {
            index: step.index,
            epoch: step.epoch,
            samples: step.samples.into(),
        };
        for hand in &self.hands {
            if let Some(tasks) = &hand.tasks {
                // A thread that is gone shows when its answer is read.
                let _gone = tasks.send(task.clone());
            }
        }
        let answers: Vec<_> = self.hands.iter().map(|hand| hand.answers.recv()).collect();
        let parts = answers.into_iter().map(|answer| {
            answer.unwrap_or_else(|_| Err(StudentError::Thread("ended in the middle of a step".to_owned())))
        });
        let parts = parts.collect::<Result<Vec<Parts>, _>>()?;
        let slowest = parts.into_iter().max_by_key(|parts| parts.whole);
        Ok(slowest.unwrap_or_default().forward)
    }
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        for hand in &mut self.hands {
            hand.tasks = None;
            if let Some(thread) = hand.thread.take() {
                // Its panic was reported as an unanswered step.
                let _panic = thread.join();
            }
        }
    }
}

impl<'scope> Hand<'scope> {
    fn start<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        material: Material<'env>,
        shards: Vec<Shard>,
    ) -> Result<Self, StudentError> {
        let (tasks, inbox) = sync_channel::<Task>(1);
        let (outbox, answers) = sync_channel(1);
        let thread = Builder::new()
            .name("student-shard".to_owned())
            .spawn_scoped(scope, move || work(&material, shards, &inbox, &outbox))
            .map_err(|error| StudentError::Thread(error.to_string()))?;
        Ok(Self {
            tasks: Some(tasks),
            answers,
            thread: Some(thread),
        })
    }
}

/// Computes the shards of each step until the crew is dropped.
fn work(
    material: &Material<'_>,
    mut shards: Vec<Shard>,
    inbox: &Receiver<Task>,
    outbox: &SyncSender<Result<Parts, StudentError>>,
) {
    compute_alone();
    while let Ok(Task { index, epoch, samples }) = inbox.recv() {
        let step = Step {
            index,
            epoch,
            samples: &samples,
        };
        let begun = Instant::now();
        let forward: Result<Duration, _> = shards.iter_mut().map(|shard| shard.compute(material, &step)).sum();
        let answer = forward.map(|forward| Parts {
            forward,
            whole: begun.elapsed(),
        });
        if outbox.send(answer).is_err() {
            return;
        }
    }
}
