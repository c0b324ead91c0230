//! Where a span hangs.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use stillhouse_core::trace::{BatchTrace, Stage};

use crate::Kind;
use crate::export::tracer;
use crate::span::Span;

/// A span of any process, below which others hang.
#[derive(Clone, Debug, PartialEq)]
pub struct Place(SpanContext);

impl Place {
    /// Below a stage of a batch, whoever records that.
    #[must_use]
    pub fn of(batch: BatchTrace, stage: Stage) -> Self {
        Self::new(batch.id(), batch.span(stage))
    }

    fn new(trace: u128, span: u64) -> Self {
        let (trace, span) = (TraceId::from(trace), SpanId::from(span));
        Self(SpanContext::new(
            trace,
            span,
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        ))
    }

    pub(crate) fn at(context: SpanContext) -> Self {
        Self(context)
    }

    /// Begins a span here; one that does nothing where none are sent.
    pub fn span(&self, name: &'static str, kind: Kind) -> Span {
        tracer()
            .map(|tracer| Span::begin(tracer, name, kind, &self.context()))
            .unwrap_or_default()
    }

    pub(crate) fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.0.clone())
    }

    /// The value of a `traceparent` header that says the same to another program
    /// ([W3C Trace Context](https://www.w3.org/TR/trace-context/)); none where no spans are sent.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        let flags = u8::from(self.0.is_sampled());
        tracer().map(|_| format!("00-{}-{}-{flags:02x}", self.0.trace_id(), self.0.span_id()))
    }

    /// What a `traceparent` header says; none when it is not one, or its trace is not wanted.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let fields: Vec<&str> = header.split('-').collect();
        let [version, trace, span, flags, ..] = fields[..] else {
            return None;
        };
        let is_hex = |field: &str, digits| field.len() == digits && field.bytes().all(|b| b.is_ascii_hexdigit());
        let is_known = is_hex(version, 2) && version != "ff" && (version != "00" || fields.len() == 4);
        if !is_known || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
            return None;
        }
        let is_wanted = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let (trace, span) = (
            u128::from_str_radix(trace, 16).ok()?,
            u64::from_str_radix(span, 16).ok()?,
        );
        (is_wanted && trace != 0 && span != 0).then(|| Self::new(trace, span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_as_the_standard_says() {
        let place = Place::parse(HEADER).unwrap();
        assert_eq!(place.0.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(place.0.span_id().to_string(), "b7ad6b7169203331");
        // A later version may say more.
        assert!(Place::parse(&format!("{}-more", HEADER.replacen("00", "01", 1))).is_some());
    }

    #[test]
    fn anything_else_is_no_place() {
        let long = "0".repeat(1 << 16);
        for wrong in [
            "",
            "00",
            &long,
            &format!("{HEADER}-more"),
            &HEADER.replacen("00", "ff", 1),
            &HEADER.replace("-01", "-00"),
            &HEADER.replace("-01", "-1"),
            &HEADER.replace('b', "g"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(Place::parse(wrong), None, "{}", &wrong[..wrong.len().min(80)]);
        }
    }

    #[test]
    fn nothing_is_told_where_no_spans_are_sent() {
        assert_eq!(Place::parse(HEADER).unwrap().header(), None);
        let mut span = Place::parse(HEADER).unwrap().span("work", Kind::Internal);
        span.set("n", 3);
        assert_eq!(span.place().map(|place| place.header()), None);
    }
}
