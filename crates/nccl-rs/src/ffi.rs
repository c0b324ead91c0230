//! The one place with `unsafe`: the tables of foreign functions, and the calls through them.
//!
//! Safety rests on four facts, used throughout: the signatures are those of `nccl.h` and
//! `cuda_runtime_api.h`; an opened library is never closed, so its functions live as long as the
//! process; a [`RawCommunicator`] is neither copied nor shared between threads, and what frees it
//! consumes it; and a [`DevicePointer`] names memory of the card, which holds no Rust object.

#![allow(unsafe_code)]

mod cuda;

use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

pub(crate) use cuda::CudaApi;

use crate::error::OpenError;

/// `NCCL_UNIQUE_ID_BYTES`.
pub(crate) const UNIQUE_ID_BYTES: usize = 128;
/// `ncclFloat32`.
const FLOAT32: c_int = 7;
/// `ncclSum`.
const SUM: c_int = 0;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawUniqueId {
    pub(crate) internal: [u8; UNIQUE_ID_BYTES],
}

/// `ncclConfig_t` as of NCCL 2.27. Later fields were only added at its end, and NCCL copies no more
/// bytes than `size` says.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawConfig {
    pub(crate) size: usize,
    pub(crate) magic: c_uint,
    pub(crate) version: c_uint,
    pub(crate) blocking: c_int,
    pub(crate) cga_cluster_size: c_int,
    pub(crate) min_ctas: c_int,
    pub(crate) max_ctas: c_int,
    pub(crate) net_name: *const c_char,
    pub(crate) split_share: c_int,
    pub(crate) traffic_class: c_int,
    pub(crate) comm_name: *const c_char,
    pub(crate) collnet_enable: c_int,
    pub(crate) cta_policy: c_int,
    pub(crate) shrink_share: c_int,
    pub(crate) nvls_ctas: c_int,
}

impl RawConfig {
    /// Everything as NCCL chooses it, except that no call blocks.
    pub(crate) fn non_blocking() -> Self {
        // NCCL_CONFIG_UNDEF_INT
        let undefined = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            // NCCL_VERSION(2, 27, 0): the header whose fields these are.
            version: 22_700,
            blocking: 0,
            cga_cluster_size: undefined,
            min_ctas: undefined,
            max_ctas: undefined,
            net_name: null(),
            split_share: undefined,
            traffic_class: undefined,
            comm_name: null(),
            collnet_enable: undefined,
            cta_policy: undefined,
            shrink_share: undefined,
            nvls_ctas: undefined,
        }
    }
}

/// Opens a library and keeps it open for good: its threads may run until the process ends.
fn open(path: &OsStr) -> Result<&'static Library, OpenError> {
    // SAFETY: runs the initialisers of a library that the user named or the system provides.
    match unsafe { Library::new(path) } {
        Ok(library) => Ok(Box::leak(Box::new(library))),
        Err(source) => Err(OpenError::Open {
            path: path.into(),
            source,
        }),
    }
}

/// Finds one function. `T` is its type in C.
fn function<T: Copy>(library: &'static Library, path: &OsStr, symbol: &'static str) -> Result<T, OpenError> {
    // SAFETY: the tables below give each name the type that its header declares.
    match unsafe { library.get::<T>(symbol) } {
        Ok(found) => Ok(*found),
        Err(source) => Err(OpenError::Symbol {
            path: path.into(),
            symbol,
            source,
        }),
    }
}

type Comm = *mut c_void;
type RawStream = *mut c_void;
type Shrink = unsafe extern "C" fn(Comm, *mut c_int, c_int, *mut Comm, *mut RawConfig, c_int) -> c_int;

/// NCCL's functions.
pub(crate) struct NcclApi {
    get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    get_unique_id: unsafe extern "C" fn(*mut RawUniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut Comm, c_int, RawUniqueId, c_int, *mut RawConfig) -> c_int,
    finalize: unsafe extern "C" fn(Comm) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    abort: unsafe extern "C" fn(Comm) -> c_int,
    shrink: Option<Shrink>,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    count: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    user_rank: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, RawStream) -> c_int,
    broadcast: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, RawStream) -> c_int,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, RawStream) -> c_int,
}

/// Sets variables of the environment, which the libraries read.
///
/// # Errors
/// There are other threads, which may read it meanwhile.
pub(crate) fn set_variables(variables: &[(&str, &OsStr)]) -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "expected no other thread, found {}",
            threads - 1
        )));
    }
    for (name, value) in variables {
        // SAFETY: this is the only thread, so nobody else reads or writes the environment, and none is started here.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(())
}

/// Copies a C string that the library owns; null is empty.
fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: both libraries return static strings that end in a zero byte, as the one in
    // `CudaApi::bus_id` does. NCCL's last error is a
    // buffer of fixed size whose last byte is always zero; another thread's error may mix into it.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().to_owned()
}

