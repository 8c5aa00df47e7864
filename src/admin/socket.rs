//! The admin interface's socket: TCP, or a UNIX socket only its user and group may open.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Address;

/// Connections the kernel may hold while all our slots are taken.
const BACKLOG: i32 = 128;

/// Mode of a UNIX socket: its user and group may connect.
const SOCKET_MODE: u32 = 0o660;

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
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let name = SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&name) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        remove_if_stale(path, &name)?;
        socket.bind(&name)?;
    }
    let file = SocketFile::of(path)?;
    // Nobody can connect before listen(), so there is no moment with a wider mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from(OwnedFd::from(socket));
    let address = Address::Unix(path.to_path_buf());
    Ok(AdminListener { socket: Listening::Unix(listener, file), address })
}

/// Removes a socket file nobody listens on.
fn remove_if_stale(path: &Path, name: &SockAddr) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        let message = "a file that is not a socket is in the way";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog would block, and somebody owns it.
    probe.set_nonblocking(true)?;
    match probe.connect(name) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers here")),
    }
}

/// A socket file we made. Removed when dropped, unless another process has put its own there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_path_buf(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Should it fail, the next start finds a stale file and removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
