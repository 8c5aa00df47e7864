//! How many sessions each shard runs, so that an uneven spread can be seen and evened out.
//!
//! SO_REUSEPORT spreads connections by a hash of their addresses: with few clients behind few
//! addresses one shard may get most of them, for hours.

use std::sync::atomic::Ordering::{self, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicUsize};

use crossbeam_utils::CachePadded;

/// Sessions of every shard. Written when a connection begins or ends, never per message.
#[derive(Debug)]
pub struct Loads {
    sessions: Box<[CachePadded<AtomicU32>]>,
    /// Shards that may still accept, and so hand connections over.
    accepting: AtomicUsize,
}

/// A difference up to this is not worth waking another shard.
const SLACK: u32 = 8;

impl Loads {
    /// No sessions.
    pub fn new(shards: usize) -> Loads {
        Loads {
            sessions: (0..shards).map(|_| CachePadded::new(AtomicU32::new(0))).collect(),
            accepting: AtomicUsize::new(shards),
        }
    }

    /// Decides which shard runs a connection that `own` accepted, and counts it there: `own`,
    /// unless it is ahead of the least loaded one by more than an eighth and a little.
    pub fn place(&self, own: usize) -> usize {
        let load = self.sessions[own].load(Relaxed);
        let least = self
            .sessions
            .iter()
            .map(|load| load.load(Relaxed))
            .enumerate()
            .min_by_key(|(_, load)| *load)
            .filter(|(_, least)| load > least + least / 8 + SLACK);
        let target = least.map_or(own, |(shard, _)| shard);
        self.sessions[target].fetch_add(1, Relaxed);
        target
    }

    /// A session of this shard ended.
    pub fn ended(&self, shard: usize) {
        self.sessions[shard].fetch_sub(1, Relaxed);
    }

    /// A shard has closed its listeners: it hands nothing over from now on.
    pub fn stopped_accepting(&self) {
        self.accepting.fetch_sub(1, Ordering::Release);
    }

    /// Whether no shard accepts any more: what was handed over is in the mailboxes by now.
    pub fn all_stopped_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_spread_is_left_alone_and_an_uneven_one_is_evened_out() {
        let loads = Loads::new(3);
        for shard in [0, 1, 2].repeat(100) {
            assert_eq!(loads.place(shard), shard);
        }
        let mut moved = 0;
        for _ in 0..300 {
            moved += u32::from(loads.place(0) != 0);
        }
        assert!(moved > 150, "{moved} of 300 were moved");
        let spread: Vec<u32> = loads.sessions.iter().map(|load| load.load(Relaxed)).collect();
        let (least, most) = (spread.iter().min().unwrap(), spread.iter().max().unwrap());
        assert!(most <= &(least + least / 8 + SLACK + 1), "{spread:?}");
        loads.ended(1);
        assert_eq!(loads.sessions[1].load(Relaxed), spread[1] - 1);
    }
}
