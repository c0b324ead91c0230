//! Everything a job reads before it asks or computes anything.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use stillhouse_core::image::{ImageSet, ImageShape};
use stillhouse_core::job::{EvaluationSpec, is_remote};
use stillhouse_core::plan::Plan;
use stillhouse_core::pool::Pool;
use stillhouse_core::sample::Sources;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::{Job, Sample};

use crate::failure::{Failure, Kind};
use crate::reuse;
use crate::store::fetch::fetch;

/// Largest TorchScript file that is taken as a student.
const MAX_MODULE_BYTES: u64 = 1 << 30;
/// Most bytes of generated images.
const MAX_GENERATED_BYTES: usize = 1 << 30;

/// A job with its images, all read and checked.
#[derive(Debug)]
pub struct Inputs {
    /// The job.
    pub job: Job,
    /// The job file as written.
    pub text: String,
    /// What will be asked.
    pub plan: Plan,
    /// The seed images.
    pub seeds: Arc<ImageSet>,
    /// The images that were generated for the pool, from the moment they are on disk.
    pub generated: Arc<OnceLock<ImageSet>>,
    /// BLAKE3 over the seed images.
    pub seeds_digest: [u8; 32],
    /// The evaluation images.
    pub evaluation: Option<Arc<ImageSet>>,
    /// Their true classes.
    pub evaluation_labels: Option<Vec<u16>>,
    /// Which evaluation images the teacher labels.
    pub evaluation_asked: Vec<u32>,
    /// Whose labels cost nothing.
    pub reuse: Vec<PathBuf>,
    /// The TorchScript student; empty for a network of the zoo.
    pub module: Arc<[u8]>,
}

