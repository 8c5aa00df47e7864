//! What requests and responses have in common: finding the end of a head, its fields, its framing,
//! and every reason to refuse one.
//!
//! The lines of a head are looked at before a library sees them: [`Scan`] wants CRLF behind each
//! and no other control byte. What is left to httparse is the grammar of a start line and fields.

use std::mem::MaybeUninit;

use super::fields::{Field, Fields, Once};
use super::{Framing, Span, Version};

/// Most fields that a limit may allow.
pub const FIELDS_MAX: usize = 256;

/// Empty lines that are skipped before a request line: some clients send one behind a body.
const LINES_EMPTY_MAX: u32 = 2;

/// What a head may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// All of it, bytes, the empty line at its end included.
    pub head_len_max: usize,
    /// Fields; at most [`FIELDS_MAX`].
    pub fields_max: usize,
    /// The target of a request, bytes.
    pub target_len_max: usize,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { head_len_max: 16 << 10, fields_max: 100, target_len_max: 8 << 10 }
    }
}

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read<T> {
    /// Undecided: the head has no end yet.
    Partial,
    /// A whole head. What is behind it belongs to the body, or to the next message.
    Complete(T),
    /// Not one that we serve.
    Refused(Refusal),
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident => $label:literal, $status:literal;)*) => {
        /// Why a head is not served. Each has one label, for metrics and logs, and the status that
        /// a client is answered with; a client never sees more about a response than a 502.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refusal { $($(#[$doc])* $variant),* }

        impl Refusal {
            /// Every reason, in declaration order; `ALL[r as usize] == r`.
            pub const ALL: &'static [Refusal] = &[$(Refusal::$variant),*];

            /// The stable name in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(Refusal::$variant => $label),* }
            }

            /// What a client is answered whose request is refused for this.
            pub fn status(self) -> u16 {
                match self { $(Refusal::$variant => $status),* }
            }
        }
    };
}

refusals! {
    /// Over `head_len_max` without an end.
    HeadTooLong => "head_too_long", 431;
    /// Over `fields_max` fields.
    FieldsTooMany => "fields_too_many", 431;
    /// A line feed without a carriage return before it.
    BareLineFeed => "bare_line_feed", 400;
    /// A carriage return without a line feed behind it.
    BareCarriageReturn => "bare_carriage_return", 400;
    /// Another control byte, NUL included.
    ControlByte => "control_byte", 400;
    /// More than two empty lines before a request, or any before a response.
    LinesEmpty => "lines_empty", 400;
    /// A line that begins with a blank: RFC 7230's obs-fold, or a field before the first.
    FieldFolded => "field_folded", 400;
    /// A blank between a field's name and its colon.
    FieldNameBlank => "field_name_blank", 400;
    /// A field's name is no token, or there is no colon.
    FieldNameInvalid => "field_name_invalid", 400;
    /// A field's value has a byte that it may not have.
    FieldValueInvalid => "field_value_invalid", 400;
    /// The request line is not a method, a target and a version with one space between.
    RequestLineInvalid => "request_line_invalid", 400;
    /// The method is no token, or over 32 bytes.
    MethodInvalid => "method_invalid", 400;
    /// CONNECT or TRACE: neither means anything for a caller who only knows us.
    MethodRefused => "method_refused", 405;
    /// An HTTP version below 1.0, or 2.0 and above.
    VersionUnsupported => "version_unsupported", 505;
    /// The target is over `target_len_max`.
    TargetTooLong => "target_too_long", 414;
    /// The target is neither a path, nor an http URL, nor the "*" of OPTIONS.
    TargetInvalid => "target_invalid", 400;
    /// The target has a "#".
    TargetFragment => "target_fragment", 400;
    /// A "%" in the target without two hexadecimal digits, or "%00".
    TargetPercent => "target_percent", 400;
    /// The path leads above its root.
    TargetAboveRoot => "target_above_root", 400;
    /// HTTP/1.1 without Host.
    HostMissing => "host_missing", 400;
    /// More than one Host.
    HostDuplicate => "host_duplicate", 400;
    /// Host is no name or address with an optional port.
    HostInvalid => "host_invalid", 400;
    /// Host is not the one in the target.
    HostDisagrees => "host_disagrees", 400;
    /// Content-Length is no number, or a list.
    LengthInvalid => "length_invalid", 400;
    /// Content-Length is over 2^63 - 1.
    LengthTooLarge => "length_too_large", 400;
    /// More than one Content-Length, equal or not.
    LengthDuplicate => "length_duplicate", 400;
    /// Content-Length and Transfer-Encoding.
    LengthAndCoding => "length_and_coding", 400;
    /// Transfer-Encoding is no list of codings with chunked at its end, once.
    CodingInvalid => "coding_invalid", 400;
    /// More than one Transfer-Encoding.
    CodingDuplicate => "coding_duplicate", 400;
    /// Transfer-Encoding with a coding besides chunked.
    CodingUnknown => "coding_unknown", 501;
    /// Transfer-Encoding in HTTP/1.0, which has none.
    CodingBeforeHttp11 => "coding_before_http11", 400;
    /// Connection names a field that frames or addresses the message.
    ConnectionInvalid => "connection_invalid", 400;
    /// Expect is not 100-continue.
    ExpectationUnknown => "expectation_unknown", 417;
    /// The status line is not one.
    StatusLineInvalid => "status_line_invalid", 502;
    /// A status below 100 or over 599.
    StatusInvalid => "status_invalid", 502;
    /// A body where none may be: an interim response, or 204.
    BodyUnexpected => "body_unexpected", 502;
    /// 101 to a request that asked for no upgrade, or not for this one.
    UpgradeUnexpected => "upgrade_unexpected", 502;
}

