//! The one place with `unsafe`: the C++ shim, slices of tensors, the C library.
//!
//! Safety rests on three facts, used throughout: a `C_tensor` is a `torch::Tensor`; the shim lets
//! no exception out; and it keeps no pointer that it was lent.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;

use stillhouse_collective::DevicePointer;
use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use crate::error::first_lines;

type Raw = c_void;
type Text = *mut c_char;

unsafe extern "C" {
    fn stillhouse_free_text(text: Text);
    fn stillhouse_inference_enter() -> *mut c_void;
    fn stillhouse_inference_leave(guard: *mut c_void);
    fn stillhouse_flush_denormal(on: c_int) -> c_int;
    fn stillhouse_cuda_precise(precise: c_int) -> Text;
    fn stillhouse_cpu_capability() -> Text;
    fn stillhouse_set_gradient(parameter: *const C_tensor, gradient: *const C_tensor) -> Text;
    fn stillhouse_relu_halve(x: *const C_tensor, out: *mut *mut C_tensor) -> Text;
    fn stillhouse_sgd(
        weights: *const C_tensor,
        gradients: *const C_tensor,
        velocities: *const C_tensor,
        rate: f64,
        momentum: f64,
        decay: f64,
    ) -> Text;
    fn stillhouse_adam(
        weights: *const C_tensor,
        gradients: *const C_tensor,
        means: *const C_tensor,
        squares: *const C_tensor,
        step: *const C_tensor,
        rate: f64,
        decay: f64,
    ) -> Text;
    fn stillhouse_module_free(module: *mut Raw);
    fn stillhouse_module_load(data: *const c_char, size: usize, device: c_int, out: *mut *mut Raw) -> Text;
    fn stillhouse_module_forward(
        module: *mut Raw,
        input: *const C_tensor,
        optimize: c_int,
        out: *mut *mut C_tensor,
    ) -> Text;
    fn stillhouse_module_train(module: *mut Raw, on: c_int) -> Text;
    fn stillhouse_module_tensors(
        module: *const Raw,
        buffers: c_int,
        context: *mut c_void,
        visit: extern "C" fn(*mut c_void, *const c_char, *mut C_tensor),
    ) -> Text;
    fn stillhouse_module_random(module: *const Raw, out: *mut c_int) -> Text;
    fn stillhouse_module_optimized(module: *const Raw, out: *mut *mut Raw) -> Text;
    fn stillhouse_module_save(
        module: *const Raw,
        context: *mut c_void,
        write: extern "C" fn(*mut c_void, *const c_char, usize),
    ) -> Text;
    fn stillhouse_trace_begin(input: *const C_tensor, out: *mut *mut Raw) -> Text;
    fn stillhouse_trace_end(module: *mut Raw, output: *const C_tensor) -> Text;
    fn stillhouse_trace_abandon();
}

/// Takes over the message that a shim function returned.
fn check(text: Text) -> Result<(), String> {
    let Some(text) = NonNull::new(text) else {
        return Ok(());
    };
    // SAFETY: the shim returns null or a C string that is ours until we free it.
    let message = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: allocated by the shim's strdup, not used afterwards.
    unsafe { stillhouse_free_text(text.as_ptr()) };
    Err(first_lines(&message))
}

/// A TorchScript module.
pub(crate) struct Module(NonNull<Raw>);

// SAFETY: a module has no thread of its own and no thread-local state; `&mut self` methods and the
// absence of `Sync` keep it to one thread at a time.
unsafe impl Send for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the shim's `new` and is freed once.
        unsafe { stillhouse_module_free(self.0.as_ptr()) }
    }
}

impl Module {
    fn own(raw: *mut Raw) -> Result<Self, String> {
        NonNull::new(raw)
            .map(Self)
            .ok_or_else(|| "no module was made".to_owned())
    }

