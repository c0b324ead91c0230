//! Trainings under way, kept where a restart finds them: in the job directory, a folder, or a store
//! that speaks S3.
//!
//! ```text
//! manifest.json                       what there is, newest first; written last, and whole or not at all
//! STUDENT-ATTEMPT-STEP.safetensors    a session's state: weights, running statistics, optimiser
//! ```
//!
//! A checkpoint names the training it is of by a digest of everything that went into it, and its
//! own bytes by theirs. So whatever is found there either continues this very training with the
//! same bits as if it had never stopped, or is not used. Random numbers are addressed by seed,
//! round and step, which the digest and the state hold: there is no other random state.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use stillhouse_core::job::CheckpointsSpec;
use stillhouse_core::key::hex;
use stillhouse_protocol::message::TrainCommand;
use tokio::sync::Mutex;

use crate::failure::{Failure, Kind};
use crate::store::{Place, folder_of};

/// Checkpoints kept: the newest, and one before it in case the newest is damaged.
const KEPT: usize = 2;
/// How long a training may wait for its checkpoint before it begins without.
const PATIENCE: Duration = Duration::from_secs(30);
const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;

/// What makes a training this training.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainingId {
    /// Digest of the job, hexadecimal.
    job: String,
    /// `ARM-ROUND`.
    student: String,
    /// Fresh starts before this one.
    attempt: u32,
    /// BLAKE3 of the transfer set, its labels, the evaluation's answers, the initial weights and the
    /// number of virtual shards.
    material: String,
}

impl TrainingId {
    /// Of the training that `command` begins, in `shards` virtual shards, of the job with this digest.
    #[must_use]
    pub fn of(job: &[u8; 32], shards: u32, command: &TrainCommand) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse training v1");
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(&serde_json::to_vec(&command.samples).expect("samples have only text keys"));
        let labels: Vec<u8> = command.labels.iter().flat_map(|value| value.to_le_bytes()).collect();
        part(&labels);
        part(&serde_json::to_vec(&command.teacher_classes).expect("numbers"));
        part(command.initial.as_deref().unwrap_or_default());
        part(&shards.to_le_bytes());
        Self {
            job: hex(job),
            student: command.student.to_string(),
            attempt: command.attempt,
            material: hasher.finalize().to_hex().to_string(),
        }
    }

    /// One word for all of it.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("strings and a number");
        blake3::hash(&text).to_hex().to_string()
    }
}

/// How far everything else was when a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watermark {
    /// Starts of the job.
    pub epoch: u64,
    /// Steps of the job's history in the ledger.
    pub transitions: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Checkpoint {
    training: TrainingId,
    step: u64,
    object: String,
    bytes: u64,
    blake3: String,
    ledger: Watermark,
    written_ms: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    version: u32,
    checkpoints: Vec<Checkpoint>,
}

/// Where a job's checkpoints are.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    place: Place,
    /// Held while the store is written to, so that a slow one is written to by one at a time.
    writing: Arc<Mutex<()>>,
}

impl Checkpoints {
    /// Opens what `spec` names for the job `name` with `digest`: a folder of its own there, or
    /// `checkpoints` in the job directory `dir`. `None` when no checkpoint is wanted.
    ///
    /// # Errors
    /// When the folder cannot be made or the address makes no sense. Nothing is asked of a remote store yet.
    pub fn open(
        spec: &CheckpointsSpec,
        dir: &FilePath,
        name: &str,
        digest: &[u8; 32],
    ) -> Result<Option<Self>, Failure> {
        if spec.every_seconds == 0 {
            return Ok(None);
        }
        let opened = match &spec.url {
            None => Place::local(&dir.join("checkpoints")),
            Some(url) => Place::open(url).map(|place| place.inner(&folder_of(name, digest))),
        };
        let shown = spec.url.as_deref().unwrap_or("the job directory");
        Ok(Some(Self {
            place: opened.map_err(|error| unusable(shown, error))?,
            writing: Arc::default(),
        }))
    }

