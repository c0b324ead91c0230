//! The whole way of a query but for network and teacher, run like a peer: a coordinator's process with ledger, desk and
//! dispatcher, and gateway processes that lease references from Redis, render and check the bytes of each image, ask the
//! desk over their authenticated link, and send its labels back there.
//!
//! All of it is the code that jobs run, but for the teacher, who answers at once and keeps a bill.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use stillhouse::chaos::lines::Lines;
use stillhouse::desk::message::{GatewayId, Welcome};
use stillhouse::desk::serve::{MAX_QUESTION_BYTES, serve};
use stillhouse::desk::{Desk, DeskEvent};
use stillhouse::gateway::counter::Counter;
use stillhouse::gateway::remote::RemoteDesk;
use stillhouse::gateway::{Gateway, GatewaySources};
use stillhouse_core::job::{OnAmbiguous, Protocol, TeacherSpec};
use stillhouse_core::plan::Arm;
use stillhouse_core::sample::Sources;
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_core::trace::JobTrace;
use stillhouse_core::{Candidate, ImageSet, ImageShape, Key, Lambda, PairId, Pairing, Pool, Sample, SoftLabel};
use stillhouse_ledger::Request;
use stillhouse_queue::{Queue, RedisQueue};
use stillhouse_runtime::link::Target;
use stillhouse_runtime::{Listener, Secret};
use stillhouse_teacher::{Answer, Attempt, Teacher, TeacherFailure, TeacherInfo};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::queue::contestants::Run;
use crate::queue::ours::{CLASSES, Dispatcher, FINGERPRINT, Setting, enqueue_alone};

/// MNIST's.
const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 28,
    width: 28,
};
/// Enough for two million pairs.
const SEEDS: u32 = 2_000;
/// Name of the queue that gateways serve.
const NAME: &str = "whole";
/// How often ledger and queue are asked how far it is: the end is known to so much.
const LOOK: Duration = Duration::from_millis(2);
/// A measurement that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);
/// Events of the desk that wait to be read.
const EVENTS: usize = 1_024;

/// What a gateway's process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GatewaySetting {
    setting: Setting,
    coordinator: String,
    token: String,
}

/// Seed images of noise: every mix of two is an image of its own.
fn seeds() -> anyhow::Result<ImageSet> {
    let noise = Stream::new(5, Purpose::SeedImages, 0);
    let pixels = (0..u64::from(SEEDS) * SHAPE.len() as u64).map(|at| noise.at(at) as u8);
    ImageSet::new(SHAPE, pixels.collect()).context("the seed images are whole")
}

fn pool() -> Pool {
    Pool::new(SEEDS, Pairing::All)
}

/// The query with a number: a pair's even mix, named by its bytes.
fn request(seeds: &ImageSet, number: u32) -> Request {
    let sample = Sample::Mix(Candidate {
        pair: PairId(number.into()),
        lambda: Lambda::from_hundredths(50).expect("below 100"),
    });
    let sources = Sources {
        seeds,
        evaluation: None,
        generated: None,
        pool: pool(),
    };
    let mut pixels = vec![0; SHAPE.len()];
    assert!(sources.render_into(sample, &mut pixels), "the pool has that pair");
    Request {
        key: Key::of(FINGERPRINT, SHAPE, &pixels),
        sample,
        arm: Arm::Active,
    }
}

fn teacher_spec(setting: &Setting) -> TeacherSpec {
    TeacherSpec {
        batch: Some(setting.batch as u32),
        concurrency: setting.consumers,
        ..TeacherSpec::new(Protocol::OpenInference, "http://127.0.0.1:9", "nobody")
    }
}

/// The coordinator's program: runs a setting, given as JSON, and prints a [`Run`] as JSON.
pub(crate) fn coordinate(setting: &str) -> anyhow::Result<()> {
    let setting: Setting = serde_json::from_str(setting).context("expected a setting as JSON")?;
    let run = tokio::runtime::Runtime::new()?.block_on(measure(&setting))?;
    println!("{}", serde_json::to_string(&run)?);
    Ok(())
}

async fn measure(setting: &Setting) -> anyhow::Result<Run> {
    let seeds = Arc::new(seeds()?);
    let of = seeds.clone();
    let requests = Arc::new(move |number| request(&of, number));
    let dispatcher = Dispatcher::open(setting, "enqueue", requests.clone()).await?;
    let enqueue_seconds = enqueue_alone(setting, &dispatcher).await?;
    drop(dispatcher);
    let dispatcher = Dispatcher::open(setting, NAME, requests).await?;
    let (total_seconds, delivered_once) = to_acknowledged(setting, &dispatcher, &seeds).await?;
    Ok(Run {
        jobs: setting.jobs.into(),
        enqueue_seconds,
        total_seconds,
        delivered_once,
    })
}

async fn to_acknowledged(setting: &Setting, dispatcher: &Dispatcher, seeds: &ImageSet) -> anyhow::Result<(f64, bool)> {
    let all = setting.jobs + setting.warm_up;
    let (events, mut told) = mpsc::channel(EVENTS);
    let ledger = dispatcher.ledger.clone();
    let desk = Desk::new(
        ledger,
        &teacher_spec(setting),
        OnAmbiguous::Hold,
        CLASSES as usize,
        events,
    );
    let secret = Secret::generate()?;
    let listener = Listener::bind("127.0.0.1:0", secret.clone(), |_| MAX_QUESTION_BYTES).await?;
    let coordinator = listener.local_addr()?.to_string();
    let serving = tokio::spawn(serve(
        listener.into_links(setting.gateways.max(1) as usize),
        desk.clone(),
        welcome(seeds),
        Arc::default(),
        Lines::default(),
    ));
    let gateways = start_gateways(setting, &coordinator, &secret)?;
    joined(&mut told, setting.gateways).await?;

    dispatcher.enqueue(setting, setting.jobs..all).await?;
    reached(dispatcher, setting.warm_up).await?;
    let began = dispatcher.enqueue(setting, 0..setting.jobs).await?;
    let ended = reached(dispatcher, all).await?;

    desk.close();
    let mut billed = 0;
    for gateway in gateways {
        billed += bill(gateway).await?;
    }
    serving.await??;
    if let Some(reason) = desk.take_reason() {
        return Err(reason.into());
    }
    Ok((ended.duration_since(began).as_secs_f64(), billed == u64::from(all)))
}

