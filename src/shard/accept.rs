//! The accept loop of one listener on one shard. It only accepts.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use super::Shard;
use crate::end::{AcceptError, Rejection};
use crate::listen::Bound;
use crate::sys::{self, WakeFd};

/// Connections taken in a row before the ring gets a turn, so that sessions are not starved.
const BATCH_MAX: usize = 64;
/// Connections taken from the queue of a listener about to close; no queue is longer.
const QUEUE_MAX: usize = 65_536;

/// A descriptor kept for the moment when there is none left: giving it up makes room to accept one
/// connection and close it, which tells the client at once instead of letting it wait.
#[derive(Debug)]
pub struct Reserve {
    file: RefCell<Option<File>>,
}

impl Reserve {
    /// Takes a descriptor.
    ///
    /// # Errors
    /// What opening /dev/null says.
    pub fn new() -> io::Result<Reserve> {
        Ok(Reserve { file: RefCell::new(Some(File::open("/dev/null")?)) })
    }

    /// Refuses one waiting connection. Returns whether there was one.
    fn refuse_one(&self, listener: &impl AsFd) -> bool {
        let mut file = self.file.borrow_mut();
        *file = None;
        let refused = sys::accept(listener.as_fd()).is_ok();
        *file = File::open("/dev/null").ok();
        refused
    }
}

/// Accepts until the shard drains; then takes what the kernel has completed already, since closing
/// a listener resets whatever waits in its queue, and closes. `index` counts this shard's sockets.
pub async fn run(shard: Rc<Shard>, index: usize, bound: Bound) {
    let Bound { listener, socket, claim } = bound;
    match WakeFd::new(socket) {
        Ok(socket) => accept_until_drain(&shard, index, listener, socket).await,
        Err(error) => tracing::error!(%error, "listener lost"),
    }
    drop(claim);
    shard.listener_closed();
}

async fn accept_until_drain(shard: &Rc<Shard>, index: usize, listener: usize, socket: WakeFd) {
    while let Ok(ready) = shard.closing[index].or(socket.readable()).await {
        if let Err(error) = ready {
            tracing::warn!(%error, "waiting for connections failed");
            shard.next_tick().await;
        } else if !take_batch(shard, listener, &socket) {
            // Waiting is cheaper than failing: the queue keeps the clients meanwhile.
            shard.next_tick().await;
        }
    }
    for _ in 0..QUEUE_MAX {
        match sys::accept(socket.as_fd()) {
            Ok(accepted) => shard.admit(listener, accepted),
            Err(_empty_or_failed) => break,
        }
    }
}

/// Takes up to a batch of connections. `false`: accepting failed and should pause.
fn take_batch(shard: &Rc<Shard>, listener: usize, socket: &impl AsFd) -> bool {
    let mut any_accepted = false;
    for _ in 0..BATCH_MAX {
        match sys::accept(socket.as_fd()) {
            Ok(accepted) => {
                any_accepted = true;
                shard.admit(listener, accepted);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => {
                let kind = classify(&error);
                shard.cells().accept_errors[kind as usize].add(1);
                match kind {
                    AcceptError::Aborted => {}
                    AcceptError::ProcessDescriptors | AcceptError::SystemDescriptors => {
                        if shard.reserve.refuse_one(socket) {
                            shard.count_rejection(listener, Rejection::Descriptors);
                        }
                        return false;
                    }
                    _ => return false,
                }
            }
        }
    }
    // An error that never goes away must not be asked for again and again.
    any_accepted
}

fn classify(error: &io::Error) -> AcceptError {
    match error.raw_os_error() {
        Some(libc::EMFILE) => AcceptError::ProcessDescriptors,
        Some(libc::ENFILE) => AcceptError::SystemDescriptors,
        Some(libc::ENOBUFS | libc::ENOMEM) => AcceptError::Memory,
        // accept(2): pending network errors of the new socket are passed on and mean "try again".
        Some(
            libc::ECONNABORTED
            | libc::EINTR
            | libc::EPERM
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH,
        ) => AcceptError::Aborted,
        _ => AcceptError::Other,
    }
}
