//! A prefix in a real etcd: every revision is told whole, every accident is survived, and no
//! accident is taken for a change.

mod stores;

use std::time::{Duration, Instant};

use corelane::config::{EtcdSource, StoreTls};
use corelane::source::{FailureCause, Report, Timings};
use stores::desk::shown;
use stores::etcd::{Etcd, Gateway, PREFIX, TIMINGS, settings, start, with_password};
use stores::proxy::Proxy;

const A: &str = "10.0.0.1:7000";
const B: &str = "10.0.0.2:7000";
const NOTHING: [&str; 0] = [];

/// An etcd with two members under the prefix.
fn two() -> Etcd {
    let etcd = Etcd::start();
    etcd.transaction(&[format!("put {PREFIX}{A} 1"), format!("put {PREFIX}{B} 2")]);
    etcd
}

const TWO: [&str; 2] = ["10.0.0.1:7000 1 ready", "10.0.0.2:7000 2 ready"];

#[test]
fn additions_removals_and_weights_are_told() {
    let etcd = two();
    let watch = etcd.watch();
    let reading = watch.set();
    assert_eq!(shown(&reading), TWO);
    assert_eq!(reading.revision, Some(etcd.revision().to_string()));
    etcd.put("10.0.0.3:7000", r#"{"weight":3,"state":"drain"}"#);
    let reading = watch.set();
    assert_eq!(shown(&reading)[2], "10.0.0.3:7000 3 drain");
    assert_eq!(reading.revision, Some(etcd.revision().to_string()));
    etcd.put(A, "7");
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 7 ready");
    etcd.delete("10.0.0.3:7000");
    assert_eq!(shown(&watch.set()), ["10.0.0.1:7000 7 ready", TWO[1]]);
    etcd.run(&format!("del --prefix {PREFIX}"));
    assert_eq!(shown(&watch.set()), NOTHING);
    etcd.put(A, "1");
    assert_eq!(shown(&watch.set()), [TWO[0]]);
    watch.end();
}

#[test]
fn other_keys_and_writes_that_change_nothing_are_no_news() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    etcd.run("put /corelane/other 1");
    etcd.run("put /corelane/c2t 1");
    etcd.put(A, "1");
    watch.is_quiet_for(Duration::from_millis(500));
    // Without any events the store is asked whether it is there.
    watch.unchanged();
    watch.refresh();
    watch.unchanged();
    watch.end();
}

#[test]
fn a_transaction_is_told_whole() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    for round in 0..5 {
        let (gone, new) = if round % 2 == 0 { ("10.0.0", "10.0.1") } else { ("10.0.1", "10.0.0") };
        let mut operations = Vec::new();
        for host in 1..=2 {
            operations.push(format!("del {PREFIX}{gone}.{host}:7000"));
            operations.push(format!("put {PREFIX}{new}.{host}:7000 {host}"));
        }
        etcd.transaction(&operations);
        let lines = shown(&watch.set());
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with(new)), "{lines:?}");
    }
    watch.end();
}

#[test]
fn more_than_one_answer_can_hold_is_caught_up_with_and_read() {
    let etcd = two();
    let proxy = Proxy::start(etcd.port);
    let watch = start(settings(&[proxy.port]), TIMINGS);
    assert_eq!(shown(&watch.set()), TWO);
    proxy.refuse(true);
    assert_eq!(watch.failure().cause, FailureCause::Unreachable);
    // Together over what we take in one answer: etcd sends fragments, and pages have to be small.
    let mut gateway = Gateway::connect(etcd.port).unwrap();
    let value = "x".repeat(1_000_000);
    for host in 0..20 {
        gateway.put(&format!("10.0.9.{host}:7000"), &value);
    }
    proxy.refuse(false);
    while watch.set_after_failures().0.rejected.len() != 20 {}
    watch.refresh();
    watch.is_quiet_for(Duration::from_millis(500));
    let fresh = etcd.watch();
    let reading = fresh.set();
    assert_eq!((shown(&reading).len(), reading.rejected.len()), (2, 20));
    watch.end();
    fresh.end();
}

#[test]
fn a_burst_of_changes_is_told_in_few_sets() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    let mut gateway = Gateway::connect(etcd.port).unwrap();
    let began = Instant::now();
    for weight in 1..=500 {
        gateway.put(A, &weight.to_string());
    }
    let took = began.elapsed();
    let mut sets = 0;
    loop {
        sets += 1;
        if shown(&watch.set())[0] == "10.0.0.1:7000 500 ready" {
            break;
        }
    }
    let most = 3 + took.as_millis() / 50;
    assert!(sets <= most, "{sets} sets in {took:?}");
    watch.end();
}

