//! Every value of a file arrives where it belongs, and what is legal but odd is warned about.

use std::path::Path;
use std::time::Duration;

use corelane::balance::{Algorithm, Factor};
use corelane::config::{
    Address, Answer, BackendState, CheckKind, Config, Ejection, Environment, Limits, Loaded,
    MissingKey, OnDown, OnRemove, Protocol, ProxyOthers, SessionLog, SocketOptions, TcpKey, parse,
};
use corelane::key::NumberFormat;

/// No value is a default, and no two of one type are alike.
const EVERYTHING: &str = r#"
[runtime]
cores = [3, 1]
max_connections = 1_234
drain_timeout = "1m"
ring_entries = 0x400
relay_buffer_max = "16KiB"
spin = "50us"
state_dir = "/var/lib/gateway"

[admin]
listen = "unix:/run/admin.sock"

[log]
level = "debug"
sessions = "/var/log/sessions.log"
queue = 77

[[listener]]
name = "framed"
bind = ["[::1]:9000", "unix:/run/front.sock"]
protocol = "frame"
pool = "keyed"
backlog = 55
tcp_user_timeout = "11s"
tcp_keepalive = "12s"

[listener.frame]
header = "<2BHI"
fields = ["kind", "version", "time", "length"]
key = "bytes:4..12"
missing_key = "pool:spread"
max_body = "1MiB"
timeout = "13s"
number_format = "lua"
search_frames = 3
expect = { version = 2, kind = "1..=127" }

[listener.proxy_protocol]
from = ["10.0.0.0/8", "fd00::1", "unix"]
others = "plain"
timeout = "14s"

[[listener]]
name = "plain"
bind = ["127.0.0.1:9001"]
protocol = "tcp"
pool = "keyed"
[listener.tcp]
key = "client_ip"

[pool.spread]
balance = "least_conn"
backends = ["10.0.0.9:1"]

[pool.keyed]
balance = "crc32_mod"
on_down = "next"
on_remove = "close"
close_rate = "20/s"
bounded_load = 1.25
connect_timeout = "15s"
retries = 5
fail_timeout = "16s"
idle_timeout = "17s"
warm = 6
tcp_user_timeout = "18s"
tcp_keepalive = "19s"
proxy_protocol = "v2"
source_addresses = ["127.0.0.2", "127.0.0.3"]
panic_threshold = "61%"
slow_start = "20s"
max_connections = 62
connect_rate = "63/s"
admission_queue = 64
admission_timeout = "21s"
backends = [
  { address = "10.0.0.1:7", state = "down", connect_rate = "65/s" },
  "unix:/run/back.sock",
]

[pool.keyed.health]
kind = "bytes"
interval = "23s"
timeout = "22s"
rise = 66
fall = 67
port = 68
listener = "framed"
send = { kind = 1, version = 2, time = 772, body = "ab" }
expect = { kind = 3, time = "4..=5", body = "hex:00fF" }

[pool.keyed.ejection]
failures = 69
early = "24s"
early_count = 70
early_share = "71%"
window = "25s"
base_time = "26s"
max_time = "27s"
max_ejected = "72%"

[pool.spread.health]
kind = "http"
path = "/ready?x=1"
host = "chat.example:80"
status = 204
"#;

fn load(text: &str) -> Loaded {
    let environment =
        Environment { variable: &|_| None, cores: vec![0, 1, 2, 3], descriptors_max: 20_000 };
    parse(text, "file.toml", &environment).unwrap_or_else(|faults| panic!("{faults}"))
}

fn everything() -> Config {
    load(EVERYTHING).config
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(text: &str) -> Address {
    match text.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(text.parse().expect(text)),
    }
}

#[test]
fn of_the_process() {
    let config = everything();
    assert_eq!(config.runtime.cores, [3, 1]);
    assert_eq!(config.runtime.max_connections, 1_234);
    assert_eq!(config.runtime.drain_timeout, seconds(60));
    assert_eq!(config.runtime.ring_entries, 1_024);
    assert_eq!(config.runtime.relay_buffer_max, 16 << 10);
    assert_eq!(config.runtime.spin, Duration::from_micros(50));
    assert_eq!(config.runtime.state_dir, Path::new("/var/lib/gateway"));
    // Two shards, each with three bound addresses, six warm connections to each of two backends,
    // and 108 for rings, pipes and sockets about to be used again. Two pools are checked.
    assert_eq!(config.runtime.descriptors_needed, 2 * 1_234 + 2 * (3 + 6 * 2 + 108) + 64 + 512);
    assert_eq!(config.admin.expect("an admin interface").listen, address("unix:/run/admin.sock"));
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    assert_eq!(config.log.sessions, SessionLog::File("/var/log/sessions.log".into()));
    assert_eq!(config.log.queue, 77);
}

