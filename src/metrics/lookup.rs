//! Counters of lookups.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Counter, Durations};
use crate::lookup::Cause;

/// What came of looking a name up, for the session that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// It was remembered.
    Hit,
    /// The session waited for an answer.
    Asked,
    /// The session waited for an answer that another had asked for.
    Joined,
    /// An answer that is over, because there is no other.
    Stale,
    /// There is nothing.
    Nothing,
    /// There is something that is not allowed.
    Refused,
    /// There is no answer.
    Failed,
    /// There is no answer in time.
    Timeout,
    /// Too many wait.
    Busy,
    /// The session ended first.
    Left,
}

impl Looked {
    /// Every one, in declaration order; `ALL[looked as usize] == looked`.
    pub const ALL: [Looked; 10] = [
        Looked::Hit,
        Looked::Asked,
        Looked::Joined,
        Looked::Stale,
        Looked::Nothing,
        Looked::Refused,
        Looked::Failed,
        Looked::Timeout,
        Looked::Busy,
        Looked::Left,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Looked::Hit => "hit",
            Looked::Asked => "asked",
            Looked::Joined => "joined",
            Looked::Stale => "stale",
            Looked::Nothing => "nothing",
            Looked::Refused => "refused",
            Looked::Failed => "failed",
            Looked::Timeout => "timeout",
            Looked::Busy => "busy",
            Looked::Left => "left",
        }
    }
}

/// What one shard counts for one lookup.
#[derive(Debug, Default)]
pub struct LookupCells {
    /// Names looked up, by what came of it.
    pub looked: [Counter; Looked::ALL.len()],
    /// Times of those that waited.
    pub waits: Durations,
    /// Names remembered now.
    pub entries: Counter,
    /// Names that went for others.
    pub evicted: Counter,
    /// Names that were told to be out of date.
    pub forgotten: Counter,
    /// Questions of this shard in the background: before the end of an answer, or after a change.
    pub refreshes: Counter,
}

/// What the control plane counts for one lookup; it is the only one that writes these.
#[derive(Debug, Default)]
pub struct AskedCells {
    /// Questions that the store answered with something.
    pub found: Counter,
    /// Questions that it answered with nothing.
    pub nothing: Counter,
    /// Questions that it answered with what is not allowed.
    pub refused: Counter,
    /// Questions without an answer, by [`Cause`].
    pub failed: [Counter; Cause::ALL.len()],
    /// From question to answer.
    pub times: Durations,
    /// Changes that the store told.
    pub changes: Counter,
    /// Connections to the store that were made.
    pub connections: Counter,
    connected: AtomicU64,
}

impl AskedCells {
    /// Notes whether there is a connection now.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(u64::from(connected), Relaxed);
    }

    /// 1 while there is a connection.
    pub fn connected(&self) -> u64 {
        self.connected.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place() {
        for (index, looked) in Looked::ALL.into_iter().enumerate() {
            assert_eq!(looked as usize, index);
        }
    }
}
