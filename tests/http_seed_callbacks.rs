//! Callbacks through DNS, beside nginx with Lua doing the same: the same requests to both, and the
//! same statuses, backends and fields, but for the differences that are listed here with their
//! reasons. Real DNS servers, which also stand still, are killed, and lie.

mod gateway;
mod side_by_side;
mod stores;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gateway::backend::deaf;
use gateway::{Gateway, ONE_SHARD};
use hickory_net::proto::op::ResponseCode;
use hickory_net::proto::rr::rdata::A;
use hickory_net::proto::rr::{Name, RData, Record};
use side_by_side::exchange::exchange;
use side_by_side::nginx::Nginx;
use side_by_side::recorder::Recorder;
use side_by_side::{Answer, Case, FieldDifference, NO_HEAD, at, faults, own, send};
use stores::dns::{Dns, SlowResolver, respond, response};
use stores::process::{Directory, free_port, until};

// Why we do something else.
const STRICT: &str = "what two programs can read in two ways is refused";
const ALIAS: &str = "the first answer may be an alias, which has no address: all answers are read";
const INJECTION: &str = "an id with a point, or nothing, would make another name of it";
const TWICE: &str = "a field that is there twice became the text of a Lua table";
const HOP: &str = "meant for the next neighbour only";
const UNDERSCORE: &str = "a name with an underscore is a good name; nginx drops it unasked";
const NO_RESPONSE: &str = "to HTTP/1.0 any bytes are a response, which callers got as it was";
const METHODS: &str = "a method is a word, with or without capitals, and \"post\" is not POST";
const FRAMING: &str = "without chunked at its end a body has none: 400 (RFC 9112, 6.3)";
const CONNECT: &str = "only POST is allowed, else 405; what CONNECT is sent to is no matter";
const ASTERISK: &str = "a good request (RFC 9112, 3.2.4), only not a POST";
const CLAIM: &str = "anybody could say it: from trusted clients only";
const LIMITS: &str = "the limits of heads are others";

/// Every request that reaches a backend.
const EVERYWHERE: &[FieldDifference] = &[
    FieldDifference {
        name: "connection",
        theirs: Some("close"),
        ours: None,
        reason: "without proxy_http_version the ten idle connections are never kept",
    },
    // Bodies themselves are compared.
    FieldDifference {
        name: "content-length",
        theirs: Some("*"),
        ours: Some("*"),
        reason: "bodies of HTTP/1.0 need a length, for which nginx keeps all of a chunked one",
    },
    FieldDifference {
        name: "transfer-encoding",
        theirs: Some("*"),
        ours: Some("*"),
        reason: "as for content-length",
    },
];

const ZONE: &str = "fleet.test";

/// The services of zones 1 to 3, backend N and for mail N + 10, and some that are special.
fn records() -> Vec<String> {
    let mut records = Vec::new();
    let mut record = |name: &str, number: u8| {
        records.push(format!("host-record={name}.{ZONE},127.0.3.{number}"));
    };
    for zone in 1..=3 {
        record(&format!("zone{zone}-default"), zone);
        record(&format!("zone{zone}-mail"), zone + 10);
    }
    record("zone4-default", 4);
    record("zoneab-default", 1);
    record("zone-default", 7);
    record("zone1-mail.x-default", 9);
    // Nobody listens there.
    record("zone6-default", 66);
    // Nobody answers there, not even that nobody listens.
    record("zone9-default", 99);
    // One of two is dead.
    records.push(format!("host-record=zone8-default.{ZONE},127.0.3.66"));
    records.push(format!("host-record=zone8-default.{ZONE},127.0.3.4"));
    records.push(format!("cname=zone5-default.{ZONE},zone2-default.{ZONE}"));
    records
}

/// The backends' numbers: the last part of their addresses.
const BACKENDS: &[u8] = &[1, 2, 3, 4, 7, 9, 11, 12, 13];

/// Backends and a DNS server.
struct Fleet {
    dns: Dns,
    port: u16,
    recorder: Recorder,
}

