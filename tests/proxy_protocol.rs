//! PROXY protocol: headers are taken from listed addresses only, never forwarded as data, and sent
//! to backends that want them.

mod gateway;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 9000\r\n";

fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&[192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x23, 0x28]);
    header
}

fn config(listening: &Backend, pool: &str, proxy: &str) -> String {
    frame_config(&[listening.address], pool, "")
        .replace("[pool.c2s]", &format!("[listener.proxy_protocol]\n{proxy}\n[pool.c2s]"))
}

#[test]
fn a_listed_peer_speaks_for_its_client_in_both_versions_at_every_split() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening, "", "from = [\"127.0.0.0/8\"]"));
    let mut sessions = 0;
    for header in [V1.to_vec(), v2()] {
        for split in [0, 1, 5, 12, header.len() - 1, header.len(), header.len() + 3] {
            let mut client = Client::connect(gateway.address("devices"));
            let bytes = [header.clone(), login("a")].concat();
            client.send(&bytes[..split]);
            std::thread::park_timeout(std::time::Duration::from_millis(5));
            client.send(&bytes[split..]);
            let mut backend = listening.accept();
            assert_eq!(backend.receive(login("a").len()), login("a"), "the header is removed");
            client.fin();
            backend.fin();
            sessions += 1;
        }
    }
    for line in gateway.session_lines(sessions) {
        assert_eq!(line["client"], "192.0.2.7:4711", "{line}");
        assert!(line["via"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_eq!(line["bytes_in"], login("a").len(), "{line}");
    }
}

#[test]
fn bytes_received_never_count_a_header_not_even_for_a_moment() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening, "", "from = [\"127.0.0.0/8\"]"));
    let series = "corelane_bytes_total{listener=\"devices\",direction=\"in\"}";
    let mut counted = 0.0;
    for header in [V1.to_vec(), v2()] {
        let mut client = Client::connect(gateway.address("devices"));
        client.send(&header[..header.len() - 1]);
        // Once a shard shows that it has the bytes, the counter must not have them.
        let give_up = std::time::Instant::now() + gateway::DEADLINE;
        let last_tick = ticks(&gateway);
        while ticks(&gateway) < last_tick + 3.0 {
            assert!(std::time::Instant::now() < give_up, "the shard stands still");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        assert_eq!(gateway.metric(series), counted);
        client.send(&[&header[header.len() - 1..], &login("a")].concat());
        let mut backend = listening.accept();
        assert_eq!(backend.receive(login("a").len()), login("a"));
        counted += login("a").len() as f64;
        assert_eq!(gateway.metric(series), counted);
        client.fin();
        backend.fin();
    }
}

fn ticks(gateway: &Gateway) -> f64 {
    gateway.metric("corelane_shard_ticks_total{shard=\"0\"}")
}

#[test]
fn an_unlisted_peer_is_refused() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening, "", "from = [\"10.0.0.0/8\"]"));
    for bytes in [[V1, &login("a")].concat(), login("a")] {
        let mut client = Client::connect(gateway.address("devices"));
        client.send(&bytes);
        client.assert_closed_silently();
    }
    for line in gateway.session_lines(2) {
        assert_eq!(line["end"], "proxy_untrusted", "{line}");
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert!(listening.is_untouched());
}

#[test]
fn with_others_plain_an_unlisted_peer_is_served_but_may_not_send_a_header() {
    let listening = Backend::manual();
    let proxy = "from = [\"10.0.0.0/8\"]\nothers = \"plain\"";
    let gateway = Gateway::start(&config(&listening, "", proxy));
    let client = Client::login(gateway.address("devices"), "a");
    listening.accept().fin();
    client.fin();
    assert_eq!(gateway.session_lines(1)[0]["key"], "a");
    for header in [V1.to_vec(), v2()] {
        let mut client = Client::connect(gateway.address("devices"));
        client.send(&[header, login("a")].concat());
        client.assert_closed_silently();
    }
    for line in &gateway.session_lines(3)[1..] {
        assert_eq!(line["end"], "proxy_untrusted", "{line}");
    }
    assert!(listening.is_untouched());
}

#[test]
fn a_missing_broken_or_slow_header_is_closed_with_its_reason() {
    let listening = Backend::manual();
    let proxy = "from = [\"127.0.0.1\"]\ntimeout = \"2s\"";
    let gateway = Gateway::start(&config(&listening, "", proxy));
    let mut lying = v2();
    lying[14] = 0xff;
    let bad: [(&[u8], &str); 4] = [
        (&login("a"), "proxy_invalid"),
        (b"PROXY TCP4 not an address\r\n", "proxy_invalid"),
        (&lying, "proxy_invalid"),
        (&V1[..20], "proxy_timeout"),
    ];
    for (n, (bytes, end)) in bad.into_iter().enumerate() {
        let mut client = Client::connect(gateway.address("devices"));
        client.send(bytes);
        client.assert_closed_silently();
        assert_eq!(gateway.session_lines(n + 1)[n]["end"], end);
    }
    assert!(listening.is_untouched());
}

#[test]
fn a_health_check_of_the_proxy_itself_keeps_the_real_peer() {
    let listening = Backend::manual();
    let gateway = Gateway::start(&config(&listening, "", "from = [\"127.0.0.1\"]"));
    let mut client = Client::connect(gateway.address("devices"));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec();
    client.send(&[local, login("a")].concat());
    let mut backend = listening.accept();
    assert_eq!(backend.receive(login("a").len()), login("a"));
    client.fin();
    backend.fin();
    let line = gateway.assert_end("client_fin");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
}

#[test]
fn a_backend_that_wants_it_gets_a_version_2_header_first() {
    for warm in ["", "\nwarm = 1"] {
        let listening = Backend::manual();
        let pool = format!("proxy_protocol = \"v2\"{warm}");
        let gateway = Gateway::start(&frame_config(&[listening.address], &pool, ""));
        if !warm.is_empty() {
            let series = "corelane_backend_warm{pool=\"c2s\",backend=\"";
            gateway.wait_metric(&format!("{series}{}\"}}", listening.address), 1.0);
        }
        let client = Client::login(gateway.address("devices"), "a");
        let mut backend = listening.accept();
        let header = backend.receive(28);
        assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(&header[16..20], &[127, 0, 0, 1]);
        assert_eq!(&header[20..24], &[127, 0, 0, 1]);
        let from = u16::from_be_bytes([header[24], header[25]]);
        let to = u16::from_be_bytes([header[26], header[27]]);
        assert_eq!(from, client.stream.local_addr().unwrap().port());
        assert_eq!(to, gateway.address("devices").port());
        assert_eq!(backend.receive(login("a").len()), login("a"));
    }
}
