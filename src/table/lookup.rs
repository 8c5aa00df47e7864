//! A lookup of one configuration, and what of it outlives the configuration.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::mpsc;

use super::{Backend, BackendShared, Pool};
use crate::config;
use crate::lookup::Asked;
use crate::metrics::{AskedCells, BackendCells, LookupCells, PerShard, PoolCells};

/// Questions that may wait for the control plane; further ones have no answer.
const QUESTIONS_MAX: usize = 8_192;
/// Addresses known at least before those that nobody has any more are looked for.
const SWEPT_MIN: usize = 64;

/// A lookup of one configuration. Unchanged settings leave it the same from one to the next.
#[derive(Debug)]
pub struct Lookup {
    /// Its name, for log lines.
    pub label: Arc<str>,
    /// What and whom to ask.
    pub settings: config::Lookup,
    /// Tells it from every other, those of the same name included.
    pub id: u64,
    /// What sessions that it places have in place of a pool: settings, but no backends.
    pub pool: Arc<Pool>,
    /// Of its identity, which is its name.
    pub identity: Arc<LookupIdentity>,
    questions: mpsc::Sender<Asked>,
}

/// What outlives settings: counters, and who is at which address.
#[derive(Debug)]
pub struct LookupIdentity {
    /// The name, for labels.
    pub label: Arc<str>,
    /// What shards count.
    pub cells: PerShard<LookupCells>,
    /// What the control plane counts.
    pub asked: AskedCells,
    /// What shards count of placing sessions.
    pub pool_cells: Arc<PerShard<PoolCells>>,
    /// What shards count of all of its addresses together: a store could name any number of them.
    pub backend_cells: PerShard<BackendCells>,
    live: Arc<AtomicU32>,
    /// Only the control plane looks in here.
    backends: Mutex<HashMap<SocketAddr, Weak<Backend>>>,
    shards: usize,
}

impl Lookup {
    /// A lookup, and the end of it at which questions come out.
    pub fn new(
        settings: &config::Lookup,
        id: u64,
        identity: Arc<LookupIdentity>,
    ) -> (Lookup, mpsc::Receiver<Asked>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let mut pool = Pool::new(&settings.as_pool(), identity.shards);
        pool.cells = identity.pool_cells.clone();
        let lookup = Lookup {
            label: identity.label.clone(),
            settings: settings.clone(),
            id,
            pool: Arc::new(pool),
            identity,
            questions,
        };
        (lookup, asked)
    }

    /// Asks the control plane; `false` if too many questions wait already. Never waits itself.
    pub fn ask(&self, question: Asked) -> bool {
        self.questions.try_send(question).is_ok()
    }

    /// Sessions that its addresses have.
    pub fn live(&self) -> u32 {
        self.identity.live()
    }
}

impl LookupIdentity {
    /// Nothing happened yet.
    pub fn new(name: &str, shards: usize) -> LookupIdentity {
        LookupIdentity {
            label: name.into(),
            pool_cells: Arc::new(PerShard::new(shards)),
            cells: PerShard::new(shards),
            asked: AskedCells::default(),
            backend_cells: PerShard::new(shards),
            live: Arc::default(),
            backends: Mutex::default(),
            shards,
        }
    }

    /// Sessions that its addresses have, by whichever settings they were found.
    pub fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// The backend at an address: the same one for as long as anybody has it.
    pub fn backend(&self, address: SocketAddr) -> Arc<Backend> {
        let mut known = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = known.get(&address).and_then(Weak::upgrade) {
            return backend;
        }
        // As many more as there are: each is looked at a bounded number of times.
        if known.len() >= SWEPT_MIN && known.len() == known.capacity() {
            known.retain(|_, backend| backend.strong_count() > 0);
        }
        let cells = self.backend_cells.clone();
        let shared = BackendShared::with_cells(cells, self.live.clone());
        let backend = Arc::new(Backend::looked_up(address, Arc::new(shared)));
        known.insert(address, Arc::downgrade(&backend));
        backend
    }

    /// Addresses that somebody has, or had a moment ago.
    pub fn addresses(&self) -> usize {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_backend_while_anybody_has_it() {
        let identity = LookupIdentity::new("nodes", 1);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let one = identity.backend(address(1));
        assert!(Arc::ptr_eq(&one, &identity.backend(address(1))));
        for port in 2..50_000 {
            drop(identity.backend(address(port)));
        }
        assert!(identity.addresses() < 1_000, "{}", identity.addresses());
        assert!(Arc::ptr_eq(&one, &identity.backend(address(1))), "held all the while");
    }
}
