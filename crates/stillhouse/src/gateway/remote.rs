//! The link to a desk in another process, made again whenever it is lost.
//!
//! A call waits until it is answered, however often the link is lost in between: the desk gives the
//! same answer to the same request again. Only the desk's word ends the asking.

use std::collections::BTreeMap;
use std::time::Duration;

use stillhouse_core::ImageSet;
use stillhouse_ledger::{Permit, RequestId};
use stillhouse_protocol::codec;
use stillhouse_runtime::link::{self, Connection, FrameReceiver, FrameSender, LinkError, Purpose, Target};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::desk::message::{
    Answer, Begun, DESK_VERSION, FromGateway, GatewayId, Outcome, Question, Settled, ToGateway, Welcome,
};

/// Calls that wait for the link: each connection of the gateway makes one at a time, and there are
/// 256 at most.
const CALLS: usize = 512;
/// A desk takes a gateway that is silent for five of these for lost.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Pauses between attempts to make the link again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A desk welcomes at once, but seed images take their time.
const WELCOME: Duration = Duration::from_secs(60);

/// Why a gateway cannot work for a desk.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// No link, or one that was refused.
    #[error("cannot reach the coordinator")]
    Link(#[from] LinkError),
    /// The link broke, or nothing came over it, before a welcome.
    #[error("the coordinator gave no welcome")]
    NoWelcome,
    /// It speaks another version, or not at all.
    #[error("the coordinator at the other end does not answer as one: {cause}")]
    Protocol {
        /// What was expected and found.
        cause: String,
    },
    /// Another job has taken its place.
    #[error("the coordinator now runs another job")]
    OtherJob,
}

impl DeskError {
    /// Whether trying again is of no use. A link that breaks is none of that, even half-way through
    /// its beginning: a coordinator that starts, or a balancer in front of one that does not.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Link(error) => error.is_final(),
            Self::NoWelcome => false,
            Self::Protocol { .. } | Self::OtherJob => true,
        }
    }
}

enum Call {
    Begin {
        request: RequestId,
        permits: Vec<Permit>,
        reply: oneshot::Sender<Begun>,
    },
    Settle {
        request: RequestId,
        outcome: Outcome,
        reply: oneshot::Sender<Settled>,
    },
    Generated {
        reply: oneshot::Sender<Option<ImageSet>>,
    },
    Foreign {
        cause: String,
    },
}

/// A desk in another process. Cheap to clone.
#[derive(Clone)]
pub struct RemoteDesk {
    gateway: GatewayId,
    calls: mpsc::Sender<Call>,
}

/// The task that keeps the link.
pub struct LinkKeeper {
    gateway: GatewayId,
    coordinator: Target,
    digest: [u8; 32],
    calls: mpsc::Receiver<Call>,
    connection: Option<(FrameSender, FrameReceiver)>,
    unanswered: BTreeMap<u64, Call>,
    next_call: u64,
}

impl RemoteDesk {
    /// Makes the link to `coordinator` and hears what the job is. The gateway works as long as the
    /// [`LinkKeeper`] runs.
    ///
    /// # Errors
    /// When there is no coordinator, or it refuses.
    pub async fn connect(coordinator: Target, gateway: GatewayId) -> Result<(Self, LinkKeeper, Welcome), DeskError> {
        let (sender, receiver, welcome) = greet(&coordinator, gateway).await?;
        let (calls, received) = mpsc::channel(CALLS);
        let keeper = LinkKeeper {
            gateway,
            coordinator,
            digest: welcome.digest,
            calls: received,
            connection: Some((sender, receiver)),
            unanswered: BTreeMap::new(),
            next_call: 0,
        };
        Ok((Self { gateway, calls }, keeper, welcome))
    }

    /// Whose link it is.
    #[must_use]
    pub fn gateway(&self) -> GatewayId {
        self.gateway
    }

