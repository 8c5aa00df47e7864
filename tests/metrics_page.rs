//! The metrics page is valid OpenMetrics text, says what the cells hold, and its families are
//! exactly those of docs/observability.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use corelane::admin::{Phase, Stage};
use corelane::balance::Algorithm;
use corelane::config;
use corelane::end::{AcceptError, End, Placement, Rejection};
use corelane::log::Logs;
use corelane::metrics::names::{FAMILIES, Kind};
use corelane::metrics::page::{Observed, Page};
use corelane::metrics::{ListenerCells, Metrics, PerShard};
use corelane::source::guard::State;
use corelane::source::view::{Counts, SourceView};
use corelane::table::{Layout, Lookup, LookupIdentity, Table};
use corelane::tls::{
    ClientCertificates, Identity, ListenerSettings, ListenerTls, UnknownName, Version,
};
use tokio::sync::watch;

const DOCS: &str = include_str!("../docs/observability.md");
const SHARDS: usize = 3;

/// A family as it was parsed from a page.
#[derive(Debug, Default)]
struct Parsed {
    kind: String,
    help: String,
    /// Series name and labels, with the value.
    series: BTreeMap<(String, Vec<(String, String)>), f64>,
}

type Families = BTreeMap<String, Parsed>;

/// Parses a whole page; panics with the line when anything is out of order.
fn parse(page: &str) -> Families {
    let body = page.strip_suffix("# EOF\n").expect("the page ends with # EOF");
    let mut families = Families::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            current = name.to_owned();
            let family = Parsed { help: help.to_owned(), ..Parsed::default() };
            assert!(families.insert(current.clone(), family).is_none(), "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            let family = families.get_mut(name).expect("HELP comes before TYPE");
            assert!(family.kind.is_empty() && name == current, "out of order: {line}");
            family.kind = kind.to_owned();
        } else {
            let (name, labels, value) = parse_series(line);
            let family = families.get_mut(&current).expect("a series belongs to a family");
            let suffix = name.strip_prefix(current.as_str()).expect(line);
            let suffixes: &[&str] = match family.kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                other => panic!("kind {other:?}: {line}"),
            };
            assert!(suffixes.contains(&suffix), "suffix of {line}");
            assert!(value >= 0.0, "nothing here is negative: {line}");
            assert!(family.series.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    families
}

/// `name{label="value",…} 1`
fn parse_series(line: &str) -> (String, Vec<(String, String)>, f64) {
    let name_len = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(name_len);
    assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "name of {line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(label.bytes().all(|b| b.is_ascii_lowercase()), "label of {line}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().expect(line) {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next().expect(line).1 {
                        'n' => value.push('\n'),
                        escaped @ ('"' | '\\') => value.push(escaped),
                        other => panic!("escape {other:?} in {line}"),
                    },
                    (_, other) => value.push(other),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect(line);
    (name.to_owned(), labels, value.parse().expect(line))
}

/// The value of one series, or a panic that shows the family.
fn value(families: &Families, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Vec<_> = labels.iter().map(|(l, v)| ((*l).into(), (*v).into())).collect();
    let found = families.values().find_map(|f| f.series.get(&(name.to_owned(), labels.clone())));
    *found.unwrap_or_else(|| panic!("no {name} {labels:?}"))
}

fn pool(name: &str, backends: &[(&str, config::BackendState)]) -> config::Pool {
    let socket = config::SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None };
    let backend = |(address, state): &(&str, config::BackendState)| config::Backend {
        address: match address.strip_prefix("unix:") {
            Some(path) => config::Address::Unix(path.into()),
            None => config::Address::Tcp(address.parse().expect("an address")),
        },
        weight: 1,
        state: *state,
    };
    config::Pool {
        name: name.to_owned(),
        balance: Algorithm::Crc32Mod,
        on_down: config::OnDown::Reject,
        connect_timeout: Duration::from_secs(1),
        retries: 1,
        fail_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(600),
        warm: 0,
        socket,
        proxy_out: false,
        tls: None,
        source_addresses: Vec::new(),
        on_remove: config::OnRemove::Keep,
        close_rate: 200,
        sources: Vec::new(),
        bounded_load: None,
        health: config::Health::default(),
        backends: backends.iter().map(backend).collect(),
    }
}

const BACKEND: (&str, config::BackendState) = ("127.0.0.1:1000", config::BackendState::Ready);

fn http() -> config::Protocol {
    let text = "[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
                [[listener.http.rule]]\nreply = { status = 204 }\n";
    let environment =
        config::Environment { variable: &|_| None, cores: vec![0], descriptors_max: 20_000 };
    let loaded = config::parse(text, "web.toml", &environment).expect("a file");
    loaded.config.listeners[0].protocol.clone()
}

fn listener(name: &str) -> config::Listener {
    let protocol = match name {
        "web" => http(),
        _ => config::Protocol::Tcp { key: None },
    };
    config::Listener {
        name: name.to_owned(),
        bind: Vec::new(),
        protocol,
        pool: Some(0),
        lookup: None,
        backlog: 1,
        socket: config::SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None },
        proxy: None,
        tls: Some(Arc::new(listener_tls())),
    }
}

