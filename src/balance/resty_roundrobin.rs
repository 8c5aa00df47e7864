//! lua-resty-balancer's `resty.roundrobin` (`lib/resty/roundrobin.lua`), the interleaved weighted
//! round robin of Linux Virtual Server: a bar starts at the largest weight, backends that reach it
//! are taken in order, and after each round it sinks by the weights' common divisor.
//!
//! The library keeps nodes in a Lua table, whose order is unspecified, and starts behind a random
//! one; here the order is the list's, and the start is the shard's seed.

use super::haproxy_map::common_divisor;
use super::{Candidates, random};

/// What weights have in common.
#[derive(Debug)]
pub(super) struct Steps {
    divisor: u32,
    most: u32,
}

/// Where a shard is in its rounds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turn {
    /// The backend taken last; meaningless before the first pick.
    pub(super) last: usize,
    /// The weight to be reached; 0 before the first pick.
    pub(super) bar: u32,
}

impl Steps {
    pub(super) fn new(weights: &[u32]) -> Steps {
        let most = weights.iter().copied().max().unwrap_or(0);
        Steps { divisor: common_divisor(weights), most }
    }

    /// The next backend in turn.
    pub(super) fn pick(
        &self,
        turn: &mut Turn,
        seed: &mut u64,
        among: &impl Candidates,
    ) -> Option<usize> {
        let count = among.count();
        if turn.bar == 0 {
            let last = random::below(random::next(seed), count as u64);
            *turn = Turn { last: usize::try_from(last).unwrap_or(0), bar: self.most };
        }
        // Weights may have changed since.
        turn.bar = turn.bar.min(self.most);
        let mut from = turn.last + 1;
        // The rest of this round, then at most two: one to find the bar, one to reach it.
        for _ in 0..3 {
            let mut usable = (from..count).filter(|index| among.usable(*index));
            if let Some(index) = usable.find(|index| among.weight(*index) >= turn.bar) {
                turn.last = index;
                return Some(index);
            }
            from = 0;
            let usable = (0..count).filter(|index| among.usable(*index));
            let most = usable.map(|index| among.weight(index)).max()?;
            turn.bar = match turn.bar.saturating_sub(self.divisor) {
                0 => self.most,
                bar => bar,
            };
            // Rounds in which nobody would reach the bar are skipped: with the heaviest backend
            // down there may be thousands of them.
            turn.bar = turn.bar.min(most);
        }
        None
    }
}
