//! The file as it is written. Field names are the keys; doc comments become the descriptions of
//! the JSON Schema, so they speak to whoever writes a file.

mod health;
mod http;
mod source;
mod tls;

use std::net::IpAddr;
use std::time::Duration;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde::de::MapAccess;

pub use self::health::{CheckName, Ejection, FieldValue, Health, Message};
pub use self::http::{AccessLog, Forward, Http, HttpBackend, Lookup, Reply, Rule};
pub use self::source::{BackendsFile, Source};
pub use self::tls::{Certificate, ListenerTls, PoolTls};
use super::fault::Problem;
use super::limits;
use super::quantity::{ByteCount, Count, Ratio, ShortDuration};
use super::shape::{Entries, OneOrMany, Scalar, Shape, Slot, table_shapes};
use super::share::{PerSecond, Percent};
use super::value::{
    Cores, Expected, Keepalive, MissingKeyName, OneOf, ProtocolName, ProxyOut, TcpKeyName, Trusted,
};
use super::{Address, BackendState, OnDown, OnRemove, ProxyOthers, SessionLog};
use crate::balance::Algorithm;
use crate::key::NumberFormat;

/// The JSON Schema of a file, without references.
pub fn schema() -> schemars::Schema {
    schema_of::<File>()
}

/// The JSON Schema of what a file is read as, without references.
pub fn schema_of<T: JsonSchema>() -> schemars::Schema {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>()
}

table_shapes!(Runtime, Admin, Log, Listener, Frame, Tcp, ProxyProtocol, Pool, BackendTable,);

/// Configuration of corelane.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["listener"]))]
pub struct File {
    /// Shards and limits of the process.
    pub runtime: Slot<Runtime>,
    /// The admin interface; without this table there is none.
    pub admin: Slot<Admin>,
    /// Where lines go.
    pub log: Slot<Log>,
    /// Where clients connect.
    pub listener: Slot<Vec<Slot<Listener>>>,
    /// Where clients are sent, by name.
    pub pool: Slot<Entries<Pool>>,
    /// How rules of HTTP listeners find addresses, by name.
    pub lookup: Slot<Entries<Lookup>>,
}

/// Shards and limits of the process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Runtime {
    /// One pinned shard per entry; "auto" is every core this process may use.
    #[schemars(extend("default" = "auto"))]
    pub cores: Slot<Cores>,
    /// Client connections of the whole process. Without it: what the descriptor limit allows.
    #[schemars(transform = limits::MAX_CONNECTIONS.describe())]
    pub max_connections: Slot<Count>,
    /// How long sessions live on after a request to stop.
    #[schemars(transform = limits::DRAIN_TIMEOUT.describe())]
    pub drain_timeout: Slot<Duration>,
    /// Entries of each shard's submission queue; a power of two.
    #[schemars(transform = limits::RING_ENTRIES.describe())]
    pub ring_entries: Slot<Count>,
    /// Largest buffer that one direction of a busy session may own.
    #[schemars(transform = limits::RELAY_BUFFER_MAX.describe())]
    pub relay_buffer_max: Slot<ByteCount>,
    /// How long a shard looks for work before it sleeps.
    #[schemars(transform = limits::SPIN.describe())]
    pub spin: Slot<ShortDuration>,
    /// Folder of what has to survive a restart: the sets that sources gave last, and edits of
    /// backends. Without it: the configuration file's path with ".state" behind it.
    pub state_dir: Slot<String>,
}

/// The admin interface.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["listen"]))]
pub struct Admin {
    /// Where the HTTP interface listens: "IP:PORT" or "unix:/PATH".
    pub listen: Slot<Address>,
    /// File of bearer tokens, a line each, with a name before it or without; needed to listen on
    /// more than loopback. Without it whoever can connect is trusted.
    pub token_file: Slot<String>,
    /// Host names by which the interface may be called over TCP, beside IP addresses and
    /// "localhost".
    #[schemars(extend("default" = []))]
    pub hosts: Slot<Vec<Slot<String>>>,
}