    /// Reads a module from the bytes of a `.pt` file onto `device`.
    pub(crate) fn load(bytes: &[u8], device: Device) -> Result<Self, String> {
        let device = match device {
            Device::Cpu => -1,
            Device::Cuda(index) => c_int::try_from(index).map_err(|_| format!("no device cuda:{index}"))?,
            other => return Err(format!("device {other:?} is not supported")),
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the bytes live through the call and are copied; `raw` is written on success.
        check(unsafe { stillhouse_module_load(bytes.as_ptr().cast(), bytes.len(), device, &mut raw) })?;
        Self::own(raw)
    }

    /// Runs `forward` on one tensor. `optimize`: whether the executor may rewrite the graph, so
    /// that results may differ in the last bits between the first runs and later ones.
    pub(crate) fn forward(&self, input: &Tensor, optimize: bool) -> Result<Tensor, String> {
        let mut out = std::ptr::null_mut();
        // SAFETY: module and input are live; `out` receives a tensor that becomes ours.
        check(unsafe { stillhouse_module_forward(self.0.as_ptr(), input.as_ptr(), c_int::from(optimize), &mut out) })?;
        // SAFETY: on success the shim made `out` with `new at::Tensor`.
        Ok(unsafe { Tensor::from_ptr(out) })
    }

    /// Switches between training and evaluation.
    pub(crate) fn set_training(&self, on: bool) -> Result<(), String> {
        // SAFETY: the module is live, and not `Sync`, so no other thread runs it.
        check(unsafe { stillhouse_module_train(self.0.as_ptr(), c_int::from(on)) })
    }

    /// Parameters with their names, in the module's order; they are the module's own tensors.
    pub(crate) fn parameters(&self) -> Result<Vec<(String, Tensor)>, String> {
        self.tensors(false)
    }

    /// Buffers with their names, in the module's order; they are the module's own tensors.
    pub(crate) fn buffers(&self) -> Result<Vec<(String, Tensor)>, String> {
        self.tensors(true)
    }

    fn tensors(&self, buffers: bool) -> Result<Vec<(String, Tensor)>, String> {
        extern "C" fn visit(context: *mut c_void, name: *const c_char, tensor: *mut C_tensor) {
            // SAFETY: `context` is the vector below; name and tensor come from the shim, the
            // tensor is ours.
            unsafe {
                let list = &mut *context.cast::<Vec<(String, Tensor)>>();
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                list.push((name, Tensor::from_ptr(tensor)));
            }
        }
        let mut list: Vec<(String, Tensor)> = Vec::new();
        let context = std::ptr::from_mut(&mut list).cast();
        // SAFETY: `context` outlives the call, which is the only one that uses it.
        check(unsafe { stillhouse_module_tensors(self.0.as_ptr(), c_int::from(buffers), context, visit) })?;
        Ok(list)
    }

    /// Whether `forward` draws from libtorch's global generator.
    pub(crate) fn is_random(&self) -> Result<bool, String> {
        let mut random = 0;
        // SAFETY: the module is live; `random` is written on success.
        check(unsafe { stillhouse_module_random(self.0.as_ptr(), &mut random) })?;
        Ok(random != 0)
    }

    /// A copy in evaluation mode with weights folded in and operators fused
    /// (`freeze` and `optimize_for_inference`).
    pub(crate) fn optimized(&self) -> Result<Self, String> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is live; `raw` is written on success.
        check(unsafe { stillhouse_module_optimized(self.0.as_ptr(), &mut raw) })?;
        Self::own(raw)
    }

    /// The bytes of a `.pt` file.
    pub(crate) fn save(&self) -> Result<Vec<u8>, String> {
        extern "C" fn write(context: *mut c_void, data: *const c_char, size: usize) {
            // SAFETY: `context` is the vector below; the shim lends `size` bytes at `data`.
            unsafe {
                let bytes = &mut *context.cast::<Vec<u8>>();
                bytes.extend_from_slice(std::slice::from_raw_parts(data.cast(), size));
            }
        }
        let mut bytes: Vec<u8> = Vec::new();
        let context = std::ptr::from_mut(&mut bytes).cast();
        // SAFETY: `context` outlives the call, which is the only one that uses it.
        check(unsafe { stillhouse_module_save(self.0.as_ptr(), context, write) })?;
        Ok(bytes)
    }

    /// Records what `forward` does to `input` as a module. Tensors that `forward` uses besides its
    /// argument become constants; they must not require gradients.
    pub(crate) fn trace<E>(
        input: &Tensor,
        forward: impl FnOnce(&Tensor) -> Result<Tensor, E>,
    ) -> Result<Result<Self, E>, String> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the input lives through the whole trace; `raw` is written on success.
        check(unsafe { stillhouse_trace_begin(input.as_ptr(), &mut raw) })?;
        let module = Self::own(raw)?;
        let abandon = Abandon;
        let output = match forward(input) {
            Ok(output) => output,
            Err(error) => return Ok(Err(error)),
        };
        // SAFETY: module and output are live; the trace began above on this thread.
        check(unsafe { stillhouse_trace_end(module.0.as_ptr(), output.as_ptr()) })?;
        std::mem::forget(abandon);
        Ok(Ok(module))
    }
}

