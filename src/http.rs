//! HTTP/1.1 as bytes: heads, bodies, rules, and what is written to the other side. Pure.
//!
//! Nothing here reads a socket or a clock. A head is parsed where it was received; what is found in
//! it are [`Span`]s of that buffer. Whatever two programs could read in two ways is refused, with a
//! reason that has one label: the other side never sees a message that we did not understand.
//!
//! ```text
//!   bytes → request::read → rule::choose → target (pool + key, lookup, fixed reply)
//!             │ framing                      │ templates, checked by value
//!             ▼                              ▼
//!           body::Body (counts, never      rewrite::request_head → backend
//!             changes a byte)              response::read → rewrite::response_head → client
//! ```

pub mod access;
pub mod body;
mod chunk;
pub mod client;
pub mod fields;
pub mod head;
pub mod question;
pub mod reply;
pub mod request;
pub mod response;
pub mod rewrite;
pub mod rule;
pub mod target;
pub mod template;
pub mod value;

/// A stretch of the buffer that a head was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Bytes `start..end`. Heads are far below 4 GiB; an offset beyond would give an empty span.
    pub(crate) fn new(start: usize, end: usize) -> Span {
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) if start <= end => Span { start, end },
            _ => Span::default(),
        }
    }

    /// Where `part` is in `whole`, of which it has to be a slice.
    pub(crate) fn of_slice(whole: &[u8], part: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        match start.checked_add(part.len()) {
            Some(end) if end <= whole.len() => Span::new(start, end),
            _ => Span::default(),
        }
    }

    /// The bytes; empty if `buffer` is not the one that the head was read from.
    pub fn of<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        buffer.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl Version {
    /// As it stands in a message.
    pub fn text(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }
}

/// How the end of a message's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// This many bytes; may be 0.
    Length(u64),
    /// In chunks, the last of which is empty.
    Chunked,
    /// All that comes before the connection's end; of responses only.
    UntilClose,
}

/// Whether a byte may stand in a token: a method or the name of a field (RFC 9110, 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A text without the blanks around it that a field's value may have.
pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// The members of a comma-separated list, without blanks; empty ones are left out.
pub(crate) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty())
}
