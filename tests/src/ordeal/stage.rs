//! The programs of a job and the lines between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use stillhouse_core::dice::Dice;
use stillhouse_core::job::{Control, JobSpec, OnAmbiguous};
use stillhouse_core::sampler::{Purpose, Stream};

use super::Options;
use super::blow::{Line, Victim};
use super::strike::Relief;
use crate::jobs::{self, CLASSES, SHAPE};
use crate::mortal::Mortal;
use crate::outcomes::Outcome;
use crate::ports::free_address;
use crate::processes::{run_job, stillhouse, wait_for};
use crate::proxy::Proxy;
use crate::redis::{Persistence, RedisServer};

/// Deadline of a request: short, so that a teacher that hangs costs seconds.
const DEADLINE_SECONDS: f64 = 2.0;
/// A gateway that ended is started again after so long, as a supervisor would.
const GATEWAY_PAUSE: Duration = Duration::from_millis(300);

/// A job with everything it needs, each part of which may die.
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    pub(super) job: JobSpec,
    pub(super) coordinator: Mortal,
    pub(super) gateways: Vec<Mortal>,
    pub(super) redis: RedisServer,
    pub(super) teacher: Mortal,
    pub(super) teacher_address: SocketAddr,
    /// In the order of [`Line::ALL`].
    lines: [Proxy; 4],
    /// What is still to be undone, and when.
    pub(super) reliefs: Vec<(Instant, Relief)>,
    /// Largest file that the coordinator may write, while its disk is full.
    pub(super) disk_limit: Option<u64>,
}

impl Stage {
    /// Draws a job and starts everything but its coordinator.
    pub(super) fn set_up(options: &Options, folder: &Path, dice: &mut Dice) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let persistence = dice.one_of(&Persistence::ALL);
        let redis = RedisServer::start(&options.redis, &folder.join("redis"), persistence)?;
        let (teacher_address, desk) = (free_address(), free_address());
        let lines = [desk, redis.address(), redis.address(), teacher_address];
        let lines = lines.map(|target| Proxy::start(free_address(), target));
        let [desk_line, gateway_queue, coordinator_queue, teacher_line] = lines;
        let lines = [desk_line?, gateway_queue?, coordinator_queue?, teacher_line?];
        let address = |line: Line| lines[line as usize].address();
        let job = draw_job(dice, address(Line::Teacher), address(Line::CoordinatorQueue));
        let token = token(dice);
        let has_gateway = dice.percent(50);
        let log = |name: &str| folder.join(format!("{name}.log"));
        let coordinator = coordinator(folder, &job, desk, has_gateway, &token);
        let gateway = gateway(address(Line::Desk), address(Line::GatewayQueue), &token);
        let gateways = 0..dice.between(2, 4);
        let gateways = gateways.map(|at| Mortal::new(gateway(), &log(&format!("gateway-{at}"))));
        let mut stage = Self {
            coordinator: Mortal::new(coordinator, &log("coordinator")),
            gateways: gateways.collect(),
            teacher: Mortal::new(
                teacher(&options.teacher, teacher_address, &folder.join("bill")),
                &log("teacher"),
            ),
            folder: folder.to_owned(),
            job,
            redis,
            teacher_address,
            lines,
            reliefs: vec![],
            disk_limit: None,
        };
        stage.start(Victim::Teacher)?;
        stage.gateways.iter_mut().for_each(Mortal::start);
        let policy = stage.job.spec.budget.on_ambiguous;
        let gateways = stage.gateways.len();
        tracing::debug!(?folder, ?policy, ?persistence, gateways, has_gateway, "a job begins");
        Ok(stage)
    }

    /// The job directory.
    pub(super) fn dir(&self) -> PathBuf {
        self.folder.join("job")
    }

    /// What the job left so far.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::of(&self.dir())
    }

    /// The teacher's bill.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn bill(&self) -> std::io::Result<Vec<String>> {
        stillhouse_teacher::BillFile::read(&self.folder.join("bill"))
    }

    pub(super) fn line(&mut self, line: Line) -> &mut Proxy {
        &mut self.lines[line as usize]
    }

    /// The program of a victim.
    pub(super) fn program(&self, victim: Victim) -> &Mortal {
        match victim {
            Victim::Coordinator => &self.coordinator,
            Victim::Gateway(at) => &self.gateways[at],
            Victim::Redis => self.redis.process(),
            Victim::Teacher => &self.teacher,
        }
    }

    pub(super) fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Coordinator => drop(self.coordinator.kill()),
            Victim::Gateway(at) => drop(self.gateways[at].kill()),
            Victim::Redis => self.redis.kill(),
            // Whoever connects is refused, as by a machine on which nobody listens.
            Victim::Teacher => {
                self.line(Line::Teacher).shut();
                self.teacher.kill();
            }
        }
    }

    /// Starts a program, unless it lives.
    ///
    /// # Errors
    /// When it does not come up.
    pub(super) fn start(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::Coordinator => {
                self.coordinator.start();
                self.limit_disk();
            }
            Victim::Gateway(at) => self.gateways[at].start(),
            Victim::Redis => self.redis.revive(),
            Victim::Teacher => {
                self.teacher.start();
                let address = self.teacher_address;
                wait_for("the teacher to listen", || std::net::TcpStream::connect(address).ok());
                self.line(Line::Teacher).open()?;
            }
        }
        Ok(())
    }

    /// Sees to gateways and a teacher that ended by themselves.
    pub(super) fn supervise(&mut self, now: Instant) {
        for at in 0..self.gateways.len() {
            if let Some(status) = self.gateways[at].ended() {
                tracing::debug!(at, %status, "a gateway ended");
                self.later(now + GATEWAY_PAUSE, Relief::Start(Victim::Gateway(at)));
            }
        }
        if let Some(status) = self.teacher.ended() {
            tracing::debug!(%status, "the teacher died");
            self.kill(Victim::Teacher);
            self.later(now + GATEWAY_PAUSE, Relief::Start(Victim::Teacher));
        }
    }

    pub(super) fn later(&mut self, when: Instant, relief: Relief) {
        self.reliefs.push((when, relief));
    }
}