/// Which start line is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Response,
}

/// Finds the end of a head that comes in pieces, looking at each byte once.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The next byte to look at.
    position: usize,
    /// Where the current line begins.
    line_start: usize,
    /// Where the first line begins, behind empty ones.
    start: usize,
    /// Empty lines before the first.
    lines_empty: u32,
    /// Complete lines that are not empty.
    lines: usize,
}

/// A head's lines: from the start line to behind the empty line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    pub start: usize,
    pub end: usize,
}

impl Scan {
    /// Goes on with what has come since: `bytes` has to begin with all that it was called with
    /// before.
    pub(super) fn end(
        &mut self,
        bytes: &[u8],
        limits: &HeadLimits,
        kind: Kind,
    ) -> Result<Option<Lines>, Refusal> {
        let looked_at = bytes.get(..limits.head_len_max).unwrap_or(bytes);
        loop {
            let rest = looked_at.get(self.position..).unwrap_or_default();
            if self.position != self.line_start {
                self.position += rest.iter().take_while(|byte| is_text(**byte)).count();
            }
            let Some(&byte) = looked_at.get(self.position) else { break };
            match byte {
                b'\r' => match looked_at.get(self.position + 1) {
                    None => break,
                    Some(b'\n') => {
                        if let Some(end) = self.line_end(limits, kind)? {
                            return Ok(Some(Lines { start: self.start, end }));
                        }
                    }
                    Some(_) => return Err(Refusal::BareCarriageReturn),
                },
                b'\n' => return Err(Refusal::BareLineFeed),
                b' ' | b'\t' if self.position == self.line_start => {
                    return Err(if self.lines == 0 {
                        start_line_invalid(kind)
                    } else {
                        Refusal::FieldFolded
                    });
                }
                b'\t' | b' '..=b'~' | 0x80.. => self.position += 1,
                0x00..=0x1f | 0x7f => return Err(Refusal::ControlByte),
            }
        }
        if self.lines == 0 && kind == Kind::Request {
            // Before the rest of an endless target comes.
            let line_len = looked_at.len().saturating_sub(self.line_start);
            if line_len > limits.target_len_max.saturating_add(REQUEST_LINE_REST_MAX) {
                return Err(Refusal::TargetTooLong);
            }
        }
        if bytes.len() >= limits.head_len_max { Err(Refusal::HeadTooLong) } else { Ok(None) }
    }