fn listener_tls() -> ListenerTls {
    let made =
        rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity::read(chain.as_bytes(), key.as_bytes()).expect("an identity");
    let settings = ListenerSettings {
        min_version: Version::Tls12,
        alpn: Vec::new(),
        handshake_timeout: Duration::from_secs(10),
        max_handshakes: 1,
        resumption: true,
        unknown_name: UnknownName::Default,
        clients: ClientCertificates::Off,
    };
    ListenerTls::new(settings, vec![identity], Vec::new()).expect("TLS")
}

fn source() -> SourceView {
    SourceView {
        pool: "c2s".to_owned(),
        label: "redis redis://127.0.0.1 c2s".to_owned(),
        state: State::Stale,
        heard: Some(std::time::Instant::now()),
        restored: false,
        members: Some(7),
        rejected: vec!["x: no address".to_owned()],
        revision: None,
        failure: None,
        held: 2,
        empty_kept: false,
        counts: Counts { readings: 5, publications: 3, ..Counts::default() },
    }
}

/// A lookup that nobody has asked anything.
fn lookup() -> Arc<Lookup> {
    let toml = "[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"tcp\"\n\
                lookup = \"nodes\"\n\
                [lookup.nodes]\nkind = \"dns\"\nname = \"a.test\"\nport = 1\n";
    let environment =
        config::Environment { variable: &|_| None, cores: vec![0], descriptors_max: 20_000 };
    let loaded = config::parse(toml, "lookup.toml", &environment);
    let config = loaded.unwrap_or_else(|faults| panic!("{faults}")).config;
    let identity = Arc::new(LookupIdentity::new("nodes", SHARDS));
    Arc::new(Lookup::new(&config.lookups[0], 1, identity).0)
}

struct Observing {
    metrics: Arc<Metrics>,
    logs: Logs,
    phase: Arc<Phase>,
    table: watch::Sender<Arc<Table>>,
    page: Page,
}

impl Observing {
    fn new(listeners: &[&str], pools: &[config::Pool]) -> Observing {
        let metrics =
            Arc::new(Metrics { process: Default::default(), shards: PerShard::new(SHARDS) });
        let layout = Layout {
            generation: 1,
            listeners: listeners.iter().map(|name| listener(name)).collect(),
            pools: pools.to_vec(),
            lookups: vec![lookup()],
            connections_max: 1000,
        };
        let (table, observed_table) = watch::channel(Arc::new(Table::first(&layout, SHARDS)));
        let (logs, phase) = (Logs::default(), Arc::new(Phase::default()));
        let (_, sources) = watch::channel([source()].into());
        let page = Page::new(Observed {
            metrics: metrics.clone(),
            logs: logs.clone(),
            table: observed_table,
            phase: phase.clone(),
            sources,
        });
        Observing { metrics, logs, phase, table, page }
    }

    fn plain() -> Observing {
        use config::BackendState::{Down, Ready};
        let backends = [("127.0.0.1:1000", Ready), ("[::1]:1001", Down), ("unix:/a b", Ready)];
        Observing::new(&["devices", "other"], &[pool("c2s", &backends), pool("empty", &[])])
    }