/// Where lines go.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Log {
    /// Lowest level of operational lines, which go to standard error.
    #[schemars(extend("default" = "info"))]
    pub level: Slot<OneOf<tracing::Level>>,
    /// Where a line per ended session goes: "stdout", "stderr", "off" or a file's path.
    #[schemars(extend("default" = "stdout"))]
    pub sessions: Slot<SessionLog>,
    /// Records per shard that may wait for the writer; further ones are dropped and counted.
    #[schemars(transform = limits::LOG_QUEUE.describe())]
    pub queue: Slot<Count>,
}

/// Where clients connect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(
    deny_unknown_fields,
    extend("required" = ["name", "bind", "protocol"])
)]
pub struct Listener {
    /// Unique; a metric label.
    pub name: Slot<String>,
    /// Addresses to listen on: "IP:PORT", "[IPv6]:PORT" or "unix:/PATH".
    pub bind: Slot<Vec<Slot<Address>>>,
    /// What the first bytes of a connection are.
    pub protocol: Slot<OneOf<ProtocolName>>,
    /// Name of the pool its clients go to. Required but for protocol "http", whose rules name it.
    pub pool: Slot<String>,
    /// Name of the lookup that finds the address its clients go to, instead of a pool; not for
    /// protocol "http". Nothing but {key} may be in it.
    pub lookup: Slot<String>,
    /// Connections the kernel may complete before we accept them.
    #[schemars(transform = limits::BACKLOG.describe())]
    pub backlog: Slot<Count>,
    /// How long data sent to a client may stay unacknowledged.
    #[schemars(transform = limits::TCP_USER_TIMEOUT.describe())]
    pub tcp_user_timeout: Slot<Duration>,
    /// Idle time before the first keepalive probe to a client, or "off".
    #[schemars(
        extend("default" = "off"),
        transform = limits::TCP_KEEPALIVE.describe()
    )]
    pub tcp_keepalive: Slot<Keepalive>,
    /// How frames look; for protocol "frame".
    pub frame: Slot<Frame>,
    /// Where the key comes from; for protocol "tcp".
    pub tcp: Slot<Tcp>,
    /// How requests are read, and where they go; for protocol "http".
    pub http: Slot<Http>,
    /// PROXY protocol expected from load balancers in front.
    pub proxy_protocol: Slot<ProxyProtocol>,
    /// TLS of its clients; without this table they connect in plain.
    pub tls: Slot<ListenerTls>,
}

/// How frames look, and where the key is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["header", "fields", "key"]))]
pub struct Frame {
    /// Byte order (">" or "<"), then a letter per field as Lua's and Python's pack write it.
    pub header: Slot<String>,
    /// A name per field of the header; "length" is the number of body bytes after the header.
    pub fields: Slot<Vec<Slot<String>>>,
    /// "json:PATH" in the body, "bytes:OFFSET..END" of the body, or "field:NAME" of the header.
    pub key: Slot<String>,
    /// What happens to well-formed frames without a key: "reject" or "pool:NAME".
    #[schemars(extend("default" = "reject"))]
    pub missing_key: Slot<MissingKeyName>,
    /// Largest body that a frame of the preface may announce.
    #[schemars(transform = limits::MAX_BODY.describe())]
    pub max_body: Slot<ByteCount>,
    /// Deadline for the whole preface, from accept.
    #[schemars(transform = limits::PREFACE_TIMEOUT.describe())]
    pub timeout: Slot<Duration>,
    /// How a JSON number becomes a key: "raw" digits, or as "lua" prints a double.
    #[schemars(extend("default" = "raw"))]
    pub number_format: Slot<OneOf<NumberFormat>>,
    /// How many frames are searched for the key.
    #[schemars(transform = limits::SEARCH_FRAMES.describe())]
    pub search_frames: Slot<Count>,
    /// Header fields and what they may be: an integer, or an inclusive range "1..=127".
    #[schemars(extend("default" = {}))]
    pub expect: Slot<Entries<Expected>>,
}

