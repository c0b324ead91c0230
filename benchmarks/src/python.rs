//! The PyTorch peers in `benchmarks/python`, run with the libtorch that the programs link.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::places::Places;

/// `python3 benchmarks/python/SCRIPT`, with an environment in which `import torch` works.
///
/// # Errors
/// When PyTorch is not installed; the message says how to.
pub(crate) fn peer(places: &Places, script: &str) -> anyhow::Result<Command> {
    let needs = places.root().join(".libtorch/python");
    ensure!(
        needs.join(".complete").is_file(),
        "PyTorch's Python module is not installed: make python-torch does it"
    );
    let modules = env::join_paths([torch_site(places)?, needs.clone()])?;
    let mut command = Command::new("python3");
    command
        .arg(places.root().join("benchmarks/python").join(script))
        .env("PYTHONPATH", modules)
        .env("LD_LIBRARY_PATH", libraries(&needs)?);
    Ok(command)
}

/// The folder that holds the package `torch`: libtorch's own when LIBTORCH names one.
fn torch_site(places: &Places) -> anyhow::Result<PathBuf> {
    let named = env::var_os("LIBTORCH")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let torch = named.unwrap_or_else(|| places.root().join(".libtorch/torch"));
    let real = torch
        .canonicalize()
        .with_context(|| format!("expected libtorch at {}", torch.display()))?;
    Ok(real.parent().unwrap_or(Path::new("/")).to_owned())
}

/// `nvidia/*/lib` under `needs`, then what LD_LIBRARY_PATH says already. The wheel's Python module
/// links the whole CUDA stack, even when only the processor is used.
fn libraries(needs: &Path) -> anyhow::Result<OsString> {
    let nvidia = needs.join("nvidia");
    let packages = fs::read_dir(&nvidia).with_context(|| format!("cannot read {}", nvidia.display()))?;
    let mut folders = Vec::new();
    for package in packages {
        folders.push(package?.path().join("lib"));
    }
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    let known = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(env::split_paths(&known).filter(|folder| !folder.as_os_str().is_empty()));
    Ok(env::join_paths(folders)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_folders_of_every_package_are_listed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["nvidia/cudnn/lib", "nvidia/nccl/lib", "nvidia/headers/include"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let found: Vec<PathBuf> = env::split_paths(&libraries(folder.path()).unwrap()).take(2).collect();
        assert_eq!(
            found,
            ["nvidia/cudnn/lib", "nvidia/nccl/lib"].map(|path| folder.path().join(path))
        );
    }
}
