//! Cost of a table of 3,000 backends: building it (control plane) and taking a new one (shard).

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use corelane::balance::Algorithm;
use corelane::config::{Address, Backend, BackendState, OnDown, OnRemove, Pool, SocketOptions};
use corelane::table::{Layout, Table};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const BACKENDS: u16 = 3_000;
const SHARDS: usize = 4;

fn pool(balance: Algorithm) -> Pool {
    let backend = |index: u16| {
        let [high, low] = index.to_be_bytes();
        let address = Address::Tcp(([10, 0, high, low], 1000).into());
        Backend { address, weight: 1, state: BackendState::Ready }
    };
    Pool {
        name: "c2s".into(),
        balance,
        on_down: OnDown::Next,
        connect_timeout: Duration::from_secs(1),
        retries: 1,
        fail_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(600),
        warm: 0,
        socket: SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None },
        proxy_out: false,
        tls: None,
        source_addresses: Vec::new(),
        on_remove: OnRemove::Keep,
        close_rate: 200,
        sources: Vec::new(),
        bounded_load: None,
        health: corelane::config::Health::default(),
        backends: (0..BACKENDS).map(backend).collect(),
    }
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build a table of 3,000 backends");
    // Rings of half a million points take a while.
    group.sample_size(20);
    for (name, algorithm) in Algorithm::NAMES {
        let pools = Layout::of_pools(vec![pool(*algorithm)]);
        group.bench_function(*name, |bencher| {
            // Dropping it is not part of building it.
            let build = || Table::first(black_box(&pools), SHARDS);
            bencher.iter_batched(|| (), |()| build(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// The control plane's work when a store says what it said before, and when a backend goes down.
fn follow(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("the next table of 3,000 backends");
    group.sample_size(20);
    for (name, algorithm) in Algorithm::NAMES.iter().filter(|(_, a)| a.is_keyed()) {
        let pools = Layout::of_pools(vec![pool(*algorithm)]);
        let mut down = pools.clone();
        down.pools[0].backends[1_234].state = BackendState::Down;
        let table = Table::first(&pools, SHARDS);
        for (what, pools) in [("nothing changed", &pools), ("one down", &down)] {
            group.bench_function(format!("{name}, {what}"), |bencher| {
                let follow = || table.next(black_box(pools), SHARDS);
                bencher.iter_batched(|| (), |()| follow(), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

/// Two versions that others hold too, as in a process with several shards: the swap frees nothing.
fn swap(criterion: &mut Criterion) {
    let pools = Layout::of_pools(vec![pool(Algorithm::Crc32Mod)]);
    let versions = [1, 2].map(|_| Arc::new(Table::first(&pools, SHARDS)));
    let mut current = Arc::clone(&versions[0]);
    let mut turn = 0_usize;
    criterion.bench_function("take a new table of 3,000 backends", |bencher| {
        bencher.iter(|| {
            turn += 1;
            let next = Arc::clone(&versions[turn % 2]);
            drop(std::mem::replace(&mut current, black_box(next)));
        });
    });
    assert_eq!(current.pools[0].backends.len(), usize::from(BACKENDS));
}

criterion_group!(benches, build, follow, swap);
criterion_main!(benches);
