use super::*;
use crate::stochastic::Stochastic;

const JOB: &str = r#"
apiVersion: stillhouse.dev/v1alpha1
kind: DistillJob
metadata: { name: mnist-lenet }
spec:
  images:   { source: idx, path: train.gz, take: 2000 }
  teacher:  { protocol: open-inference, url: "http://127.0.0.1:8080", model: lenet5 }
  student:  { architecture: lenet5-half }
  pool:     [ { mixup: { lambda: { from: 0.30, to: 0.70, step: 0.04 } } } ]
  budget:   { queries: 24000, perRound: 6000 }
  training: { epochs: 40, learningRate: 0.05 }
"#;

fn error_of(from: &str, to: &str) -> JobError {
    assert!(JOB.contains(from));
    Job::parse(&JOB.replace(from, to)).expect_err("refused")
}

#[test]
fn a_job_says_what_it_says_and_the_papers_say_the_rest() {
    let job = Job::parse(JOB).expect("valid");
    assert_eq!(job.student, Student::Zoo(Architecture::Lenet5Half));
    assert_eq!(job.grid.lambdas().len(), 11);
    assert_eq!(job.spec.training.weight_decay, 5e-4);
    assert_eq!(job.spec.training.epochs, 40);
    assert_eq!(job.arms(), [Arm::Active]);
    let resend = JOB.replace("perRound: 6000", "perRound: 6000, onAmbiguous: { resend: 2 }");
    let job = Job::parse(&resend).expect("valid");
    assert_eq!(job.spec.budget.on_ambiguous, OnAmbiguous::Resend(2));
    let hold = JOB.replace("perRound: 6000", "perRound: 6000, onAmbiguous: hold");
    assert_eq!(
        Job::parse(&hold).expect("valid").spec.budget.on_ambiguous,
        OnAmbiguous::Hold
    );
}

#[test]
fn small_transfer_sets_get_the_epochs_that_the_least_number_of_steps_takes() {
    let epochs = |more: &str, samples| {
        let job = Job::parse(&JOB.replace("epochs: 40", &format!("epochs: 40{more}"))).expect("valid");
        job.spec.training.epochs_over(samples)
    };
    assert_eq!([2_000, 1].map(|samples| epochs("", samples)), [40, 40]);
    // 16 steps an epoch of 2,000 samples, 63 of 8,000, 79 of 10,000.
    let least = ", minSteps: 3000";
    assert_eq!(
        [2_000, 8_000, 10_000].map(|samples| epochs(least, samples)),
        [188, 48, 40]
    );
    assert_eq!(epochs(", minSteps: 10000000", 100), MAX_EPOCHS);
}

#[test]
fn a_step_has_two_shards_for_two_workers_and_four_for_more_unless_the_job_says_how_many() {
    let shards = |from: &str, to: &str| Job::parse(&JOB.replace(from, to)).expect("valid").spec.shards();
    let budget = "budget:   { queries: 24000, perRound: 6000 }";
    assert_eq!(shards("", ""), 2);
    assert_eq!(shards(budget, &format!("workers:  {{ max: 3 }}\n  {budget}")), 4);
    assert_eq!(shards("epochs: 40", "epochs: 40, shards: 8"), 8);
}

