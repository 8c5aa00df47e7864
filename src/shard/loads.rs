//! How many sessions each shard runs, so that an uneven spread can be seen and evened out.
//!
//! SO_REUSEPORT spreads connections by a hash of their addresses: with few clients behind few
//! addresses one shard may get most of them, for hours.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

/// Sessions of every shard. Written when a connection begins or ends, never per message.
#[derive(Debug)]
pub struct Loads(Box<[CachePadded<AtomicU32>]>);

/// A difference up to this is not worth waking another shard.
const SLACK: u32 = 8;

impl Loads {
    /// No sessions.
    pub fn new(shards: usize) -> Loads {
        Loads((0..shards).map(|_| CachePadded::new(AtomicU32::new(0))).collect())
    }

    /// Decides which shard runs a connection that `own` accepted, and counts it there: `own`,
    /// unless it is ahead of the least loaded one by more than an eighth and a little.
    pub fn place(&self, own: usize) -> usize {
        let load = self.0[own].load(Relaxed);
        let least = self
            .0
            .iter()
            .map(|load| load.load(Relaxed))
            .enumerate()
            .min_by_key(|(_, load)| *load)
            .filter(|(_, least)| load > least + least / 8 + SLACK);
        let target = least.map_or(own, |(shard, _)| shard);
        self.place_here(target)
    }

    /// Counts a connection on this shard, whatever the others do.
    pub fn place_here(&self, shard: usize) -> usize {
        self.0[shard].fetch_add(1, Relaxed);
        shard
    }

    /// A session of this shard ended.
    pub fn ended(&self, shard: usize) {
        self.0[shard].fetch_sub(1, Relaxed);
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
        let spread: Vec<u32> = loads.0.iter().map(|load| load.load(Relaxed)).collect();
        let (least, most) = (spread.iter().min().unwrap(), spread.iter().max().unwrap());
        assert!(most <= &(least + least / 8 + SLACK + 1), "{spread:?}");
        loads.ended(1);
        assert_eq!(loads.0[1].load(Relaxed), spread[1] - 1);
    }
}
