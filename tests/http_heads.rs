//! Limits of heads, what heads say besides their framing, and responses.

use corelane::http::body::{Body, BodyFault};
use corelane::http::fields::Once;
use corelane::http::head::{HeadLimits, Read, Refusal, Scan};
use corelane::http::request::{self, Form, RequestHead};
use corelane::http::response::{self, Asked, ResponseHead, Role};
use corelane::http::{Framing, Version};

const PLAIN: Asked = Asked { head_only: false, upgrade: false, websocket_key: false };

fn request(text: &str) -> RequestHead {
    match request::read(text.as_bytes(), &HeadLimits::default()) {
        Read::Complete(head) => head,
        other => panic!("{other:?}: {text}"),
    }
}

fn refused(text: &str, limits: &HeadLimits) -> Refusal {
    match request::read(text.as_bytes(), limits) {
        Read::Refused(refusal) => refusal,
        other => panic!("{other:?}: {text}"),
    }
}

fn response(text: &str, asked: Asked) -> Result<ResponseHead, Refusal> {
    match response::read(text.as_bytes(), &HeadLimits::default(), asked) {
        Read::Complete(head) => Ok(head),
        Read::Refused(refusal) => Err(refusal),
        Read::Partial => panic!("incomplete: {text}"),
    }
}

/// RFC 9110, 2.5: a higher minor version is read as the highest that is known.
#[test]
fn later_minor_versions_are_read_as_1_1() {
    let text = "\r\nPOST /a?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = "HTTP/1.1 200 HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\n";
    for minor in 2..=9 {
        let later = format!("HTTP/1.{minor}");
        assert_eq!(request(&text.replace("HTTP/1.1", &later)), request(text), "{later}");
        let later = answer.replacen("HTTP/1.1", &later, 1);
        assert_eq!(response(&later, PLAIN), response(answer, PLAIN), "{later}");
    }
    for other in ["HTTP/0.9", "HTTP/2.0", "HTTP/2.1", "HTTP/9.1"] {
        let text = text.replace("HTTP/1.1", other);
        assert_eq!(refused(&text, &HeadLimits::default()), Refusal::VersionUnsupported, "{other}");
        let answer = response(&answer.replacen("HTTP/1.1", other, 1), PLAIN);
        assert_eq!(answer, Err(Refusal::VersionUnsupported), "{other}");
    }
    for none in ["HTTP/1.10", "HTTP/1.", "HTTP/1.x", "HTTP/1"] {
        let text = text.replace("HTTP/1.1", none);
        assert_eq!(refused(&text, &HeadLimits::default()), Refusal::RequestLineInvalid, "{none}");
    }
}

#[test]
fn limits_are_exact() {
    let limits = HeadLimits { head_len_max: 100, fields_max: 3, target_len_max: 30 };
    let head = |len: usize| {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{text}{}\r\n\r\n", "x".repeat(len - text.len() - 4))
    };
    assert!(matches!(request::read(head(100).as_bytes(), &limits), Read::Complete(_)));
    assert_eq!(refused(&head(101), &limits), Refusal::HeadTooLong);
    // What follows a head does not count.
    let more = format!("{}{}", head(100), "x".repeat(1_000));
    assert!(matches!(request::read(more.as_bytes(), &limits), Read::Complete(_)));

    let fields = |count: usize| {
        let rest = "X:\r\n".repeat(count - 1);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n")
    };
    assert!(matches!(request::read(fields(3).as_bytes(), &limits), Read::Complete(_)));
    assert_eq!(refused(&fields(4), &limits), Refusal::FieldsTooMany);
    let most = HeadLimits { fields_max: 10_000, ..HeadLimits::default() };
    assert!(matches!(request::read(fields(256).as_bytes(), &most), Read::Complete(_)));
    assert_eq!(refused(&fields(257), &most), Refusal::FieldsTooMany);

    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - 1));
    assert!(matches!(request::read(target(30).as_bytes(), &limits), Read::Complete(_)));
    assert_eq!(refused(&target(31), &limits), Refusal::TargetTooLong);
    // An endless one is refused before its line ends.
    assert_eq!(refused(&"G".repeat(99), &limits), Refusal::TargetTooLong);
}

