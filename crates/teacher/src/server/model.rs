//! The model on threads of its own, driven through a bounded channel.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

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

struct Work {
    pixels: Pixels,
    n: usize,
    reply: oneshot::Sender<Result<Vec<f32>, String>>,
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
    pub(super) fn start(config: ModelServer, predict: Predict, bill: Option<BillFile>) -> io::Result<Self> {
        let (work, queue) = sync_channel(IN_FLIGHT);
        let counts = Arc::<Counts>::default();
        let runner = Arc::new(Runner {
            predict,
            classes: config.classes,
            image_len: config.shape.len(),
            bill: bill.map(Mutex::new),
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

    /// A place for one request, or `None` when all are taken.
    pub(super) fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.try_acquire().ok()
    }

    /// Answers `n` images; the caller holds a slot.
    pub(super) async fn predict(&self, pixels: Pixels, n: usize) -> Result<Vec<f32>, String> {
        let (reply, answer) = oneshot::channel();
        let work = Work { pixels, n, reply };
        self.work
            .try_send(work)
            .map_err(|_| "every prediction thread has ended".to_owned())?;
        answer
            .await
            .map_err(|_| "the prediction thread ended".to_owned())
            .and_then(|answer| answer)
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
    bill: Option<Mutex<BillFile>>,
    counts: Arc<Counts>,
    queue: Mutex<Receiver<Work>>,
}

impl Runner {
    /// Works until the model is dropped.
    fn run(&self) {
        while let Some(Work { pixels, n, reply }) = self.next() {
            // Nobody waits any more when the client has gone; what was billed stays billed.
            let _ = reply.send(self.answer(pixels, n));
        }
    }

    fn next(&self) -> Option<Work> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.recv().ok()
    }

    /// Predicts, bills, and only then hands out the answer.
    fn answer(&self, pixels: Pixels, n: usize) -> Result<Vec<f32>, String> {
        let digests = self.bill.as_ref().map(|_| self.digests(&pixels));
        let values = catch_unwind(AssertUnwindSafe(|| (self.predict)(pixels, n)))
            .map_err(|_| "the model panicked".to_owned())
            .and_then(|values| values)?;
        let expected = n * self.classes;
        if values.len() != expected {
            return Err(format!(
                "expected {expected} values from the model, found {}",
                values.len()
            ));
        }
        if let (Some(bill), Some(digests)) = (&self.bill, digests) {
            let mut bill = bill.lock().unwrap_or_else(PoisonError::into_inner);
            bill.append(&digests)
                .map_err(|error| format!("the bill cannot be written: {error}"))?;
        }
        self.counts.images.fetch_add(n as u64, Ordering::Relaxed);
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        Ok(values)
    }

    fn digests(&self, pixels: &Pixels) -> Vec<[u8; 32]> {
        let bytes = pixels.clone().into_bytes();
        bytes.chunks_exact(self.image_len).map(BillFile::digest).collect()
    }
}