impl Fleet {
    fn start(ttl_s: u32) -> Fleet {
        let (port, recorder) = (free_port(), Recorder::default());
        for number in BACKENDS {
            recorder.backend(([127, 0, 3, *number], port).into(), *number);
        }
        let records = records();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        Fleet { dns: Dns::authority(ttl_s, &records), port, recorder }
    }

    fn nginx(&self) -> Nginx {
        self.nginx_with(&format!("search {ZONE}\nnameserver {}\n", self.dns.address()))
    }

    fn nginx_with(&self, resolv_conf: &str) -> Nginx {
        let directory = Directory::new("resolv");
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, resolv_conf).unwrap();
        let values =
            [("RESOLV_CONF", file.display().to_string()), ("BACKEND_PORT", self.port.to_string())];
        Nginx::start("callbacks.conf", &values)
    }

    fn gateway(&self) -> Gateway {
        Gateway::start(&self.config(self.dns.address()))
    }

    /// The file as it is given away, at other addresses.
    fn config(&self, resolver: SocketAddr) -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/http-dns.toml");
        let mut text = std::fs::read_to_string(file).unwrap();
        for (there, here) in [
            ("bind = [\"0.0.0.0:8101\"]", "bind = [\"127.0.0.1:0\"]".to_owned()),
            ("\nport = 8101\n", format!("\nport = {}\n", self.port)),
            (
                "search = \"resolv.conf\"",
                format!("search = \"{ZONE}\"\nresolvers = [\"{resolver}\"]"),
            ),
        ] {
            assert_eq!(text.matches(there).count(), 1, "{there}");
            text = text.replace(there, &here);
        }
        format!("{ONE_SHARD}{text}")
    }
}

/// A request with Host and these further lines.
fn request(line: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: gate.test\r\n{fields}\r\n{body}").into_bytes()
}

fn post(path: &str, zone: &str) -> Vec<u8> {
    request(&format!("POST {path}"), &format!("server: {zone}\r\nContent-Length: 0\r\n"), "")
}

/// What the published logic says, for a zone of 1 to 3, 4, or unknown.
fn logic(method: &str, mail: bool, zone: Option<&str>) -> Answer {
    match (method, zone) {
        ("POST", None) => own(403),
        ("POST", Some(zone)) => match (zone.parse::<u8>(), mail) {
            (Ok(number @ 1..=3), true) => at(number + 10),
            (Ok(number @ 1..=4), false) => at(number),
            _ => own(502),
        },
        _ => own(405),
    }
}

/// Methods, paths and zones, each with each.
fn plain_cases() -> Vec<Case> {
    let methods = ["POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"];
    let paths = [
        ("/mail", true),
        ("/", false),
        ("/mail/", false),
        ("/MAIL", false),
        ("//mail", true),
        ("/./mail", true),
        ("/a/../mail", true),
        ("/%6dail", true),
        ("/mail%20", false),
        ("/mail?x=1&server=2", true),
        ("/other?path=/mail", false),
        ("/mail;x", false),
    ];
    let zones = [None, Some("1"), Some("2"), Some("3"), Some("4"), Some("77"), Some("1-1")];
    let mut cases = Vec::new();
    for method in methods {
        for (path, mail) in paths {
            for zone in zones {
                // Other methods do not look at the zone.
                if method != "POST" && !matches!(zone, None | Some("2")) {
                    continue;
                }
                let field = zone.map_or(String::new(), |zone| format!("server: {zone}\r\n"));
                let bytes = request(&format!("{method} {path}"), &field, "");
                let name = format!("{method} {path} {zone:?}");
                cases.push(Case::new(name, bytes, logic(method, mail, zone)));
            }
        }
    }
    cases
}

