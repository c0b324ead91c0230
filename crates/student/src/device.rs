//! Where a process computes: on its processor, or on a card of NVIDIA's.

use std::fmt;
use std::str::FromStr;

use nccl_rs::cuda::Cuda;
use tch::Device;

use crate::error::{StudentError, first_lines};
use crate::ffi::{cpu_capability, map_cuda};

/// What is asked for. From text: `auto`, `cpu`, `cuda`, `cuda:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// A card if there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A card, any or the one with this number.
    Cuda(Option<usize>),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let card = text.strip_prefix("cuda:").map(str::parse);
        match (text, card) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(Some(index))),
            _ => Err("expected auto, cpu, cuda or cuda:NUMBER".to_owned()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// Finds the device, and makes libtorch able to use it. To be called first in `main`: before another
/// thread is started and before any tensor exists.
///
/// This crate does not link libtorch's CUDA half; it is opened here, so that one binary serves
/// machines with and without a card. On a card everything is computed with the same bits every
/// time, in `f32` without shortcuts.
///
/// `turn`: which of several processes of this host this is, from 0. Those that do not name a card
/// take turns.
///
/// # Errors
/// [`StudentError::Device`] when a card is asked for and there is none.
pub fn open(wanted: Wanted, turn: usize) -> Result<Device, StudentError> {
    if wanted == Wanted::Cpu {
        return Ok(Device::Cpu);
    }
    let found = map_cuda().map_err(|reason| first_lines(&reason)).and_then(|()| {
        match usize::try_from(tch::Cuda::device_count()) {
            Ok(count @ 1..) => Ok(count),
            _ => Err("the driver sees no card".to_owned()),
        }
    });
    match (wanted, found) {
        (Wanted::Auto, Err(_)) => Ok(Device::Cpu),
        (_, Err(reason)) => Err(StudentError::Device {
            wanted: wanted.to_string(),
            reason,
        }),
        (Wanted::Cuda(Some(index)), Ok(count)) if index >= count => Err(StudentError::Device {
            wanted: wanted.to_string(),
            reason: format!("there are {count} cards, numbered from 0"),
        }),
        (Wanted::Cuda(Some(index)), Ok(_)) => Ok(Device::Cuda(index)),
        (_, Ok(count)) => Ok(Device::Cuda(turn % count)),
    }
}

/// The kind of device, equal where equal bits can be expected: a processor with the instructions that
/// libtorch uses on it (`cpu AVX512`), or a card with its compute capability (`cuda 9.0`).
#[must_use]
pub fn kind(device: Device) -> String {
    let Device::Cuda(index) = device else {
        return format!("cpu {}", cpu_capability());
    };
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    let found = Cuda::open()
        .map_err(drop)
        .and_then(|cuda| cuda.compute_capability(index).map_err(drop));
    match found {
        Ok([major, minor]) => format!("cuda {major}.{minor}"),
        Err(()) => "cuda".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_read() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:12"] {
            assert_eq!(text.parse::<Wanted>().expect(text).to_string(), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_processor_is_always_there_and_says_what_it_can() {
        assert_eq!(open(Wanted::Cpu, 0).expect("there is one"), Device::Cpu);
        let kind = kind(Device::Cpu);
        assert!(kind.len() > "cpu ".len(), "{kind}");
    }
}