/// Where the key of a plain TCP listener comes from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["key"]))]
pub struct Tcp {
    /// "client_ip": the client's IP address, as text; "sni": the name in its TLS ClientHello,
    /// which is passed on as it came unless the listener has TLS itself.
    pub key: Slot<OneOf<TcpKeyName>>,
    /// For "sni": what happens to clients that name nothing: "reject" or "pool:NAME".
    #[schemars(extend("default" = "reject"))]
    pub missing_key: Slot<MissingKeyName>,
    /// For "sni": deadline for the whole ClientHello, from accept.
    #[schemars(transform = limits::SNI_TIMEOUT.describe())]
    pub timeout: Slot<Duration>,
    /// For "sni": names and their pools, instead of the listener's; "*.NAME" stands for all names
    /// with one label more.
    #[schemars(extend("default" = {}))]
    pub names: Slot<Entries<String>>,
}

/// PROXY protocol expected from load balancers in front.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["from"]))]
pub struct ProxyProtocol {
    /// Networks or addresses whose connections must start with a PROXY header; "unix" stands for
    /// every peer on a UNIX socket.
    pub from: Slot<Vec<Slot<Trusted>>>,
    /// What happens to everyone else: "reject", or "plain" to serve them without a header,
    /// which only protocol "frame" allows.
    #[schemars(extend("default" = "reject"))]
    pub others: Slot<OneOf<ProxyOthers>>,
    /// Deadline for the header, from accept.
    #[schemars(transform = limits::PROXY_TIMEOUT.describe())]
    pub timeout: Slot<Duration>,
}

/// Where clients are sent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["balance"]))]
pub struct Pool {
    /// How a key becomes a backend.
    pub balance: Slot<OneOf<Algorithm>>,
    /// Keyed algorithms: what happens when the key's own backend is marked down.
    #[schemars(extend("default" = "reject"))]
    pub on_down: Slot<OneOf<OnDown>>,
    /// What becomes of the sessions of a backend that is removed or drained: "keep", or "close".
    #[schemars(extend("default" = "keep"))]
    pub on_remove: Slot<OneOf<OnRemove>>,
    /// How many of them are closed in a second, with on_remove "close".
    #[schemars(transform = limits::CLOSE_RATE.describe())]
    pub close_rate: Slot<PerSecond>,
    /// Where backends come from besides the list: one table, or several, of which the first that
    /// has an address decides about it.
    pub source: Slot<OneOrMany<Source>>,
    /// Keyed algorithms: a backend with more than this times its fair share of live sessions is
    /// passed over. Without it there is no bound.
    #[schemars(transform = limits::BOUNDED_LOAD.describe())]
    pub bounded_load: Slot<Ratio>,
    /// Deadline of one connection attempt.
    #[schemars(transform = limits::CONNECT_TIMEOUT.describe())]
    pub connect_timeout: Slot<Duration>,
    /// Other backends tried after the first; the preface is replayed.
    #[schemars(transform = limits::RETRIES.describe())]
    pub retries: Slot<Count>,
    /// How long a backend is passed over after a failed connection attempt.
    #[schemars(transform = limits::FAIL_TIMEOUT.describe())]
    pub fail_timeout: Slot<Duration>,
    /// A session with no byte either way for this long is closed.
    #[schemars(transform = limits::IDLE_TIMEOUT.describe())]
    pub idle_timeout: Slot<Duration>,
    /// Ready-made connections kept per backend and core.
    #[schemars(transform = limits::WARM.describe())]
    pub warm: Slot<Count>,
    /// How long data sent to a backend may stay unacknowledged.
    #[schemars(transform = limits::TCP_USER_TIMEOUT.describe())]
    pub tcp_user_timeout: Slot<Duration>,
    /// Idle time before the first keepalive probe to a backend, or "off".
    #[schemars(
        extend("default" = "off"),
        transform = limits::TCP_KEEPALIVE.describe()
    )]
    pub tcp_keepalive: Slot<Keepalive>,
    /// PROXY protocol header sent to backends: "v2", or "off".
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Slot<OneOf<ProxyOut>>,
    /// Local addresses to connect from, used in turn; empty leaves it to the kernel.
    #[schemars(extend("default" = []))]
    pub source_addresses: Slot<Vec<Slot<IpAddr>>>,
    /// TLS to the backends; without this table they are connected to in plain.
    pub tls: Slot<PoolTls>,
    /// Backends are asked how they are; without this table nobody asks.
    pub health: Slot<Health>,
    /// Sessions show how backends are; without this table nobody is ejected.
    pub ejection: Slot<Ejection>,
    /// With a larger share of the pool than this unhealthy or ejected, all of it is used; "100%"
    /// never does that.
    #[schemars(transform = limits::PANIC_THRESHOLD.describe())]
    pub panic_threshold: Slot<Percent>,
    /// A backend that returns is given new sessions at a pace that rises for this long; "0s": at
    /// once.
    #[schemars(transform = limits::SLOW_START.describe())]
    pub slow_start: Slot<Duration>,
    /// Sessions that one backend bears at once; any number without this key.
    #[schemars(transform = limits::BACKEND_CONNECTIONS.describe())]
    pub max_connections: Slot<Count>,
    /// New sessions that one backend bears in a second; any number without this key.
    #[schemars(transform = limits::CONNECT_RATE.describe())]
    pub connect_rate: Slot<PerSecond>,
    /// Sessions that may wait for one backend.
    #[schemars(transform = limits::ADMISSION_QUEUE.describe())]
    pub admission_queue: Slot<Count>,
    /// How long a session may wait for its backend.
    #[schemars(transform = limits::ADMISSION_TIMEOUT.describe())]
    pub admission_timeout: Slot<Duration>,
    /// Addresses, or tables with address, weight, state and limits. Required without a source;
    /// beside one they come first, and what the source says about them does not count.
    pub backends: Slot<Vec<Slot<Backend>>>,
}

