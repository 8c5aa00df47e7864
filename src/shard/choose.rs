//! What a shard remembers of backends, and what sessions ask of it: which one is next, which ones
//! fail, and a connection that is ready.

use super::Shard;
use super::wheel::ticks;
use crate::end::End;
use crate::placement::{Choice, PoolMemory, Search};
use crate::sys::Socket;
use crate::table::{Backend, Pool, Table};

impl Shard {
    /// The next backend for a session.
    ///
    /// # Errors
    /// As `Search::next`.
    pub fn choose(&self, search: &mut Search<'_>) -> Result<Choice, End> {
        match self.memory.borrow_mut().get_mut(search.pool_index) {
            Some(memory) => search.next(memory, self.now()),
            None => Err(End::PoolEmpty),
        }
    }

    /// Passes a backend over for its pool's `fail_timeout`: connecting to it failed. Found by
    /// identity: the table may have changed since it was chosen. Said once per such time, not per
    /// session.
    pub fn note_failing(&self, backend: &Backend, end: End) {
        backend.shared.failed();
        let (table, now) = (self.table(), self.now());
        for (pool, memory) in table.pools.iter().zip(self.memory.borrow_mut().iter_mut()) {
            let Some(index) = pool.position(backend) else { continue };
            if memory.failing_until[index] <= now {
                let (pool, backend) = (&*pool.label, &*backend.label);
                let (reason, shard) = (end.label(), self.index);
                tracing::warn!(pool, backend, reason, shard, "backend failing");
            }
            memory.failing_until[index] = now + ticks(pool.settings.fail_timeout);
        }
    }

    /// Whether a backend takes sessions by the table in force. What is not the table's does.
    pub fn serves(&self, pool: &Pool, backend: &Backend) -> bool {
        let table = self.table();
        table.pool(&pool.settings.name).is_none_or(|(_, pool)| {
            let index = pool.position(backend);
            let known = index.and_then(|index| pool.backends.get(index));
            known.is_some_and(|backend| pool.in_service(backend))
        })
    }

    /// A connection that was made before it was needed.
    pub fn take_warm(&self, pool: &Pool, backend: &Backend) -> Option<Socket> {
        if pool.settings.warm == 0 {
            return None;
        }
        self.warm.borrow_mut().take(backend, self.index)
    }

    /// Takes over what is remembered of backends that are still in a new table.
    pub(super) fn carry_memory(&self, old: &Table, table: &Table) {
        let mut known: Vec<_> = self.memory.take().into_iter().map(Some).collect();
        let memory = table.pools.iter().enumerate().map(|(index, pool)| {
            let kept = old.pool(&pool.settings.name).and_then(|(old_index, old_pool)| {
                Some(known.get_mut(old_index)?.take()?.carried(old_pool, pool))
            });
            kept.unwrap_or_else(|| fresh_memory(pool, self.index, index))
        });
        let memory = memory.collect();
        self.memory.replace(memory);
    }

    /// Whose turn it is among a pool's source addresses.
    pub fn next_source(&self) -> usize {
        let turn = self.source_turn.get();
        self.source_turn.set(turn.wrapping_add(1));
        turn
    }
}

/// Shards and pools start their turns and random choices differently.
pub(super) fn fresh_memory(pool: &Pool, shard: usize, index: usize) -> PoolMemory {
    PoolMemory::new(pool.backends.len(), (shard as u64) << 32 | index as u64)
}
