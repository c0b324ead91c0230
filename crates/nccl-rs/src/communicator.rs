//! Ranks that work together: begun without blocking, waited for with a deadline, aborted from anywhere.

use std::ffi::c_int;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{NcclError, Place};
use crate::ffi::{DevicePointer, Promised, RawCommunicator, Stream};
use crate::library::{Nccl, UniqueId};

/// `ncclInProgress`.
const IN_PROGRESS: c_int = 7;
/// How often a wait looks again: well below what an all-reduce of a small model takes.
const POLL: Duration = Duration::from_micros(50);

/// What becomes of a communicator. The lock is held for single calls, of which only a shrink waits:
/// for the card to drop what it works on.
enum State {
    Live(RawCommunicator),
    Aborted,
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // Whoever panicked did so between two calls: the state is whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the communicator out and frees it, with whatever still runs on the card.
fn abort(shared: &Shared) -> Option<c_int> {
    let state = std::mem::replace(&mut *lock(shared), State::Aborted);
    match state {
        State::Live(raw) => Some(raw.abort()),
        State::Aborted => None,
    }
}

/// Aborts a communicator from another thread.
#[derive(Clone)]
pub struct AbortHandle(Shared);

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").finish_non_exhaustive()
    }
}

impl AbortHandle {
    /// Ends what runs on the card and whoever waits; returns when the library has let go. `false`:
    /// it was aborted or finished already.
    pub fn abort(&self) -> bool {
        abort(&self.0).is_some()
    }
}

/// What to do with work that is under way when a communicator is shrunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// There is none: all ranks are healthy and between two operations.
    Keep,
    /// A rank was lost: end what still waits for it.
    Abort,
}

/// One rank's end of a group of ranks, each with a card of its own (or a share of one).
///
/// Operations put work on a stream and return when it is enqueued; [`Communicator::wait`] tells when
/// it is done. The first error ends a communicator's use: abort it (dropping does), or shrink it.
pub struct Communicator {
    nccl: Nccl,
    place: Place,
    timeout: Duration,
    shared: Shared,
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

const INIT: &str = "joining the communicator";

impl Communicator {
    /// Begins to join, on the thread's current device, and returns before the other ranks are there.
    /// `timeout` bounds each later wait of this communicator.
    ///
    /// # Errors
    /// The place is none, or the library refuses at once, for example without a card.
    pub fn begin(nccl: Nccl, place: Place, id: &UniqueId, timeout: Duration) -> Result<Self, NcclError> {
        let numbers = (c_int::try_from(place.rank), c_int::try_from(place.world_size));
        let (Ok(rank), Ok(world_size)) = numbers else {
            return Err(argument(place, INIT, "more ranks than NCCL can count".to_owned()));
        };
        if rank >= world_size {
            let reason = format!("ranks count from 0, so the rank must be below {world_size}");
            return Err(argument(place, INIT, reason));
        }
        let (code, raw) = RawCommunicator::begin(nccl.api, world_size, id.raw(), rank);
        match raw {
            Some(raw) if is_under_way(code) => Ok(Self::of(nccl, place, timeout, raw)),
            failed => {
                let cause = nccl.cause(code);
                let _ = failed.map(RawCommunicator::abort);
                Err(NcclError::Failed {
                    place,
                    operation: INIT,
                    cause,
                })
            }
        }
    }

    /// Joins, and waits until all ranks have.
    ///
    /// # Errors
    /// As [`Communicator::begin`] and [`Communicator::ready`].
    pub fn join(nccl: Nccl, place: Place, id: &UniqueId, timeout: Duration) -> Result<Self, NcclError> {
        let communicator = Self::begin(nccl, place, id, timeout)?;
        communicator.ready()?;
        Ok(communicator)
    }

    fn of(nccl: Nccl, place: Place, timeout: Duration, raw: RawCommunicator) -> Self {
        let shared = Arc::new(Mutex::new(State::Live(raw)));
        Self {
            nccl,
            place,
            timeout,
            shared,
        }
    }

    /// Waits until all ranks have joined.
    ///
    /// # Errors
    /// A rank cannot be reached, does not come in time, or this one was aborted.
    pub fn ready(&self) -> Result<(), NcclError> {
        self.settled(INIT)
    }

    /// Own rank and number of ranks.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Lets another thread abort this communicator.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle(Arc::clone(&self.shared))
    }

