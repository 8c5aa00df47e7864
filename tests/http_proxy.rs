//! Requests through a running gateway: rules, keys, connections that stay open, every kind of body.

mod gateway;
mod web;

use std::time::{Duration, Instant};

use gateway::Gateway;
use web::{Web, client, config, ok, one_pool};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn rules_choose_by_every_part_of_a_request() {
    let [a, b, c, d, e, f] = ["a", "b", "c", "d", "e", "f"].map(Web::named);
    let rule = |name: &str, what: &str| {
        format!("[[listener.http.rule]]\nname = \"{name}\"\n{what}\npool = \"{name}\"\n")
    };
    let pool = |name: &str, web: &Web| {
        format!("[pool.{name}]\nbalance = \"round_robin\"\nbackends = [\"{}\"]\n", web.address)
    };
    let reply = "[[listener.http.rule]]\nname = \"reply\"\npath = \"/fixed\"\n\
                 reply = { status = 418, body = \"no\", headers = { Allow = \"POST\" } }\n";
    let rules = [
        rule("a", "header = { Server = \"one\" }"),
        rule("b", "query = { uid = \"~^[0-9]+$\" }"),
        rule("c", "cookie = { who = true }"),
        rule("d", "host = [\"*.example.org\"]"),
        rule("e", "path_prefix = \"/e/\""),
        rule("f", "method = [\"DELETE\"]"),
        reply.to_owned(),
    ];
    let pools =
        [("a", &a), ("b", &b), ("c", &c), ("d", &d), ("e", &e), ("f", &f)].map(|(n, w)| pool(n, w));
    let gateway = Gateway::start(&config("", &(rules.concat() + &pools.concat())));
    let mut client = client(&gateway);
    let asked = [
        ("GET / HTTP/1.1\r\nHost: h\r\nserver: one\r\n\r\n", "a"),
        ("GET /?uid=12 HTTP/1.1\r\nHost: h\r\n\r\n", "b"),
        ("GET /?uid=x HTTP/1.1\r\nHost: h\r\nCookie: x=y; who=me\r\n\r\n", "c"),
        ("GET / HTTP/1.1\r\nHost: www.Example.org:80\r\n\r\n", "d"),
        ("GET /e/%65 HTTP/1.1\r\nHost: h\r\n\r\n", "e"),
        ("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", "f"),
    ];
    for (request, name) in asked {
        let answer = client.ask(request);
        assert_eq!(answer.status(), 200, "{request}");
        assert_eq!(answer.text().split(' ').next(), Some(name), "{request}");
    }
    let fixed = client.ask(&get("/fixed"));
    assert_eq!((fixed.status(), fixed.text().as_str()), (418, "no"));
    assert_eq!(fixed.field("allow"), Some("POST"));
    assert_eq!(client.ask(&get("/nothing")).status(), 404);
    // All of that was one connection.
    assert_eq!(client.ask(&get("/e/")).text().split(' ').next(), Some("e"));
    let counted = |rule: &str, class: &str| {
        let labels = format!("listener=\"web\",rule=\"{rule}\",class=\"{class}\"");
        gateway.metric(&format!("corelane_http_requests_total{{{labels}}}"))
    };
    gateway.wait_metric(
        "corelane_http_requests_total{listener=\"web\",rule=\"e\",class=\"2xx\"}",
        2.0,
    );
    assert_eq!(
        (counted("a", "2xx"), counted("reply", "4xx"), counted("-", "4xx")),
        (1.0, 1.0, 1.0)
    );
}

#[test]
fn a_key_decides_for_each_request_of_a_connection() {
    let (a, b) = (Web::named("a"), Web::named("b"));
    let rest = format!(
        "[[listener.http.rule]]\nname = \"all\"\npool = \"p\"\nkey = \"header:server\"\n\
         missing = 403\n[pool.p]\nbalance = \"crc32_mod\"\nbackends = [\"{}\", \"{}\"]\n",
        a.address, b.address
    );
    let gateway = Gateway::start(&config("", &rest));
    let mut client = client(&gateway);
    for key in 0..20 {
        let expected =
            if crc32fast::hash(key.to_string().as_bytes()).is_multiple_of(2) { "a" } else { "b" };
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: h\r\nServer: {key}\r\n\r\n"));
        assert_eq!(answer.text().split(' ').next(), Some(expected), "{key}");
    }
    assert_eq!(client.ask(&get("/")).status(), 403);
    let twice = "GET / HTTP/1.1\r\nHost: h\r\nServer: 1\r\nServer: 2\r\n\r\n";
    assert_eq!(client.ask(twice).status(), 400);
    assert_eq!((a.connections(), b.connections()), (1, 1), "kept between requests");
}

