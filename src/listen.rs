//! Binding listeners: one SO_REUSEPORT socket per shard and address, made before any shard starts,
//! so that a fault is an exit code and not a log line.

pub mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use self::unix::SocketFile;
use crate::backend::set_options;
use crate::config::{Address, Config, Listener};

/// How long the port of a process that just ended may stay bound: the kernel tears its rings down
/// after the process is gone.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket for one shard.
#[derive(Debug)]
pub struct Bound {
    /// Index of the listener in the configuration.
    pub listener: usize,
    /// Its socket, non-blocking.
    pub socket: OwnedFd,
    /// Keeps other instances off the address until the last shard has closed its socket: while this
    /// process drains, its successor may start.
    pub claim: Option<Arc<OwnedFd>>,
}

/// Why a listener cannot listen.
#[derive(Debug)]
pub struct BindError {
    listener: String,
    address: Address,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { listener, address, error } = self;
        write!(f, "listener {listener:?} cannot listen on {address}: {error}")?;
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => write!(
                f,
                "; another process listens there, perhaps another corelane: stop it first, two \
                 would share the port and split its clients"
            ),
            Some(libc::EACCES) => {
                write!(f, "; ports below 1024 need CAP_NET_BIND_SERVICE, paths write permission")
            }
            Some(libc::EADDRNOTAVAIL) => write!(f, "; this machine has no such address"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

/// Every listener's sockets.
#[derive(Debug, Default)]
pub struct Listening {
    /// One list per shard.
    pub shards: Vec<Vec<Bound>>,
    /// Files of UNIX sockets, which last as long as this.
    pub files: Vec<SocketFile>,
}

/// Binds every listener once per shard.
///
/// # Errors
/// The first listener that cannot listen.
pub fn bind_all(config: &Config) -> Result<Listening, BindError> {
    let shards = config.runtime.cores.len();
    let mut listening = Listening::default();
    listening.shards.resize_with(shards, Vec::new);
    for (index, listener) in config.listeners.iter().enumerate() {
        for address in &listener.bind {
            let mut claimed = None;
            let sockets = match address {
                Address::Tcp(tcp) => claim(*tcp).and_then(|made| {
                    claimed = made.map(Arc::new);
                    bind_tcp(listener, *tcp, shards)
                }),
                Address::Unix(path) => bind_unix(listener, path, shards).map(|(sockets, file)| {
                    listening.files.push(file);
                    sockets
                }),
            };
            let sockets = sockets.map_err(|error| BindError {
                listener: listener.name.clone(),
                address: address.clone(),
                error,
            })?;
            for (shard, socket) in listening.shards.iter_mut().zip(sockets) {
                shard.push(Bound { listener: index, socket, claim: claimed.clone() });
            }
        }
    }
    Ok(listening)
}

fn bind_tcp(listener: &Listener, address: SocketAddr, shards: usize) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::with_capacity(shards);
    let mut address = address;
    for _ in 0..shards {
        let socket = tcp_socket(address)?;
        socket.set_reuse_port(true)?;
        set_options(&SockRef::from(&socket), listener.socket)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))?;
        // Port 0: the first shard's choice is everybody's.
        address = socket.local_addr()?.as_socket().unwrap_or(address);
        sockets.push(socket.into());
    }
    tracing::info!(listener = listener.name, address = %address, "listening");
    Ok(sockets)
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    // Connections of an earlier process in TIME_WAIT do not matter.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // "[::]" means IPv6, so that "0.0.0.0" beside it is not a conflict.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Fails when somebody listens on the address: SO_REUSEPORT alone would let a second process of the
/// same user in, silently. Two that start in the same moment both find nobody, so the address is
/// claimed first, by a name that only one process of a network namespace can have (unix(7),
/// abstract sockets).
fn claim(address: SocketAddr) -> io::Result<Option<OwnedFd>> {
    if address.port() == 0 {
        return Ok(None);
    }
    let give_up = Instant::now() + PROBE_TIMEOUT;
    loop {
        match try_claim(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                pause();
            }
            result => return result.map(Some),
        }
    }
}

fn try_claim(address: SocketAddr) -> io::Result<OwnedFd> {
    let claim = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    claim.bind(&SockAddr::unix(format!("\0corelane listens on {address}"))?)?;
    tcp_socket(address)?.bind(&SockAddr::from(address))?;
    Ok(claim.into())
}

#[expect(clippy::disallowed_methods, reason = "start-up, before any shard exists")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// One socket for all shards: UNIX sockets have no SO_REUSEPORT.
fn bind_unix(
    listener: &Listener,
    path: &Path,
    shards: usize,
) -> io::Result<(Vec<OwnedFd>, SocketFile)> {
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    let (socket, file) = unix::listen(path, backlog)?;
    tracing::info!(listener = listener.name, path = %path.display(), "listening");
    let sockets: io::Result<_> = (0..shards).map(|_| Ok(socket.try_clone()?.into())).collect();
    Ok((sockets?, file))
}
