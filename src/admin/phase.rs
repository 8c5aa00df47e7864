//! Where the process is in its life, as `/readyz` and the metrics page report it.

use std::sync::atomic::{AtomicU8, Ordering};

/// The three stages of a process, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Listeners are not all bound yet.
    Starting = 0,
    /// Clients are served.
    Ready = 1,
    /// Nothing new is accepted; sessions end.
    Draining = 2,
}

/// The stage, set by the control plane and read by anyone. It never goes back.
#[derive(Debug, Default)]
pub struct Phase(AtomicU8);

impl Phase {
    /// Goes to a later stage; an earlier one than now is ignored.
    pub fn advance(&self, stage: Stage) {
        self.0.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            _ => Stage::Draining,
        }
    }
}
