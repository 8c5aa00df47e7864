//! What has to hold, and whether it did.

use std::cmp::Ordering;

use serde::Serialize;

use super::results::{PEERS, Results};
use super::statistics::Summary;
use crate::run::measurement::Metric;
use crate::run::plan::Scenario;

/// One thing that has to hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Number of the target.
    pub target: u8,
    /// What is compared, for readers.
    pub what: String,
    /// The number that counts: where there are two peers, against the better one.
    pub value: Option<f64>,
    /// Which peer that was.
    pub against: Option<&'static str>,
    /// Lowest and highest of the rounds.
    pub range: Option<(f64, f64)>,
    /// Which side of the bound is good.
    pub relation: Relation,
    /// The bound.
    pub bound: f64,
    /// How it came out.
    pub state: State,
}

/// Which side of a bound is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The bound or less.
    AtMost,
    /// The bound or more.
    AtLeast,
}

/// How it came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It holds.
    Holds,
    /// It does not.
    Missed,
    /// Nobody asked, or nobody could answer.
    NotMeasured,
    /// Not a target, and worth knowing beside one.
    Shown,
}

impl Relation {
    /// As a sign.
    pub fn sign(self) -> &'static str {
        match self {
            Relation::AtMost => "≤",
            Relation::AtLeast => "≥",
        }
    }

    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Relation::AtMost => value <= bound,
            Relation::AtLeast => value >= bound,
        }
    }
}

impl State {
    /// For readers.
    pub fn name(self) -> &'static str {
        match self {
            State::Holds => "holds",
            State::Missed => "missed",
            State::NotMeasured => "not measured",
            State::Shown => "shown",
        }
    }
}

/// A comparison of one arm of corelane with the better peer.
struct Against {
    target: u8,
    what: &'static str,
    scenario: Scenario,
    arm: &'static str,
    metric: Metric,
    relation: Relation,
    bound: f64,
}

const fn against(target: u8, what: &'static str, scenario: Scenario, metric: Metric) -> Against {
    let relation = match metric {
        Metric::Rate | Metric::MegabytesPerSecond => Relation::AtLeast,
        _ => Relation::AtMost,
    };
    Against { target, what, scenario, arm: "corelane", metric, relation, bound: 1.0 }
}

impl Against {
    const fn bound(mut self, bound: f64) -> Against {
        self.bound = bound;
        self
    }

    const fn arm(mut self, arm: &'static str) -> Against {
        self.arm = arm;
        self
    }
}

const COMPARISONS: [Against; 19] = [
    against(1, "CPU per round trip, same core", Scenario::MessagesSameCore, Metric::CpuUs)
        .bound(0.75),
    against(1, "CPU per round trip, other core", Scenario::MessagesOtherCore, Metric::CpuUs)
        .bound(0.90),
    against(2, "p50 at 20,000 messages/s", Scenario::MessagesOpen, Metric::P50Us),
    against(2, "p99 at 20,000 messages/s", Scenario::MessagesOpen, Metric::P99Us).bound(0.8),
    against(2, "p99.9 at 20,000 messages/s", Scenario::MessagesOpen, Metric::P999Us),
    against(2, "p50, core of its own (spin)", Scenario::MessagesOpen, Metric::P50Us)
        .arm("corelane-spin"),
    against(2, "p99, core of its own (spin)", Scenario::MessagesOpen, Metric::P99Us)
        .bound(0.8)
        .arm("corelane-spin"),
    against(2, "p99.9, core of its own (spin)", Scenario::MessagesOpen, Metric::P999Us)
        .arm("corelane-spin"),
    against(3, "CPU per connection", Scenario::Connects, Metric::CpuUs).bound(0.85),
    against(3, "connections per second", Scenario::Connects, Metric::Rate),
    against(3, "first echo p50, warm", Scenario::ConnectsWarm, Metric::FirstEchoP50Us)
        .bound(0.8)
        .arm("corelane-warm"),
    against(4, "memory per idle device", Scenario::Idle, Metric::MemoryBytes).bound(0.72),
    against(5, "bulk, other core", Scenario::BulkOtherCore, Metric::MegabytesPerSecond).bound(1.2),
    against(5, "bulk, same core", Scenario::BulkSameCore, Metric::MegabytesPerSecond).bound(1.6),
    against(5, "CPU per MB, same core", Scenario::BulkSameCore, Metric::CpuUs).bound(0.5),
    against(7, "CPU per request by a table, other core", Scenario::RequestsTableOtherCore, CPU)
        .bound(REQUEST_MAX),
    against(7, "CPU per request by a table, same core", Scenario::RequestsTableSameCore, CPU)
        .bound(REQUEST_MAX),
    against(7, "CPU per request by DNS, other core", Scenario::RequestsLookupOtherCore, CPU)
        .bound(REQUEST_MAX),
    against(7, "CPU per request by DNS, same core", Scenario::RequestsLookupSameCore, CPU)
        .bound(REQUEST_MAX),
];

