//! Whether a server can hold a queue.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd};

use crate::QueueError;

/// Oldest version with all the commands that the queue needs (`XADD NOMKSTREAM`, `XPENDING IDLE`).
const OLDEST: (u32, u32) = (6, 2);

/// # Errors
/// `Refused` with the mend when the server is too old or would drop keys when memory is short,
/// `Unavailable` when it does not answer.
pub(super) async fn check(connection: &mut MultiplexedConnection) -> Result<(), QueueError> {
    let info = async |connection: &mut MultiplexedConnection, section: &str| {
        let answer = cmd("INFO").arg(section).query_async::<String>(connection).await;
        answer.map_err(unavailable)
    };
    let server = info(connection, "server").await?;
    check_version(&fields(&server))?;
    let memory = info(connection, "memory").await?;
    let policy = match fields(&memory).get("maxmemory_policy") {
        Some(policy) => Some((*policy).to_owned()),
        None => configured_policy(connection).await,
    };
    match policy.as_deref() {
        Some("noeviction") => Ok(()),
        None => {
            tracing::warn!("Redis does not tell its maxmemory-policy; anything but noeviction loses queued references");
            Ok(())
        }
        Some(policy) => Err(QueueError::Refused {
            reason: format!(
                "Redis may drop the queue when memory is short: maxmemory-policy is {policy}, not noeviction; mend it \
                 with `redis-cli CONFIG SET maxmemory-policy noeviction` and in the server's configuration file"
            ),
        }),
    }
}

/// Where `INFO` does not say it, and if the server lets us ask.
async fn configured_policy(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut get = cmd("CONFIG");
    get.arg("GET").arg("maxmemory-policy");
    let answer: Result<HashMap<String, String>, RedisError> = get.query_async(connection).await;
    answer.ok()?.remove("maxmemory-policy")
}

/// Lines `name:value` of an answer to `INFO`.
fn fields(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.split_once(':')).collect()
}

fn check_version(server: &HashMap<&str, &str>) -> Result<(), QueueError> {
    // Valkey reports the version of Redis that it is compatible with here.
    let version = server.get("redis_version").copied().unwrap_or("unknown");
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST {
        return Ok(());
    }
    let (major, minor) = OLDEST;
    Err(QueueError::Refused {
        reason: format!("Redis {major}.{minor} or newer, or Valkey, is needed, found version {version}"),
    })
}

fn unavailable(error: RedisError) -> QueueError {
    let denied = matches!(error.code(), Some("NOPERM" | "NOAUTH"));
    if denied {
        let reason = format!("Redis denies access: {error}; a user with the right to INFO is needed");
        return QueueError::Refused { reason };
    }
    let cause = format!("Redis does not answer: {error}");
    QueueError::Unavailable { cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused_and_newer_ones_of_both_kinds_are_not() {
        for good in [
            "redis_version:6.2.0\r\n",
            "redis_version:7.0.15\r\nredis_mode:standalone\r\n",
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1\r\n",
            "redis_version:10.1.0\r\n",
        ] {
            assert_eq!(check_version(&fields(good)), Ok(()), "{good}");
        }
        for bad in [
            "redis_version:6.0.16\r\n",
            "redis_version:5.0.7\r\n",
            "",
            "redis_version:new",
        ] {
            assert!(
                matches!(check_version(&fields(bad)), Err(QueueError::Refused { .. })),
                "{bad}"
            );
        }
    }
}
