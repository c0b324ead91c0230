//! What gateways and the desk say to each other, over one authenticated framed link a gateway.
//!
//! A gateway calls, the desk answers; a call whose answer was lost with its link is made again on
//! the next one, since every call names its request and is harmless when repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use stillhouse_core::image::ImageSet;
use stillhouse_core::trace::JobTrace;
use stillhouse_core::{Fingerprint, SoftLabel};
use stillhouse_ledger::{Permit, RequestId};
use stillhouse_runtime::Secret;
use stillhouse_runtime::secret::SecretError;
use stillhouse_teacher::TeacherFailure;

/// Version of these messages; both ends must agree.
pub const DESK_VERSION: u32 = 3;

/// A gateway process; drawn at random when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GatewayId(pub u64);

impl GatewayId {
    /// Draws one: requests are named after it, in this life of a job and in others.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn draw() -> Result<Self, SecretError> {
        let secret = Secret::generate()?;
        let bytes = secret.expose().first_chunk().expect("a secret has 32 bytes");
        Ok(Self(u64::from_le_bytes(*bytes)))
    }
}

impl std::fmt::Display for GatewayId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "gateway-{:08x}", self.0 as u32)
    }
}

/// From a gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromGateway {
    /// First message.
    Hello {
        /// [`DESK_VERSION`].
        version: u32,
        /// Who.
        gateway: GatewayId,
        /// On which host, for people.
        host: String,
        /// Process id there.
        process: u32,
    },
    /// Something to be answered.
    Call {
        /// Quoted by the answer.
        call: u64,
        /// What.
        question: Question,
    },
    /// Still there.
    Heartbeat,
    /// References were dropped that do not name images of this gateway.
    Foreign {
        /// What was expected and found.
        cause: String,
    },
    /// Everything is settled; it leaves.
    Goodbye,
}

/// From the desk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToGateway {
    /// First message: everything a gateway needs to know of the job.
    Welcome(Box<Welcome>),
    /// To a [`FromGateway::Call`].
    Answer {
        /// The call.
        call: u64,
        /// What.
        answer: Answer,
    },
    /// The job asks no more.
    Leave,
}

/// The job as a gateway sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The job, as JSON of [`stillhouse_core::Job`].
    pub job: String,
    /// BLAKE3 over job and images: the same job after a restart of its coordinator.
    pub digest: [u8; 32],
    /// What the traces of its query batches are named after.
    pub trace: JobTrace,
    /// What the keys of its queue begin with.
    pub queue_prefix: String,
    /// Who is to be asked.
    pub fingerprint: Fingerprint,
    /// Number of classes.
    pub classes: u32,
    /// The seed images.
    pub seeds: ImageSet,
    /// The evaluation images.
    pub evaluation: Option<ImageSet>,
}

/// A question to the desk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Question {
    /// May this be sent?
    Begin {
        /// Its name.
        request: RequestId,
        /// On these permits.
        permits: Vec<Permit>,
    },
    /// This came of it.
    Settle {
        /// Its name.
        request: RequestId,
        /// What.
        outcome: Outcome,
    },
    /// Which images were generated for the pool?
    Generated,
}

/// The desk's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Begin`].
    Begun(Begun),
    /// To [`Question::Settle`].
    Settled(Settled),
    /// To [`Question::Generated`]; none before they are made.
    Generated(Option<ImageSet>),
}

/// Whether a request may be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begun {
    /// Send what was accepted, at once, and settle it. When nothing was, nothing is to be settled.
    Send {
        /// So many permits, from the first on, were looked at; the rest is to be asked again.
        considered: u32,
        /// Those that may be sent. The others were used before, by this gateway or another.
        accepted: Vec<Permit>,
    },
    /// Nothing is sent for so long; give the references back.
    Wait {
        /// How long.
        time: Duration,
    },
    /// The job asks no more; give the references back.
    Over,
}

impl Begun {
    pub(super) fn wait(time: Duration) -> Self {
        Self::Wait { time }
    }

    pub(super) fn nothing() -> Self {
        Self::Send {
            considered: 0,
            accepted: Vec::new(),
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The teacher answered.
    Answered {
        /// Usable labels.
        labels: Vec<(Permit, SoftLabel)>,
        /// Permits whose answer is no label.
        useless: Vec<Permit>,
        /// What is wrong with those.
        cause: String,
        /// Permits of images that the teacher looked at and would not label.
        declined: Vec<Permit>,
        /// Why it would not.
        reason: String,
        /// Time from the first byte sent to the last received.
        latency: Duration,
    },
    /// The teacher did not.
    Failed {
        /// The request's permits.
        permits: Vec<Permit>,
        /// Why.
        failure: TeacherFailure,
    },
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// Ask on.
    GoOn,
    /// The job asks no more.
    Over,
}
