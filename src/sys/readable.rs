//! Waiting on the control plane's runtime for a descriptor that no type of that runtime wraps.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the runtime, to wait until it can be read.
///
/// # Errors
/// What epoll_ctl(2) says.
///
/// # Panics
/// Outside a runtime.
pub fn readable(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, which the `Arc` inside the result puts off
    // until the registration is gone; nobody can change the number inside an `Arc<OwnedFd>`.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
