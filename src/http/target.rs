//! Paths, query arguments and cookies: what rules compare and templates insert.

use std::borrow::Cow;

/// Whether every "%" has two hexadecimal digits behind it and none of them stands for NUL.
pub(super) fn percents_are_sound(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(percent) = rest.iter().position(|byte| *byte == b'%') {
        match rest.get(percent + 1..percent + 3) {
            Some(&[high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                if (high, low) == (b'0', b'0') {
                    return false;
                }
            }
            _ => return false,
        }
        rest = rest.get(percent + 3..).unwrap_or_default();
    }
    true
}

/// The byte that "%XX" at the start of `text` stands for.
fn percent_byte(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// "%XX" replaced by its byte; a "%" that is no such thing stays.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode(text).into()
}

/// A path as nginx's `$uri` has it: "%XX" decoded once, several "/" taken for one, "." and ".."
/// resolved. An encoded "/" is one, too. `None` if it leads above the root, which nginx answers with
/// 400 as well; "/" for an empty path.
pub fn path(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if raw.is_empty() {
        return Some(Cow::Borrowed(b"/"));
    }
    let odd = raw.contains(&b'%') || raw.windows(2).any(|pair| matches!(pair, b"//" | b"/."));
    if !odd {
        return Some(Cow::Borrowed(raw));
    }
    let text = decoded(raw);
    let mut path: Vec<u8> = Vec::with_capacity(text.len());
    let segments = text.strip_prefix(b"/").unwrap_or(&text).split(|byte| *byte == b'/');
    let mut directory = false;
    for segment in segments {
        directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                let last = path.iter().rposition(|byte| *byte == b'/')?;
                path.truncate(last);
            }
            segment => {
                path.push(b'/');
                path.extend_from_slice(segment);
            }
        }
    }
    if directory || path.is_empty() {
        path.push(b'/');
    }
    Some(Cow::Owned(path))
}

/// The segment of a path with this number, counted from 1; an empty one is none.
pub fn segment(path: &[u8], number: usize) -> Option<&[u8]> {
    let mut segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    segments.nth(number.checked_sub(1)?).filter(|segment| !segment.is_empty())
}

/// What nginx's `$arg_NAME` holds: the first "NAME=…" of the query, its name compared without
/// regard to case and without decoding, its value as it was sent. Without "=" there is none.
pub fn argument_raw<'b>(query: &'b [u8], name: &str) -> Option<&'b [u8]> {
    query.split(|byte| *byte == b'&').find_map(|argument| {
        let (key, value) = argument.split_at_checked(name.len())?;
        let value = value.strip_prefix(b"=")?;
        key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
    })
}

/// What `ngx.req.get_uri_args()` holds under a name, the first of several: name and value are
/// decoded ("%XX", and "+" for a space) before the name is compared, with regard to case. An argument
/// without "=" is there, and empty. Arguments without a name are none.
pub fn argument<'b>(query: &'b [u8], name: &str) -> Option<Cow<'b, [u8]>> {
    query.split(|byte| *byte == b'&').find_map(|argument| {
        let mut halves = argument.splitn(2, |byte| *byte == b'=');
        let key = halves.next().filter(|key| !key.is_empty())?;
        let value = halves.next().unwrap_or_default();
        (*form_decoded(key) == *name.as_bytes()).then(|| form_decoded(value))
    })
}

fn form_decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        let (byte, taken) = match (byte, percent_byte(rest)) {
            (b'+', _) => (b' ', behind),
            (_, Some(decoded)) => (decoded, rest.get(3..).unwrap_or_default()),
            (byte, None) => (byte, behind),
        };
        out.push(byte);
        rest = taken;
    }
    Cow::Owned(out)
}

/// The first cookie of a name in the values of Cookie, in their order: "a=1; b=2". Its value is
/// taken as it is, quotes included; names are compared with regard to case (RFC 6265).
pub fn cookie<'b>(values: impl Iterator<Item = &'b [u8]>, name: &str) -> Option<&'b [u8]> {
    values.flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let key = super::trim(halves.next()?);
        let value = halves.next()?;
        (key == name.as_bytes()).then(|| super::trim(value))
    })
}
