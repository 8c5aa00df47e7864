//! Which keys move between two versions of a pool: what a change of backends, weights, states or
//! algorithm costs, told before it is made. Pure.
//!
//! A key is where the algorithm and the states say. What a shard learns while it runs (backends
//! that failed a moment ago, live sessions) is no part of a comparison.

use std::collections::HashMap;

use crate::balance::{Algorithm, Balance, Candidates, Entry, PickState};
use crate::config::{self, Address, BackendState, OnDown};
use crate::end::End;
use crate::table;

/// A pool as its declared states have it.
#[derive(Debug)]
pub struct Standing<'a> {
    /// The pool's name.
    pub name: &'a str,
    /// How a key becomes a backend.
    pub algorithm: Algorithm,
    balance: Balance,
    on_down: OnDown,
    backends: Vec<Stand<'a>>,
}

#[derive(Debug)]
struct Stand<'a> {
    address: &'a Address,
    weight: u32,
    ready: bool,
}

impl Candidates for Standing<'_> {
    fn count(&self) -> usize {
        self.backends.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.backends[index].weight
    }

    fn usable(&self, index: usize) -> bool {
        self.backends[index].ready
    }

    fn live(&self, _: usize) -> u32 {
        0
    }
}

/// Prepares a pool's algorithm for the backends of its settings.
pub fn prepared(pool: &config::Pool) -> Balance {
    let ids: Vec<String> =
        pool.backends.iter().map(|backend| backend.address.to_string()).collect();
    let entries: Vec<Entry<'_>> = ids
        .iter()
        .zip(&pool.backends)
        .map(|(id, backend)| Entry { id, weight: backend.weight, ready: is_ready(backend) })
        .collect();
    Balance::prepare(pool.balance, &entries, pool.on_down == OnDown::Next)
}

fn is_ready(backend: &config::Backend) -> bool {
    backend.state == BackendState::Ready
}

impl<'a> Standing<'a> {
    /// A pool of a file.
    pub fn of_settings(pool: &'a config::Pool) -> Standing<'a> {
        let stand = |backend: &'a config::Backend| Stand {
            address: &backend.address,
            weight: backend.weight,
            ready: is_ready(backend),
        };
        Standing {
            name: &pool.name,
            algorithm: pool.balance,
            balance: prepared(pool),
            on_down: pool.on_down,
            backends: pool.backends.iter().map(stand).collect(),
        }
    }

    /// A pool of a table, with the health that it was judged by; shares what the table prepared.
    pub fn of_table(pool: &'a table::Pool) -> Standing<'a> {
        let stand = |backend: &'a std::sync::Arc<table::Backend>| Stand {
            address: &backend.address,
            weight: backend.weight,
            ready: pool.in_service(backend),
        };
        Standing {
            name: &pool.settings.name,
            algorithm: pool.settings.balance,
            balance: pool.balance.clone(),
            on_down: pool.settings.on_down,
            backends: pool.backends.iter().map(stand).collect(),
        }
    }

    /// The prepared algorithm.
    pub fn balance(&self) -> &Balance {
        &self.balance
    }

    /// The address of a backend.
    pub fn address(&self, index: usize) -> &'a Address {
        self.backends[index].address
    }

    /// The backend that takes this key; keyed algorithms only. The empty key may have none of its
    /// own (`nginx_hash`, `ketama`): it is where the first such session would be.
    ///
    /// # Errors
    /// Why nobody takes it.
    pub fn place(&self, key: &[u8]) -> Result<usize, End> {
        if self.backends.is_empty() {
            return Err(End::PoolEmpty);
        }
        match self.balance.home(key) {
            Some(home) if self.usable(home) && !self.balance.moves_others() => return Ok(home),
            Some(home) if !self.usable(home) && self.on_down == OnDown::Reject => {
                return Err(End::BackendDown);
            }
            _ => {}
        }
        // Keys leave no trace in it, and the empty key finds every shard's first turn.
        let mut state = PickState::new(0, 0);
        self.balance.pick(key, &mut state, self).ok_or(End::BackendDown)
    }
}

/// How many keys were compared, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moves {
    /// Keys looked at.
    pub keys: u64,
    /// Keys that another backend takes than before, those in `gained` and `lost` included.
    pub moved: u64,
    /// Keys that nobody took before.
    pub gained: u64,
    /// Keys that nobody takes any more.
    pub lost: u64,
}

impl Moves {
    /// The share of keys that move, 0 to 1.
    pub fn share(&self) -> f64 {
        self.moved as f64 / self.keys.max(1) as f64
    }
}

/// Two versions of a pool, or two pools, ready to be compared.
#[derive(Debug)]
pub struct Comparison<'a> {
    old: Standing<'a>,
    new: Standing<'a>,
    /// Per backend of `old`: the same address in `new`.
    follows: Vec<Option<usize>>,
}

/// Where a key was and where it is: indices of backends, `None` where nobody takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// In the old pool.
    pub old: Option<usize>,
    /// In the new pool.
    pub new: Option<usize>,
}

impl<'a> Comparison<'a> {
    /// Compares by address. `None` unless both pools balance by key: without, there is nothing that
    /// could move.
    pub fn new(old: Standing<'a>, new: Standing<'a>) -> Option<Comparison<'a>> {
        if !old.algorithm.is_keyed() || !new.algorithm.is_keyed() {
            return None;
        }
        let backends = new.backends.iter().enumerate();
        let known: HashMap<&Address, usize> =
            backends.map(|(index, backend)| (backend.address, index)).collect();
        let follows = old.backends.iter().map(|backend| known.get(backend.address).copied());
        let follows = follows.collect();
        Some(Comparison { old, new, follows })
    }

    /// The old pool.
    pub fn old(&self) -> &Standing<'a> {
        &self.old
    }

    /// The new pool.
    pub fn new_pool(&self) -> &Standing<'a> {
        &self.new
    }

    /// Where this key moves; `None` if it stays.
    pub fn moved(&self, key: &[u8]) -> Option<Move> {
        let (old, new) = (self.old.place(key).ok(), self.new.place(key).ok());
        let stays = match (old, new) {
            (None, None) => true,
            (Some(old), Some(new)) => self.follows.get(old).copied().flatten() == Some(new),
            (Some(_), None) | (None, Some(_)) => false,
        };
        (!stays).then_some(Move { old, new })
    }

    /// What becomes of all these keys.
    pub fn moves(&self, keys: impl Iterator<Item = Vec<u8>>) -> Moves {
        let mut moves = Moves::default();
        for key in keys {
            moves.keys += 1;
            if let Some(Move { old, new }) = self.moved(&key) {
                moves.moved += 1;
                moves.gained += u64::from(old.is_none());
                moves.lost += u64::from(new.is_none());
            }
        }
        moves
    }
}

/// Keys that stand for all others: decimal numbers of 15 digits, as device ids are, the same ones
/// each time. Fair for every algorithm here, all of which hash the whole key.
pub fn sample(count: u64) -> impl Iterator<Item = Vec<u8>> {
    const DIGITS: u64 = 1_000_000_000_000_000;
    // An odd step that shares no factor with the number of keys: none comes twice.
    const STEP: u64 = 618_033_988_749_899;
    (0..count.min(DIGITS)).map(|number| {
        let key = u128::from(number) * u128::from(STEP) % u128::from(DIGITS);
        format!("{key:015}").into_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_keys_are_distinct() {
        let mut keys: Vec<_> = sample(100_000).collect();
        assert!(keys.iter().all(|key| key.len() == 15));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 100_000);
    }
}