#[test]
fn a_large_prefix_is_read_in_pages_of_one_revision() {
    let etcd = Etcd::start();
    let mut gateway = Gateway::connect(etcd.port).unwrap();
    let key = |n: usize| format!("{PREFIX}10.0.{}.{}:7000", n / 250, n % 250);
    let puts: Vec<String> = (0..2_500)
        .map(|n| {
            let key = stores::etcd::base64(key(n).as_bytes());
            format!(r#"{{"request_put":{{"key":"{key}","value":"MQ=="}}}}"#)
        })
        .collect();
    for chunk in puts.chunks(128) {
        let body = format!(r#"{{"success":[{}]}}"#, chunk.join(","));
        gateway.post("/v3/kv/txn", &body).unwrap();
    }
    let watch = etcd.watch();
    assert_eq!(watch.set().members.len(), 2_500);
    etcd.run(&format!("del --prefix {PREFIX}10.0.1."));
    assert_eq!(watch.set().members.len(), 2_250);
    watch.end();
}

#[test]
fn a_killed_member_is_found_again_and_the_watch_taken_up() {
    let mut etcd = two();
    let watch = etcd.watch();
    assert_eq!(shown(&watch.set()), TWO);
    etcd.process.kill();
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Unreachable, "{failure}");
    assert!(failure.detail.contains(&etcd.port.to_string()), "{failure}");
    etcd.start_again();
    let (reading, causes) = watch.set_after_failures();
    assert_eq!(shown(&reading), TWO);
    let expected = [FailureCause::Unreachable, FailureCause::Unavailable, FailureCause::Timeout];
    assert!(causes.iter().all(|cause| expected.contains(cause)), "{causes:?}");
    etcd.put(A, "3");
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 3 ready");
    watch.end();
}

#[test]
fn an_older_backup_and_an_emptied_directory_are_what_the_store_says() {
    let mut etcd = two();
    etcd.process.kill();
    let backup = etcd.directory.path().join("backup");
    copy(&etcd.data(), &backup);
    etcd.start_again();
    for weight in 2..6 {
        etcd.put(A, &weight.to_string());
    }
    let watch = etcd.watch();
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 5 ready");
    etcd.process.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    std::fs::rename(&backup, etcd.data()).unwrap();
    etcd.start_again();
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    // The copy is followed from its own revision on.
    etcd.put(A, "9");
    assert_eq!(shown(&watch.set())[0], "10.0.0.1:7000 9 ready");
    etcd.process.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    etcd.start_again();
    assert_eq!(shown(&watch.set_after_failures().0), NOTHING);
    etcd.put(A, "1");
    assert_eq!(shown(&watch.set()), [TWO[0]]);
    watch.end();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_new_store_that_looks_like_the_old_one_is_found_out() {
    let mut etcd = two();
    // Only the whole reading a while after taking up can tell; here it comes soon.
    let watch = start(etcd.settings(), Timings { resync: Duration::from_secs(2), ..TIMINGS });
    assert_eq!(shown(&watch.set()), TWO);
    etcd.process.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    etcd.start_again();
    for _ in 0..10 {
        etcd.put(B, "6");
    }
    loop {
        match watch.news() {
            Report::Set(reading) if shown(&reading) == ["10.0.0.2:7000 6 ready"] => break,
            _ => {}
        }
    }
    watch.end();
}

#[test]
fn a_paused_member_is_noticed_and_found_again() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    let shown = watch.survives_a_pause(&etcd.process, &TWO, || etcd.put(A, "5"));
    assert_eq!(shown[0], "10.0.0.1:7000 5 ready");
    watch.end();
}

#[test]
fn an_expired_lease_takes_its_members_with_it() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    let said = etcd.run("lease grant 3");
    let lease = said.split(' ').nth(1).unwrap();
    etcd.transaction(&[
        format!("put --lease={lease} {PREFIX}10.0.0.8:7000 8"),
        format!("put --lease={lease} {PREFIX}10.0.0.9:7000 9"),
    ]);
    assert_eq!(watch.set().members.len(), 4);
    assert_eq!(shown(&watch.set()), TWO);
    watch.end();
}

