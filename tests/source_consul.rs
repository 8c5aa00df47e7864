//! A service in Consul, watched while everything that happens to stores happens to it. Every agent
//! here is a real one; only what no agent would say comes from a listener of the test's own.

mod stores;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use corelane::config::{ConsulSource, StoreTls};
use corelane::source::consul::watch;
use corelane::source::{FailureCause, Report, Timings};
use serde_json::json;

use stores::consul::{Consul, MASTER, SERVICE, TIMEOUT, certificates, settings, start};
use stores::desk::{Watch, shown};
use stores::process::{DEADLINE, Directory, pause};
use stores::proxy::Proxy;

fn line(number: u8, weight: u32) -> String {
    format!("10.0.0.{number}:1000 {weight} ready")
}

#[test]
fn every_change_is_seen() {
    let consul = Consul::start();
    let watch = consul.watch();
    let empty = watch.set();
    assert_eq!((empty.members.len(), empty.rejected.len()), (0, 0), "nothing is registered yet");
    assert!(empty.revision.is_some());

    consul.register(1, 1);
    assert_eq!(shown(&watch.set()), [line(1, 1)]);
    consul.register(2, 1);
    assert_eq!(shown(&watch.set()), [line(1, 1), line(2, 1)]);
    consul.register(2, 7);
    assert_eq!(shown(&watch.set()), [line(1, 1), line(2, 7)]);
    consul.deregister(1);
    assert_eq!(shown(&watch.set()), [line(2, 7)]);

    // Health: critical, warning (it does not pass), passing again.
    let checked = json!({ "Name": SERVICE, "ID": "checked", "Address": "::1", "Port": 1001,
        "Check": { "TTL": "60s", "Status": "passing" } });
    consul.register_as(&checked);
    let both = ["10.0.0.2:1000 7 ready", "[::1]:1001 1 ready"];
    assert_eq!(shown(&watch.set()), both);
    consul.put("/v1/agent/check/fail/service:checked", "");
    assert_eq!(shown(&watch.set()), [line(2, 7)]);
    consul.put("/v1/agent/check/pass/service:checked", "");
    assert_eq!(shown(&watch.set()), both);
    consul.put("/v1/agent/check/warn/service:checked", "");
    assert_eq!(shown(&watch.set()), [line(2, 7)]);

    // Without an address of its own an instance is at its node's.
    consul.register_as(&json!({ "Name": SERVICE, "ID": "at-node", "Port": 1002 }));
    assert_eq!(shown(&watch.set()), [&line(2, 7), "127.0.0.1:1002 1 ready"]);

    // Wiped.
    consul.deregister(2);
    watch.set();
    for id in ["checked", "at-node"] {
        consul.put(&format!("/v1/agent/service/deregister/{id}"), "");
    }
    assert_eq!(shown(&watch.set()), [""; 0]);
    watch.end();
}

#[test]
fn tags_datacentres_and_entries_that_are_no_members() {
    let consul = Consul::start();
    consul.register(1, 1);
    for (id, address, tags) in
        [("b", "10.0.0.9", ["blue"]), ("g", "10.0.0.8", ["green"]), ("n", "a.test", ["green"])]
    {
        consul.register_as(&json!({ "Name": SERVICE, "ID": id, "Address": address, "Port": 1000,
            "Tags": tags }));
    }
    consul.register_as(&json!({ "Name": SERVICE, "ID": "again", "Address": "10.0.0.1",
        "Port": 1000, "Weights": { "Passing": 9, "Warning": 1 } }));
    consul.register_as(&json!({ "Name": SERVICE, "ID": "portless", "Address": "10.0.0.3" }));

    let all = consul.watch().set();
    assert_eq!(shown(&all), [line(1, 1), line(8, 1), line(9, 1)], "the smaller weight counts");
    let rejected: Vec<(&str, &str)> =
        all.rejected.iter().map(|entry| (&*entry.entry, &*entry.why)).collect();
    assert_eq!(
        rejected,
        [
            ("n", "\"a.test\": invalid IP address syntax"),
            ("portless", "it has no port"),
            ("10.0.0.1:1000", "the same address as another entry"),
        ]
    );
    let of = |tag: Option<&str>, datacentre: Option<&str>| {
        let (tag, datacentre) = (tag.map(str::to_owned), datacentre.map(str::to_owned));
        start(ConsulSource { tag, datacentre, ..consul.settings() })
    };
    assert_eq!(shown(&of(Some("green"), Some("dc1")).set()), [line(8, 1)]);
    assert_eq!(shown(&of(Some("no&such=tag"), None).set()), [""; 0]);
    let failure = of(None, Some("elsewhere")).failure();
    assert_eq!(failure.cause, FailureCause::Unavailable);
    assert!(failure.detail.contains("No path to datacenter"), "{failure}");
}

