//! What the driver says of the card that a worker computes on, for its metrics.

use nccl_rs::cuda::Cuda;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tch::Device;

/// The driver's library, under the name that it has wherever a driver is.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// A card, looked at through the driver's own library.
pub(crate) struct Card {
    nvml: Nvml,
    /// Its place on the bus: the driver and CUDA number cards differently.
    bus: String,
}

impl Card {
    /// The card of `device`; none on a processor, and where the driver's library cannot be used: then the worker computes
    /// all the same, and nothing is told of its card.
    pub(crate) fn of(device: Device) -> Option<Self> {
        let Device::Cuda(index) = device else { return None };
        let bus = Cuda::open().ok()?.bus_id(i32::try_from(index).ok()?).ok()?;
        match Nvml::builder().lib_path(LIBRARY.as_ref()).init() {
            Ok(nvml) => Some(Self { nvml, bus }),
            Err(error) => {
                tracing::info!(%error, "nothing is known of use and memory of the card");
                None
            }
        }
    }

    /// Puts use and memory as they are now into the metrics.
    pub(crate) fn measure(&self) {
        if let Err(error) = self.try_measure() {
            tracing::debug!(%error, card = self.bus, "the card was not looked at");
        }
    }

    fn try_measure(&self) -> Result<(), NvmlError> {
        let card = self.nvml.device_by_pci_bus_id(self.bus.as_str())?;
        let (memory, busy) = (card.memory_info()?, card.utilization_rates()?.gpu);
        let (metrics, of) = (stillhouse_metrics::worker(), [self.bus.as_str()]);
        metrics.card_memory.with_label_values(&of).set(memory.total as f64);
        metrics.card_memory_used.with_label_values(&of).set(memory.used as f64);
        metrics.card_busy.with_label_values(&of).set(f64::from(busy) / 100.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_no_card_to_tell_of() {
        assert!(Card::of(Device::Cpu).is_none());
    }

    /// On a machine with a card; see `docs/gpu.md`.
    #[test]
    #[ignore = "needs a card"]
    fn a_card_tells_how_much_of_its_memory_is_used() {
        let card = Card::of(Device::Cuda(0)).expect("a card and its driver");
        card.try_measure().expect("measured");
        let (metrics, of) = (stillhouse_metrics::worker(), [card.bus.as_str()]);
        let (whole, used) = (
            metrics.card_memory.with_label_values(&of),
            metrics.card_memory_used.with_label_values(&of),
        );
        assert!(
            0.0 < used.get() && used.get() < whole.get(),
            "{} of {}",
            used.get(),
            whole.get()
        );
    }
}
