//! Every value of a file arrives where it belongs, and what is legal but odd is warned about.

use std::path::Path;
use std::time::Duration;

use corelane::balance::{Algorithm, Factor};
use corelane::config::{
    Address, Answer, BackendState, CheckKind, Config, Ejection, Environment, Limits, Loaded,
    LookupKind, MissingKey, OnDown, OnRemove, Protocol, ProxyOthers, Search, SessionLog,
    SocketOptions, TcpKey, parse,
};
use corelane::http::rewrite::Mode;
use corelane::http::rule::{Condition, HostPattern, PathPattern, Pattern, Statuses, Target};
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
hosts = ["Gateway.Example", "b"]

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

/// Likewise, of HTTP.
const HTTP: &str = r##"
[[listener]]
name = "web"
bind = ["127.0.0.1:9002"]
protocol = "http"

[listener.http]
max_head = "20KiB"
max_headers = 55
max_target = "3KiB"
max_body = "7MiB"
head_timeout = "21s"
body_timeout = "22s"
idle_timeout = "23s"
send_timeout = "24s"
max_requests = 25

[listener.http.backend]
send_timeout = "26s"
read_timeout = "27s"
idle = 28
idle_timeout = "29s"
max_requests = 30

[listener.http.forward]
x_forwarded_for = "set"
x_forwarded_proto = "append"
x_forwarded_host = "leave"
x_real_ip = "set"
forwarded = "append"
request_id = "leave"
trusted = ["10.0.0.0/8", "unix"]
client_from_x_forwarded_for = true
host = "{backend}"
headers = { X-Uid = "{query:uid}" }
via = "gw"

[listener.http.access_log]
path = "/var/log/{backend}.log"
format = "$status"
escape = "json"

[[listener.http.rule]]
name = "first"
method = ["PUT"]
host = ["A.example", "*.b.example"]
path_prefix = "/p/"
header = { X-A = true, X-B = "~^b" }
query = { c = false }
cookie = { d = "e" }
pool = "keyed"
key = "{path:2}-{client_ip}"
missing = 401
malformed = 403
not_found = 404
unavailable = 503

[[listener.http.rule]]
path = "/q"
lookup = "redis"
key = "header:x"
set = { s = "t" }

[[listener.http.rule]]
lookup = "dns"

[[listener.http.rule]]
path = "/never"
reply = { status = 410, body = "b", content_type = "c/d", headers = { X-E = "f" } }

[lookup.redis]
kind = "redis"
url = "redis://u:p@127.0.0.1:6380/2"
key = "{key}"
field = "{set:s}"
ttl = "31s"
negative_ttl = "32s"
stale = "33s"
max_entries = 34
timeout = "35s"
allow = ["10.0.0.0/8"]
allow_ports = [80, "8000-8999"]
connect_timeout = "36s"
retries = 4
idle_timeout = "37s"

[lookup.dns]
kind = "dns"
name = "n{host}"
search = "svc.example."
port = 81
resolvers = ["10.0.0.2"]
min_ttl = "38s"
max_ttl = "39s"

[pool.keyed]
balance = "ketama"
backends = ["10.0.0.1:1"]
"##;

fn load(text: &str) -> Loaded {
    let environment =
        Environment { variable: &|_| None, cores: vec![0, 1, 2, 3], descriptors_max: 200_000 };
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
    let admin = config.admin.expect("an admin interface");
    assert_eq!(admin.listen, address("unix:/run/admin.sock"));
    assert_eq!((admin.hosts, admin.token_file), (vec!["gateway.example".into(), "b".into()], None));
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
    assert_eq!(*key, Some(TcpKey::ClientIp));
    assert!(listener.proxy.is_none());
    assert_eq!(listener.socket, SocketOptions { user_timeout: seconds(30), keepalive: None });
}

