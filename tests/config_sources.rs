//! `[pool.NAME.source]`: every value arrives where it belongs, and no secret ever shows.

use std::path::Path;
use std::time::Duration;

use corelane::config::{
    Config, DnsRecords, Environment, Faults, OnEmpty, Source, SourceKind, parse,
};

const FRONT: &str = r#"
[[listener]]
name = "a"
bind = ["127.0.0.1:9000"]
protocol = "tcp"
pool = "p"

[pool.p]
balance = "random"
"#;

fn checked(text: &str) -> Result<(Config, Vec<String>), Faults> {
    let environment =
        Environment { variable: &|_| None, cores: vec![0, 1], descriptors_max: 20_000 };
    let loaded = parse(&format!("{FRONT}{text}"), "file.toml", &environment)?;
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    Ok((loaded.config, warnings))
}

fn config(text: &str) -> Config {
    checked(text).unwrap_or_else(|faults| panic!("{faults}")).0
}

fn source(text: &str) -> Source {
    let mut sources = config(&format!("[pool.p.source]\n{text}")).pools.remove(0).sources;
    assert_eq!(sources.len(), 1);
    sources.remove(0)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn of_redis() {
    let source = source(
        r#"
kind = "redis"
url = "rediss://127.0.0.1:6380/2"
key = "corelane:p"
username = "gateway"
password = "hunter2"
tls_ca_file = "Cargo.toml"
tls_cert_file = "Cargo.lock"
tls_key_file = "LICENSE"
timeout = "11s"
resync = "12s"
settle = "13s"
stale_after = "14s"
on_empty = "keep_for:15s"
max_removal = "16%"
removal_delay = "17s"
"#,
    );
    let durations = [source.timeout, source.resync, source.settle, source.stale_after];
    assert_eq!(durations, [11, 12, 13, 14].map(seconds));
    assert_eq!(source.on_empty, OnEmpty::KeepFor(seconds(15)));
    assert_eq!((source.max_removal_percent, source.removal_delay), (16, seconds(17)));
    let SourceKind::Redis(redis) = source.kind else { panic!("not redis") };
    assert_eq!(
        (redis.url.as_str(), redis.key.as_str()),
        ("rediss://127.0.0.1:6380/2", "corelane:p")
    );
    assert_eq!(redis.username.as_deref(), Some("gateway"));
    assert_eq!(redis.password.expect("a password").reveal(), "hunter2");
    assert_eq!(redis.tls.ca_file.as_deref(), Some(Path::new("Cargo.toml")));
    assert_eq!(redis.tls.client, Some(("Cargo.lock".into(), "LICENSE".into())));
}

#[test]
fn defaults_are_cautious() {
    let source = source("kind = \"redis\"\nurl = \"redis://h\"\nkey = \"k\"");
    let durations = [source.timeout, source.resync, source.stale_after, source.removal_delay];
    assert_eq!(durations, [5, 300, 600, 60].map(seconds));
    assert_eq!(source.settle, Duration::from_millis(500));
    assert_eq!((source.on_empty, source.max_removal_percent), (OnEmpty::Keep, 50));
}

#[test]
fn of_etcd() {
    let source = source(
        r#"
kind = "etcd"
endpoints = ["https://10.0.0.1:2379/", "https://10.0.0.2:2379"]
prefix = "/corelane/p/"
username = "gateway"
password = "hunter2"
tls_ca_file = "Cargo.toml"
"#,
    );
    let SourceKind::Etcd(etcd) = source.kind else { panic!("not etcd") };
    assert_eq!(etcd.endpoints, ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]);
    assert_eq!(etcd.prefix, "/corelane/p/");
    let (username, password) = etcd.credentials.expect("credentials");
    assert_eq!((username.as_str(), password.reveal()), ("gateway", "hunter2"));
    assert_eq!(etcd.tls.ca_file.as_deref(), Some(Path::new("Cargo.toml")));
    assert_eq!(etcd.tls.client, None);
}

#[test]
fn of_consul() {
    let source = source(
        r#"
kind = "consul"
url = "http://127.0.0.1:8500/"
service = "p"
tag = "blue"
datacentre = "east"
token_file = "Cargo.toml"
wait = "2m"
max_lag = "3s"
"#,
    );
    let SourceKind::Consul(consul) = source.kind else { panic!("not consul") };
    assert_eq!((consul.url.as_str(), consul.service.as_str()), ("http://127.0.0.1:8500", "p"));
    assert_eq!(consul.tag.as_deref(), Some("blue"));
    assert_eq!(consul.datacentre.as_deref(), Some("east"));
    assert_eq!(consul.token_file.as_deref(), Some(Path::new("Cargo.toml")));
    assert_eq!((consul.wait, consul.max_lag), (seconds(120), seconds(3)));
}

