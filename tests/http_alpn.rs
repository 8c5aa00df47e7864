//! Which protocol a client agrees on with an http listener (ALPN), and what it hears when there is
//! none that both speak.

mod gateway;
mod tls;
mod web;

use gateway::Gateway;
use tls::{Authority, ClientSettings, tls_table};
use web::{Web, Wire, one_pool};

fn secured(web: &Web, keys: &str) -> (Gateway, Authority) {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let toml = one_pool("", &[web.address], "");
    let toml = toml.replace("[listener.http]", &(tls_table(keys, &[&files]) + "[listener.http]"));
    (Gateway::start(&toml), authority)
}

/// What is agreed on with a client that offers these, and whether it is served.
fn agreed(
    gateway: &Gateway,
    authority: &Authority,
    alpn: &[&str],
) -> Result<(Option<String>, u16), String> {
    let config = authority.client(&ClientSettings { alpn, ..ClientSettings::default() });
    let client = tls::try_client(gateway.address("web"), "a.test", &config);
    let client = client.map_err(|error| error.to_string())?;
    let protocol = client.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into());
    let status = Wire::over(client).ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status();
    Ok((protocol, status))
}

const REFUSED: &str =
    "corelane_tls_handshake_failures_total{listener=\"web\",reason=\"tls_protocol\"}";

#[test]
fn http_1_1_is_agreed_on_without_being_asked_for() {
    let web = Web::named("w");
    let (gateway, authority) = secured(&web, "");
    let http = || Some("http/1.1".to_owned());
    assert_eq!(agreed(&gateway, &authority, &["h2", "http/1.1"]), Ok((http(), 200)));
    assert_eq!(agreed(&gateway, &authority, &["http/1.1"]), Ok((http(), 200)));
    assert_eq!(agreed(&gateway, &authority, &[]), Ok((None, 200)));
    let refused = agreed(&gateway, &authority, &["h2"]).unwrap_err();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    gateway.wait_metric(REFUSED, 1.0);
    let lines = gateway.session_lines(4);
    assert_eq!(lines[3]["end"], "tls_protocol", "{lines:?}");
}

#[test]
fn without_protocols_nobody_is_refused() {
    let web = Web::named("w");
    let (gateway, authority) = secured(&web, "alpn = []");
    assert_eq!(agreed(&gateway, &authority, &["h2"]), Ok((None, 200)));
    assert_eq!(gateway.metric(REFUSED), 0.0);
}

#[test]
fn a_listener_does_not_agree_on_what_it_does_not_speak() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let toml = one_pool("", &["127.0.0.1:1".parse().unwrap()], "");
    let table = tls_table("alpn = [\"mqtt\"]", &[&files]);
    let toml = toml.replace("[listener.http]", &(table + "[listener.http]"));
    let (code, said) = gateway::run_to_end(&toml, &gateway::Start::default());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("alpn") && said.contains("http/1.1"), "{said}");
}