#[test]
fn of_an_http_listener() {
    let loaded = load(HTTP);
    let warned: Vec<&str> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warned, ["listener[0].http.rule[3]"], "nothing comes behind a rule for all");
    let config = loaded.config;
    assert_eq!(config.listeners[0].pool, None);
    let Protocol::Http(http) = &config.listeners[0].protocol else { panic!("not http") };
    let head = http.head;
    assert_eq!((head.head_len_max, head.fields_max, head.target_len_max), (20 << 10, 55, 3 << 10));
    assert_eq!((http.body_len_max, http.requests_max), (7 << 20, 25));
    let timeouts = [http.head_timeout, http.body_timeout, http.idle_timeout, http.send_timeout];
    assert_eq!(timeouts, [21, 22, 23, 24].map(seconds));
    let backend = http.backend;
    let timeouts = [backend.send_timeout, backend.read_timeout, backend.idle_timeout];
    assert_eq!(timeouts, [26, 27, 29].map(seconds));
    assert_eq!((backend.idle, backend.requests_max), (28, 30));
    let log = http.access_log.as_ref().expect("a log");
    assert_eq!(log.format.text(), "$status");
    let file = log.target.path(Some("b"));
    assert_eq!(file.as_deref(), Some(Path::new("/var/log/b.log")));
    // Four shards: one address, the most connections that are kept, as nobody knows how many
    // addresses lookups find, and what every shard has; the control plane's questions to DNS and to
    // Redis; the most files of access logs, as there is one for each backend.
    let runtime = &config.runtime;
    let besides = runtime.descriptors_needed - 2 * runtime.max_connections as u64;
    assert_eq!(besides, 64 + 4 * (1 + 1_024 + 108) + 512 + 4 + 64);
}

#[test]
fn of_forwarding() {
    let config = load(HTTP).config;
    let Protocol::Http(http) = &config.listeners[0].protocol else { panic!("not http") };
    let forward = &http.forwarding;
    let modes = [
        forward.x_forwarded_for,
        forward.x_forwarded_proto,
        forward.x_forwarded_host,
        forward.x_real_ip,
        forward.forwarded,
        forward.request_id,
    ];
    let (set, append, leave) = (Mode::Set, Mode::Append, Mode::Leave);
    assert_eq!(modes, [set, append, leave, set, append, leave]);
    assert_eq!(forward.trusted, ["10.0.0.0/8".parse().expect("a network")]);
    assert!(forward.trusted_unix && forward.client_behind_proxies);
    assert_eq!((forward.host.text(), forward.via.as_deref()), ("{backend}", Some("gw")));
    let headers: Vec<_> = forward.headers.iter().map(|(n, t)| (n.as_str(), t.text())).collect();
    assert_eq!(headers, [("X-Uid", "{query:uid}")]);
}

#[test]
fn of_rules() {
    let config = load(HTTP).config;
    let Protocol::Http(http) = &config.listeners[0].protocol else { panic!("not http") };
    let names: Vec<&str> = http.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["first", "2", "3", "4"]);
    let rule = &http.rules[0];
    let matches = &rule.matches;
    assert_eq!(matches.methods, ["PUT"]);
    let hosts =
        [HostPattern::Exact("a.example".to_string()), HostPattern::Below(".b.example".to_string())];
    assert_eq!(matches.hosts, hosts);
    assert_eq!(matches.path, PathPattern::Prefix("/p/".to_string()));
    let pattern = Pattern::new("^b").expect("a pattern");
    let headers =
        [("X-A".to_string(), Condition::Present), ("X-B".to_string(), Condition::Pattern(pattern))];
    assert_eq!(matches.headers, headers);
    assert_eq!(matches.arguments, [("c".to_string(), Condition::Absent)]);
    assert_eq!(matches.cookies, [("d".to_string(), Condition::Equals("e".to_string()))]);
    let Target::Pool { pool: 0, key: Some(key) } = &rule.target else { panic!("{rule:?}") };
    assert_eq!(key.text(), "{path:2}-{client_ip}");
    let statuses = Statuses { missing: 401, malformed: 403, not_found: 404, unavailable: 503 };
    assert_eq!(rule.statuses, statuses);
    let Target::Lookup { lookup: 0, key: Some(key), set } = &http.rules[1].target else {
        panic!("{:?}", http.rules[1])
    };
    assert_eq!((key.text(), &set[..]), ("header:x", &[("s".to_string(), "t".to_string())][..]));
    let Target::Reply(reply) = &http.rules[3].target else { panic!("no reply") };
    assert_eq!((reply.status, reply.body.as_str(), reply.content_type.as_str()), (410, "b", "c/d"));
    assert_eq!(reply.headers, [("X-E".to_string(), "f".to_string())]);
}

