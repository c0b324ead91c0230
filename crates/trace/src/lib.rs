//! Traces of query batches, for OpenTelemetry collectors (OTLP over HTTP).
//!
//! Off unless the environment names a collector, in OpenTelemetry's own words
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`); then a [`Span`] is a relaxed load and nothing else. Each process sends its own
//! spans. That they make one trace needs no message: [`stillhouse_core::trace`] says what batches and their stages are
//! called, and everything else hangs below those.
//!
//! | module | what it is |
//! |---|---|
//! | [`export`] | whether and where spans are sent |
//! | [`place`] | where a span hangs, in this process or, as a `traceparent` header, in another |
//! | [`span`] | a piece of work that is being done, or was |

mod export;
mod ids;
mod place;
mod span;

pub use export::{ConfigError, Export, begin};
pub use opentelemetry::trace::SpanKind as Kind;
pub use place::Place;
pub use span::{Span, record};
