//! What a worker's metrics and traces say of its work, in one place, so that what it costs can be measured.

use std::time::{Duration, Instant};

use stillhouse_student::train::{Progress, StepTimes};
use stillhouse_trace::Span;

/// Does a command called `name`, told of by `span`, and counts it.
pub(crate) fn counted<T>(
    name: &'static str,
    mut span: Span,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (metrics, begun) = (stillhouse_metrics::worker(), Instant::now());
    metrics.busy.with_label_values(&[name]).set(1.0);
    let result = work();
    metrics.busy.with_label_values(&[name]).set(0.0);
    let seconds = metrics.command_seconds.with_label_values(&[name]);
    seconds.observe(begun.elapsed().as_secs_f64());
    if let Err(error) = &result {
        span.fail(format!("{error:#}"));
    }
    result
}

/// Counts a training step.
pub(crate) fn step(progress: &Progress) {
    let metrics = stillhouse_metrics::worker();
    metrics.steps.inc();
    metrics.loss.set(f64::from(progress.loss));
    for (part, time) in parts(&progress.times) {
        let seconds = metrics.step_seconds.with_label_values(&[part]);
        seconds.observe(time.as_secs_f64());
    }
}

/// What the metrics call the parts of a step.
fn parts(times: &StepTimes) -> [(&'static str, Duration); 5] {
    [
        ("forward", times.forward),
        ("backward", times.backward),
        ("wait", times.wait),
        ("all-reduce", times.all_reduce),
        ("update", times.update),
    ]
}