    /// Takes the CRLF at the current position.
    fn line_end(&mut self, limits: &HeadLimits, kind: Kind) -> Result<Option<usize>, Refusal> {
        let empty = self.position == self.line_start;
        self.position += 2;
        self.line_start = self.position;
        if !empty {
            self.lines += 1;
            let fields_max = limits.fields_max.min(FIELDS_MAX);
            let too_many = self.lines > fields_max.saturating_add(1);
            return if too_many { Err(Refusal::FieldsTooMany) } else { Ok(None) };
        }
        if self.lines > 0 {
            return Ok(Some(self.position));
        }
        self.lines_empty += 1;
        self.start = self.position;
        if kind == Kind::Response || self.lines_empty > LINES_EMPTY_MAX {
            return Err(Refusal::LinesEmpty);
        }
        Ok(None)
    }
}

/// Whether a byte may stand in a line: neither a control nor DEL, but a tab.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Longest method, bytes; the longest registered one has 17.
pub(super) const METHOD_LEN_MAX: usize = 32;

/// A request line without its target: method, blanks, "HTTP/1.1".
const REQUEST_LINE_REST_MAX: usize = METHOD_LEN_MAX + 2 + 8;

pub(super) fn start_line_invalid(kind: Kind) -> Refusal {
    match kind {
        Kind::Request => Refusal::RequestLineInvalid,
        Kind::Response => Refusal::StatusLineInvalid,
    }
}

/// Room for the fields that httparse finds.
pub(super) type Room<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX];

