//! The coordinator's part in a generation: one worker makes the images, everybody gets them.

use std::time::Duration;

use stillhouse_core::key::hex;

use super::{Action, Coordinator, Durable, Effects, JobFailure, Stage, Task};
use crate::fault::Fault;
use crate::history::{GenerateOutcome, Transition};
use crate::message::{Report, WorkerId};

impl Coordinator {
    /// Has one idle worker generate, unless one does already.
    pub(super) fn give_generation(&mut self, images: u32, effects: &mut Effects) {
        let is_given = self
            .workers
            .values()
            .any(|worker| matches!(worker.busy, Some((_, Task::Generate))));
        let Some(id) = self.workers.keys().next().copied().filter(|_| !is_given) else {
            return;
        };
        let fence = self.fence();
        let worker = self.workers.get_mut(&id).expect("from the map");
        worker.busy = Some((fence, Task::Generate));
        effects.actions.push(Action::Generate {
            worker: id,
            fence,
            images,
        });
    }

    pub(super) fn accept_images(&mut self, now: Duration, report: Report, effects: &mut Effects) {
        let Stage::Generating { images: wanted, since } = self.stage else {
            return;
        };
        let Report::Generated { images, loss } = report else {
            let cause = "a worker answered something else than a generation".to_owned();
            return self.fail(JobFailure::Work(cause), effects);
        };
        let found = images.len();
        if found != wanted as usize {
            let cause = format!("a worker generated {found} images instead of {wanted}");
            return self.fail(JobFailure::Work(cause), effects);
        }
        let outcome = GenerateOutcome {
            images: wanted,
            digest: hex(&images.digest()),
            loss,
            millis: u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX),
        };
        effects.durable.push(Durable::Images(images));
        self.record(Transition::Generated { outcome }, effects);
        self.stage = Stage::Between;
    }

    /// Sends the generated images to a worker that has none of them, before it needs them.
    pub(super) fn extend(&mut self, id: WorkerId, effects: &mut Effects) {
        if self.history.generated().is_none() || self.planted(Fault::KeepImages) {
            return;
        }
        let fence = self.fence();
        let worker = self.workers.get_mut(&id).expect("the caller has it from the map");
        if !std::mem::replace(&mut worker.is_extended, true) {
            effects.actions.push(Action::Extend { worker: id, fence });
        }
    }
}
