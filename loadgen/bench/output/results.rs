//! What a run found, arranged for judging and printing.

use std::collections::{BTreeMap, BTreeSet};

use super::statistics::{Summary, at, median, ratio, summary};
use crate::run::measurement::{Measurement, Metric};
use crate::run::plan::Scenario;

/// Looks things up in measurements.
#[derive(Debug, Clone, Copy)]
pub struct Results<'a> {
    measurements: &'a [Measurement],
}

/// The forwarders that corelane is compared with, by their plain arms.
pub const PEERS: [&str; 2] = ["haproxy", "nginx"];

impl<'a> Results<'a> {
    /// Over these.
    pub fn new(measurements: &'a [Measurement]) -> Results<'a> {
        Results { measurements }
    }

    fn of(self, scenario: Scenario, arm: &str) -> impl Iterator<Item = &'a Measurement> {
        let arm = arm.to_string();
        let measurements = self.measurements.iter();
        measurements.filter(move |m| m.scenario == scenario && m.arm == arm)
    }

    /// Arms of a scenario, in the order of the plan, that were measured.
    pub fn arms(self, scenario: Scenario) -> Vec<&'static str> {
        let measured: BTreeSet<&str> =
            self.measurements.iter().filter(|m| m.scenario == scenario).map(|m| m.arm).collect();
        let planned = scenario.arms().into_iter().map(|arm| arm.name);
        planned.filter(|name| measured.contains(name)).collect()
    }

    /// A number of an arm in each round.
    pub fn by_round(self, scenario: Scenario, arm: &str, metric: Metric) -> BTreeMap<u32, f64> {
        let of = self.of(scenario, arm);
        of.filter_map(|m| Some((m.round, *m.metrics.get(&metric)?))).collect()
    }

    /// The same over all rounds.
    pub fn summary(self, scenario: Scenario, arm: &str, metric: Metric) -> Option<Summary> {
        let values: Vec<f64> = self.by_round(scenario, arm, metric).into_values().collect();
        summary(&values)
    }

    /// One arm's number over another's.
    pub fn ratio(self, scenario: Scenario, arms: (&str, &str), metric: Metric) -> Option<Summary> {
        let of = self.by_round(scenario, arms.0, metric);
        ratio(&of, &self.by_round(scenario, arms.1, metric))
    }

    /// Errors of an arm over all rounds.
    pub fn errors(self, scenario: Scenario, arm: &str) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for (name, count) in self.of(scenario, arm).flat_map(|m| &m.errors) {
            *errors.entry(name.clone()).or_insert(0) += count;
        }
        errors
    }

    /// Number of measurements of an arm.
    pub fn rounds(self, scenario: Scenario, arm: &str) -> usize {
        self.of(scenario, arm).count()
    }

    /// A latency curve: at each percentile the median over the rounds.
    pub fn curve(self, scenario: Scenario, arm: &str) -> Vec<(f64, f64)> {
        let curves: Vec<&[(f64, f64)]> = self
            .of(scenario, arm)
            .map(|m| m.percentiles.as_slice())
            .filter(|curve| !curve.is_empty())
            .collect();
        let Some(longest) = curves.iter().max_by_key(|curve| curve.len()) else {
            return Vec::new();
        };
        let point = |percentile: f64| {
            let values: Vec<f64> =
                curves.iter().filter_map(|curve| at(curve, percentile)).collect();
            Some((percentile, median(&values)?))
        };
        longest.iter().filter_map(|(percentile, _)| point(*percentile)).collect()
    }

    /// All values of a number, of every arm and scenario.
    pub fn everywhere(self, metric: Metric) -> Vec<f64> {
        self.measurements.iter().filter_map(|m| m.metrics.get(&metric).copied()).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::peers::Peer;
    use crate::run::plan::Arm;

    /// A measurement with these numbers.
    pub fn measurement(
        (scenario, arm): (Scenario, &'static str),
        round: u32,
        metrics: &[(Metric, f64)],
    ) -> Measurement {
        Measurement {
            scenario,
            arm,
            round,
            turn: 0,
            metrics: metrics.iter().copied().collect(),
            errors: BTreeMap::new(),
            percentiles: vec![(0.0, 10.0), (50.0, 20.0), (99.0, 50.0), (99.9, 90.0)],
            time_wait_sockets: Some(0),
            load: serde_json::Value::Null,
        }
    }

    /// Three rounds of the whole matrix, where corelane is `factor` times as costly and as fast as
    /// the peers.
    pub fn matrix(factor: f64) -> Vec<Measurement> {
        let mut all = Vec::new();
        for scenario in Scenario::ALL {
            for (Arm { name, peer, .. }, round) in
                scenario.arms().into_iter().flat_map(|arm| (0..3).map(move |round| (arm, round)))
            {
                let factor = if peer == Peer::Corelane { factor } else { 1.0 };
                let metrics: Vec<(Metric, f64)> = Metric::ALL
                    .into_iter()
                    .map(|metric| match metric {
                        Metric::StealPercent | Metric::OthersPercent => (metric, 0.1),
                        Metric::Rate | Metric::MegabytesPerSecond => (metric, 1_000.0 / factor),
                        _ => (metric, 1_000.0 * factor),
                    })
                    .collect();
                all.push(measurement((scenario, name), round, &metrics));
            }
        }
        all
    }

    #[test]
    fn numbers_are_found_by_scenario_arm_and_metric() {
        let all = matrix(0.5);
        let results = Results::new(&all);
        let scenario = Scenario::MessagesOpen;
        assert_eq!(
            results.arms(scenario),
            ["direct", "corelane", "corelane-spin", "haproxy", "nginx"]
        );
        assert_eq!(results.summary(scenario, "corelane", Metric::P50Us).unwrap().median, 500.0);
        assert_eq!(results.summary(scenario, "nobody", Metric::P50Us), None);
        let ratio = results.ratio(scenario, ("corelane", "nginx"), Metric::P50Us).unwrap();
        assert_eq!((ratio.median, ratio.rounds), (0.5, 3));
    }

    #[test]
    fn curves_are_medians_of_rounds() {
        let place = (Scenario::MessagesOpen, "nginx");
        let mut all: Vec<_> = (0..3).map(|round| measurement(place, round, &[])).collect();
        all[0].percentiles = vec![(0.0, 1_000.0), (99.9, 1_000.0)];
        let curve = Results::new(&all).curve(place.0, place.1);
        assert_eq!(curve, [(0.0, 10.0), (50.0, 20.0), (99.0, 50.0), (99.9, 90.0)]);
        assert!(Results::new(&all).curve(place.0, "haproxy").is_empty());
    }
}
