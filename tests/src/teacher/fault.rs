//! What can be wrong with the teacher.

use std::str::FromStr;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use axum::Json;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use stillhouse_teacher::binary;
use stillhouse_teacher::wire::{InferResponse, Values};
use tokio_util::sync::CancellationToken;

use super::locked;

/// A fault of inferences; the free endpoints stay sound. Every fault but [`Fault::Down`], [`Fault::TooMany`],
/// [`Fault::Rejects`] and [`Fault::FailsFirst`] strikes after the images were billed: the worst case for the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Sound.
    #[default]
    None,
    /// Nobody listens.
    Down,
    /// One answer too few.
    WrongShape,
    /// The first probability of each request is NaN.
    NotANumber,
    /// All probabilities are three times too large.
    Unnormalised,
    /// 429 to the next so many requests, with `Retry-After` where given.
    TooMany {
        /// Seconds to wait.
        retry_after: Option<u32>,
        /// Requests to refuse.
        times: u32,
    },
    /// 403, as for a key that was withdrawn.
    Rejects,
    /// 500 to the next so many requests, before any work.
    FailsFirst {
        /// Requests to fail.
        times: u32,
    },
    /// 500 to the next so many requests.
    ServerError {
        /// Requests to fail.
        times: u32,
    },
    /// No answer, ever.
    Hang,
    /// Dies in the request that brings it to so many images; no byte of that answer leaves.
    DieAfter(u32),
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    /// `none`, `down`, `wrong-shape`, `nan`, `unnormalised`, `too-many:TIMES[:SECONDS]`, `rejects`,
    /// `fails-first:TIMES`, `server-error:TIMES`, `hang`, `die-after:IMAGES`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Vec<u32> = rest
            .split_terminator(':')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("fault {text}"))?;
        match (name, &numbers[..]) {
            ("none", []) => Ok(Self::None),
            ("down", []) => Ok(Self::Down),
            ("wrong-shape", []) => Ok(Self::WrongShape),
            ("nan", []) => Ok(Self::NotANumber),
            ("unnormalised", []) => Ok(Self::Unnormalised),
            ("too-many", &[times, ref wait @ ..]) if wait.len() < 2 => Ok(Self::TooMany {
                retry_after: wait.first().copied(),
                times,
            }),
            ("server-error", &[times]) => Ok(Self::ServerError { times }),
            ("fails-first", &[times]) => Ok(Self::FailsFirst { times }),
            ("rejects", []) => Ok(Self::Rejects),
            ("hang", []) => Ok(Self::Hang),
            ("die-after", &[images]) => Ok(Self::DieAfter(images)),
            _ => anyhow::bail!("no fault is called {text}"),
        }
    }
}

/// Adds the fault of the moment to `router`; [`Fault::DieAfter`] cancels `death`.
pub(super) fn with_faults(router: Router, fault: Arc<Mutex<Fault>>, death: CancellationToken) -> Router {
    router.layer(from_fn_with_state(Arc::new(Faulty { fault, death }), around))
}

struct Faulty {
    fault: Arc<Mutex<Fault>>,
    death: CancellationToken,
}

impl Faulty {
    /// The fault of this request; counts down those that strike so many times.
    fn strike(&self) -> Fault {
        let mut fault = locked(&self.fault);
        let struck = *fault;
        match &mut *fault {
            Fault::TooMany { times: 0, .. } | Fault::ServerError { times: 0 } | Fault::FailsFirst { times: 0 } => {
                return Fault::None;
            }
            Fault::TooMany { times, .. } | Fault::ServerError { times } | Fault::FailsFirst { times } => *times -= 1,
            _ => {}
        }
        struck
    }

    /// Whether `images` more bring it to its end.
    fn dies(&self, images: u64) -> bool {
        match &mut *locked(&self.fault) {
            Fault::DieAfter(left) => {
                *left = left.saturating_sub(u32::try_from(images).unwrap_or(u32::MAX));
                *left == 0
            }
            _ => false,
        }
    }
}

async fn around(State(faulty): State<Arc<Faulty>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let fault = faulty.strike();
    if let Fault::TooMany { retry_after, .. } = fault {
        let mut refusal = StatusCode::TOO_MANY_REQUESTS.into_response();
        if let Some(seconds) = retry_after {
            refusal.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        return refusal;
    }
    if fault == Fault::Rejects {
        return StatusCode::FORBIDDEN.into_response();
    }
    if matches!(fault, Fault::FailsFirst { .. }) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    match fault {
        Fault::None | Fault::Down | Fault::Rejects | Fault::TooMany { .. } | Fault::FailsFirst { .. } => response,
        Fault::ServerError { .. } => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Fault::Hang => std::future::pending().await,
        Fault::WrongShape | Fault::NotANumber | Fault::Unnormalised | Fault::DieAfter(_) => {
            let mut answer = read(response).await;
            if faulty.dies(answer.outputs[0].shape[0]) {
                faulty.death.cancel();
                return std::future::pending().await;
            }
            spoil(&mut answer, fault);
            Json(answer).into_response()
        }
    }
}

/// The answer, whether its values are JSON or raw. What is spoilt goes out as JSON, which a client
/// that asked for raw values must understand too.
async fn read(response: Response) -> InferResponse {
    let header = response.headers().get(binary::HEADER).cloned();
    let body = to_bytes(response.into_body(), usize::MAX)
        .await
        .expect("our own answer");
    let header = header.as_ref().map(|header| header.to_str().expect("digits"));
    binary::read(&body, header, |answer: &mut InferResponse| &mut answer.outputs).expect("our own answer")
}

fn spoil(answer: &mut InferResponse, fault: Fault) {
    let output = &mut answer.outputs[0];
    output.parameters = None;
    let Values::Numbers(values) = &mut output.data else {
        return;
    };
    match fault {
        Fault::WrongShape => {
            let classes = output.shape[1] as usize;
            values.truncate(values.len() - classes);
            output.shape[0] -= 1;
        }
        Fault::NotANumber => values[0] = f32::NAN,
        Fault::Unnormalised => values.iter_mut().for_each(|value| *value *= 3.0),
        _ => {}
    }
}
