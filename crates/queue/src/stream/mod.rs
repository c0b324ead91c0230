//! The queue of a cluster: a Redis stream with a consumer group.
//!
//! Several references travel as one entry, a [`block`]. A consumer ends an entry when the last of
//! its references is settled; what it gives back becomes a new entry, at the end of the stream,
//! because a stream has no front. Server and data may vanish, or come back from an older copy, at
//! any moment. Two things let the dispatcher notice and fill the queue again:
//!
//! - a *life marker* beside the stream, which every script of the dispatcher checks: missing, older
//!   or behind what was pushed, and the content is lost; newer, and so is the dispatcher;
//! - an invariant: whatever is outstanding has a reference in the stream, so a depth below the
//!   number of outstanding permits means that references are missing.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | how to reach the server, names of keys |
//! | [`block`] | bytes of an entry |
//! | [`scripts`] | what the server is asked to do |
//! | [`server`] | whether a server can hold a queue |
//! | [`link`] | a connection that is made again |
//! | [`held`] | what this consumer holds |
//! | [`reader`] | reads blocks while somebody waits for them |

mod block;
mod config;
mod held;
mod link;
mod reader;
mod scripts;
mod server;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::{FromRedisValue, RedisError, ScriptInvocation};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::config::refused;
use self::held::{End, Held, Settlement};
use self::link::{Connector, Failure, Link, jittered};
use self::scripts::{Answer, Scripts, Tenure, fresh_nonce, number};
use crate::{Lease, LeaseId, Queue, QueueError};

pub use config::{Certificates, Credential, RedisConfig};

/// Blocks that one command adds: a quarter of a megabyte at the usual size, about a millisecond of
/// the server's time.
const BLOCKS_A_PUSH: usize = 64;
/// Pause before looking again whether there is room: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A handle of a queue in Redis: the one dispatcher's, or a consumer's.
pub struct RedisQueue {
    shared: Arc<Shared>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Name in the consumer group, of this handle alone.
    consumer: String,
    block: usize,
    capacity: usize,
    scripts: Scripts,
    link: Link,
    /// The life that this handle began; `None` for a consumer.
    tenure: Option<Mutex<Tenure>>,
    held: Mutex<Held>,
    /// Whose turn it is to tell the server what was settled.
    telling: tokio::sync::Mutex<()>,
    /// Blocks arrived.
    arrived: Notify,
    /// Callers want references.
    wanted: Notify,
    /// Something was settled here.
    left: Notify,
    closed: CancellationToken,
    /// Whether strange entries were mentioned.
    has_warned: AtomicBool,
}

impl RedisQueue {
    /// Opens the queue as a consumer: it leases and settles, and takes part in whatever life there
    /// is, now or later. Pushing and beginning anew are the dispatcher's; here they fail with
    /// [`QueueError::Superseded`].
    ///
    /// # Errors
    /// [`QueueError::Refused`] when configuration or server are not fit, with the mend;
    /// [`QueueError::Unavailable`] when the server cannot be reached.
    pub async fn open(config: RedisConfig) -> Result<Self, QueueError> {
        Self::start(config, None).await
    }

    /// Opens the queue as the dispatcher with number `life` (the ledger's epoch), which forgets
    /// what is there: everything outstanding is to be pushed.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`QueueError::Superseded`] when a dispatcher with a higher number
    /// was here.
    pub async fn open_as_dispatcher(config: RedisConfig, life: u64) -> Result<Self, QueueError> {
        let tenure = Tenure {
            life: format!("{life:020}"),
            nonce: fresh_nonce()?,
            pushed: 0,
        };
        let queue = Self::start(config, Some(tenure)).await?;
        queue.restart().await?;
        Ok(queue)
    }

    async fn start(config: RedisConfig, tenure: Option<Tenure>) -> Result<Self, QueueError> {
        let scripts = Scripts::new(config.keys()?);
        let consumer = consumer_name()?;
        let connector = Connector::for_commands(config.clone());
        let mut connection = connector.connect().await?;
        server::check(&mut connection).await?;
        let closed = CancellationToken::new();
        let shared = Arc::new(Shared {
            consumer,
            block: config.block(),
            capacity: config.capacity.max(1),
            scripts,
            link: Link::keep(connector, Some(connection), closed.clone()),
            tenure: tenure.map(Mutex::new),
            held: Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            wanted: Notify::new(),
            left: Notify::new(),
            closed,
            has_warned: AtomicBool::new(false),
        });
        let reader = Mutex::new(Some(tokio::spawn(reader::run(shared.clone(), config))));
        Ok(Self { shared, reader })
    }

