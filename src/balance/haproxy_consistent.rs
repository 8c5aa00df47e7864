//! HAProxy's `hash-type consistent` with the function it has unless told otherwise, sdbm with
//! avalanche (`src/lb_chash.c`, `src/hash.c`, `include/haproxy/intops.h`).
//!
//! Every backend has 16 points per unit of weight, made of its id: its place in the list, from 1.
//! So an address may change without moving a key, and a backend taken out of the middle moves
//! those of everybody behind it: mark it down instead. A key belongs to the nearest point of a
//! backend that takes sessions; a retry goes on to higher points, as a redispatch there.

use super::ring::{Point, Ring};
use super::{Candidates, by_weight};

/// Points per unit of weight.
pub(super) const POINTS_PER_WEIGHT: u32 = 16;
/// Largest weight there is in HAProxy: ids are this many times 16 apart.
pub(super) const WEIGHT_MAX: u32 = 256;
const POINTS_PER_ID: u32 = WEIGHT_MAX * POINTS_PER_WEIGHT;

/// The ring of backends with these weights.
pub(super) fn ring(weights: &[u32]) -> Ring {
    let mut points = Vec::new();
    for (backend, weight) in (0..).zip(weights) {
        let id = 1_u32.wrapping_add(backend).wrapping_mul(POINTS_PER_ID);
        let count = weight.saturating_mul(POINTS_PER_WEIGHT);
        let hashes = (0..count).map(|number| avalanche(id.wrapping_add(number)));
        points.extend(hashes.map(|hash| Point { hash, backend }));
    }
    Ring::new(points)
}

/// What HAProxy makes of a key.
pub(super) fn hash(key: &[u8]) -> u32 {
    avalanche(sdbm(key))
}

/// The point that `key` belongs to.
pub(super) fn point(key: &[u8], ring: &Ring) -> Option<usize> {
    ring.nearest(hash(key))
}

/// The first usable backend from the key's point on.
pub(super) fn pick(key: &[u8], ring: &Ring, among: &impl Candidates) -> Option<usize> {
    let walked = ring.walk(point(key, ring)?, among);
    walked.or_else(|| by_weight(u64::from(hash(key)), among))
}

fn sdbm(key: &[u8]) -> u32 {
    key.iter().fold(0, |hash: u32, byte| {
        u32::from(*byte).wrapping_add(hash << 6).wrapping_add(hash << 16).wrapping_sub(hash)
    })
}

/// HAProxy's `full_hash`: Bob Jenkins' integer hash, then a multiplication.
fn avalanche(number: u32) -> u32 {
    let mut a = number;
    a = a.wrapping_add(0x7ed5_5d16).wrapping_add(a << 12);
    a = (a ^ 0xc761_c23c) ^ (a >> 19);
    a = a.wrapping_add(0x1656_67b1).wrapping_add(a << 5);
    a = a.wrapping_add(0xd3a2_646c) ^ (a << 9);
    a = a.wrapping_add(0xfd70_46c5).wrapping_add(a << 3);
    a = (a ^ 0xb55a_4f09) ^ (a >> 16);
    a.wrapping_mul(3_221_225_473)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn avalanche_matches_its_reference() {
        assert_eq!((avalanche(0), avalanche(1)), (0xab4e_d927, 0x3486_81b6));
    }

    /// What HAProxy answers with `hash-type consistent crc32`: the same ring, another function.
    #[test]
    fn the_ring_equals_haproxys_for_another_function_too() {
        let ring = ring(&[2, 1, 3]);
        let vectors = include_str!("../../tests/hash_vectors.tsv").lines();
        let rows: Vec<Vec<&str>> = vectors
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split('\t').collect())
            .collect();
        assert_eq!(rows.len(), 135);
        for row in rows {
            let point = ring.nearest(crc32fast::hash(row[0].as_bytes())).unwrap();
            assert_eq!(ring.backend(point).unwrap().to_string(), row[10], "{row:?}");
        }
    }
}
