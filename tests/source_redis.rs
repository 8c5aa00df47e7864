//! A hash in a real Redis: every change is told, every accident is survived, and no accident is
//! taken for a change.

mod stores;

use std::time::{Duration, Instant};

use corelane::config::{RedisSource, StoreTls};
use corelane::source::{FailureCause, Report, Timings};
use stores::desk::shown;
use stores::proxy::Proxy;
use stores::redis::{KEY, Redis, TIMINGS, settings, start, with_password};

const A: &str = "10.0.0.1:7000";
const B: &str = "10.0.0.2:7000";
const NOTHING: [&str; 0] = [];

/// A Redis with two members in the hash.
fn two() -> Redis {
    let redis = Redis::start();
    redis.put(&format!("{A} 1 {B} 2"));
    redis
}

const TWO: [&str; 2] = ["10.0.0.1:7000 1 ready", "10.0.0.2:7000 2 ready"];

#[test]
fn additions_removals_and_weights_are_told() {
    let redis = two();
    let watch = redis.watch();
    assert_eq!(shown(&watch.set()), TWO);
    redis.put("10.0.0.3:7000 {\"weight\":3,\"state\":\"drain\",\"order\":1}");
    let reading = watch.set();
    assert_eq!(shown(&reading)[2], "10.0.0.3:7000 3 drain");
    assert_eq!(reading.members[2].order, Some(1));
    redis.put(&format!("{A} 7"));
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 7 ready");
    redis.run(&format!("HDEL {KEY} {B} 10.0.0.3:7000"));
    assert_eq!(shown(&watch.set()), ["10.0.0.1:7000 7 ready"]);
    // A hash without fields is no hash: that is how an empty set looks.
    redis.run(&format!("HDEL {KEY} {A}"));
    assert_eq!(shown(&watch.set()), NOTHING);
    redis.put(&format!("{A} 1"));
    assert_eq!(shown(&watch.set()), ["10.0.0.1:7000 1 ready"]);
    redis.run(&format!("RENAME {KEY} elsewhere"));
    assert_eq!(shown(&watch.set()), NOTHING);
    watch.end();
}

#[test]
fn other_keys_and_writes_that_change_nothing_are_no_news() {
    let redis = two();
    let watch = redis.watch();
    assert_eq!(shown(&watch.set()), TWO);
    redis.run(&format!("HSET {KEY}:more {A} 9"));
    redis.run("SET other 1");
    redis.put(&format!("{A} 1"));
    watch.is_quiet_for(Duration::from_millis(500));
    // Without any traffic the server is asked whether it is there.
    watch.unchanged();
    watch.end();
}

#[test]
fn a_burst_of_changes_is_told_in_few_sets() {
    let redis = two();
    let watch = redis.watch();
    watch.set();
    let mut connection = redis.connection();
    let began = Instant::now();
    for weight in 1..=2_000 {
        redis::cmd("HSET").arg(KEY).arg(A).arg(weight).exec(&mut connection).unwrap();
    }
    let took = began.elapsed();
    let mut sets = 0;
    loop {
        let reading = watch.set();
        sets += 1;
        if shown(&reading)[0] == "10.0.0.1:7000 2000 ready" {
            break;
        }
    }
    let most = 3 + took.as_millis() / 50;
    assert!(sets <= most, "{sets} sets in {took:?}");
    watch.end();
}

#[test]
fn a_killed_server_is_found_again_with_what_it_has() {
    let mut redis = two();
    redis.run("SAVE");
    let watch = redis.watch();
    assert_eq!(shown(&watch.set()), TWO);
    redis.process.kill();
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Unreachable);
    assert!(failure.detail.contains(&redis.port.to_string()), "{failure}");
    redis.restart();
    let (reading, causes) = watch.set_after_failures();
    assert_eq!(shown(&reading), TWO);
    // Refused by the kernel, or loading its data.
    let expected = [FailureCause::Unreachable, FailureCause::Unavailable];
    assert!(causes.iter().all(|cause| expected.contains(cause)), "{causes:?}");
    // An older state: what was written after the last save is lost.
    redis.put("10.0.0.3:7000 3");
    assert_eq!(watch.set().members.len(), 3);
    redis.restart();
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    // And none at all.
    redis.process.kill();
    std::fs::remove_file(redis.directory.path().join("dump.rdb")).unwrap();
    redis.restart();
    assert_eq!(shown(&watch.set_after_failures().0), NOTHING);
    redis.put(&format!("{A} 1"));
    assert_eq!(watch.set().members.len(), 1);
    watch.end();
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut redis = two();
    redis.run("SAVE");
    redis.process.kill();
    let watch = redis.watch();
    assert_eq!(watch.failure().cause, FailureCause::Unreachable);
    redis.restart();
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    watch.end();
}

