//! What one thread lets the others see while it runs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::{Count, Tally};

/// Copies of a squad's counters, a few milliseconds old.
#[derive(Debug)]
pub struct Live {
    counts: Vec<AtomicU64>,
    /// Devices logged in now.
    open: AtomicU64,
    /// Devices that logged in, or failed to, at least once.
    settled: AtomicU64,
}

impl Live {
    /// All zero.
    pub fn new() -> Live {
        let counts = Count::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Live { counts, open: AtomicU64::new(0), settled: AtomicU64::new(0) }
    }

    /// Copies the counters.
    pub fn publish(&self, tally: &Tally, open: u64, settled: u64) {
        for ((count, _), cell) in Count::ALL.iter().zip(&self.counts) {
            cell.store(tally.get(*count), Ordering::Relaxed);
        }
        self.open.store(open, Ordering::Relaxed);
        self.settled.store(settled, Ordering::Relaxed);
    }

    /// One counter.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Devices logged in now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Devices that logged in, or failed to, at least once.
    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }
}