    /// Adds the ranks' numbers, element by element; every rank receives the sums. `receive` may be
    /// `send`.
    ///
    /// # Errors
    /// Lengths that differ, and what the library reports before the work is on the stream.
    pub fn all_reduce(&self, send: DevicePointer, receive: DevicePointer, stream: Stream) -> Result<(), NcclError> {
        let operation = "all-reduce";
        if send.floats() != receive.floats() {
            let reason = format!("sends {} floats but receives {}", send.floats(), receive.floats());
            return Err(argument(self.place, operation, reason));
        }
        self.enqueue(operation, |raw| raw.all_reduce(send, receive, stream))
    }

    /// Overwrites `data` on every rank with what it is on rank `root`.
    ///
    /// # Errors
    /// No such rank, and what the library reports before the work is on the stream.
    pub fn broadcast(&self, data: DevicePointer, root: usize, stream: Stream) -> Result<(), NcclError> {
        let operation = "broadcast";
        let number = c_int::try_from(root).ok().filter(|_| root < self.place.world_size);
        let Some(number) = number else {
            return Err(argument(self.place, operation, format!("there is no rank {root}")));
        };
        self.enqueue(operation, |raw| raw.broadcast(data, number, stream))
    }

    /// Puts every rank's `send` into `receive`, in the order of ranks.
    ///
    /// # Errors
    /// Lengths that do not fit, and what the library reports before the work is on the stream.
    pub fn all_gather(&self, send: DevicePointer, receive: DevicePointer, stream: Stream) -> Result<(), NcclError> {
        let operation = "all-gather";
        let needed = send.floats().checked_mul(self.place.world_size);
        if needed != Some(receive.floats()) {
            let (sent, received) = (send.floats(), receive.floats());
            let reason = format!("sends {sent} floats, so receives as many from each rank, not {received}");
            return Err(argument(self.place, operation, reason));
        }
        self.enqueue(operation, |raw| raw.all_gather(send, receive, stream))
    }

    /// Waits until `done` says that the stream has passed `operation`, and watches for errors of
    /// other ranks meanwhile.
    ///
    /// # Errors
    /// The library's asynchronous errors, the deadline, an abort, and `done`'s own.
    pub fn wait(
        &self,
        operation: &'static str,
        mut done: impl FnMut() -> Result<bool, String>,
    ) -> Result<(), NcclError> {
        self.poll(operation, |communicator| {
            // The stream first: an abort leaves it as success does, but is known before.
            let done = done();
            let under_way = communicator.look(operation)?;
            let done = done.map_err(|reason| NcclError::Stream {
                place: communicator.place,
                operation,
                reason,
            })?;
            Ok((!under_way && done).then_some(()))
        })
    }

    /// Makes a communicator of all ranks but `excluded`, who take no part; ranks move up to fill the
    /// gaps. All that remain must call this with the same ranks. The old one stays, and is of no use after [`Unfinished::Abort`]: drop it.
    ///
    /// # Errors
    /// A library before 2.27, ranks that make no sense, and what the library reports.
    pub fn shrink(&self, excluded: &[usize], unfinished: Unfinished) -> Result<Self, NcclError> {
        let operation = "shrinking the communicator";
        let mut numbers = self.excluded(operation, excluded)?;
        if !self.nccl.can_shrink() {
            let version = self.nccl.version()?.to_string();
            let place = self.place;
            return Err(NcclError::NoShrink { place, version });
        }
        let flags = match unfinished {
            Unfinished::Keep => 0,  // NCCL_SHRINK_DEFAULT
            Unfinished::Abort => 1, // NCCL_SHRINK_ABORT
        };
        let begun = self.with_raw(operation, |raw| raw.shrink(&mut numbers, flags))?;
        let (code, promised) = begun.expect("the library has the function, and the list is short");
        self.check(operation, code)?;
        self.settled(operation)?;
        self.take_child(operation, promised)
    }

    /// The ranks to leave out as NCCL wants them: known, some, each once, without this one.
    fn excluded(&self, operation: &'static str, ranks: &[usize]) -> Result<Vec<c_int>, NcclError> {
        let mut numbers = Vec::new();
        for &rank in ranks {
            let number = c_int::try_from(rank)
                .ok()
                .filter(|number| rank < self.place.world_size && rank != self.place.rank && !numbers.contains(number));
            let reason = || format!("rank {rank} cannot be left out: it is unknown, named twice, or this one");
            numbers.push(number.ok_or_else(|| argument(self.place, operation, reason()))?);
        }
        if numbers.is_empty() {
            return Err(argument(self.place, operation, "names no rank to leave out".to_owned()));
        }
        Ok(numbers)
    }