    /// Keeps the state of `training` after `step` steps, unless the one before is still being written.
    /// Older ones, and whatever a crash left behind, are deleted.
    ///
    /// # Errors
    /// When the store cannot be read or written: then the older ones are as they were.
    pub async fn keep(
        &self,
        training: TrainingId,
        step: u64,
        state: Vec<u8>,
        ledger: Watermark,
    ) -> Result<(), object_store::Error> {
        let Ok(_alone) = self.writing.try_lock() else {
            return Ok(());
        };
        let mut manifest = self.manifest().await?;
        manifest.checkpoints.retain(|known| known.training == training);
        let TrainingId { student, attempt, .. } = &training;
        let checkpoint = Checkpoint {
            object: format!("{student}-{attempt}-{step}.safetensors"),
            bytes: state.len() as u64,
            blake3: blake3::hash(&state).to_hex().to_string(),
            written_ms: crate::coordinate::shell::unix_ms(),
            training,
            step,
            ledger,
        };
        self.place.put(&checkpoint.object, state).await?;
        manifest.checkpoints.retain(|known| known.object != checkpoint.object);
        manifest.checkpoints.insert(0, checkpoint);
        manifest.checkpoints.truncate(KEPT);
        self.put_manifest(&manifest).await?;
        self.sweep(&manifest).await
    }

    /// The newest state of `training` that is whole, with its step.
    ///
    /// # Errors
    /// When the store cannot be read in time.
    pub async fn newest(&self, training: &TrainingId) -> Result<Option<(u64, Vec<u8>)>, object_store::Error> {
        let late = |_| object_store::Error::Generic {
            store: "checkpoints",
            source: format!("no answer in {} s", PATIENCE.as_secs()).into(),
        };
        tokio::time::timeout(PATIENCE, self.find(training))
            .await
            .map_err(late)?
    }

    async fn find(&self, training: &TrainingId) -> Result<Option<(u64, Vec<u8>)>, object_store::Error> {
        let manifest = self.manifest().await?;
        let fitting = manifest
            .checkpoints
            .into_iter()
            .filter(|known| known.training == *training);
        for checkpoint in fitting {
            let Some(found) = self.place.get(&checkpoint.object).await? else {
                continue;
            };
            let state = found.bytes().await?;
            if blake3::hash(&state).to_hex().as_str() == checkpoint.blake3 {
                return Ok(Some((checkpoint.step, state.into())));
            }
            tracing::warn!(checkpoint.object, "a checkpoint is damaged and is not used");
        }
        Ok(None)
    }

    /// Forgets every checkpoint: the training is done.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn clear(&self) -> Result<(), object_store::Error> {
        let _alone = self.writing.lock().await;
        if self.manifest().await?.checkpoints.is_empty() {
            return Ok(());
        }
        let none = Manifest {
            version: VERSION,
            checkpoints: Vec::new(),
        };
        self.put_manifest(&none).await?;
        self.sweep(&none).await
    }

    /// The manifest; an empty one where there is none, or none of this version.
    async fn manifest(&self) -> Result<Manifest, object_store::Error> {
        let Some(found) = self.place.get(MANIFEST).await? else {
            return Ok(Manifest::default());
        };
        let bytes = found.bytes().await?;
        let read: Result<Manifest, _> = serde_json::from_slice(&bytes);
        Ok(read
            .ok()
            .filter(|manifest| manifest.version == VERSION)
            .unwrap_or_default())
    }

    async fn put_manifest(&self, manifest: &Manifest) -> Result<(), object_store::Error> {
        let manifest = Manifest {
            version: VERSION,
            checkpoints: manifest.checkpoints.clone(),
        };
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has only text keys");
        self.place.put(MANIFEST, text).await
    }

    /// Deletes states that `manifest` does not name.
    async fn sweep(&self, manifest: &Manifest) -> Result<(), object_store::Error> {
        let listed = self.place.store.list_with_delimiter(Some(&self.place.folder)).await?;
        for object in listed.objects {
            let name = object.location.filename().unwrap_or_default();
            let is_named = manifest.checkpoints.iter().any(|known| known.object == name);
            if name.ends_with(".safetensors") && !is_named {
                self.place.store.delete(&object.location).await?;
            }
        }
        Ok(())
    }
}