#[test]
fn of_lookups() {
    let config = load(HTTP).config;
    let [redis, dns] = &config.lookups[..] else { panic!("{:?}", config.lookups) };
    assert_eq!((redis.name.as_str(), dns.name.as_str()), ("redis", "dns"));
    assert_eq!(redis.ttl, Some(seconds(31)));
    let times = [redis.negative_ttl, redis.stale, redis.timeout, redis.connect_timeout];
    assert_eq!(times, [32, 33, 35, 36].map(seconds));
    assert_eq!((redis.idle_timeout, redis.entries_max, redis.retries), (seconds(37), 34, 4));
    assert_eq!(redis.allowed.ports, [80..=80, 8000..=8999]);
    assert_eq!(redis.allowed.networks, ["10.0.0.0/8".parse().expect("a network")]);
    let LookupKind::Redis(store) = &redis.kind else { panic!("not redis") };
    assert_eq!(
        (store.url.as_str(), store.username.as_deref()),
        ("redis://127.0.0.1:6380/2", Some("u"))
    );
    assert_eq!(store.password.as_ref().map(|secret| secret.reveal()), Some("p"));
    assert_eq!((store.key.text(), store.field.text()), ("{key}", "{set:s}"));
    assert_eq!(dns.allowed.networks.len(), 2);
    let LookupKind::Dns(name) = &dns.kind else { panic!("not dns") };
    assert_eq!((name.name.text(), name.port), ("n{host}", 81));
    assert_eq!(name.search, Search::Domain("svc.example".to_string()));
    assert_eq!(name.resolvers, ["10.0.0.2:53".parse().expect("an address")]);
    assert_eq!((name.min_ttl, name.max_ttl, dns.ttl), (seconds(38), seconds(39), None));
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
    assert_eq!((warnings[0].line, warnings[0].column), (33, 1));
    // Where sessions without key take turns there is nothing to warn about.
    let text = text.replace("balance = \"crc32_mod\"", "balance = \"ketama\"");
    let warnings = load(&text).warnings;
    let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(paths, ["pool.spread"], "{warnings:?}");
}

/// Everybody may connect there: who may ask is decided by tokens, which have to be good.
#[test]
fn a_far_admin_interface_has_tokens() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config-values-tokens");
    let admin = format!("[admin]\nlisten = \"0.0.0.0:9901\"\ntoken_file = {file:?}\n#");
    let text = EVERYTHING.replace("[admin]\nlisten", &admin);
    std::fs::write(&file, "ops 0123456789abcdef\n").expect("written");
    assert_eq!(load(&text).config.admin.expect("admin").token_file, Some(file.clone()));
    std::fs::write(&file, "ops short\n").expect("written");
    let environment =
        Environment { variable: &|_| None, cores: vec![0, 1, 2, 3], descriptors_max: 20_000 };
    let faults = parse(&text, "file.toml", &environment).expect_err("a bad token").to_string();
    assert!(faults.contains("admin.token_file: cannot be used: line 1: a token of 5"), "{faults}");
    assert!(!faults.contains("short"), "{faults}");
    std::fs::remove_file(file).expect("removed");
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
