//! The life of one connection: preface → key → pick → connect → relay → one end.

mod http;
mod looked_up;
mod preface;
mod secure;
mod state;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use self::preface::First;
pub use self::state::{Asked, Birth, Direction, Look, Placed, Session, Signal, Stage, StoredKey};
use crate::backend;
use crate::config::{Listener, MissingKey, Pool as Settings, Protocol, TcpKey};
use crate::end::{End, Placement, Side};
use crate::placement::Search;
use crate::proxy;
use crate::relay::{Polled, Relay, Relaying, SecureRelay};
use crate::shard::Shard;
use crate::shard::admission::{self, Turned};
use crate::stream::Stream;
use crate::sys::Socket;
use crate::table::{Backend, Pool, Table};
use crate::tls::Brought;

/// Brings a session from its first byte to its backend. From there on its relay is turned by the
/// shard (`Shard::turn`), and nothing of this is left.
pub async fn run(shard: Rc<Shard>, session: Rc<Session>, socket: OwnedFd) {
    // With an error the connection is closed before that is counted: whoever sees the end counted
    // finds it gone.
    match begin(&shard, &session, Socket::new(socket)).await {
        Ok(begun) => begun.relay(&shard, &session),
        Err(end) => shard.end(&session, end),
    }
}

/// What the first bytes said.
struct Caller {
    /// Where it goes.
    target: Target,
    /// Reason to give for a first choice.
    placement: Placement,
    /// Its connection.
    client: Stream,
    /// What was read, and when.
    first: First,
}

/// Where a caller goes, by an index in the listener's configuration.
#[derive(Debug, Clone, Copy)]
enum Target {
    Pool(usize),
    Lookup(usize),
}

/// A session that has its backend.
struct Begun {
    client: Stream,
    backend: Stream,
    identity: Arc<Backend>,
    idle_timeout: Duration,
    /// Whether early ends count.
    ejecting: bool,
    /// What the backend must get first.
    unsent: Vec<u8>,
    /// Whether the client's socket was left empty.
    emptied: bool,
}

impl Begun {
    fn relay(self, shard: &Shard, session: &Rc<Session>) {
        if self.ejecting {
            session.turned_after.set(session.accepted.elapsed());
        }
        shard.begin_relay(session, self.idle_timeout);
        let polled = [Side::Client, Side::Backend].map(|side| {
            if session.signal(side).get().polled { Polled::Before } else { Polled::Not }
        });
        session.interrupt.release();
        match (self.client, self.backend) {
            (Stream::Plain(client), Stream::Plain(backend)) => {
                let relay = Relay::new([client, backend], polled, self.identity);
                *session.relay.borrow_mut() = Some(Relaying::Plain(relay));
                shard.turn(session, |mut turn| turn.begin(&self.unsent, self.emptied));
            }
            (client, backend) => {
                let polled = polled.map(|polled| polled != Polled::Not);
                let relay = SecureRelay::new([client, backend], polled, self.identity);
                *session.relay.borrow_mut() = Some(Relaying::Secure(Box::new(relay)));
                shard.turn_secure(session, |mut turn| turn.begin(&self.unsent));
            }
        }
    }
}

async fn begin(shard: &Shard, session: &Session, client: Socket) -> Result<Begun, End> {
    let listener = &session.listener.settings;
    if let Protocol::Http(_) = &listener.protocol {
        // Apart: other sessions should not have room for it in their tasks.
        return Box::pin(begin_http(shard, session, client, listener)).await;
    }
    let mut caller = read_caller(shard, session, client, listener).await?;
    let placed = match caller.target {
        Target::Pool(_) => place(shard, session, &caller).await,
        // Few wait for long: the others do not pay for it in the size of their tasks.
        Target::Lookup(lookup) => Box::pin(looked_up::place(shard, session, lookup)).await,
    };
    let (backend, identity) = match placed {
        Ok(placed) => placed,
        Err(end) => {
            // A client inside TLS hears that this is the end; one that reads nothing does not.
            let _unheard = caller.client.tls().is_some().then(|| caller.client.shutdown());
            return Err(end);
        }
    };
    let (header_first, idle_timeout, ejecting) = match &*session.placed.borrow() {
        Some(Placed { pool, .. }) => {
            let Settings { proxy_out, tls, idle_timeout, health, .. } = &pool.settings;
            (*proxy_out && tls.is_none(), *idle_timeout, health.ejection.is_some())
        }
        None => return Err(End::PoolEmpty),
    };
    let Caller { client, first, .. } = caller;
    let First { bytes: mut unsent, byte_at, emptied } = first;
    if header_first {
        let mut header = proxy::build(proxied_addresses(session, client.socket()));
        header.append(&mut unsent);
        unsent = header;
    }
    shard.listener_cells(&session.listener).placing.record(byte_at.elapsed());
    Ok(Begun { client, backend, identity, idle_timeout, ejecting, unsent, emptied })
}