/// What callers put into the header.
fn zone_cases() -> Vec<Case> {
    let case = |zone: &str, theirs| Case::new(format!("zone {zone:?}"), post("/", zone), theirs);
    let mut cases = vec![
        case("  1  ", at(1)),
        case("\t2\t", own(502)).but(at(2), "blanks around a value are no part of it, tabs neither"),
        case("ab", at(1)),
        case("AB", at(1)),
        case("5", own(502)).but(at(2), ALIAS),
        case("6", own(502)),
        case("", at(7)).but(own(403), INJECTION),
        case("1-mail.x", at(9)).but(own(403), INJECTION),
    ];
    for zone in [
        "1.",
        ".1",
        "1.evil.test.",
        "1/2",
        "1 2",
        "1,2",
        "1_2",
        "1%2e",
        "*",
        "1\"",
        "1;2",
        "$1",
        "{1}",
        "1\\0002",
        "zone\u{e9}",
    ] {
        cases.push(case(zone, own(502)).but(own(403), INJECTION));
    }
    let with = |name: &str, fields: &str, theirs| {
        let fields = format!("{fields}\r\nContent-Length: 0\r\n");
        Case::new(name, request("POST /", &fields, ""), theirs)
    };
    cases.push(with("two zones", "server: 1\r\nserver: 2", own(502)).but(own(403), TWICE));
    cases.push(with("one zone twice", "server: 1\r\nServer: 1", own(502)).but(own(403), TWICE));
    cases.push(with("capitals", "SERVER: 3", at(3)));
    cases.push(with("other names", "xserver: 1\r\nserver-: 1", own(403)));
    cases
}

