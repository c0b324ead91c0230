//! The desk for gateways in other processes: accept, welcome, answer, notice silence.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use stillhouse_core::ImageSet;
use stillhouse_protocol::codec;
use stillhouse_runtime::link::{Connection, FrameReceiver, FrameSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::message::{Answer, DESK_VERSION, FromGateway, GatewayId, Question, ToGateway, Welcome};
use super::{AskingStopped, Desk, DeskEvent};
use crate::chaos::lines::Lines;

/// Longest message of a gateway: the labels of one request, 4,096 images of up to 100,000 classes
/// would be more, but no teacher answers that.
pub const MAX_QUESTION_BYTES: usize = 256 << 20;
/// A gateway beats every two seconds; one silent for so long is stopped, cut off or overloaded.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a gateway that lost its link may take to come back before its requests are in doubt:
/// a restart of a switch, not of a data centre. Labels that come later are taken all the same.
const GRACE: Duration = Duration::from_secs(10);
/// Calls of one gateway that are answered at once: each of its connections makes one at a time.
const CALLS: usize = 1_024;
/// References that name images which a gateway does not have, in all: a few may be leftovers or
/// somebody's mistake, more are a job of other images in the same queue.
const FOREIGN: u32 = 64;

/// Which link of a gateway is its newest, while it has one.
type Sessions = Arc<Mutex<HashMap<GatewayId, u64>>>;

struct Service {
    desk: Desk,
    welcome: Vec<u8>,
    generated: Arc<OnceLock<ImageSet>>,
    sessions: Sessions,
    lines: Lines,
    foreign: Mutex<u32>,
}

/// Serves gateways whose links come from `gateways` until the desk is closed and everything that they have
/// under way is settled or abandoned. `generated` are the images of the pool that a gateway may come to need; links are
/// entered in `lines`.
///
/// # Errors
/// When the welcome is too long to send.
pub async fn serve(
    mut gateways: mpsc::Receiver<Connection>,
    desk: Desk,
    welcome: Welcome,
    generated: Arc<OnceLock<ImageSet>>,
    lines: Lines,
) -> Result<(), codec::CodecError> {
    let service = Arc::new(Service {
        desk,
        welcome: codec::encode(&ToGateway::Welcome(Box::new(welcome)))?,
        generated,
        sessions: Sessions::default(),
        lines,
        foreign: Mutex::new(0),
    });
    let mut links = JoinSet::new();
    for number in 0.. {
        tokio::select! {
            Some(connection) = gateways.recv() => drop(links.spawn(service.clone().link(number, connection))),
            () = service.desk.closed() => break,
        }
        // Links that ended leave nothing to look at.
        while links.try_join_next().is_some() {}
    }
    while links.join_next().await.is_some() {}
    Ok(())
}

impl Service {
    /// One link, from hello to loss; and then whether its gateway comes back.
    async fn link(self: Arc<Self>, number: u64, connection: Connection) {
        let reins = connection.reins();
        let (sender, mut receiver) = connection.split();
        let (gateway, host) = match hello(&mut receiver).await {
            Ok(hello) => hello,
            Err(cause) => return tracing::warn!(cause, "a connection of a gateway was refused"),
        };
        self.enter(gateway, number);
        self.lines.enter(gateway.to_string(), reins);
        // Events may be dropped; these may not.
        let metrics = stillhouse_metrics::desk();
        metrics.gateways.inc();
        self.desk.tell(DeskEvent::Joined { gateway, host });
        let cause = match sender.send(self.welcome.clone()).await {
            Ok(()) => self.converse(gateway, &sender, &mut receiver).await,
            Err(error) => Err(error.to_string()),
        };
        let said = cause
            .as_ref()
            .err()
            .cloned()
            .unwrap_or_else(|| "it said goodbye".into());
        metrics.gateways.dec();
        metrics.gateways_lost.inc();
        self.desk.tell(DeskEvent::Left { gateway, cause: said });
        if cause.is_err() && self.desk.has_under_way(gateway) {
            tokio::time::sleep(GRACE).await;
        }
        if self.leave(gateway, number) {
            self.desk.abandon(gateway).await;
        }
    }

    fn enter(&self, gateway: GatewayId, number: u64) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(gateway, number);
    }

    /// `true` when the gateway has not come back on another link.
    fn leave(&self, gateway: GatewayId, number: u64) -> bool {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = sessions.get(&gateway) == Some(&number);
        if is_last {
            sessions.remove(&gateway);
        }
        is_last
    }

    /// Answers calls until the gateway says goodbye.
    ///
    /// # Errors
    /// How the link ended otherwise.
    async fn converse(
        &self,
        gateway: GatewayId,
        sender: &FrameSender,
        receiver: &mut FrameReceiver,
    ) -> Result<(), String> {
        let slots = Arc::new(Semaphore::new(CALLS));
        // Questions whether to send end with the link: nobody would hear the answer.
        let mut beginning = JoinSet::new();
        let mut is_dismissed = false;
        loop {
            let message = tokio::select! {
                message = next(receiver) => message?,
                () = self.desk.closed(), if !is_dismissed => {
                    // What it has under way is still settled.
                    is_dismissed = true;
                    send(sender, &ToGateway::Leave).await?;
                    continue;
                }
            };
            while beginning.try_join_next().is_some() {}
            match message {
                FromGateway::Heartbeat => {}
                FromGateway::Goodbye => return Ok(()),
                FromGateway::Hello { .. } => return Err("a second hello".into()),
                FromGateway::Foreign { cause } => self.foreign(cause),
                FromGateway::Call { call, question } => {
                    let slot = slots.clone().try_acquire_owned();
                    let slot = slot.map_err(|_| format!("expected at most {CALLS} calls at once, found more"))?;
                    let reply = Reply {
                        call,
                        sender: sender.clone(),
                        _slot: slot,
                    };
                    let desk = self.desk.clone();
                    match question {
                        Question::Begin { request, permits } => drop(beginning.spawn(async move {
                            let begun = desk.begin(gateway, request, &permits).await;
                            reply.send(Answer::Begun(begun)).await;
                        })),
                        Question::Generated => {
                            let generated = self.generated.get().cloned();
                            reply.send(Answer::Generated(generated)).await;
                        }
                        // Never given up half-way.
                        Question::Settle { request, outcome } => drop(tokio::spawn(async move {
                            let settled = desk.settle(request, outcome).await;
                            reply.send(Answer::Settled(settled)).await;
                        })),
                    }
                }
            }
        }
    }

    fn foreign(&self, cause: String) {
        tracing::warn!(cause, "a gateway dropped references that name none of the job's images");
        let mut count = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if *count > FOREIGN {
            self.desk.stop(AskingStopped::Foreign { cause });
        }
    }
}

