//! Binding listeners: one SO_REUSEPORT socket per shard and address, made before any shard hears of
//! it, so that a fault is an exit code, or a reload refused, and not a log line.

pub mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use self::unix::SocketFile;
use crate::backend::set_options;
use crate::config::{Address, Listener};
use crate::table::Table;

/// How long the port of a process that just ended may stay bound: the kernel tears its rings down
/// after the process is gone.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A listening socket for one shard.
#[derive(Debug)]
pub struct Bound {
    /// Names the address it listens on, among all that this process ever listened on.
    pub binding: u64,
    /// Index of the listener in the table.
    pub listener: usize,
    /// As the file has it.
    pub address: Address,
    /// Its socket, non-blocking.
    pub socket: OwnedFd,
    /// Keeps other instances off the address until the last shard has closed its socket: while this
    /// process drains, its successor may start.
    pub claim: Option<Arc<OwnedFd>>,
}

/// What a shard is to listen on after a reload.
#[derive(Debug)]
pub struct Listeners {
    /// What it places by from then on.
    pub table: Arc<Table>,
    /// Bindings that stay, each with the index of its listener; all others are closed.
    pub stay: Vec<(u64, usize)>,
    /// Bindings that are new.
    pub opened: Vec<Bound>,
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

/// Every address that this process listens on.
#[derive(Debug)]
pub struct Bindings {
    shards: usize,
    open: Vec<Binding>,
    next: u64,
}

#[derive(Debug)]
struct Binding {
    id: u64,
    /// As the file has it.
    address: Address,
    /// A UNIX socket's, which lasts as long as this.
    _file: Option<SocketFile>,
}

/// Sockets for another set of listeners: bound, but nobody accepts from them yet.
#[derive(Debug)]
pub struct Change {
    stay: Vec<(u64, usize)>,
    opened: Vec<Binding>,
    /// One list per shard.
    bound: Vec<Vec<Bound>>,
    next: u64,
}

impl Bindings {
    /// No address yet, for so many shards.
    pub fn new(shards: usize) -> Bindings {
        Bindings { shards, open: Vec::new(), next: 0 }
    }

    /// Binds once per shard what these listeners have and is not bound yet. Nothing is in force
    /// before [`Bindings::take`].
    ///
    /// # Errors
    /// The first address that cannot be listened on; whatever was bound for it is closed again.
    pub fn prepare(&self, listeners: &[Listener]) -> Result<Change, BindError> {
        let mut open: Vec<&Binding> = self.open.iter().collect();
        let mut change = Change {
            stay: Vec::new(),
            opened: Vec::new(),
            bound: (0..self.shards).map(|_| Vec::new()).collect(),
            next: self.next,
        };
        for (index, listener) in listeners.iter().enumerate() {
            for address in &listener.bind {
                match open.iter().position(|binding| binding.address == *address) {
                    Some(at) => change.stay.push((open.swap_remove(at).id, index)),
                    None => self.bind(&mut change, index, (listener, address))?,
                }
            }
        }
        Ok(change)
    }

    fn bind(
        &self,
        change: &mut Change,
        index: usize,
        (listener, address): (&Listener, &Address),
    ) -> Result<(), BindError> {
        let mut claimed = None;
        let sockets = match address {
            Address::Tcp(tcp) => claim(*tcp).and_then(|made| {
                claimed = made.map(Arc::new);
                Ok((bind_tcp(listener, *tcp, self.shards)?, None))
            }),
            Address::Unix(path) => {
                bind_unix(listener, path, self.shards).map(|(sockets, file)| (sockets, Some(file)))
            }
        };
        let (sockets, file) = sockets.map_err(|error| BindError {
            listener: listener.name.clone(),
            address: address.clone(),
            error,
        })?;
        let id = change.next;
        change.next += 1;
        for (shard, socket) in change.bound.iter_mut().zip(sockets) {
            shard.push(Bound {
                binding: id,
                listener: index,
                address: address.clone(),
                socket,
                claim: claimed.clone(),
            });
        }
        change.opened.push(Binding { id, address: address.clone(), _file: file });
        Ok(())
    }

    /// Puts a change in force: what it does not keep is closed by the shards, which are told by
    /// what this gives back for each. Files of UNIX sockets that go are removed at once.
    pub fn take(&mut self, change: Change, table: &Arc<Table>) -> Vec<Listeners> {
        let Change { stay, opened, bound, next } = change;
        self.open.retain(|binding| stay.iter().any(|(id, _)| *id == binding.id));
        self.open.extend(opened);
        self.next = next;
        let listeners = |opened| Listeners { table: table.clone(), stay: stay.clone(), opened };
        bound.into_iter().map(listeners).collect()
    }
}

/// Gives a socket that listens already the settings of another configuration.
///
/// # Errors
/// What the kernel says.
pub fn apply(socket: BorrowedFd<'_>, address: &Address, listener: &Listener) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    if let Address::Tcp(_) = address {
        set_options(&socket, listener.socket)?;
    }
    // On a socket that listens it only changes the length of the queue.
    socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))
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