/// Bodies of requests, and responses.
fn body_cases() -> Vec<Case> {
    let zone = "server: 1\r\n";
    let big = "x".repeat(200_000);
    let body = |name: &str, fields: &str, body: &str| {
        Case::new(name, request("POST /mail", &format!("{zone}{fields}"), body), at(11))
    };
    let mut cases = vec![
        body("no body", "", ""),
        body("length 0", "Content-Length: 0\r\n", ""),
        body("length", "Content-Length: 5\r\n", "hello"),
        body("zeros before the length", "Content-Length: 0005\r\n", "hello"),
        body("a form", "Content-Type: text/plain\r\nContent-Length: 3\r\n", "a=b"),
        body("long", "Content-Length: 200000\r\n", &big),
        body("chunked", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"),
        body("extension", "Transfer-Encoding: chunked\r\n", "5;a=b\r\nhello\r\n0\r\n\r\n"),
        body("trailer", "Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"),
        body("expect", "Expect: 100-continue\r\nContent-Length: 2\r\n", "ok").field(
            "expect",
            true,
            "whether a body is wanted is for the backend to say",
        ),
    ];
    let too_large = format!("{zone}Content-Length: 2000000\r\n");
    let too_large = request("POST /mail", &too_large, "");
    cases.push(Case::new("too large", too_large, own(413)));
    for (answer, status) in [
        ("404 plain", 404),
        ("500 plain", 500),
        ("503 chunked", 503),
        ("302 plain", 302),
        ("204 empty", 204),
        ("304 empty", 304),
        ("chunked", 200),
        ("until-close", 200),
        ("long", 200),
        ("hang-up", 502),
        ("slow", 504),
    ] {
        let fields = format!("{zone}x-answer: {answer}\r\nContent-Length: 2\r\n");
        let answer_at = Answer { status, at: Some(1) };
        let bytes = request("POST /", &fields, "hi");
        cases.push(Case::new(format!("answer {answer}"), bytes, answer_at));
    }
    let bytes = request("POST /", &format!("{zone}x-answer: nonsense\r\n"), "");
    let case = Case::new("answer nonsense", bytes, Answer { status: NO_HEAD, at: Some(1) });
    cases.push(case.but(Answer { status: 502, at: Some(1) }, NO_RESPONSE));
    cases
}

/// Fields that are passed on, and those that are not.
fn field_cases() -> Vec<Case> {
    let case = |fields: &str| {
        let fields = format!("server: 1\r\n{fields}\r\n");
        Case::new(fields.trim_end().to_owned(), request("POST /", &fields, ""), at(1))
    };
    vec![
        case("User-Agent: curl\r\nAccept: */*"),
        case("Cookie: a=b; c=d\r\nAuthorization: Basic eDp5"),
        case("X-Twice: 1\r\nX-Twice: 2"),
        case("X-Empty:"),
        case("X-Space:    a  b   "),
        case("X-Latin: \u{e9}"),
        case("X-Long: 123456789"),
        case("Keep-Alive: timeout=5"),
        case("TE: trailers"),
        case("Upgrade: h2c"),
        case("Connection: keep-alive"),
        case("Connection: close"),
        case("Connection: X-Hop\r\nX-Hop: 1").field("x-hop", false, HOP),
        case("Proxy-Connection: close").field("proxy-connection", false, HOP),
        case("Trailer: X-Sum").field("trailer", false, HOP),
        case("Proxy-Authorization: Basic eDp5").field("proxy-authorization", false, HOP),
        case("X-Forwarded-For: 10.1.1.1").field("x-forwarded-for", false, CLAIM),
        case("X-Forwarded-Proto: https").field("x-forwarded-proto", false, CLAIM),
        case("X-Forwarded-Host: a").field("x-forwarded-host", false, CLAIM),
        case("X-Real-IP: 10.1.1.1").field("x-real-ip", false, CLAIM),
        case("Forwarded: for=10.1.1.1").field("forwarded", false, CLAIM),
        case("X-Request-ID: 1").field("x-request-id", false, CLAIM),
        case("under_score: 1").field("under_score", true, UNDERSCORE),
    ]
}

const ZONE_1: &str = "server: 1\r\n";

/// A request that somebody made wrong on purpose: these fields behind good ones, and a body.
fn hostile(name: &str, fields: &str, body: &str, theirs: Answer) -> Case {
    let fields = format!("{ZONE_1}{fields}");
    Case::new(name, request("POST /", &fields, body), theirs).hostile()
}

/// Where the body ends.
fn framing_cases() -> Vec<Case> {
    let fields = hostile;
    let chunks = "0\r\n\r\n";
    let mut cases = vec![
        fields("both", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", chunks, own(400)),
        fields("two lengths", "Content-Length: 0\r\nContent-Length: 2\r\n", "hi", own(400)),
        fields("a length twice", "Content-Length: 2\r\nContent-Length: 2\r\n", "hi", own(400)),
        fields("list of lengths", "Content-Length: 2, 2\r\n", "hi", own(400)),
        fields("plus", "Content-Length: +2\r\n", "hi", own(400)),
        fields("minus", "Content-Length: -1\r\n", "", own(400)),
        fields("hexadecimal", "Content-Length: 0x2\r\n", "hi", own(400)),
        fields("not a number", "Content-Length: two\r\n", "hi", own(400)),
        fields("beyond 2^64", "Content-Length: 18446744073709551617\r\n", "h", own(400)),
        fields("length, blank before colon", "Content-Length : 2\r\n", "hi", own(400)),
        fields("two codings", "Transfer-Encoding: gzip, chunked\r\n", chunks, own(501)),
        fields("unknown coding", "Transfer-Encoding: xchunked\r\n", chunks, own(501))
            .but(own(400), FRAMING),
        fields("chunked and more", "Transfer-Encoding: chunked, x\r\n", chunks, own(501))
            .but(own(400), FRAMING),
        fields(
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            chunks,
            own(400),
        ),
        fields("bad chunk", "Transfer-Encoding: chunked\r\n", "zz\r\nhi\r\n0\r\n\r\n", own(400)),
        fields("negative chunk", "Transfer-Encoding: chunked\r\n", "-1\r\n\r\n", own(400)),
    ];
    // A request within a body stays there.
    let smuggled = "POST /mail HTTP/1.1\r\nHost: gate.test\r\nserver: 2\r\n\r\n";
    let length = format!("Content-Length: {}\r\n", smuggled.len());
    cases.push(fields("in a body", &length, smuggled, at(1)));
    cases
}

/// Fields, and what is no HTTP.
fn head_cases() -> Vec<Case> {
    let fields = hostile;
    let raw = |name: &str, bytes: &str, theirs| Case::new(name, bytes, theirs).hostile();
    let zone = ZONE_1;
    let many: String = (0..150).map(|number| format!("X-{number}: 1\r\n")).collect();
    vec![
        fields("folded", "X-A: 1\r\n X-B: 2\r\n", "", own(400)),
        fields("NUL in a value", "X-A: a\0b\r\n", "", own(400)),
        fields("blank in a name", "X A: 1\r\n", "", own(400)),
        fields("no colon", "nonsense\r\n", "", at(1)).but(own(400), STRICT),
        fields("no name", ": 1\r\n", "", own(400)),
        fields("name that is none", "x@y: 1\r\n", "", at(1)).but(own(400), STRICT),
        fields("return in a value", "X-A: a\rb\r\n", "", own(400)),
        fields("two hosts", "Host: other.test\r\n", "", own(400)),
        fields("a host twice", "Host: gate.test\r\n", "", own(400)),
        fields("many fields", &many, "", at(1)).but(own(431), LIMITS),
        fields("9 KB", &format!("X-A: {}\r\n", "a".repeat(9_000)), "", own(400)).but(at(1), LIMITS),
        fields("40 KB", &format!("X-A: {}\r\n", "a".repeat(40_000)), "", own(400))
            .but(own(431), LIMITS),
        raw("no host", &format!("POST / HTTP/1.1\r\n{zone}\r\n"), own(400)),
        raw("strange host", &format!("POST / HTTP/1.1\r\nHost: a/b\r\n{zone}\r\n"), own(400)),
        raw("host of two words", &format!("POST / HTTP/1.1\r\nHost: a b\r\n{zone}\r\n"), own(400)),
        raw("ends of line", "POST / HTTP/1.1\nHost: gate.test\nserver: 1\n\n", at(1))
            .but(own(400), STRICT),
        raw("one end of line", "POST / HTTP/1.1\r\nHost: gate.test\nserver: 1\r\n\r\n", at(1))
            .but(own(400), STRICT),
        raw("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", own(400)),
        raw("binary", "\0\0\0\0\r\n\r\n", own(400)),
    ]
}

/// Request lines.
fn line_cases() -> Vec<Case> {
    let line = |line: &str, theirs| {
        let bytes = format!("{line}\r\nHost: gate.test\r\n{ZONE_1}Content-Length: 0\r\n\r\n");
        Case::new(format!("line {line:.60?}"), bytes, theirs).hostile()
    };
    vec![
        line("post / HTTP/1.1", own(400)).but(own(405), METHODS),
        line("POST  / HTTP/1.1", at(1)).but(own(400), STRICT),
        line("POST / HTTP/1.1 ", at(1)).but(own(400), STRICT),
        line("POST /a b HTTP/1.1", own(400)),
        line("POST / HTTP/2.0", own(505)),
        line("POST / HTTP/1.2", at(1)),
        line("POST / HTTP/1.9", at(1)),
        line("POST / HTTP/0.9", own(400)).but(own(505), "a version, though not one to serve"),
        line("POST / http/1.1", own(400)),
        line("POST mail HTTP/1.1", own(400)),
        line("POST http://gate.test/ HTTP/1.1", at(1)),
        line("POST /%00 HTTP/1.1", own(400)),
        line("POST /%zz HTTP/1.1", own(400)),
        line("POST /../mail HTTP/1.1", own(400)),
        line("POST /#/mail HTTP/1.1", at(1)).but(own(400), STRICT),
        line("CONNECT gate.test:80 HTTP/1.1", own(400)).but(own(405), CONNECT),
        line("TRACE / HTTP/1.1", own(405)),
        line("OPTIONS * HTTP/1.1", own(400)).but(own(405), ASTERISK),
        line(&format!("POST /{} HTTP/1.1", "a".repeat(9_000)), own(414)),
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = plain_cases();
    cases.extend(zone_cases());
    cases.extend(body_cases());
    cases.extend(field_cases());
    cases.extend(framing_cases());
    cases.extend(head_cases());
    cases.extend(line_cases());
    cases
}

#[test]
fn the_same_comes_of_every_request_on_both() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let to_us = gateway.address("callbacks");
    let (cases, mut all) = (cases(), Vec::new());
    assert!(cases.len() > 300, "{} cases", cases.len());
    for case in &cases {
        let theirs = send(nginx.address, &fleet.recorder, &case.bytes, case.hostile);
        let ours = send(to_us, &fleet.recorder, &case.bytes, case.hostile);
        all.extend(faults(case, &theirs, &ours, EVERYWHERE));
    }
    side_by_side::report(&all);
}

/// Answers to `count` requests, one after the other.
fn answers(to: SocketAddr, fleet: &Fleet, bytes: &[u8], count: usize) -> Vec<Option<Answer>> {
    (0..count).map(|_| send(to, &fleet.recorder, bytes, false).answer()).collect()
}

/// Answers to `count` requests at once: statuses only, as arrivals mix.
fn statuses_at_once(to: SocketAddr, bytes: &[u8], count: usize) -> Vec<u16> {
    let asking: Vec<_> = (0..count)
        .map(|_| {
            let bytes = bytes.to_vec();
            std::thread::spawn(move || exchange(to, &bytes, false).responses[0].status)
        })
        .collect();
    asking.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn two_requests_on_one_connection_are_two() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let two = [post("/mail", "1"), post("/", "2")].concat();
    for to in [nginx.address, gateway.address("callbacks")] {
        let outcome = send(to, &fleet.recorder, &two, true);
        let at: Vec<u8> = outcome.arrivals.iter().map(|arrival| arrival.backend).collect();
        let bodies = outcome.heard.responses.iter().map(|one| one.body.clone());
        assert_eq!((at, outcome.heard.responses.len()), (vec![11, 2], 2));
        let expected = [b"backend 11\n".to_vec(), b"backend 2\n".to_vec()];
        assert_eq!(bodies.collect::<Vec<_>>(), expected);
    }
}

/// What callers say about themselves is passed on by nginx; by us if they are trusted, and as the
/// file is nobody is. With the table of the file left out, backends are told who called.
#[test]
fn what_callers_say_about_themselves() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let config = fleet.config(fleet.dns.address());
    let (before, rest) = config.split_once("[listener.http.forward]").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let telling = Gateway::start(&format!("{before}{after}"));
    let claims = "server: 1\r\nX-Forwarded-For: 10.1.1.1\r\nX-Real-IP: 10.1.1.1\r\n\
                  X-Forwarded-Proto: https\r\n";
    let bytes = request("POST /", claims, "");
    let names = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"];
    let told = |to| {
        let arrival = send(to, &fleet.recorder, &bytes, false).arrivals.remove(0);
        names.map(|name| arrival.value(name).map(str::to_owned))
    };
    let some = |value: &str| Some(value.to_owned());
    let (claimed, proto) = (some("10.1.1.1"), some("https"));
    let theirs = [some("services"), claimed.clone(), proto, None, claimed];
    assert_eq!(told(nginx.address), theirs);
    let ours = [some("services"), None, None, None, None];
    assert_eq!(told(gateway.address("callbacks")), ours);
    let without = [some("gate.test"), some("127.0.0.1"), some("http"), some("gate.test"), None];
    assert_eq!(told(telling.address("callbacks")), without);
}

/// Idle connections to backends are kept, as ten of them were meant to be.
#[test]
fn backends_are_not_dialled_for_every_request() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let bytes = post("/", "1");
    let dialled = |to| {
        let before = fleet.recorder.connections();
        assert_eq!(answers(to, &fleet, &bytes, 20), vec![Some(at(1)); 20]);
        fleet.recorder.connections() - before
    };
    assert_eq!(dialled(nginx.address), 20);
    let dials = dialled(gateway.address("callbacks"));
    assert!(dials <= 2, "{dials} connections for 20 requests, one after the other");
}