#[test]
fn an_outage_changes_nothing_and_ends_without_help() {
    let mut consul = Consul::start_durable();
    consul.register(1, 1);
    consul.register(2, 3);
    let watch = consul.watch();
    assert_eq!(shown(&watch.set()), [line(1, 1), line(2, 3)]);

    consul.process.kill();
    assert_eq!(watch.failure().cause, FailureCause::Unreachable);
    consul.restart();
    // The agent has to elect a leader and to register what it remembers: until then it fails.
    consul.register(3, 1);
    let (reading, causes) = watch.set_after_failures();
    assert_eq!(shown(&reading), [line(1, 1), line(2, 3), line(3, 1)]);
    assert!(causes.iter().all(|cause| *cause != FailureCause::Malformed), "{causes:?}");

    // A new server with nothing: its index is behind ours, and its emptiness is the truth.
    consul.restart_empty();
    let (reading, _) = watch.set_after_failures();
    assert_eq!(shown(&reading), [""; 0]);
    consul.register(4, 1);
    assert_eq!(shown(&watch.set()), [line(4, 1)]);
    watch.end();
}

#[test]
fn a_paused_agent_is_given_up_and_found_again() {
    let consul = Consul::start();
    consul.register(1, 1);
    let watch = consul.watch();
    watch.set();
    watch.unchanged();

    consul.process.pause();
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Timeout, "{failure}");
    assert_eq!(watch.failure().cause, FailureCause::Timeout, "it goes on trying");
    consul.process.resume();
    consul.register(2, 1);
    let (reading, _) = watch.set_after_failures();
    assert_eq!(shown(&reading), [line(1, 1), line(2, 1)]);
}

#[test]
fn a_token_is_read_for_every_query() {
    let consul = Consul::start_closed();
    consul.register(1, 1);
    let directory = Directory::new("token");
    let file = directory.path().join("token");
    let watch = start(ConsulSource { token_file: Some(file.clone()), ..consul.settings() });
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Denied);
    assert!(failure.detail.contains("token file"), "{failure}");

    let wrong = "00000000-1111-2222-3333-444444444444";
    std::fs::write(&file, wrong).unwrap();
    let give_up = Instant::now() + DEADLINE;
    let failure = loop {
        assert!(Instant::now() < give_up);
        let failure = watch.failure_of(FailureCause::Denied);
        if !failure.detail.contains("token file") {
            break failure;
        }
    };
    assert!(failure.detail.contains("403"), "{failure}");
    assert!(!failure.detail.contains(wrong), "a token is never shown: {failure}");

    std::fs::write(&file, format!("{MASTER}\n")).unwrap();
    watch.refresh();
    assert_eq!(shown(&watch.set_after_failures().0), [line(1, 1)]);
    std::fs::write(&file, "two\nlines").unwrap();
    let failure = watch.failure_of(FailureCause::Denied);
    assert!(!failure.detail.contains("lines"), "{failure}");
}

#[test]
fn a_slow_agent_is_waited_for_to_the_deadline() {
    let consul = Consul::start();
    consul.register(1, 1);
    let proxy = Proxy::start(consul.http);
    proxy.delay_bytes(Duration::from_micros(200));
    let timings = Timings { timeout: TIMEOUT * 4, resync: Duration::from_secs(60) };
    let settings = settings(proxy.port);
    let watch = Watch::start(move |desk| watch(settings, timings, desk));
    assert_eq!(shown(&watch.set()), [line(1, 1)], "an answer of 1 KiB takes half a second");

    proxy.delay_bytes(Duration::from_millis(20));
    assert_eq!(watch.failure().cause, FailureCause::Timeout);
    proxy.delay_bytes(Duration::ZERO);
    consul.register(2, 1);
    assert_eq!(shown(&watch.set_after_failures().0), [line(1, 1), line(2, 1)]);
}

