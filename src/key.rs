//! Key expressions: which bytes of a frame say who is calling. Pure.
//!
//! A key is 1 to [`KEY_LEN_MAX`] bytes. It is borrowed from the received bytes wherever these
//! already hold it; a header field's decimal value is written into the key itself.

mod json;
mod number;
mod path;

use std::fmt::{self, Write};
use std::ops::{Deref, Range};

use smallvec::SmallVec;

use crate::end::End;
use crate::frame::Layout;

pub use json::JSON_DEPTH_MAX;
pub use path::JsonPath;

/// Longest key, bytes.
pub const KEY_LEN_MAX: usize = 256;

/// `key =`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyExpression {
    /// `json:PATH`
    Json(JsonPath),
    /// `bytes:A..B` of the body; a shorter body has no key.
    Bytes(Range<usize>),
    /// `field:NAME`: index of the header field; its decimal value is the key.
    Field(usize),
}

/// How a JSON number becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// Its characters as they were sent.
    Raw,
    /// As LuaJIT prints a double (`%.14g`), for those who come from OpenResty.
    Lua,
}

/// What a key expression is wrong about; `Display` says what would be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyExpressionError(pub String);

impl fmt::Display for KeyExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyExpressionError {}

/// Who is calling, as bytes.
#[derive(Debug, Clone)]
pub enum Key<'b> {
    /// As received.
    InBuffer(&'b [u8]),
    /// Written by us: a number's decimal form, or a string with its escapes resolved. Only the
    /// latter can be longer than the inline room.
    Written(SmallVec<[u8; KEY_INLINE_LEN]>),
}

/// Room for a 64-bit integer (20 characters) or a `%.14g` double (21).
const KEY_INLINE_LEN: usize = 32;

impl Key<'_> {
    /// A number as decimal text.
    pub fn decimal(value: i128) -> Key<'static> {
        let mut text = KeyText(SmallVec::new());
        // Writing into memory cannot fail.
        let _ = write!(text, "{value}");
        Key::Written(text.0)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Key::InBuffer(bytes) => bytes,
            Key::Written(bytes) => bytes,
        }
    }

    /// The key's bytes, owned.
    pub fn into_owned(self) -> Vec<u8> {
        match self {
            Key::InBuffer(bytes) => bytes.to_vec(),
            Key::Written(bytes) => bytes.into_vec(),
        }
    }
}

impl Deref for Key<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for Key<'_> {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Two keys are equal if their bytes are, wherever these are.
impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key<'_> {}

/// Formatted text in a key.
struct KeyText(SmallVec<[u8; KEY_INLINE_LEN]>);

impl fmt::Write for KeyText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Why a body has no usable key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// The body is not UTF-8.
    Utf8Invalid,
    /// The body is not one JSON document.
    JsonInvalid,
    /// The document is nested deeper than [`JSON_DEPTH_MAX`].
    JsonTooDeep,
    /// The key is over [`KEY_LEN_MAX`] bytes.
    KeyTooLong,
    /// The key is an object, an array or a boolean.
    KeyNotScalar,
}

impl From<KeyFault> for End {
    fn from(fault: KeyFault) -> End {
        match fault {
            KeyFault::Utf8Invalid => End::Utf8Invalid,
            KeyFault::JsonInvalid => End::JsonInvalid,
            KeyFault::JsonTooDeep => End::JsonTooDeep,
            KeyFault::KeyTooLong => End::KeyTooLong,
            KeyFault::KeyNotScalar => End::KeyNotScalar,
        }
    }
}

impl KeyExpression {
    /// Reads `json:PATH`, `bytes:A..B` or `field:NAME`, a name of `layout`.
    pub fn parse(text: &str, layout: &Layout) -> Result<KeyExpression, KeyExpressionError> {
        let Some((kind, argument)) = text.split_once(':') else {
            return fault(format!("\"{text}\" has no kind; {KINDS_VALID}"));
        };
        match kind {
            "json" => JsonPath::parse(argument).map(KeyExpression::Json),
            "bytes" => parse_range(argument).map(KeyExpression::Bytes),
            "field" => match layout.field_index(argument) {
                Some(index) => Ok(KeyExpression::Field(index)),
                None => fault(format!(
                    "the header has no field \"{argument}\"; its fields are {}",
                    quoted_list(layout.field_names())
                )),
            },
            _ => fault(format!("\"{kind}:\" is no kind of key; {KINDS_VALID}")),
        }
    }

    /// The expression as it is written in a configuration.
    pub fn text(&self, layout: &Layout) -> String {
        match self {
            KeyExpression::Json(path) => format!("json:{path}"),
            KeyExpression::Bytes(range) => format!("bytes:{}..{}", range.start, range.end),
            KeyExpression::Field(index) => {
                format!("field:{}", layout.fields().get(*index).map_or("?", |field| &field.name))
            }
        }
    }
}

const KINDS_VALID: &str = "valid are \"json:PATH\" in the body (json:devid, json:a.b[0].c), \
                           \"bytes:A..B\" of the body (bytes:0..16) and \"field:NAME\" of the \
                           header";

/// `A..B`: a half-open range of body bytes.
fn parse_range(text: &str) -> Result<Range<usize>, KeyExpressionError> {
    let valid = "\"bytes:A..B\" takes the body bytes from A up to and without B";
    let Some((start, end)) = text.split_once("..") else {
        return fault(format!("\"bytes:{text}\" has no \"..\"; {valid}"));
    };
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse::<u32>().ok().and_then(|number| usize::try_from(number).ok()),
        false => None,
    };
    let (Some(start), Some(end)) = (number(start), number(end)) else {
        return fault(format!(
            "\"bytes:{text}\": A and B are both whole numbers from 0 to {}; {valid}",
            u32::MAX
        ));
    };
    if start >= end {
        return fault(format!("\"bytes:{text}\" holds no byte: B must be over A; {valid}"));
    }
    if end - start > KEY_LEN_MAX {
        return fault(format!(
            "\"bytes:{text}\" is {} bytes long; a key has at most {KEY_LEN_MAX}",
            end - start
        ));
    }
    Ok(start..end)
}

fn quoted_list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn fault<T>(message: String) -> Result<T, KeyExpressionError> {
    Err(KeyExpressionError(message))
}
