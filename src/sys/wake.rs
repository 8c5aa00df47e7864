//! Descriptors that wake a shard: eventfd for mail, timerfd for the coarse tick.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use monoio::net::UnixStream;

/// Any pollable descriptor, awaited on the shard's ring.
///
/// monoio has no type for "a descriptor that I poll". Its UnixStream puts a POLL_ADD on whatever
/// descriptor it wraps and does nothing specific to sockets until asked to.
#[derive(Debug)]
pub struct WakeFd {
    stream: UnixStream,
}

impl WakeFd {
    /// Takes the descriptor over.
    ///
    /// # Errors
    /// What the ring says.
    pub fn new(fd: OwnedFd) -> io::Result<WakeFd> {
        Ok(WakeFd { stream: UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))? })
    }

    /// Waits until a read would not block. Cancel-safe.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn readable(&self) -> io::Result<()> {
        self.stream.readable(true).await
    }

    /// Takes the 64-bit counter of an eventfd or timerfd; 0 when there is nothing to take.
    pub fn take_count(&self) -> u64 {
        let mut count = 0u64;
        // SAFETY: `count` is 8 writable bytes that outlive the call; the descriptor is ours and
        // non-blocking.
        let n = unsafe {
            libc::read(self.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), size_of::<u64>())
        };
        if n == 8 { count } else { 0 }
    }
}

impl AsRawFd for WakeFd {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` lives, which the borrow ensures.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }
}

/// A new non-blocking eventfd.
///
/// # Errors
/// What eventfd(2) says.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A periodic timer. One per shard replaces a timer per connection: an armed monoio timer would
/// make every park of the ring carry a kernel timeout.
#[derive(Debug)]
pub struct Timer {
    fd: WakeFd,
}

impl Timer {
    /// Fires every `period` of the monotonic clock.
    ///
    /// # Errors
    /// What timerfd_create(2), timerfd_settime(2) or the ring says.
    pub fn every(period: Duration) -> io::Result<Timer> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let period = libc::timespec {
            tv_sec: period.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: period.subsec_nanos().into(),
        };
        let every = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: `every` outlives the call; a null old value is allowed.
        let result =
            unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &every, std::ptr::null_mut()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Timer { fd: WakeFd::new(fd)? })
    }

    /// Waits for at least one period to pass and returns how many did.
    ///
    /// # Errors
    /// What the ring says.
    pub async fn elapsed(&self) -> io::Result<u64> {
        loop {
            self.fd.readable().await?;
            match self.fd.take_count() {
                0 => {}
                count => return Ok(count),
            }
        }
    }
}