#[test]
fn each_byte_is_looked_at_once() {
    // A head of 60 KiB, byte by byte: with a second look at each it would take minutes.
    let limits = HeadLimits { head_len_max: 64 << 10, ..HeadLimits::default() };
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(60_000));
    let mut scan = Scan::default();
    for len in 0..text.len() {
        let read = request::read_more(&mut scan, &text.as_bytes()[..len], &limits);
        assert_eq!(read, Read::Partial, "{len}");
    }
    let read = request::read_more(&mut scan, text.as_bytes(), &limits);
    assert!(matches!(read, Read::Complete(head) if head.len == text.len()));
}

#[test]
fn a_target_has_its_parts() {
    let cases = [
        ("/a/b?c=d", Form::Origin, "/a/b", Some("c=d"), "/a/b?c=d"),
        ("/?", Form::Origin, "/", Some(""), "/?"),
        ("//h/x", Form::Origin, "/h/x", None, "//h/x"),
        ("/a?b?c", Form::Origin, "/a", Some("b?c"), "/a?b?c"),
        ("http://h:8/a?b", Form::Absolute, "/a", Some("b"), "/a?b"),
        ("http://h:8", Form::Absolute, "/", None, "/"),
        ("HTTPS://H:8?b", Form::Absolute, "/", Some("b"), "/?b"),
        ("/%61%2Fb", Form::Origin, "/a/b", None, "/%61%2Fb"),
        ("/a/./b/../c", Form::Origin, "/a/c", None, "/a/./b/../c"),
    ];
    for (target, form, path, query, onward) in cases {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h:8\r\n\r\n");
        let head = request(&text);
        let bytes = text.as_bytes();
        assert_eq!((head.form, head.target.of(bytes)), (form, target.as_bytes()));
        assert_eq!(&*head.path(bytes), path.as_bytes(), "{target}");
        assert_eq!(head.query.map(|q| q.of(bytes)), query.map(str::as_bytes), "{target}");
        let mut out = Vec::new();
        head.origin_form(bytes, &mut out);
        assert_eq!(out, onward.as_bytes(), "{target}");
        assert_eq!(head.host(bytes), b"h");
    }
    for target in ["*", "http://h:8"] {
        let text = format!("OPTIONS {target} HTTP/1.1\r\nHost: h:8\r\n\r\n");
        let mut out = Vec::new();
        request(&text).origin_form(text.as_bytes(), &mut out);
        assert_eq!(out, b"*");
    }
}

#[test]
fn hosts_are_compared_in_one_form() {
    for (host, plain) in
        [("A.Example", "a.example"), ("a.example.:80", "a.example"), ("[::1]:80", "[::1]")]
    {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(request(&text).host(text.as_bytes()), plain.as_bytes());
    }
}

#[test]
fn a_connection_stays_open_as_the_version_says() {
    let cases = [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
        ("HTTP/1.1", "Connection: x, Close\r\n", false),
        ("HTTP/1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n", false),
    ];
    for (version, fields, keeps) in cases {
        let text = format!("GET / {version}\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(request(&text).keeps_alive, keeps, "{text}");
    }
}

#[test]
fn expectations_and_upgrades() {
    let expect = |length: &str| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n{length}\r\n");
        request(&text).expects_continue
    };
    assert!(expect("Content-Length: 1\r\n") && expect("Transfer-Encoding: chunked\r\n"));
    // There is nothing to wait with.
    assert!(!expect("") && !expect("Content-Length: 0\r\n"));
    let websocket = "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let head = request(&format!("GET / HTTP/1.1\r\n{websocket}"));
    assert!(head.upgrades && head.framing == Framing::None);
    for text in [
        format!("GET / HTTP/1.0\r\n{websocket}"),
        format!("POST / HTTP/1.1\r\n{websocket}"),
        format!("GET / HTTP/1.1\r\nContent-Length: 1\r\n{websocket}"),
        format!("GET / HTTP/1.1\r\nUpgrade: h2c\r\n{websocket}"),
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n".to_string(),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".to_string(),
    ] {
        assert!(!request(&text).upgrades, "{text}");
    }
}

