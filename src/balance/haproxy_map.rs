//! HAProxy's `hash-type map-based crc32` (`src/lb_map.c`): backends spread over a table as long as
//! the sum of their weights, which the CRC-32 of a key indexes.
//!
//! HAProxy makes the table of the servers that are up, so that one that goes down moves nearly
//! every key. It has no order for retries (a redispatch finds the same server); here a retry takes
//! the following slots.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Candidates, by_weight};

/// Most slots that are worth their memory and the time to fill them.
pub(super) const SLOTS_MAX: u64 = 1 << 20;

/// Slots a retry looks at before it takes any usable backend.
const WALK_SLOTS_MAX: usize = 4_096;

/// The table.
#[derive(Debug)]
pub(super) struct Map {
    slots: Box<[u32]>,
}

impl Map {
    /// Spreads the backends that take part. Weights are divided by what all of them have in common,
    /// those that do not take part included.
    ///
    /// HAProxy fills slot after slot: every backend's score grows by its weight, and the first with
    /// the largest `floor((score + total) / total)` gets the slot and pays the total. That floor
    /// changes for few backends at a time, and when is known beforehand, so this visits only those.
    pub(super) fn new(weights: &[u32], takes_part: impl Fn(usize) -> bool) -> Map {
        let divisor = common_divisor(weights);
        let part = |(index, weight): (usize, &u32)| {
            let backend = u32::try_from(index).ok()?;
            takes_part(index).then_some((backend, u64::from(weight / divisor)))
        };
        let parts: Vec<(u32, u64)> = weights.iter().enumerate().filter_map(part).collect();
        let total: u64 = parts.iter().map(|(_, weight)| weight).sum();
        let mut rises = Rises::new(&parts, total);
        let mut levels = vec![0_i64; parts.len()];
        let mut ranks: BTreeSet<(Reverse<i64>, u32)> =
            (0..).take(parts.len()).map(|part| (Reverse(0), part)).collect();
        let mut change = |ranks: &mut BTreeSet<(Reverse<i64>, u32)>, part: u32, by: i64| {
            let level = &mut levels[part as usize];
            ranks.remove(&(Reverse(*level), part));
            *level += by;
            ranks.insert((Reverse(*level), part));
        };
        let mut slots = Vec::new();
        for step in 1..=total {
            rises.at(step).for_each(|part| change(&mut ranks, part, 1));
            let Some((_, best)) = ranks.first().copied() else { break };
            slots.push(parts[best as usize].0);
            change(&mut ranks, best, -1);
        }
        Map { slots: slots.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot that `key` belongs to; `None` without backends.
    pub(super) fn slot(&self, key: &[u8]) -> Option<usize> {
        (crc32fast::hash(key) as usize).checked_rem(self.slots.len())
    }

    /// The backend of a slot.
    pub(super) fn backend(&self, slot: usize) -> Option<usize> {
        self.slots.get(slot).map(|backend| *backend as usize)
    }

    /// The first usable backend from the key's slot on.
    pub(super) fn pick(&self, key: &[u8], among: &impl Candidates) -> Option<usize> {
        let (before, after) = self.slots.split_at_checked(self.slot(key)?)?;
        let slots = after.iter().chain(before).take(WALK_SLOTS_MAX);
        let walked = slots.map(|backend| *backend as usize).find(|index| among.usable(*index));
        walked.or_else(|| by_weight(u64::from(crc32fast::hash(key)), among))
    }
}

/// The greatest common divisor of all weights, at least 1.
pub(super) fn common_divisor(weights: &[u32]) -> u32 {
    let divisor = |mut a: u32, mut b: u32| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    weights.iter().copied().fold(0, divisor).max(1)
}

/// At which steps each part's score passes a multiple of the total: its weight many times.
struct Rises {
    /// Parts by step.
    parts: Vec<u32>,
    /// Per step: where its parts begin.
    starts: Vec<usize>,
}

impl Rises {
    fn new(parts: &[(u32, u64)], total: u64) -> Rises {
        let steps = |weight: u64| (1..=weight).map(move |nth| (nth * total).div_ceil(weight));
        let len = usize::try_from(total).unwrap_or(0);
        let mut starts = vec![0; len + 2];
        for (_, weight) in parts {
            steps(*weight).for_each(|step| starts[step as usize + 1] += 1);
        }
        for step in 1..starts.len() {
            starts[step] += starts[step - 1];
        }
        let mut next = starts.clone();
        let mut by_step = vec![0; len];
        for (part, (_, weight)) in (0..).zip(parts) {
            for step in steps(*weight) {
                by_step[next[step as usize]] = part;
                next[step as usize] += 1;
            }
        }
        Rises { parts: by_step, starts }
    }

    fn at(&mut self, step: u64) -> impl Iterator<Item = u32> + '_ {
        let step = step as usize;
        self.parts[self.starts[step]..self.starts[step + 1]].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::random;
    use super::*;

    /// Step by step, as HAProxy does it.
    fn as_haproxy(weights: &[u32], up: &[bool]) -> Vec<u32> {
        let divisor = common_divisor(weights);
        let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
        let up: Vec<usize> = (0..weights.len()).filter(|index| up[*index]).collect();
        let total: i64 = up.iter().map(|index| weights[*index]).sum();
        let mut scores = vec![0; weights.len()];
        let mut slots = Vec::new();
        for _ in 0..total {
            let mut best = None;
            for index in &up {
                scores[*index] += weights[*index];
                let value = (scores[*index] + total) / total;
                if best.is_none_or(|(_, most)| value > most) {
                    best = Some((*index, value));
                }
            }
            let (best, _) = best.unwrap();
            scores[best] -= total;
            slots.push(best as u32);
        }
        slots
    }

    #[test]
    fn slots_equal_haproxys_own_loop() {
        let mut state = 7_u64;
        let mut below = |limit: u64| random::below(random::next(&mut state), limit);
        for round in 0..300 {
            let count = 1 + below(12) as usize;
            let most = [1, 3, 20, 256][round % 4];
            let weights: Vec<u32> = (0..count).map(|_| 1 + below(most) as u32).collect();
            let up: Vec<bool> = (0..count).map(|_| below(4) > 0).collect();
            let map = Map::new(&weights, |index| up[index]);
            assert_eq!(map.slots[..], as_haproxy(&weights, &up), "{weights:?} {up:?}");
        }
    }
}
