//! A connection that is made again whenever it is lost.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::config::RedisConfig;
use crate::QueueError;

/// Pause after the first failed attempt to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between attempts: a server that is back is noticed within so long.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a failed command says about the queue.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is of no use any more.
    Broken(String),
    /// The server answered that stream, group or marker are not there, or not what they were.
    Absent,
    /// Another refusal by the server.
    Declined(String),
}

impl Failure {
    /// What `error` means.
    pub(super) fn of(error: &RedisError) -> Self {
        let text = error.to_string();
        // A script's error quotes the command's, so the words may stand anywhere.
        let absent = ["NOGROUP", "WRONGTYPE", "UNBLOCKED", "no such key"];
        if absent.iter().any(|word| text.contains(word)) {
            return Self::Absent;
        }
        match error.kind() {
            ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => Self::Broken(text),
            // A server that became a replica, or is loading, may be another one after a new look-up.
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading) => Self::Broken(text),
            _ => Self::Declined(text),
        }
    }
}

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    config: RedisConfig,
    /// An answer that takes longer ends the connection.
    patience: Duration,
    /// What for, in logs.
    purpose: &'static str,
}

impl Connector {
    /// For commands that answer at once.
    pub(super) fn for_commands(config: RedisConfig) -> Self {
        let patience = config.response_timeout;
        Self {
            config,
            patience,
            purpose: "commands",
        }
    }

    /// For reads that the server answers after up to `block`.
    pub(super) fn for_reads(config: RedisConfig, block: Duration) -> Self {
        let patience = config.response_timeout + block;
        Self {
            config,
            patience,
            purpose: "reads",
        }
    }

    /// Connects once.
    ///
    /// # Errors
    /// `Refused` when the configuration is unusable or the server denies access, `Unavailable`
    /// otherwise. Neither says a secret.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, QueueError> {
        let access = self.config.client()?;
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.response_timeout))
            .set_response_timeout(Some(self.patience));
        let connected = access.client.get_multiplexed_async_connection_with_config(&settings);
        connected.await.map_err(|error| {
            let text = access.redact(&error.to_string());
            let (address, code) = (&access.address, error.code().unwrap_or_default());
            let is_denied =
                error.kind() == ErrorKind::AuthenticationFailed || ["NOAUTH", "WRONGPASS", "NOPERM"].contains(&code);
            if is_denied {
                let reason = format!("Redis at {address} denies access: {text}");
                return QueueError::Refused { reason };
            }
            let cause = format!("cannot connect to Redis at {address}: {text}");
            QueueError::Unavailable { cause }
        })
    }

    /// Connects, however long it takes; `None` when closed. Logs the first failure and the end.
    async fn connect_again(&self, closed: &CancellationToken) -> Option<MultiplexedConnection> {
        let mut pause = FIRST_PAUSE;
        let mut is_away = false;
        loop {
            let connected = tokio::select! {
                () = closed.cancelled() => return None,
                connected = self.connect() => connected,
            };
            match connected {
                Ok(connection) => {
                    if is_away {
                        tracing::info!(purpose = self.purpose, "Redis is reachable again");
                    }
                    return Some(connection);
                }
                Err(cause) if !is_away => {
                    tracing::warn!(purpose = self.purpose, %cause, "Redis is away; trying again until it is back");
                    is_away = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = closed.cancelled() => return None,
                () = tokio::time::sleep(jittered(pause)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Between half of `pause` and all of it, so that many clients do not come back at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    // Without randomness all pause for long: no harm.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A connection of a [`Link`], and which of them it is.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    pub(super) generation: u64,
}

/// The connection of the moment, kept by a task of its own.
pub(super) struct Link {
    current: watch::Receiver<Option<Connection>>,
    /// The last connection that was lost.
    lost: watch::Sender<u64>,
    patience: Duration,
}

impl Link {
    /// Keeps `first` alive, or makes the first connection.
    pub(super) fn keep(connector: Connector, first: Option<MultiplexedConnection>, closed: CancellationToken) -> Self {
        let first = first.map(|redis| Connection { redis, generation: 1 });
        let (sender, current) = watch::channel(first);
        let (lost, losses) = watch::channel(0);
        let patience = connector.patience;
        tokio::spawn(keep(connector, sender, losses, closed));
        Self {
            current,
            lost,
            patience,
        }
    }

    /// The connection, as soon as there is one.
    ///
    /// # Errors
    /// `Closed` when there is none and will be none.
    pub(super) async fn connection(&self) -> Result<Connection, QueueError> {
        let mut current = self.current.clone();
        let found = current.wait_for(Option::is_some).await;
        found.ok().and_then(|found| found.clone()).ok_or(QueueError::Closed)
    }

    /// The connection, waiting as long as for an answer.
    ///
    /// # Errors
    /// `Unavailable` when there is none for so long, `Closed` when there will be none.
    pub(super) async fn connection_soon(&self) -> Result<Connection, QueueError> {
        let found = tokio::time::timeout(self.patience, self.connection()).await;
        found.unwrap_or_else(|_| {
            let cause = "there is no connection to Redis".to_owned();
            Err(QueueError::Unavailable { cause })
        })
    }

    /// Connection `generation` is of no use any more.
    pub(super) fn lose(&self, generation: u64) {
        self.lost.send_if_modified(|lost| {
            let is_news = *lost < generation;
            *lost = generation.max(*lost);
            is_news
        });
    }
}

/// Ends when closed, and when nobody uses the link any more.
async fn keep(
    connector: Connector,
    current: watch::Sender<Option<Connection>>,
    mut losses: watch::Receiver<u64>,
    closed: CancellationToken,
) {
    let mut generation = 1;
    loop {
        if current.borrow().is_none() {
            let Some(redis) = connector.connect_again(&closed).await else {
                return;
            };
            current.send_replace(Some(Connection { redis, generation }));
        }
        tokio::select! {
            () = closed.cancelled() => return,
            lost = losses.wait_for(|lost| *lost >= generation) => if lost.is_err() { return },
        }
        current.send_replace(None);
        generation += 1;
    }
}
