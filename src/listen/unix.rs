//! UNIX sockets that listen: files that only their user and group may open, that replace what a
//! dead process left behind, and that go when their owner goes.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Mode of the file: its user and group may connect.
const MODE: u32 = 0o660;

/// Binds and listens, non-blocking. A socket file that nobody answers on is replaced.
///
/// # Errors
/// Somebody answers there (`AddrInUse`), a file that is no socket is in the way (`AlreadyExists`),
/// or whatever else binding says. The message does not name the path.
pub fn listen(path: &Path, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    socket.listen(backlog)?;
    Ok((socket, file))
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
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
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

/// Device and inode; an inode's number is soon used again, so the file's time tells them apart.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}
