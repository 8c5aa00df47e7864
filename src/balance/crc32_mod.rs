//! `crc32(key) % N` in table order: what the OpenResty gateways of netty fleets compute, with
//! `ngx.crc32_long`, the CRC-32 of zlib. N counts every declared backend and weights are ignored,
//! so that a backend that is down moves no other key.

use super::Candidates;

/// The backend that `key` belongs to.
pub(super) fn home(key: &[u8], count: usize) -> Option<usize> {
    let hash = usize::try_from(crc32fast::hash(key)).ok()?;
    hash.checked_rem(count)
}

/// The home, or the next usable backend behind it, from the last on to the first.
pub(super) fn pick(key: &[u8], among: &impl Candidates) -> Option<usize> {
    let count = among.count();
    let home = home(key, count)?;
    (home..count).chain(0..home).find(|index| among.usable(*index))
}