    /// Counters of the first listener.
    fn devices(&self) -> Arc<PerShard<ListenerCells>> {
        self.table.borrow().listeners[0].cells.clone()
    }

    fn read(&self) -> Families {
        parse(&self.page.render().expect("a page"))
    }
}

/// Rows of the documentation's tables of metrics: name, kind, labels.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let mut rows = BTreeMap::new();
    for line in DOCS.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, meaning, ""] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else {
            continue;
        };
        assert!(!meaning.is_empty(), "{name} is explained");
        let labels: Vec<_> =
            labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        let previous = rows.insert(name.to_owned(), (kind.to_owned(), labels));
        assert!(previous.is_none(), "{name} is documented twice");
    }
    rows
}

#[test]
fn page_and_documentation_name_the_same_families_with_the_same_labels() {
    let observing = Observing::new(&["devices", "web"], &[pool("c2s", &[BACKEND])]);
    let table = observing.table.borrow().clone();
    // The families whose series appear only when something has happened.
    let web = &table.listeners[1].cells.of(0).http;
    web.failures[End::HttpUnanswered as usize].add(1);
    web.bodies_too_large.add(1);
    table.pools[0].backends[0].shared.cells.of(0).connect_failures[End::ConnectRefused as usize]
        .add(1);
    let mut on_page = BTreeMap::new();
    for (stem, family) in observing.read() {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let mut labels = BTreeSet::new();
        for (_, series_labels) in family.series.keys() {
            let names = series_labels.iter().map(|(name, _)| name.clone());
            labels.insert(names.filter(|name| name != "le").collect::<Vec<_>>());
        }
        assert_eq!(labels.len(), 1, "{stem}: series with one set of labels, got {labels:?}");
        assert!(family.help.ends_with('.'), "{stem}: help is a sentence");
        on_page.insert(stem + suffix, (family.kind, labels.pop_first().expect("one")));
    }
    let documented = documented();
    assert!(documented.len() > 40, "the tables were found");
    assert_eq!(on_page, documented);
    assert_eq!(on_page.len(), FAMILIES.len());
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for family in FAMILIES {
        let name = family.name;
        assert!(name.starts_with("corelane_") || name.starts_with("process_"), "{name}");
        assert_eq!(family.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert_eq!(family.kind == Kind::Info, name.ends_with("_info"), "{name}");
        assert!(family.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
    }
}

#[test]
fn every_reason_is_documented() {
    let ends = End::ALL.iter().map(|reason| reason.label());
    let rejections = Rejection::ALL.iter().map(|reason| reason.label());
    let errors = AcceptError::ALL.iter().map(|reason| reason.label());
    let placements = Placement::ALL.iter().map(|reason| reason.label());
    for label in ends.chain(rejections).chain(errors).chain(placements) {
        assert!(DOCS.contains(&format!("\n| `{label}` | ")), "{label} has no row");
    }
}

#[test]
fn values_are_sums_over_shards() {
    let observing = Observing::plain();
    let devices = observing.devices();
    for shard in 0..SHARDS {
        let weight = 10u64.pow(shard as u32);
        devices.of(shard).sessions.add(weight);
        devices.of(shard).active.add(2 * weight);
        devices.of(shard).ends[End::BodyTooLong as usize].add(3 * weight);
        devices.of(shard).rejections[Rejection::MaxConnections as usize].add(4 * weight);
        devices.of(shard).bytes_in.add(5 * weight);
        devices.of(shard).bytes_out.add(6 * weight);
        observing.metrics.shards.of(shard).log_dropped.add(7 * weight);
        observing.metrics.shards.of(shard).accept_errors[AcceptError::Memory as usize].add(weight);
    }
    devices.of(0).active.sub(2);
    observing.metrics.process.connections.store(77, Relaxed);
    observing.logs.operational.dropped.store(8, Relaxed);
    observing.logs.sessions.lost.store(9, Relaxed);
    let families = observing.read();
    let of = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    let listener = ("listener", "devices");
    assert_eq!(of("corelane_connections_total", &[listener]), 111.0);
    assert_eq!(of("corelane_connections_active", &[listener]), 220.0);
    assert_eq!(of("corelane_connections_total", &[("listener", "other")]), 0.0);
    let reason = ("reason", "body_too_long");
    assert_eq!(of("corelane_closes_total", &[listener, reason]), 333.0);
    assert_eq!(of("corelane_preread_failures_total", &[listener, reason]), 333.0);
    let reason = ("reason", "max_connections");
    assert_eq!(of("corelane_admission_rejected_total", &[listener, reason]), 444.0);
    assert_eq!(of("corelane_bytes_total", &[listener, ("direction", "in")]), 555.0);
    assert_eq!(of("corelane_bytes_total", &[listener, ("direction", "out")]), 666.0);
    assert_eq!(of("corelane_shard_connections_active", &[("shard", "1")]), 20.0);
    let shard = [("shard", "2"), ("reason", "memory")];
    assert_eq!(of("corelane_accept_errors_total", &shard), 100.0);
    assert_eq!(of("corelane_log_lines_dropped_total", &[("log", "sessions")]), 777.0);
    assert_eq!(of("corelane_log_lines_dropped_total", &[("log", "operational")]), 8.0);
    assert_eq!(of("corelane_log_lines_lost_total", &[("log", "sessions")]), 9.0);
    assert_eq!(of("corelane_connections_open", &[]), 77.0);
    assert_eq!(of("corelane_connections_max", &[]), 1000.0);
}

#[test]
fn backends_show_state_failures_and_traffic_of_the_table_in_force() {
    let observing = Observing::plain();
    let table = observing.table.borrow().clone();
    let cells = &table.pools[0].backends[1].shared.cells;
    cells.of(0).connect_failures[End::ConnectTimeout as usize].add(2);
    cells.of(2).connect_failures[End::ConnectTimeout as usize].add(3);
    cells.of(1).bytes_out.add(11);
    cells.of(1).warm.add(4);
    table.pools[0].cells.of(1).placements[Placement::Retry as usize].add(6);
    let families = observing.read();
    let of = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    let (pool, backend) = (("pool", "c2s"), ("backend", "[::1]:1001"));
    assert_eq!(of("corelane_backend_state", &[pool, backend, ("state", "down")]), 1.0);
    assert_eq!(of("corelane_backend_state", &[pool, backend, ("state", "ready")]), 0.0);
    let failures = &families["corelane_backend_connect_failures"].series;
    assert_eq!(failures.values().collect::<Vec<_>>(), [&5.0], "zeros are left out");
    assert_eq!(of("corelane_backend_bytes_total", &[pool, backend, ("direction", "out")]), 11.0);
    assert_eq!(of("corelane_backend_warm", &[pool, backend]), 4.0);
    assert_eq!(of("corelane_backend_warm", &[pool, ("backend", "unix:/a b")]), 0.0);
    assert_eq!(of("corelane_placements_total", &[pool, ("reason", "retry")]), 6.0);
    assert_eq!(of("corelane_pool_backends", &[pool]), 3.0);
    assert_eq!(of("corelane_pool_backends", &[("pool", "empty")]), 0.0);
    assert_eq!(of("corelane_table_version", &[]), 1.0);

    // Two versions later nobody holds what has left.
    let nothing = Layout { generation: 2, ..Layout::of_pools(Vec::new()) };
    let next = table.next(&nothing, SHARDS).next(&nothing, SHARDS);
    drop(table);
    observing.table.send_replace(Arc::new(next));
    let families = observing.read();
    assert_eq!(value(&families, "corelane_table_version", &[]), 3.0);
    assert!(families["corelane_backend_warm"].series.is_empty());
}

#[test]
fn histograms_accumulate_and_agree_with_themselves() {
    let observing = Observing::plain();
    let devices = observing.devices();
    // On a bound, just over it, and past the last one, on different shards.
    devices.of(0).preface.record(Duration::from_micros(50));
    devices.of(1).preface.record(Duration::from_micros(51));
    devices.of(2).preface.record(Duration::from_secs(31));
    devices.of(0).lives.record(Duration::from_secs(60));
    devices.of(1).lives.record(Duration::from_millis(60_001));
    devices.of(2).lives.record(Duration::from_secs(9 * 86_400));
    let families = observing.read();
    let of = |name: &str, le: Option<&str>| {
        let mut labels: Vec<_> = le.map(|le| ("le", le)).into_iter().collect();
        labels.push(("listener", "devices"));
        value(&families, name, &labels)
    };
    assert_eq!(of("corelane_preread_seconds_bucket", Some("0.00005")), 1.0);
    assert_eq!(of("corelane_preread_seconds_bucket", Some("0.0001")), 2.0);
    assert_eq!(of("corelane_preread_seconds_bucket", Some("30.0")), 2.0);
    assert_eq!(of("corelane_preread_seconds_bucket", Some("+Inf")), 3.0);
    assert_eq!(of("corelane_preread_seconds_count", None), 3.0);
    assert!((of("corelane_preread_seconds_sum", None) - 31.000_101).abs() < 1e-9);
    assert_eq!(of("corelane_connection_duration_seconds_bucket", Some("30.0")), 0.0);
    assert_eq!(of("corelane_connection_duration_seconds_bucket", Some("60.0")), 1.0);
    assert_eq!(of("corelane_connection_duration_seconds_bucket", Some("300.0")), 2.0);
    assert_eq!(of("corelane_connection_duration_seconds_bucket", Some("+Inf")), 3.0);
    assert_eq!(of("corelane_connection_duration_seconds_sum", None), 777_720.001);

    for (stem, family) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        let mut rising: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), count) in &family.series {
            if let Some((_, le)) = labels.iter().find(|(label, _)| label == "le") {
                assert!(name.ends_with("_bucket"));
                let rest: Vec<_> = labels.iter().filter(|(label, _)| label != "le").collect();
                let le = le.parse().expect("a bound");
                rising.entry(rest).or_default().push((le, *count));
            }
        }
        for (labels, mut buckets) in rising {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{stem} {labels:?}");
            assert_eq!(buckets.last().expect("buckets").0, f64::INFINITY, "{stem}");
        }
    }
}