    pub(super) async fn begin(&self, request: RequestId, permits: Vec<Permit>) -> Begun {
        let (reply, answer) = oneshot::channel();
        let call = Call::Begin {
            request,
            permits,
            reply,
        };
        // The keeper ends when the job does.
        drop(self.calls.send(call).await);
        answer.await.unwrap_or(Begun::Over)
    }

    pub(super) async fn settle(&self, request: RequestId, outcome: Outcome) -> Settled {
        let (reply, answer) = oneshot::channel();
        let call = Call::Settle {
            request,
            outcome,
            reply,
        };
        drop(self.calls.send(call).await);
        answer.await.unwrap_or(Settled::Over)
    }

    pub(super) async fn generated(&self) -> Option<ImageSet> {
        let (reply, answer) = oneshot::channel();
        drop(self.calls.send(Call::Generated { reply }).await);
        answer.await.ok().flatten()
    }

    pub(super) async fn report_foreign(&self, cause: String) {
        drop(self.calls.send(Call::Foreign { cause }).await);
    }
}

/// How one life of the link ended.
enum Ended {
    /// Everything is settled, and nobody asks any more.
    Done,
    /// The link is lost.
    Lost(String),
}

impl LinkKeeper {
    /// Keeps the link until every [`RemoteDesk`] is gone and every call is answered. `dismissed` is
    /// cancelled when the desk says that the job asks no more.
    ///
    /// # Errors
    /// When another job answers at the coordinator's address.
    pub async fn run(mut self, dismissed: CancellationToken) -> Result<(), DeskError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (sender, receiver) = match self.connection.take() {
                Some(connection) => connection,
                None => match greet(&self.coordinator, self.gateway).await {
                    Ok((_, _, welcome)) if welcome.digest != self.digest => return Err(DeskError::OtherJob),
                    Ok((sender, receiver, _)) => {
                        tracing::info!(coordinator = self.coordinator.address, "back at the coordinator");
                        (sender, receiver)
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no link yet");
                        if self.is_idle() {
                            return Ok(());
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        continue;
                    }
                },
            };
            pause = FIRST_PAUSE;
            match self.converse(sender, receiver, &dismissed).await {
                Ended::Done => return Ok(()),
                Ended::Lost(cause) => tracing::warn!(cause, "lost the coordinator; trying again"),
            }
        }
    }

    /// Whether nobody asks any more, and everything that was asked is answered.
    fn is_idle(&mut self) -> bool {
        self.unanswered.is_empty() && self.calls.is_closed() && self.calls.is_empty()
    }

    async fn converse(
        &mut self,
        sender: FrameSender,
        mut receiver: FrameReceiver,
        dismissed: &CancellationToken,
    ) -> Ended {
        for (call, question) in &self.unanswered {
            if let Err(cause) = send(&sender, &question.message(*call)).await {
                return Ended::Lost(cause);
            }
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut is_over = false;
        loop {
            if is_over && self.unanswered.is_empty() {
                return farewell(&sender).await;
            }
            let sent = tokio::select! {
                frame = receiver.recv() => match frame {
                    Ok(Some(frame)) => self.heard(&frame, dismissed),
                    Ok(None) => Err("it closed the link".to_owned()),
                    Err(error) => Err(error.to_string()),
                },
                call = self.calls.recv(), if !is_over => match call {
                    Some(call) => self.ask(call, &sender).await,
                    None => {
                        is_over = true;
                        Ok(())
                    }
                },
                _ = heartbeat.tick() => send(&sender, &FromGateway::Heartbeat).await,
            };
            if let Err(cause) = sent {
                return Ended::Lost(cause);
            }
        }
    }

    async fn ask(&mut self, call: Call, sender: &FrameSender) -> Result<(), String> {
        let number = self.next_call;
        self.next_call += 1;
        let message = call.message(number);
        if !matches!(call, Call::Foreign { .. }) {
            self.unanswered.insert(number, call);
        }
        send(sender, &message).await
    }

    fn heard(&mut self, frame: &[u8], dismissed: &CancellationToken) -> Result<(), String> {
        match codec::decode::<ToGateway>(frame).map_err(|error| error.to_string())? {
            ToGateway::Welcome(_) => Err("a second welcome".into()),
            ToGateway::Leave => {
                dismissed.cancel();
                Ok(())
            }
            ToGateway::Answer { call, answer } => {
                // Whoever asked may have gone.
                match (self.unanswered.remove(&call), answer) {
                    (Some(Call::Begin { reply, .. }), Answer::Begun(begun)) => drop(reply.send(begun)),
                    (Some(Call::Settle { reply, .. }), Answer::Settled(settled)) => drop(reply.send(settled)),
                    (Some(Call::Generated { reply }), Answer::Generated(images)) => drop(reply.send(images)),
                    (None, _) => return Err(format!("an answer to call {call}, which was not made")),
                    (Some(_), _) => return Err(format!("an answer to another question than call {call}")),
                }
                Ok(())
            }
        }
    }
}

