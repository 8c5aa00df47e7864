//! The header of a frame: byte order, fields, and reading their values in place.
//!
//! A header is written as Python's `struct` writes it: the byte order, then a letter per field,
//! with an optional count before a letter (`>ccHH`, `<2BHI`). Sizes are Python's standard sizes:
//! `b B c` 1 byte, `h H` 2, `i I l L` 4, `q Q` 8; nothing is padded. Lower case is signed, `c`
//! included, as in lpack on x86; upper case is unsigned. Two traps for those who come from Lua:
//! its native `l` has 8 bytes on 64-bit machines (write `q`), and lpack writes a count after the
//! letter (`c2` there is `2c` here).

use std::fmt;

/// Longest header, bytes.
pub const HEADER_LEN_MAX: usize = 64;

/// Most fields of a header.
pub const FIELDS_MAX: usize = 32;

/// The field that says how many bytes of body follow the header.
const LENGTH: &str = "length";

const LETTERS_VALID: &str = "b B c (1 byte), h H (2), i I l L (4), q Q (8)";

/// A compiled header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    big_endian: bool,
    fields: Vec<Field>,
    header_len: usize,
    /// The field named `length`, once more: it is read for every frame.
    length: FieldShape,
}

/// One field of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in the configuration; unique within a layout.
    pub name: String,
    /// Its letter in the header.
    pub letter: char,
    shape: FieldShape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FieldShape {
    offset: usize,
    len: usize,
    signed: bool,
}

impl FieldShape {
    fn bounds(self) -> (i128, i128) {
        let bits = 8 * self.len;
        if self.signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
    }
}

/// What a header string or field list is wrong about; `Display` says what would be valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutError(pub String);

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LayoutError {}

impl Field {
    /// Bytes from the start of the header.
    pub fn offset(&self) -> usize {
        self.shape.offset
    }

    /// Bytes: 1, 2, 4 or 8.
    pub fn byte_len(&self) -> usize {
        self.shape.len
    }

    /// Whether the value can be negative.
    pub fn is_signed(&self) -> bool {
        self.shape.signed
    }

    /// Smallest and largest value.
    pub fn bounds(&self) -> (i128, i128) {
        self.shape.bounds()
    }
}

impl Layout {
    /// Compiles a header string and the names of its fields, one name for each field.
    pub fn compile(header: &str, fields: &[&str]) -> Result<Layout, LayoutError> {
        let (big_endian, letters) = byte_order(header)?;
        let letters = expand(letters)?;
        check_names(header, &letters, fields)?;
        let mut header_len = 0;
        let mut compiled = Vec::with_capacity(fields.len());
        let mut length = None;
        for ((letter, len), name) in letters.into_iter().zip(fields) {
            let signed = letter.is_ascii_lowercase();
            let shape = FieldShape { offset: header_len, len, signed };
            if *name == LENGTH {
                length = Some(shape);
            }
            compiled.push(Field { name: (*name).to_owned(), letter, shape });
            header_len += len;
        }
        if header_len > HEADER_LEN_MAX {
            return fault(format!(
                "header \"{header}\" is {header_len} bytes long; at most {HEADER_LEN_MAX} are valid"
            ));
        }
        let Some(length) = length else {
            return fault(format!(
                "no field is named \"{LENGTH}\"; name the field that holds the number of body \
                 bytes after the header \"{LENGTH}\""
            ));
        };
        Ok(Layout { big_endian, fields: compiled, header_len, length })
    }