/// Some hundred queries, most of the time spent asking: where most can go wrong.
fn draw_job(dice: &mut Dice, teacher: SocketAddr, redis: SocketAddr) -> JobSpec {
    let mut job = jobs::three_rounds(&format!("http://{teacher}"));
    let spec = &mut job.spec;
    spec.queue = Some(jobs::queue_at(redis));
    spec.images.take = Some(120);
    spec.control = dice.one_of(&[Control::None, Control::Random]);
    let arms = if spec.control == Control::None { 1 } else { 2 };
    spec.budget.per_round = dice.between(20, 120);
    spec.budget.queries = 120 + 20 + arms * spec.budget.per_round * dice.between(3, 5);
    spec.budget.on_ambiguous = match dice.percent(75) {
        true => OnAmbiguous::Hold,
        false => OnAmbiguous::Resend(2),
    };
    spec.teacher.batch = Some(4);
    spec.teacher.concurrency = dice.between(2, 4) as u32;
    spec.teacher.rate_per_second = Some(dice.one_of(&[40.0, 100.0, 300.0]));
    spec.teacher.timeout_seconds = DEADLINE_SECONDS;
    spec.training.epochs = 4;
    job
}

/// A token in hexadecimal, drawn for this job.
fn token(dice: &mut Dice) -> String {
    let stream = Stream::new(dice.below(u64::MAX), Purpose::Shuffle, 0);
    (0..4).map(|at| format!("{:016x}", stream.at(at))).collect()
}

fn coordinator(folder: &Path, job: &JobSpec, desk: SocketAddr, has_gateway: bool, token: &str) -> Command {
    let mut command = run_job(&jobs::write(folder, job), &folder.join("job"), 1);
    command.args(["--listen", &desk.to_string()]);
    if !has_gateway {
        command.arg("--no-gateway");
    }
    command.env("STILLHOUSE_TOKEN", token);
    command
}

fn gateway(desk: SocketAddr, redis: SocketAddr, token: &str) -> impl Fn() -> Command {
    move || {
        let mut command = stillhouse();
        command.args(["gateway", "--coordinator", &desk.to_string()]);
        command.args(["--queue", &format!("redis://{redis}")]);
        command.env("STILLHOUSE_TOKEN", token);
        command
    }
}

fn teacher(program: &Path, address: SocketAddr, bill: &Path) -> Command {
    let shape = format!("{}x{}x{}", SHAPE.channels, SHAPE.height, SHAPE.width);
    let mut command = Command::new(program);
    command.args(["--listen", &address.to_string(), "--shape", &shape]);
    command.args(["--classes", &CLASSES.to_string()]);
    command.arg("--bill").arg(bill);
    command
}
