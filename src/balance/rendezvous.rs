//! Rendezvous hashing, or highest random weight (Thaler and Ravishankar, 1996), with weights as
//! Schindelhauer and Schomaker have them ("Weighted Distributed Hash Tables", 2005): every backend
//! draws a number for the key, and the largest wins.
//!
//! The number is `-weight / ln(u)`, `u` in 0 to 1 made of xxHash3 of the key and of the backend's
//! address. A backend that comes or goes, or whose weight changes, moves only the keys that it
//! gets or loses; the order of the list does not matter; the next in line is the next largest.
//! The price: every pick looks at every backend.

use twox_hash::XxHash3_64;

use super::random::mixed;
use super::{Candidates, Entry};

/// What each backend draws with.
#[derive(Debug)]
pub(super) struct Field {
    /// Hash of the address, and weight.
    parts: Box<[(u64, f64)]>,
    /// All of one weight: the largest number wins without a logarithm.
    even: bool,
}

impl Field {
    pub(super) fn new(entries: &[Entry<'_>]) -> Field {
        let part = |entry: &Entry<'_>| (hash(entry.id.as_bytes()), f64::from(entry.weight));
        let even = entries.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Field { parts: entries.iter().map(part).collect(), even }
    }

    /// The backend that `key` belongs to.
    pub(super) fn home(&self, key: &[u8]) -> Option<usize> {
        self.best(key, |_| true)
    }

    /// The usable backend with the largest number.
    pub(super) fn pick(&self, key: &[u8], among: &impl Candidates) -> Option<usize> {
        self.best(key, |index| among.usable(index))
    }

    fn best(&self, key: &[u8], takes_part: impl Fn(usize) -> bool) -> Option<usize> {
        let key = hash(key);
        let mut best: Option<(usize, f64)> = None;
        for (index, (seed, weight)) in self.parts.iter().enumerate() {
            // Of the 64 bits those that a double holds; never 0 and never 1.
            let draw = ((mixed(key ^ seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            // The system's logarithm may differ in the last bit from one to the next, and two
            // gateways would disagree: this one is computed alike everywhere.
            let number = if self.even { draw } else { -weight / libm::log(draw) };
            if best.is_none_or(|(_, most)| number > most) && takes_part(index) {
                best = Some((index, number));
            }
        }
        best.map(|(index, _)| index)
    }
}

/// What is made of a key, and of an address.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}