#[test]
fn of_dns() {
    let dns = |text: &str| match source(&format!("kind = \"dns\"\n{text}")).kind {
        SourceKind::Dns(dns) => dns,
        other => panic!("{other:?}"),
    };
    let addresses = dns("name = \"p.example.\"\nport = 7000\nmin_ttl = \"2s\"\nmax_ttl = \"3s\"\n\
                         resolvers = [\"10.0.0.2\", \"[fd00::1]:5353\"]");
    assert_eq!(addresses.name, "p.example.");
    assert_eq!(addresses.records, DnsRecords::Addresses { port: 7000 });
    assert_eq!((addresses.min_ttl, addresses.max_ttl), (seconds(2), seconds(3)));
    let resolvers: Vec<String> = addresses.resolvers.iter().map(ToString::to_string).collect();
    assert_eq!(resolvers, ["10.0.0.2:53", "[fd00::1]:5353"]);
    let services = dns("name = \"_p._tcp.example\"\nsrv = true");
    assert_eq!(services.records, DnsRecords::Services);
    assert!(services.resolvers.is_empty());
    assert_eq!((services.min_ttl, services.max_ttl), (seconds(1), seconds(300)));
}

#[test]
fn several_sources_are_in_file_order_and_static_ones_are_pinned() {
    let config = config(
        r#"
backends = ["10.0.0.9:1"]
[[pool.p.source]]
kind = "file"
path = "b.toml"
[[pool.p.source]]
kind = "static"
backends = ["10.0.0.2:1", { address = "10.0.0.1:1", state = "down" }]
[[pool.p.source]]
kind = "dns"
name = "p"
port = 1
"#,
    );
    let pool = &config.pools[0];
    let kinds: Vec<&str> = pool.sources.iter().map(|source| source.kind.name()).collect();
    assert_eq!(kinds, ["file", "static", "dns"]);
    let pinned: Vec<String> = pool.backends.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(pinned, ["10.0.0.9:1", "10.0.0.2:1", "10.0.0.1:1"]);
}

#[test]
fn a_source_that_looks_stale_in_good_health_is_warned_about() {
    let text = "[pool.p.source]\nkind = \"consul\"\nurl = \"http://h\"\nservice = \"p\"\n\
                wait = \"10m\"\nstale_after = \"10m\"";
    let (_, warnings) = checked(text).expect("no fault");
    assert!(matches!(&warnings[..], [one] if one.contains("not longer than wait")), "{warnings:?}");
}

#[test]
fn state_is_kept_beside_the_file_unless_it_says_otherwise() {
    let config = config("backends = [\"10.0.0.1:1\"]");
    assert_eq!(config.runtime.state_dir, Path::new("file.toml.state"));
}

#[test]
fn warm_connections_to_backends_not_known_yet_are_reckoned_with() {
    let with = config("warm = 1\n[pool.p.source]\nkind = \"file\"\npath = \"b\"").runtime;
    let connections = with.max_connections as u64;
    let besides = 2 * (1 + 256 + 108) + 4 + 64;
    assert_eq!(with.descriptors_needed, 2 * connections + besides);
}

#[test]
fn no_secret_shows_whatever_is_wrong() {
    let folder = std::env::temp_dir().join(format!("corelane-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("password");
    std::fs::write(&file, "hunter2\n").expect("a file");
    let file = file.display();
    let texts = [
        "url = \"redis://:hunter2@h:1\"\nkey = \"k\"".to_string(),
        "url = \"redis://u:hunter2@h:1\"\nkey = 5".to_string(),
        "url = \"redis://u:hunter2@h:x\"\nkey = \"k\"".to_string(),
        "url = \"redis://u:hunter2@h:${X}\"\nkey = \"k\"".to_string(),
        "url = \"redis://u:hunt/er2@h\"\nkey = \"k\"\npath = \"redis://u:hunter2@h\"".to_string(),
        "url = \"redis+unix:///r?pass=hunter2&db=x\"\nkey = \"k\"".to_string(),
        "url = [\"redis://u:hunter2@h\"]\nkey = \"k\"".to_string(),
        "url = \"redis://h\"\nkey = \"k\"\npassword = \"hunter2\"".to_string(),
        "url = \"redis://h\"\nkey = \"k\"\npassword = [\"hunter2\"]".to_string(),
        "url = \"redis://h\"\nkey = \"k\"\npassword = \"hunter2${\"".to_string(),
        "url = \"redis://h\"\nkey = \"k\"\npassword = hunter2".to_string(),
        "url = \"redis://h\"\nkey = \"k\"\npasswort = \"hunter2\"".to_string(),
        format!("url = \"redis://h\"\nkey = \"k\"\npassword = \"{}hunter2\"", "x".repeat(5_000)),
        format!("url = \"redis://h\"\nkey = \"k\"\npassword_file = \"{file}\""),
        format!("url = \"redis://:hunter2@h\"\nkey = \"k\"\npassword_file = \"{file}\""),
    ];
    let mut good = 0;
    for text in texts {
        let text = format!("[pool.p.source]\nkind = \"redis\"\n{text}");
        let said = match checked(&text) {
            Ok((config, warnings)) => {
                good += 1;
                let SourceKind::Redis(redis) = &config.pools[0].sources[0].kind else { panic!() };
                assert_eq!(redis.password.as_ref().expect("one").reveal(), "hunter2", "{text}");
                format!("{config:?} {warnings:?}")
            }
            Err(faults) => format!("{faults} {faults:?}"),
        };
        assert!(!said.contains("hunter2") && !said.contains("er2@"), "{text}\n{said}");
    }
    assert_eq!(good, 3);
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
