//! One turn: a fresh forwarder, a fresh load, one measurement.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::cgroup::{MemoryGroup, resident_bytes};
use super::child::{Running, Start, family, settle};
use super::machine::{Ports, is_listening, time_wait_sockets};
use super::measurement::{LoadLine, Measurement, Metric};
use super::plan::{Arm, Pace, SWAP_BACKENDS, Scenario, Tweak};
use super::rounds::Campaign;
use crate::peers::{Forwarder, NameServer, Setup};

/// Where a turn stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// What is asked.
    pub scenario: Scenario,
    /// Who is asked.
    pub arm: Arm,
    /// Which round, from 0.
    pub round: u32,
    /// Which turn in its round, from 0.
    pub number: usize,
}

/// A turn, ready to be taken.
pub struct Turn {
    place: Place,
    setup: Setup,
    forwarder: Option<Forwarder>,
    name_server: Option<NameServer>,
    pace: Pace,
    load_cores: Vec<usize>,
    /// What the load listens on: the backends, or one wildcard for all of them.
    echo: Vec<SocketAddr>,
    cores_of_machine: usize,
}

/// What a turn left.
pub struct Done {
    /// The numbers.
    pub measurement: Measurement,
    /// The forwarder's configuration, if there was a forwarder.
    pub config: Option<String>,
}

/// For programs to start and to finish, beyond the time they measure.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between the last login and the look at memory: buffers of logins are given back by then.
const MEMORY_SETTLE: Duration = Duration::from_millis(1_500);
/// After the first sight of the listener: every thread and worker is there by then.
const START_SETTLE: Duration = Duration::from_millis(150);
/// Backend addresses, each with its own ephemeral ports.
const BACKENDS: u32 = 8;