/// Nothing is remembered about a name that is not there: each request asks again. Ours asks once
/// for all that come within a second.
#[test]
fn names_that_are_not_there_are_not_asked_for_again_and_again() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let bytes = post("/", "77");
    let asked = |to| {
        let before = fleet.dns.questions();
        assert_eq!(answers(to, &fleet, &bytes, 20), vec![Some(own(502)); 20]);
        fleet.dns.questions() - before
    };
    assert_eq!(asked(nginx.address), 20);
    let begun = Instant::now();
    let questions = asked(gateway.address("callbacks"));
    // Two kinds of records may be asked for.
    let most = 2 * (usize::try_from(begun.elapsed().as_secs()).unwrap() + 1);
    assert!(questions <= most, "{questions} questions, {most} at most");
}

/// Many callers of one zone at once are one question.
#[test]
fn a_herd_asks_once() {
    let fleet = Fleet::start(600);
    let slow = SlowResolver::start(fleet.dns.address());
    slow.delay(Duration::from_millis(300));
    let nginx = fleet.nginx_with(&format!("search {ZONE}\nnameserver {}\n", slow.address));
    let gateway = Gateway::start(&fleet.config(slow.address));
    let bytes = post("/", "2");
    let asked = |to| {
        let before = fleet.dns.questions();
        assert_eq!(statuses_at_once(to, &bytes, 20), vec![200; 20]);
        fleet.dns.questions() - before
    };
    let theirs = asked(nginx.address);
    let ours = asked(gateway.address("callbacks"));
    assert!(ours <= 2 && theirs > ours, "{ours} questions of ours, {theirs} of theirs");
}

