//! Where a pool's backends come from: the vocabulary between what watches a store
//! (`source/redis.rs` and its siblings), what decides which of it is believed (`source/guard.rs`),
//! and the control plane, which builds tables from the result.

mod bucket;
pub mod consul;
pub mod dns;
pub mod etcd;
pub mod file;
pub mod guard;
pub mod merge;
pub mod redis;
pub(crate) mod retry;
pub mod saved;
pub(crate) mod tls;
pub mod value;
pub mod view;
pub mod write;

use std::fmt;
use std::time::Duration;

use crate::config::{Address, BackendState, Source};

/// A backend as a source names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it listens.
    pub address: Address,
    /// Relative share, 1 to 65,535.
    pub weight: u32,
    /// Whether it takes new sessions.
    pub state: BackendState,
    /// Its place among the others, if the store says one; members without come after those with.
    pub order: Option<i64>,
}

/// What a watcher has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The whole set, read at one moment.
    Set(Reading),
    /// The store answered and has nothing new: the set read last is still its truth.
    Unchanged,
    /// The store did not answer, or not with a set. The watcher goes on trying.
    Failed(Failure),
}

/// A whole set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// In any order; no address twice.
    pub members: Vec<Member>,
    /// Entries that are no members, and why.
    pub rejected: Vec<Rejected>,
    /// Of the store, if it numbers its states: shown, never compared.
    pub revision: Option<String>,
}

/// An entry of a store that is no member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The entry's name, cut to 200 bytes.
    pub entry: String,
    /// For people.
    pub why: String,
}

/// Why there is no reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the metric's label.
    pub cause: FailureCause,
    /// For people: what was asked of whom and what came back; never a secret.
    pub detail: String,
}

/// Causes of a failed reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Credentials were refused.
    Denied,
    /// The store has no such thing, where an empty set would be said otherwise.
    Missing,
    /// An answer that is not what the protocol or the format says.
    Malformed,
    /// The store says that it cannot answer now: no leader, SERVFAIL, 5xx, loading.
    Unavailable,
}

impl FailureCause {
    /// Every cause, in declaration order; `ALL[cause as usize] == cause`.
    pub const ALL: [FailureCause; 6] = [
        FailureCause::Unreachable,
        FailureCause::Timeout,
        FailureCause::Denied,
        FailureCause::Missing,
        FailureCause::Malformed,
        FailureCause::Unavailable,
    ];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            FailureCause::Unreachable => "unreachable",
            FailureCause::Timeout => "timeout",
            FailureCause::Denied => "denied",
            FailureCause::Missing => "missing",
            FailureCause::Malformed => "malformed",
            FailureCause::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause.name(), self.detail)
    }
}

/// What every watcher is told about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// The whole set is read again at least this often, more than 0.
    pub resync: Duration,
    /// Deadline of connecting, and of every question, more than 0.
    pub timeout: Duration,
}

impl Timings {
    /// Those of a configured source.
    pub fn of(source: &Source) -> Timings {
        Timings { resync: source.resync, timeout: source.timeout }
    }

    /// A store from which nothing came for this long is asked whether it is there.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.timeout.clamp(Duration::from_secs(1), Duration::from_secs(10))
    }
}

/// A watcher's end of the way to the control plane: reports, and requests to read again at once.
#[derive(Debug)]
pub struct Desk {
    /// Index of the source among all of the process.
    pub source: usize,
    /// Where reports go; closed when the source is no longer wanted.
    pub reports: tokio::sync::mpsc::Sender<(usize, Report)>,
    /// Notified when an operator asks for a reading now.
    pub refresh: std::sync::Arc<tokio::sync::Notify>,
}

impl Desk {
    /// Hands over a report; `false` when nobody wants one any more and the watcher should end.
    pub async fn report(&self, report: Report) -> bool {
        self.reports.send((self.source, report)).await.is_ok()
    }
}
