//! Cost of choosing a backend, with 3 and with 3,000 of them.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use corelane::balance::{Algorithm, Balance, Candidates, Entry, PickState};

use super::{Measure, Operation};

const SEED: u64 = 20_250_601;

/// A pool as a shard sees it: the live counts are shared with other shards.
struct Backends(Vec<(u32, bool, AtomicU32)>);

impl Backends {
    /// Every seventh is down, weights are 1 to 4, live counts differ.
    fn new(count: usize) -> Backends {
        let small = |number: usize| u32::try_from(number).unwrap();
        let backend = |i: usize| (small(i % 4) + 1, i % 7 != 6, AtomicU32::new(small(i * 31 % 50)));
        Backends((0..count).map(backend).collect())
    }
}

impl Candidates for Backends {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn weight(&self, index: usize) -> u32 {
        self.0[index].0
    }
    fn usable(&self, index: usize) -> bool {
        self.0[index].1
    }
    fn live(&self, index: usize) -> u32 {
        self.0[index].2.load(Relaxed)
    }
}

/// The hash of nginx's and HAProxy's tables alone.
pub fn hash(by: &mut impl Measure) {
    by.measure(&Operation::short("hash", "crc32 of 15 digits"), || {
        || crc32fast::hash(black_box(b"868120212345678"))
    });
}

/// Every algorithm, when the table is there.
pub fn picks(by: &mut impl Measure) {
    for count in [3, 3_000] {
        let group = format!("pick of {count}");
        for (name, algorithm) in Algorithm::NAMES {
            by.measure(&Operation::short(&group, name), || {
                let among = Backends::new(count);
                let balance = prepare(*algorithm, &among);
                let mut state = PickState::new(count, SEED);
                move || balance.pick(black_box(b"868120212345678"), &mut state, &among)
            });
        }
    }
}

fn prepare(algorithm: Algorithm, among: &Backends) -> Balance {
    let id = |index: usize| format!("10.0.{}.{}:1", index / 256, index % 256);
    let ids: Vec<String> = (0..among.count()).map(id).collect();
    let entry = |index: usize| Entry {
        id: &ids[index],
        weight: among.weight(index),
        ready: among.usable(index),
    };
    let entries: Vec<Entry<'_>> = (0..among.count()).map(entry).collect();
    Balance::prepare(algorithm, &entries, true)
}
