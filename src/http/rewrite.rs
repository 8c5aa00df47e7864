//! The head that goes on to the other side, written anew: what is between two neighbours only stays
//! behind, what frames the body is written once and in one form, and what tells a backend about the
//! client is ours.

use std::io::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use super::client::Request;
use super::fields::{Fields, is_alike};
use super::response::{ResponseHead, Role};
use super::template::{Expression, Template, Values};
use super::value::{self, Purpose};
use super::{Framing, Version, is_token_byte, list_members, request};

/// Fields between two neighbours (RFC 9110, 7.6.1), whether Connection names them or not, and those
/// that are written anew.
const NOT_PASSED_ON: Names = Names::new(&[
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
]);

/// Names of fields that are looked for in every head.
struct Names {
    names: &'static [&'static str],
    /// Their lengths, a bit for each: most fields have none of them.
    lengths: u32,
}

impl Names {
    const fn new(names: &'static [&'static str]) -> Names {
        let (mut lengths, mut index) = (0, 0);
        while index < names.len() {
            lengths |= 1 << names[index].len();
            index += 1;
        }
        Names { names, lengths }
    }

    /// Whether this is, or may be taken for, one of them.
    fn have(&self, name: &[u8]) -> bool {
        let some = u32::try_from(name.len()).ok().and_then(|len| self.lengths.checked_shr(len));
        some.is_some_and(|bits| bits & 1 == 1)
            && self.names.iter().any(|other| is_alike(name, other))
    }
}

/// What is done about a field that tells a backend about the client.
///
/// What a client sends that is not trusted never passes, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Ours, instead of what came.
    Set,
    /// Ours behind what a trusted client sent. Of fields with one value (proto, host, X-Real-IP,
    /// request id) a trusted one stays, and ours is for those who sent none.
    Append,
    /// What a trusted client sent, and nothing of ours.
    Leave,
    /// Nobody's.
    Off,
}

/// `[listener.http.forward]`
#[derive(Debug, Clone, PartialEq)]
pub struct Forwarding {
    /// X-Forwarded-For
    pub x_forwarded_for: Mode,
    /// X-Forwarded-Proto
    pub x_forwarded_proto: Mode,
    /// X-Forwarded-Host
    pub x_forwarded_host: Mode,
    /// X-Real-IP
    pub x_real_ip: Mode,
    /// Forwarded (RFC 7239)
    pub forwarded: Mode,
    /// X-Request-ID
    pub request_id: Mode,
    /// Who may tell these of others.
    pub trusted: Vec<IpNet>,
    /// Whether peers on UNIX sockets may.
    pub trusted_unix: bool,
    /// Whether the client's address is the one that trusted peers tell by X-Forwarded-For.
    pub client_behind_proxies: bool,
    /// What Host becomes; a template that gives no host leaves the client's.
    pub host: Template,
    /// Fields of one's own, instead of any that the client sent under these names. One whose
    /// template cannot be filled is left out.
    pub headers: Vec<(String, Template)>,
    /// The name to add to Via; `None` adds nothing.
    pub via: Option<String>,
}

impl Forwarding {
    /// Whether anything that a backend gets may have the request's id in it.
    pub fn tells_request_id(&self) -> bool {
        let templates = self.headers.iter().map(|(_, template)| template).chain([&self.host]);
        let mut expressions = templates.flat_map(Template::expressions);
        self.request_id != Mode::Off || expressions.any(|one| *one == Expression::RequestId)
    }
}

/// What a request becomes besides what it is.
#[derive(Debug, Clone, Copy)]
pub struct Onward<'o> {
    /// The listener's rules for it.
    pub forwarding: &'o Forwarding,
    /// What templates are filled with; `backend` stands for Host where there is no other.
    pub values: Values<'o>,
    /// Whether we want to use the backend's connection again.
    pub keep: bool,
}

/// A line of a head.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    raw_field(out, name.as_bytes(), value);
}

