//! Lookups in a real Redis by a running gateway: what is there, what is not, what is not allowed;
//! changes, herds, floods; and a Redis that is killed or stands still.

mod gateway;
mod stores;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gateway::Gateway;
use gateway::backend::{Backend, refusing_address};
use gateway::client::{Client, login};
use gateway::looked_up::{config, greeting, place};
use redis::Value;
use stores::process::until;
use stores::redis::Redis;

fn lookup(redis: &Redis, more: &str) -> String {
    config(&format!(
        "kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"\nkey = \"nodes\"\nfield = \"{{key}}\"\n\
         allow = [\"127.0.0.0/8\"]\n{more}\n",
        redis.port
    ))
}

fn start(redis: &Redis, more: &str) -> Gateway {
    let gateway = Gateway::start(&lookup(redis, more));
    gateway.wait_metric("corelane_lookup_connected{lookup=\"nodes\"}", 1.0);
    gateway
}

fn put(redis: &Redis, id: &str, address: impl ToString) {
    redis.run(&format!("HSET nodes {id} {}", address.to_string()));
}

/// How often the server was asked for a field.
fn asked(redis: &Redis) -> usize {
    let Value::VerbatimString { text, .. } = redis.run("INFO commandstats") else {
        let Value::BulkString(text) = redis.run("INFO commandstats") else { panic!("no text") };
        return calls(&String::from_utf8(text).unwrap());
    };
    calls(&text)
}

