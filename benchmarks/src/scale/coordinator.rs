//! The real coordinator in a process of its own, so that its memory and processor time are its own: messages come in and
//! go out as they would over links, with the time at which they come.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stillhouse_core::plan::{Arm, Plan};
use stillhouse_core::pool::{LambdaGrid, Pairing, Pool};
use stillhouse_core::score::Acquisition;
use stillhouse_protocol::message::Command as Order;
use stillhouse_protocol::selecting::Cutting;
use stillhouse_protocol::{
    Action, AskOutcome, Coordinator, Durable, Effects, Event, FromWorker, History, Settings, Student, ToWorker,
    TrainOutcome, Transition, WorkerId, codec,
};
use wait4::Wait4;

use super::Setting;
use crate::process::memory;

/// Candidates of the batch that are handed over at once.
const HANDED_OVER: usize = 1 << 14;

/// To the coordinator's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// When it comes, since the start.
    pub(super) nanos: u64,
    /// From which worker.
    pub(super) worker: u64,
    /// What.
    pub(super) news: News,
}

/// What a worker has to say.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum News {
    /// It is there.
    Joined,
    /// It is gone.
    Lost,
    /// A message, encoded.
    Message(Vec<u8>),
}

/// From the coordinator's process.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// A message for a worker, encoded.
    Send { worker: u64, bytes: Vec<u8> },
    /// The student's weights for a worker.
    Load { worker: u64 },
    /// A part of the query batch: pairs, and hundredths of lambda.
    Chosen(Vec<(u64, u8)>),
    /// The batch is complete.
    Selected(Scanned),
    /// What was told is dealt with, after so long.
    Done { nanos: u64 },
}

/// How the scan went, as the coordinator records it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Scanned {
    /// Milliseconds of calibrating and scanning.
    pub(super) scan_ms: u64,
    /// Milliseconds of rescoring.
    pub(super) rescore_ms: u64,
    /// Scans that were needed.
    pub(super) scans: u32,
    /// Pairs that were rescored.
    pub(super) rescored: u64,
    /// Pairs in the histogram.
    pub(super) counted: u64,
}

/// Something that is on its way to a worker.
#[derive(Debug)]
pub(super) enum Sent {
    /// A message, encoded.
    Message { worker: u64, bytes: Vec<u8> },
    /// The student's weights.
    Weights { worker: u64 },
}

/// The query batch, and how it was found.
#[derive(Debug)]
pub(super) struct Chosen {
    /// Pairs and hundredths of lambda, best first.
    pub(super) batch: Vec<(u64, u8)>,
    /// The scan.
    pub(super) scanned: Scanned,
}

/// What came of something told.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What is sent, in order.
    pub(super) sent: Vec<Sent>,
    /// How long the coordinator took.
    pub(super) took: Duration,
    /// The query batch.
    pub(super) chosen: Option<Chosen>,
}

/// The coordinator's process, from outside.
pub(super) struct Process {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: BufReader<ChildStdout>,
}

/// What the process used in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Highest resident memory.
    pub(super) peak_bytes: u64,
    /// Processor time.
    pub(super) processor: Duration,
}

impl Process {
    /// Starts it.
    pub(super) fn start(setting: &Setting) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("own-scale").arg(serde_json::to_string(setting)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the coordinator")?;
        Ok(Self {
            to: BufWriter::new(child.stdin.take().context("it is piped")?),
            from: BufReader::new(child.stdout.take().context("it is piped")?),
            child,
        })
    }

    /// Tells it something and waits for what it does.
    pub(super) fn tell(&mut self, told: &Told) -> anyhow::Result<Outcome> {
        write(&mut self.to, told)?;
        self.to.flush()?;
        let (mut outcome, mut batch) = (Outcome::default(), Vec::new());
        loop {
            match read(&mut self.from)?.context("the coordinator ended")? {
                Answer::Send { worker, bytes } => outcome.sent.push(Sent::Message { worker, bytes }),
                Answer::Load { worker } => outcome.sent.push(Sent::Weights { worker }),
                Answer::Chosen(part) => batch.extend(part),
                Answer::Selected(scanned) => {
                    let batch = std::mem::take(&mut batch);
                    outcome.chosen = Some(Chosen { batch, scanned });
                }
                Answer::Done { nanos } => {
                    outcome.took = Duration::from_nanos(nanos);
                    return Ok(outcome);
                }
            }
        }
    }

    /// Ends it.
    pub(super) fn end(mut self) -> anyhow::Result<Used> {
        // What is known of an ended process counts its parent's memory too, before it was this program.
        let peak_bytes = memory(self.child.id(), "VmHWM")?;
        drop(self.to);
        let ended = self.child.wait4().context("cannot wait for the coordinator")?;
        ensure!(ended.status.success(), "the coordinator failed: {}", ended.status);
        Ok(Used {
            peak_bytes,
            processor: ended.rusage.utime + ended.rusage.stime,
        })
    }
}

fn write<T: Serialize>(to: &mut impl Write, message: &T) -> anyhow::Result<()> {
    let bytes = codec::encode(message)?;
    to.write_all(&(bytes.len() as u32).to_le_bytes())?;
    Ok(to.write_all(&bytes)?)
}