impl Inputs {
    /// Reads and checks the job file at `path` and everything it names.
    ///
    /// # Errors
    /// The first thing that is wrong. The teacher is not asked.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Kind::Usage, error)
                .context(format!("cannot read the job file {}", path.display()))
                .hint("stillhouse init writes one to start from")
        })?;
        let mut job = Job::parse(&text).map_err(|error| {
            let hint = error.hint();
            Failure::new(Kind::Usage, error)
                .context(path.display().to_string())
                .maybe_hint(hint)
        })?;
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        job.spec.teacher.resolve_paths(&base);
        Self::read(job, text, &base)
    }

    fn read(job: Job, text: String, base: &Path) -> Result<Self, Failure> {
        // The job keeps the addresses; what is read are files.
        let fetched = fetch(&job.spec)?;
        let files = &fetched.spec;
        let seeds = stillhouse_data::load_seed_images(&files.images, base);
        let seeds = seeds.map_err(|error| data_failure(error, &job.spec.images.path))?;
        let shape = seeds.images.shape();
        let plan = Plan::new(&job, seeds.images.len() as u32).map_err(|error| {
            Failure::new(Kind::Budget, error)
                .hint("raise spec.budget.queries, or set spec.images.take to a smaller number")
        })?;
        check_generated(&plan, shape)?;
        let (evaluation, evaluation_labels) = match files.evaluation.as_ref().zip(job.spec.evaluation.as_ref()) {
            Some((read, named)) => {
                let loaded = stillhouse_data::load_evaluation(read, &files.images, base);
                let loaded = loaded.map_err(|error| data_failure(error, &named.images))?;
                check_evaluation(named, &loaded.images, shape)?;
                (Some(Arc::new(loaded.images)), loaded.labels)
            }
            None => (None, None),
        };
        let available = evaluation.as_ref().map_or(0, |images| images.len() as u32);
        let stream = Stream::new(job.spec.training.seed, Purpose::Evaluation, 0);
        Ok(Self {
            reuse: reuse::resolve(&job.spec.budget.reuse, base)?,
            evaluation_asked: stream.choose(available, plan.evaluation),
            module: read_module(files.student.torchscript.as_deref(), base)?,
            seeds_digest: seeds.digest,
            seeds: Arc::new(seeds.images),
            generated: Arc::default(),
            evaluation,
            evaluation_labels,
            plan,
            text,
            job,
        })
    }

    /// Shape of every image of the job.
    #[must_use]
    pub fn shape(&self) -> ImageShape {
        self.seeds.shape()
    }

    /// The pool, with what was generated so far.
    #[must_use]
    pub fn pool(&self) -> Pool {
        let generated = self.generated.get().map_or(0, |images| images.len() as u32);
        self.job.pool(self.plan.seeds).with_generated(generated)
    }

    /// Where samples get their pixels.
    #[must_use]
    pub fn sources(&self) -> Sources<'_> {
        Sources {
            seeds: &self.seeds,
            evaluation: self.evaluation.as_deref(),
            generated: self.generated.get(),
            pool: self.pool(),
        }
    }

    /// The canonical pixels of a sample of this job.
    #[must_use]
    pub fn pixels(&self, sample: Sample) -> Vec<u8> {
        let mut pixels = vec![0; self.shape().len()];
        let known = self.sources().render_into(sample, &mut pixels);
        debug_assert!(known, "samples of a job refer to its own images");
        pixels
    }

    /// BLAKE3 over job, seed images and student file: equal digests are the same job.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("stillhouse job with inputs v1");
        hasher.update(&self.job.digest());
        hasher.update(&self.seeds_digest);
        hasher.update(blake3::hash(&self.module).as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// `named` is what the job says, where what was read may be a copy.
fn data_failure(error: stillhouse_data::DataError, named: &Path) -> Failure {
    let hint = error.hint();
    let failure = Failure::new(Kind::Data, error).maybe_hint(hint);
    if is_remote(named) {
        return failure.context(format!("{}, as it was fetched", named.display()));
    }
    failure
}

/// Generated images travel to every worker in one message.
fn check_generated(plan: &Plan, shape: ImageShape) -> Result<(), Failure> {
    let most = MAX_GENERATED_BYTES / shape.len().max(1);
    if plan.generated as usize > most {
        let found = plan.generated;
        let message = format!("spec.pool.cvae.images: expected at most {most} images of {shape}, found {found}");
        return Err(Failure::message(Kind::Usage, message).hint("set spec.pool.cvae.images"));
    }
    Ok(())
}

fn check_evaluation(spec: &EvaluationSpec, images: &ImageSet, shape: ImageShape) -> Result<(), Failure> {
    let path = spec.images.display();
    if images.shape() != shape {
        let found = images.shape();
        let message = format!("{path}: expected evaluation images of the seed images' shape {shape}, found {found}");
        return Err(Failure::message(Kind::Data, message).hint("set spec.images.size: it applies to both"));
    }
    if u64::from(spec.agreement_queries) > images.len() as u64 {
        let (asked, found) = (spec.agreement_queries, images.len());
        let message =
            format!("spec.evaluation.agreementQueries: expected at most the {found} images of {path}, found {asked}");
        return Err(Failure::message(Kind::Usage, message));
    }
    Ok(())
}

fn read_module(path: Option<&Path>, base: &Path) -> Result<Arc<[u8]>, Failure> {
    let Some(path) = path else {
        return Ok(Arc::from([]));
    };
    let path: PathBuf = base.join(path);
    let wrap = |error: std::io::Error| {
        Failure::new(Kind::Data, error).context(format!("cannot read the TorchScript student {}", path.display()))
    };
    let length = std::fs::metadata(&path).map_err(wrap)?.len();
    if length > MAX_MODULE_BYTES {
        let message = format!(
            "{}: expected at most {MAX_MODULE_BYTES} bytes, found {length}",
            path.display()
        );
        return Err(Failure::message(Kind::Data, message));
    }
    Ok(Arc::from(std::fs::read(&path).map_err(wrap)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_generated_images_than_fit_a_message_are_refused_before_anything_is_asked() {
        let plan = |generated| Plan {
            budget: 10,
            seeds: 2,
            evaluation: 0,
            arms: 1,
            per_round: 8,
            pairs: 1,
            generated,
            scored: 1,
            lambdas: 1,
        };
        let colour = ImageShape {
            channels: 3,
            height: 32,
            width: 32,
        };
        assert!(check_generated(&plan(300_000), colour).is_ok());
        let failure = check_generated(&plan(400_000), colour).expect_err("too many");
        assert!(
            failure.reason().contains("at most 349525 images of 3x32x32"),
            "{}",
            failure.reason()
        );
    }
}
