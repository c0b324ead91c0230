//! Turns what a job has durably done into its summary.

use std::collections::HashMap;

use stillhouse_core::key::{Fingerprint, hex};
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::Candidate;
use stillhouse_core::selection::batch_digest;
use stillhouse_core::{Sample, SoftLabel};
use stillhouse_ledger::Counts;
use stillhouse_protocol::history::ScanRecord;
use stillhouse_protocol::{History, Selection, Student, TrainOutcome};

use crate::inputs::Inputs;
use crate::report::burn::Burn;
use crate::report::summary::{
    Accuracy, ArmSummary, Billed, BudgetSummary, ComparisonSummary, EvaluationSummary, GuardSummary, HARDEST, Hardest,
    JobSummary, PoolSummary, RoundSummary, State, StudentSummary, Summary, TeacherSummary, Timestamp, Timings, VERSION,
};

/// What a summary is made of.
#[derive(Debug)]
pub struct Record<'a> {
    /// The job.
    pub inputs: &'a Inputs,
    /// What was done.
    pub history: &'a History,
    /// What was spent.
    pub counts: &'a Counts,
    /// Who was asked.
    pub fingerprint: Fingerprint,
    /// Number of classes.
    pub classes: u32,
    /// Labels of the candidates that [`hardest_samples`] names.
    pub labels: &'a HashMap<Sample, SoftLabel>,
    /// What was billed when.
    pub burn: &'a Burn,
    /// First start of the job, in Unix milliseconds.
    pub started_ms: u64,
    /// Now, in Unix milliseconds.
    pub now_ms: u64,
    /// Whether it still runs.
    pub state: State,
}

/// The candidates whose labels a summary shows.
#[must_use]
pub fn hardest_samples(history: &History, arms: &[Arm]) -> Vec<Sample> {
    let rounds = |arm: Arm| (1..).map_while(move |round| history.selection(Student::new(arm, round)));
    let hardest = |selection: &Selection| {
        selection
            .batch
            .iter()
            .take(HARDEST)
            .copied()
            .map(Sample::Mix)
            .collect::<Vec<_>>()
    };
    arms.iter().flat_map(|arm| rounds(*arm)).flat_map(hardest).collect()
}

/// What was spent, at `price` a query; not when.
#[must_use]
pub fn budget(counts: &Counts, price: Option<f64>) -> BudgetSummary {
    let billed = &counts.by_category;
    let [real, evaluation] = [billed.seed, billed.evaluation];
    let synthetic = billed.synthetic_active + billed.synthetic_control;
    let total = real + synthetic + evaluation;
    BudgetSummary {
        queries: counts.budget,
        billed: Billed {
            real,
            synthetic,
            evaluation,
            total,
        },
        ambiguous: counts.ambiguous,
        held: counts.ambiguous,
        left: counts.left(),
        reused: counts.imported,
        history: Vec::new(),
        price_per_query: price,
        cost: price.map(|price| price * total as f64),
    }
}

