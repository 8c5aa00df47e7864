//! Cost of choosing a backend, with 3 and with 3,000 of them.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use corelane::balance::{Algorithm, Balance, Candidates, Entry, PickState};
use criterion::{Criterion, criterion_group, criterion_main};

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

fn hash(criterion: &mut Criterion) {
    criterion.bench_function("crc32 of 15 digits", |bencher| {
        bencher.iter(|| crc32fast::hash(black_box(b"868120212345678")));
    });
}

fn picks(criterion: &mut Criterion) {
    for count in [3, 3_000] {
        let mut group = criterion.benchmark_group(format!("pick of {count}"));
        let among = Backends::new(count);
        let ids: Vec<String> =
            (0..count).map(|i| format!("10.0.{}.{}:1", i / 256, i % 256)).collect();
        let entry = |index: usize| Entry {
            id: &ids[index],
            weight: among.weight(index),
            ready: among.usable(index),
        };
        let entries: Vec<Entry<'_>> = (0..count).map(entry).collect();
        for (name, algorithm) in Algorithm::NAMES {
            let balance = Balance::prepare(*algorithm, &entries, true);
            let mut state = PickState::new(count, SEED);
            group.bench_function(*name, |bencher| {
                bencher.iter(|| balance.pick(black_box(b"868120212345678"), &mut state, &among));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, hash, picks);
criterion_main!(benches);
