//! Serves any prediction function behind the Open Inference Protocol v2, over HTTP (JSON and binary
//! tensors) and gRPC: a real black box for demonstrations, tests and people who own their teacher's
//! weights.

mod books;
mod grpc;
mod handlers;
mod model;
mod question;
mod replay;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use stillhouse_core::ImageShape;
use stillhouse_core::job::Response;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::tensor::Datatype;

pub use books::Books;
pub use model::Pixels;

/// Computes `n` answers, `[n, classes]`, from `n` images, `[n, channels, height, width]`; an error
/// becomes a 500 and is not billed. Runs on threads of its own, never in async code.
pub type Predict = Arc<dyn Fn(Pixels, usize) -> Result<Vec<f32>, String> + Send + Sync>;

/// What is served.
#[derive(Clone, Debug)]
pub struct ModelServer {
    /// Name of the model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Shape of its images.
    pub shape: ImageShape,
    /// Values of one answer.
    pub classes: usize,
    /// Element type that it takes.
    pub datatype: Datatype,
    /// Most images a request.
    pub max_batch: u32,
    /// What `predict` computes: probabilities or logits.
    pub response: Response,
    /// Threads that run `predict`.
    pub threads: usize,
}

/// How long requests in flight may finish after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves the model over HTTP until `shutdown`, then lets requests in flight finish for up to 5 s.
///
/// # Errors
/// As [`Host::start`], or when the listener fails.
pub async fn serve(
    listener: TcpListener,
    config: ModelServer,
    predict: Predict,
    books: impl Into<Books>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_router(listener, router(config, predict, books)?, shutdown).await
}

/// As [`serve`], for a router that the caller wrapped.
///
/// # Errors
/// When the listener fails.
pub async fn serve_router(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let drained = shutdown.clone();
    // An answer in several small frames (gRPC) must not wait for the client's acknowledgements. A
    // connection that refuses the option is slower, not wrong.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let serving = axum::serve(listener, router).with_graceful_shutdown(drained.cancelled_owned());
    tokio::select! {
        served = serving => served,
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

/// The routes of the protocol over HTTP. The model's threads end when the router is dropped.
///
/// # Errors
/// As [`Host::start`].
pub fn router(config: ModelServer, predict: Predict, books: impl Into<Books>) -> io::Result<Router> {
    Ok(Host::start(config, predict, books)?.router())
}

/// A model that runs, with one account of what it answered however it is asked.
pub struct Host(Arc<model::Model>);

impl Host {
    /// Starts the model's threads. They end when the host and its routers are dropped.
    ///
    /// # Errors
    /// When threads cannot be started, or the model answers neither with probabilities nor logits.
    pub fn start(config: ModelServer, predict: Predict, books: impl Into<Books>) -> io::Result<Self> {
        if !matches!(config.response, Response::Probabilities | Response::Logits) {
            let message = format!("expected a model of probabilities or logits, found {}", config.response);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Self(Arc::new(model::Model::start(config, predict, books.into())?)))
    }

    /// The routes of the protocol over HTTP.
    pub fn router(&self) -> Router {
        let of_model = Router::new()
            .route("/", get(handlers::metadata))
            .route("/ready", get(handlers::model_ready))
            .route("/config", get(handlers::config))
            .route("/stats", get(handlers::stats))
            .route("/infer", post(handlers::infer));
        Router::new()
            .route("/v2", get(handlers::server))
            .route("/v2/health/live", get(handlers::health))
            .route("/v2/health/ready", get(handlers::health))
            .nest("/v2/models/{model}", of_model.clone())
            .nest("/v2/models/{model}/versions/{version}", of_model)
            .fallback(handlers::no_such_path)
            .with_state(self.0.clone())
    }

    /// The routes of the protocol over gRPC, which need HTTP/2 (with prior knowledge, or behind a
    /// proxy that ends TLS).
    pub fn grpc_router(&self) -> Router {
        grpc::router(self.0.clone())
    }
}
