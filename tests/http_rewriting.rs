//! What the other side gets: fields between neighbours stay behind, forwarding fields say what they
//! should, and nothing that a client sends makes a line of its own.

use corelane::http::client::{Client, Request};
use corelane::http::head::{HeadLimits, Read};
use corelane::http::reply::Sending;
use corelane::http::response::{self, Asked};
use corelane::http::rewrite::{
    Forwarding, Mode, Onward, Passing, Recipient, request_head, request_id, response_head,
};
use corelane::http::rule::FixedReply;
use corelane::http::template::{Template, Values};
use corelane::http::{Version, request};

fn template(text: &str) -> Template {
    Template::parse(text).expect(text)
}

fn off() -> Forwarding {
    Forwarding {
        x_forwarded_for: Mode::Off,
        x_forwarded_proto: Mode::Off,
        x_forwarded_host: Mode::Off,
        x_real_ip: Mode::Off,
        forwarded: Mode::Off,
        request_id: Mode::Off,
        trusted: Vec::new(),
        trusted_unix: false,
        client_behind_proxies: false,
        host: template("{authority}"),
        headers: Vec::new(),
        via: None,
    }
}

fn client(address: &str, trusted: bool) -> Client {
    Client { address: address.parse().ok(), tls: false, trusted }
}

/// The lines that a backend gets, without the empty one.
fn lines(text: &str, forwarding: &Forwarding, client: Client) -> Vec<String> {
    let head = match request::read(text.as_bytes(), &HeadLimits::default()) {
        Read::Complete(head) => head,
        other => panic!("{other:?}: {text}"),
    };
    let request = Request::new(text.as_bytes(), &head, client);
    let values =
        Values { backend: Some("10.0.0.1:80"), request_id: Some("1f"), ..Values::default() };
    let mut out = Vec::new();
    request_head(&request, &Onward { forwarding, values, keep: true }, &mut out);
    let out = String::from_utf8(out).expect("text");
    let lines = out.strip_suffix("\r\n\r\n").expect("an end");
    lines.split("\r\n").map(str::to_string).collect()
}

#[test]
fn fields_between_neighbours_stay_behind() {
    let text = "POST http://a:8/b?c HTTP/1.1\r\nConnection: close, X-Mine\r\nHost: a:8\r\n\
                Keep-Alive: timeout=5\r\nX-Mine: 1\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
                Proxy-Connection: close\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: x\r\nContent-Length: 007\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\nX-Yours: 2\r\nAccept: */*\r\n\r\n";
    let expected =
        ["POST /b?c HTTP/1.1", "Host: a:8", "Content-Length: 7", "X-Yours: 2", "Accept: */*"];
    assert_eq!(lines(text, &off(), client("192.0.2.1:5", false)), expected);
    let text =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\r\n";
    let expected =
        ["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", "Expect: 100-continue"];
    assert_eq!(lines(text, &off(), client("192.0.2.1:5", false)), expected);
}

#[test]
fn an_upgrade_goes_on_and_no_other_does() {
    let handshake = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let text = format!(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: WebSocket\r\n{handshake}\r\n"
    );
    let expected = [
        "GET /ws HTTP/1.1",
        "Host: a",
        "Connection: upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    assert_eq!(lines(&text, &off(), client("192.0.2.1:5", false)), expected);
}

#[test]
fn modes_say_what_passes() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\
                X-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n";
    let fields = |mode, trusted| {
        let forwarding =
            Forwarding { x_forwarded_for: mode, x_forwarded_proto: mode, forwarded: mode, ..off() };
        let lines = lines(text, &forwarding, client("192.0.2.1:5", trusted));
        lines.into_iter().skip(2).collect::<Vec<_>>()
    };
    let ours = [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: http",
        "Forwarded: for=192.0.2.1;proto=http;host=a",
    ];
    assert_eq!(fields(Mode::Set, false), ours);
    assert_eq!(fields(Mode::Set, true), ours);
    assert_eq!(fields(Mode::Append, false), ours);
    let behind = [
        "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.1",
        "X-Forwarded-Proto: https",
        "Forwarded: for=1.1.1.1, for=192.0.2.1;proto=http;host=a",
    ];
    assert_eq!(fields(Mode::Append, true), behind);
    let theirs =
        ["X-Forwarded-For: 1.1.1.1, 2.2.2.2", "X-Forwarded-Proto: https", "Forwarded: for=1.1.1.1"];
    assert_eq!(fields(Mode::Leave, true), theirs);
    for (mode, trusted) in [(Mode::Leave, false), (Mode::Off, true), (Mode::Off, false)] {
        assert_eq!(fields(mode, trusted), [""; 0]);
    }
}

