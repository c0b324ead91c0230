//! What kernels on SIMD lanes share.

use pulp::{Simd, WithSimd};
use tch::Tensor;

use crate::error::StudentError;
use crate::ffi::floats;

/// Bytes to which vectors are aligned: a cache line, so that no load touches two.
const ALIGNMENT: usize = 64;

/// `max(x, 0)` that keeps NaN: the vector maximum answers with its second argument then.
#[inline(always)]
pub(super) fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.max_f32s(simd.splat_f32s(0.0), x)
}

/// `factor * x + y`.
#[inline(always)]
pub(super) fn scale<S: Simd>(simd: S, factor: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), x, y)
}

/// Zeros at first, aligned to a cache line.
pub(super) struct Aligned {
    values: Vec<f32>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(length: usize) -> Self {
        let slack = ALIGNMENT / size_of::<f32>();
        let values = vec![0.0; length + slack];
        // An offset that cannot be had is reported as a huge one.
        let start = values.as_ptr().align_offset(ALIGNMENT).min(slack);
        Self { values, start, length }
    }

    /// A copy of `values`.
    pub(super) fn from_slice(values: &[f32]) -> Self {
        let mut aligned = Self::new(values.len());
        aligned.get_mut().copy_from_slice(values);
        aligned
    }

    pub(super) fn get(&self) -> &[f32] {
        &self.values[self.start..][..self.length]
    }

    pub(super) fn get_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..][..self.length]
    }
}

/// Number of values that a vector holds, and of vectors that the processor has registers for.
pub(super) struct Lanes;

impl WithSimd for Lanes {
    type Output = (usize, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> (usize, usize) {
        (S::F32_LANES, S::REGISTER_COUNT)
    }
}

/// The numbers of a tensor on the CPU.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>, StudentError> {
    let tensor = tensor.f_contiguous()?;
    let values = floats(&tensor).ok_or_else(|| StudentError::Torch("weights are not f32 on the CPU".to_owned()))?;
    Ok(values.to_vec())
}
