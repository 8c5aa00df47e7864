//! The configuration after every check: what the rest of the program reads.
//!
//! A file goes through `config/load.rs`: parsed to a tree with positions, variables substituted,
//! read into `config/raw.rs` (the file as it is written), and checked by `config/check.rs` into
//! these types or into a list of every fault. Nothing here is optional that has a default, and
//! every relation holds.

mod backends_file;
mod check;
mod document;
mod environment;
mod fault;
mod health;
mod http;
mod limits;
mod load;
mod quantity;
mod raw;
mod reach;
mod read;
mod shape;
mod share;
mod shown;
mod source;
mod store_url;
mod substitute;
mod tokens;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use backends_file::{BackendsFormat, parse_backends};
pub use environment::{Environment, EnvironmentError, Variable};
pub(crate) use fault::nearest;
pub use fault::{Fault, Faults};
pub use health::{Answer, AnswerFrame, Check, CheckKind, Ejection, Health, Limits};
pub use http::{DnsLookup, HttpBackend, HttpListener, Lookup, LookupKind, RedisLookup, Search};
pub use load::{LoadError, Loaded, load, parse, schema};
pub use reach::{Reach, reach, read_address};
pub use shown::Shown;
pub use source::{
    ConsulSource, DnsRecords, DnsSource, EtcdSource, OnEmpty, RedisSource, Secret, Source,
    SourceKind, StoreTls,
};
pub use tokens::{TOKEN_LEN_MIN, Tokens, TokensError};
pub use value::AddressError;

use crate::balance::{Algorithm, Factor};
use crate::frame::FrameRules;
use crate::tls::{ListenerTls, PoolTls};

/// Everything one process runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Shards and limits.
    pub runtime: Runtime,
    /// The admin interface, if the file asks for one.
    pub admin: Option<Admin>,
    /// Where lines go.
    pub log: Log,
    /// In file order; at least one.
    pub listeners: Vec<Listener>,
    /// In file order; a listener's `pool` is an index into this list.
    pub pools: Vec<Pool>,
    /// The file, with defaults, without secrets.
    pub shown: Shown,
    /// In file order; rules of HTTP listeners have indices into this list.
    pub lookups: Vec<Lookup>,
}

/// `[runtime]`
#[derive(Debug, Clone)]
pub struct Runtime {
    /// One pinned shard per entry, no core twice.
    pub cores: Vec<usize>,
    /// Client connections of the whole process.
    pub max_connections: usize,
    /// How long sessions live on after a request to stop.
    pub drain_timeout: Duration,
    /// Entries of each shard's submission queue.
    pub ring_entries: u32,
    /// Largest buffer, in bytes, that one direction of a busy session may own.
    pub relay_buffer_max: usize,
    /// How long a shard looks for work before it sleeps; zero: it sleeps at once.
    pub spin: Duration,
    /// Folder of what has to survive a restart.
    pub state_dir: PathBuf,
    /// File descriptors this configuration may need at once, for `RLIMIT_NOFILE`.
    pub descriptors_needed: u64,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where the HTTP interface listens.
    pub listen: Address,
    /// File of bearer tokens, one of which every request has to bring; read for every request, so
    /// that they can be renewed.
    pub token_file: Option<PathBuf>,
    /// Names in lower case, without port, that a request over TCP may call us by, beside IP
    /// addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// Lowest level of operational lines (standard error).
    pub level: tracing::Level,
    /// Where a line per ended session goes.
    pub sessions: SessionLog,
    /// Records per shard that may wait for the writer; further ones are dropped and counted.
    pub queue: usize,
}

/// Target of per-session lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionLog {
    /// No lines.
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to, reopened on USR1.
    File(PathBuf),
}

/// A TCP address or the path of a UNIX socket (`"unix:/path"`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A stream socket in the file system.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique; a metric label.
    pub name: String,
    /// At least one; no address is bound twice in one file.
    pub bind: Vec<Address>,
    /// What the first bytes are.
    pub protocol: Protocol,
    /// Index into [`Config::pools`]; `None` for http, whose rules name pools.
    pub pool: Option<usize>,
    /// Index into [`Config::lookups`]; instead of a pool.
    pub lookup: Option<usize>,
    /// Queue of connections the kernel completed and we have not accepted.
    pub backlog: u32,
    /// Options that accepted sockets inherit.
    pub socket: SocketOptions,
    /// PROXY protocol expected from these networks.
    pub proxy: Option<ProxyIn>,
    /// TLS of its clients, its files read.
    pub tls: Option<Arc<ListenerTls>>,
}

/// Options of a connected TCP socket. NODELAY is always on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged.
    pub user_timeout: Duration,
    /// Idle time before the first keepalive probe; `None` sends none.
    pub keepalive: Option<Duration>,
}

/// How a listener finds out who is calling.
#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    /// A framed binary protocol; the key is in one of the first frames.
    Frame(Box<FrameListener>),
    /// No preface is read.
    Tcp {
        /// The key for keyed pools; `None` when the pool needs none.
        key: Option<TcpKey>,
    },
    /// HTTP/1.1; rules choose for each request.
    Http(Box<HttpListener>),
}

