//! Whether and where spans are sent.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};

use crate::ids::Names;

const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const DISABLED: &str = "OTEL_SDK_DISABLED";
const PROTOCOL: &str = "http/protobuf";

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Why spans cannot be sent as the environment says.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Another protocol is wanted.
    #[error(
        "expected {PROTOCOL} in {variable}, found `{found}`: name the collector's HTTP endpoint, usually at port 4318"
    )]
    Protocol {
        /// Where it is said.
        variable: &'static str,
        /// What is said.
        found: String,
    },
    /// An address or a number does not parse.
    #[error("the collector of traces that the environment names (OTEL_EXPORTER_OTLP_*) cannot be used")]
    Exporter {
        /// What is wrong.
        #[from]
        source: ExporterBuildError,
    },
}

/// Sends spans on, and logs when a collector stops to take them and when it takes them again.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    is_failing: AtomicBool,
}

impl Told {
    fn new(exporter: SpanExporter) -> Self {
        Self {
            exporter,
            is_failing: AtomicBool::new(false),
        }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !was_failing => tracing::warn!(%error, "the collector takes no spans: they are lost"),
            Ok(()) if was_failing => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Sends what is left when it is dropped, for a few seconds at most.
#[derive(Debug)]
#[must_use = "spans are sent until this is dropped"]
pub struct Export(Option<SdkTracerProvider>);

/// Sends the spans of this process, which plays `role`, to the collector that the environment names, if it names one.
///
/// A collector that is not there costs spans and nothing else: what waits is bounded, and the first loss is logged.
///
/// # Errors
/// [`ConfigError`]: the environment names one that cannot be used.
pub fn begin(role: &str) -> Result<Export, ConfigError> {
    let is_disabled = variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if is_disabled || ENDPOINTS.into_iter().find_map(variable).is_none() {
        return Ok(Export(None));
    }
    let protocol = PROTOCOLS.into_iter().find_map(|name| Some((name, variable(name)?)));
    if let Some((variable, found)) = protocol.filter(|(_, protocol)| protocol != PROTOCOL) {
        return Err(ConfigError::Protocol { variable, found });
    }
    let exporter = SpanExporter::builder().with_http().build()?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Told::new(exporter))
        .with_id_generator(Names::default())
        .with_resource(resource(role))
        .build();
    // A process begins once.
    let _first = TRACER.set(provider.tracer("stillhouse"));
    Ok(Export(Some(provider)))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Who sends: what the environment says, else the role.
fn resource(role: &str) -> Resource {
    let attributes = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    let builder = Resource::builder().with_attributes(attributes);
    let is_named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
    if is_named {
        return builder.build();
    }
    builder.with_service_name(format!("stillhouse-{role}")).build()
}

/// Who makes spans, where they are sent.
pub(crate) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // Losses were told of.
            let _lost = provider.shutdown();
        }
    }
}
