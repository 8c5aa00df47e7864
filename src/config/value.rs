//! Values that are neither counts nor tables: texts, names from a list, addresses, networks.

mod http;
mod source;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{Schema, SchemaGenerator, json_schema};

pub use self::http::{ConditionText, LookupKindName, PortRange, SearchText};
pub use self::source::{Flag, KindName, OnEmptyText, Resolver, SecretText};
use super::fault::{Problem, nearest};
use super::quantity::{Count, Rule};
use super::shape::{Scalar, Shape, Slot};
use super::{Address, BackendState, OnDown, ProxyOthers, SessionLog};
use crate::balance::Algorithm;
use crate::key::NumberFormat;

/// Longest path of a UNIX socket, bytes: `sun_path` without its terminating zero.
const UNIX_PATH_LEN_MAX: usize = 107;

impl Shape for String {
    const EXPECTED: &'static str = "a string";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        text(scalar, Self::EXPECTED).map(str::to_string)
    }
}

/// A closed list of names.
pub trait Named: Copy + 'static {
    /// What a name of this list is called: "protocol".
    const WHAT: &'static str;
    /// Every name, in the order in which it is shown.
    const NAMES: &'static [(&'static str, Self)];

    /// What to say about a name that is not valid for a reason.
    fn reserved(_name: &str) -> Option<&'static str> {
        None
    }
}

/// One of the names of a list.
#[derive(Debug, Clone, Copy)]
pub struct OneOf<T>(pub T);

impl<T: Named> Shape for OneOf<T> {
    const EXPECTED: &'static str = "a name in quotes";

    fn expected() -> String {
        let names: Vec<String> = T::NAMES.iter().map(|(name, _)| format!("{name:?}")).collect();
        names.join(", ")
    }

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
        json_schema!({ "type": "string", "enum": names })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let Scalar::Text(text) = scalar else {
            return Err(Problem::wrong_type(Self::expected()));
        };
        let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
        match T::NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(OneOf(*value)),
            None => {
                let problem = Problem::unknown_name(T::WHAT, text, &names);
                Err(match T::reserved(text) {
                    Some(what) => Problem { what: what.to_string(), near: None, ..problem },
                    None => problem,
                })
            }
        }
    }
}

/// `protocol`, by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolName {
    /// Framed binary.
    Frame,
    /// No preface.
    Tcp,
    /// Requests.
    Http,
}

impl Named for ProtocolName {
    const WHAT: &'static str = "protocol";
    const NAMES: &'static [(&'static str, Self)] =
        &[("frame", ProtocolName::Frame), ("tcp", ProtocolName::Tcp), ("http", ProtocolName::Http)];
}

impl Named for Algorithm {
    const WHAT: &'static str = "algorithm";
    const NAMES: &'static [(&'static str, Self)] = Algorithm::NAMES;
}

impl Named for OnDown {
    const WHAT: &'static str = "policy";
    const NAMES: &'static [(&'static str, Self)] =
        &[("reject", OnDown::Reject), ("next", OnDown::Next)];
}

impl Named for BackendState {
    const WHAT: &'static str = "state";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("ready", BackendState::Ready),
        ("drain", BackendState::Drain),
        ("down", BackendState::Down),
    ];
}

impl Named for ProxyOthers {
    const WHAT: &'static str = "policy";
    const NAMES: &'static [(&'static str, Self)] =
        &[("reject", ProxyOthers::Reject), ("plain", ProxyOthers::Plain)];
}

/// `proxy_protocol` of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyOut {
    /// No header.
    Off,
    /// Version 2.
    Version2,
}

impl Named for ProxyOut {
    const WHAT: &'static str = "version";
    const NAMES: &'static [(&'static str, Self)] =
        &[("off", ProxyOut::Off), ("v2", ProxyOut::Version2)];
}

impl Named for NumberFormat {
    const WHAT: &'static str = "number format";
    const NAMES: &'static [(&'static str, Self)] =
        &[("raw", NumberFormat::Raw), ("lua", NumberFormat::Lua)];
}

/// `key` of a `tcp` listener, by name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpKeyName {
    /// The client's address.
    ClientIp,
    /// The name in its ClientHello.
    Sni,
}

impl Named for TcpKeyName {
    const WHAT: &'static str = "source of a key";
    const NAMES: &'static [(&'static str, Self)] =
        &[("client_ip", TcpKeyName::ClientIp), ("sni", TcpKeyName::Sni)];
}

