//! Points on a circle of 32-bit hashes, each with its backend: what the consistent algorithms look
//! a key up in. They differ in how points are made and which of two neighbours a key takes.

use super::Candidates;

/// How many points a walk looks at before it gives up finding its way by the ring. A backend that
/// is down has no points on the ring that is walked, so what is stepped over are the few that fail
/// or were tried; the walk ends without a find only when almost nobody is usable.
const WALK_POINTS_MAX: usize = 4_096;

/// A point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) hash: u32,
    pub(super) backend: u32,
}

/// All points by rising hash; equal hashes in the order they were given.
#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[Point]>,
}

impl Ring {
    pub(super) fn new(mut points: Vec<Point>) -> Ring {
        points.sort_by_key(|point| point.hash);
        Ring { points: points.into() }
    }

    /// Keeps only the first of several points with one hash.
    pub(super) fn without_duplicates(points: Vec<Point>) -> Ring {
        let mut points = Ring::new(points).points.into_vec();
        points.dedup_by_key(|point| point.hash);
        Ring { points: points.into() }
    }

    /// The points of these backends only.
    pub(super) fn of(&self, takes_part: impl Fn(usize) -> bool) -> Ring {
        let kept = self.points.iter().copied().filter(|point| takes_part(point.backend as usize));
        Ring { points: kept.collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    /// The first point whose hash is not below this one, else the first of all; `None` without
    /// points.
    pub(super) fn at_or_after(&self, hash: u32) -> Option<usize> {
        let index = self.points.partition_point(|point| point.hash < hash);
        index.checked_rem(self.points.len())
    }

    /// The nearest point in either direction, the one before if both are as near; `None` without
    /// points.
    pub(super) fn nearest(&self, hash: u32) -> Option<usize> {
        let next = self.at_or_after(hash)?;
        let previous = next.checked_sub(1).unwrap_or(self.points.len() - 1);
        let to_previous = hash.wrapping_sub(self.points[previous].hash);
        let to_next = self.points[next].hash.wrapping_sub(hash);
        Some(if to_previous <= to_next { previous } else { next })
    }

    /// The backend of a point, by its index.
    pub(super) fn backend(&self, index: usize) -> Option<usize> {
        self.points.get(index).map(|point| point.backend as usize)
    }

    /// The first usable backend from this point on, in the direction of rising hashes.
    pub(super) fn walk(&self, from: usize, among: &impl Candidates) -> Option<usize> {
        let (before, after) = self.points.split_at_checked(from)?;
        let points = after.iter().chain(before).take(WALK_POINTS_MAX);
        points.map(|point| point.backend as usize).find(|index| among.usable(*index))
    }
}

/// The points that nginx's `hash … consistent` and lua-resty-balancer's `chash` make of a name: a
/// chain in which every hash is the CRC-32 of the name and of the hash before it.
pub(super) fn chain(name: &[u8], count: u64, backend: u32, points: &mut Vec<Point>) {
    let mut base = crc32fast::Hasher::new();
    base.update(name);
    let mut hash = 0;
    for _ in 0..count {
        let mut link = base.clone();
        link.update(&u32::to_le_bytes(hash));
        hash = link.finalize();
        points.push(Point { hash, backend });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(hashes: &[u32]) -> Ring {
        let points = (0..).zip(hashes).map(|(backend, hash)| Point { hash: *hash, backend });
        Ring::new(points.collect())
    }

    #[test]
    fn looking_up_wraps_around() {
        let ring = ring(&[100, 200, 4_000_000_000]);
        let after = [(0, 0), (100, 0), (101, 1), (4_000_000_000, 2), (4_000_000_001, 0)];
        for (hash, expected) in after {
            assert_eq!(ring.at_or_after(hash), Some(expected), "{hash}");
        }
        let nearest =
            [(100, 0), (149, 0), (150, 0), (151, 1), (u32::MAX, 0), (3_999_999_999, 2), (0, 0)];
        for (hash, expected) in nearest {
            assert_eq!(ring.nearest(hash), Some(expected), "{hash}");
        }
        let empty = Ring::new(Vec::new());
        assert_eq!((empty.at_or_after(7), empty.nearest(7), empty.backend(0)), (None, None, None));
    }

    #[test]
    fn of_equal_hashes_the_first_declared_comes_first() {
        let ring = ring(&[7, 5, 7, 7]);
        let backends: Vec<_> = (0..4).map(|index| ring.backend(index).unwrap()).collect();
        assert_eq!(backends, [1, 0, 2, 3]);
        let single = Ring::without_duplicates(ring.points.to_vec());
        assert_eq!((single.len(), single.backend(1)), (2, Some(0)));
        assert_eq!(ring.of(|index| index > 1).points.len(), 2);
    }
}
