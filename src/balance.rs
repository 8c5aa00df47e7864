//! From key to backend: every algorithm as a pure function behind one type.
//!
//! An algorithm sees candidates through [`Candidates`] and gives an index; it opens nothing, reads
//! no clock and draws no entropy: what it remembers between picks is in [`PickState`], its seed is
//! an argument. Prepared structures (rings, maps, tables) are in [`Balance`]: built once by the
//! control plane, shared by all shards, and by the next table if its backends are the same.
//!
//! Each algorithm that bears another program's name gives that program's answers; its file says
//! where that one leaves something open. Two rules hold for all. A key and a table give one backend
//! everywhere: where an original would turn to round robin for a key, the key chooses. And every
//! keyed algorithm has a *home* for a key, its backend while all are ready, so that it can be said
//! of any session whether it is there and if not, why.
//!
//! The order among equals, and what a backend that is not usable keeps of its turn, follow nginx
//! (`ngx_stream_upstream_round_robin.c`, `ngx_stream_upstream_least_conn_module.c`), so that a
//! pool behaves as it did there. nginx also lowers the weight of a backend that failed; here a
//! failing backend is not usable for a while, which is the caller's business.

mod algorithm;
mod bound;
mod crc32_mod;
mod haproxy_consistent;
mod haproxy_map;
mod ketama;
mod least_conn;
mod maglev;
mod nginx_hash;
mod p2c;
mod random;
mod rendezvous;
mod resty_chash;
mod resty_roundrobin;
mod resty_swrr;
mod ring;
mod round_robin;
mod shares;
mod state;
mod trace;

use std::sync::Arc;

use self::ring::Ring;
use self::shares::Shares;
pub use self::{
    algorithm::{Algorithm, Excess},
    bound::{Bound, Factor},
    state::PickState,
    trace::Trace,
};

/// What an algorithm may know about the backends of a pool, in declared order.
pub trait Candidates {
    /// How many are declared, usable or not.
    fn count(&self) -> usize;
    /// Relative share, at least 1.
    fn weight(&self, index: usize) -> u32;
    /// Whether this session may be placed there now; the same answer throughout one pick.
    fn usable(&self, index: usize) -> bool;
    /// Sessions open there now; may change during a pick, since other shards place sessions too.
    fn live(&self, index: usize) -> u32;
    /// Whether this session was refused there before.
    fn tried(&self, _index: usize) -> bool {
        false
    }
}

/// A backend as preparing sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its address as text: what rings are made of.
    pub id: &'a str,
    /// Relative share, 1 to 65,535.
    pub weight: u32,
    /// Whether it takes new sessions.
    pub ready: bool,
}

/// A prepared algorithm: immutable, shared by all shards. A clone shares what was prepared.
#[derive(Debug, Clone)]
pub struct Balance {
    kind: Kind,
    /// How many backends were prepared for.
    count: usize,
    lowered: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Crc32Mod,
    NginxHash(Arc<Shares>),
    Ketama(Both<Ring>),
    RestyChash(Both<Ring>),
    HaproxyMap(Both<haproxy_map::Map>),
    HaproxyConsistent(Both<Ring>),
    Maglev(Both<maglev::Table>),
    Rendezvous(Arc<rendezvous::Field>),
    RoundRobin,
    RestyRoundrobin(Arc<resty_roundrobin::Steps>),
    RestySwrr,
    LeastConn,
    Random,
    P2c(Arc<Shares>),
}

/// A structure of every backend, which says where keys are at home; and one of those that are
/// ready, if that makes a difference to where keys go.
#[derive(Debug)]
struct Both<T> {
    all: Arc<T>,
    ready: Option<Arc<T>>,
}

impl<T> Clone for Both<T> {
    fn clone(&self) -> Both<T> {
        Both { all: self.all.clone(), ready: self.ready.clone() }
    }
}

impl<T> Both<T> {
    fn new(all: T) -> Both<T> {
        Both { all: Arc::new(all), ready: None }
    }

    fn in_force(&self) -> &T {
        self.ready.as_deref().unwrap_or(&self.all)
    }
}

