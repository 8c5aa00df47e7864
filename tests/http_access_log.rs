//! Lines of the access log: nginx's variables under nginx's names, escaped as nginx does, and never
//! more than one line whatever was sent.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use corelane::http::access::{AccessTarget, COMBINED, Escape, Format, Names, Outcome};
use corelane::http::client::{Client, Request};
use corelane::http::head::{HeadLimits, Read};
use corelane::http::request;

const REQUEST: &[u8] = b"GET /a/%62?uid=7&x=%22 HTTP/1.1\r\nHost: Play.Example:8080\r\n\
                         User-Agent: curl \"8\" \\ \x80\r\nReferer: http://r/\r\n\
                         Cookie: s=1; t=2\r\nX-Two: 1\r\nX-Two: 2\r\nContent-Type: text/a\r\n\r\n";

fn outcome() -> Outcome<'static> {
    Outcome {
        ended: Some(UNIX_EPOCH + Duration::from_millis(1_795_260_614_123)),
        duration: Duration::from_millis(1_234),
        status: 200,
        reason: "",
        bytes_sent: 150,
        body_bytes_sent: 12,
        request_length: 99,
        connection: 5,
        connection_requests: 2,
        backend: Some("10.0.0.1:80"),
        attempts: 1,
        backend_status: Some(200),
        backend_connect: Some(Duration::from_millis(3)),
        backend_head: None,
        backend_response: Some(Duration::from_millis(40)),
        backend_bytes_sent: 101,
        backend_bytes_received: 151,
    }
}

fn line_of(format: &Format, bytes: &[u8], outcome: &Outcome<'_>) -> String {
    let Read::Complete(head) = request::read(bytes, &HeadLimits::default()) else {
        panic!("not a request: {}", bytes.escape_ascii())
    };
    let address = "192.0.2.7:5123".parse().ok();
    let client = Client { address, tls: false, trusted: false };
    let request = Request::new(bytes, &head, client);
    let local = "10.9.9.9:8080".parse().ok();
    let names = Names { listener: "web", rule: "players", request_id: "00ff", local };
    let captured = format.capture(Some(&request), &names);
    let mut out = Vec::new();
    format.write(&captured, outcome, &mut out);
    String::from_utf8(out).expect("text")
}

fn line(format: &str, escape: Escape) -> String {
    let format = Format::parse(format, escape).unwrap_or_else(|error| panic!("{error}"));
    line_of(&format, REQUEST, &outcome())
}

#[test]
fn combined_is_nginxs() {
    let expected = "192.0.2.7 - - [21/Nov/2026:11:30:14 +0000] \
                    \"GET /a/%62?uid=7&x=%22 HTTP/1.1\" 200 12 \"http://r/\" \
                    \"curl \\x228\\x22 \\x5C \\x80\"\n";
    assert_eq!(line("combined", Escape::Default), expected);
    assert_eq!(line(COMBINED, Escape::Default), expected);
}

#[test]
fn every_variable_has_its_value() {
    let cases = [
        ("$remote_addr:$remote_port", "192.0.2.7:5123"),
        ("$server_addr:$server_port", "10.9.9.9:8080"),
        ("$request_method $request_uri", "GET /a/%62?uid=7&x=%22"),
        ("$uri|$document_uri|$args|$query_string|$is_args", "/a/b|/a/b|uid=7&x=%22|uid=7&x=%22|?"),
        ("$host $scheme $server_protocol", "play.example http HTTP/1.1"),
        ("$arg_uid${arg_UID}x$arg_no", "77x-"),
        ("$http_x_two $http_referer $http_no", "1, 2 http://r/ -"),
        ("$cookie_t $cookie_no", "2 -"),
        ("$content_type $content_length", "text/a -"),
        ("$status $bytes_sent $body_bytes_sent $request_length", "200 150 12 99"),
        ("$request_time $msec", "1.234 1795260614.123"),
        ("$time_iso8601", "2026-11-21T11:30:14+00:00"),
        ("$connection $connection_requests", "5 2"),
        ("$upstream_addr $upstream_status", "10.0.0.1:80 200"),
        ("$upstream_connect_time $upstream_header_time", "0.003 -"),
        ("$upstream_response_time", "0.040"),
        ("$upstream_bytes_sent $upstream_bytes_received", "101 151"),
        ("$backend $attempts $reason", "10.0.0.1:80 1 -"),
        ("$listener $server_name $rule $request_id", "web web players 00ff"),
        ("$remote_user", "-"),
        ("no variable\nat all", "no variableat all"),
    ];
    for (format, expected) in cases {
        assert_eq!(line(format, Escape::Default), format!("{expected}\n"), "{format}");
    }
    for (format, near) in [("$remote_adr", Some("remote_addr")), ("$", None), ("${a", None)] {
        let error = Format::parse(format, Escape::Default).expect_err(format);
        assert_eq!(error.near, near, "{format}");
    }
    assert!(Format::parse("$http_", Escape::Default).is_err());
}

