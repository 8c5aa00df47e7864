//! Descriptors that wake a shard: eventfd for mail, timerfd for the coarse tick.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use monoio::net::UnixStream;
use rustix::event::EventfdFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

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
        let mut count = [0u8; 8];
        match rustix::io::read(self, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            Ok(_) | Err(_) => 0,
        }
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
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// A descriptor that is always readable.
///
/// # Errors
/// What eventfd(2) or the ring says.
pub fn always_readable() -> io::Result<WakeFd> {
    let fd = eventfd()?;
    rustix::io::write(&fd, &1u64.to_ne_bytes())?;
    WakeFd::new(fd)
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
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let period = Timespec {
            tv_sec: i64::try_from(period.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: period.subsec_nanos().into(),
        };
        let every = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &every)?;
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
