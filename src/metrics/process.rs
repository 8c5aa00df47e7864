//! What the kernel knows about this process, from `/proc/self`; see proc(5).
//!
//! A value that cannot be read is left out of the page rather than reported as zero.

use std::fs;

/// Clock ticks a second in `/proc/*/stat` (USER_HZ): part of Linux's interface, 100 wherever
/// io_uring exists.
const TICKS_PER_SECOND: f64 = 100.0;

/// Values as of now.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// User and system time, seconds.
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Process {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Process {
            cpu_seconds: cpu_seconds(),
            open_fds: open_fds(),
            max_fds: number_after(&limits, "Max open files"),
            resident_bytes: number_after(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: number_after(&status, "VmSize:").map(|kib| kib * 1024),
            threads: number_after(&status, "Threads:"),
        }
    }
}

/// Start of the process in seconds since 1970. It never changes, and `/proc/stat` is long on large
/// machines: read it once.
pub(super) fn start_seconds() -> Option<f64> {
    let boot = number_after(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    Some(boot as f64 + stat_field(22)? as f64 / TICKS_PER_SECOND)
}

fn cpu_seconds() -> Option<f64> {
    Some((stat_field(14)? + stat_field(15)?) as f64 / TICKS_PER_SECOND)
}

/// Since Linux 6.2 the directory's size is the number of descriptors. Counting its entries, as is
/// done before, takes long with 100,000 connections.
fn open_fds() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        open => Some(open),
    }
}

/// A field of `/proc/self/stat` by its number in proc(5), from 4 upwards: the second field is a
/// name in parentheses that may itself hold spaces and parentheses.
fn stat_field(number: usize) -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number - 3)?.parse().ok()
}

/// The number that follows `name` at the start of a line.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
