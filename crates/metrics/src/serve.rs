//! `GET /metrics` in Prometheus' text format, and `GET /healthz` and `/readyz`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{TEXT_FORMAT, TextEncoder, default_registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Everything that this process counts, as text.
#[must_use]
pub fn text() -> String {
    let encoded = TextEncoder::new().encode_to_string(&default_registry().gather());
    // Only a metric without samples cannot be encoded, and such are not gathered.
    encoded.unwrap_or_default()
}

/// The address cannot be listened at.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be served at {address}")]
pub struct ServeError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Serves the metrics of this process at `address` until `shutdown`; answers with where it listens.
/// `refresh` is awaited before each answer, for what is looked up and not counted.
///
/// Whoever reaches the address can read; nothing can be changed there.
///
/// # Errors
/// The address cannot be listened at.
pub async fn serve<R, F>(
    address: SocketAddr,
    role: &'static str,
    refresh: R,
    shutdown: CancellationToken,
) -> Result<SocketAddr, ServeError>
where
    R: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    serve_beside(address, role, refresh, Router::new(), shutdown).await
}

/// [`serve`], and the routes of `more` at the same address.
///
/// # Errors
/// The address cannot be listened at.
pub async fn serve_beside<R, F>(
    address: SocketAddr,
    role: &'static str,
    refresh: R,
    more: Router,
    shutdown: CancellationToken,
) -> Result<SocketAddr, ServeError>
where
    R: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let failed = |source| ServeError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let about = crate::process();
    about
        .build_info
        .with_label_values(&[env!("CARGO_PKG_VERSION"), role])
        .set(1.0);
    let refresh = Arc::new(refresh);
    let answer = move || {
        let refresh = refresh.clone();
        async move {
            refresh().await;
            metrics()
        }
    };
    let router = more
        .route("/metrics", get(answer))
        .route("/healthz", get(|| async { StatusCode::OK }))
        .route("/readyz", get(|| async { StatusCode::OK }));
    tracing::info!(%address, "metrics at /metrics");
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = served.await {
            tracing::warn!(%error, "metrics are not served any more");
        }
    });
    Ok(address)
}

fn metrics() -> Response {
    ([(CONTENT_TYPE, TEXT_FORMAT)], text()).into_response()
}
