//! Desk and gateway with a real ledger on disk, the memory queue and a real teacher over HTTP, whose
//! bill is the truth that the ledger is compared with.

use std::collections::HashMap;
use std::path::PathBuf;

use stillhouse_core::job::{OnAmbiguous, Protocol};
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::Pairing;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::trace::JobTrace;
use stillhouse_core::{Fingerprint, ImageShape, Key, Sample};
use stillhouse_ledger::{Admission, Counts, Genesis, Ledger, Request};
use stillhouse_queue::MemoryQueue;
use stillhouse_tests::teacher::{Fault, MODEL, TestTeacher};
use tokio::sync::mpsc;

use super::*;
use crate::coordinate::asking::reference;
use crate::coordinate::gateways::attend;
use crate::desk::message::GatewayId;
use crate::desk::{AskingStopped, Desk, DeskEvent};

pub(crate) const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 4,
    width: 4,
};
pub(crate) const CLASSES: usize = 3;
pub(crate) const SEEDS: u32 = 40;
const BATCH: u32 = 8;

/// Everything around a gateway.
pub(crate) struct Bench {
    pub(crate) teacher: TestTeacher,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) sources: GatewaySources,
    pub(crate) spec: TeacherSpec,
    /// Classes of the ledger's labels.
    classes: usize,
    policy: OnAmbiguous,
    pub(crate) fingerprint: Fingerprint,
    /// Holds ledger and bill.
    _folder: tempfile::TempDir,
}

/// A desk, and a gateway that asks there.
pub(crate) struct Asking {
    pub(crate) desk: Desk,
    pub(crate) gateway: Gateway,
    pub(crate) events: mpsc::Receiver<DeskEvent>,
}

/// How a run ended.
pub(crate) struct Run {
    pub(crate) error: Option<AskingStopped>,
    pub(crate) counts: Counts,
    pub(crate) billed: u64,
}

impl Bench {
    pub(crate) async fn new(concurrency: u32) -> Self {
        Self::with(concurrency, CLASSES as u32, OnAmbiguous::Hold).await
    }