fn unusable(place: &str, error: anyhow::Error) -> Failure {
    Failure::new(Kind::Storage, error)
        .context(format!("cannot keep checkpoints at {place} (nothing was spent)"))
        .hint("change spec.checkpoints.url, or set spec.checkpoints.everySeconds to 0 to keep none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::plan::Arm;
    use stillhouse_protocol::Student;

    const JOB: [u8; 32] = [3; 32];
    const LEDGER: Watermark = Watermark {
        epoch: 2,
        transitions: 4,
    };

    fn training(round: u32, label: f32) -> TrainingId {
        let command = TrainCommand {
            student: Student::new(Arm::Active, round),
            attempt: 0,
            twin: None,
            identity: String::new(),
            rank: 0,
            peers: Vec::new(),
            initial: None,
            resume: None,
            samples: vec![stillhouse_core::Sample::Seed(1)],
            labels: vec![label, 1.0 - label],
            teacher_classes: Vec::new(),
        };
        TrainingId::of(&JOB, 4, &command)
    }

    fn open(dir: &FilePath) -> Checkpoints {
        let spec = CheckpointsSpec::default();
        Checkpoints::open(&spec, dir, "job", &JOB).unwrap().expect("wanted")
    }

    fn states(dir: &FilePath) -> Vec<String> {
        let files = std::fs::read_dir(dir.join("checkpoints")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != MANIFEST).collect();
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn the_newest_state_of_this_very_training_is_found_again_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (training(1, 0.25), training(1, 0.5));
        assert_ne!(ours, other, "other labels make another training");
        assert_ne!(ours.digest(), other.digest());
        let kept = open(dir.path());
        assert_eq!(kept.newest(&ours).await.unwrap(), None);
        for step in [10, 20, 30] {
            kept.keep(ours.clone(), step, vec![step as u8; 9], LEDGER)
                .await
                .unwrap();
        }
        assert_eq!(
            states(dir.path()),
            ["active-001-0-20.safetensors", "active-001-0-30.safetensors"]
        );
        let again = open(dir.path());
        assert_eq!(again.newest(&ours).await.unwrap(), Some((30, vec![30; 9])));
        assert_eq!(again.newest(&other).await.unwrap(), None);
        again.keep(training(2, 0.25), 5, vec![1], LEDGER).await.unwrap();
        assert_eq!(
            states(dir.path()),
            ["active-002-0-5.safetensors"],
            "of one training at a time"
        );
        again.clear().await.unwrap();
        assert_eq!(states(dir.path()), [""; 0]);
        assert_eq!(again.newest(&training(2, 0.25)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_damaged_state_gives_way_to_the_one_before_and_a_damaged_manifest_to_none() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, kept) = (training(1, 0.25), open(dir.path()));
        for step in [10, 20] {
            kept.keep(ours.clone(), step, vec![step as u8; 9], LEDGER)
                .await
                .unwrap();
        }
        let file = |name: &str| dir.path().join("checkpoints").join(name);
        std::fs::write(file("active-001-0-20.safetensors"), [20; 8]).unwrap();
        assert_eq!(kept.newest(&ours).await.unwrap(), Some((10, vec![10; 9])));
        std::fs::remove_file(file("active-001-0-20.safetensors")).unwrap();
        assert_eq!(kept.newest(&ours).await.unwrap(), Some((10, vec![10; 9])));
        std::fs::write(file(MANIFEST), b"{ \"version\": 1, \"check").unwrap();
        assert_eq!(kept.newest(&ours).await.unwrap(), None);
        // What no manifest names is swept away by the next.
        kept.keep(ours.clone(), 40, vec![4], LEDGER).await.unwrap();
        assert_eq!(states(dir.path()), ["active-001-0-40.safetensors"]);
    }

    #[test]
    fn places_that_make_no_sense_are_refused_and_none_may_be_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let open = |every_seconds, url: &str| {
            let url = Some(url.to_owned());
            Checkpoints::open(&CheckpointsSpec { every_seconds, url }, dir.path(), "job", &JOB)
        };
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let file = format!("file://{}", dir.path().join("file").display());
        let message = format!("{}", open(30, &file).expect_err("a file is no folder"));
        assert!(message.contains("cannot keep checkpoints at"), "{message}");
        assert!(open(0, &file).unwrap().is_none());
        let folder = format!("file://{}", dir.path().join("elsewhere").display());
        assert!(open(30, &folder).unwrap().is_some());
        assert!(
            open(30, "s3://bucket/prefix").unwrap().is_some(),
            "nothing is asked of it yet"
        );
    }
}
