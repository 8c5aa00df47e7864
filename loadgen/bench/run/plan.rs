//! The matrix: what is measured, of whom, and with which load.

use std::time::Duration;

use serde::Serialize;

use crate::peers::{Feature, Peer};

/// One question that everybody is asked in the same words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Round trips, closed loop; forwarder and load on different cores.
    MessagesOtherCore,
    /// The same with everything on one core.
    MessagesSameCore,
    /// Latency at a fixed rate over many devices.
    MessagesOpen,
    /// Connect, login, echo, reset, as fast as it goes.
    Connects,
    /// The same at a moderate rate: time to the first echoed byte.
    ConnectsWarm,
    /// Memory of silent devices.
    Idle,
    /// Bulk on another core than the load's.
    BulkOtherCore,
    /// Bulk with everything on one core.
    BulkSameCore,
    /// Requests to the backend that a table gives for a header; forwarder and load on different
    /// cores.
    RequestsTableOtherCore,
    /// The same with everything on one core.
    RequestsTableSameCore,
    /// Requests to the address that DNS gives for a header, remembered for a minute; forwarder and
    /// load on different cores.
    RequestsLookupOtherCore,
    /// The same with everything on one core.
    RequestsLookupSameCore,
    /// Messages of WebSocket beside messages of devices; forwarder and load on different cores.
    WebsocketOtherCore,
    /// The same with everything on one core.
    WebsocketSameCore,
    /// Cost of a message beside few and many silent devices.
    GrowthIdle,
    /// Cost of a message with one and two shards.
    GrowthShards,
    /// Cost of a message with a small and a large table.
    GrowthBackends,
    /// Cost of a message while tables are swapped, and while none is.
    GrowthSwaps,
}

/// Who answers a question, and how set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arm {
    /// Name in reports.
    pub name: &'static str,
    /// The program.
    pub peer: Peer,
    /// What is special about it.
    pub tweak: Tweak,
}

/// What an arm does not share with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tweak {
    /// Nothing.
    None,
    /// corelane spins before it sleeps.
    Spin,
    /// corelane keeps this many connections per backend ready.
    Warm(u32),
    /// HAProxy may splice(2).
    Splice,
    /// HTTP: a header and a table of [`TABLE_PLACES`] values say where a request goes.
    Table,
    /// HTTP: a header and DNS say it, with [`LOOKUP_PLACES`] names, each remembered for a minute.
    Lookup,
    /// The same with nginx's configuration as it was published.
    Published,
    /// HTTP: every connection becomes one of WebSocket.
    Websocket,
    /// nginx has buffers of 64 KiB, where its own are of 16.
    LargeBuffers,
    /// This many silent devices beside the load.
    Idle(u32),
    /// Two shards on two cores.
    TwoShards,
    /// This many backends in the table.
    Backends(u32),
    /// corelane within `corelane-bench gateway`, with a table of [`SWAP_BACKENDS`] backends whose
    /// successor is published this often, or never.
    Swaps(Option<Duration>),
}

const fn arm(name: &'static str, peer: Peer, tweak: Tweak) -> Arm {
    Arm { name, peer, tweak }
}

const DIRECT: Arm = arm("direct", Peer::Direct, Tweak::None);
const CORELANE: Arm = arm("corelane", Peer::Corelane, Tweak::None);
const HAPROXY: Arm = arm("haproxy", Peer::Haproxy, Tweak::None);
const NGINX: Arm = arm("nginx", Peer::Nginx, Tweak::None);
const SPIN: Arm = arm("corelane-spin", Peer::Corelane, Tweak::Spin);
const WARM: Arm = arm("corelane-warm", Peer::Corelane, Tweak::Warm(64));
const NGINX_64K: Arm = arm("nginx-64k", Peer::Nginx, Tweak::LargeBuffers);
const WEBSOCKET: Arm = arm("websocket", Peer::Corelane, Tweak::Websocket);
const SPLICE: Arm = arm("haproxy-splice", Peer::Haproxy, Tweak::Splice);