/// A zone that moves: nginx sends callers to the old place for a minute, whatever its record says.
/// So do we with the file as it is; without its `ttl` the record's own counts.
#[test]
fn records_say_how_long_they_count() {
    let mut fleet = Fleet::start(1);
    let nginx = fleet.nginx();
    let config = fleet.config(fleet.dns.address());
    let minute = Gateway::start(&config);
    assert_eq!(config.matches("\nttl = \"60s\"\n").count(), 1);
    let records_own = Gateway::start(&config.replace("\nttl = \"60s\"\n", "\n"));
    let bytes = post("/", "1");
    let all = [nginx.address, minute.address("callbacks"), records_own.address("callbacks")];
    for to in all {
        assert_eq!(answers(to, &fleet, &bytes, 1), [Some(at(1))]);
    }
    let moved: Vec<String> = records()
        .into_iter()
        .map(|record| match record.contains("zone1-default") {
            true => record.replace("127.0.3.1", "127.0.3.3"),
            false => record,
        })
        .collect();
    let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
    fleet.dns.restart_authority(1, &moved);
    until("the new place", || answers(all[2], &fleet, &bytes, 1) == [Some(at(3))]);
    assert_eq!(answers(all[0], &fleet, &bytes, 1), [Some(at(1))]);
    assert_eq!(answers(all[1], &fleet, &bytes, 1), [Some(at(1))]);
}

