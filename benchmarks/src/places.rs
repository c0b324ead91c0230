//! Where programs and results lie.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::table::Table;

/// The repository and its built programs.
#[derive(Debug)]
pub(crate) struct Places {
    root: PathBuf,
    programs: PathBuf,
}

impl Places {
    /// The repository that this program was built from, and the programs beside this one.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the benchmarks lie in a repository")?;
        let this = std::env::current_exe().context("cannot find this program")?;
        let programs = this.parent().context("this program lies in a folder")?;
        Ok(Self {
            root: root.to_owned(),
            programs: programs.to_owned(),
        })
    }

    /// The root of the repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `stillhouse`.
    pub(crate) fn stillhouse(&self) -> anyhow::Result<Command> {
        self.program("stillhouse")
    }

    /// `stillhouse-operator`.
    pub(crate) fn operator(&self) -> anyhow::Result<Command> {
        self.program("stillhouse-operator")
    }

    /// `stillhouse-worker`.
    pub(crate) fn worker(&self) -> anyhow::Result<Command> {
        self.program("stillhouse-worker")
    }

    /// This program, to run a part of our own way of a query in a process of its own.
    pub(crate) fn own_queue(&self, role: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(["own-queue", "--role", role]);
        Ok(command)
    }

    /// An example of a crate of ours, built before.
    pub(crate) fn example(&self, package: &str, name: &str) -> anyhow::Result<Command> {
        let path = self.programs.join("examples").join(name);
        if !path.is_file() {
            bail!(
                "expected {}, found nothing there: cargo build --release -p {package} --example {name} makes it",
                path.display()
            );
        }
        Ok(Command::new(path))
    }

    fn program(&self, name: &str) -> anyhow::Result<Command> {
        let path = self.programs.join(name);
        if !path.is_file() {
            bail!(
                "expected {name} in {}, found nothing there: make build makes it",
                self.programs.display()
            );
        }
        Ok(Command::new(path))
    }

    /// A folder for what is kept between runs but is no result: teachers, job directories, logs.
    pub(crate) fn work(&self) -> anyhow::Result<PathBuf> {
        made(self.root.join("target/bench"))
    }

    /// The folder of the results that are kept in the repository.
    pub(crate) fn results(&self) -> PathBuf {
        self.root.join("benchmarks/results")
    }

    /// The page that shows the results.
    pub(crate) fn page(&self) -> PathBuf {
        self.root.join("docs/benchmarks.md")
    }

    /// Prints `table` and keeps it, and what it was made from, as `benchmarks/results/NAME.{md,json}`.
    pub(crate) fn publish(&self, name: &str, table: &Table, data: &serde_json::Value) -> anyhow::Result<()> {
        publish_in(&self.results(), name, &table.to_string(), data)
    }
}

/// Prints `markdown` and writes it and `data` to `folder` as `NAME.md` and `NAME.json`.
pub(crate) fn publish_in(folder: &Path, name: &str, markdown: &str, data: &serde_json::Value) -> anyhow::Result<()> {
    println!("{markdown}");
    let folder = made(folder.to_owned())?;
    write(&folder.join(format!("{name}.md")), markdown)?;
    write(
        &folder.join(format!("{name}.json")),
        &(serde_json::to_string_pretty(data)? + "\n"),
    )
}

/// Writes a small file whole.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A path as YAML takes it: a JSON string.
pub(crate) fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

fn made(folder: PathBuf) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
