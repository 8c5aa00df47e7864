//! The table in force, as `/pools` shows it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::OnDown;
use crate::end::{End, Placement};
use crate::table::{Backend, Pool, Table};

/// What `/pools` answers.
#[derive(Debug, Serialize)]
pub(super) struct Pools<'a> {
    table: u64,
    pools: Vec<PoolView<'a>>,
}

#[derive(Debug, Serialize)]
struct PoolView<'a> {
    name: &'a str,
    balance: &'static str,
    on_down: &'static str,
    /// So many backends are out of service that all are used.
    panicking: bool,
    /// Sessions placed, by label of the reason; reasons that never occurred are left out.
    placements: BTreeMap<&'static str, u64>,
    backends: Vec<BackendView<'a>>,
    /// No longer in the pool, but with sessions left.
    removed: Vec<BackendView<'a>>,
}

#[derive(Debug, Serialize)]
struct BackendView<'a> {
    address: &'a str,
    weight: u32,
    state: &'static str,
    /// Sessions that wait for room on it.
    waiting: u32,
    /// Sessions open now.
    live: u32,
    /// Sessions ever placed here.
    sessions: u64,
    /// Failed attempts to connect, by label; reasons that never occurred are left out.
    connect_failures: BTreeMap<&'static str, u64>,
    bytes_in: u64,
    bytes_out: u64,
    warm: u64,
    warm_used: u64,
    warm_stale: u64,
}

pub(super) fn show(table: &Table) -> Pools<'_> {
    Pools { table: table.version, pools: table.pools.iter().map(|pool| view(pool)).collect() }
}

fn view(pool: &Pool) -> PoolView<'_> {
    let placements = Placement::ALL.iter().map(|placement| {
        (placement.label(), pool.cells.sum(|cell| &cell.placements[*placement as usize]))
    });
    PoolView {
        name: &pool.settings.name,
        balance: pool.settings.balance.name(),
        on_down: match pool.settings.on_down {
            OnDown::Reject => "reject",
            OnDown::Next => "next",
        },
        panicking: pool.panicking,
        placements: placements.filter(|(_, count)| *count > 0).collect(),
        backends: pool.backends.iter().map(|backend| view_backend(backend)).collect(),
        removed: pool.leaving.iter().map(|backend| view_backend(backend)).collect(),
    }
}

fn view_backend(backend: &Backend) -> BackendView<'_> {
    let cells = &backend.shared.cells;
    let failures = End::ALL
        .iter()
        .map(|end| (end.label(), cells.sum(|cell| &cell.connect_failures[*end as usize])));
    BackendView {
        address: &backend.label,
        weight: backend.weight,
        state: backend.state_label(),
        waiting: backend.shared.room.waiting(),
        live: backend.shared.room.live(),
        sessions: cells.sum(|cell| &cell.sessions),
        connect_failures: failures.filter(|(_, count)| *count > 0).collect(),
        bytes_in: cells.sum(|cell| &cell.bytes_in),
        bytes_out: cells.sum(|cell| &cell.bytes_out),
        warm: cells.sum(|cell| &cell.warm),
        warm_used: cells.sum(|cell| &cell.warm_used),
        warm_stale: cells.sum(|cell| &cell.warm_stale),
    }
}