/// Ends a trace that was not completed, also when `forward` panics.
struct Abandon;

impl Drop for Abandon {
    fn drop(&mut self) {
        // SAFETY: drops this thread's tracing state, whether there is one or not.
        unsafe { stillhouse_trace_abandon() }
    }
}

/// While it lives, this thread records nothing for a backward pass and keeps no version counters.
/// Tensors made under it can never be trained.
pub struct InferenceMode {
    guard: *mut c_void,
    /// The guard is thread-local state: neither `Send` nor `Sync`.
    _thread: PhantomData<*const ()>,
}

impl InferenceMode {
    /// Enters inference mode on this thread.
    #[must_use]
    pub fn enter() -> Self {
        Self {
            // SAFETY: returns a heap-allocated guard that `drop` frees on this same thread.
            guard: unsafe { stillhouse_inference_enter() },
            _thread: PhantomData,
        }
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: made by `enter` on this thread, freed once.
        unsafe { stillhouse_inference_leave(self.guard) }
    }
}

/// Makes the calling thread compute alone and with the same bits wherever it runs: libtorch's own
/// loops take one thread, and denormals count as zero.
///
/// A thread takes libtorch's process-wide number the first time it needs one, whatever was set for
/// it before. So it is made to need one first: else another thread's setting could still reach it.
pub fn compute_alone() {
    let _process_wide = tch::get_num_threads();
    tch::set_num_threads(1);
    flush_denormal(true);
}

/// Lets this thread treat denormal floats as zero; `false` where the processor cannot. Denormals
/// make a step several times slower once some weights have nearly died.
pub(crate) fn flush_denormal(on: bool) -> bool {
    // SAFETY: sets a mode of the calling thread's floating-point unit.
    unsafe { stillhouse_flush_denormal(c_int::from(on)) != 0 }
}

/// Makes the backward pass add into `gradient` (same shape and device as `parameter`).
pub(crate) fn set_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<(), String> {
    // SAFETY: both tensors are live; the parameter takes its own reference to the gradient.
    check(unsafe { stillhouse_set_gradient(parameter.as_ptr(), gradient.as_ptr()) })
}

/// ReLU of the maximum of 2x2 windows of `[n, c, h, w]` on the CPU, with a backward pass; a last odd
/// row or column is left out. Equal to `max_pool2d` after `relu`, and several times faster.
pub(crate) fn relu_halve(x: &Tensor) -> Result<Tensor, TchError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: `x` is live; `out` receives a tensor that becomes ours.
    check(unsafe { stillhouse_relu_halve(x.as_ptr(), &mut out) }).map_err(TchError::Torch)?;
    // SAFETY: on success the shim made `out` with `new at::Tensor`.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Numbers of one step of stochastic gradient descent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sgd {
    pub(crate) rate: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
}

impl Sgd {
    /// `g += decay w; v = momentum v + g; w -= rate v` on flat tensors of one length, in one pass.
    pub(crate) fn step(self, weights: &Tensor, gradients: &Tensor, velocities: &Tensor) -> Result<(), String> {
        let (weights, gradients, velocities) = (weights.as_ptr(), gradients.as_ptr(), velocities.as_ptr());
        // SAFETY: three live tensors, checked against each other by libtorch.
        check(unsafe {
            stillhouse_sgd(
                weights,
                gradients,
                velocities,
                self.rate,
                self.momentum,
                self.weight_decay,
            )
        })
    }
}

/// Adam's memory: flat first and second moments, and the number of the step as one float.
#[derive(Debug)]
pub(crate) struct AdamState {
    pub(crate) means: Tensor,
    pub(crate) squares: Tensor,
    pub(crate) step: Tensor,
}

