//! lua-resty-balancer's `resty.chash` (`lib/resty/chash.lua`, `chash.c`), as OpenResty gateways use
//! it: the id of a node is its address with every `:` replaced by NUL.
//!
//! The same chain of points as nginx's; but equal hashes all stay, the name of an IPv6 address or
//! UNIX socket is another, and the empty key is a key. The library leaves the order of points with
//! equal hashes to a hash table; here the first declared comes first. A retry walks on, as
//! APISIX does (which besides divides weights by their common divisor first; this does not).

use super::ketama::POINTS_PER_WEIGHT;
use super::ring::{self, Point, Ring};
use super::{Candidates, Entry, by_weight};

/// The ring of these backends, `weights` beside them.
pub(super) fn ring(entries: &[Entry<'_>], weights: &[u32]) -> Ring {
    let mut points: Vec<Point> = Vec::new();
    for ((index, entry), weight) in (0..).zip(entries).zip(weights) {
        let count = u64::from(*weight) * POINTS_PER_WEIGHT;
        ring::chain(entry.id.replace(':', "\0").as_bytes(), count, index, &mut points);
    }
    Ring::new(points)
}

/// The point that `key` belongs to.
pub(super) fn point(key: &[u8], ring: &Ring) -> Option<usize> {
    ring.at_or_after(crc32fast::hash(key))
}

/// The first usable backend from the key's point on.
pub(super) fn pick(key: &[u8], ring: &Ring, among: &impl Candidates) -> Option<usize> {
    let walked = ring.walk(point(key, ring)?, among);
    walked.or_else(|| by_weight(u64::from(crc32fast::hash(key)), among))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] = ["server1", "server2", "server3"];

    fn servers(weights: [u32; 3]) -> Ring {
        let entries = IDS.map(|id| Entry { id, weight: 1, ready: true });
        ring(&entries, &weights)
    }

    fn find(ring: &Ring, key: &str) -> usize {
        ring.backend(point(key.as_bytes(), ring).unwrap()).unwrap()
    }

    /// From the library's own tests.
    #[test]
    fn shares_of_a_hundred_thousand_keys() {
        let ring = servers([10, 2, 1]);
        assert_eq!(ring.len(), 2_080);
        let mut counts = [0; 3];
        (1..=100_000).for_each(|key: u32| counts[find(&ring, &key.to_string())] += 1);
        assert_eq!(counts, [77_075, 14_743, 8_182]);
    }

    #[test]
    fn points_are_numbered_and_walked_as_there() {
        let ring = servers([2, 2, 1]);
        let index = point(b"foo", &ring).unwrap();
        assert_eq!((ring.backend(index), index), (Some(0), 434));
        assert_eq!(ring.backend((index + 100) % ring.len()), Some(1));
    }

    #[test]
    fn weights_that_change_move_few_keys() {
        let keys: Vec<String> = (1..=100_000).map(|key: u32| key.to_string()).collect();
        let same = |before: &Ring, after: &Ring| {
            keys.iter().filter(|key| find(before, key) == find(after, key)).count()
        };
        let (before, more) = (servers([7, 2, 1]), servers([8, 2, 1]));
        assert_eq!(same(&before, &more), 97_606);
        let fewer = servers([8, 2, 0]);
        assert_eq!(same(&more, &fewer), 90_255);
    }
}