fn calls(stats: &str) -> usize {
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hget:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn devices_go_where_redis_says_and_nowhere_else() {
    let redis = Redis::start();
    let gateway = start(&redis, "allow_ports = [\"1024-65535\"]\nnegative_ttl = \"60s\"");
    let devices = gateway.address("devices");
    put(&redis, "a", Backend::echo("one"));
    for _ in 0..10 {
        assert_eq!(place(devices, "a").as_deref(), Some("one"));
    }
    // Each shard asked at most once.
    assert!(asked(&redis) <= 2);
    assert!(gateway.looked("hit") >= 8.0 && gateway.looked("asked") >= 1.0);
    let line = gateway.session_lines(1).remove(0);
    assert_eq!((&line["pool"], &line["placement"]), (&"nodes".into(), &"lookup".into()), "{line}");

    let ends_with = |id: &str, end: &str| {
        assert_eq!(place(devices, id), None, "{id}");
        assert_eq!(gateway.end_of(id), end, "{id}");
    };
    ends_with("nobody", "lookup_nothing");
    for (id, value) in [("null", "null"), ("big-null", "NULL")] {
        put(&redis, id, value);
        ends_with(id, "lookup_nothing");
    }
    let hostile = ["10.9.9.9:8080", "169.254.169.254:8080", "[::1]:8080", "127.0.0.1:22"];
    let broken = ["127.0.0.1", "localhost:8080", "127.0.0.1:99999", "unix:/run/x", "x/../y"];
    for (number, value) in hostile.iter().chain(&broken).enumerate() {
        let id = format!("bad-{number}");
        put(&redis, &id, value);
        ends_with(&id, "lookup_refused");
    }
    assert_eq!(gateway.questions("refused"), 9.0);
    ends_with("with blank", "lookup_name_invalid");
    redis.run("SET other x");
    redis.run("DEL nodes");
    redis.run("SET nodes text");
    until("a key of another type has no fields", || {
        place(devices, "a");
        sessions_of(&gateway, "lookup_stale") > 0.0
    });
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}

fn sessions_of(gateway: &Gateway, placement: &str) -> f64 {
    gateway.metric(&format!(
        "corelane_lookup_placements_total{{lookup=\"nodes\",reason=\"{placement}\"}}"
    ))
}

/// Without any of it an answer would be used for a minute.
#[test]
fn a_change_is_told_and_followed_at_once() {
    let redis = Redis::start();
    let gateway = start(&redis, "");
    let devices = gateway.address("devices");
    let backends: [SocketAddr; 2] = [Backend::echo("0"), Backend::echo("1")];
    put(&redis, "a", backends[0]);
    assert_eq!(place(devices, "a").as_deref(), Some("0"));
    let mut latencies = Vec::new();
    for round in 1..=20 {
        let expected = (round % 2).to_string();
        put(&redis, "a", backends[round % 2]);
        let began = Instant::now();
        while place(devices, "a").as_deref() != Some(&expected) {
            assert!(began.elapsed() < Duration::from_secs(5), "round {round}");
        }
        latencies.push(began.elapsed());
    }
    latencies.sort_unstable();
    println!("change to first session: median {:?}, longest {:?}", latencies[10], latencies[19]);
    // Nothing is remembered beyond its end either.
    redis.run("HDEL nodes a");
    until("that it is gone", || place(devices, "a").is_none());
    put(&redis, "a", backends[1]);
    until("that it is back", || place(devices, "a").as_deref() == Some("1"));
    redis.run("FLUSHALL");
    until("that all are gone", || place(devices, "a").is_none());
}

#[test]
fn a_herd_asks_once() {
    let redis = Redis::start();
    let gateway = start(&redis, "timeout = \"20s\"\nconnect_timeout = \"20s\"");
    let devices = gateway.address("devices");
    put(&redis, "a", Backend::echo("one"));
    redis.process.pause();
    let mut herd: Vec<Client> = (0..1_000).map(|_| Client::login(devices, "a")).collect();
    gateway.wait_metric("corelane_connections_active{listener=\"devices\"}", 1_000.0);
    let waiting = || {
        let (_, sessions) = gateway.get("/sessions?limit=2000");
        sessions.matches("\"lookup\"").count()
    };
    until("a thousand sessions wait", || waiting() == 1_000);
    redis.process.resume();
    for client in &mut herd {
        assert_eq!(greeting(client).as_deref(), Some("one"));
    }
    assert_eq!(asked(&redis), 1, "both shards share the question");
    assert_eq!((gateway.looked("asked"), gateway.looked("joined")), (2.0, 998.0));
    assert_eq!(gateway.questions("found"), 1.0);
}

#[test]
fn without_redis_what_was_known_goes_on() {
    let mut redis = Redis::start();
    let gateway = start(&redis, "ttl = \"500ms\"\ntimeout = \"500ms\"");
    let devices = gateway.address("devices");
    let backends = [Backend::echo("0"), Backend::echo("1")];
    put(&redis, "a", backends[0]);
    until("both shards know", || {
        place(devices, "a").as_deref() == Some("0")
            && gateway.metric("corelane_lookup_entries{lookup=\"nodes\"}") == 2.0
    });
    // Killed: the old answer goes on, and nobody waits for long.
    redis.process.kill();
    gateway.wait_metric("corelane_lookup_connected{lookup=\"nodes\"}", 0.0);
    until("the old answer, known to be old on both shards", || {
        assert_eq!(place(devices, "a").as_deref(), Some("0"));
        sessions_of(&gateway, "lookup_stale") >= 20.0
    });
    assert_eq!(place(devices, "b"), None);
    assert!(gateway.looked("failed") + gateway.looked("timeout") >= 1.0);
    // Back, and it knows nothing any more: that is believed.
    redis.restart();
    gateway.wait_metric("corelane_lookup_connected{lookup=\"nodes\"}", 1.0);
    until("the store is believed again", || place(devices, "a").is_none());
    put(&redis, "a", backends[1]);
    until("the new backend on both shards", || {
        (0..20).all(|_| place(devices, "a").as_deref() == Some("1"))
    });

    // Stands still: one waits for a question's time, those after it do not.
    redis.process.pause();
    gateway.wait_metric("corelane_lookup_connected{lookup=\"nodes\"}", 0.0);
    let stale = sessions_of(&gateway, "lookup_stale");
    until("an old answer on both shards", || {
        assert_eq!(place(devices, "a").as_deref(), Some("1"));
        sessions_of(&gateway, "lookup_stale") >= stale + 4.0
    });
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(place(devices, "a").as_deref(), Some("1"));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    put_later(&mut redis, "a", backends[0]);
    until("the change while it stood still", || place(devices, "a").as_deref() == Some("0"));
}

fn put_later(redis: &mut Redis, id: &str, address: SocketAddr) {
    redis.process.resume();
    put(redis, id, address);
}

#[test]
fn a_flood_of_names_is_bounded_and_spares_what_is_used() {
    let redis = Redis::start();
    let gateway = start(&redis, "max_entries = 16\nnegative_ttl = \"1h\"");
    let devices = gateway.address("devices");
    put(&redis, "hot", Backend::echo("hot"));
    for number in 0..600 {
        assert_eq!(place(devices, &format!("random-{number}")), None);
        if number % 5 == 0 {
            assert_eq!(place(devices, "hot").as_deref(), Some("hot"));
        }
    }
    assert!(gateway.metric("corelane_lookup_entries{lookup=\"nodes\"}") <= 32.0);
    let evicted = gateway.metric("corelane_lookup_evicted_total{lookup=\"nodes\"}");
    assert!(evicted >= 560.0, "{evicted}");
    assert!(gateway.looked("hit") >= 100.0, "the hot name is remembered all the while");
}

#[test]
fn an_address_that_refuses_is_tried_again_and_asked_for_again() {
    let redis = Redis::start();
    let gateway = start(&redis, "retries = 2");
    put(&redis, "a", refusing_address());
    assert_eq!(place(gateway.address("devices"), "a"), None);
    let line = gateway.assert_end("connect_refused");
    assert_eq!((&line["attempts"], &line["pool"]), (&3.into(), &"nodes".into()), "{line}");
    let failures = "corelane_lookup_backend_connect_failures_total{lookup=\"nodes\",\
                    reason=\"connect_refused\"}";
    assert_eq!(gateway.metric(failures), 3.0);
}

#[test]
fn a_reload_adds_changes_and_removes_lookups() {
    let redis = Redis::start();
    let gateway = start(&redis, "");
    let devices = gateway.address("devices");
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    put(&redis, "a", old);
    redis.run(&format!("HSET others a {new}"));
    let mut kept = Client::login(devices, "a");
    assert_eq!(greeting(&mut kept).as_deref(), Some("old"));
    assert_eq!(kept.receive(login("a").len()), login("a"));
    let reload = |toml: &str| {
        let toml = format!("{toml}\n[admin]\nlisten = \"127.0.0.1:0\"\n");
        std::fs::write(gateway.directory().join("corelane.toml"), toml).unwrap();
        let (status, body) = gateway.ask("POST", "/reload");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    // Unchanged, it remembers.
    let before = asked(&redis);
    let toml = lookup(&redis, "");
    reload(&toml);
    let body = reload(&toml.replace("key = \"nodes\"", "key = \"others\""));
    assert_eq!(body["lookups"]["changed"][0], "nodes", "{body}");
    until("the other hash", || place(devices, "a").as_deref() == Some("new"));
    assert!(asked(&redis) <= before + 2);
    let placed =
        || gateway.metric("corelane_lookup_placements_total{lookup=\"nodes\",reason=\"lookup\"}");
    let without = toml
        .replace("[lookup.nodes]", "[lookup.more]")
        .replace("lookup = \"nodes\"", "lookup = \"more\"");
    let body = reload(&without);
    assert_eq!(body["lookups"]["added"][0], "more", "{body}");
    assert_eq!(body["lookups"]["removed"][0], "nodes", "{body}");
    until("the new lookup", || place(devices, "a").as_deref() == Some("old"));
    kept.echo(b"still here");
    // What it has is shown until it ends, and what it had with both settings.
    gateway.wait_shards();
    let placed_before = placed();
    assert!(placed_before >= 2.0, "{placed_before}");
    let active = || gateway.metric("corelane_lookup_backend_connections_active{lookup=\"nodes\"}");
    until("nothing remembered", || {
        gateway.metric("corelane_lookup_entries{lookup=\"nodes\"}") == 0.0
    });
    until("one session", || active() == 1.0);
    assert_eq!(placed(), placed_before);
    // It comes back, and counts on.
    reload(&toml);
    until("the same lookup", || place(devices, "a").is_some() && placed() > placed_before);
    reload(&without);
    until("one session", || active() == 1.0);
    kept.fin();
    until("the end", || !gateway.get("/metrics").1.contains("lookup=\"nodes\""));
}

/// Who may not be told of changes asks more often, and a password is one like a source's.
#[test]
fn a_redis_that_may_not_tell_is_asked_more_often() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    redis.run("ACL SETUSER gate on >word ~* +@all -client|tracking");
    let gateway = start(&redis, "username = \"gate\"\npassword = \"word\"");
    let devices = gateway.address("devices");
    let backends = [Backend::echo("0"), Backend::echo("1")];
    put(&redis, "a", backends[0]);
    assert_eq!(place(devices, "a").as_deref(), Some("0"));
    put(&redis, "a", backends[1]);
    let began = Instant::now();
    until("the change", || place(devices, "a").as_deref() == Some("1"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(gateway.metric("corelane_lookup_changes_total{lookup=\"nodes\"}"), 0.0);
}

/// How often the control plane's thread, which is the first, has been woken.
fn wakes(gateway: &Gateway) -> u64 {
    let id = gateway.child.id();
    let status = std::fs::read_to_string(format!("/proc/{id}/task/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_is_remembered_wakes_nobody_else() {
    let redis = Redis::start();
    let gateway = start(&redis, "");
    let devices = gateway.address("devices");
    put(&redis, "a", Backend::echo("one"));
    until("both shards know", || {
        assert_eq!(place(devices, "a").as_deref(), Some("one"));
        gateway.metric("corelane_lookup_entries{lookup=\"nodes\"}") == 2.0
    });
    let (woken, asked_before) = (wakes(&gateway), asked(&redis));
    for _ in 0..500 {
        assert_eq!(place(devices, "a").as_deref(), Some("one"));
    }
    let woken = wakes(&gateway) - woken;
    assert!(woken < 100, "the control plane was woken {woken} times");
    assert_eq!(asked(&redis), asked_before);
}