/// One step of Adam (betas 0.9 and 0.999, epsilon 1e-8, L2 penalty) on flat tensors of one length.
pub(crate) fn adam_step(
    weights: &Tensor,
    gradients: &Tensor,
    state: &AdamState,
    rate: f64,
    weight_decay: f64,
) -> Result<(), String> {
    let AdamState { means, squares, step } = state;
    let (means, squares, step) = (means.as_ptr(), squares.as_ptr(), step.as_ptr());
    // SAFETY: five live tensors, checked against each other by libtorch.
    check(unsafe {
        stillhouse_adam(
            weights.as_ptr(),
            gradients.as_ptr(),
            means,
            squares,
            step,
            rate,
            weight_decay,
        )
    })
}

fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}

/// The numbers of a contiguous `f32` tensor on the CPU, else `None`. While the slice lives, nobody
/// may write to the tensor's storage through another handle.
pub(crate) fn floats(tensor: &Tensor) -> Option<&[f32]> {
    let data: *const f32 = tensor.data_ptr().cast();
    match (is_plain(tensor), tensor.numel()) {
        (false, _) => None,
        (true, 0) => Some(&[]),
        // SAFETY: contiguous `f32` memory of `numel` elements, kept alive by the borrow.
        (true, numel) => Some(unsafe { std::slice::from_raw_parts(data, numel) }),
    }
}

/// Bytes from which malloc asks the system for a mapping of its own, and up to which it keeps freed
/// memory: above the activations of a scoring batch, so that they are not mapped again each time
/// (1.6 to 2.2 times faster at large batches).
const MALLOC_THRESHOLD_BYTES: c_int = 512 << 20;

/// Tells malloc to keep memory of the size of our activations. Once a process.
pub fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two tuning values of the C library's allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MALLOC_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MALLOC_THRESHOLD_BYTES);
    }
}

/// Maps libtorch's CUDA half, which this crate does not link: one binary serves machines with and
/// without a GPU. Called before any tensor exists and any thread is started. Returns the loader's
/// message where the libraries are not there.
pub(crate) fn map_cuda() -> Result<(), String> {
    // SAFETY: no other thread reads or writes the environment, see above.
    unsafe {
        // What cuBLAS needs to add in the same order every time.
        std::env::set_var("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    }
    // The driver first: without one, the rest is a gigabyte to read for nothing.
    for library in [c"libcuda.so.1", c"libtorch_cuda.so"] {
        // SAFETY: loads a library whose initialisers register kernels; the name is a C string.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if handle.is_null() {
            // SAFETY: `dlerror` returns null or a C string that lives until the next call on this thread.
            let message = unsafe { NonNull::new(libc::dlerror()).map(|text| CStr::from_ptr(text.as_ptr())) };
            return Err(message.map_or_else(|| "unknown".to_owned(), |text| text.to_string_lossy().into_owned()));
        }
    }
    set_precise(true)
}

/// Whether cards compute the same bits every time, or whatever is fastest. A mode of the process.
fn set_precise(precise: bool) -> Result<(), String> {
    // SAFETY: sets fields of libtorch's global context.
    check(unsafe { stillhouse_cuda_precise(c_int::from(precise)) })
}

/// While it lives, cards of this process compute as fast as they can: by the kernels that were found
/// fastest, with products of operands rounded to ten bits (TF32), added in any order.
#[derive(Debug)]
pub(crate) struct Shortcuts(());

impl Shortcuts {
    pub(crate) fn take() -> Result<Self, String> {
        set_precise(false).map(|()| Self(()))
    }
}

impl Drop for Shortcuts {
    fn drop(&mut self) {
        // Setting the mode back fails as little as it did when the device was opened.
        let _ = set_precise(true);
    }
}

/// The instructions that libtorch uses on this processor, such as `AVX512`.
pub(crate) fn cpu_capability() -> String {
    // SAFETY: returns a string of its own, like a message.
    check(unsafe { stillhouse_cpu_capability() }).err().unwrap_or_default()
}

/// The numbers of a contiguous `f32` tensor on a card, else `None`. The tensor must outlive what is
/// done with them.
pub(crate) fn on_card(tensor: &Tensor) -> Option<DevicePointer> {
    let is_there = matches!(tensor.device(), Device::Cuda(_)) && tensor.kind() == Kind::Float && tensor.is_contiguous();
    // SAFETY: contiguous `f32` memory of a card, of `numel` numbers; libtorch works on the default
    // stream and gives the memory to others in that stream's order.
    is_there.then(|| unsafe { DevicePointer::new(tensor.data_ptr(), tensor.numel()) })
}
