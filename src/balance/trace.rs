//! How a key came to its home, for people.

use std::fmt;

use super::{Balance, Kind, haproxy_consistent, maglev, nginx_hash, rendezvous};

/// The hash of a key and where in the prepared structure it falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The hash function, as the original calls it.
    pub function: &'static str,
    /// What it makes of the key.
    pub hash: u64,
    /// The point of the ring or slot of the table, and how many there are; `None` where there is no
    /// such structure.
    pub place: Option<(usize, usize)>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.hash > u64::from(u32::MAX) { 18 } else { 10 };
        write!(f, "{:#0digits$x} = {}", self.hash, self.hash)
    }
}

impl Balance {
    /// Follows a key to its home; `None` if it has none.
    pub fn trace(&self, key: &[u8]) -> Option<Trace> {
        self.home(key)?;
        let crc32 = u64::from(crc32fast::hash(key));
        let (function, hash, place) = match &self.kind {
            Kind::Crc32Mod => {
                let slot = usize::try_from(crc32).ok()?.checked_rem(self.count)?;
                ("crc32", crc32, Some((slot, self.count)))
            }
            Kind::NginxHash(shares) => {
                let hash = u64::from(nginx_hash::hash(key));
                let slot = usize::try_from(hash.checked_rem(shares.total())?).ok()?;
                ("crc32>>16", hash, Some((slot, usize::try_from(shares.total()).ok()?)))
            }
            Kind::Ketama(rings) | Kind::RestyChash(rings) => {
                let ring = &rings.all;
                ("crc32", crc32, Some((ring.at_or_after(crc32fast::hash(key))?, ring.len())))
            }
            Kind::HaproxyMap(maps) => ("crc32", crc32, Some((maps.all.slot(key)?, maps.all.len()))),
            Kind::HaproxyConsistent(rings) => {
                let point = haproxy_consistent::point(key, &rings.all)?;
                let hash = haproxy_consistent::hash(key);
                ("sdbm", u64::from(hash), Some((point, rings.all.len())))
            }
            Kind::Maglev(tables) => {
                let hash = maglev::hash(key);
                ("xxh64", hash, Some((tables.all.slot(hash)?, tables.all.len())))
            }
            Kind::Rendezvous(_) => ("xxh3", rendezvous::hash(key), None),
            Kind::RoundRobin
            | Kind::RestyRoundrobin(_)
            | Kind::RestySwrr
            | Kind::LeastConn
            | Kind::Random
            | Kind::P2c(_) => return None,
        };
        Some(Trace { function, hash, place })
    }
}
