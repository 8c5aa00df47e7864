//! From key to backend: every algorithm as a pure function behind one enum.
//!
//! An algorithm sees candidates through [`Candidates`] and gives an index; it opens nothing, reads
//! no clock and draws no entropy: what it remembers between picks is in [`PickState`], its seed is
//! an argument. Prepared structures (rings) belong in [`Balance`], built by the control plane.
//!
//! The order among equals, and what a backend that is not usable keeps of its turn, follow nginx
//! (`ngx_stream_upstream_round_robin.c`, `ngx_stream_upstream_least_conn_module.c`), so that a
//! pool behaves as it did there. nginx also lowers the weight of a backend that failed; here a
//! failing backend is not usable for a while, which is the caller's business.

mod crc32_mod;
mod least_conn;
mod random;
mod round_robin;

/// Names of `balance =`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `crc32(key) % N` over every declared backend.
    Crc32Mod,
    /// Smooth weighted round robin, in nginx's order.
    RoundRobin,
    /// Fewest live sessions per weight, ties by smooth weighted round robin.
    LeastConn,
    /// Weighted random.
    Random,
}

impl Algorithm {
    /// Every algorithm with its name in the configuration.
    pub const NAMES: &'static [(&'static str, Algorithm)] = &[
        ("crc32_mod", Algorithm::Crc32Mod),
        ("round_robin", Algorithm::RoundRobin),
        ("least_conn", Algorithm::LeastConn),
        ("random", Algorithm::Random),
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, a)| *a == self).map_or("", |(name, _)| name)
    }

    /// Whether the choice depends on the key.
    pub fn is_keyed(self) -> bool {
        matches!(self, Algorithm::Crc32Mod)
    }
}

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
}

/// A prepared algorithm: immutable, shared by all shards.
#[derive(Debug, Clone)]
pub enum Balance {
    /// See [`Algorithm::Crc32Mod`].
    Crc32Mod,
    /// See [`Algorithm::RoundRobin`].
    RoundRobin,
    /// See [`Algorithm::LeastConn`].
    LeastConn,
    /// See [`Algorithm::Random`].
    Random,
}

/// What one shard remembers of one pool between picks.
#[derive(Debug, Clone)]
pub struct PickState {
    /// Smooth round robin: current weight per backend.
    pub current: Vec<i64>,
    /// State of the pseudo-random generator.
    pub random: u64,
}

impl PickState {
    /// A fresh state; `seed` decides where random choices start.
    pub fn new(count: usize, seed: u64) -> PickState {
        PickState { current: vec![0; count], random: seed }
    }

    /// Follows a pool whose number of backends changed; [`Balance::pick`] does it by itself.
    /// Backends keep their turn by position, new ones start level: round robin compares current
    /// weights with each other only, so that whatever sum the old ones leave does no harm.
    pub fn resize(&mut self, count: usize) {
        self.current.resize(count, 0);
    }
}

impl Balance {
    /// Prepares an algorithm for a pool.
    pub fn prepare(algorithm: Algorithm) -> Balance {
        match algorithm {
            Algorithm::Crc32Mod => Balance::Crc32Mod,
            Algorithm::RoundRobin => Balance::RoundRobin,
            Algorithm::LeastConn => Balance::LeastConn,
            Algorithm::Random => Balance::Random,
        }
    }

    /// Keyed algorithms: the backend this key belongs to when every backend is usable.
    /// `None` for the others, and for an empty pool.
    pub fn home(&self, key: &[u8], count: usize) -> Option<usize> {
        match self {
            Balance::Crc32Mod => crc32_mod::home(key, count),
            Balance::RoundRobin | Balance::LeastConn | Balance::Random => None,
        }
    }

    /// The first usable backend in the algorithm's own order for this key; `None` if no backend is
    /// usable.
    pub fn pick(
        &self,
        key: &[u8],
        state: &mut PickState,
        among: &impl Candidates,
    ) -> Option<usize> {
        if state.current.len() != among.count() {
            state.resize(among.count());
        }
        match self {
            Balance::Crc32Mod => crc32_mod::pick(key, among),
            Balance::RoundRobin => round_robin::pick(&mut state.current, among),
            Balance::LeastConn => least_conn::pick(&mut state.current, among),
            Balance::Random => random::pick(&mut state.random, among),
        }
    }
}