    fn take_child(&self, operation: &'static str, promised: Promised) -> Result<Self, NcclError> {
        let mut promised = Some(promised);
        let raw = self.poll(operation, |communicator| {
            communicator.look(operation)?;
            match promised.take().map(Promised::redeem) {
                Some(Ok(raw)) => Ok(Some(raw)),
                Some(Err(later)) => {
                    promised = Some(later);
                    Ok(None)
                }
                None => Ok(None),
            }
        })?;
        let mut child = Self::of(self.nccl, self.place, self.timeout, raw);
        child.settled(operation)?;
        let place = child.with_raw(operation, |raw| raw.place())?;
        let (world_size, rank) = place.map_err(|code| self.failed(operation, code))?;
        child.place = Place {
            rank: usize::try_from(rank).unwrap_or_default(),
            world_size: usize::try_from(world_size).unwrap_or_default(),
        };
        Ok(child)
    }

    /// Leaves in peace: waits until all work is done and the other ranks leave too.
    ///
    /// # Errors
    /// The library's, the deadline and an abort; the communicator is then aborted.
    pub fn finish(self) -> Result<(), NcclError> {
        let operation = "leaving the communicator";
        self.enqueue(operation, RawCommunicator::finalize)?;
        let state = std::mem::replace(&mut *lock(&self.shared), State::Aborted);
        match state {
            State::Live(raw) => self.check(operation, raw.destroy()),
            State::Aborted => Err(self.aborted(operation)),
        }
    }

    /// Makes a call, and waits until the library has taken it in.
    fn enqueue(&self, operation: &'static str, call: impl FnOnce(&RawCommunicator) -> c_int) -> Result<(), NcclError> {
        let code = self.with_raw(operation, call)?;
        self.check(operation, code)?;
        if code == IN_PROGRESS {
            self.settled(operation)
        } else {
            Ok(())
        }
    }

    fn with_raw<T>(&self, operation: &'static str, call: impl FnOnce(&RawCommunicator) -> T) -> Result<T, NcclError> {
        match &*lock(&self.shared) {
            State::Live(raw) => Ok(call(raw)),
            State::Aborted => Err(self.aborted(operation)),
        }
    }

    /// Whether calls are still being worked on, and that none failed.
    fn look(&self, operation: &'static str) -> Result<bool, NcclError> {
        let code = self.with_raw(operation, RawCommunicator::async_error)?;
        self.check(operation, code)?;
        Ok(code == IN_PROGRESS)
    }

    fn settled(&self, operation: &'static str) -> Result<(), NcclError> {
        self.poll(operation, |communicator| {
            Ok((!communicator.look(operation)?).then_some(()))
        })
    }

    fn poll<T>(
        &self,
        operation: &'static str,
        mut step: impl FnMut(&Self) -> Result<Option<T>, NcclError>,
    ) -> Result<T, NcclError> {
        let begun = Instant::now();
        loop {
            if let Some(done) = step(self)? {
                return Ok(done);
            }
            let waited = begun.elapsed();
            if waited >= self.timeout {
                return Err(NcclError::TimedOut {
                    place: self.place,
                    operation,
                    waited,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    fn check(&self, operation: &'static str, code: c_int) -> Result<(), NcclError> {
        if is_under_way(code) {
            Ok(())
        } else {
            Err(self.failed(operation, code))
        }
    }

    fn failed(&self, operation: &'static str, code: c_int) -> NcclError {
        NcclError::Failed {
            place: self.place,
            operation,
            cause: self.nccl.cause(code),
        }
    }

    fn aborted(&self, operation: &'static str) -> NcclError {
        NcclError::Aborted {
            place: self.place,
            operation,
        }
    }
}

/// Aborts: dropping neither waits for other ranks nor leaves work on the card.
impl Drop for Communicator {
    fn drop(&mut self) {
        abort(&self.shared);
    }
}

fn is_under_way(code: c_int) -> bool {
    code == 0 || code == IN_PROGRESS
}

fn argument(place: Place, operation: &'static str, reason: String) -> NcclError {
    NcclError::Argument {
        place,
        operation,
        reason,
    }
}

#[cfg(test)]
#[path = "communicator_tests.rs"]
mod tests;
