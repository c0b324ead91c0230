//! Whole strategies under a name: what a job file leaves out, a preset fills in.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A published method, or the one that does best in our measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Active Mixup (arXiv 2003.13960): every pair at eleven weights, the least confident are asked.
    ActiveMixup,
    /// FS-BBT (arXiv 2207.12106): random mixes and images of a conditional VAE, chosen by no score.
    FsBbt,
    /// ONE (arXiv 1806.04606): branches that learn from their ensemble, trained as the paper does.
    One,
    /// Branches whose disagreement chooses among a sample of the pool, under the strong recipe; of a TorchScript
    /// student, which has no branches, the least confident of a sample.
    Auto,
}

/// Candidates that `auto` scores a round.
const SAMPLE: u32 = 40_000;

impl Preset {
    /// What it says of a job whose student is, or is not, of the zoo: parts of `spec`.
    #[must_use]
    pub fn defaults(self, is_of_zoo: bool) -> Value {
        match (self, is_of_zoo) {
            (Self::ActiveMixup, _) => json!({
                "pool": [{ "mixup": {} }],
                "acquisition": { "score": "least-confidence" },
                "training": { "recipe": "active-mixup" },
            }),
            (Self::FsBbt, _) => json!({
                "pool": [{ "betaMixup": {} }, { "cvae": {} }],
                "acquisition": { "score": "random" },
                "training": { "recipe": "fs-bbt" },
            }),
            (Self::One, _) => json!({ "student": { "one": {} }, "training": { "recipe": "one" } }),
            (Self::Auto, true) => json!({
                "student": { "one": {} },
                "acquisition": { "score": "bald", "sample": SAMPLE, "guard": { "shift": true } },
                "training": { "recipe": "strong" },
            }),
            (Self::Auto, false) => json!({
                "acquisition": { "score": "least-confidence", "sample": SAMPLE, "guard": { "shift": true } },
                "training": { "recipe": "strong" },
            }),
        }
    }
}

/// A job file as plain values, with what its preset says where it says nothing itself. Lists are taken whole.
pub(super) fn filled_in(mut file: Value, preset: Preset) -> Value {
    let spec = file.get_mut("spec").and_then(Value::as_object_mut);
    if let Some(spec) = spec {
        let is_of_zoo = spec
            .get("student")
            .is_none_or(|student| student.get("torchscript").is_none());
        if let Value::Object(defaults) = preset.defaults(is_of_zoo) {
            fill_in(spec, defaults);
        }
    }
    file
}

fn fill_in(written: &mut Map<String, Value>, defaults: Map<String, Value>) {
    for (name, default) in defaults {
        match (written.get_mut(&name), default) {
            (Some(Value::Object(written)), Value::Object(defaults)) => fill_in(written, defaults),
            (Some(Value::Null) | None, default) => drop(written.insert(name, default)),
            (Some(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Augmentation, Job, Mixing, Optimizer, PoolSource, Recipe};
    use crate::Acquisition;

    fn job(more: &str) -> Job {
        let text = format!(
            r#"
apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: preset }}
spec:
  images:   {{ source: idx, path: train.gz, take: 2000 }}
  teacher:  {{ protocol: open-inference, url: "http://127.0.0.1:8080", model: lenet5 }}
  budget:   {{ queries: 26000, perRound: 24000 }}
  {more}
"#
        );
        Job::parse(&text).expect("valid")
    }

    #[test]
    fn fs_bbt_is_beta_mixup_a_generator_and_its_own_training() {
        let job = job("student: { architecture: lenet5-half }\n  preset: fs-bbt");
        let mixup = job.one_shot.expect("one-shot mixup");
        assert_eq!((mixup.alpha, mixup.margin), (1.0, 5));
        assert_eq!(job.cvae.expect("a generator").latent, 2);
        assert_eq!(job.spec.training, Recipe::FsBbt.training());
        assert_eq!(job.spec.training.mixing, Mixing::Uniform);
        let plan = crate::plan::Plan::new(&job, 2_000).expect("the budget is enough");
        assert_eq!((plan.rounds(), plan.queries()), (vec![24_000], 26_000));
        assert!((2_400..2_900).contains(&plan.generated), "{}", plan.generated);
    }

    #[test]
    fn whatever_is_written_replaces_what_the_preset_says() {
        let job = job(
            "student: { architecture: lenet5 }\n  preset: fs-bbt\n  training: { epochs: 7 }\n  pool: [ { betaMixup: { alpha: 0.5 } } ]",
        );
        assert_eq!(job.spec.training.epochs, 7);
        assert_eq!(job.spec.training.optimizer, Optimizer::Adam);
        assert_eq!(job.spec.training.augmentation, Augmentation::Jitter);
        assert_eq!(job.spec.pool.len(), 1);
        assert!(job.cvae.is_none());
        assert_eq!(job.one_shot.expect("one-shot mixup").alpha, 0.5);
    }

    #[test]
    fn auto_takes_branches_where_there_can_be_any() {
        let job = |student| {
            job(&format!(
                "student: {{ {student} }}\n  preset: auto\n  # chosen by measurement"
            ))
        };
        let zoo = job("architecture: lenet5");
        assert_eq!(zoo.spec.acquisition.score, Acquisition::Bald);
        assert!(zoo.guard().expect("guarded").shifts);
        assert_eq!(zoo.spec.student.one.expect("branches").branches, 3);
        let script = job("torchscript: student.pt");
        assert_eq!(script.spec.acquisition.score, Acquisition::LeastConfidence);
        assert!(script.spec.student.one.is_none());
        assert!(matches!(script.spec.pool[..], [PoolSource::Mixup(_)]));
        assert_eq!(script.spec.training, Recipe::Strong.training());
    }

    #[test]
    fn a_job_with_a_preset_reads_back_as_it_was_meant() {
        let job = job("student: { architecture: lenet5 }\n  preset: one\n  training: { seed: 3 }");
        let text = serde_json::to_string(&job).expect("plain data");
        assert_eq!(serde_json::from_str::<Job>(&text).expect("reads back"), job);
        assert_eq!(job.spec.training.seed, 3);
        assert_eq!(job.spec.training.augmentation, Augmentation::CropFlip);
    }
}
