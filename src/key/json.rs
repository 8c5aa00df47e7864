//! One value of a JSON document without a tree: the document is read once, everything but the
//! path is skipped, and the key is a slice of it.
//!
//! The whole document must be valid, also behind the key, so that an accepted body is JSON for
//! whoever reads it next. Of members with the same name the first counts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::path::{JsonPath, Step};
use super::{KEY_LEN_MAX, Key, KeyFault, NumberFormat, number};

/// Deepest nesting of arrays and objects in a body.
pub const JSON_DEPTH_MAX: usize = 64;

impl JsonPath {
    /// The key at this path of a body. `None` if nothing, `null` or an empty string is there, or
    /// if the body is empty (a heartbeat has no body, and is no broken JSON).
    ///
    /// Faults are found in this order: not UTF-8, too deep, not JSON, then the value itself.
    pub fn key<'b>(
        &self,
        body: &'b [u8],
        number_format: NumberFormat,
    ) -> Result<Option<Key<'b>>, KeyFault> {
        if body.is_empty() {
            return Ok(None);
        }
        let Ok(text) = std::str::from_utf8(body) else { return Err(KeyFault::Utf8Invalid) };
        check_shape(body)?;
        let Some(value) = self.value(text)? else { return Ok(None) };
        let key = scalar(value, number_format)?;
        match key {
            Some(key) if key.len() > KEY_LEN_MAX => Err(KeyFault::KeyTooLong),
            key => Ok(key),
        }
    }

    /// The text of the value at this path. The first step reads the whole document, each further
    /// one only the value the step before it found.
    fn value<'b>(&self, text: &'b str) -> Result<Option<&'b str>, KeyFault> {
        let mut value = text.trim_start_matches(JSON_SPACE);
        for (index, step) in self.steps.iter().enumerate() {
            let found = match step {
                Step::Member(name) if value.starts_with('{') => parse(value, Member(name))?,
                Step::Element(element) if value.starts_with('[') => {
                    parse(value, Element(*element))?
                }
                _ if index == 0 => parse(value, Nothing)?,
                _ => None,
            };
            match found {
                Some(found) => value = found,
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }
}

/// JSON's white space; Rust's own notion of it is wider.
const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// What the JSON reader does not check: the depth, and that escaped surrogates come in pairs.
fn check_shape(body: &[u8]) -> Result<(), KeyFault> {
    // Most bodies have neither many brackets nor escapes: two passes that compilers vectorise.
    let openings = body.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if openings <= JSON_DEPTH_MAX && !body.contains(&b'\\') {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut surrogates_paired = true;
    let mut rest = body;
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, in_string) {
            (b'"', _) => in_string = !in_string,
            (b'\\', true) => {
                let escape_len = escape_len(after);
                surrogates_paired &= escape_len.is_some();
                rest = after.get(escape_len.unwrap_or(1)..).unwrap_or_default();
            }
            (b'[' | b'{', false) => depth += 1,
            (b']' | b'}', false) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(KeyFault::JsonTooDeep);
        }
    }
    if surrogates_paired { Ok(()) } else { Err(KeyFault::JsonInvalid) }
}

/// Bytes of an escape after its backslash, a surrogate pair as one; `None` for a lone surrogate.
/// Escapes that are no escapes are left to the JSON reader.
fn escape_len(after: &[u8]) -> Option<usize> {
    match code_unit(after) {
        Some(0xD800..=0xDBFF) => match after.get(5..) {
            Some([b'\\', low @ ..]) if matches!(code_unit(low), Some(0xDC00..=0xDFFF)) => Some(11),
            _ => None,
        },
        Some(0xDC00..=0xDFFF) => None,
        Some(_) => Some(5),
        None => Some(1),
    }
}

/// The UTF-16 code unit of `uXXXX`.
fn code_unit(escape: &[u8]) -> Option<u32> {
    let [b'u', digits @ ..] = escape else { return None };
    let digits = digits.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
}

/// Reads one whole value.
fn parse<'b, S>(text: &'b str, seed: S) -> Result<S::Value, KeyFault>
where
    S: DeserializeSeed<'b>,
{
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = seed.deserialize(&mut reader);
    match (found, reader.end()) {
        (Ok(found), Ok(())) => Ok(found),
        _ => Err(KeyFault::JsonInvalid),
    }
}

/// The key that a value's text holds.
fn scalar(value: &str, number_format: NumberFormat) -> Result<Option<Key<'_>>, KeyFault> {
    match value.as_bytes() {
        [b'"', inside @ .., b'"'] if inside.contains(&b'\\') => {
            let unescaped = parse(value, Unescaped)?;
            Ok(Some(Key::Written(unescaped)).filter(|key| !key.is_empty()))
        }
        [b'"', inside @ .., b'"'] => Ok(Some(Key::InBuffer(inside)).filter(|key| !key.is_empty())),
        [b'-' | b'0'..=b'9', ..] => match number_format {
            NumberFormat::Raw => Ok(Some(Key::InBuffer(value.as_bytes()))),
            NumberFormat::Lua => match value.parse() {
                Ok(double) => Ok(Some(number::lua(double))),
                Err(_) => Err(KeyFault::JsonInvalid),
            },
        },
        b"null" => Ok(None),
        _ => Err(KeyFault::KeyNotScalar),
    }
}

/// Seed: checks a value and finds nothing in it.
struct Nothing;

impl<'de> DeserializeSeed<'de> for Nothing {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_ignored_any(IgnoredAny).map(|IgnoredAny| None)
    }
}

/// Seed: the text of an object's first member of this name.
struct Member<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, object: D) -> Result<Self::Value, D::Error> {
        object.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while found.is_none() {
            match members.next_key_seed(IsName(self.0))? {
                Some(true) => found = Some(members.next_value::<&RawValue>()?.get()),
                Some(false) => drop(members.next_value::<IgnoredAny>()?),
                None => return Ok(None),
            }
        }
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Seed: the text of an array's element at this index.
struct Element(usize);

impl<'de> DeserializeSeed<'de> for Element {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, array: D) -> Result<Self::Value, D::Error> {
        array.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Element {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = elements.next_element::<&RawValue>()?.map(RawValue::get);
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Seed: whether a member's name is this one.
struct IsName<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// Seed: a string with its escapes resolved.
struct Unescaped;

impl<'de> DeserializeSeed<'de> for Unescaped {
    type Value = SmallVec<[u8; super::KEY_INLINE_LEN]>;

    fn deserialize<D: Deserializer<'de>>(self, string: D) -> Result<Self::Value, D::Error> {
        string.deserialize_str(self)
    }
}

impl Visitor<'_> for Unescaped {
    type Value = SmallVec<[u8; super::KEY_INLINE_LEN]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, string: &str) -> Result<Self::Value, E> {
        Ok(SmallVec::from_slice(string.as_bytes()))
    }
}
