//! Where a body ends, in either direction, as its bytes stream through.
//!
//! A body's bytes are passed on as they are. What is counted here is what the other side will
//! count: chunks are held to a grammar in which there is only one way to read them.

use super::Framing;
use super::chunk::{Chunks, Step};

/// The body of one message.
#[derive(Debug, Clone)]
pub struct Body(State);

#[derive(Debug, Clone)]
enum State {
    Done,
    Length { left: u64 },
    Chunked(Box<Chunks>),
    UntilClose,
}

/// Bytes at the start of a slice that belong to the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many; pass them on unchanged.
    pub len: usize,
    /// Whether the body ends behind them.
    pub complete: bool,
}

/// A stretch of bytes at the start of a slice that belong to the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// How many.
    pub len: usize,
    /// Whether they are data, or the sizes, line ends and trailers between it.
    pub data: bool,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident => $label:literal;)*) => {
        /// Why a body cannot be passed on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum BodyFault { $($(#[$doc])* $variant),* }

        impl BodyFault {
            /// Every fault, in declaration order; `ALL[f as usize] == f`.
            pub const ALL: &'static [BodyFault] = &[$(BodyFault::$variant),*];

            /// The stable name in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(BodyFault::$variant => $label),* }
            }
        }
    };
}

faults! {
    /// The connection ended before the body did.
    Truncated => "body_truncated";
    /// A chunk's size is no hexadecimal number.
    ChunkSizeInvalid => "chunk_size_invalid";
    /// A chunk's size has over 8 digits, or is over 2^31 - 1.
    ChunkTooLarge => "chunk_too_large";
    /// Extensions of chunks that are not well-formed.
    ChunkExtensionInvalid => "chunk_extension_invalid";
    /// Over 4 KiB of them in one body.
    ChunkExtensionsTooLong => "chunk_extensions_too_long";
    /// A line within the framing that does not end in CRLF, or data that is not followed by it.
    ChunkLineEnd => "chunk_line_end";
    /// A trailer that is not a field.
    TrailerInvalid => "trailer_invalid";
    /// A trailer that frames, routes or authenticates, which is too late for it.
    TrailerForbidden => "trailer_forbidden";
    /// Trailers over 4 KiB.
    TrailersTooLong => "trailers_too_long";
}

impl Body {
    /// The body behind a head.
    pub fn new(framing: Framing) -> Body {
        Body(match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::Chunked(Box::default()),
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether no more bytes belong to it.
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            State::Done => true,
            State::Length { left } => *left == 0,
            State::Chunked(chunks) => chunks.is_complete(),
            State::UntilClose => false,
        }
    }

    /// Bytes that are certainly still to come; `None` if that is not known.
    pub fn left(&self) -> Option<u64> {
        match &self.0 {
            State::Done => Some(0),
            State::Length { left } => Some(*left),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// Takes as many of `bytes`, which follow those that it was called with before, as belong to
    /// the body. Never none of them unless it is complete or `bytes` is empty.
    ///
    /// # Errors
    /// When they cannot be read in one way only. Nothing of `bytes` must be passed on then, and
    /// neither connection be used again.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, BodyFault> {
        let mut len = 0;
        while !self.is_complete() {
            let rest = bytes.get(len..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            len += self.piece(rest)?.len;
        }
        Ok(Taken { len, complete: self.is_complete() })
    }

    /// Takes the next stretch of one kind: what a side needs that gets the data alone, as a client
    /// who does not know chunks. As long as the body is not complete and `bytes` is not empty, it
    /// has at least one byte.
    ///
    /// # Errors
    /// As [`Body::take`].
    pub fn piece(&mut self, bytes: &[u8]) -> Result<Piece, BodyFault> {
        match &mut self.0 {
            State::Done => Ok(Piece { len: 0, data: true }),
            State::UntilClose => Ok(Piece { len: bytes.len(), data: true }),
            State::Length { left } => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                Ok(Piece { len, data: true })
            }
            State::Chunked(chunks) => match chunks.step(bytes)? {
                Step::Data(len) => Ok(Piece { len, data: true }),
                Step::Between(len) => Ok(Piece { len, data: false }),
            },
        }
    }

    /// What it means that nothing more will come.
    ///
    /// # Errors
    /// When something is missing.
    pub fn end_of_stream(&self) -> Result<(), BodyFault> {
        match &self.0 {
            State::UntilClose => Ok(()),
            _ if self.is_complete() => Ok(()),
            _ => Err(BodyFault::Truncated),
        }
    }
}
