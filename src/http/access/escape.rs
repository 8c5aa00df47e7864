//! Making what a client sent harmless in a line.

use std::io::Write;

use crate::log::is_hidden;

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// As nginx does by default: quotes, backslashes, control bytes and what is beyond ASCII become
    /// `\xXX`; nothing becomes "-".
    Default,
    /// For values within a JSON string; nothing becomes nothing. Bytes that are no UTF-8 become the
    /// character of their number.
    Json,
}

impl Escape {
    /// What stands for a value that is not there.
    pub(super) fn nothing(self) -> &'static [u8] {
        match self {
            Escape::Default => b"-",
            Escape::Json => b"",
        }
    }

    pub(super) fn append(self, value: &[u8], out: &mut Vec<u8>) {
        match self {
            Escape::Default => {
                for byte in value {
                    match byte {
                        b'"' | b'\\' | 0x00..=0x1f | 0x7f.. => hex(out, *byte),
                        _ => out.push(*byte),
                    }
                }
            }
            Escape::Json => {
                for chunk in value.utf8_chunks() {
                    chunk.valid().chars().for_each(|character| json_character(character, out));
                    for byte in chunk.invalid() {
                        unit(out, u16::from(*byte));
                    }
                }
            }
        }
    }
}

fn json_character(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        // Beyond what JSON demands: neither a terminal nor an editor is to be led astray.
        hidden if is_hidden(hidden) => {
            for half in hidden.encode_utf16(&mut [0; 2]) {
                unit(out, *half);
            }
        }
        plain => out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    // Writing to memory cannot fail.
    let _ = write!(out, "\\x{byte:02X}");
}

fn unit(out: &mut Vec<u8>, unit: u16) {
    let _ = write!(out, "\\u{unit:04x}");
}