/// Serves requests; what is left to begin is the connection of one that asked for an upgrade.
async fn begin_http(
    shard: &Shard,
    session: &Session,
    client: Socket,
    listener: &Listener,
) -> Result<Begun, End> {
    let mut reader = preface::Reader::new(shard, session, client);
    reader.read_proxy_header(listener.proxy.as_ref()).await?;
    if let Some(tls) = &listener.tls {
        reader = Box::pin(secure::accept(reader, tls)).await?;
    }
    let (client, first) = reader.finish();
    http::serve(shard, session, client, first.bytes).await
}

/// Reads the PROXY header and the preface, as far as the listener wants them, with the TLS
/// handshake between them.
async fn read_caller(
    shard: &Shard,
    session: &Session,
    client: Socket,
    listener: &Listener,
) -> Result<Caller, End> {
    let mut reader = preface::Reader::new(shard, session, client);
    reader.read_proxy_header(listener.proxy.as_ref()).await?;
    if let Some(tls) = &listener.tls {
        // Apart: most listeners have none, and their tasks should not have room for it.
        reader = Box::pin(secure::accept(reader, tls)).await?;
    }
    let target = match (listener.pool, listener.lookup) {
        (Some(pool), _) => Target::Pool(pool),
        (None, Some(lookup)) => Target::Lookup(lookup),
        // Only http listeners have neither, and they do not come here.
        (None, None) => return Err(End::PoolRemoved),
    };
    let caller = match &listener.protocol {
        Protocol::Tcp { key: None } => (target, Placement::Home),
        Protocol::Tcp { key: Some(TcpKey::ClientIp) } => {
            if let Some(client) = session.client() {
                store_key(session, client.ip().to_string().as_bytes());
            }
            (target, Placement::Home)
        }
        Protocol::Tcp { key: Some(TcpKey::Sni(sni)) } => {
            let name = Box::pin(reader.read_name(sni)).await?;
            match name {
                Some(name) => {
                    store_key(session, name.as_bytes());
                    (sni.pool(&name).map_or(target, Target::Pool), Placement::Home)
                }
                None => without_key(sni.missing_key)?,
            }
        }
        Protocol::Frame(frame) => {
            if reader.read_key(frame).await? {
                (target, Placement::Home)
            } else {
                without_key(frame.missing_key)?
            }
        }
        Protocol::Http(_) => return Err(End::PoolRemoved),
    };
    let elapsed = session.accepted.elapsed();
    session.preface_time.set(elapsed);
    shard.listener_cells(&session.listener).preface.record(elapsed);
    let (target, placement) = caller;
    let (client, first) = reader.finish();
    Ok(Caller { target, placement, client, first })
}

/// Where clients without a key go.
fn without_key(missing_key: MissingKey) -> Result<(Target, Placement), End> {
    match missing_key {
        MissingKey::Reject => Err(End::KeyMissing),
        MissingKey::Pool(pool) => Ok((Target::Pool(pool), Placement::KeyMissing)),
    }
}

fn store_key(session: &Session, key: &[u8]) {
    *session.key.borrow_mut() = StoredKey::from_slice(key);
}

/// Finds a backend that takes the connection: the algorithm's choice, then as many others as the
/// pool's `retries` allow. Every choice and every failure carries its reason and is counted.
async fn place(
    shard: &Shard,
    session: &Session,
    caller: &Caller,
) -> Result<(Stream, Arc<Backend>), End> {
    loop {
        match place_by(shard, session, caller, shard.table()).await {
            Err(Turned::Back) => {}
            Err(Turned::Away(end)) => return Err(end),
            Ok(placed) => return Ok(placed),
        }
    }
}