impl Scenario {
    /// All, in the order of the report.
    pub const ALL: [Scenario; 18] = [
        Scenario::MessagesOtherCore,
        Scenario::MessagesSameCore,
        Scenario::MessagesOpen,
        Scenario::Connects,
        Scenario::ConnectsWarm,
        Scenario::Idle,
        Scenario::BulkOtherCore,
        Scenario::BulkSameCore,
        Scenario::RequestsTableOtherCore,
        Scenario::RequestsTableSameCore,
        Scenario::RequestsLookupOtherCore,
        Scenario::RequestsLookupSameCore,
        Scenario::WebsocketOtherCore,
        Scenario::WebsocketSameCore,
        Scenario::GrowthIdle,
        Scenario::GrowthShards,
        Scenario::GrowthBackends,
        Scenario::GrowthSwaps,
    ];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::MessagesOtherCore => "messages-other-core",
            Scenario::MessagesSameCore => "messages-same-core",
            Scenario::MessagesOpen => "messages-open",
            Scenario::Connects => "connects",
            Scenario::ConnectsWarm => "connects-warm",
            Scenario::Idle => "idle",
            Scenario::BulkOtherCore => "bulk-other-core",
            Scenario::BulkSameCore => "bulk-same-core",
            Scenario::RequestsTableOtherCore => "requests-table-other-core",
            Scenario::RequestsTableSameCore => "requests-table-same-core",
            Scenario::RequestsLookupOtherCore => "requests-lookup-other-core",
            Scenario::RequestsLookupSameCore => "requests-lookup-same-core",
            Scenario::WebsocketOtherCore => "websocket-other-core",
            Scenario::WebsocketSameCore => "websocket-same-core",
            Scenario::GrowthIdle => "growth-idle",
            Scenario::GrowthShards => "growth-shards",
            Scenario::GrowthBackends => "growth-backends",
            Scenario::GrowthSwaps => "growth-swaps",
        }
    }

    /// What is asked, for readers.
    pub fn question(self) -> &'static str {
        match self {
            Scenario::MessagesOtherCore => {
                "64 connections, 128-byte messages echoed, closed loop; forwarder on one core, \
                 devices and backends on another"
            }
            Scenario::MessagesSameCore => {
                "64 connections, 128-byte messages echoed, closed loop; everything on one core"
            }
            Scenario::MessagesOpen => {
                "20,000 messages per second over 2,000 devices, latency from the intended send \
                 time; forwarder on one core, devices and backends on another, which never sleeps"
            }
            Scenario::Connects => {
                "connect, login frame, echo, reset, 64 at a time, as fast as it goes; forwarder \
                 on one core, devices and backends on another"
            }
            Scenario::ConnectsWarm => {
                "connect, login frame, echo, reset, one after the other at a fixed rate: from \
                 connect to the first echoed byte"
            }
            Scenario::Idle => {
                "devices that have logged in and are silent: bytes each in the forwarder's memory \
                 cgroup, kernel memory included, and its resident part"
            }
            Scenario::BulkOtherCore => {
                "4 connections echoing as fast as they can (bytes counted once); forwarder on one \
                 core, devices and backends on another"
            }
            Scenario::BulkSameCore => {
                "4 connections echoing as fast as they can (bytes counted once); everything on \
                 one core"
            }
            Scenario::RequestsTableOtherCore => {
                "64 connections, GET, small answer, closed loop; a table of 8 values of a header \
                 says which backend; forwarder on one core, clients and backends on another"
            }
            Scenario::RequestsTableSameCore => {
                "64 connections, GET, small answer, closed loop; a table of 8 values of a header \
                 says which backend; everything on one core"
            }
            Scenario::RequestsLookupOtherCore => {
                "64 connections, POST of 32 bytes, small answer, closed loop; DNS says which \
                 backend, by one of 64 names that a header makes, remembered for a minute; \
                 forwarder on one core, clients and backends on another"
            }
            Scenario::RequestsLookupSameCore => {
                "64 connections, POST of 32 bytes, small answer, closed loop; DNS says which \
                 backend, by one of 64 names that a header makes, remembered for a minute; \
                 everything on one core"
            }
            Scenario::WebsocketOtherCore | Scenario::WebsocketSameCore => {
                "messages-other-core or messages-same-core again, and the same with messages of \
                 WebSocket through an http listener"
            }
            Scenario::GrowthIdle => {
                "messages-other-core again, beside silent devices: few against many"
            }
            Scenario::GrowthShards => {
                "messages-other-core again: one shard, and two, the second on the load's core"
            }
            Scenario::GrowthBackends => {
                "messages-other-core again: a table of 3 backends, and one of 3,000"
            }
            Scenario::GrowthSwaps => {
                "messages-other-core again: a table of 3,000 backends that stays, and one that a \
                 new version replaces once a second"
            }
        }
    }

    /// Who is asked.
    pub fn arms(self) -> Vec<Arm> {
        let corelane = |name, tweak| arm(name, Peer::Corelane, tweak);
        match self {
            Scenario::MessagesOtherCore | Scenario::MessagesSameCore | Scenario::Connects => {
                vec![DIRECT, CORELANE, HAPROXY, NGINX]
            }
            Scenario::MessagesOpen => vec![DIRECT, CORELANE, SPIN, HAPROXY, NGINX],
            Scenario::ConnectsWarm => vec![DIRECT, CORELANE, WARM, HAPROXY, NGINX],
            Scenario::Idle => vec![CORELANE, HAPROXY, NGINX],
            Scenario::BulkOtherCore | Scenario::BulkSameCore => {
                vec![DIRECT, CORELANE, HAPROXY, SPLICE, NGINX, NGINX_64K]
            }
            Scenario::RequestsTableOtherCore | Scenario::RequestsTableSameCore => vec![
                DIRECT,
                corelane("corelane", Tweak::Table),
                arm("haproxy", Peer::Haproxy, Tweak::Table),
                arm("nginx-map", Peer::Nginx, Tweak::Table),
            ],
            Scenario::RequestsLookupOtherCore | Scenario::RequestsLookupSameCore => vec![
                corelane("corelane", Tweak::Lookup),
                arm("nginx", Peer::Nginx, Tweak::Lookup),
                arm("nginx-published", Peer::Nginx, Tweak::Published),
            ],
            Scenario::WebsocketOtherCore | Scenario::WebsocketSameCore => {
                vec![CORELANE, WEBSOCKET]
            }
            Scenario::GrowthIdle => vec![
                corelane("100 idle", Tweak::Idle(100)),
                corelane("9,000 idle", Tweak::Idle(DEVICES_IDLE)),
            ],
            Scenario::GrowthShards => {
                vec![CORELANE, corelane("two shards", Tweak::TwoShards)]
            }
            Scenario::GrowthBackends => vec![
                corelane("3 backends", Tweak::Backends(3)),
                corelane("3,000 backends", Tweak::Backends(3_000)),
            ],
            Scenario::GrowthSwaps => vec![
                corelane("no swaps", Tweak::Swaps(None)),
                corelane("a swap per second", Tweak::Swaps(Some(Duration::from_secs(1)))),
            ],
        }
    }

    /// Whether forwarder and load share a core.
    pub fn is_same_core(self) -> bool {
        matches!(
            self,
            Scenario::MessagesSameCore
                | Scenario::BulkSameCore
                | Scenario::RequestsTableSameCore
                | Scenario::RequestsLookupSameCore
                | Scenario::WebsocketSameCore
        )
    }

    /// The scenarios that a word stands for: one by its name, or all whose names begin with it.
    pub fn named(word: &str) -> Vec<Scenario> {
        let exactly = Scenario::ALL.into_iter().filter(|scenario| scenario.name() == word);
        let exactly: Vec<Scenario> = exactly.collect();
        if !exactly.is_empty() {
            return exactly;
        }
        let group = format!("{word}-");
        Scenario::ALL.into_iter().filter(|s| s.name().starts_with(&group)).collect()
    }
}

