//! Who may ask and who may change: tokens, hosts, origins, media types, on a running gateway.

mod gateway;

use std::io::{Read, Write};
use std::net::TcpStream;

use gateway::backend::Backend;
use gateway::{DEADLINE, Gateway, frame_config};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef-ops";
const OTHER: &str = "fedcba9876543210-second";

/// A gateway that asks for a token, and the file of them.
fn guarded() -> (Gateway, std::path::PathBuf) {
    let file = gateway::directory().join("tokens");
    std::fs::write(&file, format!("# ours\nops {TOKEN}\n")).unwrap();
    let admin = format!("token_file = {file:?}\nhosts = [\"gateway.example\"]\n");
    let toml = frame_config(&[Backend::echo("only")], "", "");
    let start = gateway::Start { admin, ..gateway::Start::default() };
    (Gateway::start_with(&toml, &start), file)
}

/// Status, head and body of the answer to a request with these header lines.
fn ask(gateway: &Gateway, request: &str, headers: &[&str]) -> (u16, String, String) {
    let mut stream = TcpStream::connect_timeout(&gateway.admin, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let (request, body) = request.split_once('\n').unwrap_or((request, ""));
    let mut text = format!("{request} HTTP/1.1\r\n");
    if !headers.iter().any(|line| line.starts_with("Host:")) {
        text += "Host: localhost\r\n";
    }
    headers.iter().for_each(|line| text += &format!("{line}\r\n"));
    text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    // What is refused before its body was read may be reset after the answer.
    let _reset = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[track_caller]
fn assert_problem((status, head, body): (u16, String, String), expected: u16) {
    assert_eq!(status, expected, "{head}\n{body}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], expected);
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
}

#[test]
fn every_path_but_those_of_probes_needs_a_token() {
    let (gateway, file) = guarded();
    let good = format!("Authorization: Bearer {TOKEN}");
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(ask(&gateway, &format!("GET {path}"), &[]).0, 200, "{path}");
        assert_problem(ask(&gateway, &format!("POST {path}"), &[]), 401);
    }
    let paths =
        ["/", "/metrics", "/pools", "/sessions", "/config", "/audit", "/events", "/where/a"];
    for path in paths.into_iter().chain(["/openapi.json", "/no/such/path"]) {
        let answer = ask(&gateway, &format!("GET {path}"), &[]);
        assert!(answer.1.contains("www-authenticate: bearer realm=\"corelane\""), "{}", answer.1);
        assert_problem(answer, 401);
    }
    let wrong = [
        format!("Authorization: Bearer {OTHER}"),
        format!("Authorization: Bearer {TOKEN}x"),
        format!("Authorization: Bearer {}", &TOKEN[1..]),
        "Authorization: Bearer ".to_owned(),
        format!("Authorization: Basic {TOKEN}"),
        format!("Authorization: {TOKEN}"),
        format!("X-Token: {TOKEN}"),
    ];
    for line in &wrong {
        assert_problem(ask(&gateway, "GET /pools", &[line]), 401);
        assert_problem(ask(&gateway, "POST /reload", &[line]), 401);
    }
    assert_problem(ask(&gateway, "GET /pools", &[&good, &good]), 401);
    assert_eq!(ask(&gateway, "GET /pools", &[&good]).0, 200);
    let lower = format!("authorization: bearer {TOKEN}");
    assert_eq!(ask(&gateway, "GET /pools", &[&lower]).0, 200);
    // The file counts as it is now.
    std::fs::write(&file, format!("second {OTHER}\n")).unwrap();
    assert_problem(ask(&gateway, "GET /pools", &[&good]), 401);
    assert_eq!(ask(&gateway, "GET /pools", &[&wrong[0]]).0, 200);
    std::fs::write(&file, "").unwrap();
    assert_problem(ask(&gateway, "GET /pools", &[&wrong[0]]), 503);
    assert_eq!(ask(&gateway, "GET /livez", &[]).0, 200);
    assert_eq!(gateway.operational.all().iter().filter(|line| line.contains(TOKEN)).count(), 0);
}

#[test]
fn the_audit_log_says_who_changed_what_and_what_was_refused() {
    let (gateway, file) = guarded();
    std::fs::write(&file, format!("ops {TOKEN}\nsecond {OTHER}\n")).unwrap();
    let (ops, second) =
        (format!("Authorization: Bearer {TOKEN}"), format!("Authorization: Bearer {OTHER}"));
    assert_eq!(ask(&gateway, "POST /reload", &[&ops]).0, 200);
    assert_eq!(ask(&gateway, "POST /reload?dry_run=true", &[&ops]).0, 200);
    assert_eq!(ask(&gateway, "DELETE /sessions/0-0-77", &[&second]).0, 404);
    assert_eq!(ask(&gateway, "POST /reload", &[]).0, 401);
    gateway.signal("HUP");
    gateway.operational.wait("a second reload", |lines| {
        let is_reload = |line: &&String| line.contains("configuration reloaded");
        (lines.iter().filter(is_reload).count() == 2).then_some(())
    });
    gateway.operational.wait("its audit line", |lines| {
        lines.iter().any(|line| line.contains("signal HUP")).then_some(())
    });
    let body = ask(&gateway, "GET /audit", &[&ops]).2;
    let entries: Value = serde_json::from_str(&body).unwrap();
    let entries = entries["entries"].as_array().unwrap();
    let what: Vec<&str> = entries.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["reload", "DELETE /sessions/0-0-77", "POST /reload"], "{body}");
    let who: Vec<&str> = entries.iter().map(|entry| entry["who"].as_str().unwrap()).collect();
    assert_eq!(who[0], "signal HUP");
    assert!(who[1].starts_with("second from 127.0.0.1:"), "{body}");
    assert!(who[2].starts_with("ops from 127.0.0.1:"), "{body}");
    assert_eq!([&entries[1]["result"], &entries[2]["result"]], ["refused", "done"]);
    assert_eq!(entries[2]["detail"], "table 2");
    let logged = gateway.operational.all();
    assert_eq!(logged.iter().filter(|line| line.contains("\"audit\"")).count(), 3, "{logged:#?}");
}

#[test]
fn pages_of_other_origins_change_nothing() {
    let gateway = Gateway::start(&frame_config(&[Backend::echo("only")], "", ""));
    let host = format!("Host: {}", gateway.admin);
    let same = format!("Origin: http://{}", gateway.admin);
    let level = "PATCH /log\n{\"level\":\"debug\"}";
    let typed = "Content-Type: application/json";
    for origin in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        assert_problem(ask(&gateway, level, &[&host, typed, origin]), 403);
        assert_problem(ask(&gateway, "POST /reload", &[&host, origin]), 403);
        assert_problem(ask(&gateway, "DELETE /sessions/0-0-1", &[&host, origin]), 403);
        // It may look, as far as its browser lets it: there is no word of sharing in the answer.
        let (status, head, _) = ask(&gateway, "GET /pools", &[&host, origin]);
        assert!(status == 200 && !head.contains("access-control"), "{head}");
    }
    assert_problem(ask(&gateway, level, &["Host: evil.example", typed]), 421);
    // A form can send this without asking.
    for media in ["Content-Type: text/plain", "Content-Type: multipart/form-data", "X: y"] {
        assert_problem(ask(&gateway, level, &[&host, media]), 415);
    }
    assert!(ask(&gateway, "GET /log", &[]).2.contains("\"level\":\"info\""));
    assert_eq!(ask(&gateway, level, &[&host, typed, &same]).0, 200);
    assert!(ask(&gateway, "GET /log", &[]).2.contains("\"level\":\"debug\""));
}