#[test]
fn compaction_while_away_means_reading_everything_again() {
    let etcd = two();
    let proxy = Proxy::start(etcd.port);
    let watch = start(settings(&[proxy.port]), TIMINGS);
    assert_eq!(shown(&watch.set()), TWO);
    // Compaction is no news to a watch that is up to date.
    etcd.put(A, "2");
    watch.set();
    etcd.run(&format!("compact {}", etcd.revision()));
    watch.is_quiet_for(Duration::from_millis(300));
    proxy.refuse(true);
    assert_eq!(watch.failure().cause, FailureCause::Unreachable);
    etcd.delete(A);
    for weight in 3..6 {
        etcd.put(B, &weight.to_string());
    }
    etcd.run(&format!("compact {}", etcd.revision()));
    proxy.refuse(false);
    loop {
        match watch.news() {
            // The copy is reported when the store is there again, and then what it has become.
            Report::Set(reading) if shown(&reading) == ["10.0.0.2:7000 5 ready"] => break,
            Report::Set(reading) => assert_eq!(reading.members.len(), 2),
            _ => {}
        }
    }
    etcd.put(A, "1");
    assert_eq!(watch.set().members.len(), 2);
    watch.end();
}

#[test]
fn changes_while_away_are_caught_up_with() {
    let etcd = two();
    let proxy = Proxy::start(etcd.port);
    let watch = start(settings(&[proxy.port]), TIMINGS);
    watch.set();
    proxy.refuse(true);
    assert_eq!(watch.failure().cause, FailureCause::Unreachable);
    etcd.delete(A);
    etcd.put("10.0.0.3:7000", "3");
    proxy.refuse(false);
    loop {
        let reading = watch.set_after_failures().0;
        if shown(&reading) == [TWO[1], "10.0.0.3:7000 3 ready"] {
            break;
        }
    }
    watch.end();
}

#[test]
fn garbage_is_named_and_does_not_hide_what_is_good() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    etcd.put("nonsense", "1");
    assert_eq!(watch.set().rejected[0].entry, "nonsense");
    etcd.put(B, "many");
    let reading = watch.set();
    assert_eq!((shown(&reading).len(), reading.rejected.len()), (1, 2));
    etcd.put("10.0.0.7:7000/deeper", "1");
    assert_eq!(watch.set().rejected.len(), 3);
    etcd.put(B, "2");
    etcd.delete("nonsense");
    etcd.delete("10.0.0.7:7000/deeper");
    while !watch.set().rejected.is_empty() {}
    watch.end();
}

/// Lets nobody in but `root`, and `gate` to read below the prefix.
fn lock(etcd: &Etcd) {
    for command in [
        "user add root:root-secret",
        "role add reader",
        &format!("role grant-permission --prefix=true reader read {PREFIX}"),
        "user add gate:gate-secret",
        "user grant-role gate reader",
        "user grant-role root root",
        "auth enable",
    ] {
        etcd.run(command);
    }
}

const ROOT: &str = "--user root:root-secret";

#[test]
fn a_password_is_needed_and_may_come_later() {
    let etcd = two();
    lock(&etcd);
    let without = etcd.watch();
    assert_eq!(without.failure().cause, FailureCause::Denied);
    let later = start(with_password(etcd.settings(), "gate", "other-secret"), TIMINGS);
    let failure = later.failure();
    assert_eq!(failure.cause, FailureCause::Denied, "{failure}");
    assert!(!failure.detail.contains("secret"), "{failure}");
    let right = start(with_password(etcd.settings(), "gate", "gate-secret"), TIMINGS);
    assert_eq!(shown(&right.set()), TWO);
    let change = format!("{ROOT} user passwd gate --interactive=false");
    etcd.run_with(&change, "other-secret");
    let (reading, causes) = later.set_after_failures();
    assert_eq!(shown(&reading), TWO);
    assert!(causes.iter().all(|cause| *cause == FailureCause::Denied), "{causes:?}");
    // Rights that are missing are named as such.
    let elsewhere = EtcdSource { prefix: "/elsewhere/".to_owned(), ..etcd.settings() };
    let stranger = start(with_password(elsewhere, "gate", "other-secret"), TIMINGS);
    let failure = stranger.failure();
    assert_eq!(failure.cause, FailureCause::Denied, "{failure}");
    assert!(failure.detail.contains("permission denied"), "{failure}");
    etcd.run(&format!("{ROOT} auth disable"));
    assert_eq!(shown(&without.set_after_failures().0), TWO);
    for watch in [without, later, right, stranger] {
        watch.end();
    }
}

#[test]
fn an_expired_token_is_renewed_without_a_failure() {
    let etcd = Etcd::start_with(&["--auth-token-ttl", "1"]);
    etcd.put(A, "1");
    lock(&etcd);
    let watch = start(with_password(etcd.settings(), "gate", "gate-secret"), TIMINGS);
    assert_eq!(watch.set().members.len(), 1);
    for _ in 0..2 {
        watch.is_quiet_for(Duration::from_millis(2_500));
        watch.refresh();
        watch.unchanged();
    }
    etcd.run(&format!("{ROOT} put {PREFIX}{A} 4"));
    assert_eq!(shown(&watch.set()), ["10.0.0.1:7000 4 ready"]);
    watch.end();
}

