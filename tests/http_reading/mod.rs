//! Reading requests as a session would, and once more by other means.

// Not every test needs everything.
#![allow(dead_code)]

use std::ops::Range;

use corelane::http::body::Body;
use corelane::http::head::{HeadLimits, Read, Scan};
use corelane::http::request::{self, RequestHead};

/// What is said of some bytes, in the words of the corpus.
pub fn verdict(pieces: &[&[u8]]) -> String {
    let limits = HeadLimits::default();
    let mut scan = Scan::default();
    let mut received: Vec<u8> = Vec::new();
    let mut body: Option<(RequestHead, Body)> = None;
    // Bytes of the message that were taken.
    let mut taken = 0;
    for piece in pieces {
        received.extend_from_slice(piece);
        if body.is_none() {
            match request::read_more(&mut scan, &received, &limits) {
                Read::Partial => continue,
                Read::Refused(refusal) => return refusal.label().to_string(),
                Read::Complete(head) => {
                    taken = head.len;
                    let framing = head.framing;
                    body = Some((head, Body::new(framing)));
                }
            }
        }
        let Some((_, body)) = &mut body else { continue };
        match body.take(&received[taken..]) {
            Ok(more) => taken += more.len,
            Err(fault) => return fault.label().to_string(),
        }
    }
    match body {
        None => "partial".to_string(),
        Some((_, body)) if !body.is_complete() => "incomplete".to_string(),
        Some(_) if taken == received.len() => "ok".to_string(),
        Some(_) => format!("rest:{}", received.len() - taken),
    }
}

/// One line of the corpus.
pub struct Trick {
    pub name: String,
    pub verdict: String,
    pub bytes: Vec<u8>,
}

/// Every trick of the corpus.
pub fn tricks() -> Vec<Trick> {
    let text = include_str!("../http_smuggling.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tricks = lines.map(|line| {
        let columns: Vec<&str> = line.splitn(3, '|').map(str::trim).collect();
        let [name, verdict, bytes] = columns[..] else { panic!("no three columns: {line}") };
        Trick { name: name.to_string(), verdict: verdict.to_string(), bytes: unescaped(bytes) }
    });
    tricks.collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.extend(character.to_string().bytes());
            continue;
        }
        match rest.next() {
            Some('r') => bytes.push(b'\r'),
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).expect("two digits"));
            }
            other => panic!("no escape: {other:?}"),
        }
    }
    bytes
}

/// A request as a second reader sees it, one that shares no code with the first: it splits at CRLF
/// and finds everything by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Plain {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of the whole message, in the bytes that it was read from.
    pub span: Range<usize>,
}

/// The first request of some bytes; `None` if it is incomplete or not strictly well-formed.
pub fn plain(bytes: &[u8]) -> Option<Plain> {
    let mut start = 0;
    while bytes[start..].starts_with(b"\r\n") {
        start += 2;
    }
    let text = &bytes[start..];
    let head_len = text.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&text[..head_len]).map(str::to_string);
    // Every byte a character: nothing is lost that way.
    let head = head.unwrap_or_else(|_| text[..head_len].iter().map(|b| char::from(*b)).collect());
    let mut lines = head.split("\r\n");
    let line = lines.next()?;
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else { return None };
    let minor = version.strip_prefix("HTTP/1.")?;
    if minor.len() != 1 || !minor.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut fields = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let blank = |c: char| c == ' ' || c == '\t';
        if name.is_empty() || name.contains(blank) || line.contains(['\r', '\n', '\0']) {
            return None;
        }
        let value = value.trim_matches(blank);
        fields.push((name.to_ascii_lowercase().into_bytes(), value.as_bytes().to_vec()));
    }
    let named = |wanted: &str| -> Vec<&Vec<u8>> {
        fields.iter().filter(|(name, _)| name == wanted.as_bytes()).map(|(_, v)| v).collect()
    };
    let body_len = match (&named("content-length")[..], &named("transfer-encoding")[..]) {
        ([], []) => 0,
        ([length], []) => std::str::from_utf8(length).ok()?.parse::<usize>().ok()?,
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => chunked(&text[head_len..])?,
        _ => return None,
    };
    let end = start + head_len + body_len;
    (end <= bytes.len()).then(|| Plain {
        method: method.as_bytes().to_vec(),
        target: target.as_bytes().to_vec(),
        fields,
        span: start..end,
    })
}

/// Length of a chunked body, line by line.
fn chunked(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line_len = text.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
        let line = &text[at..at + line_len];
        at += line_len + 2;
        let size = line.split(|byte| *byte == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        at += size;
        if text.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let line_len = text.get(at..)?.windows(2).position(|window| window == b"\r\n")?;
        at += line_len + 2;
        if line_len == 0 {
            return Some(at);
        }
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }

    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.below(from.len())]
    }
}