const CPU: Metric = Metric::CpuUs;
/// A request's cost beside a peer that finds its way in the same manner.
const REQUEST_MAX: f64 = 0.8;
/// Messages of WebSocket cost what others do.
const WEBSOCKET_MAX: f64 = 1.05;

/// Resident bytes of an idle device at most.
const RESIDENT_BYTES_MAX: f64 = 700.0;
/// "Does not grow": what two measurements of the same thing differ by on a machine that is not too
/// noisy to compare.
const GROWTH_MAX: f64 = 1.10;

/// Two arms whose cost per message has to be the same.
struct Alike {
    target: u8,
    what: &'static str,
    scenario: Scenario,
    /// The second over the first.
    arms: (&'static str, &'static str),
    bound: f64,
}

const fn growth(
    what: &'static str,
    scenario: Scenario,
    arms: (&'static str, &'static str),
) -> Alike {
    Alike { target: 6, what, scenario, arms, bound: GROWTH_MAX }
}

const fn websocket(what: &'static str, scenario: Scenario) -> Alike {
    let arms = ("corelane", "websocket");
    Alike { target: 8, what, scenario, arms, bound: WEBSOCKET_MAX }
}

const ALIKE: [Alike; 6] = [
    growth(
        "cost per message, 100 to 9,000 idle devices",
        Scenario::GrowthIdle,
        ("100 idle", "9,000 idle"),
    ),
    growth("cost per message, 1 to 2 shards", Scenario::GrowthShards, ("corelane", "two shards")),
    growth(
        "cost per message, 3 to 3,000 backends",
        Scenario::GrowthBackends,
        ("3 backends", "3,000 backends"),
    ),
    growth(
        "cost per message, with table swaps once a second",
        Scenario::GrowthSwaps,
        ("no swaps", "a swap per second"),
    ),
    websocket("WebSocket ÷ plain relay, other core", Scenario::WebsocketOtherCore),
    websocket("WebSocket ÷ plain relay, same core", Scenario::WebsocketSameCore),
];

/// Every target, judged.
pub fn judge(results: Results<'_>) -> Vec<Check> {
    let mut checks: Vec<Check> =
        COMPARISONS.iter().map(|comparison| compare(results, comparison)).collect();
    checks.extend(COMPARISONS.iter().filter_map(|c| compare_with_tuned(results, c)));
    checks.push(errors(results));
    checks.push(resident(results));
    for Alike { target, what, scenario, arms: (first, second), bound } in ALIKE {
        let ratio = results.ratio(scenario, (second, first), Metric::CpuUs);
        checks.push(judged(target, what.into(), ratio, (Relation::AtMost, bound)));
    }
    checks.sort_by_key(|check| check.target);
    checks
}

fn judged(
    target: u8,
    what: String,
    value: Option<Summary>,
    (relation, bound): (Relation, f64),
) -> Check {
    let state = match value {
        None => State::NotMeasured,
        Some(value) if relation.holds(value.median, bound) => State::Holds,
        Some(_) => State::Missed,
    };
    Check {
        target,
        what,
        value: value.map(|value| value.median),
        against: None,
        range: value.map(|value| (value.min, value.max)),
        relation,
        bound,
        state,
    }
}

/// Against each peer as it is set up for everything.
fn compare(results: Results<'_>, comparison: &Against) -> Check {
    // The targets of memory and of requests name their peers.
    let (peers, whose) = match comparison.scenario {
        Scenario::Idle => (&PEERS[..1], "HAProxy's"),
        Scenario::RequestsTableOtherCore | Scenario::RequestsTableSameCore => {
            (&PEERS[..1], "HAProxy's by a map file")
        }
        Scenario::RequestsLookupOtherCore | Scenario::RequestsLookupSameCore => {
            (&PEERS[1..], "nginx's by Lua")
        }
        _ => (&PEERS[..], "the better peer's"),
    };
    compare_with(results, comparison, (peers, whose))
}