#[test]
fn an_unknown_key_or_value_names_the_nearest() {
    let error = error_of("epochs: 40", "epoch: 40");
    assert_eq!(error.hint().as_deref(), Some("did you mean `epochs`?"), "{error}");
    let error = error_of("lenet5-half", "lenet-half");
    assert_eq!(error.hint().as_deref(), Some("did you mean `lenet5-half`?"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn values_that_make_no_sense_are_named_with_what_was_expected() {
    for (from, to, want) in [
        (
            "step: 0.04",
            "step: 0.005",
            "spec.pool.mixup.lambda: expected from <= to",
        ),
        (
            "epochs: 40",
            "epochs: 0",
            "spec.training.epochs: expected 1 to 100000, found 0",
        ),
        (
            "epochs: 40",
            "shards: 3",
            "spec.training.shards: expected a power of two",
        ),
        ("perRound: 6000", "perRound: 0", "spec.budget.perRound: expected 1 to"),
        ("http://127", "ftp://127", "spec.teacher.url: expected an address"),
        ("model: lenet5", "model: ../x", "spec.teacher.model: expected letters"),
        ("name: mnist-lenet", "name: A", "metadata.name: expected 1 to 63"),
        (
            "architecture: lenet5-half",
            "classes: 10",
            "spec.student: expected one of",
        ),
        (
            "architecture: lenet5-half",
            "architecture: lenet5, one: { branches: 1 }",
            "spec.student.one.branches: expected 2 to 16, found 1",
        ),
        (
            "architecture: lenet5-half",
            "architecture: lenet5, one: { ramp: 1.5 }",
            "spec.student.one.ramp: expected 0 to 1, found 1.5",
        ),
        (
            "architecture: lenet5-half",
            "torchscript: net.pt, one: {}",
            "spec.student.one: expected an architecture of the zoo",
        ),
        (
            "learningRate: 0.05 }",
            "learningRate: 0.05 }\n  acquisition: { sample: 5999 }",
            "spec.acquisition.sample: expected spec.budget.perRound (6000) to 10000000, found 5999",
        ),
        (
            "learningRate: 0.05 }",
            "learningRate: 0.05 }\n  acquisition: { score: random, sample: 40000 }",
            "spec.acquisition.sample: expected a score beside it",
        ),
        (
            "learningRate: 0.05 }",
            "learningRate: 0.05 }\n  acquisition: { score: bald }",
            "spec.acquisition.score: expected spec.student.one",
        ),
    ] {
        let error = error_of(from, to).to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn a_larger_budget_is_the_same_job_and_another_student_is_not() {
    let digest = |text: &str| Job::parse(text).expect("valid").digest();
    assert_eq!(digest(JOB), digest(&JOB.replace("24000", "30000")));
    assert_eq!(digest(JOB), digest(&JOB.replace("8080", "9090")));
    assert_ne!(digest(JOB), digest(&JOB.replace("lenet5-half", "lenet5")));
    let branches = |one: &str| digest(&JOB.replace("lenet5-half", &format!("lenet5-half, one: {one}")));
    assert_ne!(branches("{}"), digest(JOB));
    assert_ne!(branches("{ branches: 4 }"), branches("{}"));
    assert_ne!(
        digest(&JOB.replace("epochs: 40", "epochs: 40, mixing: uniform")),
        digest(JOB)
    );
}

#[test]
fn sources_of_candidates_that_make_no_sense_together_are_refused() {
    let pool = "pool:     [ { mixup: { lambda: { from: 0.30, to: 0.70, step: 0.04 } } } ]";
    let refused = |to: &str| error_of(pool, to).to_string();
    let cases = [
        ("pool: []", "spec.pool: expected mixup or betaMixup, found neither"),
        ("pool: [ { cvae: {} } ]", "spec.pool: expected mixup or betaMixup"),
        (
            "pool: [ { mixup: {} }, { betaMixup: {} } ]",
            "spec.acquisition.score: expected random",
        ),
        (
            "pool: [ { mixup: {} }, { mixup: {} } ]",
            "spec.pool: expected one of mixup and betaMixup",
        ),
        (
            "pool: [ { mixup: {} }, { cvae: {} }, { cvae: {} } ]",
            "one cvae at most",
        ),
        ("pool: [ { betaMixup: {} } ]", "spec.acquisition.score: expected random"),
        (
            "pool: [ { mixup: {} }, { cvae: { images: 0 } } ]",
            "spec.pool.cvae.images: expected 1 to 1000000",
        ),
        (
            "pool: [ { mixup: {} }, { cvae: { spread: 0 } } ]",
            "spec.pool.cvae.spread",
        ),
        (
            "pool: [ { mixup: {} }, { cvae: { latent: 0 } } ]",
            "spec.pool.cvae.latent",
        ),
    ];
    for (to, want) in cases {
        let found = refused(to);
        assert!(found.contains(want), "{to}: {found}");
    }
    let random = |mixup: &str| format!("pool: [ {{ betaMixup: {mixup} }} ]\n  acquisition: {{ score: random }}");
    assert!(refused(&random("{ alpha: 0 }")).contains("spec.pool.betaMixup.alpha"));
    assert!(refused(&random("{ margin: 0.5 }")).contains("spec.pool.betaMixup.margin"));
    let control = format!("{}\n  control: random", random("{}"));
    assert!(refused(&control).contains("spec.control: expected none beside betaMixup"));
    let both = JOB.replace(pool, "pool: [ { cvae: { images: 500 } }, { mixup: {} } ]");
    let job = Job::parse(&both).expect("valid in any order");
    assert_eq!(job.cvae.expect("a generator").images, Some(500));
    assert_eq!(job.grid.lambdas().len(), 11);
}

#[test]
fn a_guard_needs_something_to_watch() {
    let budget = "budget:   { queries: 24000, perRound: 6000 }";
    let refused = |acquisition: &str| error_of(budget, &format!("acquisition: {acquisition}\n  {budget}")).to_string();
    assert!(refused("{ score: random, guard: {} }").contains("spec.acquisition.guard: expected a score"));
    assert!(refused("{ guard: { share: 0.6 } }").contains("spec.acquisition.guard.share: expected 0.01 to 0.5"));
    let job = Job::parse(&JOB.replace(budget, &format!("acquisition: {{ guard: {{}} }}\n  {budget}"))).expect("valid");
    assert_eq!(job.guard().expect("guarded").share, 0.1);
    assert!(Job::parse(JOB).expect("valid").guard().is_none());
}

#[test]
fn a_diverse_batch_needs_a_score_a_rule_and_one_shortlist() {
    let budget = "budget:   { queries: 24000, perRound: 6000 }";
    let with = |acquisition: &str| JOB.replace(budget, &format!("acquisition: {acquisition}\n  {budget}"));
    let refused = |acquisition: &str| Job::parse(&with(acquisition)).expect_err("refused").to_string();
    assert!(refused("{ score: random, diversity: { classPairs: true } }").contains("expected a score beside it"));
    assert!(refused("{ diversity: {} }").contains("expected perImage, classPairs or both, found neither"));
    assert!(refused("{ diversity: { perImage: 0.5 } }").contains("diversity.perImage: expected 1 to 1000000"));
    let both = "{ sample: 40000, diversity: { classPairs: true, shortlist: 4 } }";
    assert!(refused(both).contains("a sample is the shortlist"));
    let job = Job::parse(&with(
        "{ diversity: { perImage: 1.5, classPairs: true, shortlist: 10 } }",
    ))
    .expect("valid");
    let diversity = job.spec.acquisition.diversity.expect("written");
    assert_eq!((diversity.per_image, diversity.shortlist), (Some(1.5), Some(10)));
}

#[test]
fn chance_needs_a_score_that_it_takes_part_in() {
    let budget = "budget:   { queries: 24000, perRound: 6000 }";
    let with = |acquisition: &str| JOB.replace(budget, &format!("acquisition: {acquisition}\n  {budget}"));
    let refused = |acquisition: &str| Job::parse(&with(acquisition)).expect_err("refused").to_string();
    assert!(refused("{ score: random, stochastic: { power: 1 } }").contains("expected a score beside it"));
    assert!(refused("{ stochastic: { softmax: -1 } }").contains("power or softmax of 0 to 1000"));
    let job = Job::parse(&with("{ score: margin, stochastic: { power: 4 } }")).expect("valid");
    assert_eq!(job.spec.acquisition.stochastic, Some(Stochastic::Power(4.0)));
}