impl Named for tracing::Level {
    const WHAT: &'static str = "level";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
}

impl Shape for Address {
    const EXPECTED: &'static str =
        "\"IP:PORT\", \"[IPv6]:PORT\" or \"unix:/PATH\"; host names are not looked up";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(unix:/.+|[0-9.]+:[0-9]+|\\[.+\\]:[0-9]+)$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = text(scalar, Self::EXPECTED)?;
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Address::Unix);
        }
        text.parse().map(Address::Tcp).map_err(|error: std::net::AddrParseError| {
            Problem::new(format!("not an address ({error})"), Self::EXPECTED)
                .near(address_near(text).map(|near| format!("{near:?}")))
        })
    }
}

/// Why a text is no address, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError(String);

impl std::fmt::Display for AddressError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AddressError {}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Address::from_scalar(Scalar::Text(text)).map_err(|problem| {
            let valid = problem.valid.unwrap_or_default();
            AddressError(format!("{}; valid: {valid}", problem.what))
        })
    }
}

fn unix_path(path: &str) -> Result<PathBuf, Problem> {
    if path.len() > UNIX_PATH_LEN_MAX {
        let valid = format!("at most {UNIX_PATH_LEN_MAX} bytes after \"unix:\"");
        return Err(Problem::new("path too long for a UNIX socket", valid));
    }
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        let valid = "an absolute path, such as \"unix:/run/corelane/admin.sock\"";
        return Err(Problem::new("not the path of a UNIX socket", valid));
    }
    Ok(PathBuf::from(path))
}

/// What a text that is almost an address probably means.
fn address_near(text: &str) -> Option<String> {
    if text.starts_with('/') {
        return Some(format!("unix:{text}"));
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = match host {
        "" | "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        host => host,
    };
    let candidates = [format!("{host}:{port}"), format!("[{host}]:{port}")];
    candidates.into_iter().find(|candidate| candidate.parse::<SocketAddr>().is_ok())
}

impl Shape for IpAddr {
    const EXPECTED: &'static str = "an IP address without port";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = text(scalar, Self::EXPECTED)?;
        text.parse().map_err(|error: std::net::AddrParseError| {
            let near = text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip());
            Problem::new(format!("not an address ({error})"), Self::EXPECTED)
                .near(near.map(|near| format!("\"{near}\"")))
        })
    }
}

/// An entry of `from`.
#[derive(Debug, Clone, Copy)]
pub enum Trusted {
    /// TCP peers of a network.
    Network(IpNet),
    /// Peers on UNIX sockets.
    Unix,
}

impl Shape for Trusted {
    const EXPECTED: &'static str = "\"ADDRESS/BITS\", a single address, or \"unix\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = text(scalar, Self::EXPECTED)?;
        if text == "unix" {
            return Ok(Trusted::Unix);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Trusted::Network(IpNet::from(address)));
        }
        let network: IpNet = text.parse().map_err(|error: ipnet::AddrParseError| {
            Problem::new(format!("not a network ({error})"), Self::EXPECTED)
        })?;
        if network.trunc() != network {
            return Err(Problem::new("address bits behind the network's length", Self::EXPECTED)
                .near(Some(format!("\"{}\"", network.trunc()))));
        }
        Ok(Trusted::Network(network))
    }
}

/// `tcp_keepalive`.
#[derive(Debug, Clone, Copy)]
pub enum Keepalive {
    /// No probes.
    Off,
    /// Idle time before the first one.
    After(Duration),
}

