//! Bad first bytes close the connection with one counted reason; nothing is answered, no backend is
//! touched, and nobody else is disturbed.

mod gateway;

use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, Closed, frame, login};
use gateway::{Gateway, frame_config};

/// First bytes and the reason they are refused for, without waiting for more.
fn bad_first_bytes() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let body = |text: &str| frame(1, text.as_bytes());
    let deep = format!("{}\"devid\":1{}", "{\"a\":".repeat(500) + "{", "}".repeat(501));
    vec![
        ("a length of 65,535", vec![1, 1, 0, 30, 0xff, 0xff, b'{'], "body_too_long"),
        ("a length over max_body", vec![1, 1, 0, 30, 0x20, 0x01], "body_too_long"),
        ("a negative type byte", vec![0xff, 1, 0, 30, 0, 2, b'{', b'}'], "field_unexpected"),
        ("an empty body", frame(1, b""), "key_missing"),
        ("an object without the key", body("{\"other\":1}"), "key_missing"),
        ("a null key", body("{\"devid\":null}"), "key_missing"),
        ("an empty key", body("{\"devid\":\"\"}"), "key_missing"),
        ("broken JSON", body("{\"devid\":\"a\""), "json_invalid"),
        ("no JSON", body("hello, world"), "json_invalid"),
        ("JSON with something behind it", body("{\"devid\":\"a\"}x"), "json_invalid"),
        ("deeply nested JSON", body(&deep), "json_too_deep"),
        ("a nested key", body("{\"devid\":{\"a\":1}}"), "key_not_scalar"),
        ("a boolean key", body("{\"devid\":true}"), "key_not_scalar"),
        ("a long key", body(&format!("{{\"devid\":\"{}\"}}", "k".repeat(257))), "key_too_long"),
        ("invalid UTF-8", frame(1, b"{\"devid\":\"\xff\xfe\"}"), "utf8_invalid"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "body_too_long"),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], "json_invalid"),
    ]
}

const EXPECT: &str = "expect = { type = \"0..=127\" }\ntimeout = \"1s\"\nmax_body = \"8KiB\"";

#[test]
fn every_kind_of_bad_first_bytes_has_its_reason_and_no_answer() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "", EXPECT));
    let mut good = Client::login(gateway.address("devices"), "good");
    let mut good_backend = listening.accept();
    good_backend.receive(login("good").len());
    for (n, (what, bytes, reason)) in bad_first_bytes().into_iter().enumerate() {
        let mut client = Client::connect(gateway.address("devices"));
        if what == "TLS" {
            // Its "length" is 512: give it that many bytes.
            client.send(&[bytes.clone(), vec![0; 512]].concat());
        } else {
            client.send(&bytes);
        }
        client.assert_closed_silently();
        let line = gateway.session_lines(n + 1)[n].clone();
        assert_eq!(line["end"], reason, "{what}: {line}");
        assert!(line.get("backend").is_none(), "{what}: {line}");
    }
    good.send(b"undisturbed");
    assert_eq!(good_backend.receive(11), b"undisturbed");
    assert!(listening.is_untouched());
}

#[test]
fn a_client_that_closes_or_resets_in_the_preface_is_counted_as_such() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "", EXPECT));
    let mut finished = Client::connect(gateway.address("devices"));
    finished.send(&login("a")[..7]);
    finished.fin();
    finished.assert_closed_silently();
    assert_eq!(gateway.session_lines(1)[0]["end"], "preface_fin");
    let mut reset = Client::connect(gateway.address("devices"));
    reset.send(&login("a")[..7]);
    gateway.wait_metric("corelane_connections_active{listener=\"devices\"}", 1.0);
    reset.reset();
    assert_eq!(gateway.session_lines(2)[1]["end"], "preface_reset");
    assert!(listening.is_untouched());
}

#[test]
fn silent_and_slow_clients_are_closed_at_the_deadline_however_busy_they_look() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "", EXPECT));
    let begun = Instant::now();
    let mut silent = Client::connect(gateway.address("devices"));
    let mut slow = Client::connect(gateway.address("devices"));
    let bytes = frame(1, &[b' '; 200]);
    use std::io::Write;
    for byte in bytes {
        // A byte every 50 ms: the deadline is absolute, so this does not put it off.
        if slow.stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(8), "a slow sender was never closed");
    }
    silent.assert_closed_silently();
    let mut ends: Vec<_> = gateway
        .session_lines(2)
        .iter()
        .map(|line| line["end"].as_str().unwrap().to_owned())
        .collect();
    ends.sort();
    assert_eq!(ends, ["preface_silent", "preface_timeout"]);
    let elapsed = gateway.session_lines(2)[0]["duration_ms"].as_f64().unwrap();
    // The frame would take ten seconds.
    assert!((1000.0..8000.0).contains(&elapsed), "{elapsed} ms");
}

#[test]
fn a_frame_in_single_bytes_is_understood_when_it_is_in_time() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "", ""));
    let mut client = Client::connect(gateway.address("devices"));
    for byte in login("bytewise") {
        client.send(&[byte]);
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let mut backend = listening.accept();
    assert_eq!(backend.receive(login("bytewise").len()), login("bytewise"));
}

#[test]
fn without_a_key_the_session_goes_to_the_named_pool_and_says_so() {
    let keyed = Backend::manual();
    let fallback = Backend::manual();
    let toml = frame_config(&[keyed.address], "", "missing_key = \"pool:lost\"\nsearch_frames = 2")
        + &format!("\n[pool.lost]\nbalance = \"random\"\nbackends = [\"{}\"]\n", fallback.address);
    let gateway = Gateway::start(&toml);
    let heartbeat = frame(2, b"");
    // The second of two frames has it.
    let mut client = Client::connect(gateway.address("devices"));
    let bytes = [heartbeat.clone(), login("a")].concat();
    client.send(&bytes);
    let mut backend = keyed.accept();
    assert_eq!(backend.receive(bytes.len()), bytes);
    client.fin();
    // Who is first is who is said to have ended it.
    assert_eq!(backend.read_to_end(), (Vec::new(), Closed::Fin));
    backend.fin();
    gateway.assert_end("client_fin");
    // Neither has it.
    let mut client = Client::connect(gateway.address("devices"));
    let bytes = [heartbeat.clone(), heartbeat, login("too late")].concat();
    client.send(&bytes);
    let mut backend = fallback.accept();
    assert_eq!(backend.receive(bytes.len()), bytes);
    client.fin();
    backend.fin();
    let line = gateway.session_lines(2)[1].clone();
    assert_eq!((&line["placement"], &line["pool"]), (&"key_missing".into(), &"lost".into()));
}
