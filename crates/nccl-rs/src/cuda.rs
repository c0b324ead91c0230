//! The few functions of the CUDA runtime that ranks on cards need: devices, memory, streams.

use std::ffi::{OsStr, c_int};
use std::fmt;

use thiserror::Error;

use crate::error::OpenError;
use crate::ffi::{CudaApi, DevicePointer, Stream};

/// Names the library's file; without it the loader looks for `libcudart.so`, with the version in its
/// name first.
pub const PATH_VARIABLE: &str = "STILLHOUSE_CUDART";

/// `cudaDevAttrComputeCapabilityMajor` and `cudaDevAttrComputeCapabilityMinor`.
const CAPABILITY: [c_int; 2] = [75, 76];
/// `cudaErrorNotReady`.
const NOT_READY: c_int = 600;

/// The CUDA runtime refused something.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CudaError {
    /// The runtime's own reason.
    #[error("{operation} failed: {text} (code {code})")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// `cudaError_t`.
        code: i32,
        /// The runtime's text for the code.
        text: String,
    },
    /// A copy between memories of different lengths.
    #[error("the card's memory holds {device} floats, the host's {host}")]
    Length {
        /// Floats on the card.
        device: usize,
        /// Floats on the host.
        host: usize,
    },
}

/// The CUDA runtime, open until the process ends. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Cuda {
    api: &'static CudaApi,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda").finish_non_exhaustive()
    }
}

impl Cuda {
    /// Opens the library that [`PATH_VARIABLE`] names, else the one that the loader finds.
    ///
    /// # Errors
    /// There is none, or it is not the CUDA runtime.
    pub fn open() -> Result<Self, OpenError> {
        if let Some(path) = std::env::var_os(PATH_VARIABLE).filter(|path| !path.is_empty()) {
            return Self::open_at(&path);
        }
        // By the names under which a tensor library has it open already: two copies in one process
        // would each have streams and memory of their own.
        let newest = Self::open_at("libcudart.so.13");
        let others = ["libcudart.so.12", "libcudart.so"];
        newest.or_else(|error| others.iter().find_map(|name| Self::open_at(name).ok()).ok_or(error))
    }

    /// Opens the library in a file, or by a name that the loader looks for.
    ///
    /// # Errors
    /// As [`Cuda::open`].
    pub fn open_at(path: &(impl AsRef<OsStr> + ?Sized)) -> Result<Self, OpenError> {
        CudaApi::open(path.as_ref()).map(|api| Self { api })
    }

    /// How many cards there are; never zero.
    ///
    /// # Errors
    /// There is no card, or no driver.
    pub fn device_count(self) -> Result<usize, CudaError> {
        let count = self.checked("counting devices", self.api.device_count())?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// Makes a card the current one of this thread.
    ///
    /// # Errors
    /// There is no such card.
    pub fn set_device(self, device: i32) -> Result<(), CudaError> {
        self.checked("choosing the device", self.api.set_device(device))
    }

    /// The card's place on its host's bus, such as `0000:3b:00.0`: the same for every process that
    /// sees the card, under whatever number.
    ///
    /// # Errors
    /// There is no such card.
    pub fn bus_id(self, device: i32) -> Result<String, CudaError> {
        self.checked("reading the bus id", self.api.bus_id(device))
    }

    /// The card's compute capability, such as `[9, 0]`.
    ///
    /// # Errors
    /// There is no such card.
    pub fn compute_capability(self, device: i32) -> Result<[i32; 2], CudaError> {
        let [major, minor] = CAPABILITY
            .map(|attribute| self.checked("reading the compute capability", self.api.attribute(attribute, device)));
        Ok([major?, minor?])
    }

    /// Whether all work on `stream` is done.
    ///
    /// # Errors
    /// What that work failed with.
    pub fn is_done(self, stream: Stream) -> Result<bool, CudaError> {
        match self.api.query_stream(stream) {
            0 => Ok(true),
            NOT_READY => Ok(false),
            code => self.checked("asking the stream", Err(code)),
        }
    }

    /// Room for that many `f32` on the current card.
    ///
    /// # Errors
    /// The card's memory is full.
    pub fn floats(self, count: usize) -> Result<DeviceFloats, CudaError> {
        let memory = self.checked("allocating memory", self.api.allocate(count))?;
        Ok(DeviceFloats { cuda: self, memory })
    }

    /// A new stream on the current card.
    ///
    /// # Errors
    /// The runtime's.
    pub fn stream(self) -> Result<OwnedStream, CudaError> {
        let stream = self.checked("making a stream", self.api.create_stream())?;
        Ok(OwnedStream { cuda: self, stream })
    }

    fn checked<T>(self, operation: &'static str, result: Result<T, c_int>) -> Result<T, CudaError> {
        result.map_err(|code| CudaError::Failed {
            operation,
            code,
            text: self.api.error_text(code),
        })
    }
}

/// Memory of a card, freed when dropped. That waits for work which uses it: abort what cannot end.
#[derive(Debug)]
pub struct DeviceFloats {
    cuda: Cuda,
    memory: DevicePointer,
}

impl DeviceFloats {
    /// The memory's address and length, valid while this lives.
    pub fn pointer(&self) -> DevicePointer {
        self.memory
    }

    /// Overwrites the numbers, after what the default stream holds.
    ///
    /// # Errors
    /// Another length, and the runtime's.
    pub fn write(&self, numbers: &[f32]) -> Result<(), CudaError> {
        self.same_length(numbers.len())?;
        self.cuda
            .checked("copying to the card", self.cuda.api.write(self.memory, numbers))
    }

    /// Reads the numbers, after what the default stream holds.
    ///
    /// # Errors
    /// The runtime's.
    pub fn read(&self) -> Result<Vec<f32>, CudaError> {
        let mut numbers = vec![0.0; self.memory.floats()];
        let read = self.cuda.api.read(self.memory, &mut numbers);
        self.cuda.checked("copying from the card", read).map(|()| numbers)
    }

    fn same_length(&self, host: usize) -> Result<(), CudaError> {
        let device = self.memory.floats();
        if device == host {
            Ok(())
        } else {
            Err(CudaError::Length { device, host })
        }
    }
}

impl Drop for DeviceFloats {
    fn drop(&mut self) {
        self.cuda.api.free(self.memory);
    }
}

/// A stream, ended when dropped; work on it goes on.
#[derive(Debug)]
pub struct OwnedStream {
    cuda: Cuda,
    stream: Stream,
}

impl OwnedStream {
    /// The stream to put work on, valid while this lives.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Whether all work on the stream is done.
    ///
    /// # Errors
    /// What that work failed with.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        self.cuda.is_done(self.stream)
    }
}

impl Drop for OwnedStream {
    fn drop(&mut self) {
        self.cuda.api.destroy_stream(self.stream);
    }
}