    /// With a ledger for labels of `classes` classes, that treats queries in doubt by `policy`.
    pub(crate) async fn with(concurrency: u32, classes: u32, policy: OnAmbiguous) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bill: PathBuf = folder.path().join("bill");
        let teacher = TestTeacher::start(SHAPE, CLASSES, Some(&bill)).unwrap();
        let spec = TeacherSpec {
            batch: Some(BATCH),
            concurrency,
            timeout_seconds: 20.0,
            ..TeacherSpec::new(Protocol::OpenInference, teacher.url(), MODEL)
        };
        let (_, info) = stillhouse_teacher::connect(&spec, SHAPE, None).await.unwrap();
        let genesis = Genesis {
            job_digest: [7; 32],
            fingerprint: info.fingerprint,
            budget: u64::from(SEEDS),
            classes,
            on_ambiguous: crate::coordinate::start::ledger_policy(policy),
        };
        let noise = Stream::new(5, Purpose::SeedImages, 0);
        let pixels = (0..u64::from(SEEDS) * SHAPE.len() as u64).map(|at| noise.at(at) as u8);
        Self {
            ledger: Ledger::create_or_open(folder.path(), &genesis).unwrap(),
            queue: Arc::new(MemoryQueue::new(1_024)),
            sources: GatewaySources {
                seeds: Arc::new(ImageSet::new(SHAPE, pixels.collect()).unwrap()),
                evaluation: None,
                generated: Arc::default(),
                pool: Pool::new(SEEDS, Pairing::All),
                trace: JobTrace::new(&[3; 32], 0),
            },
            fingerprint: info.fingerprint,
            classes: classes as usize,
            policy,
            teacher,
            spec,
            _folder: folder,
        }
    }

    pub(crate) async fn asking(&self) -> Asking {
        self.asking_with_patience(Duration::from_secs(60)).await
    }

    async fn asking_with_patience(&self, patience: Duration) -> Asking {
        let (client, _) = stillhouse_teacher::connect(&self.spec, SHAPE, None).await.unwrap();
        let (sender, events) = mpsc::channel(1_024);
        let (ledger, policy) = (self.ledger.clone(), self.policy);
        let spec = TeacherSpec {
            patience_seconds: patience.as_secs_f64(),
            ..self.spec.clone()
        };
        let desk = Desk::new(ledger, &spec, policy, self.classes, sender);
        let counter = Counter::Here {
            desk: desk.clone(),
            gateway: GatewayId(1),
        };
        let queue = self.queue.clone();
        let gateway = Gateway::new(client, queue, counter, self.sources.clone(), &self.spec, policy);
        Asking { desk, gateway, events }
    }

    pub(crate) fn key(&self, sample: Sample) -> Key {
        let mut pixels = vec![0; SHAPE.len()];
        assert!(self.sources.sources().render_into(sample, &mut pixels));
        Key::of(self.fingerprint, SHAPE, &pixels)
    }

    /// As the coordinator: asks the ledger for permits and queues what got one. What is left open.
    pub(crate) async fn admit(&self, open: &mut HashMap<Key, Sample>) {
        let mut requests: Vec<_> = open
            .iter()
            .map(|(key, sample)| Request {
                key: *key,
                sample: *sample,
                arm: Arm::Active,
            })
            .collect();
        requests.sort_unstable_by_key(|request| request.sample);
        let admissions = self.ledger.admit(requests.clone()).await.unwrap();
        let mut references = vec![];
        for (request, admission) in requests.iter().zip(admissions) {
            match admission {
                Admission::Permitted(permit) => {
                    references.push(reference(&permit, request.sample, request.arm, 1));
                }
                Admission::InFlight => {}
                Admission::Known(_) | Admission::Held { .. } | Admission::Exhausted => {
                    open.remove(&request.key);
                }
            }
        }
        if !references.is_empty() {
            self.queue.push(references).await.unwrap();
        }
    }

    /// Asks all seed images until each is through or the desk closes. `observe` sees every event
    /// and may switch faults.
    pub(crate) async fn run(&self, asking: Asking, mut observe: impl FnMut(&DeskEvent)) -> Run {
        let Asking {
            desk,
            gateway,
            mut events,
        } = asking;
        let samples = (0..SEEDS).map(Sample::Seed);
        let mut open: HashMap<Key, Sample> = samples.map(|sample| (self.key(sample), sample)).collect();
        let stop = CancellationToken::new();
        let running = tokio::spawn(gateway.run(stop.clone()));
        loop {
            self.admit(&mut open).await;
            if open.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(event) = events.recv() => observe(&event),
                () = desk.closed() => break,
            }
        }
        let error = desk.take_reason();
        desk.close();
        stop.cancel();
        running.await.unwrap().unwrap();
        Run {
            error,
            counts: self.ledger.counts().await.unwrap(),
            billed: self.teacher.billed().unwrap().len() as u64,
        }
    }
}

impl Run {
    /// I1, and what the teacher billed is known to be billed, or in doubt.
    pub(crate) fn invariant_the_ledger_covers_the_bill(&self) {
        let Counts { budget, sent, .. } = self.counts;
        assert!(self.counts.billed() <= budget, "{:?}", self.counts);
        assert!(
            self.billed <= self.counts.billed(),
            "{} billed, {:?}",
            self.billed,
            self.counts
        );
        assert!(self.billed >= self.counts.committed + self.counts.spent);
        assert_eq!(sent, 0, "everything sent is settled: {:?}", self.counts);
    }
}

