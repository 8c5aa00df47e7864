//! nginx's `hash KEY consistent` (`ngx_stream_upstream_hash_module.c`): 160 points per unit of
//! weight, a key belongs to the next point.
//!
//! The points are made of the address as text. nginx hashes what its file says, so that equal
//! placement needs addresses written there as they are printed here: `IP:PORT` with the port,
//! IPv6 compressed and in brackets. Backends that are down keep their points and lose their keys
//! to the next ones. nginx gives up after 20 points of unusable backends and turns to round robin;
//! here the walk goes on, so that a key and a table give one backend everywhere.

use super::ring::{self, Point, Ring};
use super::{Candidates, Entry, by_weight, round_robin};

/// Points per unit of weight.
pub(super) const POINTS_PER_WEIGHT: u64 = 160;

/// The ring of these backends, `weights` beside them.
pub(super) fn ring(entries: &[Entry<'_>], weights: &[u32]) -> Ring {
    let mut points: Vec<Point> = Vec::new();
    for ((index, entry), weight) in (0..).zip(entries).zip(weights) {
        let count = u64::from(*weight) * POINTS_PER_WEIGHT;
        ring::chain(&name(entry.id), count, index, &mut points);
    }
    Ring::without_duplicates(points)
}

/// Host, NUL, port. A UNIX socket is a host without port.
fn name(id: &str) -> Vec<u8> {
    let unix = id.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("unix:"));
    let (host, port) = match unix {
        Some(_) => (id.get(5..).unwrap_or_default(), ""),
        None => match id.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            Some(_) | None => (id, ""),
        },
    };
    [host.as_bytes(), b"\0", port.as_bytes()].concat()
}

/// The point that `key` belongs to; nobody's without a key, unless there is one backend only.
pub(super) fn point(key: &[u8], ring: &Ring, backends: usize) -> Option<usize> {
    if key.is_empty() && backends > 1 {
        return None;
    }
    ring.at_or_after(crc32fast::hash(key))
}

/// The first usable backend from the key's point on.
pub(super) fn pick(
    key: &[u8],
    ring: &Ring,
    current: &mut [i64],
    among: &impl Candidates,
) -> Option<usize> {
    if key.is_empty() {
        return round_robin::pick(current, among);
    }
    let hash = crc32fast::hash(key);
    let from = ring.at_or_after(hash)?;
    ring.walk(from, among).or_else(|| by_weight(u64::from(hash), among))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_nginx_splits_them() {
        for (id, expected) in [
            ("127.0.0.1:80", &b"127.0.0.1\x0080"[..]),
            ("[::1]:8080", b"[::1]\x008080"),
            ("unix:/run/a:1", b"/run/a:1\x00"),
            ("Unix:/x", b"/x\x00"),
            ("name", b"name\x00"),
            ("a:b", b"a:b\x00"),
        ] {
            assert_eq!(name(id), expected, "{id}");
        }
    }

    fn addresses<'a>(ids: &[&'a str], weights: &[u32]) -> Vec<Entry<'a>> {
        let entry = |(id, weight): (&&'a str, &u32)| Entry { id, weight: *weight, ready: true };
        ids.iter().zip(weights).map(entry).collect()
    }

    /// From the tests of pingora-ketama, which took them from nginx.
    #[test]
    fn keys_of_two_backends() {
        let entries = addresses(&["127.0.0.1:7777", "127.0.0.1:7778"], &[1, 1]);
        let ring = ring(&entries, &[1, 1]);
        for (key, expected) in
            [("/some/path", 1), ("/some/longer/path", 0), ("/sad/zaidoon", 1), ("/g", 0)]
        {
            let point = point(key.as_bytes(), &ring, 2).unwrap();
            assert_eq!(ring.backend(point), Some(expected), "{key}");
        }
    }
}