fn raw_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends the head that a backend gets: HTTP/1.1 with its target in origin form.
pub fn request_head(request: &Request<'_>, onward: &Onward<'_>, out: &mut Vec<u8>) {
    let (bytes, head, forwarding) = (request.bytes, request.head, onward.forwarding);
    out.extend_from_slice(request.method());
    out.push(b' ');
    head.origin_form(bytes, out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    host(request, onward, out);
    frame(head.framing, out);
    if head.upgrades {
        out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
    } else if !onward.keep {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    let own = |name: &[u8]| {
        is_alike(name, "host")
            || (is_alike(name, "expect") && !head.expects_continue)
            || FORWARDED.have(name)
            || forwarding.headers.iter().any(|(own, _)| is_alike(name, own))
    };
    for (name, value) in passed_on(&head.fields, bytes).filter(|(name, _)| !own(name)) {
        raw_field(out, name, value);
    }
    forwarding_fields(request, onward, out);
    for (name, template) in &forwarding.headers {
        // A part that the request lacks, or that may not stand in a field.
        let filled = template.fill(Some(request), &onward.values, Purpose::FieldValue);
        if let Ok(text) = filled {
            field(out, name, super::trim(&text));
        }
    }
    if let Some(name) = &forwarding.via {
        via(head.version, name, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a number's digits. Every head has some, and `write!` costs more than the rest of a line.
fn decimal(number: u64, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut rest = number;
    loop {
        out.push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out[begin..].reverse();
}

fn via(version: Version, name: &str, out: &mut Vec<u8>) {
    let version = if version == Version::Http10 { "1.0 " } else { "1.1 " };
    field(out, "Via", [version, name].concat().as_bytes());
}

/// The fields that are not between neighbours only, nor anything that could be taken for one that
/// frames the message: "Content_Length" reads the same to who turns names into variables.
fn passed_on<'b>(
    fields: &'b Fields,
    bytes: &'b [u8],
) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
    let named: Vec<&[u8]> = fields.all(bytes, "connection").flat_map(list_members).collect();
    fields.iter(bytes).filter(move |(name, _)| {
        !NOT_PASSED_ON.have(name) && !named.iter().any(|other| name.eq_ignore_ascii_case(other))
    })
}

fn frame(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(len) => {
            out.extend_from_slice(b"Content-Length: ");
            decimal(len, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn host(request: &Request<'_>, onward: &Onward<'_>, out: &mut Vec<u8>) {
    let template = &onward.forwarding.host;
    if let (true, Some(authority)) =
        (template.is_only(&Expression::Authority), request.head.authority)
    {
        // As it was when the head was read.
        return raw_field(out, b"Host", authority.of(request.bytes));
    }
    let filled = template.fill(Some(request), &onward.values, Purpose::FieldValue);
    if let Some(text) = filled.ok().filter(|text| request::is_authority(text)) {
        return raw_field(out, b"Host", &text);
    }
    if let Some(authority) = request.head.authority {
        return raw_field(out, b"Host", authority.of(request.bytes));
    }
    // HTTP/1.0 without Host; a UNIX socket has no name that could stand there.
    let backend = onward.values.backend.filter(|name| request::is_authority(name.as_bytes()));
    raw_field(out, b"Host", backend.unwrap_or("localhost").as_bytes());
}

/// Fields that are ours to write, and never those of a client that is not trusted.
const FORWARDED: Names = Names::new(&[
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "forwarded",
    "x-request-id",
]);

/// What we could say under one of these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    Address,
    Scheme,
    Authority,
    /// All of it, in RFC 7239's form.
    Element,
    RequestId,
}

impl Ours {
    /// Appends it, if there is anything to say.
    fn write(self, request: &Request<'_>, onward: &Onward<'_>, out: &mut Vec<u8>) {
        match self {
            Ours::Address => {
                if let Some(address) = request.client.address {
                    write_text(out, address.ip().to_canonical());
                }
            }
            Ours::Scheme => out.extend_from_slice(request.scheme().as_bytes()),
            Ours::Authority => {
                let authority = request.head.authority.map(|span| span.of(request.bytes));
                out.extend_from_slice(authority.unwrap_or_default());
            }
            Ours::Element => forwarded(request, out),
            Ours::RequestId => {
                let id = onward.values.request_id.unwrap_or_default().as_bytes();
                if value::check(id, Purpose::FieldValue).is_ok() {
                    out.extend_from_slice(id);
                }
            }
        }
    }
}

/// Appends a number or an address as people write it.
fn write_text(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // A vector takes everything.
    let _always = write!(out, "{value}");
}

/// One of [`FORWARDED`].
struct Told {
    name: &'static str,
    mode: Mode,
    /// Whether a list may stand in it.
    listed: bool,
    ours: Ours,
}

fn forwarding_fields(request: &Request<'_>, onward: &Onward<'_>, out: &mut Vec<u8>) {
    let forwarding = onward.forwarding;
    let told = |name, mode, listed, ours| Told { name, mode, listed, ours };
    let fields = [
        told("X-Forwarded-For", forwarding.x_forwarded_for, true, Ours::Address),
        told("X-Forwarded-Proto", forwarding.x_forwarded_proto, false, Ours::Scheme),
        told("X-Forwarded-Host", forwarding.x_forwarded_host, false, Ours::Authority),
        told("X-Real-IP", forwarding.x_real_ip, false, Ours::Address),
        told("Forwarded", forwarding.forwarded, true, Ours::Element),
        told("X-Request-ID", forwarding.request_id, false, Ours::RequestId),
    ];
    for told in fields.into_iter().filter(|told| told.mode != Mode::Off) {
        // What the file writes under this name itself is written with the others.
        let own = forwarding.headers.iter().any(|(own, _)| is_alike(told.name.as_bytes(), own));
        if !own {
            told.write(request, onward, out);
        }
    }
}

impl Told {
    /// Writes the field, unless there is nothing to say.
    fn write(self, request: &Request<'_>, onward: &Onward<'_>, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(b": ");
        let values = out.len();
        let mut any_arrived = false;
        if matches!(self.mode, Mode::Append | Mode::Leave) && request.client.trusted {
            for arrived in request.values(self.name) {
                any_arrived = true;
                if !arrived.is_empty() {
                    separate(out, values);
                    out.extend_from_slice(arrived);
                }
            }
        }
        let has_ours = match self.mode {
            Mode::Set => true,
            Mode::Append => self.listed || !any_arrived,
            Mode::Leave | Mode::Off => false,
        };
        if has_ours {
            let before = out.len();
            separate(out, values);
            let from = out.len();
            self.ours.write(request, onward, out);
            if out.len() == from {
                out.truncate(before);
            }
        }
        if out.len() == values {
            out.truncate(begin);
        } else {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Puts a comma behind a value that is there already.
fn separate(out: &mut Vec<u8>, values: usize) {
    if out.len() > values {
        out.extend_from_slice(b", ");
    }
}

/// Appends what we say of a request in RFC 7239's form: for, proto, host.
fn forwarded(request: &Request<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"for=");
    match request.client.address.map(|address| address.ip().to_canonical()) {
        None => out.extend_from_slice(b"unknown"),
        Some(IpAddr::V4(ip)) => write_text(out, ip),
        // Brackets and colons have to be quoted (section 6).
        Some(IpAddr::V6(ip)) => write_text(out, format_args!("\"[{ip}]\"")),
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(request.scheme().as_bytes());
    if let Some(authority) = request.head.authority.map(|span| span.of(request.bytes)) {
        out.extend_from_slice(b";host=");
        // Nothing in an authority needs a backslash.
        let token = authority.iter().all(|byte| is_token_byte(*byte));
        let quote: &[u8] = if token { b"" } else { b"\"" };
        for part in [quote, authority, quote] {
            out.extend_from_slice(part);
        }
    }
}

/// A request's id as it is written: 32 hexadecimal digits, as nginx's `$request_id`.
pub fn request_id(random: u128) -> String {
    format!("{random:032x}")
}

/// Who gets a response.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'r> {
    /// Of the request.
    pub version: Version,
    /// Whether we would read another request on this connection.
    pub keep: bool,
    /// The name to add to Via; `None` adds nothing.
    pub via: Option<&'r str>,
}

/// How a response goes on behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// Whether chunks have to be undone: the client does not know them. Then only the data of
    /// [`super::body::Body::piece`] is passed on.
    pub unchunk: bool,
    /// Whether the client's connection ends with the body.
    pub closes: bool,
}

/// Appends the head that a client gets. The client must be able to tell where the body ends: by a
/// length, by chunks if it knows them, or by the connection's end.
pub fn response_head(
    response: (&ResponseHead, &[u8]),
    recipient: &Recipient<'_>,
    out: &mut Vec<u8>,
) -> Passing {
    let (head, bytes) = response;
    // A server answers with its own version (RFC 9110, 6.2).
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(head.status.into(), out);
    out.push(b' ');
    out.extend_from_slice(head.reason.of(bytes));
    out.extend_from_slice(b"\r\n");
    let unchunk = head.framing == Framing::Chunked && recipient.version < Version::Http11;
    let closes = head.role == Role::Final
        && (!recipient.keep || unchunk || head.framing == Framing::UntilClose);
    if !unchunk {
        frame(head.framing, out);
    }
    if head.framing == Framing::None && head.status >= 200 && head.status != 204 {
        // To HEAD, and 304: the length that a body would have had. It is a number: heads in which
        // it is not are refused.
        for value in head.fields.all(bytes, "content-length") {
            field(out, "Content-Length", value);
        }
    }
    match (head.role, recipient.version) {
        (Role::Upgraded, _) => {
            out.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
        }
        (Role::Final, _) if closes => out.extend_from_slice(b"Connection: close\r\n"),
        (Role::Final, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (Role::Final | Role::Interim, _) => {}
    }
    for (name, value) in passed_on(&head.fields, bytes) {
        raw_field(out, name, value);
    }
    if let Some(name) = recipient.via {
        via(head.version, name, out);
    }
    out.extend_from_slice(b"\r\n");
    Passing { unchunk, closes }
}
