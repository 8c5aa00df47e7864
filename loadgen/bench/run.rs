//! `corelane-bench run`: the whole matrix, in interleaved rounds.

mod cgroup;
mod child;
mod interrupt;
pub mod machine;
pub mod measurement;
pub mod plan;
pub mod rounds;
mod turn;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;

use crate::output;
use crate::peers::Programs;
use machine::{CongestionControl, Machine};
use plan::{DEVICES_IDLE, Pace, Scenario};

/// `corelane-bench run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Short measurements and two rounds: done within three minutes, and rougher.
    #[arg(long)]
    pub quick: bool,
    /// Rounds, each with every arm once, 1 to 100.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Seconds of each measurement.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Folder for results.json, results.md and results.html; a fresh one is made without it.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Scenarios to run, all without it; a word that several begin with names them all.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Peers to leave out.
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub without: Vec<String>,
    /// The corelane to measure; the one beside this program without it.
    #[arg(long, value_name = "FILE")]
    pub corelane: Option<PathBuf>,
    /// Leave the machine's settings as they are: congestion control is reported, not set.
    #[arg(long)]
    pub keep_settings: bool,
    /// Silent devices where memory and growth are measured.
    #[arg(long, value_name = "N", default_value_t = DEVICES_IDLE)]
    pub devices: u32,
}

/// Descriptors of forwarder and load that silent devices do not get.
const DESCRIPTORS_RESERVED: u64 = 1_200;

impl RunArgs {
    fn pace(&self, descriptors_max: u64) -> anyhow::Result<Pace> {
        let (seconds, open_seconds) = match (self.seconds, self.quick) {
            (Some(seconds), _) => (seconds, seconds),
            (None, true) => (0.6, 1.5),
            (None, false) => (4.0, 4.0),
        };
        if !(0.05..=600.0).contains(&seconds) {
            bail!("--seconds: 0.05 to 600");
        }
        // Each silent device takes two descriptors in the forwarder and two in the load.
        let possible = descriptors_max.saturating_sub(DESCRIPTORS_RESERVED) / 2;
        let possible = u32::try_from(possible).unwrap_or(u32::MAX);
        let rounds = self.rounds.unwrap_or(if self.quick { 2 } else { 5 });
        Ok(Pace {
            rounds,
            idle_rounds: if self.quick { 1 } else { rounds },
            steady_rounds: if self.quick { 1 } else { rounds },
            warmup_s: (seconds / 4.0).min(1.0),
            seconds,
            open_seconds,
            devices_idle_max: possible.min(self.devices),
        })
    }

    fn scenarios(&self) -> anyhow::Result<Vec<Scenario>> {
        if self.only.is_empty() {
            return Ok(Scenario::ALL.to_vec());
        }
        let mut scenarios = Vec::new();
        for word in &self.only {
            let named = Scenario::named(word);
            if named.is_empty() {
                let valid = Scenario::ALL.map(Scenario::name).join(", ");
                bail!("--only {word}: valid are {valid}, and what several of them begin with");
            }
            scenarios
                .extend(named.into_iter().filter(|s| !scenarios.contains(s)).collect::<Vec<_>>());
        }
        Ok(scenarios)
    }
}

/// Runs it, writes the reports, and gives the exit code.
pub fn run(args: &RunArgs) -> anyhow::Result<u8> {
    let scenarios = args.scenarios()?;
    let corelane = match &args.corelane {
        Some(file) => file.clone(),
        None => std::env::current_exe()?.with_file_name("corelane"),
    };
    let programs = Programs::find(&corelane)?;
    interrupt::watch()?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let congestion_control = CongestionControl::set(args.keep_settings);
    let machine = Machine::look(&congestion_control.before)?;
    let pace = args.pace(machine.descriptors_max)?;
    let folder = output_folder(args.output.as_deref(), started.as_secs())?;
    let scratch = Scratch::create()?;
    let campaign = rounds::Campaign {
        programs: &programs,
        pace,
        cores: &machine.cores,
        scratch: &scratch.0,
        without: &args.without,
    };
    let found = campaign.run(&scenarios)?;
    let run = output::Run {
        started_unix_s: started.as_secs(),
        finished_unix_s: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        is_quick: args.quick,
        pace,
        machine,
        versions: programs.versions,
        scenarios,
        found,
    };
    drop(congestion_control);
    output::write(&run, &folder)
}

/// The folder for results: the one that was asked for, or a fresh one outside any repository.
fn output_folder(wanted: Option<&Path>, started_unix_s: u64) -> anyhow::Result<PathBuf> {
    let folder = match wanted {
        Some(folder) => folder.to_path_buf(),
        None => std::env::temp_dir()
            .join(format!("corelane-bench-{started_unix_s}-{}", std::process::id())),
    };
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // Found out now rather than after half an hour.
    let probe = folder.join("results.json");
    std::fs::write(&probe, "").with_context(|| probe.display().to_string())?;
    Ok(folder)
}

/// A folder for forwarders' files, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> anyhow::Result<Scratch> {
        let name = format!("corelane-bench-scratch-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
