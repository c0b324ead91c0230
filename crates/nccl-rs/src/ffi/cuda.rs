//! The table of the CUDA runtime. What its safety rests on is said in the module above.

use std::ffi::{OsStr, c_char, c_int, c_void};
use std::ptr::null_mut;

use super::{DevicePointer, RawStream, Stream, function, open, text};
use crate::error::OpenError;

/// The few functions of the CUDA runtime that ranks on cards need.
pub(crate) struct CudaApi {
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    get_device_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    set_device: unsafe extern "C" fn(c_int) -> c_int,
    bus_id: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
    malloc: unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int,
    free: unsafe extern "C" fn(*mut c_void) -> c_int,
    memcpy: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int) -> c_int,
    stream_create: unsafe extern "C" fn(*mut RawStream) -> c_int,
    stream_query: unsafe extern "C" fn(RawStream) -> c_int,
    stream_destroy: unsafe extern "C" fn(RawStream) -> c_int,
}

/// `cudaMemcpyHostToDevice` and `cudaMemcpyDeviceToHost`.
const TO_DEVICE: c_int = 1;
const TO_HOST: c_int = 2;

/// Zero is success.
fn succeeded(code: c_int) -> Result<(), c_int> {
    if code == 0 { Ok(()) } else { Err(code) }
}

impl CudaApi {
    pub(crate) fn open(path: &OsStr) -> Result<&'static Self, OpenError> {
        let library = open(path)?;
        let api = Self {
            error_string: function(library, path, "cudaGetErrorString")?,
            get_device_count: function(library, path, "cudaGetDeviceCount")?,
            set_device: function(library, path, "cudaSetDevice")?,
            bus_id: function(library, path, "cudaDeviceGetPCIBusId")?,
            attribute: function(library, path, "cudaDeviceGetAttribute")?,
            malloc: function(library, path, "cudaMalloc")?,
            free: function(library, path, "cudaFree")?,
            memcpy: function(library, path, "cudaMemcpy")?,
            stream_create: function(library, path, "cudaStreamCreate")?,
            stream_query: function(library, path, "cudaStreamQuery")?,
            stream_destroy: function(library, path, "cudaStreamDestroy")?,
        };
        Ok(Box::leak(Box::new(api)))
    }

    pub(crate) fn error_text(&self, code: c_int) -> String {
        // SAFETY: takes any integer, returns a static string.
        text(unsafe { (self.error_string)(code) })
    }

    pub(crate) fn device_count(&self) -> Result<c_int, c_int> {
        let mut count = 0;
        // SAFETY: writes one integer.
        succeeded(unsafe { (self.get_device_count)(&mut count) }).map(|()| count)
    }

    pub(crate) fn set_device(&self, device: c_int) -> Result<(), c_int> {
        // SAFETY: takes any integer.
        succeeded(unsafe { (self.set_device)(device) })
    }

    pub(crate) fn bus_id(&self, device: c_int) -> Result<String, c_int> {
        let mut name: [c_char; 64] = [0; 64];
        // SAFETY: writes a C string of at most 63 bytes, so that the last one stays zero.
        succeeded(unsafe { (self.bus_id)(name.as_mut_ptr(), 63, device) })?;
        Ok(text(name.as_ptr()))
    }

    pub(crate) fn attribute(&self, attribute: c_int, device: c_int) -> Result<c_int, c_int> {
        let mut value = 0;
        // SAFETY: writes one integer.
        succeeded(unsafe { (self.attribute)(&mut value, attribute, device) }).map(|()| value)
    }

    /// Room for `floats` numbers on the current device.
    pub(crate) fn allocate(&self, floats: usize) -> Result<DevicePointer, c_int> {
        let mut address = null_mut();
        let bytes = floats.saturating_mul(size_of::<f32>());
        // SAFETY: writes one pointer.
        succeeded(unsafe { (self.malloc)(&mut address, bytes) })?;
        Ok(DevicePointer { address, floats })
    }

    /// Frees what [`CudaApi::allocate`] gave, once.
    pub(crate) fn free(&self, memory: DevicePointer) {
        // SAFETY: CUDA knows which addresses are its own and refuses others. There is nothing to do
        // about an error while dropping.
        let _ = unsafe { (self.free)(memory.address) };
    }

    /// Copies to the card. The lengths must be equal.
    pub(crate) fn write(&self, to: DevicePointer, from: &[f32]) -> Result<(), c_int> {
        assert_eq!(to.floats, from.len(), "lengths in floats");
        // SAFETY: both sides hold that many bytes; the call returns when the host's were read.
        succeeded(unsafe { (self.memcpy)(to.address, from.as_ptr().cast(), size_of_val(from), TO_DEVICE) })
    }

    /// Copies from the card. The lengths must be equal.
    pub(crate) fn read(&self, from: DevicePointer, to: &mut [f32]) -> Result<(), c_int> {
        assert_eq!(from.floats, to.len(), "lengths in floats");
        // SAFETY: both sides hold that many bytes; the call returns when the host's were written.
        succeeded(unsafe { (self.memcpy)(to.as_mut_ptr().cast(), from.address, size_of_val(to), TO_HOST) })
    }

    pub(crate) fn create_stream(&self) -> Result<Stream, c_int> {
        let mut stream = null_mut();
        // SAFETY: writes one pointer.
        succeeded(unsafe { (self.stream_create)(&mut stream) }).map(|()| Stream(stream))
    }

    /// `cudaStreamQuery`'s code.
    pub(crate) fn query_stream(&self, stream: Stream) -> c_int {
        // SAFETY: the stream's owner keeps it alive.
        unsafe { (self.stream_query)(stream.0) }
    }

    /// Ends what [`CudaApi::create_stream`] gave, once.
    pub(crate) fn destroy_stream(&self, stream: Stream) {
        // SAFETY: the owner gives its stream up. There is nothing to do about an error.
        let _ = unsafe { (self.stream_destroy)(stream.0) };
    }
}
