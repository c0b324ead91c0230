//! A piece of work.

use std::time::SystemTime;

use opentelemetry::trace::{Span as _, SpanBuilder, Status, Tracer};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as Recorded};
use stillhouse_core::trace::{BatchTrace, Stage};

use crate::export::tracer;
use crate::ids::called;
use crate::{Kind, Place};

/// Work that is being done; it ends when this is dropped. Does nothing where no spans are sent.
#[derive(Debug, Default)]
#[must_use = "the work ends when this is dropped"]
pub struct Span(Option<Recorded>);

impl Span {
    pub(crate) fn begin(tracer: &SdkTracer, name: &'static str, kind: Kind, context: &Context) -> Self {
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        Self(Some(tracer.build_with_context(builder, context)))
    }

    /// Says something of the work. Names of ours begin with `stillhouse.`.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Says that the work failed, and why; no secrets.
    pub fn fail(&mut self, cause: impl Into<String>) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(cause.into()));
        }
    }

    /// Where parts of the work hang.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.0.as_ref().map(|span| Place::at(span.span_context().clone()))
    }

    /// Begins a part of the work.
    pub fn part(&self, name: &'static str, kind: Kind) -> Self {
        self.place().map(|place| place.span(name, kind)).unwrap_or_default()
    }
}

/// Records a stage that began at `begun` and ends now.
pub fn record<const N: usize>(batch: BatchTrace, stage: Stage, begun: SystemTime, said: [(&'static str, Value); N]) {
    let Some(tracer) = tracer() else { return };
    let builder = SpanBuilder::from_name(stage.name())
        .with_kind(Kind::Internal)
        .with_start_time(begun)
        .with_attributes(said.map(|(name, value)| KeyValue::new(name, value)));
    let context = match stage.parent() {
        Some(parent) => Place::of(batch, parent).context(),
        None => Context::new(),
    };
    let span = called(batch.id(), batch.span(stage), || {
        tracer.build_with_context(builder, &context)
    });
    drop(span);
}