async fn place_by(
    shard: &Shard,
    session: &Session,
    caller: &Caller,
    table: Arc<Table>,
) -> Result<(Stream, Arc<Backend>), Turned> {
    // A lookup's callers are placed elsewhere.
    let Target::Pool(pool) = caller.target else { return Err(Turned::Away(End::PoolRemoved)) };
    let (index, pool) = table.pool_of(&session.listener, pool).ok_or(End::PoolRemoved)?;
    let key = session.key.borrow().clone();
    let mut search = Search::new(pool, index, &key, caller.placement);
    *session.placed.borrow_mut() = Some(Placed {
        pool: pool.clone(),
        backend: search.home().and_then(|home| pool.backends.get(home)).cloned(),
        placement: None,
        table_version: table.version,
    });
    if pool.settings.health.is_limiting() {
        search = search.with_room_at(Instant::now());
    }
    let result = try_backends(shard, session, &caller.client, &mut search).await;
    if let Err(Turned::Away(end)) = &result {
        pool.cells.of(shard.index).failures[*end as usize].add(1);
    }
    result
}

async fn try_backends(
    shard: &Shard,
    session: &Session,
    client: &Stream,
    search: &mut Search<'_>,
) -> Result<(Stream, Arc<Backend>), Turned> {
    let pool = search.pool;
    loop {
        let choice = shard.choose(search)?;
        let backend = &pool.backends[choice.backend];
        if let Some(placed) = &mut *session.placed.borrow_mut() {
            placed.backend = Some(backend.clone());
            placed.placement = Some(choice.placement);
        }
        match admission::enter(shard, session, client.socket(), (pool, backend)).await {
            Ok(()) => {}
            Err(Turned::Away(end)) => {
                search.failed(end)?;
                continue;
            }
            Err(Turned::Back) => return Err(Turned::Back),
        }
        session.attempts.set(u8::try_from(search.attempts()).unwrap_or(u8::MAX));
        let mut connected =
            backend::connect(shard, session, pool, backend).await.map(Stream::Plain);
        if pool.settings.tls.is_some()
            && let Ok(Stream::Plain(socket)) = connected
        {
            // Apart, as with clients.
            let target = (pool, &**backend, socket);
            connected = Box::pin(secure_backend(shard, session, (client, None), target)).await;
        }
        match connected {
            Ok(stream) => {
                pool.cells.of(shard.index).placements[choice.placement as usize].add(1);
                let cells = backend.shared.cells.of(shard.index);
                cells.sessions.add(1);
                cells.active.add(1);
                backend.shared.connected();
                return Ok((stream, backend.clone()));
            }
            Err(end) => {
                backend.shared.closed();
                if end.side() == Side::Backend {
                    shard.note_failing(backend, end);
                }
                search.failed(end)?;
            }
        }
    }
}

/// Puts the connection to a backend inside TLS if its pool says so. The host is that of the
/// client's request, if it sent one.
async fn secure_backend(
    shard: &Shard,
    session: &Session,
    (client, host): (&Stream, Option<&str>),
    (pool, backend, socket): (&Pool, &Backend, Socket),
) -> Result<Stream, End> {
    let Some(tls) = &pool.settings.tls else { return Ok(Stream::Plain(socket)) };
    let brought = Brought { sni: client.tls().and_then(|tls| tls.name()), host };
    let header = if pool.settings.proxy_out {
        proxy::build(proxied_addresses(session, client.socket()))
    } else {
        Vec::new()
    };
    let target = secure::Target { tls, brought, timeout: pool.settings.connect_timeout, header };
    let secured = secure::connect(shard, session, socket, target).await;
    if let Err(end) = &secured {
        backend.shared.cells.of(shard.index).connect_failures[*end as usize].add(1);
    }
    secured.map(|tls| Stream::Tls(Box::new(tls)))
}

/// Source and destination for a PROXY header to the backend.
fn proxied_addresses(session: &Session, client: &Socket) -> Option<(SocketAddr, SocketAddr)> {
    session.proxied.get().map(|addresses| **addresses).or_else(|| {
        let local = SockRef::from(client).local_addr().ok()?.as_socket()?;
        Some((session.peer?, local))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// An idle device pays for its task and its record: growth of either is a decision.
    #[test]
    fn a_session_stays_small() {
        let (task, record) = (future_bytes(run), size_of::<Session>());
        assert!(task <= 768, "the task of a session has {task} bytes");
        assert!(record <= 320, "the record of a session has {record} bytes");
    }
}
