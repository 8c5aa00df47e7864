//! Cost of a table of 3,000 backends: building it (control plane) and taking a new one (shard).

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use corelane::balance::Algorithm;
use corelane::config::{Address, Backend, BackendState, OnDown, OnRemove, Pool, SocketOptions};
use corelane::table::{Layout, Table};

use super::{Measure, Operation};

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

/// The control plane's work at a start. Rings of half a million points take a while.
pub fn build(by: &mut impl Measure) {
    for (name, algorithm) in Algorithm::NAMES {
        by.measure(&Operation::long("build a table of 3,000 backends", name), || {
            let pools = Layout::of_pools(vec![pool(*algorithm)]);
            move || Table::first(black_box(&pools), SHARDS)
        });
    }
}

/// The control plane's work when a store says what it said before, and when a backend goes down.
pub fn follow(by: &mut impl Measure) {
    let group = "the next table of 3,000 backends";
    for (name, algorithm) in Algorithm::NAMES.iter().filter(|(_, a)| a.is_keyed()) {
        for (what, state) in
            [("nothing changed", BackendState::Ready), ("one down", BackendState::Down)]
        {
            by.measure(&Operation::long(group, &format!("{name}, {what}")), || {
                let mut pools = Layout::of_pools(vec![pool(*algorithm)]);
                let table = Table::first(&pools, SHARDS);
                pools.pools[0].backends[1_234].state = state;
                move || table.next(black_box(&pools), SHARDS)
            });
        }
    }
}

/// Two versions that others hold too, as in a process with several shards: the swap frees nothing.
pub fn swap(by: &mut impl Measure) {
    by.measure(&Operation::short("swap", "take a new table of 3,000 backends"), || {
        let pools = Layout::of_pools(vec![pool(Algorithm::Crc32Mod)]);
        let versions = [1, 2].map(|_| Arc::new(Table::first(&pools, SHARDS)));
        let mut current = Arc::clone(&versions[0]);
        let mut turn = 0_usize;
        move || {
            turn += 1;
            let next = Arc::clone(&versions[turn % 2]);
            drop(std::mem::replace(&mut current, black_box(next)));
        }
    });
}