#[test]
fn of_a_frame_listener() {
    let config = everything();
    let listener = &config.listeners[0];
    assert_eq!(listener.name, "framed");
    assert_eq!(listener.bind, [address("[::1]:9000"), address("unix:/run/front.sock")]);
    assert_eq!(config.pools[listener.pool.expect("a pool")].name, "keyed");
    assert_eq!(listener.backlog, 55);
    let socket = SocketOptions { user_timeout: seconds(11), keepalive: Some(seconds(12)) };
    assert_eq!(listener.socket, socket);
    let Protocol::Frame(frame) = &listener.protocol else { panic!("not framed") };
    let spread = config.pools.iter().position(|pool| pool.name == "spread").expect("a pool");
    assert_eq!(frame.missing_key, MissingKey::Pool(spread));
    assert_eq!(frame.timeout, seconds(13));
    assert_eq!(frame.rules.layout.header_len(), 8);
    assert_eq!(frame.rules.key.text(&frame.rules.layout), "bytes:4..12");
    assert_eq!(frame.rules.body_len_max, 1 << 20);
    assert_eq!(frame.rules.number_format, NumberFormat::Lua);
    assert_eq!(frame.rules.search_frames, 3);
    let mut expect: Vec<_> =
        frame.rules.expect.iter().map(|expect| (expect.field, expect.range.clone())).collect();
    expect.sort_by_key(|(field, _)| *field);
    assert_eq!(expect, [(0, 1..=127), (1, 2..=2)]);
    let proxy = listener.proxy.as_ref().expect("PROXY protocol");
    let from: Vec<String> = proxy.from.iter().map(ToString::to_string).collect();
    assert_eq!(from, ["10.0.0.0/8", "fd00::1/128"]);
    assert!(proxy.from_unix);
    assert_eq!(proxy.others, ProxyOthers::Plain);
    assert_eq!(proxy.timeout, seconds(14));
}

#[test]
fn of_a_tcp_listener() {
    let config = everything();
    let listener = &config.listeners[1];
    let Protocol::Tcp { key } = &listener.protocol else { panic!("framed") };
    assert_eq!(key, Some(TcpKey::ClientIp));
    assert!(listener.proxy.is_none());
    assert_eq!(listener.socket, SocketOptions { user_timeout: seconds(30), keepalive: None });
}

#[test]
fn of_a_pool() {
    let config = everything();
    let pool = &config.pools[1];
    assert_eq!(pool.name, "keyed");
    assert_eq!(pool.balance, Algorithm::Crc32Mod);
    assert_eq!(pool.on_down, OnDown::Next);
    assert_eq!((pool.on_remove, pool.close_rate), (OnRemove::Close, 20));
    assert!(pool.sources.is_empty());
    assert_eq!(pool.bounded_load, Some(Factor(125)));
    assert_eq!(pool.connect_timeout, seconds(15));
    assert_eq!(pool.retries, 5);
    assert_eq!(pool.fail_timeout, seconds(16));
    assert_eq!(pool.idle_timeout, seconds(17));
    assert_eq!(pool.warm, 6);
    let socket = SocketOptions { user_timeout: seconds(18), keepalive: Some(seconds(19)) };
    assert_eq!(pool.socket, socket);
    assert!(pool.proxy_out);
    let sources: Vec<String> = pool.source_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["127.0.0.2", "127.0.0.3"]);
    let backends: Vec<_> =
        pool.backends.iter().map(|b| (b.address.clone(), b.weight, b.state)).collect();
    let expected = [
        (address("10.0.0.1:7"), 1, BackendState::Down),
        (address("unix:/run/back.sock"), 1, BackendState::Ready),
    ];
    assert_eq!(backends, expected);
    assert_eq!(config.pools[0].balance, Algorithm::LeastConn);
    assert_eq!((config.pools[0].on_down, config.pools[0].bounded_load), (OnDown::Reject, None));
    assert_eq!((config.pools[0].on_remove, config.pools[0].close_rate), (OnRemove::Keep, 200));
}

#[test]
fn nothing_odd_gives_no_warning() {
    assert_eq!(load(EVERYTHING).warnings, []);
}