    /// Bytes of a header: 1 to [`HEADER_LEN_MAX`].
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// The fields in header order.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The names of the fields in header order.
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }

    /// The index of the field of this name.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// The value of the field at `index`; `None` if there is no such field or `header` is shorter
    /// than the field's end.
    pub fn value(&self, header: &[u8], index: usize) -> Option<i128> {
        self.read(header, self.fields.get(index)?.shape)
    }

    /// A frame with this body and these header fields, by index; the length is computed, and fields
    /// that are not named are 0. `None` if a field does not exist or cannot hold its value.
    pub fn build(&self, fields: &[(usize, i128)], body: &[u8]) -> Option<Vec<u8>> {
        let mut frame = vec![0; self.header_len];
        for (index, value) in fields {
            self.write(&mut frame, self.fields.get(*index)?.shape, *value)?;
        }
        self.write(&mut frame, self.length, i128::try_from(body.len()).ok()?)?;
        frame.extend_from_slice(body);
        Some(frame)
    }

    /// Writes a field into a complete header.
    fn write(&self, header: &mut [u8], shape: FieldShape, value: i128) -> Option<()> {
        let (least, most) = shape.bounds();
        if value < least || value > most {
            return None;
        }
        let bytes = header.get_mut(shape.offset..shape.offset + shape.len)?;
        let big_endian = value.to_be_bytes();
        bytes.copy_from_slice(&big_endian[big_endian.len() - shape.len..]);
        if !self.big_endian {
            bytes.reverse();
        }
        Some(())
    }

    /// The announced body length; 0 for a header that is not complete.
    pub fn body_len(&self, header: &[u8]) -> i128 {
        self.read(header, self.length).unwrap_or(0)
    }

    fn read(&self, header: &[u8], shape: FieldShape) -> Option<i128> {
        let bytes = header.get(shape.offset..shape.offset + shape.len)?;
        let push = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        let unsigned = if self.big_endian {
            bytes.iter().fold(0, push)
        } else {
            bytes.iter().rev().fold(0, push)
        };
        if !shape.signed {
            return Some(i128::from(unsigned));
        }
        // Move the field's sign bit to bit 63, read it as signed, and move it back.
        let unused_bits = 64 - 8 * shape.len;
        let signed = (unsigned << unused_bits).cast_signed() >> unused_bits;
        Some(i128::from(signed))
    }
}

/// The header as a configuration could write it, without counts.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.big_endian { ">" } else { "<" })?;
        self.fields.iter().try_for_each(|field| write!(f, "{}", field.letter))
    }
}

/// The byte order, and what follows it.
fn byte_order(header: &str) -> Result<(bool, &str), LayoutError> {
    if let Some(letters) = header.strip_prefix('>') {
        return Ok((true, letters));
    }
    if let Some(letters) = header.strip_prefix('<') {
        return Ok((false, letters));
    }
    let found = match header.chars().next() {
        None => "is empty".to_owned(),
        Some(first) => format!("begins with '{}'", first.escape_debug()),
    };
    fault(format!(
        "header \"{header}\" {found}; it begins with the byte order: '>' (big-endian, network \
         order) or '<' (little-endian), as in \">ccHH\""
    ))
}

/// Every field's letter and length in bytes, counts written out. Positions in messages count from
/// 1 and include the byte order.
fn expand(letters: &str) -> Result<Vec<(char, usize)>, LayoutError> {
    let mut expanded = Vec::new();
    let mut count: Option<usize> = None;
    for (index, letter) in letters.chars().enumerate() {
        let position = index + 2;
        if let Some(digit) = letter.to_digit(10) {
            // Saturation is enough: anything over FIELDS_MAX is refused below.
            let digit = digit as usize;
            count = Some(count.unwrap_or(0).saturating_mul(10).saturating_add(digit));
            continue;
        }
        let Some(len) = letter_len(letter) else {
            return fault(format!(
                "'{}' at position {position} of the header is no field letter; valid are \
                 {LETTERS_VALID}, each with an optional count before it, as in \"2c\"",
                letter.escape_debug()
            ));
        };
        let repeat = count.take().unwrap_or(1);
        if repeat == 0 {
            return fault(format!(
                "the count before '{letter}' at position {position} of the header is 0; valid are \
                 1 to {FIELDS_MAX}"
            ));
        }
        if repeat > FIELDS_MAX || expanded.len() + repeat > FIELDS_MAX {
            return fault(format!("the header has more than {FIELDS_MAX} fields, the most valid"));
        }
        expanded.extend(std::iter::repeat_n((letter, len), repeat));
    }
    if let Some(count) = count {
        return fault(format!(
            "the header ends with the count {count} and no letter; a count goes before its letter, \
             \"2c\" and not \"c2\" as lpack writes it"
        ));
    }
    Ok(expanded)
}

fn letter_len(letter: char) -> Option<usize> {
    match letter {
        'b' | 'B' | 'c' => Some(1),
        'h' | 'H' => Some(2),
        'i' | 'I' | 'l' | 'L' => Some(4),
        'q' | 'Q' => Some(8),
        _ => None,
    }
}

/// One distinct, non-empty name per field.
fn check_names(header: &str, letters: &[(char, usize)], names: &[&str]) -> Result<(), LayoutError> {
    if letters.len() != names.len() {
        return fault(format!(
            "header \"{header}\" has {} fields and {} names; every field needs one name, in header \
             order",
            letters.len(),
            names.len()
        ));
    }
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return fault(format!("the name of field {} is empty", index + 1));
        }
        if names[..index].contains(name) {
            return fault(format!("two fields are named \"{name}\"; every name is used once"));
        }
    }
    Ok(())
}

fn fault<T>(message: String) -> Result<T, LayoutError> {
    Err(LayoutError(message))
}
