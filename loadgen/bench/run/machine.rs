//! The machine: what it is, what it is set to, and which of its ports are free.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context, bail};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use serde::Serialize;
use socket2::{Domain, Socket, Type};

/// Settings that decide results of loopback benchmarks.
const SYSCTLS: [&str; 9] = [
    "net.ipv4.tcp_congestion_control",
    "net.core.default_qdisc",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.somaxconn",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_max_tw_buckets",
    "kernel.io_uring_disabled",
];

/// The machine, for reports.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Model of the first processor.
    pub cpu: String,
    /// Whether that is a virtual one.
    pub is_virtual: bool,
    /// Cores that this process may use.
    pub cores: Vec<usize>,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Hard limit of file descriptors.
    pub descriptors_max: u64,
    /// Running processes averaged over the last minute, before the run.
    pub load_average: String,
    /// Settings during the run.
    pub sysctls: BTreeMap<String, String>,
    /// Whether the run set the congestion control itself, and what it was before.
    pub congestion_control_before: String,
}

impl Machine {
    /// Looks around; what cannot be read is "unknown".
    pub fn look(congestion_control_before: &str) -> anyhow::Result<Machine> {
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name| processors.lines().find_map(|line| line.strip_prefix(name));
        let value = |text: &str| text.trim_start_matches([' ', '\t', ':']).to_string();
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
        let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
        let (_, descriptors_max) = nix::sys::resource::getrlimit(limit)?;
        let named = |name: &&str| (name.to_string(), sysctl(name));
        Ok(Machine {
            kernel: first_line("/proc/sys/kernel/osrelease"),
            cpu: field("model name").map_or("unknown".into(), value),
            is_virtual: field("flags").is_some_and(|flags| flags.contains(" hypervisor")),
            cores: cores()?,
            memory_bytes: kib.unwrap_or(0) * 1024,
            descriptors_max,
            load_average: first_line("/proc/loadavg"),
            sysctls: SYSCTLS.iter().map(named).collect(),
            congestion_control_before: congestion_control_before.to_string(),
        })
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().filter(|line| !line.is_empty()).unwrap_or("unknown").to_string()
}

fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

fn sysctl(name: &str) -> String {
    first_line(&sysctl_path(name)).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Cores that this process may use, ascending.
pub fn cores() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("reading our cores")?;
    Ok((0..nix::sched::CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).collect())
}

/// TCP congestion control for the run, and back to what it was.
pub struct CongestionControl {
    /// What it was.
    pub before: String,
    is_changed: bool,
}

const CONGESTION_CONTROL: &str = "net.ipv4.tcp_congestion_control";
/// The default of Linux; others (bbr paces) decide loopback results more than a forwarder does.
const WANTED: &str = "cubic";

impl CongestionControl {
    /// Sets it where we may, and says so where we may not.
    pub fn set(is_kept: bool) -> CongestionControl {
        let before = sysctl(CONGESTION_CONTROL);
        let mut is_changed = false;
        if before != WANTED && !is_kept {
            match std::fs::write(sysctl_path(CONGESTION_CONTROL), WANTED) {
                Ok(()) => is_changed = true,
                Err(error) => eprintln!(
                    "corelane-bench: {CONGESTION_CONTROL} stays {before}, not {WANTED}: {error}"
                ),
            }
        }
        CongestionControl { before, is_changed }
    }
}

impl Drop for CongestionControl {
    fn drop(&mut self) {
        let back = |before| std::fs::write(sysctl_path(CONGESTION_CONTROL), before);
        if self.is_changed
            && let Err(error) = back(&self.before)
        {
            eprintln!("corelane-bench: {CONGESTION_CONTROL} is left at {WANTED}: {error}");
        }
    }
}

/// Hands out ports that nobody listens on, each once: what a port had before cannot matter then.
pub struct Ports {
    next: u16,
}

/// Below the range of ephemeral ports, so that no connection sits on them.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

impl Ports {
    /// Starts somewhere else than another run does.
    pub fn new() -> Ports {
        let span = u32::from(PORTS.end - PORTS.start);
        let offset = std::process::id().wrapping_mul(331) % span;
        Ports { next: PORTS.start + u16::try_from(offset).unwrap_or(0) }
    }

    /// A port that is free on every address of this host.
    pub fn take(&mut self) -> anyhow::Result<u16> {
        for _ in PORTS {
            let port = self.next;
            self.next = if port + 1 < PORTS.end { port + 1 } else { PORTS.start };
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Binding the wildcard without SO_REUSEADDR conflicts with every use of the port.
            if socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port between {} and {}", PORTS.start, PORTS.end)
    }
}

/// Whether somebody listens on this port (IPv4).
pub fn is_listening(port: u16) -> anyhow::Result<bool> {
    let table = std::fs::read_to_string("/proc/net/tcp").context("reading /proc/net/tcp")?;
    let port = format!(":{port:04X}");
    Ok(table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|address| address.ends_with(&port));
        // State 0A is LISTEN.
        local && fields.nth(1) == Some("0A")
    }))
}

/// Sockets in TIME_WAIT on this host.
pub fn time_wait_sockets() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut fields = line.split_whitespace().skip_while(|word| *word != "tw");
    fields.nth(1)?.parse().ok()
}

/// The commit that was built: `CORELANE_COMMIT`, else git's with a "+" for changes, else "unknown".
pub fn commit() -> String {
    if let Ok(commit) = std::env::var("CORELANE_COMMIT") {
        return commit;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let Some(head) = git(&["rev-parse", "HEAD"]) else { return "unknown".into() };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| changes.is_empty());
    if is_clean { head } else { format!("{head}+") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn ports_are_free_and_differ() {
        let mut ports = Ports::new();
        let first = ports.take().unwrap();
        let second = ports.take().unwrap();
        assert_ne!(first, second);
        assert!(!is_listening(second).unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).unwrap();
        assert!(is_listening(second).unwrap());
        ports.next = second;
        assert_ne!(ports.take().unwrap(), second);
        drop(listener);
    }

    #[test]
    fn the_machine_is_described() {
        let machine = Machine::look("reno").unwrap();
        assert!(!machine.cores.is_empty() && machine.memory_bytes > 0);
        assert_eq!(machine.sysctls.len(), SYSCTLS.len());
        assert_eq!(machine.sysctls["net.ipv4.tcp_rmem"].split(' ').count(), 3);
        assert!(time_wait_sockets().is_some());
    }
}
