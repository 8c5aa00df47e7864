//! The head of a request.

use super::fields::{Fields, Once};
use super::head::{self, HeadLimits, Kind, METHOD_LEN_MAX, Read, Refusal, Scan};
use super::{Framing, Span, Version, is_token_byte, list_members, target};

/// A request whose head is served. Spans are of the buffer that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the buffer that it took, empty lines before it included.
    pub len: usize,
    /// A token; compared with regard to case.
    pub method: Span,
    /// As it was sent.
    pub target: Span,
    /// Which of the forms the target has.
    pub form: Form,
    /// The target's path, from its "/"; empty for "*" and for a URL without one.
    pub path: Span,
    /// What is behind the "?", if there is one; may be empty.
    pub query: Option<Span>,
    /// Host and port, from the target or from Host; `None` in HTTP/1.0 without both.
    pub authority: Option<Span>,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Every field.
    pub fields: Fields,
    /// Never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether there is a body, and the client waits for a 100 before it sends it.
    pub expects_continue: bool,
    /// Whether the client wants to send another request on this connection.
    pub keeps_alive: bool,
    /// Whether the client asks for WebSocket. Every other protocol is ignored, as RFC 9110, 7.8
    /// allows: nobody should come to speak h2c past our rules.
    pub upgrades: bool,
}

/// Forms of a target (RFC 9112, 3.2); the fourth is CONNECT's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// "/path?query"
    Origin,
    /// "http://host/path?query"
    Absolute,
    /// "*"
    Asterisk,
}

/// Reads the head at the start of `bytes`.
pub fn read(bytes: &[u8], limits: &HeadLimits) -> Read<RequestHead> {
    read_more(&mut Scan::default(), bytes, limits)
}

/// [`read`] for a head that comes in pieces: `scan` remembers how far the bytes were looked at,
/// and `bytes` has to begin with all that it was called with before.
pub fn read_more(scan: &mut Scan, bytes: &[u8], limits: &HeadLimits) -> Read<RequestHead> {
    match scan.end(bytes, limits, Kind::Request) {
        Ok(None) => Read::Partial,
        Ok(Some(lines)) => match parse_any(bytes, lines, limits) {
            Ok(head) => Read::Complete(head),
            Err(refusal) => Read::Refused(refusal),
        },
        Err(refusal) => Read::Refused(refusal),
    }
}

fn parse_any(
    bytes: &[u8],
    lines: head::Lines,
    limits: &HeadLimits,
) -> Result<RequestHead, Refusal> {
    match parse(bytes, lines, limits) {
        Err(Refusal::VersionUnsupported) => match head::as_http11(bytes, lines, Kind::Request) {
            // Of the same length: what is found there is where it was.
            Some(changed) => parse(&changed, lines, limits),
            None => Err(Refusal::VersionUnsupported),
        },
        result => result,
    }
}

fn parse(bytes: &[u8], lines: head::Lines, limits: &HeadLimits) -> Result<RequestHead, Refusal> {
    let text = bytes.get(lines.start..lines.end).unwrap_or_default();
    let mut room = head::room();
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(text, &mut room);
    match parsed.map_err(|error| head::refusal(error, text, Kind::Request))? {
        httparse::Status::Complete(len) if len == text.len() => {}
        httparse::Status::Complete(_) | httparse::Status::Partial => {
            return Err(Refusal::RequestLineInvalid);
        }
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Refusal::RequestLineInvalid);
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let fields = head::fields(bytes, request.headers);
    let whole_target = Span::of_slice(bytes, target.as_bytes());
    if target.len() > limits.target_len_max {
        return Err(Refusal::TargetTooLong);
    }
    check_method(method.as_bytes())?;
    let parts = Parts::of(bytes, method.as_bytes(), target.as_bytes())?;
    let authority = authority(bytes, &fields, version, parts.authority)?;
    let framing = head::framing(&fields, bytes, version)?.unwrap_or(Framing::None);
    check_connection(bytes, &fields)?;
    let bodiless = matches!(framing, Framing::None | Framing::Length(0));
    let expects_continue = expects_continue(bytes, &fields, version)? && !bodiless;
    let upgrades = version >= Version::Http11
        && method == "GET"
        && framing == Framing::None
        && fields.lists(bytes, "connection", "upgrade")
        && matches!(fields.once(bytes, "upgrade"),
            Once::One(protocol) if protocol.eq_ignore_ascii_case(b"websocket"));
    Ok(RequestHead {
        len: lines.end,
        method: Span::of_slice(bytes, method.as_bytes()),
        target: whole_target,
        form: parts.form,
        path: parts.path,
        query: parts.query,
        authority,
        version,
        framing,
        expects_continue,
        keeps_alive: head::keeps_alive(&fields, bytes, version),
        upgrades,
        fields,
    })
}