#[test]
fn a_paused_server_is_noticed_and_found_again() {
    let redis = two();
    let watch = redis.watch();
    watch.set();
    let change = || redis.put(&format!("{A} 5"));
    let shown = watch.survives_a_pause(&redis.process, &TWO, change);
    assert_eq!(shown[0], "10.0.0.1:7000 5 ready");
    watch.end();
}

#[test]
fn wiping_and_expiry_are_empty_sets() {
    let redis = two();
    let watch = redis.watch();
    for wipe in ["FLUSHALL", "FLUSHDB", &format!("DEL {KEY}"), &format!("PEXPIRE {KEY} 100")] {
        redis.put(&format!("{A} 1"));
        while watch.set().members.is_empty() {}
        redis.run(wipe);
        while !watch.set().members.is_empty() {}
    }
    watch.end();
}

#[test]
fn garbage_is_named_and_does_not_hide_what_is_good() {
    let redis = two();
    let watch = redis.watch();
    watch.set();
    redis.put("nonsense 1 10.0.0.9:7000 many 10.0.0.8:7000 {\"weight\":\"x\"}");
    let reading = watch.set();
    assert_eq!(shown(&reading), TWO);
    let mut names: Vec<&str> = reading.rejected.iter().map(|r| r.entry.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["10.0.0.8:7000", "10.0.0.9:7000", "nonsense"]);
    let mut connection = redis.connection();
    let bytes: Vec<u8> = (0..=255).collect();
    redis::cmd("HSET").arg(KEY).arg(&bytes).arg(&bytes).exec(&mut connection).unwrap();
    assert_eq!(watch.set().rejected.len(), 4);
    watch.end();
}

#[test]
fn what_is_no_hash_or_too_large_is_a_failure_until_it_is_repaired() {
    let redis = two();
    let proxy = Proxy::start(redis.port);
    let watch = start(settings(&format!("redis://127.0.0.1:{}", proxy.port)), TIMINGS);
    watch.set();
    let repair = || {
        redis.run(&format!("DEL {KEY}"));
        redis.put(&format!("{A} 1 {B} 2"));
        while shown(&watch.set_after_failures().0) != TWO {}
    };
    // The deletion may be told before it is seen that there is something else.
    let failure = || {
        loop {
            match watch.news() {
                Report::Failed(failure) => return failure,
                Report::Set(reading) => assert_eq!(shown(&reading), NOTHING),
                Report::Unchanged => {}
            }
        }
    };
    redis.run(&format!("SET {KEY} text"));
    let wrong = failure();
    assert_eq!(wrong.cause, FailureCause::Malformed);
    assert!(wrong.detail.contains("WRONGTYPE"), "{wrong}");
    repair();
    let mut connection = redis.connection();
    let mut many = redis::cmd("HSET");
    many.arg(KEY);
    for entry in 0..50_001 {
        many.arg(entry).arg(1);
    }
    many.exec(&mut connection).unwrap();
    let wrong = failure();
    assert!(wrong.detail.contains("50003 fields, 50000 at most"), "{wrong}");
    repair();
    assert_eq!(proxy.accepted(), 1, "all of this needs no other connection");
    let mut large = redis::cmd("HSET");
    large.arg(KEY);
    for entry in 0..9 {
        large.arg(entry).arg(vec![b'x'; 4 << 20]);
    }
    large.exec(&mut connection).unwrap();
    let wrong = failure();
    assert_eq!(wrong.cause, FailureCause::Malformed);
    assert!(wrong.detail.contains("an answer too long"), "{wrong}");
    repair();
    watch.end();
}

#[test]
fn a_password_is_needed_and_may_come_later() {
    let redis = Redis::start_with(&["--requirepass", "first-secret"]);
    redis.put(&format!("{A} 1 {B} 2"));
    let without = redis.watch();
    assert_eq!(without.failure().cause, FailureCause::Denied);
    let later = start(with_password(redis.settings(), "second-secret"), TIMINGS);
    let failure = later.failure();
    assert_eq!(failure.cause, FailureCause::Denied);
    assert!(!failure.detail.contains("secret"), "{failure}");
    let right = start(with_password(redis.settings(), "first-secret"), TIMINGS);
    assert_eq!(shown(&right.set()), TWO);
    redis.run("CONFIG SET requirepass second-secret");
    let (reading, causes) = later.set_after_failures();
    assert_eq!(shown(&reading), TWO);
    assert!(causes.iter().all(|cause| *cause == FailureCause::Denied), "{causes:?}");
    without.end();
    later.end();
    right.end();
}