#[tokio::test]
async fn every_label_is_bought_once_and_is_the_teachers() {
    let bench = Bench::new(4).await;
    let mut requests = vec![];
    let run = bench
        .run(bench.asking().await, |event| {
            if let DeskEvent::Answered { n, .. } = event {
                requests.push(*n);
            }
        })
        .await;
    assert!(run.error.is_none(), "{:?}", run.error);
    run.invariant_the_ledger_covers_the_bill();
    assert_eq!((run.counts.committed, run.billed), (u64::from(SEEDS), u64::from(SEEDS)));
    assert_eq!(requests[0], 1, "the first request is one image");
    assert!(requests.iter().all(|n| *n <= BATCH as usize));
    let keys: Vec<_> = (0..SEEDS).map(|seed| bench.key(Sample::Seed(seed))).collect();
    let labels = bench.ledger.labels(keys).await.unwrap();
    let predict = stillhouse_tests::teacher::predict(SHAPE, CLASSES);
    let pixels = stillhouse_teacher::Pixels::Uint8(bench.sources.seeds.bytes().to_vec());
    let expected = predict(pixels, SEEDS as usize).unwrap();
    for (label, expected) in labels.iter().zip(expected.chunks(CLASSES)) {
        assert_eq!(label.as_ref().unwrap().probabilities(), expected);
    }
}

#[tokio::test]
async fn a_busy_teacher_gets_its_time_and_nothing_is_paid_twice() {
    for retry_after in [None, Some(1)] {
        let bench = Bench::new(4).await;
        bench
            .teacher
            .set_fault(Fault::TooMany { retry_after, times: 3 })
            .unwrap();
        let mut waits = 0;
        let run = bench
            .run(bench.asking().await, |event| {
                waits += u32::from(matches!(event, DeskEvent::Waiting { reason, .. } if reason.contains("429")));
            })
            .await;
        assert!(run.error.is_none(), "{:?}", run.error);
        run.invariant_the_ledger_covers_the_bill();
        assert_eq!((run.counts.committed, run.billed), (u64::from(SEEDS), u64::from(SEEDS)));
        assert_eq!(
            waits, 3,
            "the teacher proves itself alone, so each refusal is waited for"
        );
    }
}

#[tokio::test]
async fn a_teacher_that_is_down_costs_nothing() {
    let bench = Bench::new(2).await;
    let asking = bench.asking_with_patience(Duration::from_millis(600)).await;
    bench.teacher.set_fault(Fault::Down).unwrap();
    let run = bench.run(asking, |_| ()).await;
    let error = run.error.as_ref().expect("gives up");
    assert!(matches!(error, AskingStopped::TeacherDown { .. }), "{error}");
    assert!(error.to_string().contains("nothing was spent"), "{error}");
    run.invariant_the_ledger_covers_the_bill();
    assert_eq!((run.counts.billed(), run.billed), (0, 0));
}

#[tokio::test]
async fn a_teacher_that_comes_back_in_time_is_asked_on() {
    let bench = Bench::new(2).await;
    let asking = bench.asking().await;
    bench.teacher.set_fault(Fault::Down).unwrap();
    let run = bench
        .run(asking, |event| {
            if matches!(event, DeskEvent::Waiting { .. }) {
                bench.teacher.set_fault(Fault::None).unwrap();
            }
        })
        .await;
    assert!(run.error.is_none(), "{:?}", run.error);
    assert_eq!(run.billed, u64::from(SEEDS));
}

#[tokio::test]
async fn a_broken_teacher_costs_two_queries_and_a_useless_one_costs_one() {
    for (fault, ambiguous, spent) in [
        (Fault::ServerError { times: 1_000 }, 2, 0),
        (Fault::WrongShape, 0, 1),
        (Fault::NotANumber, 0, 1),
        (Fault::Unnormalised, 0, 1),
        (Fault::DieAfter(1), 1, 0),
    ] {
        let bench = Bench::new(4).await;
        let asking = bench.asking_with_patience(Duration::from_millis(300)).await;
        bench.teacher.set_fault(fault).unwrap();
        let run = bench.run(asking, |_| ()).await;
        let error = run.error.as_ref().expect("stops").to_string();
        run.invariant_the_ledger_covers_the_bill();
        assert_eq!(
            (run.counts.ambiguous, run.counts.spent),
            (ambiguous, spent),
            "{fault:?}: {error}"
        );
        assert_eq!(run.counts.committed, 0);
        let telling = ["2 queries may or may not", "1 queries were billed", "has been away"];
        assert!(telling.iter().any(|text| error.contains(text)), "{error}");
    }
}