#[test]
fn connections_stay_open_on_both_sides_as_long_as_they_may() {
    let web = Web::named("w");
    let http = "max_requests = 5\nbackend = { max_requests = 3, idle = 2 }";
    let gateway = Gateway::start(&one_pool(http, &[web.address], ""));
    for _ in 0..2 {
        let mut client = client(&gateway);
        for number in 1..=5 {
            let answer = client.ask(&get("/"));
            let close = answer.field("connection") == Some("close");
            assert_eq!(close, number == 5, "{}", answer.head);
        }
        assert!(client.rest().1, "a FIN behind the last response");
    }
    // 10 requests, three on each connection.
    assert_eq!(web.connections(), 4);
    let per: Vec<usize> =
        (0..4).map(|c| web.seen().iter().filter(|seen| seen.connection == c).count()).collect();
    assert_eq!(per, [3, 3, 3, 1]);
    let closing: Vec<bool> =
        web.seen().iter().map(|seen| seen.field("connection") == Some("close")).collect();
    assert_eq!(closing.iter().filter(|close| **close).count(), 3, "{closing:?}");
    let mut client = client(&gateway);
    let answer = client.ask("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.rest().1);
}

#[test]
fn an_idle_backend_connection_that_was_closed_is_not_used() {
    let web = Web::serve(|_, mut wire| {
        if wire.message("").is_some() {
            wire.send(ok("once"));
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut client = client(&gateway);
    for number in 1..=5 {
        assert_eq!(
            client.ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").text(),
            "once"
        );
        assert_eq!(web.connections(), number);
        // The FIN is on its way; a request that cannot be repeated must not meet it.
        gateway.wait_metric("corelane_http_backend_connections_idle", 0.0);
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let web = Web::named("w");
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut client = client(&gateway);
    let mut all = String::new();
    for number in 0..50 {
        all += &format!("POST /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab");
        all += &format!("PUT /{number} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        all += "1\r\nc\r\n0\r\n\r\n";
    }
    client.send(&all);
    for number in 0..50 {
        let text = client.message("POST").unwrap().text();
        assert_eq!(text, format!("w POST /{number} HTTP/1.1 ab"));
        let text = client.message("PUT").unwrap().text();
        assert_eq!(text, format!("w PUT /{number} HTTP/1.1 c"));
    }
    assert_eq!(web.seen().len(), 100);
}

#[test]
fn responses_of_every_kind_end_where_they_end() {
    let web = Web::answering(|message| {
        let target = message.start_line().split(' ').nth(1).unwrap().to_owned();
        match target.as_str() {
            "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                            3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n"
                .to_vec(),
            "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n".to_vec(),
            "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
            "/early" => b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
                          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
            _ => ok("hello"),
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut client = client(&gateway);
    let chunked = client.ask(&get("/chunked"));
    assert_eq!(
        (chunked.text().as_str(), chunked.field("transfer-encoding")),
        ("abcde", Some("chunked"))
    );
    assert_eq!(client.ask(&get("/204")).status(), 204);
    let not_modified = client.ask(&get("/304"));
    assert_eq!((not_modified.status(), not_modified.field("etag")), (304, Some("x")));
    let head = client.ask("HEAD /head HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((head.status(), head.field("content-length")), (200, Some("1234")));
    assert_eq!(client.ask(&get("/early")).status(), 103);
    assert_eq!(client.message("GET").unwrap().text(), "ok");
    assert_eq!(client.ask(&get("/")).text(), "hello");
    assert_eq!(web.connections(), 1);
    // HTTP/1.0 knows neither chunks nor interim responses, and says itself what stays open.
    let old = |path: &str, more: &str| format!("GET {path} HTTP/1.0\r\nHost: h\r\n{more}\r\n");
    let mut client = web::client(&gateway);
    let answer = client.ask(&old("/", "Connection: keep-alive\r\n"));
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("hello", Some("keep-alive")));
    assert_eq!(client.ask(&old("/early", "Connection: keep-alive\r\n")).text(), "ok");
    client.send(old("/chunked", "Connection: keep-alive\r\n"));
    let (bytes, fin) = client.rest();
    let text = String::from_utf8(bytes).unwrap();
    assert!(fin && text.ends_with("\r\n\r\nabcde"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("transfer-encoding"), "{text}");
}

#[test]
fn a_response_until_the_end_of_its_connection_is_one() {
    let web = Web::serve(|_, mut wire| {
        if wire.message("").is_some() {
            wire.send(b"HTTP/1.0 200 OK\r\n\r\nall of ");
            wire.send(b"it");
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut client = client(&gateway);
    let answer = client.ask(&get("/"));
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("all of it", Some("close")));
    assert_eq!(gateway.assert_end("http_closed")["bytes_in"], get("/").len());
}

#[test]
fn expectations_are_the_backends_to_meet() {
    let web = Web::serve(|_, mut wire| {
        let head = wire.head().unwrap();
        assert_eq!(head.field("expect"), Some("100-continue"));
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(wire.bytes(5), b"hello");
        wire.send(ok("got it"));
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(wire.ask(head).status(), 100);
    wire.send("hello");
    assert_eq!(wire.message("POST").unwrap().text(), "got it");
    // One that refuses: the connection does not wait for the body.
    let web = Web::serve(|_, mut wire| {
        wire.head().unwrap();
        wire.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n");
        wire.rest();
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    let answer = wire.ask(head);
    assert_eq!((answer.status(), answer.field("connection")), (417, Some("close")));
    assert!(wire.rest().1);
}

#[test]
fn an_early_response_passes_while_the_request_is_still_sent() {
    let web = Web::serve(|_, mut wire| {
        wire.head().unwrap();
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Echoes each byte as a chunk.
        for _ in 0..5 {
            let byte = wire.bytes(1);
            wire.send([b"1\r\n", &byte[..], b"\r\n"].concat());
        }
        wire.send(b"0\r\n\r\n");
        wire.rest();
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut client = client(&gateway);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 200);
    for byte in b"hello" {
        client.send([*byte]);
        assert_eq!(client.bytes(6), [b"1\r\n", &[*byte][..], b"\r\n"].concat());
    }
    assert_eq!(client.bytes(5), b"0\r\n\r\n");
}

#[test]
fn what_cannot_be_served_is_answered_and_closed() {
    let web = Web::named("w");
    let http = "max_head = \"2KiB\"\nmax_target = \"512B\"\nmax_headers = 10\nmax_body = \"10B\"";
    let gateway = Gateway::start(&one_pool(http, &[web.address], ""));
    let long = "x".repeat(3000);
    let many: String = (0..20).map(|n| format!("X{n}: y\r\n")).collect();
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", &long[..600]), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"), 431),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(), 501),
        (format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n{long}"), 413),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n"
                .to_owned(),
            413,
        ),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".to_owned(), 400),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n".to_owned(), 405),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: magic\r\n\r\n".to_owned(), 417),
    ];
    for (request, status) in &cases {
        let mut client = client(&gateway);
        client.try_send(request);
        // More bytes than anybody reads: they must not destroy the answer.
        client.try_send(&long);
        let answer = client.message("").unwrap_or_else(|| panic!("no answer to {request}"));
        assert_eq!(answer.status(), *status, "{request}");
        assert_eq!(answer.field("connection"), Some("close"));
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.rest().1, "a FIN, not a reset: {request}");
    }
    gateway
        .wait_metric("corelane_http_refusals_total{listener=\"web\",reason=\"host_missing\"}", 1.0);
    assert_eq!(
        gateway.metric("corelane_http_refusals_total{listener=\"web\",reason=\"body_too_large\"}"),
        2.0
    );
    let ends = gateway.session_lines(cases.len());
    assert!(ends.iter().all(|line| line["end"] == "http_refused"), "{ends:?}");
}

#[test]
fn a_quiet_request_costs_few_system_calls_worth_of_time() {
    // A bound that only a busy loop or a missed wake-up breaks: 500 requests one after the other.
    let web = Web::named("w");
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut client = client(&gateway);
    let begun = Instant::now();
    for _ in 0..500 {
        assert_eq!(client.ask(&get("/")).status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let cpu = gateway.cpu();
    std::thread::park_timeout(Duration::from_millis(500));
    let idle = gateway.cpu() - cpu;
    assert!(idle < Duration::from_millis(200), "{idle:?} while nothing happens");
    assert_eq!(web.connections(), 1);
}