/// A resolver that is gone, or stands still: known zones go on, of others callers are told soon.
#[test]
fn a_resolver_that_is_gone_or_stands_still() {
    let mut fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let to_us = gateway.address("callbacks");
    for to in [nginx.address, to_us] {
        assert_eq!(answers(to, &fleet, &post("/", "1"), 1), [Some(at(1))]);
    }
    fleet.dns.process.pause();
    let theirs = nginx.address;
    let patient = std::thread::spawn(move || {
        let begun = Instant::now();
        (exchange(theirs, &post("/", "2"), false).responses[0].status, begun.elapsed())
    });
    let begun = Instant::now();
    assert_eq!(answers(to_us, &fleet, &post("/", "2"), 1), [Some(own(502))]);
    let ours_waited = begun.elapsed();
    assert_eq!(answers(to_us, &fleet, &post("/", "1"), 3), [Some(at(1)); 3]);
    let (status, waited) = patient.join().unwrap();
    assert_eq!(status, 502);
    assert!(waited > Duration::from_secs(9), "five times two seconds, not {waited:?}");
    assert!(ours_waited < waited, "{ours_waited:?}");
    fleet.dns.process.kill();
    for to in [nginx.address, to_us] {
        assert_eq!(answers(to, &fleet, &post("/", "1"), 3), [Some(at(1)); 3]);
        assert_eq!(answers(to, &fleet, &post("/", "3"), 1), [Some(own(502))]);
    }
}

