//! The black boxes: trained once and kept, served for each job with a bill.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use crate::data_set::DataSet;
use crate::places::Places;
use crate::process::{Running, read, run_logged};

/// Seeds to train with, one after the other: at these rates a LeNet-5 now and then dies in its
/// first steps and stays at 11 %.
const ATTEMPTS: u64 = 3;

/// How a teacher is trained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    name: &'static str,
    epochs: u32,
    learning_rate: f64,
    augmentation: &'static str,
    /// Test accuracy in percent that it must reach.
    at_least: f64,
}

impl Recipe {
    /// A teacher worth distilling (the paper's: 99.29).
    pub(crate) const PUBLISHED: Self = Self {
        name: "mnist-teacher",
        epochs: 20,
        learning_rate: 0.05,
        augmentation: "jitter",
        at_least: 99.0,
    };
    /// A teacher within a minute.
    pub(crate) const SMALL: Self = Self {
        name: "mnist-small-teacher",
        epochs: 3,
        learning_rate: 0.02,
        augmentation: "jitter",
        at_least: 97.0,
    };
    /// A teacher of colour images whose network two cores can train, and distil, within minutes.
    pub(crate) const CIFAR10: Self = Self {
        name: "cifar10-teacher",
        epochs: 60,
        learning_rate: 0.02,
        augmentation: "crop-flip",
        at_least: 65.0,
    };
}

/// A trained LeNet-5.
#[derive(Clone, Debug)]
pub(crate) struct Teacher {
    /// Its safetensors file.
    pub(crate) weights: PathBuf,
    /// Test accuracy in percent after the last epoch.
    pub(crate) accuracy: f64,
}

impl Teacher {
    /// Its network, which is the student's as well.
    pub(crate) const ARCHITECTURE: &str = "lenet5";

    /// The teacher of `recipe` in `target/bench`, trained on all images of `data` unless it is there.
    ///
    /// # Errors
    /// When training fails, or does not reach the accuracy that `recipe` wants with any seed.
    pub(crate) fn trained(places: &Places, data: &DataSet, recipe: &Recipe) -> anyhow::Result<Self> {
        let file = |suffix| Ok::<_, anyhow::Error>(places.work()?.join(format!("{}.{suffix}", recipe.name)));
        let (weights, log) = (file("safetensors")?, file("log")?);
        if let Some(accuracy) = kept(&weights, &log).filter(|accuracy| *accuracy >= recipe.at_least) {
            return Ok(Self { weights, accuracy });
        }
        for seed in 0..ATTEMPTS {
            eprintln!("training a teacher with seed {seed}, with its log in {}", log.display());
            run_logged(&mut training(places, data, recipe, seed, &weights)?, &log)?;
            match kept(&weights, &log) {
                Some(accuracy) if accuracy >= recipe.at_least => return Ok(Self { weights, accuracy }),
                found => eprintln!(
                    "expected at least {} % on the test images, found {found:?}",
                    recipe.at_least
                ),
            }
        }
        bail!(
            "expected a teacher of at least {} %, found none with {ATTEMPTS} seeds",
            recipe.at_least
        )
    }
}

/// The command that trains a teacher; weights of an earlier training are gone before it runs, so
/// that a log never belongs to other weights.
fn training(places: &Places, data: &DataSet, recipe: &Recipe, seed: u64, weights: &Path) -> anyhow::Result<Command> {
    if weights.exists() {
        fs::remove_file(weights).with_context(|| format!("cannot remove {}", weights.display()))?;
    }
    let mut command = places.worker()?;
    command.args([
        "teacher",
        "train",
        "--architecture",
        Teacher::ARCHITECTURE,
        "--augmentation",
        recipe.augmentation,
        "--seed",
        &seed.to_string(),
    ]);
    command.args([
        "--epochs",
        &recipe.epochs.to_string(),
        "--learning-rate",
        &recipe.learning_rate.to_string(),
    ]);
    data.teach(&mut command);
    command.arg("--out").arg(weights);
    Ok(command)
}

/// Test accuracy in percent of the teacher that an earlier run left, when it is whole.
fn kept(weights: &Path, log: &Path) -> Option<f64> {
    let log = weights.is_file().then(|| fs::read_to_string(log).ok())??;
    last_accuracy(&log)
}

/// The last `test accuracy 99.12 %` of a training log.
fn last_accuracy(log: &str) -> Option<f64> {
    let after = log.lines().rev().find_map(|line| line.split_once("test accuracy "))?.1;
    after.split_whitespace().next()?.parse().ok()
}

/// A teacher at an address of its own. Stops when dropped; its bill is on disk before each answer.
#[derive(Debug)]
pub(crate) struct Server {
    _process: Running,
    url: String,
    /// Held open, so that the server may go on printing.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Serves `teacher` on a free port, appending to `bill`.
    ///
    /// # Errors
    /// When it does not start; then what it said is in the message.
    pub(crate) fn start(places: &Places, teacher: &Teacher, bill: &Path, log: &Path) -> anyhow::Result<Self> {
        let errors = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = places.worker()?;
        command.args(["teacher", "serve", "--name", "mnist", "--listen", "127.0.0.1:0"]);
        command.arg("--model").arg(&teacher.weights).arg("--bill").arg(bill);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut process = Running::start(&mut command)?;
        let mut stdout = process.stdout()?;
        let mut line = String::new();
        stdout
            .read_line(&mut line)
            .context("cannot read what the teacher prints")?;
        let mut server = Self {
            _process: process,
            url: String::new(),
            _stdout: stdout,
        };
        match address(&line) {
            Some(url) => server.url = url.to_owned(),
            None => bail!(
                "expected the teacher to say where it serves, found {line:?}; {}",
                read(log)?.trim_end()
            ),
        }
        Ok(server)
    }

    /// Its base address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// The address in `serving mnist (1x28x28 images, 10 classes) at http://127.0.0.1:4000`.
fn address(line: &str) -> Option<&str> {
    let url = line.strip_prefix("serving ")?.rsplit_once(" at ")?.1.trim_end();
    url.starts_with("http://").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accuracy_after_the_last_epoch_counts() {
        let log = "epoch   2  loss 0.1  test accuracy 98.71 %\nepoch  20  loss 0.0  test accuracy 99.34 %\nwrote it\n";
        assert_eq!(last_accuracy(log), Some(99.34));
        assert_eq!(last_accuracy("wrote it\n"), None);
    }

    #[test]
    fn a_teacher_without_weights_or_without_a_log_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, log) = (folder.path().join("weights"), folder.path().join("log"));
        fs::write(&log, "epoch   3  loss 0.1  test accuracy 98.71 %\n").unwrap();
        assert_eq!(kept(&weights, &log), None);
        fs::write(&weights, "weights").unwrap();
        assert_eq!(kept(&weights, &log), Some(98.71));
        fs::remove_file(&log).unwrap();
        assert_eq!(kept(&weights, &log), None);
    }

    #[test]
    fn the_address_is_read_from_what_the_server_prints() {
        let line = "serving mnist (1x28x28 images, 10 classes) at http://127.0.0.1:4000\n";
        assert_eq!(address(line), Some("http://127.0.0.1:4000"));
        assert_eq!(address("error: the address is taken\n"), None);
        assert_eq!(address(""), None);
    }
}
