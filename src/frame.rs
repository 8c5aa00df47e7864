//! The preface of a framed protocol: header layout, frames, and the search for the key. Pure.

use std::borrow::Cow;
use std::ops::Range;

use crate::end::End;
use crate::key::KeyExpression;

/// A compiled header.
#[derive(Debug, Clone)]
pub struct Layout {
    todo: (),
}

/// What a header string or field list is wrong about; `Display` says what would be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutError(pub String);

/// One complete frame inside a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The whole frame.
    pub whole: Range<usize>,
    /// Its body.
    pub body: Range<usize>,
}

/// Everything needed to find a key in the first bytes of a connection.
#[derive(Debug, Clone)]
pub struct FrameRules {
    /// The header.
    pub layout: Layout,
    /// Where the key is.
    pub key: KeyExpression,
    /// How a JSON number becomes a key.
    pub number_format: crate::key::NumberFormat,
    /// Largest announced body, bytes.
    pub body_len_max: usize,
    /// How many frames are looked into, at least 1.
    pub search_frames: u32,
    /// Header fields and the inclusive ranges they must be in.
    pub expect: Vec<Expect>,
}

/// `expect`: the field at this index of the layout must be within a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// Index of the field in the layout.
    pub field: usize,
    /// Smallest and largest value allowed.
    pub range: std::ops::RangeInclusive<i128>,
}

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub enum Preface<'b> {
    /// Undecided; at least this many bytes in all are needed before it is worth asking again.
    NeedMore(usize),
    /// The key, and the length of the frames that were looked at.
    Key(Cow<'b, [u8]>),
    /// Well-formed, but none of the frames carries a key.
    KeyMissing,
    /// Close the connection for this reason.
    Invalid(End),
}

impl Layout {
    /// Compiles a pack string and the names of its fields.
    pub fn compile(_header: &str, _fields: &[&str]) -> Result<Layout, LayoutError> {
        todo!()
    }
    /// Bytes of a header.
    pub fn len(&self) -> usize {
        todo!()
    }
}

impl FrameRules {
    /// The most bytes a preface can have: what a session's receive buffer is bounded by.
    pub fn preface_len_max(&self) -> usize {
        todo!()
    }

    /// Looks for the key in the first bytes of a connection.
    pub fn read<'b>(&self, _bytes: &'b [u8]) -> Preface<'b> {
        todo!()
    }
}