/// An entry of `backends`.
#[derive(Debug)]
pub enum Backend {
    /// Only an address.
    Address(Address),
    /// With weight and state.
    Table(Box<BackendTable>),
}

/// A backend with its settings.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["address"]))]
pub struct BackendTable {
    /// "IP:PORT", "[IPv6]:PORT" or "unix:/PATH".
    pub address: Slot<Address>,
    /// Relative share; crc32_mod ignores it.
    #[schemars(transform = limits::WEIGHT.describe())]
    pub weight: Slot<Count>,
    /// "ready", or "drain" or "down" to give it no new sessions.
    #[schemars(extend("default" = "ready"))]
    pub state: Slot<OneOf<BackendState>>,
    /// Instead of the pool's.
    #[schemars(transform = limits::BACKEND_CONNECTIONS.describe())]
    pub max_connections: Slot<Count>,
    /// Instead of the pool's.
    #[schemars(transform = limits::CONNECT_RATE.describe())]
    pub connect_rate: Slot<PerSecond>,
}

impl Shape for Backend {
    const EXPECTED: &'static str =
        "\"IP:PORT\", \"[IPv6]:PORT\", \"unix:/PATH\", or { address = …, weight = …, state = … }";

    fn schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let address = Address::schema(generator);
        let table = BackendTable::schema(generator);
        schemars::json_schema!({ "anyOf": [address, table] })
    }

    fn from_scalar(scalar: Scalar<'_>) -> Result<Self, Problem> {
        match scalar {
            Scalar::Text(_) => Address::from_scalar(scalar).map(Backend::Address),
            Scalar::Integer(_) | Scalar::Float(_) | Scalar::Other => {
                Err(Problem::wrong_type(Self::EXPECTED))
            }
        }
    }

    fn from_table<'de, A: MapAccess<'de>>(table: A) -> Result<Result<Self, Problem>, A::Error> {
        Ok(BackendTable::from_table(table)?.map(|raw| Backend::Table(Box::new(raw))))
    }
}
