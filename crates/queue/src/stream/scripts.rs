//! The commands of the queue: Lua scripts, each one step for the server, each harmless when repeated.
//! Only what Redis 6.2, Redis 7 and Valkey have in common.
//!
//! | key | what |
//! |---|---|
//! | `stillhouse:{PREFIX}:queue` | stream of blocks, with the consumer group `gateways` |
//! | `stillhouse:{PREFIX}:life` | the life marker, a hash, see below |
//!
//! | field | what |
//! |---|---|
//! | `life` | who began this life: the dispatcher's number, 20 digits |
//! | `nonce` | random bytes of this beginning |
//! | `pushed` | references ever pushed: fewer than a dispatcher remembers, and the server was rolled back |
//! | `depth` | references in the stream |
//! | `entries` | entries of ours in the stream: more than there are, and somebody removed some |

use std::time::Duration;

use redis::{FromRedisValue, RedisError, Script, ScriptInvocation, Value};

use super::block::{HEADER_BYTES, MAGIC, Nonce, RECORD_BYTES, encode};
use super::config::Keys;
use super::held::Settlement;
use crate::QueueError;

/// Name of the consumer group.
pub(super) const GROUP: &str = "gateways";
/// Deliveries that one step of a reclaim looks at: a few milliseconds of the server's time.
const PAGE: usize = 100;

/// What a dispatcher knows of the life that it began.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    /// The dispatcher's number in 20 digits: compares as text does.
    pub(super) life: String,
    pub(super) nonce: Nonce,
    /// References that the server is known to have taken.
    pub(super) pushed: u64,
}

/// The scripts, and the keys that they work on.
pub(super) struct Scripts {
    keys: Keys,
    begin: Script,
    push: Script,
    settle: Script,
    reclaim: Script,
    look: Script,
    leave: Script,
    end: Script,
}

/// Whether a dispatcher's queue is still its own; two numbers or texts, as the script says.
pub(super) struct Answer {
    standing: String,
    pub(super) first: u64,
    pub(super) second: Value,
}

impl FromRedisValue for Answer {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        let (standing, first, second) = FromRedisValue::from_redis_value(value)?;
        Ok(Self {
            standing,
            first,
            second,
        })
    }
}

impl Answer {
    /// # Errors
    /// `Lost` or `Superseded`.
    pub(super) fn owned(self) -> Result<Self, QueueError> {
        match &*self.standing {
            "ok" => Ok(self),
            "superseded" => Err(QueueError::Superseded),
            _ => Err(QueueError::Lost),
        }
    }
}

impl Scripts {
    pub(super) fn new(keys: Keys) -> Self {
        const OWN: &str = include_str!("scripts/own.lua");
        Self {
            keys,
            begin: Script::new(include_str!("scripts/begin.lua")),
            push: Script::new(&[OWN, include_str!("scripts/push.lua")].concat()),
            settle: Script::new(include_str!("scripts/settle.lua")),
            reclaim: Script::new(include_str!("scripts/reclaim.lua")),
            look: Script::new(&[OWN, include_str!("scripts/look.lua")].concat()),
            leave: Script::new(include_str!("scripts/leave.lua")),
            end: Script::new(&[OWN, include_str!("scripts/end.lua")].concat()),
        }
    }

    pub(super) fn stream(&self) -> &str {
        &self.keys.stream
    }

    fn on_keys<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        let mut call = script.key(&self.keys.stream);
        call.key(&self.keys.marker);
        call
    }

    /// Forgets everything and begins the life of `tenure`: an [`Answer`].
    pub(super) fn begin(&self, tenure: &Tenure) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.begin);
        call.arg(&tenure.life).arg(&tenure.nonce).arg(GROUP);
        call
    }

    /// Adds blocks: an [`Answer`] with the number of those that found room, and the references ever pushed.
    pub(super) fn push(&self, tenure: &Tenure, capacity: usize, blocks: &[Vec<u8>]) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.push);
        call.arg(&tenure.life).arg(&tenure.nonce).arg(tenure.pushed);
        call.arg(capacity).arg(HEADER_BYTES).arg(RECORD_BYTES).arg(blocks);
        call
    }

    /// Tells a life how deliveries ended; what was given back travels in blocks of up to `block`.
    pub(super) fn settle(&self, settlement: &Settlement, block: usize) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.settle);
        call.arg(&settlement.nonce)
            .arg(GROUP)
            .arg(HEADER_BYTES)
            .arg(RECORD_BYTES);
        call.arg(settlement.ended.len());
        for (entry, references) in &settlement.ended {
            call.arg(entry).arg(references);
        }
        for references in settlement.returned.chunks(block) {
            call.arg(encode(&settlement.nonce, references));
        }
        call
    }

    /// One page of old deliveries of others: references given back, and the begin of the next page.
    pub(super) fn reclaim(&self, consumer: &str, age: Duration, begin: &str) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.reclaim);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).min(1 << 52);
        call.arg(GROUP).arg(consumer).arg(age_ms).arg(PAGE).arg(begin);
        call.arg(HEADER_BYTES).arg(RECORD_BYTES).arg(MAGIC);
        call
    }

    /// Counts: an [`Answer`] with the depth and the nonce. Without a tenure, of whatever life there is.
    pub(super) fn look(&self, tenure: Option<&Tenure>) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.look);
        match tenure {
            Some(tenure) => call.arg(&tenure.life).arg(&tenure.nonce).arg(tenure.pushed),
            None => call.arg("").arg("").arg(0),
        };
        call.arg(GROUP);
        call
    }

    /// Ends the life of `tenure` for good: an [`Answer`].
    pub(super) fn end(&self, tenure: &Tenure) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.end);
        call.arg(&tenure.life).arg(&tenure.nonce).arg(tenure.pushed);
        call
    }

    /// Removes a consumer that holds nothing.
    pub(super) fn leave(&self, consumer: &str) -> ScriptInvocation<'_> {
        let mut call = self.on_keys(&self.leave);
        call.arg(GROUP).arg(consumer);
        call
    }
}

/// A nonce that was never there before.
///
/// # Errors
/// When the operating system has no randomness.
pub(super) fn fresh_nonce() -> Result<Nonce, QueueError> {
    let mut nonce = Nonce::default();
    let filled = getrandom::fill(&mut nonce);
    filled.map(|()| nonce).map_err(|e| QueueError::Refused {
        reason: format!("the operating system gives no random numbers: {e}"),
    })
}

/// What a reply that cannot be understood means.
pub(super) fn number(value: Value) -> Result<u64, RedisError> {
    Ok(u64::from_redis_value(value)?)
}