impl Tweak {
    /// What corelane needs to have for it.
    pub fn feature(self) -> Option<Feature> {
        match self {
            Tweak::Spin => Some(Feature::Spin),
            Tweak::Warm(_) => Some(Feature::Warm),
            _ => None,
        }
    }
}

/// Silent devices, if descriptors allow: each takes two in the forwarder and two in the load.
pub const DEVICES_IDLE: u32 = 9_000;
/// Backends of a table that is swapped: enough for a swap to weigh something.
pub const SWAP_BACKENDS: u32 = 3_000;
/// Values of a header in a table, one for each backend.
pub const TABLE_PLACES: u32 = 8;
/// Values of a header that names in DNS are made of.
pub const LOOKUP_PLACES: u32 = 64;
/// Rate of `messages-open`, per second.
pub const OPEN_RATE: u32 = 20_000;
/// Devices of `messages-open`.
pub const OPEN_DEVICES: u32 = 2_000;
/// Connections per second of `connects-warm`: leaves time to make the next ones ready.
pub const WARM_RATE: u32 = 500;

/// HAProxy needs over a second of bulk on a connection before it splices.
const BULK_WARMUP_S: f64 = 1.5;
/// Warm connections are made once the backends listen, which they do after the forwarder has
/// started: it has been refused by then, and comes back after up to 1.6 s.
const STOCK_WARMUP_S: f64 = 2.5;
/// For a moment after the last refusal it sends nobody there.
const STOCK_SETTLE: &str = "--settle 500ms";

