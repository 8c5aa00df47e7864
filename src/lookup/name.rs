//! What a lookup is asked, as it is remembered: the name in DNS, or key and field in Redis.

use std::fmt;

use smallvec::SmallVec;

use crate::config::Lookup;
use crate::http::client::Request;
use crate::http::question::{self, Question};
use crate::http::template::{Gap, Unfilled, Values};
use crate::http::value::Unfit;

/// Longest key or field in Redis, bytes: a template's text, and a dozen values in it.
const PART_LEN_MAX: usize = 4_096;

/// A name that was made of what a caller said, and is fit to be asked for. Up to 64 bytes of it
/// allocate nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LookupName {
    bytes: SmallVec<[u8; 64]>,
    /// Where the field begins; all of it for DNS.
    split: u16,
}

impl LookupName {
    /// Fills a lookup's templates. Without a request (a frame's key) only `values` fill them.
    ///
    /// # Errors
    /// What the request lacks, or what of it cannot be part of such a name.
    pub fn of<'l>(
        lookup: &'l Lookup,
        request: Option<&Request<'_>>,
        values: &Values<'_>,
    ) -> Result<LookupName, Unfilled<'l>> {
        let name = match question::of(lookup, request, values)? {
            Question::Dns { name, .. } => LookupName::new(&name, &[]),
            Question::Redis { key, field } => LookupName::new(&key, &field),
        };
        name.ok_or(Unfilled { part: None, gap: Gap::Malformed(Unfit::TooLong) })
    }

    /// These very parts, which nobody checks for their bytes; `None` if one is over 4 KiB.
    pub fn new(key: &[u8], field: &[u8]) -> Option<LookupName> {
        if key.len() > PART_LEN_MAX || field.len() > PART_LEN_MAX {
            return None;
        }
        let mut bytes = SmallVec::from_slice(key);
        bytes.extend_from_slice(field);
        Some(LookupName { bytes, split: u16::try_from(key.len()).ok()? })
    }

    /// The name in DNS, without `search = "resolv.conf"`; or the key in Redis.
    pub fn key(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.split)).unwrap_or_default()
    }

    /// The field in Redis.
    pub fn field(&self) -> &[u8] {
        self.bytes.get(usize::from(self.split)..).unwrap_or_default()
    }
}

impl fmt::Display for LookupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(self.key()))?;
        match self.field() {
            [] => Ok(()),
            field => write!(f, " {}", String::from_utf8_lossy(field)),
        }
    }
}

impl fmt::Debug for LookupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}
