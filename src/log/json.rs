//! JSON text that is safe to look at in a terminal: keys come from devices.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Appends a value as JSON. Beyond what JSON demands, every control character and every invisible
/// direction or line mark is written as `\uXXXX`, so that a key can neither forge a line nor move
/// a terminal's cursor. Readers get the same strings back.
///
/// # Errors
/// Only what the value's own `Serialize` reports; then nothing is appended.
pub fn append_json(value: &impl Serialize, text: &mut Vec<u8>) -> serde_json::Result<()> {
    let before = text.len();
    let mut serializer = Serializer::with_formatter(&mut *text, Escaping);
    let result = value.serialize(&mut serializer);
    if result.is_err() {
        text.truncate(before);
    }
    result
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let mut start = 0;
        for (index, character) in fragment.char_indices() {
            if !is_hidden(character) {
                continue;
            }
            writer.write_all(&fragment.as_bytes()[start..index])?;
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            start = index + character.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[start..])
    }
}

/// Control characters (C0, DEL, C1), zero-width and bidirectional marks, line separators, the byte
/// order mark and tag characters.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}
