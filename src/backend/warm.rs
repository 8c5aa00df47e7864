//! Warm connections: per shard and backend, a few that are connected before anybody needs them.
//!
//! Kept by the shard's tick: attempts are started a few at a time, those that succeeded are put
//! into stock, dead ones are thrown out, and after a failure the backend is left alone for a while.
//! Sockets in stock have nothing pending in the ring.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Arc;

use socket2::SockRef;

use super::{classify, outcome, start};
use crate::end::{End, Side};
use crate::metrics::BackendCells;
use crate::shard::wheel::{TICK, Tick, ticks};
use crate::sys::{self, Connecting, Socket};
use crate::table::{Backend, BackendShared, Pool, Table};

/// Longest pause after failures.
const PAUSE_MAX: Tick = 50;
/// Stock is looked through for dead connections this often.
const CHECK_EVERY: Tick = (1000 / TICK.as_millis()) as Tick;

/// The stock of one shard.
#[derive(Debug, Default)]
pub struct WarmTable {
    /// In the order of the table.
    backends: Vec<Stock>,
    /// Where a backend's stock is: thousands follow each other quickly, and each session asks.
    places: HashMap<Identity, usize>,
}

/// Where what all tables know of a backend is in memory. It stays there while its stock lives.
type Identity = *const BackendShared;

#[derive(Debug)]
struct Stock {
    identity: Arc<BackendShared>,
    ready: VecDeque<Socket>,
    connecting: Vec<(Socket, Tick)>,
    pause: Tick,
    paused_until: Tick,
}

/// What the tick needs to know.
pub struct Round<'a> {
    /// The current table.
    pub table: &'a Table,
    /// Index of the shard.
    pub shard: usize,
    /// The tick.
    pub now: Tick,
}

impl WarmTable {
    /// Keeps the stock of backends that this table still has and wants warm; closes the rest.
    pub fn follow(&mut self, table: &Table, shard: usize) {
        let mut old: Vec<Option<Stock>> = self.backends.drain(..).map(Some).collect();
        let places = std::mem::take(&mut self.places);
        for pool in table.pools.iter().filter(|pool| pool.settings.warm > 0) {
            for backend in &pool.backends {
                let identity = Arc::as_ptr(&backend.shared);
                let known = places.get(&identity).and_then(|place| old[*place].take());
                self.places.insert(identity, self.backends.len());
                self.backends.push(known.unwrap_or_else(|| Stock::new(backend)));
            }
        }
        for stock in old.into_iter().flatten() {
            stock.identity.cells.of(shard).warm.sub(stock.ready.len() as u64);
        }
    }

    /// Closes everything for good: no further sessions will come.
    pub fn close(&mut self, shard: usize) {
        self.places.clear();
        for stock in self.backends.drain(..) {
            stock.identity.cells.of(shard).warm.sub(stock.ready.len() as u64);
        }
    }

    /// Takes a connection whose peer has not closed it.
    pub fn take(&mut self, backend: &Backend, shard: usize) -> Option<Socket> {
        let place = *self.places.get(&Arc::as_ptr(&backend.shared))?;
        let stock = self.backends.get_mut(place)?;
        let cells = backend.shared.cells.of(shard);
        while let Some(socket) = stock.ready.pop_front() {
            cells.warm.sub(1);
            if is_alive(&socket) {
                return Some(socket);
            }
            cells.warm_stale.add(1);
        }
        None
    }

    /// One tick: settles attempts, drops dead connections, starts new attempts. Calls `failed` for
    /// each backend that would not be connected to.
    pub fn tick(&mut self, round: &Round<'_>, mut failed: impl FnMut(&Backend, End)) {
        if self.backends.is_empty() {
            return;
        }
        let mut stocks = self.backends.iter_mut();
        for pool in round.table.pools.iter().filter(|pool| pool.settings.warm > 0) {
            for backend in &pool.backends {
                let Some(stock) = stocks.next() else { return };
                // Our own lack of ports or descriptors says nothing about the backend.
                if let Err(end) = stock.tick(round, pool, backend)
                    && end.side() == Side::Backend
                {
                    failed(backend, end);
                }
            }
        }
    }
}

impl Stock {
    fn new(backend: &Backend) -> Stock {
        Stock {
            identity: backend.shared.clone(),
            ready: VecDeque::new(),
            connecting: Vec::new(),
            pause: 1,
            paused_until: 0,
        }
    }

    fn tick(&mut self, round: &Round<'_>, pool: &Pool, backend: &Backend) -> Result<(), End> {
        let cells = backend.shared.cells.of(round.shard);
        if round.now.is_multiple_of(CHECK_EVERY) {
            let before = self.ready.len();
            self.ready.retain(is_alive);
            let dead = (before - self.ready.len()) as u64;
            cells.warm.sub(dead);
            cells.warm_stale.add(dead);
        }
        if !pool.in_service(backend) {
            return Ok(());
        }
        self.settle(round, pool, backend)?;
        self.start_some(round, pool, backend)
    }

