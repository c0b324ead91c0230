//! What the figures were measured on.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine, in the kernel's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// Model name of the processor.
    pub(crate) processor: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
    /// The vector extensions that matter here, of those the processor has.
    pub(crate) extensions: Vec<String>,
    /// Memory in GiB, rounded.
    pub(crate) memory_gib: u64,
    /// Kernel release.
    pub(crate) kernel: String,
}

const EXTENSIONS: [&str; 5] = ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd"];

impl Machine {
    /// This machine.
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Self::from_texts(&read("/proc/cpuinfo"), &read("/proc/meminfo"), kernel)
    }

    fn from_texts(cpuinfo: &str, meminfo: &str, kernel: String) -> Self {
        let after = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = after(cpuinfo, "flags")
            .or_else(|| after(cpuinfo, "Features"))
            .unwrap_or_default();
        let has = |name: &&str| flags.split_whitespace().any(|flag| flag == *name);
        let kib = after(meminfo, "MemTotal").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            processor: after(cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            extensions: EXTENSIONS
                .iter()
                .filter(|name| has(name))
                .map(|name| (*name).to_owned())
                .collect(),
            memory_gib: (kib.unwrap_or(0) + (1 << 19)) >> 20,
            kernel,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self {
            processor,
            cores,
            memory_gib,
            kernel,
            ..
        } = self;
        let extensions = self.extensions.join(", ");
        format!("Machine: {processor}, {cores} cores ({extensions}), {memory_gib} GiB, Linux {kernel}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_the_kernels_files() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Example CPU\nflags\t\t: fpu avx avx2 avx512f\n";
        let machine = Machine::from_texts(cpuinfo, "MemTotal:       16000000 kB\n", "6.1".to_owned());
        assert_eq!(machine.processor, "Example CPU");
        assert_eq!(machine.extensions, ["avx2", "avx512f"]);
        assert_eq!(machine.memory_gib, 15);
        assert!(machine.line().starts_with("Machine: Example CPU, "));
        assert_eq!(Machine::from_texts("", "", String::new()).processor, "unknown");
    }
}