#[test]
fn forwarded_quotes_what_is_no_token() {
    let forwarding = Forwarding { forwarded: Mode::Set, ..off() };
    let last = |host: &str, client: Client| {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        lines(&text, &forwarding, client).pop().expect("a line")
    };
    let v6 = client("[2001:db8::1]:4711", false);
    let expected = "Forwarded: for=\"[2001:db8::1]\";proto=http;host=\"a:80\"";
    assert_eq!(last("a:80", v6), expected);
    let nobody = Client { address: None, tls: true, trusted: false };
    assert_eq!(last("a", nobody), "Forwarded: for=unknown;proto=https;host=a");
    let mapped = client("[::ffff:192.0.2.1]:4711", false);
    assert_eq!(last("a", mapped), "Forwarded: for=192.0.2.1;proto=http;host=a");
}

#[test]
fn own_fields_replace_the_clients() {
    let forwarding = Forwarding {
        x_forwarded_for: Mode::Append,
        request_id: Mode::Append,
        host: template("{host}"),
        headers: vec![
            ("X-Real_IP".to_string(), template("{client_ip}")),
            ("X-Forwarded-For".to_string(), template("{client_ip}:{client_port}")),
            ("X-Backend".to_string(), template("{backend}")),
            ("X-Uid".to_string(), template("{query:uid}")),
        ],
        via: Some("gw".to_string()),
        ..off()
    };
    let text = "GET /?uid=7 HTTP/1.1\r\nHost: Play.Example:8080\r\nx-real-ip: 6.6.6.6\r\n\
                X-REAL_IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nx-uid: 6\r\n\
                X-Request-ID: x\r\n\r\n";
    let expected = [
        "GET /?uid=7 HTTP/1.1",
        "Host: play.example",
        "X-Request-ID: 1f",
        "X-Real_IP: 192.0.2.1",
        "X-Forwarded-For: 192.0.2.1:5",
        "X-Backend: 10.0.0.1:80",
        "X-Uid: 7",
        "Via: 1.1 gw",
    ];
    assert_eq!(lines(text, &forwarding, client("192.0.2.1:5", true))[..2], expected[..2]);
    assert_eq!(lines(text, &forwarding, client("192.0.2.1:5", false)), expected);
    // Decoded, an argument could be a line; it is left out instead.
    let text = text.replace("uid=7", "uid=7%0d%0aX-Evil:+1");
    let lines = lines(&text, &forwarding, client("192.0.2.1:5", false));
    assert!(!lines.iter().any(|line| line.starts_with("X-Uid")), "{lines:?}");
    assert_eq!(lines.len(), expected.len() - 1);
}

#[test]
fn a_host_is_a_host_whatever_its_template_gives() {
    let host = |template_text: &str, text: &str| {
        let forwarding = Forwarding { host: template(template_text), ..off() };
        lines(text, &forwarding, client("192.0.2.1:5", false)).swap_remove(1)
    };
    let with = "GET /?h=x%20y HTTP/1.1\r\nHost: a:8\r\n\r\n";
    assert_eq!(host("{backend}", with), "Host: 10.0.0.1:80");
    assert_eq!(host("inner.example", with), "Host: inner.example");
    assert_eq!(host("{query:h}", with), "Host: a:8");
    assert_eq!(host("{query:none}", with), "Host: a:8");
    assert_eq!(host("{authority}", "GET / HTTP/1.0\r\n\r\n"), "Host: 10.0.0.1:80");
}