#[test]
fn rights_can_be_taken_and_given() {
    let redis = two();
    // No more than is needed.
    redis.run(
        "ACL SETUSER gate on >pass ~corelane:* +hello +ping +select +client|tracking +hlen +hgetall",
    );
    let user = Some("gate".to_owned());
    let named = RedisSource { username: user, ..with_password(redis.settings(), "pass") };
    let watch = start(named, TIMINGS);
    assert_eq!(shown(&watch.set()), TWO);
    redis.put(&format!("{A} 3"));
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 3 ready");
    redis.run("ACL SETUSER gate -hgetall");
    redis.put(&format!("{A} 2"));
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Denied);
    assert!(failure.detail.contains("hgetall"), "{failure}");
    redis.run("ACL SETUSER gate +hgetall");
    assert_eq!(shown(&watch.set_after_failures().0)[0], "10.0.0.1:7000 2 ready");
    redis.run("ACL DELUSER gate");
    assert_eq!(watch.failure_of(FailureCause::Denied).cause, FailureCause::Denied);
    watch.end();
}

#[test]
fn slow_answers_are_timeouts_until_they_are_quick() {
    let redis = two();
    let proxy = Proxy::start(redis.port);
    proxy.delay_bytes(Duration::from_millis(30));
    let watch = start(settings(&format!("redis://127.0.0.1:{}", proxy.port)), TIMINGS);
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    proxy.delay_bytes(Duration::ZERO);
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    proxy.delay_bytes(Duration::from_millis(100));
    redis.put(&format!("{A} 2"));
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    watch.end();
}

#[test]
fn a_connection_that_is_cut_is_made_anew() {
    let redis = two();
    let watch = redis.watch();
    for weight in 2..5 {
        watch.set();
        redis.run("CLIENT KILL TYPE normal SKIPME yes");
        redis.put(&format!("{A} {weight}"));
        assert_eq!(watch.failure().cause, FailureCause::Unreachable);
    }
    assert_eq!(shown(&watch.set_after_failures().0)[0], "10.0.0.1:7000 4 ready");
    watch.end();
}

#[test]
fn keyspace_notifications_stand_in_for_tracking() {
    let redis =
        Redis::start_with(&["--rename-command", "CLIENT", "", "--notify-keyspace-events", "Kghx"]);
    redis.put(&format!("{A} 1 {B} 2"));
    let watch = redis.watch();
    assert_eq!(shown(&watch.set()), TWO);
    for weight in 2..5 {
        let began = Instant::now();
        redis.put(&format!("{A} {weight}"));
        assert_eq!(shown(&watch.set())[0], format!("10.0.0.1:7000 {weight} ready"));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    watch.end();
}

#[test]
fn a_server_that_tells_nothing_is_asked_often() {
    // As old servers are: no RESP3, and errors that repeat what they were sent.
    let redis = Redis::start_with(&["--rename-command", "HELLO", "", "--requirepass", "secret"]);
    redis.put(&format!("{A} 1 {B} 2"));
    let watch = start(with_password(redis.settings(), "secret"), TIMINGS);
    assert_eq!(shown(&watch.set()), TWO);
    redis.put(&format!("{A} 2"));
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 2 ready");
    redis.put(&format!("{A} 3"));
    let asked = Instant::now();
    watch.refresh();
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 3 ready");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    redis.run("CONFIG SET requirepass other");
    let wrong = start(with_password(redis.settings(), "secret"), TIMINGS);
    let failure = wrong.failure();
    assert_eq!(failure.cause, FailureCause::Denied, "{failure}");
    assert!(!failure.detail.contains("secret"), "{failure}");
    wrong.end();
    watch.end();
}

#[test]
fn a_server_that_cannot_answer_now_is_unavailable() {
    let redis = two();
    let watch = redis.watch();
    watch.set();
    redis.run("CONFIG SET replica-serve-stale-data no");
    redis.run("REPLICAOF 127.0.0.1 1");
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Unavailable, "{failure}");
    assert!(failure.detail.contains("MASTER is down"), "{failure}");
    redis.run("REPLICAOF NO ONE");
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    watch.end();
    let alone = Redis::start_with(&["--cluster-enabled", "yes"]);
    let watch = alone.watch();
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Unavailable, "{failure}");
    assert!(failure.detail.contains("slot"), "{failure}");
    watch.end();
}