impl Shape for Keepalive {
    const EXPECTED: &'static str = "\"off\" or a duration such as \"60s\"";

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let duration = Duration::schema(generator);
        json_schema!({ "anyOf": [{ "const": "off" }, duration] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        if let Scalar::Text("off") = scalar {
            return Ok(Keepalive::Off);
        }
        Duration::from_scalar(scalar).map(Keepalive::After).map_err(|problem| Problem {
            valid: Some(format!("\"off\", or {}", Duration::EXPECTED)),
            ..problem
        })
    }
}

impl Keepalive {
    /// The idle time, checked against `rule`.
    pub fn within(self, rule: &Rule<Duration>) -> Result<Option<Duration>, Problem> {
        match self {
            Keepalive::Off => Ok(None),
            Keepalive::After(idle) => rule.check(idle).map(|()| Some(idle)),
        }
    }
}

/// `cores`.
#[derive(Debug)]
pub enum Cores {
    /// Every core this process may use.
    Auto,
    /// These.
    List(Vec<Slot<Count>>),
}

impl Shape for Cores {
    const EXPECTED: &'static str = "\"auto\" or a list of core numbers, such as [0, 1]";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        let list = json_schema!({ "type": "array", "items": { "type": "integer", "minimum": 0 } });
        json_schema!({ "anyOf": [{ "const": "auto" }, list] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match scalar {
            Scalar::Text("auto") => Ok(Cores::Auto),
            Scalar::Integer(core) => {
                Err(Problem::wrong_type(Self::EXPECTED).near(Some(format!("[{core}]"))))
            }
            Scalar::Text(_) | Scalar::Float(_) | Scalar::Other => {
                Err(Problem::wrong_type(Self::EXPECTED))
            }
        }
    }

    fn from_list<'de, A: serde::de::SeqAccess<'de>>(
        list: A,
    ) -> Result<Result<Self, Problem>, A::Error> {
        Ok(Vec::from_list(list)?.map(Cores::List))
    }
}

impl Shape for SessionLog {
    const EXPECTED: &'static str = "\"stdout\", \"stderr\", \"off\", or a path with a \"/\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match text(scalar, Self::EXPECTED)? {
            "stdout" => Ok(SessionLog::Stdout),
            "stderr" => Ok(SessionLog::Stderr),
            "off" => Ok(SessionLog::Off),
            // A bare word is more often a misspelt target than a file in the current directory.
            path if path.contains('/') && !path.ends_with('/') => Ok(SessionLog::File(path.into())),
            other => Err(Problem::new("neither a target nor a path", Self::EXPECTED).near(
                nearest(other, ["stdout", "stderr", "off"].into_iter())
                    .map(|near| format!("{near:?}")),
            )),
        }
    }
}

/// `missing_key`.
#[derive(Debug, Clone)]
pub enum MissingKeyName {
    /// Close the connection.
    Reject,
    /// The pool of this name.
    Pool(String),
}

impl Shape for MissingKeyName {
    const EXPECTED: &'static str = "\"reject\" or \"pool:NAME\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(reject|pool:.+)$" })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match text(scalar, Self::EXPECTED)? {
            "reject" => Ok(MissingKeyName::Reject),
            text => match text.strip_prefix("pool:") {
                Some(name) => Ok(MissingKeyName::Pool(name.to_string())),
                None => Err(Problem::new("unknown policy", Self::EXPECTED)
                    .near(nearest(text, ["reject"].into_iter()).map(|near| format!("{near:?}")))),
            },
        }
    }
}

/// An inclusive range of header field values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(pub std::ops::RangeInclusive<i128>);

impl Shape for Expected {
    const EXPECTED: &'static str = "an integer, or an inclusive range such as \"1..=127\"";

    fn schema(_generator: &mut SchemaGenerator) -> Schema {
        let range = json_schema!({ "type": "string", "pattern": "^-?[0-9]+..=-?[0-9]+$" });
        json_schema!({ "anyOf": [{ "type": "integer" }, range] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        let text = match scalar {
            Scalar::Integer(only) => return Ok(Expected(only.into()..=only.into())),
            other => text(other, Self::EXPECTED)?,
        };
        let bounds = |(low, high): (&str, &str)| {
            Some((low.trim().parse::<i128>().ok()?, high.trim().parse::<i128>().ok()?))
        };
        match text.split_once("..=").and_then(bounds) {
            Some((low, high)) if low <= high => return Ok(Expected(low..=high)),
            Some((low, high)) => {
                return Err(Problem::new("range without values", Self::EXPECTED)
                    .near(Some(format!("\"{high}..={low}\""))));
            }
            None => {}
        }
        let near = ["..", "-", ":"]
            .iter()
            .find_map(|between| text.split_once(between).and_then(bounds))
            .map(|(low, high)| format!("\"{low}..={high}\""));
        Err(Problem::new("not a range", Self::EXPECTED).near(near))
    }
}

fn text<'a>(scalar: Scalar<'a>, expected: &str) -> Result<&'a str, Problem> {
    match scalar {
        Scalar::Text(text) => Ok(text),
        Scalar::Integer(_) | Scalar::Float(_) | Scalar::Other => Err(Problem::wrong_type(expected)),
    }
}
