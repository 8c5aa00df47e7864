//! Health of a pool's backends and the pace at which they are given sessions, checked.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::{Address, limits};
use crate::frame::{Expect, Layout};

/// What decides whether a backend is used besides its declared state, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// `[pool.NAME.health]`
    pub check: Option<Check>,
    /// `[pool.NAME.ejection]`
    pub ejection: Option<Ejection>,
    /// With a larger share of the pool out of service than this, in percent, every verdict is
    /// ignored; 100 is never.
    pub panic_percent: u32,
    /// A backend that returns is given new sessions at a pace that rises for this long; zero: at
    /// once as many as come.
    pub slow_start: Duration,
    /// What every backend bears unless `overrides` says otherwise.
    pub limits: Limits,
    /// Backends whose own table says what they bear.
    pub overrides: Arc<HashMap<Address, Limits>>,
    /// Sessions that may wait for one backend, on all shards together.
    pub queue_max: u32,
    /// How long one may wait.
    pub queue_timeout: Duration,
}

/// What a backend bears; `None` is any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sessions open at once, on all shards together.
    pub connections_max: Option<u32>,
    /// New sessions per second, on all shards together.
    pub rate_per_s: Option<u32>,
}

impl Health {
    /// Whether any backend may have no room.
    pub fn is_limiting(&self) -> bool {
        let limited = self.limits != Limits::default() || !self.overrides.is_empty();
        limited || !self.slow_start.is_zero()
    }

    /// What the backend at this address bears.
    pub fn limits_of(&self, address: &Address) -> Limits {
        self.overrides.get(address).copied().unwrap_or(self.limits)
    }
}

/// No check, no ejection, no limits.
impl Default for Health {
    fn default() -> Health {
        Health {
            check: None,
            ejection: None,
            panic_percent: limits::PANIC_THRESHOLD_DEFAULT,
            slow_start: Duration::ZERO,
            limits: Limits::default(),
            overrides: Arc::default(),
            queue_max: limits::ADMISSION_QUEUE_DEFAULT,
            queue_timeout: limits::ADMISSION_TIMEOUT_DEFAULT,
        }
    }
}

/// `[pool.NAME.health]`: backends are asked how they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between two checks of one backend, before jitter.
    pub interval: Duration,
    /// Deadline of one check, connecting included; at most `interval`.
    pub timeout: Duration,
    /// Good checks in a row that put a backend back in service.
    pub rise: u32,
    /// Failed checks in a row that take it out.
    pub fall: u32,
    /// Asked instead of the port that sessions go to; backends on UNIX sockets have none.
    pub port: Option<u16>,
}

/// `kind`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// It accepts connections.
    Tcp,
    /// It answers bytes with bytes.
    Bytes {
        /// May be empty: some backends speak first.
        send: Vec<u8>,
        /// Of the answer.
        expect: Answer,
    },
    /// It answers a GET request.
    Http {
        /// Begins with `/`.
        path: String,
        /// Of the Host header; the address that is asked when the file says none.
        host: Option<String>,
        /// Good answers.
        status: RangeInclusive<u16>,
    },
}

/// What a good answer begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These bytes.
    Prefix(Vec<u8>),
    /// A frame.
    Frame(Box<AnswerFrame>),
}

/// A frame as an answer should have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerFrame {
    /// Of its header.
    pub layout: Layout,
    /// What its header says.
    pub fields: Vec<Expect>,
    /// What its body begins with.
    pub body: Vec<u8>,
}

/// `[pool.NAME.ejection]`: sessions show how backends are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Failed attempts to connect in a row that take a backend out.
    pub failures: u32,
    /// A session that its backend ends before it is this old ended early; zero: none does.
    pub early: Duration,
    /// Fewer early ends within `window` take no backend out.
    pub early_count: u32,
    /// Nor does a smaller share, in percent, of the sessions it was given within `window`.
    pub early_percent: u32,
    /// Time in which early ends are counted.
    pub window: Duration,
    /// How long a backend is out the first time; doubled each further time.
    pub base_time: Duration,
    /// The longest; a backend that stays in as long begins anew.
    pub max_time: Duration,
    /// Largest share of the pool that may be out at once, in percent, rounded down to backends.
    pub max_ejected_percent: u32,
}