#[tokio::test]
async fn a_query_in_doubt_is_asked_again_under_its_key_and_billed_once() {
    let mut bench = Bench::with(2, CLASSES as u32, OnAmbiguous::IdempotencyKey(4)).await;
    bench.spec.batch = Some(1);
    let mut accidents = 0;
    let run = bench
        .run(bench.asking().await, |event| match event {
            DeskEvent::Failed { .. } => accidents += 1,
            // The teacher does its work, and its answer is lost.
            DeskEvent::Answered { .. } if accidents < 3 => {
                bench.teacher.set_fault(Fault::ServerError { times: 1 }).unwrap();
            }
            _ => {}
        })
        .await;
    assert!(run.error.is_none(), "{:?}", run.error);
    run.invariant_the_ledger_covers_the_bill();
    assert!(accidents >= 3, "{accidents} accidents");
    assert_eq!((run.counts.committed, run.billed), (u64::from(SEEDS), u64::from(SEEDS)));
    assert_eq!(run.counts.ambiguous, 0);
}

#[tokio::test]
async fn one_accident_holds_one_request_and_asks_for_proof() {
    let bench = Bench::new(1).await;
    let mut log = vec![];
    let run = bench
        .run(bench.asking().await, |event| {
            if log.is_empty() {
                bench.teacher.set_fault(Fault::ServerError { times: 1 }).unwrap();
            }
            log.push(event.clone());
        })
        .await;
    assert!(run.error.is_none(), "{:?}", run.error);
    run.invariant_the_ledger_covers_the_bill();
    let held = run.counts.ambiguous;
    assert!((1..=u64::from(BATCH)).contains(&held), "{held} held");
    assert_eq!(run.counts.committed + held, u64::from(SEEDS));
    let accident = log.iter().position(|event| matches!(event, DeskEvent::Failed { .. }));
    let next = &log[accident.expect("told") + 1];
    assert!(
        matches!(next, DeskEvent::Answered { n: 1, .. }),
        "one image alone: {next:?}"
    );
}

#[tokio::test]
async fn labels_of_another_number_of_classes_are_written_off() {
    let bench = Bench::with(2, CLASSES as u32 + 1, OnAmbiguous::Hold).await;
    let run = bench.run(bench.asking().await, |_| ()).await;
    let error = run.error.as_ref().expect("stops");
    assert!(matches!(error, AskingStopped::Useless { queries: 1, .. }), "{error}");
    run.invariant_the_ledger_covers_the_bill();
    assert_eq!((run.counts.spent, run.billed), (1, 1));
}

#[tokio::test]
async fn bytes_that_are_not_the_chosen_ones_are_never_sent() {
    let bench = Bench::new(1).await;
    let mut asking = bench.asking().await;
    let other = vec![0; SEEDS as usize * SHAPE.len()];
    asking.gateway.sources.seeds = Arc::new(ImageSet::new(SHAPE, other).unwrap());
    let run = bench.run(asking, |_| ()).await;
    assert!(
        matches!(run.error, Some(AskingStopped::Foreign { .. })),
        "{:?}",
        run.error
    );
    assert_eq!((run.counts.billed(), run.billed), (0, 0));
}

#[tokio::test]
async fn a_teacher_that_rejects_us_ends_the_asking_at_no_cost() {
    let bench = Bench::new(4).await;
    let asking = bench.asking().await;
    bench.teacher.set_fault(Fault::Rejects).unwrap();
    let run = bench.run(asking, |_| ()).await;
    let error = run.error.as_ref().expect("stops");
    assert!(
        matches!(error, AskingStopped::Rejected { cause } if cause.contains("403")),
        "{error}"
    );
    assert_eq!((run.counts.billed(), run.billed), (0, 0));
}

