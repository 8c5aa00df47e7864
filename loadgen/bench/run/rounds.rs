//! Rounds: every scenario in each of them, every arm once in each scenario, in rotated order.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use super::machine::Ports;
use super::measurement::Measurement;
use super::plan::{Arm, Pace, Scenario, rotated};
use super::turn::{Place, Turn};
use crate::peers::{Peer, Programs};

/// What every turn needs.
pub struct Campaign<'a> {
    /// What was found on this machine.
    pub programs: &'a Programs,
    /// How long.
    pub pace: Pace,
    /// Cores that may be used.
    pub cores: &'a [usize],
    /// Folder for forwarders' files.
    pub scratch: &'a Path,
    /// Names of peers that are left out.
    pub without: &'a [String],
}

/// What a campaign found.
#[derive(Debug, Default)]
pub struct Found {
    /// Every turn.
    pub measurements: Vec<Measurement>,
    /// Text of the first configuration of each scenario and arm.
    pub configs: BTreeMap<String, String>,
    /// Scenario and arm, and why it is absent.
    pub absent: BTreeMap<String, String>,
}

impl Campaign<'_> {
    /// Runs it.
    pub fn run(&self, scenarios: &[Scenario]) -> anyhow::Result<Found> {
        let mut found = Found::default();
        let mut ports = Ports::new();
        let mut matrix = Vec::new();
        for scenario in scenarios {
            matrix.push((*scenario, self.present(*scenario, &mut found.absent)));
        }
        let turns: usize = matrix.iter().map(|(_, arms)| arms.len()).sum();
        eprintln!(
            "corelane-bench: {} rounds of {turns} measurements of {} s",
            self.pace.rounds, self.pace.seconds
        );
        for round in 0..self.pace.rounds {
            for (scenario, arms) in matrix.iter().filter(|(s, _)| self.pace.has(*s, round)) {
                for (number, arm) in rotated(arms, round).into_iter().enumerate() {
                    let place = Place { scenario: *scenario, arm, round, number };
                    self.take_turn(place, &mut ports, &mut found)
                        .with_context(|| format!("{} {}", scenario.name(), arm.name))?;
                }
            }
        }
        Ok(found)
    }

    /// The arms of a scenario that this machine has; notes the others.
    fn present(&self, scenario: Scenario, absent: &mut BTreeMap<String, String>) -> Vec<Arm> {
        let mut arms = scenario.arms();
        arms.retain(|arm| {
            let reason = self.reason_against(scenario, arm);
            if let Some(reason) = &reason {
                eprintln!("corelane-bench: {} without {}: {reason}", scenario.name(), arm.name);
                absent.insert(format!("{} {}", scenario.name(), arm.name), reason.clone());
            }
            reason.is_none()
        });
        arms
    }

    fn reason_against(&self, scenario: Scenario, arm: &Arm) -> Option<String> {
        if arm.peer != Peer::Corelane && self.without.iter().any(|name| name == arm.peer.name()) {
            return Some("left out".into());
        }
        let cores_needed = if scenario.is_same_core() { 1 } else { 2 };
        if self.cores.len() < cores_needed {
            return Some(format!("needs {cores_needed} cores"));
        }
        self.programs.absence(arm.peer, arm.tweak)
    }

    fn take_turn(&self, place: Place, ports: &mut Ports, found: &mut Found) -> anyhow::Result<()> {
        let turn = Turn::prepare(self, place, ports)?;
        let done = turn.take()?;
        let Place { scenario, arm, round, .. } = place;
        eprintln!(
            "round {} {:<20} {:<15} {}",
            round + 1,
            scenario.name(),
            arm.name,
            crate::output::one_line(&done.measurement)
        );
        if let Some(config) = done.config {
            found.configs.entry(format!("{} {}", scenario.name(), arm.name)).or_insert(config);
        }
        found.measurements.push(done.measurement);
        Ok(())
    }
}
