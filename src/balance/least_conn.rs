//! Fewest live sessions per weight, ties by smooth weighted round robin among the tied, as nginx's
//! `least_conn` does it.

use super::{Candidates, round_robin};

/// Live sessions and weight; compared by cross-multiplying, since a quotient would round.
#[derive(Clone, Copy)]
pub(super) struct Load {
    live: u64,
    weight: u64,
}

impl Load {
    pub(super) fn of(among: &impl Candidates, index: usize) -> Load {
        Load { live: among.live(index).into(), weight: among.weight(index).into() }
    }

    pub(super) fn is_below(self, other: Load) -> bool {
        self.live * other.weight < other.live * self.weight
    }

    fn is_equal(self, other: Load) -> bool {
        self.live * other.weight == other.live * self.weight
    }
}

/// The least loaded usable backend.
pub(super) fn pick(current: &mut [i64], among: &impl Candidates) -> Option<usize> {
    let mut least: Option<(usize, Load)> = None;
    let mut tied = false;
    for index in (0..among.count()).filter(|index| among.usable(*index)) {
        let load = Load::of(among, index);
        match least {
            Some((_, least)) if load.is_equal(least) => tied = true,
            Some((_, least)) if !load.is_below(least) => {}
            _ => {
                least = Some((index, load));
                tied = false;
            }
        }
    }
    let (first, load) = least?;
    if !tied {
        return Some(first);
    }
    // Other shards place sessions meanwhile: if the counts moved on and nobody is tied any more,
    // the backend found first was right a moment ago.
    let is_tied = |index| Load::of(among, index).is_equal(load);
    round_robin::turn(current, among, is_tied).or(Some(first))
}