impl NcclApi {
    pub(crate) fn open(path: &OsStr) -> Result<&'static Self, OpenError> {
        let library = open(path)?;
        let api = Self {
            get_version: function(library, path, "ncclGetVersion")?,
            get_unique_id: function(library, path, "ncclGetUniqueId")?,
            init: function(library, path, "ncclCommInitRankConfig")?,
            finalize: function(library, path, "ncclCommFinalize")?,
            destroy: function(library, path, "ncclCommDestroy")?,
            abort: function(library, path, "ncclCommAbort")?,
            shrink: function(library, path, "ncclCommShrink").ok(),
            error_string: function(library, path, "ncclGetErrorString")?,
            last_error: function(library, path, "ncclGetLastError")?,
            async_error: function(library, path, "ncclCommGetAsyncError")?,
            count: function(library, path, "ncclCommCount")?,
            user_rank: function(library, path, "ncclCommUserRank")?,
            all_reduce: function(library, path, "ncclAllReduce")?,
            broadcast: function(library, path, "ncclBroadcast")?,
            all_gather: function(library, path, "ncclAllGather")?,
        };
        Ok(Box::leak(Box::new(api)))
    }

    pub(crate) fn has_shrink(&self) -> bool {
        self.shrink.is_some()
    }

    pub(crate) fn version(&self) -> Result<c_int, c_int> {
        let mut version = 0;
        // SAFETY: writes one integer.
        match unsafe { (self.get_version)(&mut version) } {
            0 => Ok(version),
            code => Err(code),
        }
    }

    pub(crate) fn unique_id(&self) -> Result<RawUniqueId, c_int> {
        let mut id = RawUniqueId {
            internal: [0; UNIQUE_ID_BYTES],
        };
        // SAFETY: writes the 128 bytes of `id`.
        match unsafe { (self.get_unique_id)(&mut id) } {
            0 => Ok(id),
            code => Err(code),
        }
    }

    pub(crate) fn error_text(&self, code: c_int) -> String {
        // SAFETY: takes any integer, returns a static string.
        text(unsafe { (self.error_string)(code) })
    }

    /// What the library last complained about in this process; empty when it did not.
    pub(crate) fn last_error(&self) -> String {
        // SAFETY: the communicator is not looked at (`nccl/src/init.cc`); returns a static buffer.
        text(unsafe { (self.last_error)(null_mut()) })
    }
}

/// Where NCCL writes a communicator, at once or when a thread of its own is done: never freed, so
/// that a late write hits memory that is still this. Eight bytes a communicator.
fn slot() -> &'static AtomicPtr<c_void> {
    Box::leak(Box::new(AtomicPtr::new(null_mut())))
}

/// A live communicator. May move between threads; used by one at a time.
pub(crate) struct RawCommunicator {
    comm: AtomicPtr<c_void>,
    api: &'static NcclApi,
    not_sync: PhantomData<Cell<()>>,
}

/// A communicator that NCCL may still be making. Given up, it is left to NCCL: there is no safe moment
/// to free it.
pub(crate) struct Promised {
    slot: &'static AtomicPtr<c_void>,
    api: &'static NcclApi,
}

impl Promised {
    /// The communicator, once it is there.
    pub(crate) fn redeem(self) -> Result<RawCommunicator, Self> {
        // Taken out, so that there is one owner.
        let comm = self.slot.swap(null_mut(), Ordering::AcqRel);
        if comm.is_null() {
            return Err(self);
        }
        Ok(RawCommunicator {
            comm: AtomicPtr::new(comm),
            api: self.api,
            not_sync: PhantomData,
        })
    }
}

impl RawCommunicator {
    /// Begins to make a communicator on the thread's current device. The code says how that went
    /// so far; where there is a communicator after an error, it wants to be aborted.
    pub(crate) fn begin(
        api: &'static NcclApi,
        world_size: c_int,
        id: RawUniqueId,
        rank: c_int,
    ) -> (c_int, Option<Self>) {
        let slot = slot();
        let mut config = RawConfig::non_blocking();
        // SAFETY: the slot lives for ever; the configuration is copied within the call.
        let code = unsafe { (api.init)(slot.as_ptr(), world_size, id, rank, &mut config) };
        (code, Promised { slot, api }.redeem().ok())
    }

    fn comm(&self) -> Comm {
        self.comm.load(Ordering::Relaxed)
    }

    /// What became of the calls so far.
    pub(crate) fn async_error(&self) -> c_int {
        let mut state = 0;
        // SAFETY: the communicator is live; writes one integer.
        match unsafe { (self.api.async_error)(self.comm(), &mut state) } {
            0 => state,
            code => code,
        }
    }