fn answered(text: &str, version: Version, keep: bool) -> (Vec<String>, Passing) {
    let asked = Asked { head_only: false, upgrade: true, websocket_key: false };
    let Read::Complete(head) = response::read(text.as_bytes(), &HeadLimits::default(), asked)
    else {
        panic!("not a head: {text}")
    };
    let mut out = Vec::new();
    let recipient = Recipient { version, keep, via: None };
    let passing = response_head((&head, text.as_bytes()), &recipient, &mut out);
    let out = String::from_utf8(out).expect("text");
    let lines = out.strip_suffix("\r\n\r\n").expect("an end");
    (lines.split("\r\n").map(str::to_string).collect(), passing)
}

#[test]
fn a_client_can_tell_where_the_body_ends() {
    let (http10, http11) = (Version::Http10, Version::Http11);
    let plain = |closes| Passing { unchunk: false, closes };
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close, X-A\r\nX-A: 1\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a\r\n\r\n";
    let until_close = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n";
    let cases = [
        (length, http11, true, vec!["Content-Length: 3"], plain(false)),
        (length, http11, false, vec!["Content-Length: 3", "Connection: close"], plain(true)),
        (length, http10, true, vec!["Content-Length: 3", "Connection: keep-alive"], plain(false)),
        (chunked, http11, true, vec!["Transfer-Encoding: chunked", "Set-Cookie: a"], plain(false)),
        (
            chunked,
            http10,
            true,
            vec!["Connection: close", "Set-Cookie: a"],
            Passing { unchunk: true, closes: true },
        ),
        (until_close, http11, true, vec!["Connection: close", "Server: x"], plain(true)),
    ];
    for (text, version, keep, fields, passing) in cases {
        let (lines, found) = answered(text, version, keep);
        assert_eq!(lines[0], "HTTP/1.1 200 OK");
        assert_eq!(
            (&lines[1..], found),
            (&fields.iter().map(|f| (*f).to_string()).collect::<Vec<_>>()[..], passing),
            "{text}"
        );
    }
    let (lines, passing) = answered("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", http11, true);
    assert_eq!(
        (lines, passing.closes),
        (vec!["HTTP/1.1 304 x".into(), "Content-Length: 9".to_string()], false)
    );
    let switch = "HTTP/1.1 101 x\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: p\r\n\r\n";
    let (lines, passing) = answered(switch, http11, true);
    let expected = [
        "HTTP/1.1 101 x",
        "Connection: upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Protocol: p",
    ];
    assert_eq!((&lines[..], passing.closes), (&expected.map(str::to_string)[..], false));
    let (lines, _) = answered("HTTP/1.1 100 Continue\r\n\r\n", http11, false);
    assert_eq!(lines, ["HTTP/1.1 100 Continue"]);
}

#[test]
fn our_own_answers_are_whole_messages() {
    let written = |reply: &FixedReply, sending| {
        let mut out = Vec::new();
        reply.write(sending, &mut out);
        String::from_utf8(out).expect("text")
    };
    let keep = Sending { head_only: false, keep: true, http10: false };
    let mut reply = FixedReply::of_status(405);
    let (allow, methods) = reply.headers.pop().expect("405 says what is allowed");
    assert_eq!((&*allow, &*methods), ("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    reply.headers.push(("Allow".to_string(), "POST".to_string()));
    reply.headers.push(("X-Evil".to_string(), "a\r\nb: c".to_string()));
    let head =
        "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 23\r\nContent-Type: text/plain\r\n";
    let body = "405 Method Not Allowed\n";
    assert_eq!(written(&reply, keep), format!("{head}Allow: POST\r\n\r\n{body}"));
    let close = Sending { keep: false, ..keep };
    assert_eq!(
        written(&reply, close),
        format!("{head}Connection: close\r\nAllow: POST\r\n\r\n{body}")
    );
    let head_only = Sending { head_only: true, ..keep };
    assert_eq!(written(&reply, head_only), format!("{head}Allow: POST\r\n\r\n"));
    let http10 = Sending { http10: true, ..keep };
    assert!(written(&reply, http10).contains("\r\nConnection: keep-alive\r\n"));
    let empty = FixedReply { status: 204, body: String::new(), ..FixedReply::of_status(204) };
    assert_eq!(written(&empty, keep), "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(request_id(0x1f), format!("{}1f", "0".repeat(30)));
}