impl Record<'_> {
    /// The summary.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Inputs { job, plan, .. } = self.inputs;
        let arm = |arm: Arm| job.arms().contains(&arm).then(|| self.arm(arm));
        let first = self.history.trained(Student::new(Arm::Active, 0));
        Summary {
            version: VERSION,
            job: JobSummary {
                name: job.name.clone(),
                digest: hex(&self.inputs.digest()),
            },
            started: Timestamp::from_unix_ms(self.started_ms),
            updated: Timestamp::from_unix_ms(self.now_ms),
            finished: (self.state == State::Finished).then(|| Timestamp::from_unix_ms(self.now_ms)),
            state: self.state.clone(),
            teacher: TeacherSummary::new(&job.spec.teacher.url, &job.spec.teacher.model, self.fingerprint),
            student: StudentSummary {
                architecture: student_name(self.inputs),
                parameters: first.map_or(0, |outcome| outcome.parameters),
                classes: self.classes,
                class_names: Vec::new(),
            },
            pool: PoolSummary {
                seeds: plan.seeds,
                pairs: plan.pairs,
                generated: self.history.generated().map_or(0, |outcome| outcome.images),
                lambdas: plan.lambdas,
                acquisition: job.spec.acquisition.score,
            },
            evaluation: self.inputs.evaluation.as_ref().map(|images| EvaluationSummary {
                images: self
                    .inputs
                    .evaluation_labels
                    .as_ref()
                    .map_or(0, |_| images.len() as u32),
                agreement_images: plan.evaluation,
            }),
            budget: BudgetSummary {
                history: self.burn.points().to_vec(),
                ..budget(self.counts, job.spec.teacher.price_per_query)
            },
            active: self.arm(Arm::Active),
            control: arm(Arm::Control),
            comparison: self.comparison(),
        }
    }

    /// What the guard found.
    fn comparison(&self) -> Option<ComparisonSummary> {
        let guard = self.inputs.job.guard()?;
        let evidence = self.history.evidence(u32::MAX);
        (evidence.images > 0).then(|| ComparisonSummary {
            verdict: evidence.verdict(),
            images: evidence.images,
            active: evidence.active,
            random: evidence.random,
            deviations: evidence.deviations(),
            shifts: guard.shifts,
        })
    }

    fn arm(&self, arm: Arm) -> ArmSummary {
        let mut rounds: Vec<RoundSummary> = Vec::new();
        for round in 0.. {
            let queries_before = rounds.last().map_or(0, |r| r.queries_total);
            match self.round(Student::new(arm, round), round, queries_before) {
                Some(summary) => rounds.push(summary),
                None => break,
            }
        }
        let categories = &self.counts.by_category;
        ArmSummary {
            billed_synthetic: match arm {
                Arm::Active => categories.synthetic_active,
                Arm::Control => categories.synthetic_control,
            },
            queries: rounds.last().map_or(0, |r| r.queries_total),
            accuracy: rounds.iter().rev().find_map(|r| r.accuracy),
            agreement: rounds.iter().rev().find_map(|r| r.agreement),
            rounds,
        }
    }

    /// The summary of a round that was at least asked; `None` before that.
    fn round(&self, student: Student, round: u32, queries_before: u64) -> Option<RoundSummary> {
        let asked = self.history.asked(student)?;
        let trained = self.history.trained(student);
        let selection = self.history.selection(student);
        let scan = selection.and_then(|s| s.scan.as_ref());
        let batch: &[Candidate] = selection.map_or(&[], |s| &s.batch);
        let size = if round == 0 {
            u64::from(self.inputs.plan.seeds)
        } else {
            batch.len() as u64
        };
        let last = trained.and_then(|outcome| outcome.measurements.last());
        Some(RoundSummary {
            round,
            queries_total: queries_before + size,
            size,
            drawn: selection.map_or(0, |s| s.drawn),
            digest: batch_digest(batch),
            cut: scan.map(|s| s.cut),
            approximate_cut: scan.map(|s| s.approximate_cut),
            guard: scan.filter(|s| s.rescored > 0).map(guard),
            labelled: asked.labelled,
            held: asked.held,
            accuracy: trained.and_then(accuracy),
            agreement: last.and_then(stillhouse_protocol::Measurement::agreement),
            loss: trained.map(|outcome| f64::from(outcome.loss)),
            histogram: scan.map(|s| s.histogram.clone()),
            timings: self.timings(scan, asked.millis, asked.labelled, trained),
            hardest: selection.map(|s| self.hardest(s)).unwrap_or_default(),
        })
    }

    fn timings(
        &self,
        scan: Option<&ScanRecord>,
        query_ms: u64,
        labelled: u64,
        trained: Option<&TrainOutcome>,
    ) -> Timings {
        let seconds = |ms: u64| ms as f64 / 1_000.0;
        let rate = |count: f64, seconds: f64| (count > 0.0 && seconds > 0.0).then(|| count / seconds);
        let scan_seconds = scan.map_or(0.0, |s| seconds(s.scan_ms));
        let lambdas = self.inputs.plan.lambdas;
        let scanned = scan.map_or(0, |s| u64::from(s.scans) * s.histogram.total() * u64::from(lambdas));
        let query_seconds = seconds(query_ms);
        Timings {
            scan_seconds,
            rescore_seconds: scan.map_or(0.0, |s| seconds(s.rescore_ms)),
            query_seconds,
            train_seconds: trained.map_or(0.0, |outcome| seconds(outcome.millis)),
            candidates_per_second: rate(scanned as f64, scan_seconds),
            queries_per_second: rate(labelled as f64, query_seconds),
        }
    }

    fn hardest(&self, selection: &Selection) -> Vec<Hardest> {
        hardest(self.inputs, selection, self.labels)
    }
}

/// The candidates that were chosen first, with the labels that they have.
#[must_use]
pub fn hardest(inputs: &Inputs, selection: &Selection, labels: &HashMap<Sample, SoftLabel>) -> Vec<Hardest> {
    let pool = inputs.pool();
    let scores = selection.scores.iter().copied().map(Some);
    let scores = scores.chain(std::iter::repeat(None));
    let candidates = selection.batch.iter().zip(scores).take(HARDEST);
    candidates
        .filter_map(|(candidate, score)| {
            let label = labels.get(&Sample::Mix(*candidate));
            Hardest::new(pool, *candidate, score, label)
        })
        .collect()
}

/// Name of the student's network.
#[must_use]
pub fn student_name(inputs: &Inputs) -> String {
    match &inputs.job.student {
        stillhouse_core::job::Student::Zoo(architecture) => architecture.name().to_owned(),
        stillhouse_core::job::Student::TorchScript(path) => path
            .file_name()
            .map_or_else(|| "torchscript".into(), |name| name.to_string_lossy().into_owned()),
    }
}

fn guard(scan: &ScanRecord) -> GuardSummary {
    GuardSummary {
        width: scan.width,
        deviation: scan.deviation,
        rescored: scan.rescored,
    }
}

fn accuracy(outcome: &TrainOutcome) -> Option<Accuracy> {
    let last = outcome.measurements.last()?.accuracy()?;
    let measured = outcome
        .measurements
        .iter()
        .filter_map(|m| Some((m.accuracy()?, m.epoch)));
    let (best, best_epoch) = measured.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
    Some(Accuracy { last, best, best_epoch })
}