fn check_method(method: &[u8]) -> Result<(), Refusal> {
    if method.is_empty()
        || method.len() > METHOD_LEN_MAX
        || !method.iter().all(|byte| is_token_byte(*byte))
    {
        return Err(Refusal::MethodInvalid);
    }
    match method {
        b"CONNECT" | b"TRACE" => Err(Refusal::MethodRefused),
        _ => Ok(()),
    }
}

/// A target's parts.
struct Parts {
    form: Form,
    path: Span,
    query: Option<Span>,
    authority: Option<Span>,
}

impl Parts {
    fn of(bytes: &[u8], method: &[u8], target: &[u8]) -> Result<Parts, Refusal> {
        if target.contains(&b'#') {
            return Err(Refusal::TargetFragment);
        }
        // Bytes beyond ASCII should be encoded, and often are not; they mislead nobody.
        if !target.iter().all(|byte| byte.is_ascii_graphic() || !byte.is_ascii()) {
            return Err(Refusal::TargetInvalid);
        }
        if !target::percents_are_sound(target) {
            return Err(Refusal::TargetPercent);
        }
        if target == b"*" {
            let form = Form::Asterisk;
            let nothing = Parts { form, path: Span::default(), query: None, authority: None };
            return if method == b"OPTIONS" { Ok(nothing) } else { Err(Refusal::TargetInvalid) };
        }
        let (form, authority, rest) = match target.first() {
            Some(b'/') => (Form::Origin, None, target),
            _ => {
                let (authority, rest) = absolute(target).ok_or(Refusal::TargetInvalid)?;
                (Form::Absolute, Some(Span::of_slice(bytes, authority)), rest)
            }
        };
        let mut halves = rest.splitn(2, |byte| *byte == b'?');
        let path = halves.next().unwrap_or_default();
        if target::path(path).is_none() {
            return Err(Refusal::TargetAboveRoot);
        }
        let query = halves.next().map(|query| Span::of_slice(bytes, query));
        Ok(Parts { form, path: Span::of_slice(bytes, path), query, authority })
    }
}

/// Authority and rest of an http or https URL, whose rest begins with "/" or "?" or is empty.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = target.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = target.split_at_checked(colon)?;
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end)?;
    is_authority(authority).then_some((authority, rest))
}

/// Exactly one Host in 1.1, at most one in 1.0, and the same one as in the target.
fn authority(
    bytes: &[u8],
    fields: &Fields,
    version: Version,
    of_target: Option<Span>,
) -> Result<Option<Span>, Refusal> {
    let host = match fields.once(bytes, "host") {
        Once::Several => return Err(Refusal::HostDuplicate),
        Once::Absent if version >= Version::Http11 => return Err(Refusal::HostMissing),
        Once::Absent => return Ok(of_target),
        Once::One(host) => host,
    };
    if !is_authority(host) {
        return Err(Refusal::HostInvalid);
    }
    if let Some(target) = of_target {
        if !target.of(bytes).eq_ignore_ascii_case(host) {
            return Err(Refusal::HostDisagrees);
        }
        return Ok(Some(target));
    }
    Ok(Some(Span::of_slice(bytes, host)))
}

/// Longest host, bytes: a DNS name, with room for an address in brackets.
const HOST_LEN_MAX: usize = 255;