    /// Closes the queue and waits until what was delivered to nobody is given back to other
    /// consumers. Leases stay: settle them before.
    pub async fn leave(&self) {
        self.close();
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = match reader {
            Some(reader) => Some(reader.await),
            None => None,
        } {
            tracing::warn!(%error, "the queue's reader failed");
        }
    }
}

impl Drop for RedisQueue {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

/// Host, process and chance: never the name of another handle.
fn consumer_name() -> Result<String, QueueError> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let chance = getrandom::u64().map_err(|e| refused(format!("the operating system gives no random numbers: {e}")))?;
    Ok(format!("{host}-{}-{chance:016x}", std::process::id()))
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        // No invariant of what is held spans a panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), QueueError> {
        if self.closed.is_cancelled() {
            return Err(QueueError::Closed);
        }
        Ok(())
    }

    /// What this dispatcher knows of its life.
    fn tenure(&self) -> Result<MutexGuard<'_, Tenure>, QueueError> {
        let tenure = self.tenure.as_ref().ok_or(QueueError::Superseded)?;
        Ok(tenure.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs a script once. After an error nobody knows whether it ran.
    async fn call<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        let mut connection = self.link.connection_soon().await?;
        let answer = script.invoke_async(&mut connection.redis).await;
        answer.map_err(|error| self.failure(connection.generation, &error))
    }

    fn failure(&self, generation: u64, error: &RedisError) -> QueueError {
        match Failure::of(error) {
            Failure::Absent => QueueError::Lost,
            Failure::Declined(cause) => QueueError::Unavailable { cause },
            Failure::Broken(_) if self.closed.is_cancelled() => QueueError::Closed,
            Failure::Broken(cause) => {
                self.link.lose(generation);
                QueueError::Unavailable { cause }
            }
        }
    }

    /// Adds what there is room for of `blocks`; returns how many.
    async fn add(&self, tenure: &Tenure, blocks: &[Vec<u8>]) -> Result<usize, QueueError> {
        let push = self.scripts.push(tenure, self.capacity, blocks);
        let answer = self.call::<Answer>(&push).await?.owned()?;
        let pushed = number(answer.second).map_err(|error| QueueError::Unavailable {
            cause: error.to_string(),
        })?;
        let mut now = self.tenure()?;
        if now.nonce == tenure.nonce {
            now.pushed = now.pushed.max(pushed);
        }
        Ok(usize::try_from(answer.first).map_or(blocks.len(), |added| added.min(blocks.len())))
    }

    /// Waits until something may have left the queue.
    async fn room(&self, pause: Duration) -> Result<(), QueueError> {
        tokio::select! {
            () = self.closed.cancelled() => Err(QueueError::Closed),
            () = self.left.notified() => Ok(()),
            () = tokio::time::sleep(jittered(pause)) => Ok(()),
        }
    }

    /// Tells the server how deliveries ended. What it could not be told stays for the next time.
    /// One caller at a time: what others settle meanwhile travels together, with the next.
    async fn flush(&self) -> Result<(), QueueError> {
        let _turn = self.telling.lock().await;
        loop {
            let Some(settlement) = self.held().next_settlement() else {
                return Ok(());
            };
            let told = Telling {
                shared: self,
                settlement: Some(settlement),
            };
            told.tell().await?;
            self.left.notify_waiters();
        }
    }

    async fn settle(&self, leases: &[LeaseId], end: End) -> Result<(), QueueError> {
        self.held().settle(leases, end);
        self.flush().await
    }
}

/// A settlement on its way, which goes back to what waits when nobody learns that it arrived.
struct Telling<'a> {
    shared: &'a Shared,
    settlement: Option<Settlement>,
}

impl Telling<'_> {
    async fn tell(mut self) -> Result<(), QueueError> {
        let Some(settlement) = &self.settlement else {
            return Ok(());
        };
        let settle = self.shared.scripts.settle(settlement, self.shared.block);
        match self.shared.call::<u64>(&settle).await {
            // When its life is over, so are its deliveries.
            Ok(_) | Err(QueueError::Lost) => {
                self.settlement = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if let Some(settlement) = self.settlement.take() {
            self.shared.held().keep(settlement);
        }
    }
}

/// A caller that waits for references.
struct Wanting<'a> {
    shared: &'a Shared,
    references: usize,
}

