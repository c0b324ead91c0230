//! What a job file says, field by field, with the defaults of the papers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::places::{CheckpointsSpec, ResultsSpec};
use super::pool::{PoolSource, default_pool};
use super::preset::Preset;
use super::queue::QueueSpec;
use super::teacher::TeacherSpec;
use super::training::TrainingSpec;
use crate::diversity::Diversity;
use crate::score::Acquisition;
use crate::stochastic::Stochastic;

/// A whole job file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    /// `stillhouse.dev/v1alpha1`.
    pub api_version: String,
    /// `DistillJob`.
    pub kind: String,
    /// Name of the job.
    pub metadata: Metadata,
    /// What to do.
    pub spec: Spec,
}

/// Name of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Lower-case letters, digits and `-`, at most 63.
    pub name: String,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// A whole strategy: what the file says beside it replaces parts of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The unlabelled seed images.
    pub images: ImagesSpec,
    /// The black box.
    pub teacher: TeacherSpec,
    /// The network to train.
    pub student: StudentSpec,
    /// Where candidates come from.
    #[serde(default = "default_pool")]
    pub pool: Vec<PoolSource>,
    /// How candidates are chosen.
    #[serde(default)]
    pub acquisition: AcquisitionSpec,
    /// What may be spent.
    pub budget: BudgetSpec,
    /// The Redis server through which references reach gateways; memory when absent.
    #[serde(default)]
    pub queue: Option<QueueSpec>,
    /// A control arm at equal queries.
    #[serde(default)]
    pub control: Control,
    /// How students are trained.
    #[serde(default)]
    pub training: TrainingSpec,
    /// When to stop before the budget is spent.
    #[serde(default)]
    pub stopping: Option<StoppingSpec>,
    /// Who computes.
    #[serde(default)]
    pub workers: WorkersSpec,
    /// Where a training under way is kept.
    #[serde(default, skip_serializing_if = "CheckpointsSpec::is_default")]
    pub checkpoints: CheckpointsSpec,
    /// Where a finished job's results are copied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<ResultsSpec>,
    /// What accuracy and agreement are measured on.
    #[serde(default)]
    pub evaluation: Option<EvaluationSpec>,
    /// Settings of a cluster, which the operator checks; one machine ignores them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<serde_json::Value>,
}

impl Spec {
    /// Virtual shards of a training step: `training.shards`, or what the workers that a job is for can
    /// share: 2 for at most two of them, else 4. Fewer shards are larger and so faster to compute. It
    /// depends on nothing but the job, as the student's bits depend on it.
    #[must_use]
    pub fn shards(&self) -> u32 {
        let default = if self.workers.max <= 2 { 2 } else { 4 };
        self.training.shards.unwrap_or(default)
    }
}

/// The seed images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagesSpec {
    /// Format of `path`.
    pub source: ImageFormat,
    /// A file or folder, relative to the job file, or `s3://BUCKET/KEY`.
    pub path: PathBuf,
    /// How many images to draw uniformly; all when absent.
    #[serde(default)]
    pub take: Option<u32>,
    /// Seed of that draw.
    #[serde(default)]
    pub seed: u64,
    /// Resizes every image; without it all images must have one size.
    #[serde(default)]
    pub size: Option<Size>,
}

/// Rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// How images are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// IDX of `u8`, optionally gzipped (MNIST's format).
    Idx,
    /// CIFAR-10 binary: records of 1 label byte and 3,072 pixels; a file or a folder of `*.bin`.
    CifarBinary,
    /// A folder tree of PNG and JPEG files.
    Folder,
    /// A tar, optionally gzipped, of PNG and JPEG files.
    Tar,
}

/// The student: one of the zoo or a TorchScript file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StudentSpec {
    /// A network of the zoo.
    #[serde(default)]
    pub architecture: Option<Architecture>,
    /// A TorchScript file, relative to the job file, or `s3://BUCKET/KEY`, with its initial weights.
    #[serde(default)]
    pub torchscript: Option<PathBuf>,
    /// Number of classes; the teacher's when absent.
    #[serde(default)]
    pub classes: Option<u32>,
    /// Trains several branches over shared layers, which learn from their ensemble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one: Option<OneSpec>,
}

/// A multi-branch student: ONE (arXiv 1806.04606).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OneSpec {
    /// Branches, each with the last stage of the architecture for itself.
    pub branches: u32,
    /// Temperature at which branches follow the ensemble.
    pub temperature: f64,
    /// Part of the epochs over which the weight of following rises to 1.
    pub ramp: f64,
    /// What the student is in the end.
    pub deploy: OneDeploy,
}

/// Most branches of a student.
pub const MAX_BRANCHES: usize = 16;

impl Default for OneSpec {
    /// The paper's: three branches, temperature 3, a ramp of 80 of 300 epochs, one branch deployed.
    fn default() -> Self {
        Self {
            branches: 3,
            temperature: 3.0,
            ramp: 80.0 / 300.0,
            deploy: OneDeploy::Branch,
        }
    }
}

/// What a multi-branch student is in the end: what is measured, scored with and exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OneDeploy {
    /// The first branch: a plain network of the architecture.
    Branch,
    /// All branches and the gate.
    Ensemble,
}

/// Networks of the zoo, as ALGORITHMS of the papers give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// LeNet-5 as FS-BBT gives it: 82.8K parameters at 28x28.
    Lenet5,
    /// LeNet-5 with 3 and 8 channels: 46.4K parameters.
    Lenet5Half,
    /// AlexNet for CIFAR: 1.66M parameters.
    Alexnet,
    /// AlexNet with all widths halved: 417K parameters.
    AlexnetHalf,
    /// ResNet-20 for CIFAR.
    Resnet20,
    /// ResNet-32 for CIFAR.
    Resnet32,
    /// VGG-16 with batch normalisation for CIFAR: 14.73M parameters.
    Vgg16Bn,
}