fn welcome(seeds: &ImageSet) -> Welcome {
    Welcome {
        job: String::new(),
        digest: [0; 32],
        trace: JobTrace::new(&[0; 32], 0),
        queue_prefix: NAME.to_owned(),
        fingerprint: FINGERPRINT,
        classes: CLASSES,
        seeds: seeds.clone(),
        evaluation: None,
    }
}

fn start_gateways(setting: &Setting, coordinator: &str, secret: &Secret) -> anyhow::Result<Vec<Child>> {
    let told = GatewaySetting {
        setting: setting.clone(),
        coordinator: coordinator.to_owned(),
        token: secret.to_hex(),
    };
    let told = serde_json::to_string(&told)?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let start = |_| {
        let mut command = Command::new(&this);
        command.args(["own-queue", "--role", "gateway", &told]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().context("cannot start a gateway")
    };
    (0..setting.gateways).map(start).collect()
}

/// Waits until so many gateways are there, each with its queue open.
async fn joined(told: &mut mpsc::Receiver<DeskEvent>, gateways: u32) -> anyhow::Result<()> {
    let mut left = gateways;
    while left > 0 {
        match told.recv().await {
            Some(DeskEvent::Joined { .. }) => left -= 1,
            Some(_) => {}
            None => bail!("the desk ended before its gateways came"),
        }
    }
    Ok(())
}

/// Waits until so many labels are in the ledger and nothing is left in the queue: all acknowledged.
async fn reached(dispatcher: &Dispatcher, count: u32) -> anyhow::Result<Instant> {
    let began = Instant::now();
    loop {
        let committed = dispatcher.ledger.counts().await?.committed;
        if committed >= count.into() && dispatcher.queue.depth().await? == 0 {
            return Ok(Instant::now());
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "expected {count} labels within {PATIENCE:?}, found {committed}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Images that the teacher behind a gateway has seen, told when it ends.
async fn bill(mut gateway: Child) -> anyhow::Result<u64> {
    let mut line = String::new();
    let mut said = BufReader::new(gateway.stdout.take().expect("it is piped"));
    said.read_line(&mut line).await?;
    ensure!(gateway.wait().await?.success(), "a gateway failed");
    line.trim()
        .parse()
        .with_context(|| format!("expected a number of images, found {line:?}"))
}

/// A gateway's program: serves until the desk says goodbye, and prints its teacher's bill.
pub(crate) fn attend(setting: &str) -> anyhow::Result<()> {
    let setting: GatewaySetting = serde_json::from_str(setting).context("expected a setting as JSON")?;
    let images = tokio::runtime::Runtime::new()?.block_on(gateway(&setting))?;
    println!("{images}");
    Ok(())
}

async fn gateway(told: &GatewaySetting) -> anyhow::Result<u64> {
    let setting = &told.setting;
    let queue = Arc::new(RedisQueue::open(setting.config(NAME)).await?);
    let (secret, id) = (Secret::from_hex(&told.token)?, GatewayId(std::process::id().into()));
    let coordinator = Target::plain(&told.coordinator, secret);
    let (desk, keeper, welcome) = RemoteDesk::connect(coordinator, id).await?;
    let stop = CancellationToken::new();
    let dismissed = stop.clone();
    let link = tokio::spawn(async move {
        let kept = keeper.run(dismissed.clone()).await;
        dismissed.cancel();
        kept
    });
    let teacher = Arc::new(IdleTeacher::new()?);
    let sources = GatewaySources {
        seeds: Arc::new(welcome.seeds),
        evaluation: None,
        generated: Arc::default(),
        pool: pool(),
        trace: welcome.trace,
    };
    let spec = teacher_spec(setting);
    let gateway = Gateway::new(
        teacher.clone(),
        queue.clone(),
        Counter::There(desk),
        sources,
        &spec,
        OnAmbiguous::Hold,
    );
    gateway.run(stop).await?;
    queue.close();
    link.await??;
    Ok(teacher.images.load(Ordering::Relaxed))
}

/// Answers at once, the same for every image, and counts them.
struct IdleTeacher {
    info: TeacherInfo,
    label: SoftLabel,
    images: AtomicU64,
}

impl IdleTeacher {
    fn new() -> anyhow::Result<Self> {
        let info = TeacherInfo {
            classes: Some(CLASSES as usize),
            version: None,
            fingerprint: FINGERPRINT,
            max_batch: None,
        };
        let label = SoftLabel::from_probabilities(vec![0.1; CLASSES as usize], CLASSES as usize)?;
        Ok(Self {
            info,
            label,
            images: AtomicU64::new(0),
        })
    }
}

#[async_trait]
impl Teacher for IdleTeacher {
    async fn infer(&self, images: &[u8], n: usize, _: &Attempt) -> Result<Answer, TeacherFailure> {
        assert_eq!(images.len(), n * SHAPE.len(), "whole images are sent");
        self.images.fetch_add(n as u64, Ordering::Relaxed);
        Ok(vec![Ok(self.label.clone()); n])
    }

    fn info(&self) -> &TeacherInfo {
        &self.info
    }
}
