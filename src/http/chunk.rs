//! Chunks (RFC 9112, 7.1), read more narrowly than anybody writes them.
//!
//! Sizes have at most 8 digits and are below 2^31: what truncates a size to 32 bits, signed or not,
//! reads the same number. Nothing stands between a size and its CRLF or ";". Quoted strings within
//! extensions have to end on their line, so that who knows them and who looks for CRLF agree.

use smallvec::SmallVec;

use super::body::BodyFault;
use super::is_token_byte;

const SIZE_DIGITS_MAX: u32 = 8;
const SIZE_MAX: u64 = 0x7fff_ffff;
/// Bytes of extensions in one body.
const EXTENSIONS_LEN_MAX: usize = 4 << 10;
/// Bytes of all trailers, line ends included.
const TRAILERS_LEN_MAX: usize = 4 << 10;
/// Longest name of a trailer, bytes.
const TRAILER_NAME_LEN_MAX: usize = 64;

/// What may not come behind a body (RFC 9110, 6.5.1): framing, routing, conditions, credentials,
/// and what goes between two neighbours only.
const TRAILERS_FORBIDDEN: &[&str] = &[
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Where in the framing the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// The first digit of a size.
    #[default]
    SizeStart,
    /// Behind at least one.
    Size,
    /// Behind ";" or later on its line.
    Extension(Quote),
    /// The LF of a size's line.
    SizeLineFeed,
    Data,
    /// The CR behind data.
    DataCarriageReturn,
    DataLineFeed,
    /// The first byte of a trailer, or the CR of the empty line.
    LineStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quote {
    Outside,
    Inside,
    /// Behind a backslash inside.
    Escaped,
}

/// A chunked body.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks {
    at: At,
    digits: u32,
    /// Size of the chunk, then what is left of its data.
    left: u64,
    extensions_len: usize,
    trailers_len: usize,
    name: SmallVec<[u8; TRAILER_NAME_LEN_MAX]>,
}

/// What was taken.
pub(super) enum Step {
    Data(usize),
    Between(usize),
}

impl Chunks {
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::Done
    }

    /// Takes data, or all that stands before the next data.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, BodyFault> {
        if self.at == At::Data {
            let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= len as u64;
            if self.left == 0 {
                self.at = At::DataCarriageReturn;
            }
            return Ok(Step::Data(len));
        }
        let mut len = 0;
        for byte in bytes {
            if matches!(self.at, At::Data | At::Done) {
                break;
            }
            self.at = self.next(*byte)?;
            len += 1;
        }
        Ok(Step::Between(len))
    }

    fn next(&mut self, byte: u8) -> Result<At, BodyFault> {
        match self.at {
            At::SizeStart => {
                (self.digits, self.left) = (0, 0);
                self.digit(byte)
            }
            At::Size => match byte {
                b'\r' => Ok(At::SizeLineFeed),
                b';' => self.extension(Quote::Outside),
                digit => self.digit(digit),
            },
            At::Extension(quote) => self.extension_byte(quote, byte),
            At::SizeLineFeed => match byte {
                b'\n' if self.left == 0 => Ok(At::LineStart),
                b'\n' => Ok(At::Data),
                _ => Err(BodyFault::ChunkLineEnd),
            },
            At::DataCarriageReturn => expect(byte, b'\r', At::DataLineFeed),
            At::DataLineFeed => expect(byte, b'\n', At::SizeStart),
            At::LineStart if byte == b'\r' => Ok(At::LastLineFeed),
            At::LineStart | At::TrailerName => self.trailer_name(byte),
            At::TrailerValue => {
                self.trailer_len()?;
                match byte {
                    b'\r' => Ok(At::TrailerLineFeed),
                    b'\t' | b' '..=b'~' | 0x80.. => Ok(At::TrailerValue),
                    0x00..=0x1f | 0x7f => Err(BodyFault::TrailerInvalid),
                }
            }
            At::TrailerLineFeed => expect(byte, b'\n', At::LineStart),
            At::LastLineFeed => expect(byte, b'\n', At::Done),
            // Neither is asked.
            At::Data | At::Done => Ok(self.at),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<At, BodyFault> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            let line_end = byte == b'\n' && self.digits > 0;
            let fault =
                if line_end { BodyFault::ChunkLineEnd } else { BodyFault::ChunkSizeInvalid };
            return Err(fault);
        };
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        if self.digits > SIZE_DIGITS_MAX || self.left > SIZE_MAX {
            return Err(BodyFault::ChunkTooLarge);
        }
        Ok(At::Size)
    }

    fn extension(&mut self, quote: Quote) -> Result<At, BodyFault> {
        self.extensions_len += 1;
        if self.extensions_len > EXTENSIONS_LEN_MAX {
            return Err(BodyFault::ChunkExtensionsTooLong);
        }
        Ok(At::Extension(quote))
    }

    fn extension_byte(&mut self, quote: Quote, byte: u8) -> Result<At, BodyFault> {
        match (quote, byte) {
            (Quote::Outside, b'\r') => Ok(At::SizeLineFeed),
            (_, b'\n') => Err(BodyFault::ChunkLineEnd),
            (Quote::Outside, b'"') => self.extension(Quote::Inside),
            (Quote::Outside, b';' | b'=' | b' ' | b'\t') => self.extension(Quote::Outside),
            (Quote::Outside, byte) if is_token_byte(byte) => self.extension(Quote::Outside),
            (Quote::Inside, b'"') => self.extension(Quote::Outside),
            (Quote::Inside, b'\\') => self.extension(Quote::Escaped),
            (Quote::Inside | Quote::Escaped, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extension(Quote::Inside)
            }
            _ => Err(BodyFault::ChunkExtensionInvalid),
        }
    }

    fn trailer_name(&mut self, byte: u8) -> Result<At, BodyFault> {
        self.trailer_len()?;
        if self.at == At::LineStart {
            self.name.clear();
        }
        match byte {
            b':' if self.name.is_empty() => Err(BodyFault::TrailerInvalid),
            b':' if is_forbidden(&self.name) => Err(BodyFault::TrailerForbidden),
            b':' => Ok(At::TrailerValue),
            b'\n' => Err(BodyFault::ChunkLineEnd),
            byte if is_token_byte(byte) && self.name.len() < TRAILER_NAME_LEN_MAX => {
                self.name.push(byte);
                Ok(At::TrailerName)
            }
            _ => Err(BodyFault::TrailerInvalid),
        }
    }

    fn trailer_len(&mut self) -> Result<(), BodyFault> {
        self.trailers_len += 1;
        if self.trailers_len > TRAILERS_LEN_MAX {
            return Err(BodyFault::TrailersTooLong);
        }
        Ok(())
    }
}

/// Names that some take for the same one, "_" for "-", are forbidden alike.
fn is_forbidden(name: &[u8]) -> bool {
    TRAILERS_FORBIDDEN.iter().any(|forbidden| super::fields::is_alike(name, forbidden))
}

fn expect(byte: u8, expected: u8, next: At) -> Result<At, BodyFault> {
    if byte == expected { Ok(next) } else { Err(BodyFault::ChunkLineEnd) }
}