#[test]
fn followers_without_a_leader_are_not_believed() {
    let mut first = Consul::launch(&json!({ "bootstrap_expect": 2, "data_dir": "data" }));
    let join = json!({
        "bootstrap_expect": 2, "data_dir": "data", "retry_join": [format!("127.0.0.1:{}", first.serf)],
        "retry_interval": "1s",
    });
    let mut second = Consul::launch(&join);
    first.wait_leader();
    second.wait_leader();
    first.register(1, 1);
    second.register(2, 1);
    let (one, two) = (first.watch(), second.watch());
    let both = [line(1, 1), line(2, 1)];
    while shown(&one.set()) != both {}
    while shown(&two.set()) != both {}

    // Of two servers neither leads without the other. Whoever is left goes on answering stale
    // queries from what it has.
    first.process.pause();
    assert_eq!(two.failure().cause, FailureCause::Unavailable);
    first.process.resume();
    second.put_until_led("/v1/agent/service/deregister/c2s-2");
    assert_eq!(shown(&two.set_after_failures().0), [line(1, 1)]);
    assert_eq!(shown(&one.set_after_failures().0), [line(1, 1)]);
}

#[test]
fn a_service_that_changes_all_the_time_is_read_twice_a_second() {
    let consul = Consul::start();
    consul.register(1, 1);
    let watch = consul.watch();
    watch.set();
    let began = Instant::now();
    let mut weight = 1;
    while weight < 40 || began.elapsed() < Duration::from_secs(2) {
        weight += 1;
        consul.register(1, weight);
    }
    let mut readings = 1;
    while shown(&watch.set()) != [line(1, weight)] {
        readings += 1;
    }
    let seconds = began.elapsed().as_secs();
    assert!(
        readings <= 2 + 2 * (seconds + 1),
        "{readings} readings of {weight} changes in {seconds} s"
    );
}

#[test]
fn tls_in_both_directions() {
    let directory = Directory::new("certificates");
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name);
    let https = stores::process::free_port();
    let consul = Consul::start_with(&json!({
        "ports": { "https": https }, "verify_incoming_https": true,
        "ca_file": file("ca.pem"), "cert_file": file("agent.pem"), "key_file": file("agent.key"),
    }));
    consul.register(1, 1);
    let url = format!("https://127.0.0.1:{https}");
    let of = |tls: StoreTls| start(ConsulSource { url: url.clone(), tls, ..consul.settings() });
    let ca_file = Some(file("ca.pem"));

    let failure = of(StoreTls::default()).failure();
    assert!(failure.detail.contains("UnknownIssuer"), "{failure}");
    let failure = of(StoreTls { ca_file: ca_file.clone(), client: None }).failure();
    assert!(failure.detail.contains("ertificate"), "{failure}");
    let missing = of(StoreTls { ca_file: Some(file("none.pem")), client: None }).failure();
    assert!(missing.detail.contains("none.pem"), "{missing}");
    let client = Some((file("client.pem"), file("client.key")));
    let watch = of(StoreTls { ca_file, client });
    assert_eq!(shown(&watch.set()), [line(1, 1)]);
    watch.unchanged();
}

/// Answers each connection's first request with the next of these, and then with the last one
/// again and again.
fn respond(answers: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let answer = &answers[number.min(answers.len() - 1)];
            answer_one(stream, answer);
        }
    });
    port
}

fn answer_one(mut stream: TcpStream, answer: &[u8]) {
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
            _ => return,
        }
    }
    let _ = stream.write_all(answer);
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

