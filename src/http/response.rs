//! The head of a backend's response.

use super::fields::{Fields, Once};
use super::head::{self, HeadLimits, Kind, Read, Refusal, Scan};
use super::{Framing, Span, Version};

/// A response whose head can be passed on. Spans are of the buffer that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Bytes of the buffer that it took.
    pub len: usize,
    /// 100 to 599.
    pub status: u16,
    /// May be empty.
    pub reason: Span,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Every field.
    pub fields: Fields,
    /// Where the body ends.
    pub framing: Framing,
    /// What comes behind it.
    pub role: Role,
    /// Whether the backend takes another request on this connection.
    pub keeps_alive: bool,
}

/// What a response is in its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// 1xx but 101: the final one is still to come.
    Interim,
    /// 101: what follows are no HTTP messages any more.
    Upgraded,
    /// The answer.
    Final,
}

/// What has to be known of the request to read its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// HEAD: there is no body, whatever the head says.
    pub head_only: bool,
    /// An upgrade was asked for, and passed on.
    pub upgrade: bool,
    /// With a Sec-WebSocket-Key, which has to be answered.
    pub websocket_key: bool,
}

impl Asked {
    /// Of this request.
    pub fn of(request: &super::request::RequestHead, bytes: &[u8]) -> Asked {
        let key = request.fields.once(bytes, "sec-websocket-key") != Once::Absent;
        Asked {
            head_only: request.method.of(bytes) == b"HEAD",
            upgrade: request.upgrades,
            websocket_key: key,
        }
    }
}

/// Reads the head at the start of `bytes`. `limits.target_len_max` has no meaning here.
pub fn read(bytes: &[u8], limits: &HeadLimits, asked: Asked) -> Read<ResponseHead> {
    read_more(&mut Scan::default(), bytes, (limits, asked))
}

/// [`read`] for a head that comes in pieces, as in requests.
pub fn read_more(
    scan: &mut Scan,
    bytes: &[u8],
    (limits, asked): (&HeadLimits, Asked),
) -> Read<ResponseHead> {
    match scan.end(bytes, limits, Kind::Response) {
        Ok(None) => Read::Partial,
        Ok(Some(lines)) => match parse_any(bytes, lines, asked) {
            Ok(head) => Read::Complete(head),
            Err(refusal) => Read::Refused(refusal),
        },
        Err(refusal) => Read::Refused(refusal),
    }
}

fn parse_any(bytes: &[u8], lines: head::Lines, asked: Asked) -> Result<ResponseHead, Refusal> {
    match parse(bytes, lines, asked) {
        Err(Refusal::VersionUnsupported) => match head::as_http11(bytes, lines, Kind::Response) {
            // Of the same length: what is found there is where it was.
            Some(changed) => parse(&changed, lines, asked),
            None => Err(Refusal::VersionUnsupported),
        },
        result => result,
    }
}

fn parse(bytes: &[u8], lines: head::Lines, asked: Asked) -> Result<ResponseHead, Refusal> {
    let text = bytes.get(lines.start..lines.end).unwrap_or_default();
    let mut room = head::room();
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, text, &mut room);
    match parsed.map_err(|error| head::refusal(error, text, Kind::Response))? {
        httparse::Status::Complete(len) if len == text.len() => {}
        httparse::Status::Complete(_) | httparse::Status::Partial => {
            return Err(Refusal::StatusLineInvalid);
        }
    }
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(Refusal::StatusLineInvalid);
    };
    if !(100..=599).contains(&status) {
        return Err(Refusal::StatusInvalid);
    }
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let fields = head::fields(bytes, response.headers);
    let role = match status {
        101 => Role::Upgraded,
        100..=199 => Role::Interim,
        _ => Role::Final,
    };
    let said = head::framing(&fields, bytes, version)?;
    let framing = match (status, said) {
        (100..=199, None) => Framing::None,
        // A length of nothing is wrong there, but harmless and widespread.
        (204, None | Some(Framing::Length(0))) => Framing::None,
        (100..=199 | 204, Some(_)) => return Err(Refusal::BodyUnexpected),
        (304, _) => Framing::None,
        (_, _) if asked.head_only => Framing::None,
        (_, Some(framing)) => framing,
        (_, None) => Framing::UntilClose,
    };
    if role == Role::Upgraded && !is_answer(&fields, bytes, asked) {
        return Err(Refusal::UpgradeUnexpected);
    }
    let keeps_alive = head::keeps_alive(&fields, bytes, version);
    Ok(ResponseHead {
        len: lines.end,
        status,
        reason: Span::of_slice(bytes, response.reason.unwrap_or_default().as_bytes()),
        version,
        fields,
        framing,
        role,
        keeps_alive: keeps_alive && framing != Framing::UntilClose && role != Role::Upgraded,
    })
}

/// Whether a 101 switches to what was asked for. What is in Sec-WebSocket-Accept is the client's to
/// compare; that there is one, once, tells a WebSocket server from a page that says 101.
fn is_answer(fields: &Fields, bytes: &[u8], asked: Asked) -> bool {
    let protocol = matches!(fields.once(bytes, "upgrade"),
        Once::One(protocol) if protocol.eq_ignore_ascii_case(b"websocket"));
    let accept = match fields.once(bytes, "sec-websocket-accept") {
        Once::One(accept) => !accept.is_empty(),
        Once::Absent => !asked.websocket_key,
        Once::Several => false,
    };
    asked.upgrade && protocol && accept && fields.lists(bytes, "connection", "upgrade")
}
