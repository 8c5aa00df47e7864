//! `corelane-bench launch`: becomes another program, on given cores and in a given cgroup, that
//! the kernel ends when the benchmark ends, however that ends.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use rustix::process::set_parent_process_death_signal;

/// `corelane-bench launch`
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// Cores the program may use.
    #[arg(long, value_delimiter = ',', required = true)]
    pub cores: Vec<usize>,
    /// Folder of a cgroup to enter.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Whose end is ours.
    #[arg(long)]
    pub parent: i32,
    /// The signal that tells it: KILL, or TERM for programs whose children have to be told too.
    #[arg(long, default_value = "SIGKILL")]
    pub death: Signal,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub program: Vec<String>,
}

/// Does not return if it succeeds.
pub fn launch(args: &LaunchArgs) -> anyhow::Result<u8> {
    end_with_parent(args.death)?;
    if getppid() != Pid::from_raw(args.parent) {
        bail!("the benchmark has ended already");
    }
    let mut cores = CpuSet::new();
    for core in &args.cores {
        cores.set(*core).with_context(|| format!("core {core}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &cores)
        .with_context(|| format!("pinning to cores {:?}", args.cores))?;
    if let Some(cgroup) = &args.cgroup {
        let members = cgroup.join("cgroup.procs");
        std::fs::write(&members, std::process::id().to_string())
            .with_context(|| format!("entering {}", members.display()))?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising RLIMIT_NOFILE")?;
    let (program, arguments) = args.program.split_first().context("no program")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("starting {program}"))
}

/// Has the kernel send this signal to us when our parent ends.
pub fn end_with_parent(signal: Signal) -> anyhow::Result<()> {
    let signal = rustix::process::Signal::from_named_raw(signal as i32);
    set_parent_process_death_signal(signal).context("asking to end with the parent")
}
