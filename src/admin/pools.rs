//! The table in force: pools and backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::answer::{absent, json, query};
use super::http::Asked;
use crate::config::OnDown;
use crate::end::{End, Placement};
use crate::table::{Backend, Pool, Table};

/// What `/pools` answers.
#[derive(Debug, Serialize)]
struct Pools<'a> {
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

/// What `/backends` answers.
#[derive(Debug, Serialize)]
struct Backends<'a> {
    table: u64,
    backends: Vec<BackendOfPool<'a>>,
}

#[derive(Debug, Serialize)]
struct BackendOfPool<'a> {
    pool: &'a str,
    /// No longer in the pool, but with sessions left.
    removed: bool,
    #[serde(flatten)]
    backend: BackendView<'a>,
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

/// `GET /pools`
pub(super) async fn show(State(shared): Asked) -> Response {
    let table = shared.state.table.borrow().clone();
    let pools = table.pools.iter().map(|pool| view(pool)).collect();
    json(&Pools { table: table.version, pools })
}

/// `GET /pools/{pool}`
pub(super) async fn show_one(State(shared): Asked, Path(name): Path<String>) -> Response {
    let table = shared.state.table.borrow().clone();
    match find(&table, &name) {
        Some(pool) => json(&view(pool)),
        None => absent("pool", &name),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendsQuery {
    pool: Option<String>,
    state: Option<String>,
}

/// `GET /backends`
pub(super) async fn show_backends(
    State(shared): Asked,
    asked: Result<Query<BackendsQuery>, QueryRejection>,
) -> Response {
    let BackendsQuery { pool, state } = match query(asked) {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let table = shared.state.table.borrow().clone();
    if let Some(name) = &pool
        && find(&table, name).is_none()
    {
        return absent("pool", name);
    }
    let mut backends = Vec::new();
    let wanted = |name: &str| pool.as_ref().is_none_or(|pool| pool == name);
    for pool in table.all_pools().filter(|one| wanted(&one.settings.name)) {
        let is_gone = !table.pools.iter().any(|one| Arc::ptr_eq(one, pool));
        let leaving = pool.leaving.iter().map(|backend| (backend, true));
        for (backend, removed) in pool.backends.iter().map(|one| (one, is_gone)).chain(leaving) {
            let backend = view_backend(backend);
            if state.as_ref().is_none_or(|state| state == backend.state) {
                backends.push(BackendOfPool { pool: &pool.settings.name, removed, backend });
            }
        }
    }
    json(&Backends { table: table.version, backends })
}

/// `GET /pools/{pool}/backends/{backend}`
pub(super) async fn show_backend(
    State(shared): Asked,
    Path((name, address)): Path<(String, String)>,
) -> Response {
    let table = shared.state.table.borrow().clone();
    let Some(pool) = find(&table, &name) else { return absent("pool", &name) };
    let is_it = |backend: &&Arc<Backend>| *backend.label == *address;
    if let Some(backend) = pool.backends.iter().find(is_it) {
        let backend = view_backend(backend);
        return json(&BackendOfPool { pool: &name, removed: false, backend });
    }
    match pool.leaving.iter().find(is_it).map(|backend| view_backend(backend)) {
        Some(backend) => json(&BackendOfPool { pool: &name, removed: true, backend }),
        None => absent("backend", &address),
    }
}

fn find<'t>(table: &'t Table, name: &str) -> Option<&'t Arc<Pool>> {
    table.all_pools().find(|pool| pool.settings.name == name)
}

fn view(pool: &Pool) -> PoolView<'_> {
    let placements =
        Placement::ALL.iter().filter(|placement| !placement.is_lookup()).map(|placement| {
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
