//! WebSocket: after a valid 101 both sides are raw, and no byte on either side is lost; a refused
//! one is an ordinary response.

mod gateway;
mod web;

use gateway::Gateway;
use web::{Web, client, eventually, ok, one_pool};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches, says hello at once, and echoes.
fn echo() -> Web {
    Web::serve(|_, mut wire| {
        let head = wire.head().unwrap();
        if head.field("upgrade") != Some("websocket") {
            wire.send(ok("page"));
            wire.rest();
            return;
        }
        wire.send(format!("{SWITCHED}hello from behind the 101"));
        loop {
            if wire.read.is_empty() {
                let mut bytes = [0; 65536];
                match std::io::Read::read(&mut wire.stream, &mut bytes) {
                    Ok(0) | Err(_) => return,
                    Ok(n) => wire.read.extend_from_slice(&bytes[..n]),
                }
            }
            let bytes = std::mem::take(&mut wire.read);
            if !wire.try_send(bytes) {
                return;
            }
        }
    })
}

#[test]
fn both_sides_are_raw_and_no_byte_is_lost() {
    let web = echo();
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    // Bytes behind the request, before anybody has agreed.
    wire.send(format!("{UPGRADE}eager"));
    let head = wire.head().unwrap();
    assert_eq!((head.status(), head.field("upgrade")), (101, Some("websocket")));
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(wire.bytes(25), b"hello from behind the 101");
    assert_eq!(wire.bytes(5), b"eager");
    for size in [1, 100, 5_000, 1_000_000] {
        let message: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        let mut sender = wire.stream.try_clone().unwrap();
        let sent = message.clone();
        let thread = std::thread::spawn(move || {
            std::io::Write::write_all(&mut sender, &sent).unwrap();
        });
        assert_eq!(wire.bytes(message.len()), message);
        thread.join().unwrap();
    }
    assert_eq!(
        gateway.metric("corelane_http_upgrades_total{listener=\"web\",result=\"upgraded\"}"),
        1.0
    );
    let active =
        format!("corelane_backend_connections_active{{pool=\"p\",backend=\"{}\"}}", web.address);
    assert_eq!(gateway.metric(&active), 1.0);
    wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(wire.rest().1);
    let line = gateway.assert_end("client_fin");
    assert_eq!(line["bytes_in"], UPGRADE.len() + 5 + 1_005_101);
    gateway.wait_metric(&active, 0.0);
}

#[test]
fn requests_may_come_before_an_upgrade() {
    let web = Web::serve(|_, mut wire| {
        wire.stream.set_read_timeout(None).unwrap();
        while let Some(message) = wire.message("") {
            if message.field("upgrade").is_none() {
                wire.send(ok("page"));
                continue;
            }
            wire.send(SWITCHED);
            let bytes = wire.bytes(3);
            wire.send(bytes);
            return;
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    for _ in 0..3 {
        assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "page");
    }
    assert_eq!(wire.ask(UPGRADE).status(), 101);
    wire.send("abc");
    assert_eq!(wire.bytes(3), b"abc");
    assert!(wire.rest().1);
    assert_eq!(web.connections(), 1);
}

#[test]
fn a_refused_upgrade_is_an_ordinary_response() {
    let web = Web::answering(|message| match message.field("upgrade") {
        Some(_) => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope".to_vec(),
        None => ok("page"),
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    let answer = wire.ask(UPGRADE);
    assert_eq!((answer.status(), answer.text().as_str()), (403, "nope"));
    assert_eq!(wire.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").text(), "page");
    assert_eq!(web.connections(), 1);
    eventually("counted", || {
        gateway.metric("corelane_http_upgrades_total{listener=\"web\",result=\"refused\"}") == 1.0
    });
}

#[test]
fn another_protocol_is_not_asked_for() {
    let web = Web::answering(|message| {
        assert_eq!(message.field("upgrade"), None);
        assert_eq!(message.field("http2-settings"), None);
        ok("page")
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    let h2c = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n\
               Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(wire.ask(h2c).text(), "page");
}
