//! Serves any prediction function behind the Open Inference Protocol v2: a real black box for
//! demonstrations, tests and people who own their teacher's weights.

mod handlers;
mod model;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use stillhouse_core::ImageShape;
use stillhouse_core::job::Response;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bill::BillFile;
use crate::tensor::Datatype;

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
    /// What `predict` computes.
    pub response: Response,
    /// Threads that run `predict`.
    pub threads: usize,
}

/// How long requests in flight may finish after the shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves the model until `shutdown`, then lets requests in flight finish for up to 5 s.
///
/// # Errors
/// When the listener fails or threads cannot be started.
pub async fn serve(
    listener: TcpListener,
    config: ModelServer,
    predict: Predict,
    bill: Option<BillFile>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_router(listener, router(config, predict, bill)?, shutdown).await
}

/// As [`serve`], for a [`router`] that the caller wrapped.
///
/// # Errors
/// When the listener fails.
pub async fn serve_router(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let drained = shutdown.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(drained.cancelled_owned());
    tokio::select! {
        served = serving => served,
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

/// The routes of the protocol over the model. Its threads end when the router is dropped.
///
/// # Errors
/// When threads cannot be started.
pub fn router(config: ModelServer, predict: Predict, bill: Option<BillFile>) -> io::Result<Router> {
    let model = model::Model::start(config, predict, bill)?;
    let of_model = Router::new()
        .route("/", get(handlers::metadata))
        .route("/ready", get(handlers::model_ready))
        .route("/config", get(handlers::config))
        .route("/stats", get(handlers::stats))
        .route("/infer", post(handlers::infer));
    Ok(Router::new()
        .route("/v2", get(handlers::server))
        .route("/v2/health/live", get(handlers::health))
        .route("/v2/health/ready", get(handlers::health))
        .nest("/v2/models/{model}", of_model.clone())
        .nest("/v2/models/{model}/versions/{version}", of_model)
        .fallback(handlers::no_such_path)
        .with_state(Arc::new(model)))
}
