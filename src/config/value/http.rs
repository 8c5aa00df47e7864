//! Values of `[listener.http]` and `[lookup.NAME]`.

use std::ops::RangeInclusive;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{Named, text};
use crate::config::fault::{Problem, nearest};
use crate::config::shape::{Scalar, Shape};
use crate::http::access::Escape;
use crate::http::rewrite::Mode;
use crate::http::rule::{Condition, Pattern};
use crate::http::value;

impl Named for Mode {
    const WHAT: &'static str = "way";
    const NAMES: &'static [(&'static str, Self)] =
        &[("set", Mode::Set), ("append", Mode::Append), ("leave", Mode::Leave), ("off", Mode::Off)];
}

impl Named for Escape {
    const WHAT: &'static str = "escape";
    const NAMES: &'static [(&'static str, Self)] =
        &[("default", Escape::Default), ("json", Escape::Json)];
}

/// `kind` of a lookup, by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupKindName {
    /// A name's addresses.
    Dns,
    /// A field of a hash.
    Redis,
}

impl Named for LookupKindName {
    const WHAT: &'static str = "kind";
    const NAMES: &'static [(&'static str, Self)] =
        &[("dns", LookupKindName::Dns), ("redis", LookupKindName::Redis)];
}

impl LookupKindName {
    /// As it is written.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, kind)| *kind == self);
        named.map_or("", |(name, _)| name)
    }
}

/// What a field, an argument or a cookie has to be.
#[derive(Debug, Clone)]
pub struct ConditionText(pub Condition);

impl Shape for ConditionText {
    const EXPECTED: &'static str =
        "true (there), false (not there), a text, or \"~\" and a pattern: \"~^[0-9]+$\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "type": "string" }] })
    }

    fn from_boolean(boolean: bool) -> Result<Self, Problem> {
        Ok(ConditionText(if boolean { Condition::Present } else { Condition::Absent }))
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let Scalar::Text(text) = scalar else {
            let near = match scalar {
                Scalar::Integer(integer) => Some(format!("\"{integer}\"")),
                Scalar::Text(_) | Scalar::Float(_) | Scalar::Other => None,
            };
            return Err(Problem::wrong_type(Self::EXPECTED).near(near));
        };
        let Some(pattern) = text.strip_prefix('~') else {
            return Ok(ConditionText(Condition::Equals(text.to_string())));
        };
        let pattern = Pattern::new(pattern).map_err(|error| {
            // The library draws the pattern over several lines; the last one says why.
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Problem::new(format!("not a pattern ({why})"), Self::EXPECTED)
        })?;
        Ok(ConditionText(Condition::Pattern(pattern)))
    }
}

/// `search`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchText {
    /// Nothing.
    Off,
    /// The first search domain of /etc/resolv.conf.
    ResolvConf,
    /// This one, without points at its ends.
    Domain(String),
}

impl Shape for SearchText {
    const EXPECTED: &'static str = "\"off\", \"resolv.conf\", or a domain such as \"svc.example\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match text(scalar, Self::EXPECTED)? {
            "off" => Ok(SearchText::Off),
            "resolv.conf" | "/etc/resolv.conf" => Ok(SearchText::ResolvConf),
            domain => {
                let near = nearest(domain, ["off", "resolv.conf"].into_iter());
                let wrong = |what: &str| {
                    let near = near.map(|near| format!("{near:?}"));
                    Problem::new(what, Self::EXPECTED).near(near)
                };
                value::dns_name(domain.as_bytes())
                    .map_err(|unfit| wrong(&format!("not a domain ({unfit})")))?;
                Ok(SearchText::Domain(domain.trim_end_matches('.').to_string()))
            }
        }
    }
}

/// An entry of `allow_ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl Shape for PortRange {
    const EXPECTED: &'static str = "a port, or a range such as \"8000-8999\", within 1 to 65535";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        let port = json_schema!({ "type": "integer", "minimum": 1, "maximum": 65_535 });
        let range = json_schema!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" });
        json_schema!({ "anyOf": [port, range] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let wrong = || Problem::new("not ports", Self::EXPECTED);
        let port = |port: u16| if port == 0 { Err(wrong()) } else { Ok(port) };
        match scalar {
            Scalar::Integer(number) => {
                let number = port(u16::try_from(number).ok().ok_or_else(wrong)?)?;
                Ok(PortRange(number..=number))
            }
            Scalar::Text(text) => {
                let (low, high) = text.split_once('-').ok_or_else(wrong)?;
                let read = |text: &str| port(text.trim().parse().ok().ok_or_else(wrong)?);
                let (low, high) = (read(low)?, read(high)?);
                if low <= high { Ok(PortRange(low..=high)) } else { Err(wrong()) }
            }
            Scalar::Float(_) | Scalar::Other => Err(Problem::wrong_type(Self::EXPECTED)),
        }
    }
}