impl Architecture {
    /// Every network of the zoo.
    pub const ALL: [Self; 7] = [
        Self::Lenet5,
        Self::Lenet5Half,
        Self::Alexnet,
        Self::AlexnetHalf,
        Self::Resnet20,
        Self::Resnet32,
        Self::Vgg16Bn,
    ];

    /// Its name in a job file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lenet5 => "lenet5",
            Self::Lenet5Half => "lenet5-half",
            Self::Alexnet => "alexnet",
            Self::AlexnetHalf => "alexnet-half",
            Self::Resnet20 => "resnet20",
            Self::Resnet32 => "resnet32",
            Self::Vgg16Bn => "vgg16-bn",
        }
    }
}

/// How candidates are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcquisitionSpec {
    /// The score.
    #[serde(default = "default_acquisition")]
    pub score: Acquisition,
    /// How the pool is scanned; the query batch is the same.
    #[serde(default)]
    pub scan: Scan,
    /// Pairs that are scored a round, drawn anew from those that were not asked; the whole pool when
    /// absent. The best of a sample are less alike than the best of everything, and cost less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    /// Lets chance take part in the choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stochastic: Option<Stochastic>,
    /// Keeps a batch from being of one kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<Diversity>,
    /// Watches whether the choice pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardSpec>,
}

impl Default for AcquisitionSpec {
    fn default() -> Self {
        Self {
            score: default_acquisition(),
            scan: Scan::default(),
            sample: None,
            stochastic: None,
            diversity: None,
            guard: None,
        }
    }
}

/// Watches whether the choice pays: see [`crate::guard`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GuardSpec {
    /// Part of each batch that is drawn at random.
    pub share: f64,
    /// Whether later batches shift towards what works.
    pub shift: bool,
}

impl Default for GuardSpec {
    /// A tenth of a batch tells; nothing is shifted.
    fn default() -> Self {
        Self {
            share: 0.1,
            shift: false,
        }
    }
}

/// How the pool is scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scan {
    /// Fast approximate scan, then an exact rescore of a guard band around the cut.
    #[default]
    Guarded,
    /// Every candidate on its exact bytes.
    Exact,
}

/// What may be spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetSpec {
    /// Queries that may be billed in all: seed images, evaluation slice, every arm's candidates.
    pub queries: u64,
    /// Candidates an arm buys each round.
    pub per_round: u64,
    /// What happens to a query whose fate is unknown.
    #[serde(default)]
    pub on_ambiguous: OnAmbiguous,
    /// Labels that cost nothing: job directories, folders of them, or exported files, relative to
    /// the job file; may have wildcards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reuse: Vec<PathBuf>,
}

/// What happens to a query that may or may not have been billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum OnAmbiguous {
    /// It counts as billed and is never sent again.
    #[default]
    Hold,
    /// It counts as billed and is sent again, up to so many times, each on a new permit.
    Resend(u32),
    /// It counts as billed and is sent again on the same permit, up to so many times, with the same
    /// `Idempotency-Key`: for teachers that promise to bill a key once.
    #[serde(rename = "idempotency-key")]
    IdempotencyKey(u32),
}

/// A second student at equal queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// No control.
    #[default]
    None,
    /// Random pairs at random weights.
    Random,
}

/// When to stop early.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoppingSpec {
    /// Agreement, in percentage points, that `rounds` rounds must gain together.
    #[serde(default = "default_gain")]
    pub agreement_gain: f64,
    /// Rounds to look back.
    #[serde(default = "default_stopping_rounds")]
    pub rounds: u32,
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkersSpec {
    /// Workers that must be there before the job begins; it goes on with fewer.
    pub min: u32,
    /// Workers used; more are spares.
    pub max: u32,
    /// Where they compute.
    pub device: Device,
    /// How ranks add their gradients.
    pub collective: CollectiveKind,
}

impl Default for WorkersSpec {
    fn default() -> Self {
        Self {
            min: 1,
            max: 2,
            device: Device::Auto,
            collective: CollectiveKind::Auto,
        }
    }
}

/// Where a worker computes. A worker that was told by its own command line does that instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// On a card if there is one, else on the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A card of NVIDIA's: a worker without one is of no use.
    Cuda,
}

/// What carries gradients between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectiveKind {
    /// NCCL where every rank has a card of its own and the library, else the ring.
    #[default]
    Auto,
    /// NCCL, or the training fails.
    Nccl,
    /// The TCP ring, through the hosts' memory.
    Ring,
}

/// What accuracy and agreement are measured on: never trained on, never used to choose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvaluationSpec {
    /// Images, in the format of the seed images.
    pub images: PathBuf,
    /// True labels as IDX; without them (and without labels in the format) there is no accuracy.
    #[serde(default)]
    pub labels: Option<PathBuf>,
    /// How many of them the teacher labels, to measure agreement. These are queries: they are
    /// billed and count against the budget.
    #[serde(default)]
    pub agreement_queries: u32,
    /// Accuracy is measured every so many epochs and after the last, for the best epoch.
    #[serde(default = "default_every_epochs")]
    pub every_epochs: u32,
}

fn default_acquisition() -> Acquisition {
    Acquisition::LeastConfidence
}

fn default_gain() -> f64 {
    0.2
}

fn default_stopping_rounds() -> u32 {
    2
}

fn default_every_epochs() -> u32 {
    5
}
