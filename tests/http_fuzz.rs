//! Damaged and made-up requests: whatever is accepted, a second reader that shares no code sees
//! exactly one request with the same end; and so it does with what goes on to a backend.

mod http_reading;

use corelane::http::Framing;
use corelane::http::body::Body;
use corelane::http::client::{Client, Request};
use corelane::http::head::{HeadLimits, Read};
use corelane::http::request::{self, RequestHead};
use corelane::http::response::{self, Asked};
use corelane::http::rewrite::{Forwarding, Mode, Onward, Recipient, request_head, response_head};
use corelane::http::template::{Template, Values};

use http_reading::{Plain, Random, plain, tricks};

const ROUNDS: u64 = 40_000;

/// What replaces a stretch of a request.
const SCRAPS: &[&[u8]] = &[
    b"",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\"",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b"%",
    b"%2e",
    b"../",
    b"#",
    b"*",
    b"0",
    b"5",
    b"-1",
    b"fffffff",
    b"100000000",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close, x-a\r\n",
    b"X-A: b\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.0",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n",
];

fn damaged(seed: u64, from: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = from[random.below(from.len())].clone();
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(6)).min(bytes.len());
        bytes.splice(at..end, random.pick(SCRAPS).iter().copied());
    }
    if random.below(3) == 0 {
        bytes.extend_from_slice(random.pick(SCRAPS));
    }
    bytes
}

/// Head, and the end of the whole message, if the message is accepted and complete.
fn accepted(bytes: &[u8]) -> Option<(RequestHead, usize)> {
    let Read::Complete(head) = request::read(bytes, &HeadLimits::default()) else { return None };
    let mut body = Body::new(head.framing);
    let taken = body.take(&bytes[head.len..]).ok()?;
    taken.complete.then(|| {
        let end = head.len + taken.len;
        (head, end)
    })
}

fn forwarding() -> Forwarding {
    let template = |text| Template::parse(text).expect("a template");
    Forwarding {
        x_forwarded_for: Mode::Append,
        x_forwarded_proto: Mode::Set,
        x_forwarded_host: Mode::Set,
        x_real_ip: Mode::Set,
        forwarded: Mode::Append,
        request_id: Mode::Append,
        trusted: Vec::new(),
        trusted_unix: false,
        client_behind_proxies: false,
        host: template("{authority}"),
        headers: vec![
            ("X-Path".to_string(), template("{path}")),
            ("X-Uid".to_string(), template("<{query:uid}>")),
            ("X-Odd".to_string(), template("{header:x-a}{cookie:a}")),
        ],
        via: Some("gateway".to_string()),
    }
}

/// The message that a backend gets.
fn onward(bytes: &[u8], head: &RequestHead, end: usize, trusted: bool) -> Vec<u8> {
    let address = "192.0.2.1:1234".parse().ok();
    let request = Request::new(bytes, head, Client { address, tls: false, trusted });
    let values =
        Values { backend: Some("10.0.0.1:80"), request_id: Some("7"), ..Values::default() };
    let forwarding = forwarding();
    let mut out = Vec::new();
    request_head(&request, &Onward { forwarding: &forwarding, values, keep: true }, &mut out);
    out.extend_from_slice(&bytes[head.len..end]);
    out
}

/// The fields of a name.
fn named<'p>(plain: &'p Plain, name: &str) -> Vec<&'p [u8]> {
    let named = plain.fields.iter().filter(|(other, _)| other == name.as_bytes());
    named.map(|(_, value)| value.as_slice()).collect()
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<Vec<u8>> = tricks().into_iter().map(|trick| trick.bytes).collect();
    let more: [&[u8]; 3] = [
        b"GET /a//b/../c?uid=1%0d%0aX:+y&uid=2 HTTP/1.1\r\nHost: a\r\nCookie: a=b; c=d\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /%0a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX_Real_IP: x\r\n\r\n",
    ];
    corpus.extend(more.map(<[u8]>::to_vec));
    corpus
}

#[test]
fn what_is_accepted_has_one_reading() {
    let corpus = corpus();
    let mut seen = 0;
    for seed in 0..ROUNDS {
        let bytes = damaged(seed, &corpus);
        let Some((head, end)) = accepted(&bytes) else { continue };
        seen += 1;
        let shown = bytes.escape_ascii();
        let second = plain(&bytes);
        let second = second.unwrap_or_else(|| panic!("seed {seed}: nobody else reads\n{shown}"));
        assert_eq!(second.span.end, end, "seed {seed}: another end\n{shown}");
        assert_eq!(second.method, head.method.of(&bytes), "seed {seed}\n{shown}");
        assert_eq!(second.fields.len(), head.fields.len(), "seed {seed}\n{shown}");
    }
    assert!(seen > ROUNDS / 20, "only {seed} of {ROUNDS} accepted", seed = seen);
}