/// `[listener.frame]`
#[derive(Debug, Clone, PartialEq)]
pub struct FrameListener {
    /// The compiled header, key and limits.
    pub rules: FrameRules,
    /// What happens when well-formed frames carry no key.
    pub missing_key: MissingKey,
    /// Deadline for the whole preface, from accept.
    pub timeout: Duration,
}

/// Key of a `tcp` listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TcpKey {
    /// The client's IP address, as text.
    ClientIp,
    /// The name that the client asks for in its TLS ClientHello.
    Sni(Box<SniKey>),
}

/// `key = "sni"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniKey {
    /// What happens to clients that name nothing.
    pub missing_key: MissingKey,
    /// Deadline for the whole ClientHello, from accept.
    pub timeout: Duration,
    /// Pools of their own (indexes into [`Config::pools`]) by name in lower case; `*.` in front of
    /// some, which stands for one label.
    pub names: BTreeMap<String, usize>,
}

impl SniKey {
    /// The pool of a name in lower case, if it has one of its own: an exact one before a wildcard.
    pub fn pool(&self, name: &str) -> Option<usize> {
        self.entry(name).map(|(_, pool)| pool)
    }

    /// The same with what is written in `names`.
    pub fn entry(&self, name: &str) -> Option<(&str, usize)> {
        let wild = || self.names.get_key_value(&format!("*.{}", name.split_once('.')?.1));
        let entry = self.names.get_key_value(name).or_else(wild);
        entry.map(|(written, pool)| (written.as_str(), *pool))
    }
}

/// `missing_key`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKey {
    /// Close the connection.
    Reject,
    /// Place it in this pool (index into [`Config::pools`]) with the empty key.
    Pool(usize),
}

/// `[listener.proxy_protocol]`
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyIn {
    /// Networks whose connections must start with a PROXY header.
    pub from: Vec<ipnet::IpNet>,
    /// Peers of a UNIX listener are trusted (`"unix"` in `from`).
    pub from_unix: bool,
    /// What happens to everyone else.
    pub others: ProxyOthers,
    /// Deadline for the header, from accept.
    pub timeout: Duration,
}

/// `others`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyOthers {
    /// Close connections from unlisted addresses.
    Reject,
    /// Serve them without a header; one that sends a header all the same is closed.
    Plain,
}

/// `[pool.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Unique; a metric label.
    pub name: String,
    /// How a key becomes a backend.
    pub balance: Algorithm,
    /// Keyed algorithms: what happens when the key's own backend is marked down.
    pub on_down: OnDown,
    /// Keyed algorithms: how far over its fair share of live sessions a backend may be.
    pub bounded_load: Option<Factor>,
    /// Deadline of one connection attempt.
    pub connect_timeout: Duration,
    /// Other backends tried after the first.
    pub retries: u32,
    /// How long a backend is passed over after a failed connection attempt.
    pub fail_timeout: Duration,
    /// A session with no byte either way for this long is closed.
    pub idle_timeout: Duration,
    /// Ready-made connections kept per backend and shard.
    pub warm: u32,
    /// Options of sockets to backends.
    pub socket: SocketOptions,
    /// PROXY protocol version 2 header sent before the client's bytes.
    pub proxy_out: bool,
    /// Local addresses to connect from, used in turn; empty leaves it to the kernel.
    pub source_addresses: Vec<std::net::IpAddr>,
    /// What becomes of the sessions of a backend that is removed or drained.
    pub on_remove: OnRemove,
    /// Sessions closed in a second, with [`OnRemove::Close`].
    pub close_rate: u32,
    /// TLS to its backends, its files read.
    pub tls: Option<Arc<PoolTls>>,
    /// Which backends are used, and how fast.
    pub health: Health,
    /// As the file has them, static ones included; empty for a pool that only a reload changes.
    pub sources: Vec<Source>,
    /// What the file pins: `backends`, then those of static sources, each in file order, no
    /// address twice. Empty only beside sources.
    pub backends: Vec<Backend>,
}

/// `on_remove`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemove {
    /// They live on until they end by themselves.
    Keep,
    /// They are closed, so many in a second.
    Close,
}

/// `on_down`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDown {
    /// The session is closed with a reason.
    Reject,
    /// The next usable backend in the algorithm's own order.
    Next,
}

/// One entry of `backends`.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Where it listens.
    pub address: Address,
    /// 1 to 65,535.
    pub weight: u32,
    /// Whether it takes new sessions.
    pub state: BackendState,
}

/// `state`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendState {
    /// Takes sessions.
    Ready,
    /// Takes no new sessions; the pool's `on_down` decides for keys whose home it is, and
    /// `on_remove` what becomes of the sessions it has.
    Drain,
    /// Takes no sessions; the pool's `on_down` decides for keys whose home it is.
    Down,
}