#[test]
fn json_is_json_and_says_what_was_sent() {
    let text = line("json", Escape::Default);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["target"], "/a/%62?uid=7&x=%22");
    assert_eq!(value["user_agent"], "curl \"8\" \\ \u{80}");
    assert_eq!(value["status"], 200);
    assert_eq!(value["duration_s"], 1.234);
    assert_eq!(value["backend"], "10.0.0.1:80");
    let own = line("{\"ua\": \"$http_user_agent\", \"no\": \"$http_no\"}", Escape::Json);
    let value: serde_json::Value = serde_json::from_str(&own).expect("JSON");
    assert_eq!(
        (value["ua"].as_str(), value["no"].as_str()),
        (Some("curl \"8\" \\ \u{80}"), Some(""))
    );
    // A request whose head was refused, and no backend.
    let format = Format::parse("json", Escape::Default).expect("a format");
    let captured = format.capture(None, &Names::default());
    let mut out = Vec::new();
    format.write(&captured, &Outcome { status: 400, ..Outcome::default() }, &mut out);
    let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!((value["status"].as_u64(), value["method"].as_str()), (Some(400), Some("")));
}

/// SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[test]
fn nothing_that_is_sent_leaves_its_place() {
    let default = Format::parse("\"$http_x\" \"$cookie_a\"", Escape::Default).expect("a format");
    let json = Format::parse("{\"x\":\"$http_x\",\"path\":\"$uri\"}", Escape::Json).expect("one");
    for seed in 0..5_000_u64 {
        let mut state = seed;
        let value: Vec<u8> = (0..random(&mut state) % 24)
            .map(|_| random(&mut state) as u8)
            .filter(|byte| !matches!(byte, 0..=8 | 10..=31 | 127))
            .collect();
        let path: String = (0..random(&mut state) % 8)
            .map(|_| format!("%{:02x}", 1 + random(&mut state) % 255))
            .collect();
        let mut bytes = format!("GET /x{path} HTTP/1.1\r\nHost: a\r\nX: ").into_bytes();
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(b"\r\nCookie: a=");
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(b"\r\n\r\n");
        let text = line_of(&default, &bytes, &outcome());
        assert!(text.is_ascii() && text.matches('\n').count() == 1, "seed {seed}: {text:?}");
        assert_eq!(text.matches('"').count(), 4, "seed {seed}: {text:?}");
        let text = line_of(&json, &bytes, &outcome());
        let shown = || format!("seed {seed}: {text:?}");
        assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control()), "{}", shown());
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(read["x"].is_string() && read["path"].is_string(), "{}", shown());
    }
}

#[test]
fn a_backends_name_cannot_leave_the_folder() {
    let target = AccessTarget::PerBackend {
        before: "/var/log/x/".to_string(),
        after: "_access.log".to_string(),
    };
    let path = |backend| target.path(backend).expect("a path");
    assert_eq!(path(Some("10.0.0.1:80")), PathBuf::from("/var/log/x/10.0.0.1:80_access.log"));
    assert_eq!(path(Some("[::1]:80")), PathBuf::from("/var/log/x/[::1]:80_access.log"));
    let none = PathBuf::from("/var/log/x/none_access.log");
    for backend in [None, Some("../../etc/x"), Some("a/b"), Some(""), Some("."), Some("unix:/r")] {
        assert_eq!(path(backend), none, "{backend:?}");
    }
    assert_eq!(AccessTarget::Stdout.path(Some("a")), None);
}
