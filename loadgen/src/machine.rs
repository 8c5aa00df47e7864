//! What this process may use, and what it ran on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

/// Descriptors besides connections: standard streams, runtimes, timers, files.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Raises the soft limit of descriptors to the hard one and says how many connections fit.
pub fn raise_descriptor_limit() -> anyhow::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading RLIMIT_NOFILE")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising RLIMIT_NOFILE")?;
    }
    Ok(hard.saturating_sub(DESCRIPTORS_RESERVED))
}

/// Source addresses 127.0.0.2, 127.0.0.3, …: each gives its own set of ephemeral ports.
pub fn loopback_sources(count: u32, targets: &[SocketAddr]) -> anyhow::Result<Vec<IpAddr>> {
    const COUNT_MAX: u32 = 0xff_fffc;
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > COUNT_MAX {
        bail!("--sources: at most {COUNT_MAX} addresses");
    }
    if let Some(other) = targets.iter().find(|a| !(a.is_ipv4() && a.ip().is_loopback())) {
        bail!("--sources needs targets on 127.0.0.0/8; {other} is none");
    }
    let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
    Ok((0..count).map(|n| IpAddr::V4(Ipv4Addr::from(first + n))).collect())
}

/// A socket ready to connect: non-blocking, without Nagle's delay, bound to its source address.
pub fn open_socket(source: Option<IpAddr>, target: SocketAddr) -> std::io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // Without this the kernel reserves a port per source address at bind, for any target.
        let option = nix::sys::socket::sockopt::IpBindAddressNoPort;
        nix::sys::socket::setsockopt(&socket.as_fd(), option, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// User and system time of this process so far.
pub fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| {
        let whole = u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000;
        whole + u64::try_from(time.tv_usec()).unwrap_or(0)
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// The machine, for reports.
#[derive(Debug, Serialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the first processor.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// `net.ipv4.tcp_congestion_control`.
    pub congestion_control: String,
}

impl Host {
    /// Looks around; what cannot be read is "unknown".
    pub fn look() -> Host {
        let line = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().next().filter(|l| !l.is_empty()).unwrap_or("unknown").to_string()
        };
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|l| l.strip_prefix("model name"));
        Host {
            name: line("/proc/sys/kernel/hostname"),
            kernel: line("/proc/sys/kernel/osrelease"),
            congestion_control: line("/proc/sys/net/ipv4/tcp_congestion_control"),
            cpu: model.map_or("unknown", |m| m.trim_start_matches([' ', '\t', ':'])).to_string(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The commit that was built or is checked out: `CORELANE_COMMIT`, else git's, else "unknown".
pub fn commit() -> String {
    if let Ok(commit) = std::env::var("CORELANE_COMMIT") {
        return commit;
    }
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        }
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_loopback_addresses_in_order() {
        let target = [SocketAddr::from(([127, 0, 0, 1], 9_000))];
        let sources = loopback_sources(300, &target).unwrap();
        assert_eq!(sources[0], IpAddr::from([127, 0, 0, 2]));
        assert_eq!(sources[299], IpAddr::from([127, 0, 1, 45]));
        assert!(loopback_sources(1, &["10.0.0.1:1".parse().unwrap()]).is_err());
        assert!(loopback_sources(1, &["[::1]:1".parse().unwrap()]).is_err());
        assert!(loopback_sources(0, &["[::1]:1".parse().unwrap()]).unwrap().is_empty());
    }

    #[test]
    fn the_process_has_used_time() {
        let mut random = crate::random::Random::new(1);
        let mut last = 0;
        while cpu_time() == Duration::ZERO {
            last = random.next();
        }
        assert!(cpu_time() > Duration::ZERO, "{last}");
    }
}
