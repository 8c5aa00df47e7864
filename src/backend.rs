//! Connecting to a backend: local address, socket options, deadline; and the warm connections.

pub mod kept;
pub mod spare;
pub mod warm;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket as Plain, TcpKeepalive, Type};

use self::spare::Make;
use crate::config::{Address, Config, Pool as Settings, SocketOptions};
use crate::end::{End, Side};
use crate::session::{Session, Signal, Stage};
use crate::shard::Shard;
use crate::shard::wheel::ticks;
use crate::sys::{self, Connecting, Interest, Socket};
use crate::table::{Backend, Pool};

/// Gives the session a connection to a backend: a warm one if there is one, else a new one within
/// the pool's `connect_timeout`.
///
/// # Errors
/// Why it could not be had. Nothing was sent to the backend.
pub async fn connect(
    shard: &Shard,
    session: &Session,
    pool: &Pool,
    backend: &Backend,
) -> Result<Socket, End> {
    let cells = backend.shared.cells.of(shard.index);
    if let Some(socket) = shard.take_warm(pool, backend) {
        cells.warm_used.add(1);
        // An earlier attempt may have left its own.
        session.signal(Side::Backend).set(Signal::default());
        session.connect_time.set(Duration::ZERO);
        return Ok(socket);
    }
    session.stage.set(Stage::Connect);
    let begun = Instant::now();
    let result = connect_new(shard, session, &pool.settings, &backend.address).await;
    match &result {
        Ok(_) => {
            let elapsed = begun.elapsed();
            cells.connect.record(elapsed);
            session.connect_time.set(elapsed);
        }
        Err(end) => cells.connect_failures[*end as usize].add(1),
    }
    result
}

async fn connect_new(
    shard: &Shard,
    session: &Session,
    settings: &Settings,
    address: &Address,
) -> Result<Socket, End> {
    let Started { socket, pending, polled } = match start_spare(shard, settings, address) {
        Some(started) => started,
        None => start(settings, address, || shard.next_source()),
    }
    .map_err(|error| classify(&error))?;
    session.signal(Side::Backend).set(Signal { polled, ..Signal::default() });
    // On one host the handshake is often over when connect(2) returns.
    let connecting = match pending {
        true => sys::connecting(socket.as_fd()),
        false => Connecting::Connected,
    };
    if connecting != Connecting::Pending {
        return decided(socket, address, connecting);
    }
    let deadline = shard.now().saturating_add(ticks(settings.connect_timeout)).saturating_add(1);
    shard.set_deadline(session, deadline, End::ConnectTimeout);
    let room = Interest { input: false, room: true };
    let ready = shard.ready(session, (Side::Backend, &socket), room);
    match session.interrupt.or(ready).await {
        // SO_ERROR says whether it was for good.
        Ok(Ok(())) => decided(socket, address, Connecting::Failed),
        Ok(Err(error)) => Err(classify(&error)),
        Err(End::ConnectTimeout) => {
            // This deadline was for one attempt; the session may have another.
            session.interrupt.take();
            match sys::connecting(socket.as_fd()) {
                Connecting::Pending => Err(End::ConnectTimeout),
                // Decided in time; this machine was late to look.
                connecting => decided(socket, address, connecting),
            }
        }
        Err(end) => Err(end),
    }
}

fn decided(socket: Socket, address: &Address, connecting: Connecting) -> Result<Socket, End> {
    outcome(&SockRef::from(&socket), address, connecting).map(|()| socket)
}

/// What came of an attempt to connect to `address` that is over.
///
/// # Errors
/// Why there is no connection to the backend.
pub fn outcome(socket: &SockRef<'_>, address: &Address, connecting: Connecting) -> Result<(), End> {
    let error = match connecting {
        Connecting::Connected => Ok(None),
        Connecting::Pending | Connecting::Failed => socket.take_error(),
    };
    match error {
        Ok(None) if is_self_connected(socket, address) => {
            // Closed with a reset: in TIME_WAIT it would keep the backend from its own port.
            let _closed_slowly = socket.set_linger(Some(Duration::ZERO));
            Err(End::ConnectRefused)
        }
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(classify(&error)),
    }
}

/// Whether the socket is connected to itself. Where nobody listens on a port of this machine, and
/// the kernel picks just that one for our side, TCP's simultaneous open succeeds.
fn is_self_connected(socket: &SockRef<'_>, address: &Address) -> bool {
    let Address::Tcp(target) = address else { return false };
    let local = socket.local_addr().ok().and_then(|local| local.as_socket());
    // Equal ports are rare: the second call is seldom made.
    local.filter(|local| local.port() == target.port()).is_some_and(|local| {
        socket.peer_addr().ok().and_then(|peer| peer.as_socket()) == Some(local)
    })
}

/// A connection attempt under way.
#[derive(Debug)]
pub struct Started {
    /// The socket, non-blocking.
    pub socket: Socket,
    /// Whether the outcome is still open.
    pub pending: bool,
    /// Whether the shard's epoll set has it.
    pub polled: bool,
}

/// Begins to connect with a socket that was used before, if there is one.
fn start_spare(
    shard: &Shard,
    settings: &Settings,
    address: &Address,
) -> Option<io::Result<Started>> {
    let Address::Tcp(target) = address else { return None };
    let socket = shard.spares().take(Make::of(settings, address)?)?;
    shard.cells().sockets_reused.add(1);
    let started = begin_connect(&SockRef::from(&socket), &SockAddr::from(*target));
    Some(started.map(|pending| Started { socket, pending, polled: true }))
}