#[test]
fn bodies_are_bounded_and_have_to_make_sense() {
    let gateway = Gateway::start(&frame_config(&[Backend::echo("only")], "", ""));
    let typed = "Content-Type: application/json; charset=utf-8";
    let long = format!("PATCH /log\n{{\"level\":\"{}\"}}", "x".repeat(64 * 1024));
    assert_problem(ask(&gateway, &long, &[typed]), 413);
    for body in
        ["", "{", "[]", "{\"level\":1}", "{\"level\":\"loud\"}", "{\"level\":\"info\",\"a\":1}"]
    {
        assert_problem(ask(&gateway, &format!("PATCH /log\n{body}"), &[typed]), 400);
    }
    // Nothing is changed by reading.
    for path in ["/reload", "/sources/c2s/refresh", "/pools/c2s/backends/127.0.0.1:1/close"] {
        assert_problem(ask(&gateway, &format!("GET {path}"), &[]), 405);
    }
    assert_problem(ask(&gateway, "PUT /log", &[typed]), 405);
    for path in ["GET /pools/%FF", "DELETE /sessions/%C3%28", "GET /sources/%80"] {
        assert_problem(ask(&gateway, path, &[]), 400);
    }
}

#[test]
fn without_a_token_file_it_listens_on_loopback_only() {
    let toml = frame_config(&[Backend::echo("only")], "", "");
    let toml = format!("{toml}\n[admin]\nlisten = \"0.0.0.0:0\"\n");
    let (code, error) = gateway::run_to_end(&toml, &gateway::Start::default());
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("admin.token_file: missing"), "{error}");
}