/// Against peers that are set up for one scenario alone, which no target speaks of.
fn compare_with_tuned(results: Results<'_>, comparison: &Against) -> Option<Check> {
    let tuned: Vec<&'static str> = results
        .arms(comparison.scenario)
        .into_iter()
        .filter(|name| !PEERS.contains(name) && PEERS.iter().any(|peer| name.starts_with(peer)))
        .collect();
    let whose = match comparison.scenario {
        Scenario::RequestsLookupOtherCore | Scenario::RequestsLookupSameCore => {
            "nginx's with the configuration as it was published"
        }
        Scenario::RequestsTableOtherCore | Scenario::RequestsTableSameCore => {
            "nginx's by a `map` and no Lua"
        }
        _ => "the better peer's, tuned for this alone",
    };
    let mut check = compare_with(results, comparison, (&tuned, whose));
    check.state = State::Shown;
    check.value.is_some().then_some(check)
}

/// The ratio within rounds; the peer that is harder to beat counts.
fn compare_with(
    results: Results<'_>,
    comparison: &Against,
    (peers, whose): (&[&'static str], &str),
) -> Check {
    let Against { scenario, arm, metric, relation, .. } = *comparison;
    let harder = |a: f64, b: f64| match relation {
        Relation::AtMost => a.total_cmp(&b),
        Relation::AtLeast => b.total_cmp(&a),
    };
    let ratio = |peer: &&'static str| Some((*peer, results.ratio(scenario, (arm, peer), metric)?));
    let ratios = peers.iter().filter_map(ratio);
    let hardest: Option<(&'static str, Summary)> =
        ratios.max_by(|a, b| harder(a.1.median, b.1.median));
    let what = format!("{} ÷ {whose}", comparison.what);
    let value = hardest.map(|(_, ratio)| ratio);
    let mut check = judged(comparison.target, what, value, (relation, comparison.bound));
    check.against = hardest.map(|(name, _)| name);
    check
}

fn errors(results: Results<'_>) -> Check {
    let arms = ["corelane", "corelane-warm"];
    let scenarios = [Scenario::Connects, Scenario::ConnectsWarm];
    let places = || scenarios.iter().flat_map(|s| arms.iter().map(move |arm| (*s, *arm)));
    let measured = places().any(|(scenario, arm)| results.rounds(scenario, arm) > 0);
    let count: u64 =
        places().map(|(scenario, arm)| results.errors(scenario, arm).values().sum::<u64>()).sum();
    let value = measured.then(|| super::statistics::summary(&[count as f64])).flatten();
    judged(
        3,
        "failed connections, ports exhausted among them".into(),
        value,
        (Relation::AtMost, 0.0),
    )
}

fn resident(results: Results<'_>) -> Check {
    let value = results.summary(Scenario::Idle, "corelane", Metric::ResidentBytes);
    let bound = (Relation::AtMost, RESIDENT_BYTES_MAX);
    judged(4, "resident bytes per idle device".into(), value, bound)
}

/// Whether the machine was calm enough to compare anything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Noise {
    /// What was looked at, what it was, and what it may be; the worst first.
    pub sources: Vec<NoiseSource>,
    /// Whether one of them is over its bound.
    pub is_too_noisy: bool,
}

/// Something that shows noise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NoiseSource {
    /// What was looked at.
    pub what: String,
    /// What it was.
    pub value: f64,
    /// What it may be.
    pub bound: f64,
}

/// Half the rounds without a forwarder may be this far from their median: what does not agree with
/// itself compares with nobody.
const DIRECT_DEVIATION_MAX: f64 = 0.15;
/// Median share of the machine that the hypervisor may take, %.
const STEAL_PERCENT_MAX: f64 = 2.0;
/// Median share of the machine that programs outside the benchmark may take, %.
const OTHERS_PERCENT_MAX: f64 = 10.0;

/// Looks at what does not depend on any forwarder.
pub fn noise(results: Results<'_>) -> Noise {
    let mut sources = Vec::new();
    for scenario in Scenario::ALL {
        let metric = match scenario {
            Scenario::MessagesOpen | Scenario::ConnectsWarm => Metric::LoadCpuUs,
            Scenario::BulkOtherCore | Scenario::BulkSameCore => Metric::MegabytesPerSecond,
            _ => Metric::Rate,
        };
        if let Some(direct) = results.summary(scenario, "direct", metric) {
            let name = scenario.name();
            let spread = direct.spread * 100.0;
            sources.push(NoiseSource {
                what: format!(
                    "{name} without a forwarder: median deviation (spread {spread:.0} %)"
                ),
                value: direct.deviation,
                bound: DIRECT_DEVIATION_MAX,
            });
        }
    }
    let shares = [
        (Metric::StealPercent, "steal, % of the machine", STEAL_PERCENT_MAX),
        (Metric::OthersPercent, "other programs, % of the machine", OTHERS_PERCENT_MAX),
    ];
    for (metric, what, bound) in shares {
        if let Some(value) = super::statistics::median(&results.everywhere(metric)) {
            sources.push(NoiseSource { what: format!("{what}, median"), value, bound });
        }
    }
    let badness = |source: &NoiseSource| source.value / source.bound;
    sources.sort_by(|a, b| badness(b).partial_cmp(&badness(a)).unwrap_or(Ordering::Equal));
    let is_too_noisy = sources.iter().any(|source| source.value > source.bound);
    Noise { sources, is_too_noisy }
}

/// 3 the machine was too noisy to compare, 1 a target is missed, 0 what was measured holds.
pub fn exit_code(checks: &[Check], noise: &Noise) -> u8 {
    let is_missed = checks.iter().any(|check| check.state == State::Missed);
    match (noise.is_too_noisy, is_missed) {
        (true, _) => 3,
        (false, true) => 1,
        (false, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{matrix, measurement};
    use super::*;

    fn states(checks: &[Check]) -> (usize, usize, usize) {
        let count = |state| checks.iter().filter(|check| check.state == state).count();
        (count(State::Holds), count(State::Missed), count(State::NotMeasured))
    }

    #[test]
    fn half_the_cost_holds_everywhere() {
        let all = matrix(0.5);
        let checks = judge(Results::new(&all));
        assert_eq!(states(&checks), (27, 0, 0), "{checks:#?}");
        assert_eq!(exit_code(&checks, &noise(Results::new(&all))), 0);
    }

    #[test]
    fn equal_cost_misses_what_asks_for_more() {
        let all = matrix(1.0);
        let checks = judge(Results::new(&all));
        let missed: Vec<&str> = checks
            .iter()
            .filter(|check| check.state == State::Missed)
            .map(|check| check.what.as_str())
            .collect();
        // p50, p99.9 and the rate may be equal, and nothing grows.
        assert_eq!(missed.len(), 15, "{missed:#?}");
        assert_eq!(exit_code(&checks, &noise(Results::new(&all))), 1);
    }

    #[test]
    fn the_better_peer_counts_and_tuned_ones_are_shown() {
        let scenario = Scenario::BulkOtherCore;
        let speeds = [
            ("corelane", 1_500.0),
            ("haproxy", 1_000.0),
            ("haproxy-splice", 1_400.0),
            ("nginx", 1_200.0),
        ];
        let all: Vec<_> = speeds
            .into_iter()
            .map(|(arm, speed)| {
                measurement((scenario, arm), 0, &[(Metric::MegabytesPerSecond, speed)])
            })
            .collect();
        let checks = judge(Results::new(&all));
        let bulk: Vec<&Check> = checks.iter().filter(|check| check.value.is_some()).collect();
        let seen: Vec<_> = bulk.iter().map(|c| (c.against, c.value.unwrap(), c.state)).collect();
        let tuned = 1_500.0 / 1_400.0;
        assert_eq!(
            seen,
            [(Some("nginx"), 1.25, State::Holds), (Some("haproxy-splice"), tuned, State::Shown),]
        );
    }

    #[test]
    fn errors_of_connections_count_in_any_number() {
        let mut all = matrix(0.5);
        let failed = all
            .iter_mut()
            .find(|m| m.scenario == Scenario::Connects && m.arm == "corelane")
            .unwrap();
        failed.errors.insert("refused".into(), 1);
        let checks = judge(Results::new(&all));
        assert_eq!(states(&checks), (26, 1, 0));
    }

    #[test]
    fn a_noisy_machine_is_not_compared_on() {
        let mut all = matrix(0.5);
        for m in all.iter_mut().filter(|m| m.arm == "direct") {
            *m.metrics.get_mut(&Metric::Rate).unwrap() *= f64::from(1 + m.round);
        }
        let results = Results::new(&all);
        let noise = noise(results);
        assert!(noise.is_too_noisy && noise.sources[0].what.contains("without"), "{noise:#?}");
        assert_eq!(exit_code(&judge(results), &noise), 3);
    }

    #[test]
    fn nothing_measured_is_nothing_missed() {
        let checks = judge(Results::new(&[]));
        assert_eq!(states(&checks).2, checks.len());
        assert_eq!(exit_code(&checks, &noise(Results::new(&[]))), 0);
    }
}