/// Whether the outcome is open when connect(2) returns.
fn begin_connect(socket: &SockRef<'_>, target: &SockAddr) -> io::Result<bool> {
    match socket.connect(target) {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Begins to connect without waiting. When no local port is free towards the backend, the pool's
/// other source addresses are tried, each once; `turn` says which one is first.
///
/// # Errors
/// What socket(2), bind(2) or connect(2) says.
pub fn start(
    settings: &Settings,
    address: &Address,
    turn: impl FnOnce() -> usize,
) -> io::Result<Started> {
    let (domain, target) = match address {
        Address::Tcp(tcp) => (Domain::for_address(*tcp), SockAddr::from(*tcp)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let family: Vec<&IpAddr> = settings
        .source_addresses
        .iter()
        .filter(|ip| matches!(address, Address::Tcp(tcp) if tcp.is_ipv4() == ip.is_ipv4()))
        .collect();
    if family.is_empty() {
        return start_from(settings, domain, &target, None);
    }
    let first = turn();
    let mut result = Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
    for step in 0..family.len() {
        let source = *family[(first + step) % family.len()];
        result = start_from(settings, domain, &target, Some(source));
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            _ => return result,
        }
    }
    result
}

fn start_from(
    settings: &Settings,
    domain: Domain,
    target: &SockAddr,
    source: Option<IpAddr>,
) -> io::Result<Started> {
    let socket = Plain::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if domain != Domain::UNIX {
        set_options(&SockRef::from(&socket), settings.socket)?;
    }
    if let Some(ip) = source {
        sys::set_bind_address_no_port(socket.as_fd())?;
        socket.bind(&SockAddr::from(std::net::SocketAddr::new(ip, 0)))?;
    }
    let pending = begin_connect(&SockRef::from(&socket), target)?;
    Ok(Started { socket: Socket::new(socket.into()), pending, polled: false })
}

/// A pool that cannot connect from one of its `source_addresses`.
#[derive(Debug)]
pub struct SourceError {
    pool: String,
    address: IpAddr,
    error: io::Error,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceError { pool, address, error } = self;
        write!(f, "pool {pool:?} cannot connect from source address {address}: {error}")?;
        match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => write!(
                f,
                "; this machine has no such address: assign it, or set net.ipv4.ip_nonlocal_bind=1 \
                 if it comes and goes"
            ),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for SourceError {}

/// Tries every source address once, at start: later, each connection from it would fail.
///
/// # Errors
/// The first address that cannot be bound.
pub fn check_sources(config: &Config) -> Result<(), SourceError> {
    for pool in &config.pools {
        for address in &pool.source_addresses {
            let target = std::net::SocketAddr::new(*address, 0);
            let tried = Plain::new(Domain::for_address(target), Type::STREAM.cloexec(), None)
                .and_then(|socket| socket.bind(&SockAddr::from(target)));
            tried.map_err(|error| SourceError {
                pool: pool.name.clone(),
                address: *address,
                error,
            })?;
        }
    }
    Ok(())
}

/// Sets what every TCP socket of ours has. Listeners pass it on to what they accept.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_options(socket: &SockRef<'_>, options: SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    if let Some(idle) = options.keepalive {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(idle / 3))?;
    }
    Ok(())
}

/// The reason for a failed attempt.
pub fn classify(error: &io::Error) -> End {
    match error.raw_os_error() {
        // A missing UNIX socket is a backend that is not there.
        Some(libc::ECONNREFUSED | libc::ENOENT | libc::ECONNRESET) => End::ConnectRefused,
        // connect(2) on a UNIX socket does not wait for room; TCP would run into its timeout.
        Some(libc::EAGAIN) => End::ConnectBusy,
        Some(libc::ETIMEDOUT) => End::ConnectTimeout,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN) => End::ConnectUnreachable,
        Some(libc::EADDRNOTAVAIL) => End::PortsExhausted,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            End::DescriptorsExhausted
        }
        _ => End::ConnectFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    /// A socket connected to itself, and its address.
    pub(super) fn self_connected(ip: &str) -> (Plain, SocketAddr) {
        let any: SocketAddr = format!("{ip}:0").parse().unwrap();
        let socket = Plain::new(Domain::for_address(any), Type::STREAM, None).unwrap();
        socket.bind(&any.into()).unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(&own).unwrap();
        (socket, own.as_socket().unwrap())
    }

    #[test]
    fn a_connection_to_itself_is_a_backend_that_is_not_there() {
        for ip in ["127.0.0.1", "[::1]"] {
            let (socket, own) = self_connected(ip);
            let own_address = Address::Tcp(own);
            let outcome = outcome(&SockRef::from(&socket), &own_address, Connecting::Connected);
            assert_eq!(outcome, Err(End::ConnectRefused), "{ip}");
            drop(socket);
            // Nothing of it stays in the backend's way.
            let listener = Plain::new(Domain::for_address(own), Type::STREAM, None).unwrap();
            listener.bind(&own.into()).unwrap();
        }
    }

    #[test]
    fn a_connection_to_a_listener_is_one() {
        for ip in ["127.0.0.1", "[::1]"] {
            let listener = TcpListener::bind(format!("{ip}:0")).unwrap();
            let target = listener.local_addr().unwrap();
            let stream = Plain::new(Domain::for_address(target), Type::STREAM, None).unwrap();
            stream.connect(&target.into()).unwrap();
            let target = Address::Tcp(target);
            let connected = Connecting::Connected;
            assert_eq!(outcome(&SockRef::from(&stream), &target, connected), Ok(()), "{ip}");
        }
        // The same port on another address of this machine is somebody else.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let socket = Plain::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let source = SocketAddr::new([127, 0, 0, 2].into(), target.port());
        socket.bind(&source.into()).unwrap();
        socket.connect(&target.into()).unwrap();
        let target = Address::Tcp(target);
        assert_eq!(outcome(&SockRef::from(&socket), &target, Connecting::Connected), Ok(()));
    }
}
