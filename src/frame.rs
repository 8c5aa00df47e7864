//! The preface of a framed protocol: frames, their limits, and the search for the key. Pure.
//!
//! [`FrameRules::read`] is asked again with every byte a connection has sent so far. It keeps
//! nothing between calls and copies nothing: a key is a slice of the bytes it was given.

mod layout;

use std::ops::{Range, RangeInclusive};

use crate::end::End;
use crate::key::{Key, KeyExpression, NumberFormat};

pub use layout::{FIELDS_MAX, Field, HEADER_LEN_MAX, Layout, LayoutError};

/// One complete frame inside a buffer: byte positions from the buffer's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Header and body.
    pub whole: Range<usize>,
    /// The body alone; may be empty.
    pub body: Range<usize>,
}

/// What stands at one position of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextFrame {
    /// A complete frame whose length and fields are within the rules.
    Complete(Frame),
    /// Undecided before the buffer holds this many bytes in all.
    NeedMore(usize),
    /// Its header breaks a rule.
    Invalid(End),
}

/// Everything needed to find a key in the first bytes of a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameRules {
    /// The header.
    pub layout: Layout,
    /// Where the key is.
    pub key: KeyExpression,
    /// How a JSON number becomes a key.
    pub number_format: NumberFormat,
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
    pub range: RangeInclusive<i128>,
}

/// What the bytes so far say.
#[derive(Debug, PartialEq, Eq)]
pub enum Preface<'b> {
    /// Undecided; at least this many bytes in all are needed before it is worth asking again.
    NeedMore(usize),
    /// The key: 1 to [`crate::key::KEY_LEN_MAX`] bytes.
    Key(Key<'b>),
    /// Well-formed, but none of the frames carries a key.
    KeyMissing,
    /// Close the connection for this reason.
    Invalid(End),
}

impl FrameRules {
    /// The most bytes the frames of a preface can have: what a session's receive buffer is bounded
    /// by. [`Preface::NeedMore`] never asks for more.
    pub fn preface_len_max(&self) -> usize {
        let frame_len_max = self.layout.header_len().saturating_add(self.body_len_max);
        frame_len_max.saturating_mul(self.frames_max())
    }

    /// Looks for the key in the first bytes of a connection. Bytes after the frame that decides
    /// are not looked at: they are the session's data.
    pub fn read<'b>(&self, bytes: &'b [u8]) -> Preface<'b> {
        self.read_frames(bytes).0
    }

    /// [`FrameRules::read`], and how many bytes the complete frames that were looked at have.
    pub fn read_frames<'b>(&self, bytes: &'b [u8]) -> (Preface<'b>, usize) {
        let mut start = 0;
        for _ in 0..self.frames_max() {
            let frame = match self.frame_at(bytes, start) {
                NextFrame::Complete(frame) => frame,
                NextFrame::NeedMore(total) => return (Preface::NeedMore(total), start),
                NextFrame::Invalid(end) => return (Preface::Invalid(end), start),
            };
            start = frame.whole.end;
            match self.key_in(bytes, &frame) {
                Ok(Some(key)) => return (Preface::Key(key), start),
                Ok(None) => {}
                Err(end) => return (Preface::Invalid(end), start),
            }
        }
        (Preface::KeyMissing, start)
    }

    /// The frame that begins at `start`. A header that breaks a rule is refused as soon as it is
    /// complete, whatever it announces; the length is judged first, then `expect` in its order.
    pub fn frame_at(&self, bytes: &[u8], start: usize) -> NextFrame {
        let body_start = start.saturating_add(self.layout.header_len());
        let Some(header) = bytes.get(start..body_start) else {
            return NextFrame::NeedMore(body_start);
        };
        let body_len = match self.body_len(header) {
            Ok(body_len) => body_len,
            Err(end) => return NextFrame::Invalid(end),
        };
        let body_end = body_start.saturating_add(body_len);
        if bytes.len() < body_end {
            return NextFrame::NeedMore(body_end);
        }
        NextFrame::Complete(Frame { whole: start..body_end, body: body_start..body_end })
    }

    /// The key of one complete frame of `bytes`; `None` if the frame carries none.
    pub fn key_in<'b>(&self, bytes: &'b [u8], frame: &Frame) -> Result<Option<Key<'b>>, End> {
        let body = bytes.get(frame.body.clone()).unwrap_or_default();
        let found = match &self.key {
            KeyExpression::Json(path) => path.key(body, self.number_format),
            KeyExpression::Bytes(range) => Ok(body.get(range.clone()).map(Key::InBuffer)),
            KeyExpression::Field(index) => {
                let header = bytes.get(frame.whole.start..frame.body.start).unwrap_or_default();
                Ok(self.layout.value(header, *index).map(Key::decimal))
            }
        };
        found.map_err(End::from)
    }

    /// The announced body length of a complete header, if the header keeps every rule.
    fn body_len(&self, header: &[u8]) -> Result<usize, End> {
        let announced = self.layout.body_len(header);
        if announced < 0 {
            return Err(End::LengthNegative);
        }
        let body_len = match usize::try_from(announced) {
            Ok(body_len) if body_len <= self.body_len_max => body_len,
            _ => return Err(End::BodyTooLong),
        };
        let expected = |expect: &Expect| {
            self.layout.value(header, expect.field).is_some_and(|v| expect.range.contains(&v))
        };
        if self.expect.iter().all(expected) { Ok(body_len) } else { Err(End::FieldUnexpected) }
    }

    fn frames_max(&self) -> usize {
        usize::try_from(self.search_frames.max(1)).unwrap_or(usize::MAX)
    }
}
