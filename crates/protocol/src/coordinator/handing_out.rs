//! The coordinator's part in scoring and exporting: what one worker can do alone is given to whoever is idle.

use std::time::Duration;

use super::{Action, Coordinator, Effects, JobFailure, Stage, Task};
use crate::fault::Fault;
use crate::history::{Student, Transition};
use crate::message::{Command, Report, WorkerId};
use crate::selecting::{Advance, WorkId};

impl Coordinator {
    /// Gives idle workers what there is to score or to export.
    pub(super) fn hand_out(&mut self, now: Duration, effects: &mut Effects) {
        let busy = self.workers.values().filter(|worker| worker.busy.is_some()).count();
        let most = if self.planted(Fault::UseSpares) {
            usize::MAX
        } else {
            self.settings.max_workers
        };
        let idle: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.busy.is_none())
            .map(|(id, _)| *id)
            .take(most.saturating_sub(busy))
            .collect();
        for id in idle {
            let Some((task, student, command)) = self.next_task(now) else {
                break;
            };
            self.extend(id, effects);
            self.load(id, student, effects);
            let fence = self.fence();
            let worker = self.workers.get_mut(&id).expect("listed above");
            worker.busy = Some((fence, task));
            let command = Box::new(command);
            effects.actions.push(Action::Command {
                worker: id,
                fence,
                command,
            });
        }
        if matches!(&self.stage, Stage::Exporting { left, given: 0 } if left.is_empty()) {
            self.stage = Stage::Over;
            effects.actions.push(Action::Finish);
        }
    }

    fn next_task(&mut self, now: Duration) -> Option<(Task, Student, Command)> {
        let workers = self.workers.len().min(self.settings.max_workers) as u64;
        match &mut self.stage {
            Stage::Selecting(selecting) => {
                let (id, work) = selecting.next_work(now, workers)?;
                let command = selecting.command(&work);
                Some((Task::Select(id), selecting.problem().scorer, command))
            }
            Stage::Exporting { left, given } => {
                let student = left.pop()?;
                *given += 1;
                Some((Task::Export(student), student, Command::Export { student }))
            }
            Stage::Between | Stage::Asking(_) | Stage::Generating { .. } | Stage::Training(_) | Stage::Over => None,
        }
    }

    fn load(&mut self, id: WorkerId, student: Student, effects: &mut Effects) {
        let worker = self.workers.get_mut(&id).expect("the caller has it from the map");
        if worker.loaded.replace(student) == Some(student) {
            return;
        }
        let fence = match self.loading {
            Some((of, fence)) if of == student => fence,
            _ => self.fence(),
        };
        self.loading = Some((student, fence));
        effects.actions.push(Action::Load {
            worker: id,
            fence,
            student,
        });
    }

    pub(super) fn accept_scores(&mut self, now: Duration, work: WorkId, report: Report, effects: &mut Effects) {
        let Stage::Selecting(selecting) = &mut self.stage else {
            return;
        };
        let student = selecting.problem().student;
        let was_copied = selecting.copies(work) > 1;
        let advance = selecting.accept(work, report, now);
        if was_copied && selecting.copies(work) == 0 {
            self.release_copies(work);
        }
        match advance {
            Ok(Advance::More) => {}
            Ok(Advance::Selected(selection)) => {
                self.stage = Stage::Between;
                let selection = self.diverse(student, *selection);
                let selection = self.with_drawn(student, selection);
                self.record(Transition::Selected { student, selection }, effects);
            }
            Err(cause) => self.fail(JobFailure::Work(cause), effects),
        }
    }

    /// Whether a worker has what is done already.
    #[cfg(test)]
    pub(crate) fn is_anybody_busy_for_nothing(&self) -> bool {
        let is_done = |work: &WorkId| match &self.stage {
            Stage::Selecting(selecting) => selecting.copies(*work) == 0,
            _ => true,
        };
        let mut tasks = self.workers.values().filter_map(|worker| worker.busy.as_ref());
        tasks.any(|(_, task)| matches!(task, Task::Select(work) if is_done(work)))
    }

    /// Lets workers go that have what is done: their next command makes them stop, and their reports are void.
    fn release_copies(&mut self, work: WorkId) {
        if self.planted(Fault::KeepCopies) {
            return;
        }
        for worker in self.workers.values_mut() {
            worker
                .busy
                .take_if(|(_, task)| matches!(task, Task::Select(same) if *same == work));
        }
    }
}