impl Call {
    fn message(&self, call: u64) -> FromGateway {
        let question = match self {
            Self::Begin { request, permits, .. } => Question::Begin {
                request: *request,
                permits: permits.clone(),
            },
            Self::Settle { request, outcome, .. } => Question::Settle {
                request: *request,
                outcome: outcome.clone(),
            },
            Self::Generated { .. } => Question::Generated,
            Self::Foreign { cause } => return FromGateway::Foreign { cause: cause.clone() },
        };
        FromGateway::Call { call, question }
    }
}

async fn greet(coordinator: &Target, gateway: GatewayId) -> Result<(FrameSender, FrameReceiver, Welcome), DeskError> {
    let connection: Connection = link::connect(coordinator, Purpose::Gateway, codec::MAX_MESSAGE_BYTES).await?;
    let (sender, mut receiver) = connection.split();
    let protocol = |cause: String| DeskError::Protocol { cause };
    let hello = FromGateway::Hello {
        version: DESK_VERSION,
        gateway,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        process: std::process::id(),
    };
    send(&sender, &hello).await.map_err(|_| DeskError::NoWelcome)?;
    let frame = tokio::time::timeout(WELCOME, receiver.recv()).await;
    let frame = frame.map_err(|_| DeskError::NoWelcome)??.ok_or(DeskError::NoWelcome)?;
    match codec::decode(&frame).map_err(|error| protocol(error.to_string()))? {
        ToGateway::Welcome(welcome) => Ok((sender, receiver, *welcome)),
        ToGateway::Answer { .. } | ToGateway::Leave => Err(protocol("expected a welcome first".into())),
    }
}

async fn send(sender: &FrameSender, message: &FromGateway) -> Result<(), String> {
    let bytes = codec::encode(message).map_err(|error| error.to_string())?;
    sender.send(bytes).await.map_err(|error| error.to_string())
}

async fn farewell(sender: &FrameSender) -> Ended {
    // Either the desk hears it, or it notices the silence.
    if send(sender, &FromGateway::Goodbye).await.is_ok() {
        drop(sender.flush().await);
    }
    Ended::Done
}

#[cfg(test)]
mod tests {
    use stillhouse_runtime::Secret;

    use super::*;

    #[tokio::test]
    async fn a_link_that_breaks_before_the_welcome_is_worth_another_try() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = tokio::spawn(async move { drop(listener.accept().await) });
        let (target, gateway) = (Target::plain(address, Secret::generate().unwrap()), GatewayId(1));
        let broken = RemoteDesk::connect(target.clone(), gateway).await.err();
        assert!(broken.is_some_and(|error| !error.is_final()));
        closing.await.unwrap();
        let absent = RemoteDesk::connect(target, gateway).await.err();
        assert!(absent.is_some_and(|error| !error.is_final()));
    }
}
