//! Bytes of a body, held to its framing where they were received.

use crate::http::body::{Body, BodyFault};

/// What a body's bytes came to.
pub(super) struct Passed {
    /// What is behind the body.
    pub rest: Vec<u8>,
    /// Bytes of data.
    pub data_len: u64,
}

/// Holds what is in `bytes` from an index on to a body, and takes what is behind the body away.
/// `data_only` takes the framing away, too.
pub(super) fn pass(
    body: &mut Body,
    (bytes, from): (&mut Vec<u8>, usize),
    data_only: bool,
) -> Result<Passed, BodyFault> {
    let (mut at, mut to, mut data_len) = (from, from, 0);
    while !body.is_complete() {
        let piece = body.piece(bytes.get(at..).unwrap_or_default())?;
        if piece.len == 0 {
            break;
        }
        if piece.data {
            data_len += piece.len as u64;
        }
        if piece.data || !data_only {
            if to != at {
                bytes.copy_within(at..at + piece.len, to);
            }
            to += piece.len;
        }
        at += piece.len;
    }
    let rest = bytes.split_off(at);
    bytes.truncate(to);
    Ok(Passed { rest, data_len })
}
