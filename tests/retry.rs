//! A backend that cannot be reached: retries replay the preface, policies are followed, and every
//! detour has a reason that is counted and logged.

mod gateway;

use std::net::TcpListener;

use gateway::backend::{Backend, deaf, refusing_address};
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};

/// An id whose home is backend `index` of `count`.
fn id_at(index: usize, count: usize) -> String {
    (0..)
        .map(|n| format!("device-{n}"))
        .find(|id| crc32fast::hash(id.as_bytes()) as usize % count == index)
        .unwrap()
}

#[test]
fn a_refused_connection_is_retried_on_the_next_backend_with_the_preface_replayed() {
    let alive = Backend::manual();
    let refused = refusing_address();
    let toml = frame_config(&[refused, alive.address], "retries = 1", "");
    let gateway = Gateway::start(&toml);
    let id = id_at(0, 2);
    let mut client = Client::connect(gateway.address("devices"));
    let sent = [login(&id), b"and what was pipelined".to_vec()].concat();
    client.send(&sent);
    let mut accepted = alive.accept();
    assert_eq!(accepted.receive(sent.len()), sent);
    drop((client, accepted));
    let line = gateway.session_lines(1).remove(0);
    assert_eq!((&line["placement"], &line["attempts"]), (&"retry".into(), &2.into()), "{line}");

    // The backend that just failed is passed over without another attempt.
    let second = Client::login(gateway.address("devices"), &id);
    second.fin();
    alive.accept().fin();
    let line = gateway.session_lines(2).remove(1);
    assert_eq!(line["placement"], "passed_over", "{line}");
    assert_eq!(line["attempts"], 1, "{line}");
    let failures = gateway.metric(&format!(
        "corelane_backend_connect_failures_total{{pool=\"c2s\",backend=\"{refused}\",reason=\"connect_refused\"}}"
    ));
    assert!((failures - 1.0).abs() < 0.1, "{failures}");
}

#[test]
fn without_retries_a_refused_backend_ends_the_session_and_others_are_untouched() {
    let alive = Backend::manual();
    let refusing = refusing_address();
    let refused = refusing.to_string();
    let toml = frame_config(&[refusing, alive.address], "fail_timeout = \"5s\"", "");
    let gateway = Gateway::start(&toml);
    for reason in ["connect_refused", "backend_failing"] {
        let mut client = Client::login(gateway.address("devices"), &id_at(0, 2));
        client.assert_closed_silently();
        let labels = format!("reason=\"{reason}\"");
        let closes = format!("corelane_closes_total{{listener=\"devices\",{labels}}}");
        gateway.wait_metric(&closes, 1.0);
        let unplaced = format!("corelane_placement_failures_total{{pool=\"c2s\",{labels}}}");
        gateway.wait_metric(&unplaced, 1.0);
    }
    for line in gateway.session_lines(2) {
        assert_eq!(
            (&line["pool"], &line["backend"]),
            (&"c2s".into(), &refused.as_str().into()),
            "{line}"
        );
    }
    // Operational lines are written by a thread of their own.
    let warnings = gateway.operational.wait("warning", |lines| {
        let count = lines.iter().filter(|line| line.contains("backend failing")).count();
        (count > 0).then_some(count)
    });
    assert_eq!(warnings, 1, "once, not per session");
    assert!(alive.is_untouched(), "a key went to a backend that is not its own");
}

#[test]
fn a_failing_backend_is_tried_again_after_fail_timeout() {
    let address = refusing_address();
    let toml = frame_config(&[address], "fail_timeout = \"1s\"", "");
    let gateway = Gateway::start(&toml);
    Client::login(gateway.address("devices"), "a").assert_closed_silently();
    let listener = TcpListener::bind(address).unwrap();
    let give_up = std::time::Instant::now() + gateway::DEADLINE;
    loop {
        assert!(std::time::Instant::now() < give_up, "never tried again");
        let client = Client::login(gateway.address("devices"), "a");
        client.fin();
        listener.set_nonblocking(true).unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(200));
        if listener.accept().is_ok() {
            return;
        }
    }
}

