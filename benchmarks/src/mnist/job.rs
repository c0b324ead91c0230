//! The job file of one seed.

use crate::data_set::DataSet;

/// Sizes of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Name of the job and of its results.
    pub(crate) name: &'static str,
    /// Seed images, drawn uniformly.
    pub(crate) seed_images: u32,
    /// Candidates that each arm buys a round.
    pub(crate) per_round: u32,
    /// Rounds.
    pub(crate) rounds: u32,
    /// Test images that the teacher labels, to measure agreement.
    pub(crate) agreement: u32,
    /// Samples a step.
    batch: u32,
    /// Peak learning rate.
    learning_rate: f64,
    /// Steps over which the rate rises first.
    warm_up_steps: u32,
    /// Fewest steps of a training.
    pub(crate) min_steps: u32,
}

impl Setting {
    /// As the paper has it, trained as the reference run is; its rate wants a warm-up.
    pub(crate) const PUBLISHED: Self = Self {
        name: "mnist",
        seed_images: 2_000,
        per_round: 6_000,
        rounds: 4,
        agreement: 1_000,
        batch: 128,
        learning_rate: 0.05,
        warm_up_steps: 100,
        min_steps: 3_500,
    };

    /// Whether everything works. Of so few images, small batches make enough steps.
    pub(crate) const SMALL: Self = Self {
        name: "mnist-small",
        seed_images: 300,
        per_round: 300,
        rounds: 2,
        agreement: 200,
        batch: 16,
        learning_rate: 0.02,
        warm_up_steps: 50,
        min_steps: 0,
    };

    /// Passes over the transfer set, and the learning rate falls along a cosine: the short schedule
    /// of the reference run (the paper: 200 epochs in blocks). On the seed images alone they would
    /// make 384 steps where the paper makes 3,200, hence the least number of steps.
    pub(crate) const EPOCHS: u32 = 24;

    /// Queries of the whole job: the seed images, the slice to measure agreement on, and every
    /// round of both arms.
    pub(crate) fn queries(&self) -> u32 {
        self.seed_images + self.agreement + 2 * self.rounds * self.per_round
    }

    /// The job file of `seed` for a teacher at `url`.
    pub(crate) fn job(&self, data: &DataSet, url: &str, seed: u64) -> String {
        let Self {
            name,
            seed_images,
            per_round,
            agreement,
            batch,
            learning_rate,
            warm_up_steps,
            min_steps,
            ..
        } = self;
        let (queries, epochs) = (self.queries(), Self::EPOCHS);
        let (images, test) = (data.seed_images(*seed_images, seed), data.evaluation());
        format!(
            r#"apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: {{ name: {name}-seed-{seed} }}
spec:
  images:      {images}
  teacher:     {{ protocol: open-inference, url: "{url}", model: mnist }}
  student:     {{ architecture: lenet5 }}
  pool:        [ {{ mixup: {{ lambda: {{ from: 0.30, to: 0.70, step: 0.04 }}, pairs: all }} }} ]
  acquisition: {{ score: least-confidence }}
  control:     random
  budget:      {{ queries: {queries}, perRound: {per_round} }}
  training:
    {{ epochs: {epochs}, minSteps: {min_steps}, batch: {batch}, optimizer: sgd, learningRate: {learning_rate}, momentum: 0.9,
      weightDecay: 0.0005, schedule: cosine, warmupSteps: {warm_up_steps}, augmentation: none, restart: fresh, seed: {seed} }}
  evaluation:
    {{ {test}, agreementQueries: {agreement}, everyEpochs: 4 }}
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::job::{Control, Job, Restart, Schedule};
    use stillhouse_core::plan::Plan;

    #[test]
    fn the_job_is_valid_and_is_the_published_setting() {
        let setting = Setting::PUBLISHED;
        let text = setting.job(&DataSet::unchecked("/some \"odd\" folder"), "http://127.0.0.1:4000", 7);
        let job = Job::parse(&text).expect("valid");
        let plan = Plan::new(&job, setting.seed_images).expect("budget");
        assert_eq!((plan.pairs, plan.lambdas, plan.arms), (1_999_000, 11, 2));
        assert_eq!(plan.rounds(), [6_000; 4]);
        assert_eq!(plan.queries(), job.spec.budget.queries, "no query is left over");
        assert_eq!(job.spec.budget.queries, 2_000 + 48_000 + 1_000);
        assert_eq!((job.spec.images.seed, job.spec.training.seed), (7, 7));
        assert_eq!(job.spec.control, Control::Random);
        assert_eq!((job.spec.training.batch, job.spec.training.learning_rate), (128, 0.05));
        assert_eq!(
            [2_000, 26_000].map(|samples| job.spec.training.epochs_over(samples)),
            [219, 24]
        );
        assert_eq!(
            (job.spec.training.schedule, job.spec.training.restart),
            (Schedule::Cosine, Restart::Fresh)
        );
        assert!(job.spec.images.path.starts_with("/some \"odd\" folder"));
    }

    #[test]
    fn the_small_job_spends_its_whole_budget_too() {
        let setting = Setting::SMALL;
        let job = Job::parse(&setting.job(&DataSet::unchecked("data"), "http://127.0.0.1:4000", 0)).expect("valid");
        let plan = Plan::new(&job, setting.seed_images).expect("budget");
        assert_eq!(plan.rounds(), [300; 2]);
        assert_eq!(plan.queries(), job.spec.budget.queries);
    }
}