/// Names that cannot be names, which nginx's library sends to the resolver all the same: it does
/// not answer, and the caller waits for ten seconds.
#[test]
fn names_that_cannot_be_asked_for() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let zones = ["1..2".to_owned(), "../1".to_owned(), "1".repeat(100)];
    let begun = Instant::now();
    for zone in &zones {
        let to_us = gateway.address("callbacks");
        assert_eq!(answers(to_us, &fleet, &post("/", zone), 1), [Some(own(403))], "{zone}");
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let waiting = zones.map(|zone| {
        let to = nginx.address;
        std::thread::spawn(move || {
            let begun = Instant::now();
            (exchange(to, &post("/", &zone), false).responses[0].status, begun.elapsed())
        })
    });
    for thread in waiting {
        let (status, waited) = thread.join().unwrap();
        assert_eq!(status, 502);
        assert!(waited > Duration::from_secs(9), "{waited:?}");
    }
}

/// Somebody answers with an address for another name: nginx's library takes it, and all callers of
/// the zone with it for a minute.
#[test]
fn an_answer_to_another_question_is_not_believed() {
    let fleet = Fleet::start(600);
    let questions = Arc::new(AtomicUsize::new(0));
    let count = questions.clone();
    let liar = respond(move |question| {
        count.fetch_add(1, Ordering::Relaxed);
        let name = Name::from_ascii("elsewhere.test.").unwrap();
        let mut answer = response(question, ResponseCode::NoError);
        let address = RData::A(A::new(127, 0, 3, 9));
        answer.add_answer(Record::from_rdata(name, 60, address));
        Some(answer.to_vec().unwrap())
    });
    let nginx = fleet.nginx_with(&format!("search {ZONE}\nnameserver {liar}\n"));
    let gateway = Gateway::start(&fleet.config(liar));
    assert_eq!(answers(nginx.address, &fleet, &post("/", "1"), 1), [Some(at(9))]);
    let asked = questions.load(Ordering::Relaxed);
    assert_eq!(answers(gateway.address("callbacks"), &fleet, &post("/", "1"), 1), [Some(own(502))]);
    assert!(questions.load(Ordering::Relaxed) > asked, "it was asked");
}

/// With `domain` instead of `search` in resolv.conf, which is as good, every request is an error.
#[test]
fn a_domain_is_no_search_list_for_nginx() {
    let fleet = Fleet::start(600);
    let nginx = fleet.nginx_with(&format!("domain {ZONE}\nnameserver {}\n", fleet.dns.address()));
    assert_eq!(answers(nginx.address, &fleet, &post("/", "1"), 1), [Some(own(500))]);
    assert!(nginx.said().contains("attempt to concatenate a nil value"), "{}", nginx.said());
}

/// One of two addresses is dead. nginx keeps one of them for a minute, be it the dead one, and its
/// retry would go to the same; ours goes to the other.
#[test]
fn the_retry_goes_to_the_other_address() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let theirs = answers(nginx.address, &fleet, &post("/", "8"), 6);
    assert!(theirs == [Some(at(4)); 6] || theirs == [Some(own(502)); 6], "{theirs:?}");
    let ours = answers(gateway.address("callbacks"), &fleet, &post("/", "8"), 10);
    assert_eq!(ours, [Some(at(4)); 10]);
}

/// A backend that refused is used again when it is back.
#[test]
fn a_backend_that_comes_back_is_used() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let both = [nginx.address, gateway.address("callbacks")];
    for to in both {
        assert_eq!(answers(to, &fleet, &post("/", "6"), 2), [Some(own(502)); 2]);
    }
    fleet.recorder.backend(([127, 0, 3, 66], fleet.port).into(), 66);
    assert_eq!(answers(both[0], &fleet, &post("/", "6"), 1), [Some(at(66))]);
    until("used again", || answers(both[1], &fleet, &post("/", "6"), 1) == [Some(at(66))]);
}

/// A connection that is not made in time is another status than one that is refused, on both.
#[test]
fn a_backend_that_does_not_answer_a_handshake() {
    let fleet = Fleet::start(600);
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway());
    let (_address, _held) = deaf(([127, 0, 3, 99], fleet.port).into());
    for (to, most) in [(nginx.address, 2), (gateway.address("callbacks"), 3)] {
        let begun = Instant::now();
        assert_eq!(answers(to, &fleet, &post("/", "9"), 1), [Some(own(504))]);
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(1), "{waited:?}");
        assert!(waited < Duration::from_secs(most), "{waited:?}, with a retry");
    }
}