/// How long things are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pace {
    /// Rounds, each with every arm of every scenario once.
    pub rounds: u32,
    /// Rounds with [`Scenario::Idle`]: it takes long and always comes out the same.
    pub idle_rounds: u32,
    /// Rounds with bulk, which takes long to warm up, and with growth, which varies little.
    pub steady_rounds: u32,
    /// Load before a measurement, seconds.
    pub warmup_s: f64,
    /// A measurement, seconds.
    pub seconds: f64,
    /// A measurement of [`Scenario::MessagesOpen`]: tails need more than means.
    pub open_seconds: f64,
    /// Silent devices at most.
    pub devices_idle_max: u32,
}

impl Pace {
    /// The arguments of `corelane-bench load` after target and backends.
    pub fn load_arguments(&self, scenario: Scenario, tweak: Tweak) -> Vec<String> {
        let mut arguments: Vec<String> = match scenario {
            Scenario::MessagesOtherCore
            | Scenario::MessagesSameCore
            | Scenario::WebsocketOtherCore
            | Scenario::WebsocketSameCore
            | Scenario::GrowthShards
            | Scenario::GrowthIdle
            | Scenario::GrowthBackends
            | Scenario::GrowthSwaps => words("messages --connections 64"),
            Scenario::RequestsTableOtherCore | Scenario::RequestsTableSameCore => words(&format!(
                "requests --connections 64 --header x-place --places {TABLE_PLACES}"
            )),
            Scenario::RequestsLookupOtherCore | Scenario::RequestsLookupSameCore => {
                words(&format!(
                    "requests --connections 64 --method post --header server \
                     --places {LOOKUP_PLACES}"
                ))
            }
            Scenario::MessagesOpen => {
                words(&format!("messages --connections {OPEN_DEVICES} --rate {OPEN_RATE} --spin"))
            }
            Scenario::Connects => words("connects --parallel 64"),
            Scenario::ConnectsWarm => {
                words(&format!("connects --parallel 64 --rate {WARM_RATE} {STOCK_SETTLE}"))
            }
            Scenario::Idle => words(&format!("idle --count {}", self.idle(DEVICES_IDLE))),
            Scenario::BulkOtherCore | Scenario::BulkSameCore => words("bulk --connections 4"),
        };
        match tweak {
            Tweak::Idle(count) => {
                arguments.extend(words(&format!("--idle {}", self.idle(count))));
            }
            Tweak::Websocket => arguments.push("--upgrade".into()),
            _ => {}
        }
        if scenario != Scenario::Idle {
            let (warmup, seconds) = (self.warmup(scenario), self.window(scenario));
            arguments.extend(words(&format!("--warmup {warmup}s --duration {seconds}s")));
        }
        arguments
    }

    /// Seconds of a measurement.
    pub fn window(&self, scenario: Scenario) -> f64 {
        if scenario == Scenario::MessagesOpen { self.open_seconds } else { self.seconds }
    }

    /// Seconds of load before a measurement.
    pub fn warmup(&self, scenario: Scenario) -> f64 {
        match scenario {
            Scenario::BulkOtherCore | Scenario::BulkSameCore => self.warmup_s.max(BULK_WARMUP_S),
            Scenario::ConnectsWarm => self.warmup_s.max(STOCK_WARMUP_S),
            _ => self.warmup_s,
        }
    }

