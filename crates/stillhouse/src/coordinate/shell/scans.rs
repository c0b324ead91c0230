//! The scan under way, kept in the job directory now and then: a coordinator that is started again goes on with it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Shell;

/// Its file.
const KEPT: &str = "scan.kept";

/// The scan that an earlier life of the job kept, if it was in one.
pub(in crate::coordinate) fn kept(dir: &Path) -> Option<Vec<u8>> {
    std::fs::read(dir.join(KEPT)).ok()
}

impl Shell {
    /// Keeps the scan under way when that is due. Nothing depends on it: a disk that is full is noticed where it matters.
    pub(super) fn keep_scan(&mut self) {
        let every = Duration::from_secs(self.inputs.job.spec.checkpoints.every_seconds.into());
        if every.is_zero() || self.coordinator.scan().is_none() {
            return;
        }
        // The first time is due that long after the scan began.
        let kept_at = *self.scan_kept_at.get_or_insert_with(Instant::now);
        if kept_at.elapsed() < every {
            return;
        }
        self.scan_kept_at = Some(Instant::now());
        if let Some(bytes) = self.coordinator.keep_scan(self.begun.elapsed())
            && let Err(error) = self.dir.write(KEPT, &bytes)
        {
            tracing::warn!(%error, "the scan under way cannot be kept");
        }
    }

    /// A batch was selected: what was kept of its scan is of no use any more.
    pub(super) fn forget_scan(&mut self) {
        self.scan_kept_at = None;
        self.leave(KEPT);
    }

    /// Says that a scan goes on where an earlier life of the job was with it, if one does.
    pub(super) fn tell_of_resumed_scan(&mut self) {
        if let Some(pairs) = self.coordinator.take_resumed_scan() {
            self.meter.resume(pairs);
            tracing::info!(pairs, "the scan goes on where it was");
            self.note("scan-resumed", json!({ "pairs": pairs }));
        }
    }
}