    /// Looks at attempts under way.
    fn settle(&mut self, round: &Round<'_>, pool: &Pool, backend: &Backend) -> Result<(), End> {
        let cells = backend.shared.cells.of(round.shard);
        let give_up = ticks(pool.settings.connect_timeout).saturating_add(1);
        let mut failure = None;
        for (socket, begun) in std::mem::take(&mut self.connecting) {
            let connecting = sys::connecting(socket.as_fd());
            if connecting != Connecting::Pending {
                match outcome(&SockRef::from(&socket), &backend.address, connecting) {
                    Ok(()) => {
                        self.ready.push_back(socket);
                        cells.warm.add(1);
                        self.pause = 1;
                        backend.shared.connected();
                    }
                    Err(end) => failure = Some(end),
                }
            } else if round.now.saturating_sub(begun) >= give_up {
                failure = Some(End::ConnectTimeout);
            } else {
                self.connecting.push((socket, begun));
            }
        }
        match failure {
            Some(end) => Err(self.back_off(round.now, end, cells)),
            None => Ok(()),
        }
    }

    fn back_off(&mut self, now: Tick, end: End, cells: &BackendCells) -> End {
        cells.connect_failures[end as usize].add(1);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.paused_until = now + self.pause;
        end
    }

    /// Starts a quarter of the stock per tick, so that a restart of the backend is not a storm.
    fn start_some(&mut self, round: &Round<'_>, pool: &Pool, backend: &Backend) -> Result<(), End> {
        if round.now < self.paused_until {
            return Ok(());
        }
        let wanted = pool.settings.warm as usize;
        let missing = wanted.saturating_sub(self.ready.len() + self.connecting.len());
        for step in 0..missing.min(wanted.div_ceil(4)) {
            match start(&pool.settings, &backend.address, || round.now as usize + step) {
                Ok(started) => self.connecting.push((started.socket, round.now)),
                Err(error) => {
                    let cells = backend.shared.cells.of(round.shard);
                    return Err(self.back_off(round.now, classify(&error), cells));
                }
            }
        }
        Ok(())
    }
}

/// Not closed by its peer. A peer that speaks first is alive; what it said goes to the client.
fn is_alive(socket: &Socket) -> bool {
    match sys::peek(socket.as_fd()) {
        Ok(n) => n > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn table(address: &str, sources: &[&str]) -> Table {
        Table::sample(&[config::Address::Tcp(address.parse().unwrap())], |pool| {
            pool.warm = 1;
            pool.source_addresses = sources.iter().map(|ip| ip.parse().unwrap()).collect();
        })
    }

    /// Ticks until an attempt failed: how often the backend was blamed, and the reasons counted.
    fn ticks_until_failure(table: &Table) -> (u32, Vec<End>) {
        let mut warm = WarmTable::default();
        warm.follow(table, 0);
        let mut blamed = 0;
        let cells = table.pools[0].backends[0].shared.cells.of(0);
        let counted = || {
            let failures = End::ALL.iter().copied();
            failures.filter(|end| cells.connect_failures[*end as usize].value() > 0).collect()
        };
        for now in 1..1000 {
            warm.tick(&Round { table, shard: 0, now }, |_, _| blamed += 1);
            let counted: Vec<End> = counted();
            if !counted.is_empty() {
                return (blamed, counted);
            }
        }
        (blamed, Vec::new())
    }

    #[test]
    fn a_refused_attempt_is_held_against_the_backend() {
        // Bound, and nobody listens: refused at once.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
        assert_eq!(ticks_until_failure(&table(&address, &[])), (1, vec![End::ConnectRefused]));
    }

    #[test]
    fn a_lack_of_local_ports_is_not_held_against_the_backend() {
        // Nobody here has this address: no local port can be had, as when all are taken.
        let table = table("127.0.0.1:1", &["192.0.2.1"]);
        assert_eq!(ticks_until_failure(&table), (0, vec![End::PortsExhausted]));
    }

    #[test]
    fn an_attempt_that_met_itself_never_is_in_stock() {
        let (socket, own) = crate::backend::tests::self_connected("127.0.0.1");
        socket.set_nonblocking(true).unwrap();
        let table = table(&own.to_string(), &[]);
        let mut warm = WarmTable::default();
        warm.follow(&table, 0);
        warm.backends[0].connecting.push((Socket::new(socket.into()), 1));
        let mut blamed = 0;
        warm.tick(&Round { table: &table, shard: 0, now: 2 }, |_, _| blamed += 1);
        let cells = table.pools[0].backends[0].shared.cells.of(0);
        assert_eq!((blamed, cells.warm.value(), warm.backends[0].ready.len()), (1, 0, 0));
        assert_eq!(cells.connect_failures[End::ConnectRefused as usize].value(), 1);
    }
}