#[test]
fn garbage_is_named_and_survived() {
    let index = "X-Consul-Index: 5\r\n";
    let good = r#"[{"Node":{"Address":"10.0.0.1"},"Service":{"ID":"a","Port":1000}}]"#;
    let unusable = r#"[{"Node":{},"Service":{"ID":"a"}},{"Service":7},3]"#;
    let cases: Vec<(Vec<u8>, FailureCause, &str)> = vec![
        (b"\x16\x03\x01 no HTTP at all\r\n\r\n".to_vec(), FailureCause::Malformed, "HTTP"),
        (b"".to_vec(), FailureCause::Unreachable, "closed"),
        (http("200 OK", "", good), FailureCause::Malformed, "X-Consul-Index"),
        (http("200 OK", "X-Consul-Index: x\r\n", good), FailureCause::Malformed, "no number"),
        (http("200 OK", index, "null"), FailureCause::Malformed, "no list"),
        (http("200 OK", index, "[{"), FailureCause::Malformed, "no list"),
        (http("200 OK", index, unusable), FailureCause::Malformed, "none of 3"),
        (http("404 Not Found", index, "what?"), FailureCause::Missing, "404"),
        (http("500 Error", index, "No cluster leader"), FailureCause::Unavailable, "leader"),
        (http("429 Slow down", index, ""), FailureCause::Unavailable, "429"),
        (http("302 Found", "Location: /x\r\n", ""), FailureCause::Malformed, "302"),
        (
            http("200 OK", &format!("X-Consul-Knownleader: false\r\n{index}"), good),
            FailureCause::Unavailable,
            "no leader",
        ),
        (
            http("200 OK", &format!("X-Consul-Results-Filtered-By-ACLs: true\r\n{index}"), "[]"),
            FailureCause::Denied,
            "token",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n".to_vec(),
            FailureCause::Unreachable,
            "",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[".to_vec(), FailureCause::Unreachable, ""),
    ];
    let after = http("200 OK", index, good);
    for (number, (answer, cause, part)) in cases.into_iter().enumerate() {
        let watch = start(settings(respond(vec![answer, after.clone()])));
        let failure = watch.failure();
        assert_eq!(failure.cause, cause, "{number}: {failure}");
        assert!(failure.detail.contains(part), "{number}: {failure}");
        assert_eq!(shown(&watch.set()), ["10.0.0.1:1000 1 ready"], "{number}");
    }
}

#[test]
fn a_lagging_server_sends_us_to_the_leader() {
    let of = |lag_ms: u32, address: &str| {
        let body =
            format!(r#"[{{"Node":{{"Address":"{address}"}},"Service":{{"ID":"a","Port":1}}}}]"#);
        let headers = format!("X-Consul-Index: 5\r\nX-Consul-LastContact: {lag_ms}\r\n");
        http("200 OK", &headers, &body)
    };
    let watch = start(settings(respond(vec![of(60_000, "10.0.0.1"), of(0, "10.0.0.2")])));
    assert_eq!(shown(&watch.set()), ["10.0.0.2:1 1 ready"], "never the old one's");
    let watch = start(settings(respond(vec![of(60_000, "10.0.0.1")])));
    let failure = watch.failure();
    assert_eq!(failure.cause, FailureCause::Unavailable, "{failure}");
    assert!(failure.detail.contains("behind the leader"), "{failure}");
}

#[test]
fn an_older_index_is_read_anew_before_it_is_believed() {
    let of = |index: u64, address: &str| {
        let body =
            format!(r#"[{{"Node":{{"Address":"{address}"}},"Service":{{"ID":"a","Port":1}}}}]"#);
        http("200 OK", &format!("X-Consul-Index: {index}\r\n"), &body)
    };
    let answers = vec![of(9, "10.0.0.1"), of(3, "10.0.0.2"), of(4, "10.0.0.3")];
    let watch = start(settings(respond(answers)));
    assert_eq!(watch.set().revision.as_deref(), Some("9"));
    let next = watch.set();
    assert_eq!(
        (shown(&next), next.revision.as_deref()),
        (vec!["10.0.0.3:1 1 ready".into()], Some("4"))
    );
}

#[test]
fn the_time_from_a_change_to_the_desk() {
    for members in [2, 3_000] {
        let consul = Consul::start();
        let at = |member: usize| format!("10.0.{}.{}", member / 250, member % 250);
        let all: Vec<usize> = (0..members).collect();
        // As many as one transaction takes.
        for some in all.chunks(60) {
            let services = some.iter().map(|member| (*member, at(*member), 1)).collect::<Vec<_>>();
            consul.register_many(&services);
        }
        let wait = Duration::from_secs(60);
        let watch = start(ConsulSource { wait, ..consul.settings() });
        while watch.set().members.len() != members {}
        let changes: u32 =
            std::env::var("CORELANE_CHANGES").map_or(3, |changes| changes.parse().unwrap());
        let mut taken: Vec<Duration> = (0..changes)
            .map(|round| {
                // Slower than the rate limit, and not in step with the agent's waiting.
                pause(Duration::from_millis(550 + 37 * u64::from(round % 5)));
                let weight = round + 2;
                let changed = Instant::now();
                consul.register_many(&[(members / 2, at(members / 2), weight)]);
                seen(&watch, weight).duration_since(changed)
            })
            .collect();
        taken.sort();
        let (median, worst) = (taken[taken.len() / 2], taken[taken.len() - 1]);
        println!(
            "Consul, {members} members, {changes} changes: median {median:?}, worst {worst:?}"
        );
        assert!(worst < Duration::from_secs(5), "{taken:?}");
    }
}

fn seen(watch: &Watch, weight: u32) -> Instant {
    loop {
        if let (at, Report::Set(reading)) = watch.report()
            && reading.members.iter().any(|member| member.weight == weight)
        {
            return at;
        }
    }
}
