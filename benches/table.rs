//! Cost of a table of 3,000 backends: building it (control plane) and taking a new one (shard).

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use corelane::balance::Algorithm;
use corelane::config::{Address, Backend, BackendState, OnDown, Pool, SocketOptions};
use corelane::table::Table;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const BACKENDS: u16 = 3_000;
const SHARDS: usize = 4;

fn pool() -> Pool {
    let backend = |index: u16| {
        let [high, low] = index.to_be_bytes();
        let address = Address::Tcp(([10, 0, high, low], 1000).into());
        Backend { address, weight: 1, state: BackendState::Ready }
    };
    Pool {
        name: "c2s".into(),
        balance: Algorithm::Crc32Mod,
        on_down: OnDown::Next,
        connect_timeout: Duration::from_secs(1),
        retries: 1,
        fail_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(600),
        warm: 0,
        socket: SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None },
        proxy_out: false,
        source_addresses: Vec::new(),
        health: corelane::config::Health::default(),
        backends: (0..BACKENDS).map(backend).collect(),
    }
}

fn build(criterion: &mut Criterion) {
    let pools = [pool()];
    criterion.bench_function("build a table of 3,000 backends", |bencher| {
        // Dropping it is not part of building it.
        bencher.iter_batched(
            || (),
            |()| Table::first(black_box(&pools), SHARDS),
            BatchSize::PerIteration,
        );
    });
}

/// Two versions that others hold too, as in a process with several shards: the swap frees nothing.
fn swap(criterion: &mut Criterion) {
    let pools = [pool()];
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

criterion_group!(benches, build, swap);
criterion_main!(benches);