#[test]
fn a_response_ends_where_its_status_and_request_say() {
    let head = |status: &str, fields: &str| format!("HTTP/1.1 {status}\r\n{fields}\r\n");
    let head_only = Asked { head_only: true, ..PLAIN };
    let cases = [
        (head("200 OK", "Content-Length: 3\r\n"), PLAIN, Ok(Framing::Length(3))),
        (head("200 OK", "Transfer-Encoding: chunked\r\n"), PLAIN, Ok(Framing::Chunked)),
        (head("200 OK", ""), PLAIN, Ok(Framing::UntilClose)),
        (head("200", ""), PLAIN, Ok(Framing::UntilClose)),
        (head("200 OK", "Content-Length: 3\r\n"), head_only, Ok(Framing::None)),
        (head("200 OK", "Transfer-Encoding: chunked\r\n"), head_only, Ok(Framing::None)),
        (head("304 x", "Content-Length: 3\r\n"), PLAIN, Ok(Framing::None)),
        (head("204 x", ""), PLAIN, Ok(Framing::None)),
        (head("204 x", "Content-Length: 0\r\n"), PLAIN, Ok(Framing::None)),
        (head("204 x", "Content-Length: 3\r\n"), PLAIN, Err(Refusal::BodyUnexpected)),
        (head("204 x", "Transfer-Encoding: chunked\r\n"), PLAIN, Err(Refusal::BodyUnexpected)),
        (head("100 x", "Content-Length: 0\r\n"), PLAIN, Err(Refusal::BodyUnexpected)),
        (head("100 Continue", ""), PLAIN, Ok(Framing::None)),
        (
            head("200 OK", "Content-Length: 3\r\nContent-Length: 3\r\n"),
            PLAIN,
            Err(Refusal::LengthDuplicate),
        ),
        (
            head("200 OK", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            head_only,
            Err(Refusal::LengthAndCoding),
        ),
        (head("200 OK", "Transfer-Encoding: gzip\r\n"), PLAIN, Err(Refusal::CodingInvalid)),
        (
            head("200 OK", "Transfer-Encoding: gzip, chunked\r\n"),
            PLAIN,
            Err(Refusal::CodingUnknown),
        ),
        (head("099 x", ""), PLAIN, Err(Refusal::StatusInvalid)),
        (head("600 x", ""), PLAIN, Err(Refusal::StatusInvalid)),
        (head("20 x", ""), PLAIN, Err(Refusal::StatusLineInvalid)),
        (head("2000 x", ""), PLAIN, Err(Refusal::StatusLineInvalid)),
        ("HTTP/2.0 200 x\r\n\r\n".to_string(), PLAIN, Err(Refusal::VersionUnsupported)),
        ("ICY 200 x\r\n\r\n".to_string(), PLAIN, Err(Refusal::StatusLineInvalid)),
        ("\r\nHTTP/1.1 200 x\r\n\r\n".to_string(), PLAIN, Err(Refusal::LinesEmpty)),
        ("HTTP/1.1 200 x\nA: b\n\n".to_string(), PLAIN, Err(Refusal::BareLineFeed)),
        ("HTTP/1.1 200 x\r\nA : b\r\n\r\n".to_string(), PLAIN, Err(Refusal::FieldNameBlank)),
        ("HTTP/1.1 200 x\r\nA: b\r\n c\r\n\r\n".to_string(), PLAIN, Err(Refusal::FieldFolded)),
        (
            "HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n".to_string(),
            PLAIN,
            Err(Refusal::CodingBeforeHttp11),
        ),
    ];
    for (text, asked, expected) in cases {
        let read = response(&text, asked).map(|head| head.framing);
        assert_eq!(read, expected, "{text}");
    }
    let kept = response("HTTP/1.1 200 x\r\n\r\n", PLAIN).expect("a head");
    assert!(!kept.keeps_alive && kept.version == Version::Http11, "its end is its body's");
}

#[test]
fn a_101_has_to_answer_what_was_asked() {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let asked = Asked { upgrade: true, websocket_key: true, ..PLAIN };
    let head = response(&format!("{switch}{accept}\r\n\x01\x02"), asked).expect("a 101");
    assert_eq!((head.role, head.framing), (Role::Upgraded, Framing::None));
    let no_upgrade = switch.replace("Connection: Upgrade\r\n", "");
    let cases = [
        (format!("{switch}{accept}\r\n"), PLAIN),
        (format!("{switch}\r\n"), asked),
        (format!("{switch}{accept}{accept}\r\n"), asked),
        (format!("{}{accept}\r\n", switch.replace("websocket", "h2c")), asked),
        (format!("{no_upgrade}{accept}\r\n"), asked),
        (format!("{switch}Upgrade: websocket\r\n{accept}\r\n"), asked),
    ];
    for (text, asked) in cases {
        assert_eq!(response(&text, asked), Err(Refusal::UpgradeUnexpected), "{text}");
    }
    let refused = response("HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", asked);
    assert_eq!(refused.map(|head| head.role), Ok(Role::Final));
}

#[test]
fn a_body_that_ends_early_is_not_complete() {
    let mut body = Body::new(Framing::Length(3));
    assert_eq!(body.take(b"ab").map(|taken| (taken.len, taken.complete)), Ok((2, false)));
    assert_eq!((body.left(), body.end_of_stream()), (Some(1), Err(BodyFault::Truncated)));
    assert_eq!(body.take(b"cd").map(|taken| (taken.len, taken.complete)), Ok((1, true)));
    assert_eq!(body.end_of_stream(), Ok(()));
    let mut until_close = Body::new(Framing::UntilClose);
    assert_eq!(until_close.take(b"abc").map(|t| (t.len, t.complete)), Ok((3, false)));
    assert_eq!(until_close.end_of_stream(), Ok(()));
    assert_eq!(Body::new(Framing::None).take(b"x").map(|t| (t.len, t.complete)), Ok((0, true)));
    assert_eq!(Body::new(Framing::Chunked).end_of_stream(), Err(BodyFault::Truncated));
}

#[test]
fn what_chunks_may_have_besides_data_is_bounded() {
    let extension = format!("1;{}\r\nx\r\n", "a".repeat(60));
    let mut body = Body::new(Framing::Chunked);
    let fault = (0..1_000).find_map(|_| body.take(extension.as_bytes()).err());
    assert_eq!(fault, Some(BodyFault::ChunkExtensionsTooLong));
    let mut body = Body::new(Framing::Chunked);
    body.take(b"0\r\n").expect("a last chunk");
    let fault = (0..1_000).find_map(|_| body.take(b"X-Some: value\r\n").err());
    assert_eq!(fault, Some(BodyFault::TrailersTooLong));
}

#[test]
fn a_body_that_nobody_expects_is_told() {
    for (method, length, odd) in
        [("POST", 1, false), ("GET", 1, true), ("DELETE", 1, true), ("GET", 0, false)]
    {
        let text = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(request(&text).has_odd_body(text.as_bytes()), odd, "{text}");
    }
}

#[test]
fn labels_are_unique() {
    let mut labels: Vec<&str> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
    labels.extend(BodyFault::ALL.iter().map(|fault| fault.label()));
    let count = labels.len();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), count);
    assert!(Refusal::ALL.iter().all(|refusal| (400..=505).contains(&refusal.status())));
}

#[test]
fn fields_are_found_whatever_their_case() {
    let text = "GET / HTTP/1.1\r\nhOsT: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n";
    let head = request(text);
    let bytes = text.as_bytes();
    assert_eq!(head.fields.once(bytes, "Host"), Once::One(b"a"));
    assert_eq!(head.fields.once(bytes, "X-A"), Once::Several);
    assert_eq!(head.fields.all(bytes, "x-A").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(head.fields.once(bytes, "x"), Once::Absent);
}
