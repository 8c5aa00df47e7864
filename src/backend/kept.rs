//! Idle connections to backends of HTTP listeners: per shard and backend, ready for the next
//! request.
//!
//! Nothing was received on them since their last response, and nothing is waited for. A backend may
//! close one at any time; whoever takes it looks first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::ServerName;

use crate::metrics::ShardCells;
use crate::shard::wheel::{TICK, Tick};
use crate::stream::Stream;
use crate::sys;
use crate::table::{Backend, Pool, Table};

/// Idle connections that a shard keeps at most, whatever its listeners say: they cost descriptors.
pub const KEPT_MAX: usize = 1024;
/// They are looked through for those that are over this often.
const CHECK_EVERY: Tick = (1000 / TICK.as_millis()) as Tick;

/// A connection to a backend between two requests.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub stream: Stream,
    /// The name under which the backend was believed, where callers bring one: nobody who brings
    /// another gets it.
    pub name: Option<ServerName<'static>>,
    /// Requests that it has had.
    pub requests: u32,
    /// Under which name the shard's epoll set has its socket, and reports input of it; `None` if it
    /// does not.
    pub token: Option<u64>,
    /// When it is to be closed.
    pub until: Tick,
}

/// The idle connections of a shard.
#[derive(Debug, Default)]
pub struct KeptTable {
    rows: RefCell<Vec<Row>>,
    count: Cell<usize>,
}

#[derive(Debug)]
struct Row {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    idle: VecDeque<Kept>,
}

impl KeptTable {
    /// A connection to this backend by this name that is alive, preferably the one that `token`
    /// names: its reports come to the right session already.
    pub fn take(
        &self,
        (backend, name): (&Backend, Option<&ServerName<'static>>),
        token: u64,
        cells: &ShardCells,
    ) -> Option<Kept> {
        let mut rows = self.rows.borrow_mut();
        let same = |row: &&mut Row| Arc::ptr_eq(&row.backend.shared, &backend.shared);
        let row = rows.iter_mut().find(same)?;
        loop {
            let named = |kept: &Kept| kept.name.as_ref() == name;
            let own = |kept: &Kept| named(kept) && kept.token == Some(token);
            // The last one in was used last, and is the least likely to be closed.
            let own = row.idle.iter().rposition(own);
            let kept = row.idle.remove(own.or_else(|| row.idle.iter().rposition(named))?)?;
            self.removed(1, cells);
            if is_alive(&kept.stream) {
                cells.kept_reused.add(1);
                return Some(kept);
            }
            cells.kept_stale.add(1);
        }
    }

    /// Keeps a connection; of more than `idle_max` the oldest is closed.
    pub fn put(
        &self,
        (pool, backend): (&Arc<Pool>, &Arc<Backend>),
        kept: Kept,
        (idle_max, cells): (usize, &ShardCells),
    ) {
        if self.count.get() >= KEPT_MAX {
            return;
        }
        let mut rows = self.rows.borrow_mut();
        let same = |row: &Row| Arc::ptr_eq(&row.backend.shared, &backend.shared);
        let index = rows.iter().position(same).unwrap_or_else(|| {
            let (pool, backend) = (pool.clone(), backend.clone());
            rows.push(Row { pool, backend, idle: VecDeque::new() });
            rows.len() - 1
        });
        let Some(row) = rows.get_mut(index) else { return };
        row.idle.push_back(kept);
        self.count.set(self.count.get() + 1);
        cells.kept_idle.set(self.count.get() as u64);
        while row.idle.len() > idle_max {
            row.idle.pop_front();
            self.removed(1, cells);
        }
    }

    /// Closes what is over its time, and what its backend has closed.
    pub fn tick(&self, now: Tick, cells: &ShardCells) {
        if self.count.get() == 0 || !now.is_multiple_of(CHECK_EVERY) {
            return;
        }
        let mut rows = self.rows.borrow_mut();
        for row in rows.iter_mut() {
            let before = row.idle.len();
            row.idle.retain(|kept| kept.until > now && is_alive(&kept.stream));
            self.removed(before - row.idle.len(), cells);
        }
        rows.retain(|row| !row.idle.is_empty());
    }

    /// Closes the connections to backends that take no sessions by this table, and those that
    /// would be made otherwise now. What lookups found is not the table's to judge.
    pub fn follow(&self, table: &Table, cells: &ShardCells) {
        let mut rows = self.rows.borrow_mut();
        rows.retain_mut(|row| {
            let name = &row.pool.settings.name;
            let gone = table.leaving.pools.iter().any(|pool| pool.settings.name == *name);
            let stays = table.pool(name).map_or(!gone, |(_, pool)| {
                let index = pool.position(&row.backend);
                let backend = index.and_then(|index| pool.backends.get(index));
                let (old, new) = (&row.pool.settings, &pool.settings);
                let alike = old.socket == new.socket
                    && old.tls == new.tls
                    && old.proxy_out == new.proxy_out
                    && old.source_addresses == new.source_addresses;
                let stays = alike && backend.is_some_and(|backend| pool.in_service(backend));
                if stays {
                    row.pool = pool.clone();
                }
                stays
            });
            if !stays {
                self.removed(row.idle.len(), cells);
            }
            stays
        });
    }

    /// Closes those whose reports go to this token, which is to mean another socket alone.
    pub fn close_named(&self, token: u64, cells: &ShardCells) {
        for row in self.rows.borrow_mut().iter_mut() {
            let before = row.idle.len();
            row.idle.retain(|kept| kept.token != Some(token));
            self.removed(before - row.idle.len(), cells);
        }
    }

    /// Closes all of them.
    pub fn clear(&self, cells: &ShardCells) {
        self.rows.borrow_mut().clear();
        self.removed(self.count.get(), cells);
    }

    fn removed(&self, n: usize, cells: &ShardCells) {
        self.count.set(self.count.get() - n);
        cells.kept_idle.set(self.count.get() as u64);
    }
}

/// Whether the peer has neither closed nor said anything: what it says unasked belongs to no
/// request.
fn is_alive(stream: &Stream) -> bool {
    stream.tls().is_none_or(|tls| tls.is_quiet())
        && sys::peek(stream.socket().as_fd())
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
