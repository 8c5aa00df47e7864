//! Counters of health, and of sessions that waited for their backend.

use super::{Counter, Durations};
use crate::health::Outcome;
use crate::health::ejection::Cause;

/// What the control plane counts for one pool; it is the only one that writes these.
#[derive(Debug, Default)]
pub struct HealthCells {
    /// Checks, by [`Outcome`].
    pub checks: [Counter; Outcome::ALL.len()],
    /// Backends that checks took out of service.
    pub falls: Counter,
    /// Backends that checks put back.
    pub rises: Counter,
    /// Ejections, by [`Cause`].
    pub ejections: [Counter; Cause::ALL.len()],
    /// Ejections that the cap forbade.
    pub withheld: Counter,
    /// Times the pool began to panic.
    pub panics: Counter,
}

/// What one shard counts for the sessions of one pool that found no room at once.
#[derive(Debug, Default)]
pub struct Waits {
    /// Times of those that were let in.
    pub admitted: Durations,
    /// Those that waited too long.
    pub late: Counter,
    /// Those that left: their client or the process went first.
    pub left: Counter,
    /// Those that could not even wait.
    pub refused: Counter,
}
