//! The admin interface's socket: TCP, or a UNIX socket only its user and group may open.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Socket, Type};

use crate::config::Address;
use crate::listen::unix::{self, SocketFile};

/// Connections the kernel may hold while all our slots are taken.
const BACKLOG: i32 = 128;

/// A bound, listening admin socket.
#[derive(Debug)]
pub struct AdminListener {
    pub(super) socket: Listening,
    address: Address,
}

#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl AdminListener {
    /// Binds and listens, without needing a runtime. A UNIX socket file that a dead process left
    /// behind is replaced.
    ///
    /// # Errors
    /// The address is in use (also: somebody answers on the UNIX socket), a file that is no socket
    /// is in the way, or whatever else binding says. The message does not name the address.
    pub fn bind(address: &Address) -> io::Result<AdminListener> {
        match address {
            Address::Tcp(tcp) => bind_tcp(*tcp),
            Address::Unix(path) => bind_unix(path),
        }
    }

    /// Where it listens; for TCP port 0, the port the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<AdminListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart must not wait for TIME_WAIT; a second process is refused all the same.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from(OwnedFd::from(socket));
    let address = Address::Tcp(listener.local_addr()?);
    Ok(AdminListener { socket: Listening::Tcp(listener), address })
}

fn bind_unix(path: &Path) -> io::Result<AdminListener> {
    let (socket, file) = unix::listen(path, BACKLOG)?;
    let listener = UnixListener::from(OwnedFd::from(socket));
    let address = Address::Unix(path.to_path_buf());
    Ok(AdminListener { socket: Listening::Unix(listener, file), address })
}
