//! Puts the peers where they can be run: each into a folder of its own in `target/bench/queue-peers`, from the pinned
//! versions beside its program in `benchmarks/queue-peers`. What is there already is not installed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::places::{Places, write};
use crate::process::{read, run};

/// Which pinned versions a finished installation has.
const STAMP: &str = "installed";

/// The kinds of program there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A script for Node.js, with packages of npm.
    Node,
    /// A script for Python, with packages of PyPI.
    Python,
    /// A Rust package outside the workspace.
    Rust,
}

impl Kind {
    /// Its folder below `benchmarks/queue-peers`, and the file that pins all versions.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Node => ("bullmq", "package-lock.json"),
            Self::Python => ("python", "requirements.txt"),
            Self::Rust => ("apalis", "Cargo.lock"),
        }
    }
}

/// A kind of peer that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    kind: Kind,
    source: PathBuf,
    folder: PathBuf,
}

impl Installed {
    /// Installs what `kind` needs, unless these versions are there.
    ///
    /// # Errors
    /// When its tools are missing or its registry does not answer: then these peers cannot be run here.
    pub(crate) fn get(places: &Places, kind: Kind) -> anyhow::Result<Self> {
        let (name, pinned) = kind.names();
        let installed = Self {
            kind,
            source: places.root().join("benchmarks/queue-peers").join(name),
            folder: places.work()?.join("queue-peers").join(name),
        };
        let versions = read(&installed.source.join(pinned))?;
        let stamp = installed.folder.join(STAMP);
        if !fs::read_to_string(&stamp).is_ok_and(|found| found == versions) {
            eprintln!("installing {name} into {}", installed.folder.display());
            fs::create_dir_all(&installed.folder).context("no folder for the peers")?;
            installed.install()?;
            write(&stamp, &versions)?;
        }
        Ok(installed)
    }

    fn install(&self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Node => {
                // Node.js looks for packages above the script, so the script is copied to them.
                for name in ["package.json", "package-lock.json"] {
                    self.copy(name)?;
                }
                let mut npm = Command::new("npm");
                npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
                run(npm.current_dir(&self.folder)).map(drop)
            }
            Kind::Python => {
                run(Command::new("python3").args(["-m", "venv"]).arg(&self.folder))?;
                let mut pip = Command::new(self.python());
                pip.args(["-m", "pip", "install", "--quiet", "-r"]);
                run(pip.arg(self.source.join("requirements.txt"))).map(drop)
            }
            Kind::Rust => {
                let mut cargo = Command::new("cargo");
                cargo.args(["build", "--release", "--locked", "--manifest-path"]);
                cargo.arg(self.source.join("Cargo.toml"));
                run(cargo.arg("--target-dir").arg(&self.folder)).map(drop)
            }
        }
    }

    /// Runs `program`: the name of a script or of a built program.
    pub(crate) fn command(&self, program: &str) -> anyhow::Result<Command> {
        match self.kind {
            Kind::Node => {
                self.copy(program)?;
                let mut node = Command::new("node");
                node.arg(self.folder.join(program));
                Ok(node)
            }
            Kind::Python => {
                let mut python = Command::new(self.python());
                // The workers that a script starts find its modules in the current folder.
                python.arg(program).current_dir(&self.source);
                Ok(python)
            }
            Kind::Rust => Ok(Command::new(self.folder.join("release").join(program))),
        }
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    fn copy(&self, name: &str) -> anyhow::Result<()> {
        let to: &Path = &self.folder.join(name);
        fs::copy(self.source.join(name), to).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(())
    }
}