#[test]
fn what_goes_on_has_one_reading_too() {
    let corpus = corpus();
    for seed in 0..ROUNDS {
        let bytes = damaged(seed, &corpus);
        let Some((head, end)) = accepted(&bytes) else { continue };
        let sent = onward(&bytes, &head, end, seed % 2 == 0);
        let shown = format!("seed {seed}\n{}\n{}", bytes.escape_ascii(), sent.escape_ascii());
        let second = plain(&sent).unwrap_or_else(|| panic!("nobody reads: {shown}"));
        assert_eq!(second.span, 0..sent.len(), "not one request: {shown}");
        let Some((again, again_end)) = accepted(&sent) else { panic!("we do not read: {shown}") };
        assert_eq!(again_end, sent.len(), "{shown}");
        assert_eq!(again.framing, head.framing, "{shown}");
        assert_eq!(named(&second, "host").len(), 1, "{shown}");
        // What would make more lines of one field was left out.
        for (name, _) in &second.fields {
            assert!(name.iter().all(|b| b.is_ascii_graphic()), "{shown}");
        }
        for name in ["x-real-ip", "x_real_ip", "keep-alive", "te", "trailer"] {
            let most = usize::from(name == "x-real-ip");
            assert!(named(&second, name).len() <= most, "{name}: {shown}");
        }
    }
}

/// Responses, damaged: what goes on to a client is one response with the same body.
#[test]
fn responses_are_passed_on_as_one() {
    let corpus: Vec<Vec<u8>> = [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nabc",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 500\r\nConnection: close, x-a\r\nX-A: b\r\n\r\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let limits = HeadLimits::default();
    let asked = Asked { head_only: false, upgrade: false, websocket_key: false };
    let mut seen = 0;
    for seed in 0..ROUNDS {
        let bytes = damaged(seed, &corpus);
        let Read::Complete(head) = response::read(&bytes, &limits, asked) else { continue };
        let mut body = Body::new(head.framing);
        let Ok(taken) = body.take(&bytes[head.len..]) else { continue };
        seen += 1;
        let mut out = Vec::new();
        let version = corelane::http::Version::Http11;
        let recipient = Recipient { version, keep: true, via: None };
        let passing = response_head((&head, &bytes), &recipient, &mut out);
        let shown = format!("seed {seed}\n{}\n{}", bytes.escape_ascii(), out.escape_ascii());
        let again = match response::read(&out, &limits, asked) {
            Read::Complete(again) => again,
            other => panic!("{other:?}: {shown}"),
        };
        assert_eq!(again.len, out.len(), "{shown}");
        assert_eq!((again.status, again.framing), (head.status, head.framing), "{shown}");
        let until_close = head.framing == Framing::UntilClose;
        assert_eq!(passing.closes, until_close, "{shown}");
        assert!(!again.keeps_alive || !until_close, "{shown}");
        assert!(taken.len <= bytes.len() - head.len, "{shown}");
    }
    assert!(seen > ROUNDS / 20, "only {seen} of {ROUNDS} accepted");
}

/// Chunks made up well-formed, given in pieces: the data is the data.
#[test]
fn data_comes_out_of_chunks_as_it_went_in() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let mut data = Vec::new();
        let mut message = Vec::new();
        for _ in 0..random.below(6) {
            let chunk: Vec<u8> = (0..=random.below(40)).map(|_| random.below(256) as u8).collect();
            message.extend_from_slice(format!("{:x}", chunk.len()).as_bytes());
            message.extend_from_slice(random.pick(&["", ";a", ";a=b", ";a=\"\\\"\""]).as_bytes());
            message.extend_from_slice(b"\r\n");
            message.extend_from_slice(&chunk);
            message.extend_from_slice(b"\r\n");
            data.extend_from_slice(&chunk);
        }
        message.extend_from_slice(random.pick(&["0\r\n\r\n", "0\r\nX-A: b\r\n\r\n"]).as_bytes());
        let len = message.len();
        message.extend_from_slice(b"GET ");
        let mut body = Body::new(Framing::Chunked);
        let (mut at, mut out) = (0, Vec::new());
        while !body.is_complete() {
            let end = (at + 1 + random.below(16)).min(message.len());
            let piece = body.piece(&message[at..end]).expect("well-formed");
            assert!(piece.len > 0, "seed {seed}: stands still at {at}");
            if piece.data {
                out.extend_from_slice(&message[at..at + piece.len]);
            }
            at += piece.len;
        }
        assert_eq!((at, &out), (len, &data), "seed {seed}");
    }
}
