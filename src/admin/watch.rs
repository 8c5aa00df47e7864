//! Tells what happens: compares each table and each set of sources with the one before.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::AdminState;
use super::events::Events;
use crate::source::view::SourceView;
use crate::table::{Backend, Pool, Table};

/// Addresses named in one event; of more only the number is said.
const NAMED_MAX: usize = 50;

/// Another table is in force. Several in quick succession may be told as one.
#[derive(Debug, Default, PartialEq, Serialize)]
struct TableChange {
    table: u64,
    /// The one that was told before.
    from: u64,
    /// Of the configuration.
    generation: u64,
    pools_added: Vec<String>,
    pools_removed: Vec<String>,
    /// Pools whose backends differ.
    pools: Vec<PoolChange>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct PoolChange {
    pool: String,
    added: Names,
    removed: Names,
    /// Weight, state or place in the order.
    changed: Names,
}

/// So many backends, the first of them by name.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Names {
    count: usize,
    backends: Vec<String>,
}

/// A backend takes sessions, or does not, for another reason than before.
#[derive(Debug, PartialEq, Serialize)]
struct StateChange {
    table: u64,
    pool: String,
    backend: String,
    from: &'static str,
    to: &'static str,
}

/// A source is worth more, or less.
#[derive(Debug, PartialEq, Serialize)]
struct SourceChange {
    pool: String,
    source: String,
    state: &'static str,
    /// `null` when it was not watched before.
    from: Option<&'static str>,
    backends: Option<usize>,
    held: usize,
    empty_kept: bool,
    failure: Option<String>,
}

/// Compares and tells until the control plane ends.
pub(super) async fn watch(state: AdminState) {
    let AdminState { mut table, mut sources, events, .. } = state;
    let mut told = table.borrow_and_update().clone();
    let mut known = sources.borrow_and_update().clone();
    loop {
        tokio::select! {
            Ok(()) = table.changed() => {
                let now = table.borrow_and_update().clone();
                tell_table(&told, &now, &events);
                told = now;
            }
            Ok(()) = sources.changed() => {
                let now = sources.borrow_and_update().clone();
                for change in source_changes(&known, &now) {
                    events.tell("source", &change);
                }
                known = now;
            }
            else => return,
        }
    }
}

fn tell_table(old: &Table, new: &Table, events: &Events) {
    let (change, states) = difference(old, new);
    if change.generation != old.generation || change.is_something() {
        events.tell("table", &change);
    }
    for state in states {
        events.tell("backend", &state);
    }
}

impl TableChange {
    fn is_something(&self) -> bool {
        !(self.pools_added.is_empty() && self.pools_removed.is_empty() && self.pools.is_empty())
    }
}

fn difference(old: &Table, new: &Table) -> (TableChange, Vec<StateChange>) {
    let named = |pools: &[Arc<Pool>], others: &Table| -> Vec<String> {
        let only_here = pools.iter().filter(|pool| others.pool(&pool.settings.name).is_none());
        only_here.map(|pool| pool.settings.name.clone()).collect()
    };
    let mut change = TableChange {
        table: new.version,
        from: old.version,
        generation: new.generation,
        pools_added: named(&new.pools, old),
        pools_removed: named(&old.pools, new),
        pools: Vec::new(),
    };
    let mut states = Vec::new();
    for pool in &new.pools {
        let Some((_, before)) = old.pool(&pool.settings.name) else { continue };
        if !Arc::ptr_eq(before, pool) {
            change.pools.extend(pool_difference(before, pool));
            flips(before, pool, new.version, &mut states);
        }
    }
    (change, states)
}

fn by_address(pool: &Pool) -> HashMap<&str, (usize, &Backend)> {
    let backends = pool.backends.iter().enumerate();
    backends.map(|(index, backend)| (&*backend.label, (index, &**backend))).collect()
}