#[test]
fn slow_answers_are_timeouts_until_they_are_quick() {
    let etcd = two();
    let proxy = Proxy::start(etcd.port);
    proxy.delay_bytes(Duration::from_millis(30));
    let watch = start(settings(&[proxy.port]), TIMINGS);
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    proxy.delay_bytes(Duration::ZERO);
    assert_eq!(shown(&watch.set_after_failures().0), TWO);
    proxy.delay_bytes(Duration::from_millis(100));
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    watch.end();
}

#[test]
fn another_member_takes_over_and_a_minority_says_so() {
    let mut members = Etcd::start_many(3);
    members[0].transaction(&[format!("put {PREFIX}{A} 1"), format!("put {PREFIX}{B} 2")]);
    let ports: Vec<u16> = members.iter().map(|member| member.port).collect();
    let watch = start(settings(&ports), TIMINGS);
    assert_eq!(shown(&watch.set()), TWO);
    members[0].process.kill();
    members[1].wait();
    members[1].put(A, "3");
    loop {
        match watch.news() {
            Report::Set(reading) if shown(&reading)[0] == "10.0.0.1:7000 3 ready" => break,
            Report::Set(reading) => assert_eq!(shown(&reading), TWO),
            // While a new leader is elected nobody can answer.
            Report::Failed(failure) => assert_ne!(failure.cause, FailureCause::Malformed),
            Report::Unchanged => {}
        }
    }
    members[1].process.kill();
    // The last one is there and connected to, but may not speak for the store.
    let failure = watch.failure();
    let expected = [FailureCause::Unavailable, FailureCause::Timeout, FailureCause::Unreachable];
    assert!(expected.contains(&failure.cause), "{failure}");
    let lone = start(settings(&ports[2..]), TIMINGS);
    let failure = lone.failure();
    assert!(expected[..2].contains(&failure.cause), "{failure}");
    members[0].start_again();
    assert_eq!(shown(&watch.set_after_failures().0)[0], "10.0.0.1:7000 3 ready");
    assert_eq!(shown(&lone.set_after_failures().0)[0], "10.0.0.1:7000 3 ready");
    watch.end();
    lone.end();
}

#[test]
fn the_prefix_is_read_again_although_nothing_was_told() {
    let etcd = two();
    let watch = start(etcd.settings(), Timings { resync: Duration::from_millis(300), ..TIMINGS });
    watch.set();
    // More often than the store is asked whether it is there.
    let began = Instant::now();
    for _ in 0..4 {
        watch.unchanged();
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    watch.end();
}

#[test]
fn tls_is_verified_by_the_given_authority() {
    let directory = stores::process::Directory::new("etcd-tls");
    stores::process::certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let text = |name: &str| file(name).display().to_string();
    let port = stores::process::free_port();
    let address = format!("https://127.0.0.1:{port}");
    let etcd = Etcd::start_with(&[
        "--listen-client-urls",
        &format!("http://127.0.0.1:{{port}},{address}"),
        "--cert-file",
        &text("store.pem"),
        "--key-file",
        &text("store.key"),
        "--trusted-ca-file",
        &text("ca.pem"),
        "--client-cert-auth",
    ]);
    etcd.put(A, "1");
    let secured = |tls: StoreTls| {
        let endpoints = vec![address.clone()];
        start(EtcdSource { endpoints, tls, ..etcd.settings() }, TIMINGS)
    };
    let stranger = secured(StoreTls::default());
    let failure = stranger.failure();
    assert_eq!(failure.cause, FailureCause::Unreachable, "{failure}");
    assert!(failure.detail.contains("certificate"), "{failure}");
    let ours = (file("gate.pem"), file("gate.key"));
    let known = secured(StoreTls { ca_file: Some(file("ca.pem")), client: Some(ours) });
    assert_eq!(known.set().members.len(), 1);
    let nameless = secured(StoreTls { ca_file: Some(file("ca.pem")), client: None });
    assert_eq!(nameless.failure().cause, FailureCause::Unreachable);
    for watch in [stranger, known, nameless] {
        watch.end();
    }
}

#[test]
fn a_change_is_told_though_a_reading_is_asked_for_at_the_same_time() {
    let etcd = two();
    let watch = etcd.watch();
    watch.set();
    let mut gateway = Gateway::connect(etcd.port).unwrap();
    for weight in 10..30 {
        gateway.put(A, &weight.to_string());
        watch.refresh();
        let told = format!("10.0.0.1:7000 {weight} ready");
        assert_eq!(shown(&watch.set())[0], told);
    }
    watch.end();
}