impl Balance {
    /// Prepares an algorithm for these backends, in declared order. `moves_on` says that the keys
    /// of a backend that is not ready go to others; otherwise they go nowhere, and nobody else's
    /// keys move either.
    ///
    /// Weights for which the structure would be larger than [`Algorithm::excess`] allows are
    /// divided until it is not, the same way everywhere; [`Balance::lowered`] says so.
    pub fn prepare(algorithm: Algorithm, entries: &[Entry<'_>], moves_on: bool) -> Balance {
        let (weights, lowered) = algorithm.fitted(entries);
        let kind = match algorithm {
            Algorithm::Crc32Mod => Kind::Crc32Mod,
            Algorithm::NginxHash => Kind::NginxHash(Arc::new(Shares::new(weights.into_iter()))),
            Algorithm::Ketama => Kind::Ketama(Both::new(ketama::ring(entries, &weights))),
            Algorithm::RestyChash => {
                Kind::RestyChash(Both::new(resty_chash::ring(entries, &weights)))
            }
            Algorithm::HaproxyMap => {
                Kind::HaproxyMap(Both::new(haproxy_map::Map::new(&weights, |_| true)))
            }
            Algorithm::HaproxyConsistent => {
                Kind::HaproxyConsistent(Both::new(haproxy_consistent::ring(&weights)))
            }
            Algorithm::Maglev => Kind::Maglev(Both::new(maglev::Table::new(entries, |_| true))),
            Algorithm::Rendezvous => Kind::Rendezvous(Arc::new(rendezvous::Field::new(entries))),
            Algorithm::RoundRobin => Kind::RoundRobin,
            Algorithm::RestyRoundrobin => {
                Kind::RestyRoundrobin(Arc::new(resty_roundrobin::Steps::new(&weights)))
            }
            Algorithm::RestySwrr => Kind::RestySwrr,
            Algorithm::LeastConn => Kind::LeastConn,
            Algorithm::Random => Kind::Random,
            Algorithm::P2c => Kind::P2c(Arc::new(Shares::new([].into_iter()))),
        };
        Balance { kind, count: entries.len(), lowered }.with_states(entries, moves_on)
    }

    /// The same algorithm, backends and weights as this was prepared for, with other states or
    /// another `moves_on`: what does not depend on those is shared.
    pub fn with_states(&self, entries: &[Entry<'_>], moves_on: bool) -> Balance {
        let ready = |index: usize| entries.get(index).is_some_and(|entry| entry.ready);
        let apart = moves_on && entries.iter().any(|entry| !entry.ready);
        let ring = |rings: &Both<Ring>| Both {
            all: rings.all.clone(),
            ready: apart.then(|| Arc::new(rings.all.of(ready))),
        };
        let kind = match &self.kind {
            Kind::Ketama(rings) => Kind::Ketama(ring(rings)),
            Kind::RestyChash(rings) => Kind::RestyChash(ring(rings)),
            Kind::HaproxyConsistent(rings) => Kind::HaproxyConsistent(ring(rings)),
            Kind::HaproxyMap(maps) => {
                let map = || {
                    let (weights, _) = Algorithm::HaproxyMap.fitted(entries);
                    Arc::new(haproxy_map::Map::new(&weights, ready))
                };
                Kind::HaproxyMap(Both { all: maps.all.clone(), ready: apart.then(map) })
            }
            Kind::Maglev(tables) => {
                let table = || Arc::new(maglev::Table::new(entries, ready));
                Kind::Maglev(Both { all: tables.all.clone(), ready: apart.then(table) })
            }
            Kind::P2c(_) => {
                let weight = |entry: &Entry<'_>| if entry.ready { entry.weight } else { 0 };
                Kind::P2c(Arc::new(Shares::new(entries.iter().map(weight))))
            }
            kind => kind.clone(),
        };
        Balance { kind, ..*self }
    }

    /// Whether weights were divided to bound the structure's size.
    pub fn lowered(&self) -> bool {
        self.lowered
    }

    /// Whether a structure was not built twice for these two: each kind that has one says so.
    #[cfg(test)]
    pub fn shares_with(&self, other: &Balance) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Ketama(a), Kind::Ketama(b)) | (Kind::RestyChash(a), Kind::RestyChash(b)) => {
                Arc::ptr_eq(&a.all, &b.all)
            }
            _ => false,
        }
    }

    /// Whether this was prepared for backends of which some are not ready, in a way that may move
    /// the keys of those that are.
    pub fn moves_others(&self) -> bool {
        match &self.kind {
            Kind::HaproxyMap(maps) => maps.ready.is_some(),
            Kind::Maglev(tables) => tables.ready.is_some(),
            _ => false,
        }
    }

    /// Keyed algorithms: the backend this key belongs to when every backend is usable. `None` for
    /// the others, for an empty pool, and for the empty key where the original gives it to anybody
    /// (`nginx_hash`, `ketama`).
    pub fn home(&self, key: &[u8]) -> Option<usize> {
        match &self.kind {
            Kind::Crc32Mod => crc32_mod::home(key, self.count),
            Kind::NginxHash(shares) => nginx_hash::home(key, shares),
            Kind::Ketama(rings) => rings.all.backend(ketama::point(key, &rings.all, self.count)?),
            Kind::RestyChash(rings) => rings.all.backend(resty_chash::point(key, &rings.all)?),
            Kind::HaproxyMap(maps) => maps.all.backend(maps.all.slot(key)?),
            Kind::HaproxyConsistent(rings) => {
                rings.all.backend(haproxy_consistent::point(key, &rings.all)?)
            }
            Kind::Maglev(tables) => tables.all.backend(tables.all.slot(maglev::hash(key))?),
            Kind::Rendezvous(field) => field.home(key),
            Kind::RoundRobin
            | Kind::RestyRoundrobin(_)
            | Kind::RestySwrr
            | Kind::LeastConn
            | Kind::Random
            | Kind::P2c(_) => None,
        }
    }

    /// The first usable backend in the algorithm's own order for this key; `None` if no backend is
    /// usable. `among` must be as many as were prepared for, or none is found.
    pub fn pick(
        &self,
        key: &[u8],
        state: &mut PickState,
        among: &impl Candidates,
    ) -> Option<usize> {
        if state.current.len() != among.count() {
            state.resize(among.count());
        }
        let current = &mut state.current[..];
        match &self.kind {
            Kind::Crc32Mod => crc32_mod::pick(key, among),
            Kind::NginxHash(shares) => nginx_hash::pick(key, shares, current, among),
            Kind::Ketama(rings) => ketama::pick(key, rings.in_force(), current, among),
            Kind::RestyChash(rings) => resty_chash::pick(key, rings.in_force(), among),
            Kind::HaproxyMap(maps) => maps.in_force().pick(key, among),
            Kind::HaproxyConsistent(rings) => {
                haproxy_consistent::pick(key, rings.in_force(), among)
            }
            Kind::Maglev(tables) => tables.in_force().pick(key, among),
            Kind::Rendezvous(field) => field.pick(key, among),
            Kind::RoundRobin => round_robin::pick(current, among),
            Kind::RestyRoundrobin(steps) => steps.pick(&mut state.turn, &mut state.random, among),
            Kind::RestySwrr => {
                let start = (&mut state.begun, &mut state.random);
                resty_swrr::pick(current, start, among)
            }
            Kind::LeastConn => least_conn::pick(current, among),
            Kind::Random => random::pick(&mut state.random, among),
            Kind::P2c(shares) => p2c::pick(&mut state.random, shares, among),
        }
    }
}

/// A usable backend by weight, the hash deciding: where an algorithm's own order leads nowhere in
/// reasonable time, so that a key still gets the same answer everywhere.
fn by_weight(hash: u64, among: &impl Candidates) -> Option<usize> {
    let usable = || (0..among.count()).filter(|index| among.usable(*index));
    let total: u64 = usable().map(|index| u64::from(among.weight(index))).sum();
    let mut ticket = hash.checked_rem(total)?;
    usable().find(|index| {
        let weight = u64::from(among.weight(*index));
        let is_chosen = ticket < weight;
        ticket = ticket.saturating_sub(weight);
        is_chosen
    })
}
