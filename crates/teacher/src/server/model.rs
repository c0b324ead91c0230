//! The model on threads of its own, driven through a bounded channel.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::books::Books;
use super::replay::{Answered, locked};
use super::{ModelServer, Predict};
use crate::bill::BillFile;
use crate::tensor::{Datatype, unit};

/// A batch of images as it was sent, `[n, channels, height, width]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// 0 to 255.
    Uint8(Vec<u8>),
    /// 0 to 1 for real pixels; a client may send any finite number.
    Fp32(Vec<f32>),
}

impl Pixels {
    /// Takes `values` as `datatype`; `None` when one of them is not a finite number or, for
    /// [`Datatype::Uint8`], not an integer of 0 to 255.
    pub(super) fn new(values: Vec<f32>, datatype: Datatype) -> Option<Self> {
        match datatype {
            Datatype::Fp32 => values.iter().all(|v| v.is_finite()).then_some(Self::Fp32(values)),
            Datatype::Uint8 => {
                let byte = |v: &f32| (v.fract() == 0.0 && (0.0..=255.0).contains(v)).then_some(*v as u8);
                values.iter().map(byte).collect::<Option<_>>().map(Self::Uint8)
            }
        }
    }

    /// The images as numbers of 0 to 1.
    #[must_use]
    pub fn into_unit(self) -> Vec<f32> {
        match self {
            Self::Uint8(pixels) => pixels.into_iter().map(unit).collect(),
            Self::Fp32(values) => values,
        }
    }

    /// The images as bytes: numbers of 0 to 1 become the nearest of 0 to 255.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Uint8(pixels) => pixels,
            // `as` saturates, so no number is out of range.
            Self::Fp32(values) => values.into_iter().map(|v| (v * 255.0).round() as u8).collect(),
        }
    }
}

/// Requests that may be read, wait or run at once. Bounds memory at so many bodies; more are
/// refused with 503, which costs the client nothing.
const IN_FLIGHT: usize = 64;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// The client's name of the request; empty without one.
    pub(super) request_id: String,
    /// The question that it is a try at.
    pub(super) idempotency_key: Option<String>,
    /// The client's span, as its `traceparent` header has it.
    pub(super) trace_parent: Option<String>,
}

/// Why there is no answer. None of these is billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The request is not one of the protocol, or does not fit the model.
    Malformed(String),
    /// There is no such model.
    Unknown(String),
    /// Too many requests.
    Busy,
    /// The key was billed for other images.
    OtherImages,
    /// The model failed.
    Failed(String),
}

struct Work {
    pixels: Pixels,
    n: usize,
    caller: Caller,
    reply: oneshot::Sender<Result<Vec<f32>, Trouble>>,
}

pub(super) struct Model {
    pub(super) config: ModelServer,
    /// As many places as there are [`IN_FLIGHT`] slots, so sending never waits.
    work: SyncSender<Work>,
    slots: Semaphore,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    images: AtomicU64,
    requests: AtomicU64,
}

impl Model {
    /// Starts the threads.
    pub(super) fn start(config: ModelServer, predict: Predict, books: Books) -> io::Result<Self> {
        let (work, queue) = sync_channel(IN_FLIGHT);
        let counts = Arc::<Counts>::default();
        let runner = Arc::new(Runner {
            predict,
            classes: config.classes,
            image_len: config.shape.len(),
            books,
            counts: counts.clone(),
            queue: Mutex::new(queue),
        });
        for index in 0..config.threads.max(1) {
            let runner = runner.clone();
            std::thread::Builder::new()
                .name(format!("predict-{index}"))
                .spawn(move || runner.run())?;
        }
        let slots = Semaphore::new(IN_FLIGHT);
        Ok(Self {
            config,
            work,
            slots,
            counts,
        })
    }

    /// A place for one request, or [`Trouble::Busy`] when all are taken.
    pub(super) fn slot(&self) -> Result<SemaphorePermit<'_>, Trouble> {
        self.slots.try_acquire().map_err(|_| Trouble::Busy)
    }

    /// Answers `n` images; the caller holds a slot.
    pub(super) async fn predict(&self, pixels: Pixels, n: usize, caller: Caller) -> Result<Vec<f32>, Trouble> {
        let ended = || Trouble::Failed("the prediction threads have ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let work = Work {
            pixels,
            n,
            caller,
            reply,
        };
        self.work.try_send(work).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Images and requests answered.
    pub(super) fn counts(&self) -> (u64, u64) {
        let Counts { images, requests } = &*self.counts;
        (images.load(Ordering::Relaxed), requests.load(Ordering::Relaxed))
    }
}

/// What the threads share.
struct Runner {
    predict: Predict,
    classes: usize,
    image_len: usize,
    books: Books,
    counts: Arc<Counts>,
    queue: Mutex<Receiver<Work>>,
}

impl Runner {
    /// Works until the model is dropped.
    fn run(&self) {
        while let Some(Work {
            pixels,
            n,
            caller,
            reply,
        }) = self.next()
        {
            // Nobody waits any more when the client has gone; what was billed stays billed.
            let _ = reply.send(self.answer(pixels, n, &caller));
        }
    }

    fn next(&self) -> Option<Work> {
        locked(&self.queue).recv().ok()
    }

    /// Predicts, enters it into the books, and only then hands out the answer. A key that was
    /// billed before is answered again and not entered.
    fn answer(&self, pixels: Pixels, n: usize, caller: &Caller) -> Result<Vec<f32>, Trouble> {
        let bytes = self.books.wants_digests(caller).then(|| pixels.clone().into_bytes());
        let images = *blake3::hash(bytes.as_deref().unwrap_or_default()).as_bytes();
        let Some(key) = &caller.idempotency_key else {
            let values = self.compute(pixels, n)?;
            self.enter(n, caller, images, bytes.as_deref())?;
            return Ok(values);
        };
        let place = self.books.replays.place(key);
        let mut answered = locked(&place);
        match &*answered {
            Some(before) if before.images != images => return Err(Trouble::OtherImages),
            Some(Answered {
                values: Some(values), ..
            }) => return Ok(values.clone()),
            Some(Answered { values: None, .. }) => return self.compute(pixels, n),
            None => {}
        }
        let values = self.compute(pixels, n)?;
        self.enter(n, caller, images, bytes.as_deref())?;
        *answered = Some(Answered {
            images,
            values: Some(values.clone()),
        });
        drop(answered);
        self.books.replays.keep(&place);
        Ok(values)
    }

    fn compute(&self, pixels: Pixels, n: usize) -> Result<Vec<f32>, Trouble> {
        let values = catch_unwind(AssertUnwindSafe(|| (self.predict)(pixels, n)))
            .map_err(|_| "the model panicked".to_owned())
            .and_then(|values| values)
            .map_err(Trouble::Failed)?;
        let (expected, found) = (n * self.classes, values.len());
        if found != expected {
            let cause = format!("expected {expected} values from the model, found {found}");
            return Err(Trouble::Failed(cause));
        }
        Ok(values)
    }

    fn enter(&self, n: usize, caller: &Caller, images: [u8; 32], bytes: Option<&[u8]>) -> Result<(), Trouble> {
        let digests: Vec<[u8; 32]> = match bytes {
            Some(bytes) => bytes.chunks_exact(self.image_len).map(BillFile::digest).collect(),
            None => vec![[0; 32]; n],
        };
        let failed = |error| Trouble::Failed(format!("the books cannot be written: {error}"));
        self.books.enter(caller, images, &digests).map_err(failed)?;
        self.counts.images.fetch_add(n as u64, Ordering::Relaxed);
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