/// Where the answer to a call goes, and its place among those answered at once.
struct Reply {
    call: u64,
    sender: FrameSender,
    _slot: OwnedSemaphorePermit,
}

impl Reply {
    async fn send(self, answer: Answer) {
        let call = self.call;
        // A link that is gone is noticed by its reader; the call is made again.
        if let Err(cause) = send(&self.sender, &ToGateway::Answer { call, answer }).await {
            tracing::debug!(cause, "an answer was lost");
        }
    }
}

async fn send(sender: &FrameSender, message: &ToGateway) -> Result<(), String> {
    let bytes = codec::encode(message).map_err(|error| error.to_string())?;
    sender.send(bytes).await.map_err(|error| error.to_string())
}

async fn next(receiver: &mut FrameReceiver) -> Result<FromGateway, String> {
    let frame = tokio::time::timeout(SILENCE, receiver.recv()).await;
    let frame = frame
        .map_err(|_| format!("it was silent for {} s", SILENCE.as_secs()))?
        .map_err(|error| error.to_string())?;
    let frame = frame.ok_or("the link closed")?;
    codec::decode(&frame).map_err(|error| error.to_string())
}

async fn hello(receiver: &mut FrameReceiver) -> Result<(GatewayId, String), String> {
    match next(receiver).await? {
        FromGateway::Hello {
            version: DESK_VERSION,
            gateway,
            host,
            process,
        } => {
            let host: String = host.chars().filter(|c| !c.is_control()).take(64).collect();
            Ok((gateway, format!("{host}, process {process}")))
        }
        FromGateway::Hello { version, .. } => Err(format!("expected version {DESK_VERSION}, found {version}")),
        FromGateway::Call { .. } | FromGateway::Heartbeat | FromGateway::Foreign { .. } | FromGateway::Goodbye => {
            Err("expected a hello".into())
        }
    }
}
