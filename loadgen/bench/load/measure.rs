//! CPU times and context switches, from /proc: of the forwarder, of ourselves, of the machine.

use std::fs;

use anyhow::Context;
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

/// Moments that are compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// CPU of the measured processes, all threads, ns.
    pub forwarder_ns: u64,
    /// Their context switches.
    pub switches: u64,
    /// Our CPU, ns.
    pub load_ns: u64,
    /// CPU of the whole machine that was not idle, ns; of a difference.
    pub busy_ns: u64,
    /// CPU of the whole machine that was idle, ns. Counted by the kernel as it happens, unlike the
    /// busy kinds, which are sampled and miss what timers do.
    pub idle_ns: u64,
    /// When, ns of all cores together.
    pub time_ns: u64,
    /// What the hypervisor took, ns.
    pub steal_ns: u64,
}

impl Snapshot {
    /// Takes one. The load is this process and those of `ends`.
    pub fn take(measured: &[u32], ends: &[u32]) -> anyhow::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        for pid in measured {
            let (ns, switches) = process(&pid.to_string())?;
            snapshot.forwarder_ns += ns;
            snapshot.switches += switches;
        }
        snapshot.load_ns = process("self")?.0;
        for pid in ends {
            snapshot.load_ns += process(&pid.to_string())?.0;
        }
        let cores;
        (cores, snapshot.idle_ns, snapshot.steal_ns) = machine()?;
        snapshot.time_ns = now_ns()? * cores;
        Ok(snapshot)
    }

    /// From `earlier` to this one.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let idle_ns = self.idle_ns.saturating_sub(earlier.idle_ns);
        let steal_ns = self.steal_ns.saturating_sub(earlier.steal_ns);
        let time_ns = self.time_ns.saturating_sub(earlier.time_ns);
        Snapshot {
            forwarder_ns: self.forwarder_ns.saturating_sub(earlier.forwarder_ns),
            switches: self.switches.saturating_sub(earlier.switches),
            load_ns: self.load_ns.saturating_sub(earlier.load_ns),
            busy_ns: time_ns.saturating_sub(idle_ns + steal_ns),
            idle_ns,
            time_ns,
            steal_ns,
        }
    }
}

/// CPU ns and context switches of all threads. The first field of schedstat is time spent on a
/// core in ns (Documentation/scheduler/sched-stats.rst); stat counts only in ticks.
fn process(pid: &str) -> anyhow::Result<(u64, u64)> {
    let (mut ns, mut switches) = (0, 0);
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let folder = task?.path();
        // A thread may end while we look.
        let Ok(schedstat) = fs::read_to_string(folder.join("schedstat")) else { continue };
        let first = schedstat.split_whitespace().next().unwrap_or("0");
        ns += first.parse::<u64>().with_context(|| schedstat.clone())?;
        let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
        switches += status
            .lines()
            .filter(|line| line.contains("ctxt_switches:"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok((ns, switches))
}

fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.num_nanoseconds())?)
}

/// Number of cores, and idle and stolen ns of all of them, which the kernel gives in hundredths of
/// a second (proc(5)).
fn machine() -> anyhow::Result<(u64, u64, u64)> {
    const NS_PER_TICK: u64 = 10_000_000;
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    // user nice system idle iowait irq softirq steal
    Ok((cores as u64, (at(3) + at(4)) * NS_PER_TICK, at(7) * NS_PER_TICK))
}