/// "name", "name:port", "1.2.3.4:port" or "[v6]:port". Names are narrower than a URL's: letters,
/// digits and "-._~", which is what DNS and people use.
pub(super) fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = split_port(authority);
    let port_good = port.is_none_or(|port| {
        // An empty port is a URL's default one.
        let digits = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(port).ok().and_then(|port| port.parse::<u32>().ok());
        digits && number.is_none_or(|number| number <= 65_535)
    });
    let host_good = match host {
        [b'[', address @ .., b']'] => std::str::from_utf8(address)
            .is_ok_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        name => {
            !name.is_empty()
                && !name.starts_with(b".")
                && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b))
        }
    };
    port_good && host_good && host.len() <= HOST_LEN_MAX
}

/// Host and port of an authority.
pub(super) fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = if authority.first() == Some(&b'[') {
        authority.iter().position(|byte| *byte == b']').unwrap_or(0)
    } else {
        0
    };
    let rest = authority.get(from..).unwrap_or_default();
    match rest.iter().position(|byte| *byte == b':') {
        Some(colon) => {
            let (host, port) = authority.split_at(from + colon);
            (host, port.get(1..))
        }
        None => (authority, None),
    }
}

/// Fields that Connection may not name: without them the message would be another one.
const CONNECTION_NAMES_NEVER: &[&str] = &["host", "content-length", "transfer-encoding"];

fn check_connection(bytes: &[u8], fields: &Fields) -> Result<(), Refusal> {
    for member in fields.all(bytes, "connection").flat_map(list_members) {
        let never = |name: &&str| member.eq_ignore_ascii_case(name.as_bytes());
        let token = member.iter().all(|byte| is_token_byte(*byte));
        if !token || CONNECTION_NAMES_NEVER.iter().any(never) {
            return Err(Refusal::ConnectionInvalid);
        }
    }
    Ok(())
}

/// RFC 9110, 10.1.1. HTTP/1.0 has no such expectation: there it is ignored.
fn expects_continue(bytes: &[u8], fields: &Fields, version: Version) -> Result<bool, Refusal> {
    match fields.once(bytes, "expect") {
        Once::Absent => Ok(false),
        Once::One(_) | Once::Several if version < Version::Http11 => Ok(false),
        Once::One(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Once::One(_) | Once::Several => Err(Refusal::ExpectationUnknown),
    }
}

impl RequestHead {
    /// The path that rules are compared with, see [`target::path`]; "/" for a URL without one, empty
    /// for "*".
    pub fn path<'b>(&self, bytes: &'b [u8]) -> std::borrow::Cow<'b, [u8]> {
        match self.form {
            Form::Asterisk => std::borrow::Cow::Borrowed(b""),
            // It was found to be sound when the head was read.
            Form::Origin | Form::Absolute => target::path(self.path.of(bytes)).unwrap_or_default(),
        }
    }

    /// The target as a backend gets it: path and query as they were sent, without the authority.
    pub fn origin_form(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let path = self.path.of(bytes);
        let options = self.method.of(bytes) == b"OPTIONS";
        match self.form {
            Form::Asterisk => out.push(b'*'),
            // RFC 9112, 3.2.4.
            Form::Absolute if options && path.is_empty() && self.query.is_none() => out.push(b'*'),
            Form::Origin | Form::Absolute if path.is_empty() => out.push(b'/'),
            Form::Origin | Form::Absolute => out.extend_from_slice(path),
        }
        if let Some(query) = self.query {
            out.push(b'?');
            out.extend_from_slice(query.of(bytes));
        }
    }

    /// Whether there is a body that a backend may not expect, and so may take for the next request:
    /// its connection is better not used again.
    pub fn has_odd_body(&self, bytes: &[u8]) -> bool {
        let method = self.method.of(bytes);
        let usual = matches!(method, b"POST" | b"PUT" | b"PATCH");
        !usual && !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// The host without its port and in lower case, as nginx's `$host`; empty if there is none.
    pub fn host(&self, bytes: &[u8]) -> Vec<u8> {
        let authority = self.authority.map(|span| span.of(bytes)).unwrap_or_default();
        let (host, _) = split_port(authority);
        // "name." is the same name.
        host.strip_suffix(b".").unwrap_or(host).to_ascii_lowercase()
    }
}
