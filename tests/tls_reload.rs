//! Certificate files that change while sessions are open: a reload reads them again, or refuses.

mod gateway;
mod tls;

use gateway::Gateway;
use gateway::backend::Backend;
use serde_json::Value;
use tls::{Authority, ClientSettings, Files, TlsClient, client, echo, tcp_config, tls_table};

fn reload(gateway: &Gateway) -> (u16, Value) {
    let (status, body) = gateway.ask("POST", "/reload");
    let body = serde_json::from_str(&body).expect(&body);
    (status, body)
}

fn connected(gateway: &Gateway, authority: &Authority, settings: &ClientSettings) -> TlsClient {
    client(gateway.address("secure"), "a.test", &authority.client(settings))
}

fn shows(client: &TlsClient, files: &Files) -> bool {
    client.conn.peer_certificates().unwrap()[0] == files.chain()[0]
}

#[test]
fn new_sessions_see_the_new_certificate_and_old_ones_live_on() {
    let authority = Authority::new("test");
    let (old, new) = (authority.sign("a", &["a.test"]), authority.sign("new", &["a.test"]));
    let before_chain = old.chain();
    let backend = Backend::echo("");
    let gateway = Gateway::start(&tcp_config(&[backend], &tls_table("", &[&old]), ""));
    let plain = ClientSettings::default();
    let mut before = connected(&gateway, &authority, &plain);
    echo(&mut before, b"hello");
    old.replace_by(&new);
    assert!(!shows(&connected(&gateway, &authority, &plain), &new), "only a reload reads it");
    // By signal, and the configuration file is what it was.
    gateway.signal("HUP");
    gateway.wait_metric("corelane_config_reloads_total{result=\"success\"}", 1.0);
    let mut after = connected(&gateway, &authority, &plain);
    assert!(shows(&after, &new));
    echo(&mut after, b"after");
    assert_eq!(before.conn.peer_certificates().unwrap()[..], before_chain[..]);
    echo(&mut before, b"and before");
    let (status, body) = reload(&gateway);
    assert_eq!((status, body["listeners"]["changed"].as_array().unwrap().len()), (200, 0));
}

#[test]
fn tickets_stay_good_while_nothing_of_tls_changes_and_no_longer() {
    let authority = Authority::new("test");
    let (old, new) = (authority.sign("a", &["a.test"]), authority.sign("new", &["a.test"]));
    let backend = Backend::echo("");
    let gateway = Gateway::start(&tcp_config(&[backend], &tls_table("", &[&old]), ""));
    let settings = ClientSettings { resume: true, ..ClientSettings::default() };
    let config = authority.client(&settings);
    let kinds = || {
        let kind = |kind| {
            gateway.metric(&format!(
                "corelane_tls_handshakes_total{{listener=\"secure\",version=\"1.3\",kind=\"{kind}\"}}"
            ))
        };
        (kind("full"), kind("resumed"))
    };
    let visit = || echo(&mut client(gateway.address("secure"), "a.test", &config), b"hello");
    visit();
    assert_eq!(reload(&gateway).0, 200);
    visit();
    assert_eq!(kinds(), (1.0, 1.0));
    old.replace_by(&new);
    let (status, body) = reload(&gateway);
    assert_eq!((status, &body["listeners"]["changed"][0]), (200, &"secure".into()), "{body}");
    visit();
    assert_eq!(kinds(), (2.0, 1.0));
}

#[test]
fn files_that_are_no_good_refuse_the_reload_with_every_fault() {
    let authority = Authority::new("test");
    let (first, second) = (authority.sign("a", &["a.test"]), authority.sign("b", &["b.test"]));
    let backend = Backend::echo("");
    let toml = tcp_config(&[backend], &tls_table("", &[&first, &second]), "");
    let gateway = Gateway::start(&toml);
    let shown = first.chain()[0].clone();
    std::fs::write(&first.cert, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    std::fs::copy(&authority.sign("c", &["c.test"]).key, &second.key).unwrap();
    let (status, body) = reload(&gateway);
    assert_eq!(status, 422, "{body}");
    let faults: Vec<(&str, u64)> = body["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (fault["path"].as_str().unwrap(), fault["line"].as_u64().unwrap()))
        .collect();
    let line = |path: &std::path::Path| {
        let name = path.display().to_string();
        1 + toml.lines().position(|line| line.contains(&name)).unwrap() as u64
    };
    assert_eq!(
        faults,
        [
            ("listener[0].tls.certificate[0].cert_file", line(&first.cert)),
            ("listener[0].tls.certificate[1].key_file", line(&second.key)),
        ],
        "{body}"
    );
    let problem = body["faults"][1]["problem"].as_str().unwrap();
    assert!(problem.contains("not the key of the certificate"), "{problem}");
    let client = connected(&gateway, &authority, &ClientSettings::default());
    assert_eq!(client.conn.peer_certificates().unwrap()[0], shown);
}

#[test]
fn certificates_out_of_their_time_are_found_by_the_check() {
    let authority = Authority::new("test");
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::now();
    let signed = |name: &str, ends: std::time::SystemTime| {
        authority.sign_with(name, &["a.test"], |params| {
            params.not_before = (now - 30 * day).into();
            params.not_after = ends.into();
        })
    };
    let cases = [
        (signed("good", now + 30 * day), 0, ""),
        (signed("soon", now + 10 * day), 0, "expires at 20"),
        (signed("gone", now - day), 1, "expired at 20"),
    ];
    for (files, code, says) in cases {
        let address = "127.0.0.1:9".parse().unwrap();
        let toml = tcp_config(&[address], &tls_table("", &[&files]), "");
        let file = authority.folder.join("check.toml");
        std::fs::write(&file, &toml).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_corelane"))
            .args(["check", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(says), "{text}");
        assert_eq!(says.is_empty(), !text.contains("cert_file"), "{text}");
        let key = std::fs::read_to_string(&files.key).unwrap();
        assert!(!text.contains(key.lines().nth(1).unwrap()), "keys are never printed");
    }
}