#[test]
fn keyless_clients_on_one_backend_are_warned_about() {
    let text = EVERYTHING.replace("pool:spread", "pool:keyed");
    let warnings = load(&text).warnings;
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(paths, ["listener[0].frame.missing_key", "pool.spread"], "{warnings:?}");
    assert!(warnings[0].problem.contains("all go to one backend"), "{}", warnings[0]);
    assert_eq!((warnings[0].line, warnings[0].column), (32, 1));
    // Where sessions without key take turns there is nothing to warn about.
    let text = text.replace("balance = \"crc32_mod\"", "balance = \"ketama\"");
    let warnings = load(&text).warnings;
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(paths, ["pool.spread"], "{warnings:?}");
}

#[test]
fn every_algorithm_has_its_name() {
    for (name, algorithm) in Algorithm::NAMES {
        let text = EVERYTHING.replace("balance = \"least_conn\"", &format!("balance = {name:?}"));
        assert_eq!(load(&text).config.pools[0].balance, *algorithm);
    }
    assert_eq!(Algorithm::NAMES.len(), 14);
}

#[test]
fn a_bound_is_a_number_of_hundredths() {
    for (written, hundredths) in [("2", 200), ("1.01", 101), ("1.10", 110), ("1e2", 10_000)] {
        let text = EVERYTHING.replace("bounded_load = 1.25", &format!("bounded_load = {written}"));
        let bound = load(&text).config.pools[1].bounded_load;
        assert_eq!(bound, Some(Factor(hundredths)), "{written}");
    }
}

#[test]
fn of_a_pools_health() {
    let config = everything();
    let health = &config.pools[1].health;
    assert_eq!((health.panic_percent, health.slow_start), (61, seconds(20)));
    let own = Limits { connections_max: Some(62), rate_per_s: Some(63) };
    assert_eq!(health.limits_of(&address("unix:/run/back.sock")), own);
    assert_eq!(health.limits_of(&address("10.9.9.9:9")), own, "one that a store may add");
    let mixed = Limits { connections_max: Some(62), rate_per_s: Some(65) };
    assert_eq!(health.limits_of(&address("10.0.0.1:7")), mixed);
    assert_eq!((health.queue_max, health.queue_timeout), (64, seconds(21)));
    let ejection = Ejection {
        failures: 69,
        early: seconds(24),
        early_count: 70,
        early_percent: 71,
        window: seconds(25),
        base_time: seconds(26),
        max_time: seconds(27),
        max_ejected_percent: 72,
    };
    assert_eq!(health.ejection, Some(ejection));
    let check = health.check.as_ref().expect("a check");
    assert_eq!((check.interval, check.timeout), (seconds(23), seconds(22)));
    assert_eq!((check.rise, check.fall, check.port), (66, 67, Some(68)));
    let CheckKind::Bytes { send, expect } = &check.kind else { panic!("{check:?}") };
    // Little-endian: two bytes, time, and the length that nobody wrote.
    assert_eq!(send.as_slice(), b"\x01\x02\x04\x03\x02\0\0\0ab");
    let Answer::Frame(frame) = expect else { panic!("{expect:?}") };
    let mut fields: Vec<_> = frame.fields.iter().map(|f| (f.field, f.range.clone())).collect();
    fields.sort_by_key(|(field, _)| *field);
    assert_eq!(fields, [(0, 3..=3), (2, 4..=5)]);
    assert_eq!(frame.body, [0, 255]);
    let http = config.pools[0].health.check.as_ref().expect("a check");
    let CheckKind::Http { path, host, status } = &http.kind else { panic!("{http:?}") };
    assert_eq!((path.as_str(), host.as_deref()), ("/ready?x=1", Some("chat.example:80")));
    assert_eq!((status.clone(), http.port), (204..=204, None));
}

#[test]
fn a_check_can_be_written_as_text_or_hexadecimal() {
    let with = |bytes: &str| {
        let text = format!(
            "{EVERYTHING}\n[pool.third]\nbalance = \"random\"\nbackends = [\"10.0.0.8:1\"]\n\
                            [pool.third.health]\nkind = \"bytes\"\n{bytes}\n"
        );
        let config = load(&text).config;
        let check = config.pools[2].health.check.clone().expect("a check");
        let CheckKind::Bytes { send, expect: Answer::Prefix(prefix) } = check.kind else {
            panic!("{check:?}")
        };
        (send, prefix)
    };
    assert_eq!(with(r#"expect = "220 ""#), (vec![], b"220 ".to_vec()));
    let ping = r#"send = "PING\r\n"
expect = "hex:2b 50 4f4e47""#;
    assert_eq!(with(ping), (b"PING\r\n".to_vec(), b"+PONG".to_vec()));
}