#[test]
fn the_node_of_a_cluster_that_has_the_hash_is_found() {
    let nodes = [
        Redis::start_with(&["--cluster-enabled", "yes"]),
        Redis::start_with(&["--cluster-enabled", "yes"]),
    ];
    let bus = nodes[1].port + 10_000;
    nodes[0].run(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", nodes[1].port));
    let redis::Value::Int(slot) = nodes[0].run(&format!("CLUSTER KEYSLOT {KEY}")) else { panic!() };
    for range in [format!("0 {}", slot - 1), format!("{} 16383", slot + 1)] {
        nodes[0].run(&format!("CLUSTER ADDSLOTSRANGE {range}"));
    }
    nodes[1].run(&format!("CLUSTER ADDSLOTS {slot}"));
    let watch = nodes[0].watch();
    // Until both nodes agree on who has what, there is nobody to ask.
    let set = |entry: &str| {
        stores::process::until("the cluster takes a write", || {
            nodes[1].try_run(&format!("HSET {KEY} {entry}")).is_ok()
        });
    };
    set(&format!("{A} 1"));
    while shown(&watch.set_after_failures().0) != [TWO[0]] {}
    set(&format!("{B} 2"));
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    watch.end();
}

#[test]
fn the_hash_is_read_again_although_nothing_was_told() {
    let redis = two();
    let timings = Timings { resync: Duration::from_millis(200), ..TIMINGS };
    let watch = start(redis.settings(), timings);
    watch.set();
    for _ in 0..3 {
        watch.unchanged();
    }
    let redis::Value::BulkString(stats) = redis.run("INFO commandstats") else { panic!() };
    let stats = String::from_utf8(stats).unwrap();
    let calls = stats.split("cmdstat_hgetall:calls=").nth(1).unwrap();
    let calls: u32 = calls.split(',').next().unwrap().parse().unwrap();
    assert!(calls >= 4, "{calls} readings");
    watch.end();
}

#[test]
fn databases_and_unix_sockets() {
    let redis = Redis::start_with(&["--unixsocket", "redis.sock"]);
    let socket = redis.directory.path().join("redis.sock");
    let watch = start(settings(&format!("redis+unix://{}?db=3", socket.display())), TIMINGS);
    assert_eq!(shown(&watch.set()), NOTHING);
    let tcp = start(settings(&format!("redis://127.0.0.1:{}/3", redis.port)), TIMINGS);
    assert_eq!(shown(&tcp.set()), NOTHING);
    let mut connection = redis.connection();
    redis::cmd("SELECT").arg(3).exec(&mut connection).unwrap();
    redis::cmd("HSET").arg(KEY).arg(A).arg(1).exec(&mut connection).unwrap();
    assert_eq!(watch.set().members.len(), 1);
    assert_eq!(tcp.set().members.len(), 1);
    watch.end();
    tcp.end();
}

#[test]
fn tls_is_verified_by_the_given_authority() {
    let tls = stores::process::free_port();
    let directory = stores::process::Directory::new("redis-tls");
    stores::process::certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let text = |name: &str| file(name).display().to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &tls.to_string(),
        "--tls-cert-file",
        &text("store.pem"),
        "--tls-key-file",
        &text("store.key"),
        "--tls-ca-cert-file",
        &text("ca.pem"),
    ]);
    redis.put(&format!("{A} 1 {B} 2"));
    let url = format!("rediss://127.0.0.1:{tls}");
    let stranger = start(settings(&url), TIMINGS);
    let failure = stranger.failure();
    assert_eq!(failure.cause, FailureCause::Unreachable);
    assert!(failure.detail.contains("certificate"), "{failure}");
    let ours = (file("gate.pem"), file("gate.key"));
    let trusting = StoreTls { ca_file: Some(file("ca.pem")), client: Some(ours) };
    let known = start(RedisSource { tls: trusting.clone(), ..settings(&url) }, TIMINGS);
    assert_eq!(shown(&known.set()), TWO);
    // The server asks for a certificate of ours, too.
    let nameless = StoreTls { client: None, ..trusting };
    let nameless = start(RedisSource { tls: nameless, ..settings(&url) }, TIMINGS);
    assert_eq!(nameless.failure().cause, FailureCause::Unreachable);
    redis.put(&format!("{A} 2"));
    assert_eq!(shown(&known.set())[0], "10.0.0.1:7000 2 ready");
    for watch in [stranger, known, nameless] {
        watch.end();
    }
}