#[test]
fn a_backend_marked_down_follows_on_down() {
    let alive = Backend::manual();
    for (policy, placement) in [("reject", None), ("next", Some("next"))] {
        let toml = frame_config(&[alive.address], &format!("on_down = \"{policy}\""), "").replace(
            "backends = [",
            "backends = [{ address = \"127.0.0.1:1\", state = \"down\" }, ",
        );
        let gateway = Gateway::start(&toml);
        let mut client = Client::login(gateway.address("devices"), &id_at(0, 2));
        match placement {
            None => {
                client.assert_closed_silently();
                gateway.assert_end("backend_down");
            }
            Some(reason) => {
                alive.accept().fin();
                client.fin();
                assert_eq!(gateway.session_lines(1)[0]["placement"], reason);
            }
        }
    }
}

#[test]
fn a_backend_that_does_not_answer_runs_into_connect_timeout_and_the_next_is_tried() {
    let (address, _held) = deaf("127.0.0.1:0".parse().unwrap());
    let alive = Backend::manual();
    let pool = "retries = 1\nconnect_timeout = \"1s\"";
    let gateway = Gateway::start(&frame_config(&[address, alive.address], pool, ""));
    let begun = std::time::Instant::now();
    let client = Client::login(gateway.address("devices"), &id_at(0, 2));
    alive.accept().fin();
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    client.fin();
    assert_eq!(gateway.session_lines(1)[0]["placement"], "retry");
    let series = format!(
        "corelane_backend_connect_failures_total{{pool=\"c2s\",backend=\"{address}\",reason=\"connect_timeout\"}}"
    );
    gateway.wait_metric(&series, 1.0);
}

#[test]
fn a_unix_backend_whose_backlog_is_full_is_busy_and_the_next_is_tried() {
    let path = gateway::directory().join("busy.sock");
    let name = socket2::SockAddr::unix(&path).unwrap();
    let unix = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let busy = unix();
    busy.bind(&name).unwrap();
    busy.listen(0).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        let socket = unix();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&name) {
            Ok(()) => waiting.push(socket),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100, "the backlog does not fill");
    };
    assert_eq!(full.raw_os_error(), Some(libc::EAGAIN));

    let alive = Backend::manual();
    let first = format!("backends = [\"unix:{}\", ", path.display());
    let config = |pool| frame_config(&[alive.address], pool, "").replace("backends = [", &first);
    let gateway = Gateway::start(&config("retries = 1"));
    let client = Client::login(gateway.address("devices"), &id_at(0, 2));
    alive.accept().fin();
    client.fin();
    let line = gateway.session_lines(1).remove(0);
    assert_eq!((&line["placement"], &line["attempts"]), (&"retry".into(), &2.into()), "{line}");
    let series = format!(
        "corelane_backend_connect_failures_total{{pool=\"c2s\",backend=\"unix:{}\",reason=\"connect_busy\"}}",
        path.display()
    );
    gateway.wait_metric(&series, 1.0);

    let gateway = Gateway::start(&config("retries = 0"));
    Client::login(gateway.address("devices"), &id_at(0, 2)).assert_closed_silently();
    let line = gateway.assert_end("connect_busy");
    assert_eq!(line["side"], "backend", "{line}");
}

#[test]
fn round_robin_passes_over_a_backend_that_failed() {
    let alive = Backend::manual();
    let toml = frame_config(&[refusing_address(), alive.address], "retries = 1", "")
        .replace("crc32_mod", "round_robin");
    let gateway = Gateway::start(&toml);
    for n in 0..6 {
        let client = Client::login(gateway.address("devices"), &format!("{n}"));
        let mut accepted = alive.accept();
        accepted.receive(login(&format!("{n}")).len());
        accepted.fin();
        client.fin();
    }
    let attempts: i64 =
        gateway.session_lines(6).iter().map(|line| line["attempts"].as_i64().unwrap()).sum();
    assert_eq!(attempts, 7, "one failed attempt, then none");
}