#[test]
fn label_values_are_escaped() {
    let hostile = "a\"b\\c\nd{}=, é";
    let observing = Observing::new(&[hostile], &[pool(hostile, &[])]);
    observing.devices().of(1).sessions.add(5);
    let families = observing.read();
    assert_eq!(value(&families, "corelane_connections_total", &[("listener", hostile)]), 5.0);
    assert_eq!(value(&families, "corelane_pool_backends", &[("pool", hostile)]), 0.0);
}

#[test]
fn draining_and_version_show() {
    let observing = Observing::plain();
    observing.phase.advance(Stage::Ready);
    assert_eq!(value(&observing.read(), "corelane_draining", &[]), 0.0);
    observing.phase.advance(Stage::Draining);
    let families = observing.read();
    assert_eq!(value(&families, "corelane_draining", &[]), 1.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(value(&families, "corelane_build_info", &version), 1.0);
}

#[test]
fn the_process_is_described_by_the_kernel() {
    let observing = Observing::plain();
    let before = value(&observing.read(), "process_open_fds", &[]);
    let files: Vec<_> =
        (0..50).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
    let families = observing.read();
    // Other tests of this process open and close a few at the same time.
    let opened = value(&families, "process_open_fds", &[]) - before;
    assert!((30.0..70.0).contains(&opened), "{opened} more descriptors");
    drop(files);
    let max_fds = value(&families, "process_max_fds", &[]);
    assert!(max_fds >= 64.0 && max_fds.fract() == 0.0);
    let resident = value(&families, "process_resident_memory_bytes", &[]);
    assert!((1e6..4e9).contains(&resident), "{resident} bytes");
    assert!(value(&families, "process_virtual_memory_bytes", &[]) >= resident);
    assert!(value(&families, "process_threads", &[]) >= 1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - value(&families, "process_start_time_seconds", &[]);
    assert!((-2.0..3600.0).contains(&age), "started {age} s ago");

    let cpu_before = value(&families, "process_cpu_seconds_total", &[]);
    let spin_until = std::time::Instant::now() + Duration::from_secs(10);
    while value(&observing.read(), "process_cpu_seconds_total", &[]) <= cpu_before {
        assert!(std::time::Instant::now() < spin_until, "CPU time stands still");
    }
}