/// Room without its contents, which costs nothing to make.
pub(super) fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// Where httparse's fields are in the buffer.
pub(super) fn fields(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Fields {
    let spans = headers.iter().map(|header| Field {
        name: Span::of_slice(bytes, header.name.as_bytes()),
        value: Span::of_slice(bytes, super::trim(header.value)),
    });
    Fields(spans.collect())
}

/// Why httparse did not like lines that [`Scan`] let pass.
pub(super) fn refusal(error: httparse::Error, lines: &[u8], kind: Kind) -> Refusal {
    match error {
        httparse::Error::HeaderName => {
            // RFC 9112, 5.1: a blank there has been read in two ways, and has a reason of its own.
            let blank = field_lines(lines).any(|line| {
                let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                line.contains(&b':') && matches!(name.last(), Some(b' ' | b'\t'))
            });
            if blank { Refusal::FieldNameBlank } else { Refusal::FieldNameInvalid }
        }
        httparse::Error::HeaderValue => Refusal::FieldValueInvalid,
        httparse::Error::TooManyHeaders => Refusal::FieldsTooMany,
        httparse::Error::Version if names_a_version(lines, kind) => Refusal::VersionUnsupported,
        httparse::Error::Token if kind == Kind::Request && lines.first() != Some(&b' ') => {
            let method = lines.split(|byte| matches!(byte, b' ' | b'\r')).next();
            let token = method.is_some_and(|m| m.iter().all(|byte| super::is_token_byte(*byte)));
            let line = lines.split(|byte| *byte == b'\r').next().unwrap_or_default();
            match (token, line.split(|byte| *byte == b' ').count()) {
                (false, _) => Refusal::MethodInvalid,
                (true, ..=2) => Refusal::RequestLineInvalid,
                (true, 3..) => Refusal::TargetInvalid,
            }
        }
        httparse::Error::Token
        | httparse::Error::Version
        | httparse::Error::NewLine
        | httparse::Error::Status => start_line_invalid(kind),
    }
}

fn field_lines(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split(|byte| *byte == b'\n').skip(1)
}

/// Whether the start line has "HTTP/", a digit, a point and a digit where its version belongs.
fn names_a_version(lines: &[u8], kind: Kind) -> bool {
    matches!(version(lines, kind), Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// What stands in the start line where its version belongs.
fn version(lines: &[u8], kind: Kind) -> Option<&[u8]> {
    let line = lines.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match kind {
        Kind::Request => words.nth(2).filter(|_| words.next().is_none()),
        Kind::Response => words.next(),
    }
}

/// The same bytes, in which a version of 1.2 to 1.9 is 1.1: so RFC 9110, 2.5, wants them read.
/// `None` if the version is another.
pub(super) fn as_http11(bytes: &[u8], lines: Lines, kind: Kind) -> Option<Vec<u8>> {
    let text = bytes.get(lines.start..lines.end)?;
    if !matches!(version(text, kind)?, [.., b'/', b'1', b'.', b'2'..=b'9']) {
        return None;
    }
    let minor = match kind {
        Kind::Request => text.iter().position(|byte| *byte == b'\r')?.checked_sub(1)?,
        Kind::Response => "HTTP/1.".len(),
    };
    let mut changed = bytes.to_vec();
    *changed.get_mut(lines.start + minor)? = b'1';
    Some(changed)
}

/// What the fields say about the body's end: `None` if they say nothing.
///
/// Stricter than RFC 9112, 6.3, which lets a receiver repair some of what is refused here: a
/// repaired message is one that somebody else may repair differently.
pub(super) fn framing(
    fields: &Fields,
    bytes: &[u8],
    version: Version,
) -> Result<Option<Framing>, Refusal> {
    let length = match fields.once(bytes, "content-length") {
        Once::Absent => None,
        Once::One(value) => Some(length(value)?),
        Once::Several => return Err(Refusal::LengthDuplicate),
    };
    let coding = match fields.once(bytes, "transfer-encoding") {
        Once::Absent => return Ok(length.map(Framing::Length)),
        Once::One(value) => value,
        Once::Several => return Err(Refusal::CodingDuplicate),
    };
    if length.is_some() {
        return Err(Refusal::LengthAndCoding);
    }
    if version < Version::Http11 {
        return Err(Refusal::CodingBeforeHttp11);
    }
    if coding.eq_ignore_ascii_case(b"chunked") {
        return Ok(Some(Framing::Chunked));
    }
    let mut codings: Vec<&[u8]> = coding.split(|byte| *byte == b',').map(super::trim).collect();
    let last = codings.pop().unwrap_or_default();
    let known = |coding: &[u8]| {
        !coding.is_empty()
            && !coding.eq_ignore_ascii_case(b"chunked")
            && coding.iter().all(|byte| super::is_token_byte(*byte))
    };
    let well_formed = last.eq_ignore_ascii_case(b"chunked") && codings.iter().all(|one| known(one));
    Err(if well_formed { Refusal::CodingUnknown } else { Refusal::CodingInvalid })
}

/// Digits, of which there may be more than needed ("0005"): they are written anew for the other
/// side, so that nobody takes them for octal.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::LengthInvalid);
    }
    let mut length: u64 = 0;
    for digit in value {
        let next = length.checked_mul(10).and_then(|l| l.checked_add(u64::from(digit - b'0')));
        // Signed 64-bit numbers are what others count with.
        length = next.filter(|l| *l <= i64::MAX as u64).ok_or(Refusal::LengthTooLarge)?;
    }
    Ok(length)
}

/// Whether the connection stays open behind this message, as far as its head says.
pub(super) fn keeps_alive(fields: &Fields, bytes: &[u8], version: Version) -> bool {
    !fields.lists(bytes, "connection", "close")
        && (version >= Version::Http11 || fields.lists(bytes, "connection", "keep-alive"))
}
