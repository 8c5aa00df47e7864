//! Values of `[pool.NAME.source]`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{Named, text};
use crate::config::fault::{Problem, ShowFound, nearest};
use crate::config::quantity::Rule;
use crate::config::shape::{Scalar, Shape};
use crate::config::{OnEmpty, OnRemove};

/// `kind`, by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KindName {
    /// A list in the configuration.
    Static,
    /// A file.
    File,
    /// A hash.
    Redis,
    /// A prefix.
    Etcd,
    /// A service.
    Consul,
    /// A name.
    Dns,
}

impl Named for KindName {
    const WHAT: &'static str = "kind";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("static", KindName::Static),
        ("file", KindName::File),
        ("redis", KindName::Redis),
        ("etcd", KindName::Etcd),
        ("consul", KindName::Consul),
        ("dns", KindName::Dns),
    ];
}

impl KindName {
    /// As it is written.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, kind)| *kind == self);
        named.map_or("", |(name, _)| name)
    }
}

impl Named for OnRemove {
    const WHAT: &'static str = "policy";
    const NAMES: &'static [(&'static str, Self)] =
        &[("keep", OnRemove::Keep), ("close", OnRemove::Close)];
}

/// `true` or `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag(pub bool);

impl Shape for Flag {
    const EXPECTED: &'static str = "true or false";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }

    fn from_boolean(boolean: bool) -> Result<Self, Problem> {
        Ok(Flag(boolean))
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let near = match scalar {
            Scalar::Text(text) => text.parse::<bool>().ok().map(|flag| flag.to_string()),
            Scalar::Integer(_) | Scalar::Float(_) | Scalar::Other => None,
        };
        Err(Problem::wrong_type(Self::EXPECTED).near(near))
    }
}

/// A text that is, or may hold, a secret: no fault repeats it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Shape for SecretText {
    const EXPECTED: &'static str = "a string";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match text(scalar, Self::EXPECTED) {
            Ok(text) => Ok(SecretText(text.to_string())),
            Err(problem) => Err(Problem { found: ShowFound::Never, ..problem }),
        }
    }
}

/// `on_empty`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnEmptyText(pub OnEmpty);

impl OnEmptyText {
    /// The policy, its time checked against `rule`.
    pub fn within(self, rule: &Rule<Duration>) -> Result<OnEmpty, Problem> {
        match self.0 {
            OnEmpty::KeepFor(time) => rule.check(time).map(|()| self.0),
            OnEmpty::Keep | OnEmpty::Drop => Ok(self.0),
        }
    }
}

impl Shape for OnEmptyText {
    const EXPECTED: &'static str = "\"keep\", \"drop\", or \"keep_for:DURATION\": \"keep_for:5m\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(keep|drop|keep_for:[0-9]+(ms|s|m|h))$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = text(scalar, Self::EXPECTED)?;
        let time = match text {
            "keep" => return Ok(OnEmptyText(OnEmpty::Keep)),
            "drop" => return Ok(OnEmptyText(OnEmpty::Drop)),
            _ => text.strip_prefix("keep_for:"),
        };
        let Some(time) = time else {
            let near = nearest(text, ["keep", "drop"].into_iter());
            return Err(Problem::new("unknown policy", Self::EXPECTED)
                .near(near.map(|near| format!("{near:?}"))));
        };
        match Duration::from_scalar(Scalar::Text(time)) {
            Ok(time) => Ok(OnEmptyText(OnEmpty::KeepFor(time))),
            Err(problem) => {
                let near = problem.near.map(|near| near.replacen('"', "\"keep_for:", 1));
                Err(Problem { valid: Some(Self::EXPECTED.to_string()), near, ..problem })
            }
        }
    }
}

/// An entry of `resolvers`; port 53 unless it has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver(pub SocketAddr);

/// Where DNS listens.
const DNS_PORT: u16 = 53;

impl Shape for Resolver {
    const EXPECTED: &'static str = "\"IP\", \"IP:PORT\" or \"[IPv6]:PORT\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = text(scalar, Self::EXPECTED)?;
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Resolver(SocketAddr::new(ip, DNS_PORT)));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Resolver(address)),
            Ok(_) => Err(Problem::new("port 0", Self::EXPECTED)),
            Err(error) => Err(Problem::new(format!("not an address ({error})"), Self::EXPECTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_answer_has_three_policies() {
        let read = |text| OnEmptyText::from_scalar(Scalar::Text(text)).map(|policy| policy.0);
        assert_eq!(read("keep"), Ok(OnEmpty::Keep));
        assert_eq!(read("drop"), Ok(OnEmpty::Drop));
        assert_eq!(read("keep_for:5m"), Ok(OnEmpty::KeepFor(Duration::from_secs(300))));
        let near = |text| read(text).expect_err("not a policy").near;
        assert_eq!(near("keep_for:5"), Some("\"keep_for:5s\"".to_string()));
        assert_eq!(near("kep"), Some("\"keep\"".to_string()));
        assert_eq!(near("5m"), None);
    }

    #[test]
    fn a_resolver_is_at_port_53_unless_it_says_otherwise() {
        let read = |text| Resolver::from_scalar(Scalar::Text(text)).map(|r| r.0.to_string());
        assert_eq!(read("10.0.0.2"), Ok("10.0.0.2:53".to_string()));
        assert_eq!(read("fd00::1"), Ok("[fd00::1]:53".to_string()));
        assert_eq!(read("[fd00::1]:5353"), Ok("[fd00::1]:5353".to_string()));
        assert!(read("10.0.0.2:0").is_err());
        assert!(read("dns.example").is_err());
    }

    #[test]
    fn a_secret_is_in_no_debug_text_and_no_fault() {
        let secret = SecretText::from_scalar(Scalar::Text("hunter2")).expect("a text");
        assert!(!format!("{secret:?}").contains("hunter2"));
        let problem = SecretText::from_scalar(Scalar::Integer(1234)).expect_err("not a text");
        assert_eq!(problem.found, ShowFound::Never);
    }
}