impl Turn {
    /// Chooses addresses and cores and writes the configuration.
    pub fn prepare(
        campaign: &Campaign<'_>,
        place: Place,
        ports: &mut Ports,
    ) -> anyhow::Result<Turn> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let backend_port = ports.take()?;
        let table = match place.arm.tweak {
            Tweak::Backends(count) => Some(count),
            Tweak::Swaps(_) => Some(SWAP_BACKENDS),
            _ => None,
        };
        let (backends, echo) = match table {
            Some(count) => {
                let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
                let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, backend_port));
                (addresses(first, count, backend_port), vec![wildcard])
            }
            None => {
                let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
                let backends = addresses(first, BACKENDS, backend_port);
                (backends.clone(), backends)
            }
        };
        let first = *campaign.cores.first().context("no cores")?;
        let second = campaign.cores.get(1).copied().unwrap_or(first);
        let forwarder_cores = match place.arm.tweak {
            Tweak::TwoShards => vec![first, second],
            _ => vec![first],
        };
        let load_core = if place.scenario.is_same_core() { first } else { second };
        let setup = Setup {
            folder: campaign.scratch.to_path_buf(),
            listen: local(ports.take()?),
            admin: local(ports.take()?),
            name_server: local(ports.take()?),
            backends,
            cores: forwarder_cores,
            connections_max: campaign.pace.connections(place.scenario, place.arm.tweak),
            tweak: place.arm.tweak,
        };
        let forwarder = campaign.programs.forwarder(place.arm.peer, &setup)?;
        let name_server = campaign.programs.name_server(&setup);
        Ok(Turn {
            place,
            setup,
            forwarder,
            name_server,
            pace: campaign.pace,
            load_cores: vec![load_core],
            echo,
            cores_of_machine: campaign.cores.len(),
        })
    }

    /// Takes it.
    pub fn take(self) -> anyhow::Result<Done> {
        if self.place.scenario == Scenario::Idle {
            return self.take_memory();
        }
        let _name_server = self.start_name_server()?;
        let running = self.start_forwarder(None)?;
        let mut load = self.start_load(running.as_ref())?;
        let scenario = self.place.scenario;
        let measured =
            Duration::from_secs_f64(self.pace.warmup(scenario) + self.pace.window(scenario));
        let deadline = Instant::now() + DEADLINE + measured;
        let line =
            load.output_line(deadline)?.with_context(|| format!("no result: {}", load.said()));
        let line = line.map_err(|error| match &running {
            Some(running) => error.context(format!("the forwarder said: {}", running.said())),
            None => error,
        })?;
        self.finish(&line, BTreeMap::new())
    }

    /// Bytes per silent device: before and after they have come.
    fn take_memory(self) -> anyhow::Result<Done> {
        let name = format!("corelane-bench-{}", std::process::id());
        let group = match MemoryGroup::create(&name) {
            Ok(group) => Some(group),
            Err(error) => {
                eprintln!("corelane-bench: no memory cgroup, resident memory only: {error:#}");
                None
            }
        };
        let usage = || group.as_ref().map(MemoryGroup::usage_bytes).transpose();
        let running = self.start_forwarder(group.as_ref())?.context("memory of no forwarder")?;
        settle(MEMORY_SETTLE)?;
        let family = running.family();
        let (charged_before, resident_before) = (usage()?, resident_bytes(&family)?);
        let mut load = self.start_load(Some(&running))?;
        let deadline = Instant::now() + DEADLINE;
        load.error_line("ready", deadline)?;
        settle(MEMORY_SETTLE)?;
        let (charged, resident) = (usage()?, resident_bytes(&family)?);
        drop(load.stdin.take());
        let line = load.output_line(deadline)?.with_context(|| load.said())?;
        let parsed: LoadLine = serde_json::from_str(&line).context(line.clone())?;
        let devices = parsed.completed_or(self.pace.idle(super::plan::DEVICES_IDLE));
        let per_device = |after: u64, before: u64| (after as f64 - before as f64) / devices;
        let mut metrics = BTreeMap::new();
        metrics.insert(Metric::ResidentBytes, per_device(resident, resident_before));
        if let (Some(after), Some(before)) = (charged, charged_before) {
            metrics.insert(Metric::MemoryBytes, per_device(after, before));
        }
        // The cgroup can go once nobody is in it.
        drop(running);
        self.finish(&line, metrics)
    }

    fn finish(self, line: &str, own: BTreeMap<Metric, f64>) -> anyhow::Result<Done> {
        let load: Value = serde_json::from_str(line).with_context(|| line.to_string())?;
        let parsed: LoadLine = serde_json::from_str(line).with_context(|| line.to_string())?;
        let mut metrics = match self.place.scenario {
            // Its time is mostly ours.
            Scenario::Idle => BTreeMap::new(),
            _ => parsed.metrics(self.cores_of_machine),
        };
        metrics.extend(own);
        Ok(Done {
            measurement: Measurement {
                scenario: self.place.scenario,
                arm: self.place.arm.name,
                round: self.place.round,
                turn: self.place.number,
                metrics,
                errors: parsed.errors(),
                percentiles: parsed.percentiles(),
                time_wait_sockets: time_wait_sockets(),
                load,
            },
            config: self.forwarder.map(|forwarder| forwarder.config),
        })
    }

    fn start_forwarder(&self, group: Option<&MemoryGroup>) -> anyhow::Result<Option<Running>> {
        let Some(forwarder) = &self.forwarder else { return Ok(None) };
        save(&forwarder.file, &forwarder.config)?;
        for (file, text) in &forwarder.more_files {
            save(file, text)?;
        }
        let start = Start {
            program: &forwarder.program,
            arguments: &forwarder.arguments,
            cores: &self.setup.cores,
            cgroup: group.map(MemoryGroup::folder),
            death: forwarder.death,
            log: Some(self.log_file()),
        };
        let mut running = start.spawn()?;
        let (id, port) = (running.id(), self.setup.listen.port());
        running.wait_until("listening", Instant::now() + DEADLINE, || {
            Ok(is_listening(port)? && family(id).len() >= forwarder.processes)
        })?;
        settle(START_SETTLE)?;
        Ok(Some(running))
    }

    fn start_name_server(&self) -> anyhow::Result<Option<Running>> {
        let Some(name_server) = &self.name_server else { return Ok(None) };
        save(&name_server.file, &name_server.config)?;
        let start = Start {
            program: &name_server.program,
            arguments: &name_server.arguments,
            cores: &self.load_cores,
            cgroup: None,
            death: Signal::SIGKILL,
            log: Some(self.setup.folder.join("name-server.log")),
        };
        let mut running = start.spawn()?;
        let port = self.setup.name_server.port();
        running.wait_until("answering", Instant::now() + DEADLINE, || is_listening(port))?;
        Ok(Some(running))
    }

    fn log_file(&self) -> PathBuf {
        self.setup.folder.join(format!("{}.log", self.place.arm.peer.name()))
    }

    fn start_load(&self, forwarder: Option<&Running>) -> anyhow::Result<Running> {
        let mut arguments = vec!["load".to_string()];
        arguments.extend(self.pace.load_arguments(self.place.scenario, self.place.arm.tweak));
        let list = |addresses: &[SocketAddr]| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        arguments.extend(["--backends".into(), list(&self.echo)]);
        match forwarder {
            Some(running) => {
                let family: Vec<String> =
                    running.family().iter().map(ToString::to_string).collect();
                arguments.extend(["--target".into(), self.setup.listen.to_string()]);
                arguments.extend(["--measure-pid".into(), family.join(",")]);
            }
            None => arguments.push("--direct".into()),
        }
        let start = Start {
            program: &std::env::current_exe()?,
            arguments: &arguments,
            cores: &self.load_cores,
            cgroup: None,
            death: Signal::SIGKILL,
            log: None,
        };
        start.spawn()
    }
}

fn save(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// So many addresses from `first` on, the ones that end in 0 and 255 left out.
fn addresses(first: u32, count: u32, port: u16) -> Vec<SocketAddr> {
    let all = (first..).filter(|address| !matches!(address & 0xff, 0 | 255));
    all.take(count as usize).map(|ip| SocketAddr::from((Ipv4Addr::from(ip), port))).collect()
}
