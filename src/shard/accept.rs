//! The accept loop of one listening socket of a shard. It only accepts.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::interrupt::Interrupt;
use crate::config::Address;
use crate::end::{AcceptError, Rejection};
use crate::listen::{self, Bound};
use crate::sys::{self, Accepted, WakeFd};
use crate::table::Listener;

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

/// A listening socket of this shard.
pub struct Listening {
    /// Names it, on all shards.
    pub binding: u64,
    /// Set when no further connections are taken.
    pub closing: Interrupt<()>,
    socket: WakeFd,
    address: Address,
    /// As the configuration in force has it.
    listener: RefCell<Arc<Listener>>,
    _claim: Option<Arc<OwnedFd>>,
}

impl Listening {
    /// Takes a socket over.
    ///
    /// # Errors
    /// What registering it with the runtime says.
    pub fn new(bound: Bound, listener: Arc<Listener>) -> io::Result<Listening> {
        let Bound { binding, address, socket, claim, .. } = bound;
        Ok(Listening {
            binding,
            closing: Interrupt::new(),
            socket: WakeFd::new(socket)?,
            address,
            listener: RefCell::new(listener),
            _claim: claim,
        })
    }

    /// Accepts for the listener at this index from now on.
    pub fn follow(&self, listeners: &[Arc<Listener>], index: usize) {
        let Some(listener) = listeners.get(index) else { return };
        if let Err(error) = listen::apply(self.socket.as_fd(), &self.address, &listener.settings) {
            let listener = &*listener.label;
            tracing::warn!(listener, %error, "settings of a listening socket not changed");
        }
        *self.listener.borrow_mut() = listener.clone();
    }

    fn admit(&self, shard: &Rc<Shard>, accepted: Accepted) {
        let listener = self.listener.borrow().clone();
        shard.admit(listener, accepted);
    }
}

/// Accepts until the listener is closed; then takes what the kernel has completed already, since
/// closing a listener resets whatever waits in its queue.
pub async fn run(shard: Rc<Shard>, listening: Rc<Listening>) {
    let socket = &listening.socket;
    while let Ok(ready) = listening.closing.or(socket.readable()).await {
        if let Err(error) = ready {
            tracing::warn!(%error, "waiting for connections failed");
            shard.next_tick().await;
        } else if !take_batch(&shard, &listening) {
            // Waiting is cheaper than failing: the queue keeps the clients meanwhile.
            shard.next_tick().await;
        }
    }
    for _ in 0..QUEUE_MAX {
        match sys::accept(socket.as_fd()) {
            Ok(accepted) => listening.admit(&shard, accepted),
            Err(_empty_or_failed) => break,
        }
    }
    let binding = listening.binding;
    drop(listening);
    shard.listener_closed(binding);
}

/// Takes up to a batch of connections. `false`: accepting failed and should pause.
fn take_batch(shard: &Rc<Shard>, listening: &Listening) -> bool {
    let socket = &listening.socket;
    let mut any_accepted = false;
    for _ in 0..BATCH_MAX {
        match sys::accept(socket.as_fd()) {
            Ok(accepted) => {
                any_accepted = true;
                listening.admit(shard, accepted);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => {
                let kind = classify(&error);
                shard.cells().accept_errors[kind as usize].add(1);
                match kind {
                    AcceptError::Aborted => {}
                    AcceptError::ProcessDescriptors | AcceptError::SystemDescriptors => {
                        if shard.reserve.refuse_one(socket) {
                            let listener = listening.listener.borrow();
                            shard.count_rejection(&listener, Rejection::Descriptors);
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