fn pool_difference(old: &Pool, new: &Pool) -> Option<PoolChange> {
    let (before, after) = (by_address(old), by_address(new));
    let mut change = PoolChange { pool: new.settings.name.clone(), ..PoolChange::default() };
    for (index, backend) in new.backends.iter().enumerate() {
        match before.get(&*backend.label) {
            None => change.added.push(backend),
            Some((place, old)) => {
                let differs = (old.weight, old.state_label())
                    != (backend.weight, backend.state_label())
                    || *place != index && old_order_matters(new);
                if differs {
                    change.changed.push(backend);
                }
            }
        }
    }
    let gone = old.backends.iter().filter(|backend| !after.contains_key(&*backend.label));
    gone.for_each(|backend| change.removed.push(backend));
    let count = change.added.count + change.removed.count + change.changed.count;
    (count > 0).then_some(change)
}

/// Whether a backend's place in the order decides about keys.
fn old_order_matters(pool: &Pool) -> bool {
    pool.settings.balance == crate::balance::Algorithm::Crc32Mod
}

impl Names {
    fn push(&mut self, backend: &Backend) {
        self.count += 1;
        if self.backends.len() < NAMED_MAX {
            self.backends.push(backend.label.to_string());
        }
    }
}

/// Backends that are in both and in another state.
fn flips(old: &Pool, new: &Pool, table: u64, states: &mut Vec<StateChange>) {
    let before = by_address(old);
    for backend in &new.backends {
        let Some((_, old)) = before.get(&*backend.label) else { continue };
        let (from, to) = (old.state_label(), backend.state_label());
        if from != to && states.len() < NAMED_MAX {
            let (pool, backend) = (new.settings.name.clone(), backend.label.to_string());
            states.push(StateChange { table, pool, backend, from, to });
        }
    }
}

fn source_changes(old: &[SourceView], new: &[SourceView]) -> Vec<SourceChange> {
    let mut changes = Vec::new();
    for view in new {
        let before = old.iter().find(|one| one.pool == view.pool && one.label == view.label);
        let cause = |view: &SourceView| view.failure.as_ref().map(|failure| failure.cause);
        let same = before.is_some_and(|before| {
            before.state == view.state
                && (before.held, before.empty_kept) == (view.held, view.empty_kept)
                && cause(before) == cause(view)
        });
        if same {
            continue;
        }
        changes.push(SourceChange {
            pool: view.pool.clone(),
            source: view.label.clone(),
            state: view.state.name(),
            from: before.map(|before| before.state.name()),
            backends: view.members,
            held: view.held,
            empty_kept: view.empty_kept,
            failure: view.failure.as_ref().map(ToString::to_string),
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Address, BackendState};

    fn names(backends: &[&str]) -> Names {
        let named = backends.iter().map(|name| (*name).to_owned()).collect();
        Names { count: backends.len(), backends: named }
    }

    #[test]
    fn what_differs_between_two_tables() {
        let first = Table::sample(&Address::local(1..4), |_| {});
        let mut settings = first.pools[0].settings.clone();
        settings.backends[1].state = BackendState::Drain;
        settings.backends[0].weight = 5;
        settings.backends.remove(2);
        let mut added = settings.backends[0].clone();
        added.address = Address::Unix("/new".into());
        settings.backends.push(added);
        let second = first.next(&crate::table::Layout::of_pools(vec![settings]), 1);
        let (change, states) = difference(&first, &second);
        let pool = PoolChange {
            pool: "p".to_owned(),
            added: names(&["unix:/new"]),
            removed: names(&["127.0.0.1:3"]),
            changed: names(&["127.0.0.1:1", "127.0.0.1:2"]),
        };
        assert_eq!((change.from, change.table, change.pools), (1, 2, vec![pool]));
        assert_eq!((states.len(), states[0].from, states[0].to), (1, "ready", "drain"));
        let (same, none) = difference(&second, &second.successor(1));
        assert!(!same.is_something() && none.is_empty());
    }
}
