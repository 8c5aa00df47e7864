//! The fields ("headers") of a message, where they were received.

use smallvec::SmallVec;

use super::{Span, list_members};

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// A token.
    pub name: Span,
    /// Without the blanks around it; may be empty.
    pub value: Span,
}

/// Every field of a message in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub(crate) SmallVec<[Field; FIELDS_INLINE]>);

/// What a browser sends fits.
const FIELDS_INLINE: usize = 16;

/// What a message says under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once<'b> {
    /// No such field.
    Absent,
    /// Exactly one.
    One(&'b [u8]),
    /// More than one, equal or not.
    Several,
}

impl Fields {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values in their order.
    pub fn iter<'b>(&self, buffer: &'b [u8]) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        self.0.iter().map(move |field| (field.name.of(buffer), field.value.of(buffer)))
    }

    /// The values of every field with this name, which is compared without regard to case.
    pub fn all<'b>(&self, buffer: &'b [u8], name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.iter(buffer)
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The only value of a name.
    pub fn once<'b>(&self, buffer: &'b [u8], name: &str) -> Once<'b> {
        let mut values = self.all(buffer, name);
        match (values.next(), values.next()) {
            (None, _) => Once::Absent,
            (Some(value), None) => Once::One(value),
            (Some(_), Some(_)) => Once::Several,
        }
    }

    /// Whether a list under this name, however it is spread over fields, has this member.
    pub fn lists(&self, buffer: &[u8], name: &str, member: &str) -> bool {
        self.all(buffer, name)
            .flat_map(list_members)
            .any(|other| other.eq_ignore_ascii_case(member.as_bytes()))
    }
}

/// Whether two names are, or may be taken for, the same: without regard to case, and "_" for "-",
/// as CGI makes variables of both.
pub(crate) fn is_alike(name: &[u8], other: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == other.len() && name.iter().zip(other.bytes()).all(|(a, b)| fold(*a) == fold(b))
}