    /// Whether a scenario is in this round, counted from 0.
    pub fn has(&self, scenario: Scenario, round: u32) -> bool {
        round
            < match scenario {
                Scenario::Idle => self.idle_rounds,
                Scenario::BulkOtherCore
                | Scenario::BulkSameCore
                | Scenario::GrowthIdle
                | Scenario::GrowthShards
                | Scenario::GrowthBackends => self.steady_rounds,
                _ => self.rounds,
            }
    }

    /// Connections that a forwarder has to have room for, with some that are not closed yet.
    pub fn connections(&self, scenario: Scenario, tweak: Tweak) -> u32 {
        let silent = match (scenario, tweak) {
            (Scenario::Idle, _) => self.idle(DEVICES_IDLE),
            (_, Tweak::Idle(count)) => self.idle(count),
            _ => 0,
        };
        let busy = if scenario == Scenario::MessagesOpen { OPEN_DEVICES } else { 64 };
        silent + busy + 300
    }

    /// So many silent devices as wanted and possible.
    pub fn idle(&self, wanted: u32) -> u32 {
        wanted.min(self.devices_idle_max)
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

/// The order of arms in a round: each round begins with another one, so that what a round does to
/// its first or last does not fall on the same arm.
pub fn rotated<T: Copy>(arms: &[T], round: u32) -> Vec<T> {
    let mut order = arms.to_vec();
    if !order.is_empty() {
        order.rotate_left(round as usize % arms.len());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_serialised_alike() {
        let names: BTreeSet<&str> = Scenario::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Scenario::ALL.len());
        for scenario in Scenario::ALL {
            assert_eq!(serde_json::to_value(scenario).unwrap(), scenario.name());
            let arms: BTreeSet<&str> = scenario.arms().iter().map(|arm| arm.name).collect();
            assert_eq!(arms.len(), scenario.arms().len());
        }
    }

    #[test]
    fn a_word_names_one_scenario_or_those_that_begin_with_it() {
        let names =
            |word| Scenario::named(word).into_iter().map(Scenario::name).collect::<Vec<_>>();
        assert_eq!(names("connects"), ["connects"]);
        assert_eq!(names("websocket"), ["websocket-other-core", "websocket-same-core"]);
        assert_eq!(names("requests").len(), 4);
        assert!(names("request").is_empty() && names("").is_empty());
    }

    #[test]
    fn every_arm_has_every_place_once() {
        let arms = [1, 2, 3, 4];
        let mut seen = BTreeSet::new();
        for round in 0..4 {
            for (place, arm) in rotated(&arms, round).into_iter().enumerate() {
                assert!(seen.insert((place, arm)));
            }
        }
        assert_eq!((seen.len(), rotated::<u8>(&[], 3).len()), (16, 0));
    }

    #[test]
    fn few_descriptors_mean_few_idle_devices() {
        let pace = Pace {
            rounds: 2,
            idle_rounds: 1,
            steady_rounds: 2,
            warmup_s: 0.5,
            seconds: 2.0,
            open_seconds: 3.0,
            devices_idle_max: 500,
        };
        assert!(pace.has(Scenario::Idle, 0) && !pace.has(Scenario::Idle, 1));
        assert!(pace.has(Scenario::Connects, 1));
        let many = pace.load_arguments(Scenario::GrowthIdle, Tweak::Idle(9_000)).join(" ");
        assert_eq!(many, "messages --connections 64 --idle 500 --warmup 0.5s --duration 2s");
        let idle = pace.load_arguments(Scenario::Idle, Tweak::None).join(" ");
        assert_eq!(idle, "idle --count 500");
        let open = pace.load_arguments(Scenario::MessagesOpen, Tweak::None).join(" ");
        assert!(open.ends_with("--rate 20000 --spin --warmup 0.5s --duration 3s"), "{open}");
        let upgrade = pace.load_arguments(Scenario::WebsocketSameCore, Tweak::Websocket).join(" ");
        assert_eq!(upgrade, "messages --connections 64 --upgrade --warmup 0.5s --duration 2s");
        assert_eq!(pace.connections(Scenario::Idle, Tweak::None), 864);
    }
}
