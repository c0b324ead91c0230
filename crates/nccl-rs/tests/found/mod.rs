//! Where the libraries are that the tests open, or why a test is skipped.

use std::path::{Path, PathBuf};

/// The library that the variable names, else the one that `scripts/nccl.sh` put there.
fn library(variable: &str, below_site: &str) -> Option<PathBuf> {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.nccl/site");
    let named = std::env::var_os(variable).filter(|path| !path.is_empty());
    let path = named.map_or_else(|| site.join(below_site), PathBuf::from);
    path.exists().then_some(path)
}

/// Says why a test does nothing. Whoever installed the libraries lets no test be skipped for want of them.
fn skipped<T>(reason: &str) -> Option<T> {
    println!("skipped: {reason}");
    assert!(
        std::env::var_os("STILLHOUSE_EXPECT_NCCL").is_none(),
        "skipped: {reason}"
    );
    None
}

/// NCCL's file.
pub(crate) fn nccl() -> Option<PathBuf> {
    library("STILLHOUSE_NCCL", "nvidia/nccl/lib/libnccl.so.2")
        .or_else(|| skipped("no NCCL; scripts/nccl.sh installs it, STILLHOUSE_NCCL names another"))
}

/// The CUDA runtime's file.
#[allow(dead_code, reason = "one of the test programs needs no CUDA runtime")]
pub(crate) fn cuda() -> Option<PathBuf> {
    library("STILLHOUSE_CUDART", "nvidia/cu13/lib/libcudart.so.13")
        .or_else(|| skipped("no CUDA runtime; scripts/nccl.sh installs it, STILLHOUSE_CUDART names another"))
}