/// `None` when the other end is gone.
fn read<T: DeserializeOwned>(from: &mut impl Read) -> anyhow::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some(codec::decode(&bytes)?))
}

/// A job about to choose its first batch.
fn coordinator(setting: &Setting) -> Coordinator {
    let pool = Pool::new(setting.seeds, Pairing::All);
    let plan = Plan {
        budget: u64::from(setting.seeds) + setting.k,
        seeds: setting.seeds,
        evaluation: 0,
        arms: 1,
        per_round: setting.k,
        pairs: pool.pairs(),
        generated: 0,
        scored: pool.pairs(),
        lambdas: super::LAMBDAS as u32,
    };
    let settings = Settings {
        plan,
        arms: vec![Arm::Active],
        pool,
        grid: LambdaGrid::new(30, 70, 4).expect("the published grid"),
        one_shot: None,
        acquisition: Acquisition::LeastConfidence,
        stochastic: None,
        diversity: None,
        sample: None,
        exact_scan: false,
        cutting: Cutting::default(),
        warm: false,
        seed: 1,
        classes: 10,
        min_workers: setting.workers as usize,
        max_workers: setting.workers as usize,
        shards: 4,
        guard: None,
        evaluation: Vec::new(),
        stopping: None,
    };
    let student = Student::new(Arm::Active, 0);
    let asked = AskOutcome {
        labelled: u64::from(setting.seeds),
        millis: 1,
        ..AskOutcome::default()
    };
    let trained = TrainOutcome {
        weights: String::new(),
        loss: 0.1,
        measurements: Vec::new(),
        steps: 1,
        parameters: 1,
        millis: 1,
    };
    let history = History::new(vec![
        Transition::Asked {
            student,
            outcome: asked,
        },
        Transition::Trained {
            student,
            outcome: trained,
        },
    ]);
    Coordinator::new(settings, history, 1)
}

/// The coordinator's process: answers what it is told until nobody tells it anything.
pub(super) fn serve(setting: &Setting) -> anyhow::Result<()> {
    let mut coordinator = coordinator(setting);
    let (mut from, mut to) = (BufReader::new(io::stdin().lock()), BufWriter::new(io::stdout().lock()));
    while let Some(told) = read::<Told>(&mut from)? {
        let begun = Instant::now();
        let now = Duration::from_nanos(told.nanos);
        let Effects { durable, actions } = coordinator.handle(now, event(told)?);
        let answers = actions.into_iter().filter_map(|action| answer(action).transpose());
        let answers: Vec<Answer> = answers.collect::<anyhow::Result<_>>()?;
        // As the shell does, before it writes them down.
        let lines = durable.iter().map(|item| match item {
            Durable::Transition(transition) => serde_json::to_vec(transition).map(|line| line.len()),
            Durable::Weights { .. } | Durable::Images(_) | Durable::Module { .. } => Ok(0),
        });
        let _written: usize = lines.sum::<Result<_, _>>()?;
        let nanos = begun.elapsed().as_nanos() as u64;
        answers.iter().try_for_each(|answer| write(&mut to, answer))?;
        for item in &durable {
            hand_over(&mut to, item)?;
        }
        write(&mut to, &Answer::Done { nanos })?;
        to.flush()?;
    }
    Ok(())
}

fn event(Told { worker, news, .. }: Told) -> anyhow::Result<Event> {
    let id = WorkerId(worker);
    Ok(match news {
        News::Joined => Event::Joined {
            worker: id,
            ring: SocketAddr::from(([10, 0, 0, 1], 1)),
        },
        News::Lost => Event::Lost { worker: id },
        News::Message(bytes) => match codec::decode(&bytes)? {
            FromWorker::Report { fence, report } => Event::Reported {
                worker: id,
                fence,
                report,
            },
            other => bail!("expected a report, found {other:?}"),
        },
    })
}

fn answer(action: Action) -> anyhow::Result<Option<Answer>> {
    Ok(match action {
        Action::Load { worker, .. } => Some(Answer::Load { worker: worker.0 }),
        Action::Command { worker, fence, command } => {
            let command: Order = *command;
            let bytes = codec::encode(&ToWorker::Command { fence, command })?;
            Some(Answer::Send {
                worker: worker.0,
                bytes,
            })
        }
        // The batch is there, and that is all that is wanted.
        Action::Ask { .. } => None,
        other => bail!("expected a selection, found {other:?}"),
    })
}

/// Hands the query batch over in parts, so that this takes no memory to speak of.
fn hand_over(to: &mut impl Write, item: &Durable) -> anyhow::Result<()> {
    let Durable::Transition(Transition::Selected { selection, .. }) = item else {
        return Ok(());
    };
    for part in selection.batch.chunks(HANDED_OVER) {
        let part = part.iter().map(|c| (c.pair.0, c.lambda.hundredths())).collect();
        write(to, &Answer::Chosen(part))?;
    }
    let scan = selection.scan.as_ref().context("a batch without a scan")?;
    let scanned = Scanned {
        scan_ms: scan.scan_ms,
        rescore_ms: scan.rescore_ms,
        scans: scan.scans,
        rescored: scan.rescored,
        counted: scan.histogram.total(),
    };
    write(to, &Answer::Selected(scanned))
}
