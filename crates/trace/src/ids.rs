//! Names of spans: of stages those that are known beforehand, of all others random ones.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

thread_local! {
    /// What the next span that is started on this thread is called.
    static NEXT: Cell<Option<(u128, u64)>> = const { Cell::new(None) };
}

/// The library asks this for names, on the thread that starts the span.
#[derive(Debug, Default)]
pub(crate) struct Names(RandomIdGenerator);

impl IdGenerator for Names {
    fn new_trace_id(&self) -> TraceId {
        let given = NEXT.get().map(|(trace, _)| TraceId::from(trace));
        given.unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        let given = NEXT.get().map(|(_, span)| SpanId::from(span));
        given.unwrap_or_else(|| self.0.new_span_id())
    }
}

/// What `start` makes is called so.
pub(crate) fn called<T>(trace: u128, span: u64, start: impl FnOnce() -> T) -> T {
    NEXT.set(Some((trace, span)));
    let started = start();
    NEXT.set(None);
    started
}
