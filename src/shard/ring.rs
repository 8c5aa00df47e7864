//! The ring of a shard: its flags, and what to do when the kernel refuses one.

use std::fmt;
use std::io;

use monoio::{IoUringDriver, Runtime, RuntimeBuilder};

use crate::sys::Exchange;

/// Completions that may wait; above it the kernel keeps an overflow list.
const COMPLETION_ENTRIES: u32 = 32_768;

/// Builds the runtime of the calling thread.
///
/// SINGLE_ISSUER and COOP_TASKRUN spare the kernel locks and interrupts between cores, which is
/// worth more than half of the cost per message. SQPOLL is out: monoio panics when the kernel's
/// poller leaves its queue full.
///
/// # Errors
/// When the kernel gives us no ring, with the reason and the remedy.
pub fn build(entries: u32) -> Result<Runtime<IoUringDriver>, RingError> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun().setup_submit_all();
    ring.setup_cqsize(COMPLETION_ENTRIES.max(entries * 2));
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(entries)
        .uring_builder(ring)
        .build()
        .map_err(|error| RingError { disabled: disabled_by_sysctl(), error })
}

/// Builds the second ring of the calling thread, inside its runtime.
///
/// # Errors
/// As [`build`].
pub fn build_exchange() -> Result<Exchange, RingError> {
    Exchange::new().map_err(|error| RingError { disabled: disabled_by_sysctl(), error })
}

/// No ring.
#[derive(Debug)]
pub struct RingError {
    /// Value of `kernel.io_uring_disabled`, where there is such a setting.
    disabled: Option<u8>,
    /// What io_uring_setup(2) said.
    error: io::Error,
}

fn disabled_by_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring is not available: {}; ", self.error)?;
        match (self.error.raw_os_error(), self.disabled) {
            (Some(libc::EPERM), Some(value @ 1..)) => write!(
                f,
                "the kernel setting kernel.io_uring_disabled is {value}: \
                 run `sysctl kernel.io_uring_disabled=0`{}",
                if value == 1 { ", or run as a member of kernel.io_uring_group" } else { "" }
            ),
            (Some(libc::EPERM | libc::EACCES | libc::ENOSYS), _) => write!(
                f,
                "a seccomp profile refuses it, or the kernel was built without it: allow \
                 io_uring_setup, io_uring_enter and io_uring_register in the container's or \
                 unit's profile"
            ),
            (Some(libc::EINVAL), _) => {
                write!(f, "the kernel is older than 6.0, which this program needs")
            }
            (Some(libc::ENOMEM), _) => {
                write!(f, "raise the locked-memory limit (`ulimit -l`) or lower ring_entries")
            }
            (Some(libc::EMFILE | libc::ENFILE), _) => {
                write!(f, "raise the limit of open files (`ulimit -n`)")
            }
            _ => write!(f, "see io_uring_setup(2)"),
        }
    }
}

impl std::error::Error for RingError {}
