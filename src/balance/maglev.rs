//! Envoy's Maglev (`source/extensions/load_balancing_policies/maglev/maglev_lb.cc`): 65,537 slots
//! that backends claim in turn, each in an order of its own, made of xxHash64 of its address.
//!
//! Envoy fills the table with healthy hosts, so that one that goes down moves its own keys and a
//! few others. What a backend gets depends on its address, not on its place in the list. Attempts
//! after the first hash anew.

use twox_hash::XxHash64;

use super::{Candidates, Entry, by_weight};

/// Envoy's default: a prime.
const SLOTS: u64 = 65_537;

/// Hashes a retry computes before it takes any usable backend.
const ATTEMPTS_MAX: u64 = 64;

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    slots: Box<[u32]>,
}

/// A backend that claims slots.
struct Claimant {
    backend: u32,
    weight: f64,
    target: f64,
    next: u64,
    skip: u64,
}

impl Claimant {
    fn new(index: u32, entry: &Entry<'_>, weight: f64, size: u64) -> Claimant {
        Claimant {
            backend: index,
            weight,
            target: 0.0,
            next: XxHash64::oneshot(0, entry.id.as_bytes()) % size,
            skip: XxHash64::oneshot(1, entry.id.as_bytes()) % (size - 1) + 1,
        }
    }
}

impl Table {
    /// The table of the backends that take part.
    pub(super) fn new(entries: &[Entry<'_>], takes_part: impl Fn(usize) -> bool) -> Table {
        Table::with_size(entries, takes_part, SLOTS)
    }

    /// Weights are fractions in double precision, as there: their rounding decides who claims.
    fn with_size(entries: &[Entry<'_>], takes_part: impl Fn(usize) -> bool, size: u64) -> Table {
        let mut parts: Vec<(u32, &Entry<'_>)> =
            (0..).zip(entries).filter(|(index, _)| takes_part(*index as usize)).collect();
        parts.sort_by_key(|(_, entry)| entry.id);
        let sum: u64 = parts.iter().map(|(_, entry)| u64::from(entry.weight)).sum();
        let fraction = |entry: &Entry<'_>| f64::from(entry.weight) / sum as f64;
        let most = parts.iter().map(|(_, entry)| fraction(entry)).fold(0.0, f64::max);
        let claimant = |(index, entry): &(u32, &Entry<'_>)| {
            Claimant::new(*index, entry, fraction(entry), size)
        };
        let mut claimants: Vec<Claimant> = parts.iter().map(claimant).collect();
        let mut slots = vec![u32::MAX; if claimants.is_empty() { 0 } else { size as usize }];
        let mut free = slots.len();
        let mut iteration = 0_u32;
        while free > 0 {
            iteration += 1;
            for claimant in &mut claimants {
                if free == 0 || f64::from(iteration) * claimant.weight < claimant.target {
                    continue;
                }
                claimant.target += most;
                while slots[claimant.next as usize] != u32::MAX {
                    claimant.next = (claimant.next + claimant.skip) % size;
                }
                slots[claimant.next as usize] = claimant.backend;
                claimant.next = (claimant.next + claimant.skip) % size;
                free -= 1;
            }
        }
        Table { slots: slots.into() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot of a hash; `None` without backends.
    pub(super) fn slot(&self, hash: u64) -> Option<usize> {
        usize::try_from(hash.checked_rem(self.slots.len() as u64)?).ok()
    }

    /// The backend of a slot.
    pub(super) fn backend(&self, slot: usize) -> Option<usize> {
        self.slots.get(slot).map(|backend| *backend as usize)
    }

    /// The first usable backend by Envoy's sequence of attempts.
    pub(super) fn pick(&self, key: &[u8], among: &impl Candidates) -> Option<usize> {
        let hash = hash(key);
        for attempt in 0..ATTEMPTS_MAX {
            // All ones less the attempts before: most bits change each time.
            let hash = hash ^ 0_u64.wrapping_sub(attempt);
            let index = self.backend(self.slot(hash)?)?;
            if among.usable(index) {
                return Some(index);
            }
        }
        by_weight(hash, among)
    }
}

/// What Envoy makes of a key.
pub(super) fn hash(key: &[u8]) -> u64 {
    XxHash64::oneshot(0, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Envoy's own tests.
    #[test]
    fn seven_slots_of_six_backends() {
        let ids: Vec<String> = (90..=95).map(|port| format!("127.0.0.1:{port}")).collect();
        let entries: Vec<Entry<'_>> =
            ids.iter().map(|id| Entry { id, weight: 1, ready: true }).collect();
        let table = Table::with_size(&entries, |_| true, 7);
        assert_eq!(table.slots[..], [2, 4, 0, 1, 5, 0, 3]);
    }

    #[test]
    fn slots_follow_weights() {
        let ids = ["a:1", "b:1", "c:1"];
        let entries = [(ids[0], 1), (ids[1], 2), (ids[2], 5)].map(|(id, weight)| Entry {
            id,
            weight,
            ready: true,
        });
        let table = Table::new(&entries, |_| true);
        let count = |index| table.slots.iter().filter(|slot| **slot == index).count();
        let counts = [0, 1, 2].map(count);
        for (count, share) in counts.iter().zip([1, 2, 5]) {
            assert!(count.abs_diff(65_537 * share / 8) <= 2, "{counts:?}");
        }
    }
}
