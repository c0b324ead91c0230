//! Operators that libtorch lacks, or has slower.

use stillhouse_core::sampler::Stream;
use tch::{TchError, Tensor};

/// Maximum of each 2x2 window: the same values as ATen's pooling, whose forward is ten times slower
/// on the CPU. Without a fast backward pass, and unlike [`relu_halve`](crate::ffi::relu_halve) it can be traced.
pub(crate) fn halve(x: &Tensor) -> Result<Tensor, TchError> {
    let size = x.size();
    let (height, width) = (size[2] / 2 * 2, size[3] / 2 * 2);
    let rows = x.f_slice(2, 0, height, 2)?.f_maximum(&x.f_slice(2, 1, height, 2)?)?;
    rows.f_slice(3, 0, width, 2)?.f_maximum(&rows.f_slice(3, 1, width, 2)?)
}

/// The input of a residual block in the shape of its output.
pub(crate) fn shortcut(x: &Tensor, stride: i64, new_channels: i64) -> Result<Tensor, TchError> {
    let strided = match stride {
        1 => x.shallow_clone(),
        _ => x.f_slice(2, None, None, stride)?.f_slice(3, None, None, stride)?,
    };
    if new_channels == 0 {
        return Ok(strided);
    }
    let before = new_channels / 2;
    strided.f_constant_pad_nd([0, 0, 0, 0, before, new_channels - before])
}

/// Zeroes each element with `probability` and scales the others up; the element's position in
/// `stream` decides, so the mask does not depend on threads.
pub(crate) fn drop_out(x: &Tensor, probability: f32, stream: Stream) -> Result<Tensor, TchError> {
    let scale = 1.0 / (1.0 - probability);
    let kept = |at: u64| if stream.unit(at) < probability { 0.0 } else { scale };
    let mask: Vec<f32> = (0..x.numel() as u64).map(kept).collect();
    x.f_mul(
        &Tensor::f_from_slice(&mask)?
            .f_view(x.size().as_slice())?
            .f_to_device(x.device())?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::relu_halve;
    use tch::{Device, Kind};

    /// Logit-like numbers with many ties and zeros.
    fn lumpy(size: [i64; 4]) -> Tensor {
        let x = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, Device::Cpu)).view(size);
        ((x * 12.9898).sin() * 4.0).round().set_requires_grad(true)
    }

    fn backward(x: &Tensor, y: &Tensor) -> Tensor {
        let weights = Tensor::arange(y.numel() as i64, (Kind::Float, Device::Cpu))
            .cos()
            .view(y.size().as_slice());
        let gradients = Tensor::run_backward(&[(y * weights).sum(Kind::Float)], &[x], false, false);
        gradients[0].shallow_clone()
    }

    #[test]
    fn the_fast_pooling_equals_atens_in_values_and_gradients() {
        for size in [
            [2, 3, 4, 6],
            [3, 1, 24, 24],
            [1, 2, 5, 7],
            [2, 16, 12, 12],
            [1, 1, 2, 70],
        ] {
            let (ours, theirs) = (lumpy(size), lumpy(size));
            let (y, want) = (relu_halve(&ours).expect("fits"), theirs.relu().max_pool2d_default(2));
            assert_eq!(y, want, "{size:?}");
            assert_eq!(halve(&ours).expect("fits").relu(), want, "{size:?}");
            assert_eq!(backward(&ours, &y), backward(&theirs, &want), "{size:?}");
        }
    }

    #[test]
    fn the_fast_pooling_lets_nothing_but_numbers_pass_as_numbers() {
        for at in 0..4 {
            let mut values = [-1.0_f32, 2.0, -3.0, 1.0];
            values[at] = f32::NAN;
            let y = relu_halve(&Tensor::from_slice(&values).view([1, 1, 2, 2])).expect("fits");
            assert!(y.double_value(&[0, 0, 0, 0]).is_nan(), "position {at}");
        }
    }

    #[test]
    fn the_fast_pooling_refuses_what_it_cannot_read() {
        let x = Tensor::zeros([1, 1, 2, 2], (Kind::Double, Device::Cpu));
        let message = relu_halve(&x).expect_err("double").to_string();
        assert!(
            message.contains("expected [n, c, h, w] of Float on the CPU"),
            "{message}"
        );
    }
}