    /// Number of ranks and own rank, of a communicator that is ready.
    pub(crate) fn place(&self) -> Result<(c_int, c_int), c_int> {
        let (mut count, mut rank) = (0, 0);
        // SAFETY: the communicator is live; each call writes one integer.
        let codes = unsafe {
            [
                (self.api.count)(self.comm(), &mut count),
                (self.api.user_rank)(self.comm(), &mut rank),
            ]
        };
        match codes.into_iter().find(|code| *code != 0) {
            None => Ok((count, rank)),
            Some(code) => Err(code),
        }
    }

    pub(crate) fn all_reduce(&self, send: DevicePointer, receive: DevicePointer, stream: Stream) -> c_int {
        let (from, to, comm) = (send.address.cast_const(), receive.address, self.comm());
        // SAFETY: both name `send.len` floats of the card, as the caller checked; live communicator.
        unsafe { (self.api.all_reduce)(from, to, send.floats, FLOAT32, SUM, comm, stream.0) }
    }

    pub(crate) fn broadcast(&self, data: DevicePointer, root: c_int, stream: Stream) -> c_int {
        let (from, to, comm) = (data.address.cast_const(), data.address, self.comm());
        // SAFETY: `data` names that many floats of the card; live communicator.
        unsafe { (self.api.broadcast)(from, to, data.floats, FLOAT32, root, comm, stream.0) }
    }

    pub(crate) fn all_gather(&self, send: DevicePointer, receive: DevicePointer, stream: Stream) -> c_int {
        let (from, to, comm) = (send.address.cast_const(), receive.address, self.comm());
        // SAFETY: `receive` has room for `send` of every rank, as the caller checked; live communicator.
        unsafe { (self.api.all_gather)(from, to, send.floats, FLOAT32, comm, stream.0) }
    }

    /// Begins to make a communicator without `excluded`. `None`: this library cannot.
    pub(crate) fn shrink(&self, excluded: &mut [c_int], flags: c_int) -> Option<(c_int, Promised)> {
        let shrink = self.api.shrink?;
        let count = c_int::try_from(excluded.len()).ok()?;
        let (slot, mut config) = (slot(), RawConfig::non_blocking());
        // SAFETY: the list is sorted in place and copied, and the configuration copied, within the
        // call; the slot lives for ever.
        let code = unsafe {
            shrink(
                self.comm(),
                excluded.as_mut_ptr(),
                count,
                slot.as_ptr(),
                &mut config,
                flags,
            )
        };
        Some((code, Promised { slot, api: self.api }))
    }

    pub(crate) fn finalize(&self) -> c_int {
        // SAFETY: the communicator is live, and stays so until it is destroyed.
        unsafe { (self.api.finalize)(self.comm()) }
    }

    pub(crate) fn destroy(self) -> c_int {
        // SAFETY: the communicator is live and not used afterwards.
        unsafe { (self.api.destroy)(self.comm()) }
    }

    pub(crate) fn abort(self) -> c_int {
        // SAFETY: the communicator is live and not used afterwards.
        unsafe { (self.api.abort)(self.comm()) }
    }
}

/// A run of `f32` in the memory of a card. Copying it copies the address, not the numbers.
#[derive(Clone, Copy, Debug)]
pub struct DevicePointer {
    address: *mut c_void,
    floats: usize,
}

// SAFETY: an address and a length; nothing is read or written on the host through them.
unsafe impl Send for DevicePointer {}

impl DevicePointer {
    /// Names `floats` numbers at `address`, such as the data pointer of a contiguous tensor.
    ///
    /// # Safety
    /// `address` is memory of the card that the communicator works on, aligned and large enough for
    /// `floats` numbers, not mapped from memory of the host, and stays allocated and otherwise
    /// unused until the stream has passed every operation that was given it.
    pub unsafe fn new(address: *mut c_void, floats: usize) -> Self {
        Self { address, floats }
    }

    /// How many numbers.
    pub fn floats(self) -> usize {
        self.floats
    }
}

/// A CUDA stream, the caller's own.
#[derive(Clone, Copy, Debug)]
pub struct Stream(RawStream);

// SAFETY: CUDA streams may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// The default stream of the thread's device.
    pub const DEFAULT: Self = Self(null_mut());

    /// Names an existing stream: a `cudaStream_t`.
    ///
    /// # Safety
    /// `stream` is a stream of the card that the communicator works on and lives until it has
    /// passed every operation that was put on it.
    pub unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self(stream)
    }
}

#[cfg(test)]
impl DevicePointer {
    /// No memory: for a library that does not look at it.
    pub(crate) fn nowhere(floats: usize) -> Self {
        Self {
            address: null_mut(),
            floats,
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod layout_tests;
