//! Key expressions: which bytes of a frame say who is calling. Pure.

use std::ops::Range;

/// Longest key, bytes.
pub const KEY_LEN_MAX: usize = 256;

/// `key =`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyExpression {
    /// `json:PATH`
    Json(JsonPath),
    /// `bytes:A..B` of the body.
    Bytes(Range<usize>),
    /// `field:NAME`: index of the header field; its decimal value is the key.
    Field(usize),
}

/// `a.b[0].c`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<()>,
}

/// How a JSON number becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// Its characters as they were sent.
    Raw,
    /// As LuaJIT prints a double (`%.14g`), for those who come from OpenResty.
    Lua,
}
