//! Reads blocks off the stream while callers wait for references: on a connection of its own,
//! because a blocking read holds up whatever comes after it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, cmd};

use super::Shared;
use super::block::decode;
use super::config::RedisConfig;
use super::held::EntryId;
use super::link::{Connection, Connector, Failure, Link, jittered};
use super::scripts::GROUP;
use crate::QueueError;

/// How long the server may wait for a block: then a dead connection is noticed, and a consumer
/// shows that it lives.
const WAIT: Duration = Duration::from_secs(2);
/// Entries a read asks for at most: some megabytes.
const MOST_ENTRIES: usize = 64;
/// Pause before looking again for a stream that is not there: first, and at most. A dispatcher
/// notices the loss and begins anew within its own time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Reads until the queue is closed; then gives back what nobody took, and leaves the group.
pub(super) async fn run(shared: Arc<Shared>, config: RedisConfig) {
    let closed = shared.closed.clone();
    tokio::select! {
        () = closed.cancelled() => {}
        () = read_on_demand(&shared, config) => {}
    }
    shared.held().return_surplus();
    let told = shared.flush().await;
    if told.is_ok() {
        // Whoever reclaims removes a consumer that could not leave.
        let _ = shared.call::<u64>(&shared.scripts.leave(&shared.consumer)).await;
    }
}

/// Ends when the queue is closed.
async fn read_on_demand(shared: &Shared, config: RedisConfig) {
    let mut entries = shared.demand().await;
    let link = Link::keep(Connector::for_reads(config, WAIT), None, shared.closed.clone());
    let mut reader = Reader {
        shared,
        recovered: 0,
        pause: FIRST_PAUSE,
    };
    while let Ok(mut connection) = link.connection().await {
        if let Err(failure) = reader.read(&mut connection, entries).await {
            reader.recover(failure, &link, connection.generation).await;
        }
        entries = shared.demand().await;
    }
}

struct Reader<'a> {
    shared: &'a Shared,
    /// The last connection on which deliveries that may have got lost on the way were read again.
    recovered: u64,
    /// Before the next look for a stream that is not there.
    pause: Duration,
}

impl Reader<'_> {
    /// Up to `entries` new deliveries; on a new connection first what this consumer was delivered
    /// before.
    async fn read(&mut self, connection: &mut Connection, entries: usize) -> Result<(), Failure> {
        let redis = &mut connection.redis;
        if self.recovered < connection.generation {
            let mut from = "0".to_owned();
            while let Some(last) = self.take(self.ask(redis, MOST_ENTRIES, &from).await).await? {
                from = last;
            }
            self.recovered = connection.generation;
        }
        if self.shared.held().demand() > 0 {
            self.take(self.ask(redis, entries, ">").await).await?;
        }
        self.found();
        Ok(())
    }

    async fn ask(&self, redis: &mut MultiplexedConnection, entries: usize, from: &str) -> RedisResult<Value> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.shared.consumer);
        read.arg("COUNT").arg(entries.clamp(1, MOST_ENTRIES));
        read.arg("BLOCK").arg(WAIT.as_millis() as u64);
        read.arg("STREAMS").arg(self.shared.scripts.stream()).arg(from);
        read.query_async(redis).await
    }

    /// Takes deliveries in; returns the last of them.
    async fn take(&self, answer: RedisResult<Value>) -> Result<Option<EntryId>, Failure> {
        let answer = answer.map_err(|error| Failure::of(&error))?;
        let mut last = None;
        let mut strange = Vec::new();
        for (id, value) in entries_of(answer) {
            match value.as_deref().and_then(decode) {
                Some((nonce, references)) => {
                    self.shared.held().admit(id.clone(), nonce, references);
                }
                None => strange.push(id.clone()),
            }
            last = Some(id);
        }
        self.shared.arrived.notify_waiters();
        if !strange.is_empty() {
            self.shared.discard(&strange).await;
        }
        Ok(last)
    }

    fn found(&mut self) {
        if self.pause != FIRST_PAUSE {
            tracing::info!(stream = self.shared.scripts.stream(), "the queue is there again");
            self.pause = FIRST_PAUSE;
        }
    }

    async fn recover(&mut self, failure: Failure, link: &Link, generation: u64) {
        let cause = match failure {
            Failure::Broken(_) => return link.lose(generation),
            Failure::Absent => "the queue lost its content",
            Failure::Declined(ref cause) => cause,
        };
        if self.pause == FIRST_PAUSE {
            let stream = self.shared.scripts.stream();
            tracing::warn!(stream, cause, "nothing can be read off the queue; trying again");
        }
        tokio::time::sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Entries of an answer to `XREADGROUP` on one stream, each with its block: `None` when it is not
/// one field of the right name, or was deleted since.
fn entries_of(answer: Value) -> Vec<(EntryId, Option<Vec<u8>>)> {
    let Value::Array(mut streams) = answer else {
        return vec![];
    };
    let Some(Value::Array(mut stream)) = streams.pop() else {
        return vec![];
    };
    let Some(Value::Array(entries)) = stream.pop() else {
        return vec![];
    };
    entries.into_iter().filter_map(entry_of).collect()
}

fn entry_of(entry: Value) -> Option<(EntryId, Option<Vec<u8>>)> {
    let Value::Array(parts) = entry else { return None };
    let [Value::BulkString(id), fields] = <[Value; 2]>::try_from(parts).ok()? else {
        return None;
    };
    let value = match fields {
        Value::Array(fields) => match <[Value; 2]>::try_from(fields) {
            Ok([Value::BulkString(name), Value::BulkString(value)]) if name == b"b" => Some(value),
            _ => None,
        },
        _ => None,
    };
    Some((String::from_utf8(id).ok()?, value))
}

/// Entries that hold about `references`.
pub(super) fn entries_for(references: usize, block: usize) -> usize {
    references.div_ceil(block).clamp(1, MOST_ENTRIES)
}

impl Shared {
    /// Waits until callers want references; returns how many entries hold them.
    async fn demand(&self) -> usize {
        loop {
            let wanted = self.held().demand();
            if wanted > 0 {
                return entries_for(wanted, self.block);
            }
            self.wanted.notified().await;
        }
    }

    /// Deletes entries that are not blocks: some stranger's.
    async fn discard(&self, entries: &[EntryId]) {
        let warned = self.has_warned.swap(true, std::sync::atomic::Ordering::Relaxed);
        if !warned {
            let (stream, entry) = (self.scripts.stream(), &entries[0]);
            tracing::warn!(
                stream,
                entry,
                "skipped what is not ours in the queue; more of it will not be mentioned"
            );
        }
        let discarded: Result<(), QueueError> = async {
            let mut connection = self.link.connection_soon().await?;
            let mut both = redis::pipe();
            both.cmd("XACK")
                .arg(self.scripts.stream())
                .arg(GROUP)
                .arg(entries)
                .ignore();
            both.cmd("XDEL").arg(self.scripts.stream()).arg(entries).ignore();
            let done = both.query_async::<()>(&mut connection.redis).await;
            done.map_err(|error| self.failure(connection.generation, &error))
        }
        .await;
        if let Err(error) = discarded {
            tracing::debug!(%error, "strange entries stay until somebody reclaims them");
        }
    }
}