impl<'a> Wanting<'a> {
    fn new(shared: &'a Shared, references: usize) -> Self {
        shared.held().want(references);
        Self { shared, references }
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.shared.held().unwant(self.references);
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, references: Vec<crate::Reference>) -> Result<(), QueueError> {
        let shared = &*self.shared;
        let tenure = shared.tenure()?.clone();
        let blocks = references.chunks(shared.block);
        let blocks: Vec<Vec<u8>> = blocks.map(|block| block::encode(&tenure.nonce, block)).collect();
        let mut rest = &blocks[..];
        let mut pause = FIRST_PAUSE;
        while !rest.is_empty() {
            shared.check_open()?;
            let some = &rest[..rest.len().min(BLOCKS_A_PUSH)];
            let added = shared.add(&tenure, some).await?;
            rest = &rest[added..];
            if added < some.len() {
                pause = if added > 0 {
                    FIRST_PAUSE
                } else {
                    (pause * 2).min(LONGEST_PAUSE)
                };
                shared.room(pause).await?;
            }
        }
        Ok(())
    }

    async fn lease(&self, max: usize) -> Result<Vec<Lease>, QueueError> {
        let shared = &*self.shared;
        let mut wanting = None;
        loop {
            let arrived = shared.arrived.notified();
            shared.check_open()?;
            let leases = shared.held().take(max, Instant::now());
            if !leases.is_empty() {
                return Ok(leases);
            }
            wanting.get_or_insert_with(|| Wanting::new(shared, max.max(1)));
            shared.wanted.notify_one();
            tokio::select! {
                () = shared.closed.cancelled() => return Err(QueueError::Closed),
                () = arrived => {}
            }
        }
    }

    async fn ack(&self, leases: &[LeaseId]) -> Result<(), QueueError> {
        self.shared.settle(leases, End::Acknowledged).await
    }

    async fn nack(&self, leases: &[LeaseId]) -> Result<(), QueueError> {
        self.shared.settle(leases, End::Returned).await
    }

    async fn depth(&self) -> Result<usize, QueueError> {
        let shared = &*self.shared;
        let tenure = match &shared.tenure {
            Some(_) => Some(shared.tenure()?.clone()),
            None => None,
        };
        let answer = shared
            .call::<Answer>(&shared.scripts.look(tenure.as_ref()))
            .await?
            .owned()?;
        let counted = usize::try_from(answer.first).unwrap_or(usize::MAX);
        let nonce = Vec::<u8>::from_redis_value(answer.second).unwrap_or_default();
        let Ok(nonce) = nonce.try_into() else {
            return Err(QueueError::Lost);
        };
        // After the count, so that at worst what was settled meanwhile is counted still.
        Ok(counted.saturating_sub(shared.held().settled_of(&nonce)))
    }

    async fn reclaim(&self, age: Duration) -> Result<usize, QueueError> {
        let shared = &*self.shared;
        let own = {
            let mut held = shared.held();
            let old = held.older_than(age, Instant::now());
            held.settle(&old, End::Returned)
        };
        shared.flush().await?;
        let (mut reclaimed, mut page) = (own, "-".to_owned());
        while !page.is_empty() {
            let step = shared.scripts.reclaim(&shared.consumer, age, &page);
            let (references, next): (usize, String) = match shared.call(&step).await {
                // Nothing is held of a queue that is not there.
                Err(QueueError::Lost) => break,
                step => step?,
            };
            reclaimed += references;
            page = next;
        }
        Ok(reclaimed)
    }

    async fn restart(&self) -> Result<(), QueueError> {
        let shared = &*self.shared;
        let tenure = Tenure {
            life: shared.tenure()?.life.clone(),
            nonce: fresh_nonce()?,
            pushed: 0,
        };
        shared.check_open()?;
        shared.call::<Answer>(&shared.scripts.begin(&tenure)).await?.owned()?;
        shared.held().clear();
        *shared.tenure()? = tenure;
        Ok(())
    }

    async fn discard(&self) -> Result<(), QueueError> {
        let shared = &*self.shared;
        let tenure = shared.tenure()?.clone();
        match shared.call::<Answer>(&shared.scripts.end(&tenure)).await?.owned() {
            // Then nothing of it is there.
            Err(QueueError::Lost) => {}
            ended => drop(ended?),
        }
        shared.held().clear();
        Ok(())
    }

    fn close(&self) {
        self.shared.closed.cancel();
    }
}
