//! The life of one connection: preface → key → pick → connect → relay → one end.

mod preface;
mod state;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use socket2::SockRef;

pub use self::state::{
    Birth, COOL_AFTER, Direction, Look, Placed, Room, Session, Stage, StoredKey, Watch,
};
use crate::backend;
use crate::config::{Listener, MissingKey, Protocol, TcpKey};
use crate::end::{End, Placement, Side};
use crate::placement::Search;
use crate::proxy;
use crate::relay::Relay;
use crate::shard::Shard;
use crate::sys::Socket;
use crate::table::Backend;

/// Runs a session from its first byte to its last. Everything that ends it comes out here, once.
pub async fn run(shard: Rc<Shard>, session: Rc<Session>, socket: OwnedFd) {
    let end = match Socket::new(socket) {
        Ok(client) => match serve(&shard, &session, &client).await {
            Ok(end) | Err(end) => end,
        },
        Err(_error) => End::ClientError,
    };
    shard.end(&session, end);
}

/// What the first bytes said.
struct Caller {
    /// Index of the pool.
    pool: usize,
    /// Reason to give for a first choice.
    placement: Placement,
    /// Every byte read so far, a PROXY header excluded.
    unsent: Vec<u8>,
    /// When its first byte was seen.
    first_byte: Instant,
}

async fn serve(shard: &Shard, session: &Session, client: &Socket) -> Result<End, End> {
    // Boxed: an open session does not keep room for what only its beginning needed.
    let Begun { backend, identity, unsent } = Box::pin(begin(shard, session, client)).await?;
    let relay = Relay { shard, session, client, backend: &backend, identity };
    let end = relay.run(unsent).await;
    forward_reset(end, client, &backend);
    Ok(end)
}

/// A session that has its backend.
struct Begun {
    backend: Socket,
    identity: Arc<Backend>,
    /// What the backend must get first.
    unsent: Vec<u8>,
}

async fn begin(shard: &Shard, session: &Session, client: &Socket) -> Result<Begun, End> {
    let listener = shard.listener(session.listener);
    let caller = read_caller(shard, session, client, listener).await?;
    let (backend, identity) = place(shard, session, &caller).await?;
    let (proxy_out, idle_timeout) = match &*session.placed.borrow() {
        Some(placed) => (placed.pool.settings.proxy_out, placed.pool.settings.idle_timeout),
        None => return Err(End::PoolEmpty),
    };
    let mut unsent = caller.unsent;
    if proxy_out {
        let mut header = proxy::build(proxied_addresses(session, client));
        header.append(&mut unsent);
        unsent = header;
    }
    shard.listener_cells(session.listener).placing.record(caller.first_byte.elapsed());
    shard.begin_relay(session, idle_timeout);
    Ok(Begun { backend, identity, unsent })
}

/// Reads the PROXY header and the preface, as far as the listener wants them.
async fn read_caller(
    shard: &Shard,
    session: &Session,
    client: &Socket,
    listener: &Listener,
) -> Result<Caller, End> {
    let mut reader = preface::Reader::new(shard, session, client);
    reader.read_proxy_header(listener.proxy.as_ref()).await?;
    let caller = match &listener.protocol {
        Protocol::Tcp { key } => {
            if let (Some(TcpKey::ClientIp), Some(client)) = (key, session.client()) {
                store_key(session, client.ip().to_string().as_bytes());
            }
            (listener.pool, Placement::Home)
        }
        Protocol::Frame(frame) => {
            if reader.read_key(frame).await? {
                (listener.pool, Placement::Home)
            } else {
                match frame.missing_key {
                    MissingKey::Reject => return Err(End::KeyMissing),
                    MissingKey::Pool(pool) => (pool, Placement::KeyMissing),
                }
            }
        }
    };
    let elapsed = session.accepted.elapsed();
    session.preface_time.set(Some(elapsed));
    shard.listener_cells(session.listener).preface.record(elapsed);
    let (pool, placement) = caller;
    let (unsent, first_byte) = reader.finish();
    Ok(Caller { pool, placement, unsent, first_byte })
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
) -> Result<(Socket, Arc<Backend>), End> {
    let table = shard.table();
    let pool = table.pools.get(caller.pool).ok_or(End::PoolEmpty)?;
    let key = session.key.borrow().clone();
    let home = pool.balance.home(&key, pool.backends.len());
    *session.placed.borrow_mut() = Some(Placed {
        pool: pool.clone(),
        backend: home.and_then(|home| pool.backends.get(home)).cloned(),
        placement: None,
        table_version: table.version,
    });
    let mut search = Search::new(pool, caller.pool, &key, caller.placement);
    let result = try_backends(shard, session, &mut search).await;
    if let Err(end) = &result {
        pool.cells.of(shard.index).failures[*end as usize].add(1);
    }
    result
}

async fn try_backends(
    shard: &Shard,
    session: &Session,
    search: &mut Search<'_>,
) -> Result<(Socket, Arc<Backend>), End> {
    let pool = search.pool;
    loop {
        let choice = shard.choose(search)?;
        session.attempts.set(search.attempts());
        let backend = &pool.backends[choice.backend];
        if let Some(placed) = &mut *session.placed.borrow_mut() {
            placed.backend = Some(backend.clone());
            placed.placement = Some(choice.placement);
        }
        backend.shared.live.fetch_add(1, Relaxed);
        match backend::connect(shard, session, pool, backend).await {
            Ok(socket) => {
                pool.cells.of(shard.index).placements[choice.placement as usize].add(1);
                let cells = backend.shared.cells.of(shard.index);
                cells.sessions.add(1);
                cells.active.add(1);
                return Ok((socket, backend.clone()));
            }
            Err(end) => {
                backend.shared.live.fetch_sub(1, Relaxed);
                if end.side() == Side::Backend {
                    shard.note_failing(backend, end);
                }
                search.failed(end)?;
            }
        }
    }
}

/// Source and destination for a PROXY header to the backend.
fn proxied_addresses(session: &Session, client: &Socket) -> Option<(SocketAddr, SocketAddr)> {
    session.proxied.get().or_else(|| {
        let local = SockRef::from(client).local_addr().ok()?.as_socket()?;
        Some((session.peer?, local))
    })
}

/// A connection that broke on one side must not look finished on the other: closing with linger 0
/// sends RST (socket(7)), and leaves no TIME_WAIT behind.
fn forward_reset(end: End, client: &Socket, backend: &Socket) {
    let other = match end {
        End::ClientReset | End::ClientTimeout | End::ClientError => backend,
        End::BackendReset | End::BackendTimeout | End::BackendError => client,
        _ => return,
    };
    // A socket that is already dead has nothing left to reset.
    let _gone = SockRef::from(other).set_linger(Some(Duration::ZERO));
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
        assert!(task <= 576, "the task of a session has {task} bytes");
        assert!(record <= 384, "the record of a session has {record} bytes");
    }
}
