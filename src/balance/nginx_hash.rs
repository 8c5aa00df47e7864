//! nginx's `hash KEY` (`ngx_stream_upstream_hash_module.c`; the http module is identical), which is
//! that of Cache::Memcached.
//!
//! Every backend counts, whatever its state: one that is down moves nobody else. Its keys are
//! hashed anew with a number before them, up to 20 times. Then nginx turns to round robin, whose
//! answer depends on what went before; here the hash chooses among those that are usable, so that
//! a key and a table give one backend everywhere. A session without key is nobody's in
//! particular: it takes its turn, as there.

use smallvec::SmallVec;

use super::shares::Shares;
use super::{Candidates, by_weight, round_robin};

/// Attempts that may fail before nginx stops hashing.
const MISSES_MAX: u32 = 20;

/// The sequence of hashes of a key.
struct Hashes<'k> {
    key: &'k [u8],
    sum: u32,
    round: u32,
}

impl Hashes<'_> {
    /// `((crc32(ROUND KEY) >> 16) & 0x7fff) + PREVIOUS`, with the round left out at the first.
    fn next(&mut self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        if self.round > 0 {
            hasher.update(&decimal(self.round));
        }
        hasher.update(self.key);
        self.sum = self.sum.wrapping_add((hasher.finalize() >> 16) & 0x7fff);
        self.round += 1;
        self.sum
    }
}

/// Decimal digits without an allocation.
fn decimal(mut number: u32) -> SmallVec<[u8; 10]> {
    let mut digits = SmallVec::new();
    while number > 0 {
        // Below 10.
        digits.insert(0, b'0' + (number % 10) as u8);
        number /= 10;
    }
    digits
}

/// What nginx calls the hash of the key, before rehashing.
pub(super) fn hash(key: &[u8]) -> u32 {
    Hashes { key, sum: 0, round: 0 }.next()
}

/// The backend that `key` belongs to; nobody's without a key, unless there is one backend only.
pub(super) fn home(key: &[u8], shares: &Shares) -> Option<usize> {
    if key.is_empty() && shares.len() > 1 {
        return None;
    }
    shares.at(u64::from(hash(key)).checked_rem(shares.total())?)
}

/// The first usable backend by nginx's sequence of hashes.
pub(super) fn pick(
    key: &[u8],
    shares: &Shares,
    current: &mut [i64],
    among: &impl Candidates,
) -> Option<usize> {
    if key.is_empty() {
        return round_robin::pick(current, among);
    }
    let mut hashes = Hashes { key, sum: 0, round: 0 };
    let mut misses = 0;
    // nginx goes on where it chose a backend that failed; this begins anew, and meets it again. The
    // first meeting is that choice, and no miss.
    let mut met: SmallVec<[usize; 4]> = SmallVec::new();
    while misses <= MISSES_MAX {
        let index = shares.at(u64::from(hashes.next()).checked_rem(shares.total())?)?;
        if among.usable(index) {
            return Some(index);
        }
        if among.tried(index) && !met.contains(&index) {
            met.push(index);
        } else {
            misses += 1;
        }
    }
    by_weight(u64::from(hashes.sum), among)
}
