//! What every teacher can do.

use async_trait::async_trait;
use stillhouse_core::label::LabelError;
use stillhouse_core::{Fingerprint, SoftLabel};

use crate::failure::TeacherFailure;

/// The labels of one request, one an image, in the order asked. An image whose answer is not a
/// probability vector was billed all the same.
pub type Answer = Vec<Result<SoftLabel, LabelError>>;

/// What is known of a teacher before anything is spent.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherInfo {
    /// Number of classes; `None` when the teacher does not say before its first answer.
    pub classes: Option<usize>,
    /// Version of the model that answers; `None` when the teacher has no versions.
    pub version: Option<String>,
    /// What makes this teacher's answers its own; part of every query key.
    pub fingerprint: Fingerprint,
    /// Most images a request may hold; `None` when the teacher does not say.
    pub max_batch: Option<u32>,
}

/// One try to get labels, by name. Each try has a request id of its own; a key is the same for
/// every try at the same images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Name of this request, for invoices: sent as `X-Request-Id`, and as `id` where the protocol
    /// has one. Visible ASCII.
    pub request_id: String,
    /// Promise to a teacher that knows `Idempotency-Key`: requests of one key are one question, to
    /// be billed once. Visible ASCII.
    pub idempotency_key: Option<String>,
    /// The span that the request belongs to, sent as `traceparent` (W3C Trace Context). Visible ASCII.
    pub trace_parent: Option<String>,
}

impl Attempt {
    /// A try without a key.
    #[must_use]
    pub fn new(request_id: impl Into<String>) -> Self {
        Self {
            request_id: request_id.into(),
            idempotency_key: None,
            trace_parent: None,
        }
    }
}

/// A black box that labels images.
#[async_trait]
pub trait Teacher: Send + Sync {
    /// Asks for the labels of `n` images (`images` is `[n, channels, height, width]` of `u8`) in
    /// one request, with one attempt and one deadline.
    ///
    /// # Errors
    /// A [`TeacherFailure`] whose [`billing`](TeacherFailure::billing) says whether the `n`
    /// queries were spent. Dropping the future leaves that unknown.
    ///
    /// # Panics
    /// When `images` does not hold exactly `n` images, `n` is zero, or a name in `attempt` cannot
    /// stand in a header: a bug of the caller.
    async fn infer(&self, images: &[u8], n: usize, attempt: &Attempt) -> Result<Answer, TeacherFailure>;

    /// What was learnt when the connection was made.
    fn info(&self) -> &TeacherInfo;
}