/// A teacher whose client has a defect.
struct Panics(stillhouse_teacher::TeacherInfo);

#[async_trait::async_trait]
impl Teacher for Panics {
    async fn infer(
        &self,
        _: &[u8],
        _: usize,
        _: &stillhouse_teacher::Attempt,
    ) -> Result<stillhouse_teacher::Answer, stillhouse_teacher::TeacherFailure> {
        panic!("a defect");
    }

    fn info(&self) -> &stillhouse_teacher::TeacherInfo {
        &self.0
    }
}

#[tokio::test]
async fn a_gateway_that_panics_ends_the_asking_instead_of_leaving_it_to_wait() {
    let bench = Bench::new(2).await;
    let mut asking = bench.asking().await;
    asking.gateway.teacher = Arc::new(Panics(asking.gateway.teacher.info().clone()));
    let mut open: HashMap<Key, Sample> = [(bench.key(Sample::Seed(0)), Sample::Seed(0))].into();
    bench.admit(&mut open).await;
    let (desk, stop) = (asking.desk.clone(), CancellationToken::new());
    attend(asking.gateway, stop, asking.desk).await;
    desk.closed().await;
    assert!(matches!(desk.take_reason(), Some(AskingStopped::Panicked(_))));
}

#[tokio::test]
async fn a_reference_that_comes_twice_is_asked_once() {
    let bench = Bench::new(2).await;
    let mut open: HashMap<Key, Sample> = [(bench.key(Sample::Seed(3)), Sample::Seed(3))].into();
    bench.admit(&mut open).await;
    let lease = bench.queue.lease(1).await.unwrap().remove(0);
    bench.queue.push(vec![lease.reference; 3]).await.unwrap();
    bench.queue.nack(&[lease.id]).await.unwrap();
    let run = bench.run(bench.asking().await, |_| ()).await;
    assert!(run.error.is_none(), "{:?}", run.error);
    assert_eq!((run.counts.committed, run.billed), (u64::from(SEEDS), u64::from(SEEDS)));
}

#[tokio::test]
async fn a_stop_settles_what_is_under_way() {
    let mut bench = Bench::new(1).await;
    bench.spec.timeout_seconds = 0.5;
    bench.teacher.set_fault(Fault::Hang).unwrap();
    let asking = bench.asking().await;
    let mut open: HashMap<Key, Sample> = [(bench.key(Sample::Seed(0)), Sample::Seed(0))].into();
    bench.admit(&mut open).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(asking.gateway.run(stop.clone()));
    while bench.ledger.counts().await.unwrap().sent == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    running.await.unwrap().expect("one unknown fate is not the end");
    let counts = bench.ledger.counts().await.unwrap();
    assert_eq!((counts.sent, counts.ambiguous), (0, 1));
}

/// Random faults in random order: whatever happens, the ledger covers the bill.
#[tokio::test]
async fn no_sequence_of_faults_spends_more_than_the_ledger_knows() {
    for seed in 0..12 {
        let bench = Bench::new(3).await;
        let asking = bench.asking_with_patience(Duration::from_millis(400)).await;
        let stream = Stream::new(seed, Purpose::RandomPairs, 0);
        let mut events = 0;
        let run = bench
            .run(asking, |_| {
                events += 1;
                let fault = match stream.below(events, 10) {
                    0 => Fault::Down,
                    1 => Fault::TooMany {
                        retry_after: None,
                        times: 2,
                    },
                    2 => Fault::ServerError { times: 1 },
                    3 => Fault::NotANumber,
                    4 => Fault::DieAfter(1),
                    _ => Fault::None,
                };
                bench.teacher.set_fault(fault).unwrap();
            })
            .await;
        run.invariant_the_ledger_covers_the_bill();
        assert!(run.error.is_some() || run.counts.reserved == 0, "seed {seed}");
    }
}
