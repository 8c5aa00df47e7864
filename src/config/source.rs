//! Sources of a pool's backends, checked.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Backend;

/// An entry of `[[pool.NAME.source]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// What is watched.
    pub kind: SourceKind,
    /// What an empty answer means.
    pub on_empty: OnEmpty,
    /// Largest share of the set in force that one change may take away, in percent; 100 is no
    /// limit.
    pub max_removal_percent: u32,
    /// A larger removal is believed when the store still says so after this long.
    pub removal_delay: Duration,
    /// Changes are gathered for this long before they are put in force.
    pub settle: Duration,
    /// The whole set is read again this often, with jitter, whatever notifications said.
    pub resync: Duration,
    /// Deadline of one question to the store (not of a blocking watch), and of connecting.
    pub timeout: Duration,
    /// Without a reading for this long the source counts as stale, or as failed if it has errors.
    pub stale_after: Duration,
}

/// What is watched.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// `backends` written in the file.
    Static(Vec<Backend>),
    /// A TOML or JSON file.
    File {
        /// Watched with inotify; may be replaced by rename.
        path: PathBuf,
    },
    /// A hash in Redis.
    Redis(RedisSource),
    /// A prefix in etcd.
    Etcd(EtcdSource),
    /// A service in Consul.
    Consul(ConsulSource),
    /// A name in DNS.
    Dns(DnsSource),
}

impl SourceKind {
    /// As it is written; a metric label.
    pub fn name(&self) -> &'static str {
        match self {
            SourceKind::Static(_) => "static",
            SourceKind::File { .. } => "file",
            SourceKind::Redis(_) => "redis",
            SourceKind::Etcd(_) => "etcd",
            SourceKind::Consul(_) => "consul",
            SourceKind::Dns(_) => "dns",
        }
    }
}

impl fmt::Display for SourceKind {
    /// What is watched and where, without secrets: the same text, the same set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            SourceKind::Static(_) => Ok(()),
            SourceKind::File { path } => write!(f, " {}", path.display()),
            SourceKind::Redis(redis) => write!(f, " {} {}", redis.url, redis.key),
            SourceKind::Etcd(etcd) => write!(f, " {} {}", etcd.endpoints.join(","), etcd.prefix),
            SourceKind::Consul(consul) => {
                write!(f, " {} {}", consul.url, consul.service)?;
                let narrowed = [("tag", &consul.tag), ("datacentre", &consul.datacentre)];
                for (name, value) in narrowed {
                    if let Some(value) = value {
                        write!(f, " {name}={value}")?;
                    }
                }
                Ok(())
            }
            SourceKind::Dns(dns) => match dns.records {
                DnsRecords::Addresses { port } => write!(f, " {}:{port}", dns.name),
                DnsRecords::Services => write!(f, " {} srv", dns.name),
            },
        }
    }
}

/// What an empty answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEmpty {
    /// The last set stays in force, loudly.
    Keep,
    /// The pool is emptied.
    Drop,
    /// The last set stays in force for this long.
    KeepFor(Duration),
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text in.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// For the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How a TLS connection to a store is verified. Without certificate authorities of its own the
/// public ones (webpki-roots) count.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreTls {
    /// PEM file of certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// `kind = "redis"`
#[derive(Debug, Clone, PartialEq)]
pub struct RedisSource {
    /// `redis://`, `rediss://` or `redis+unix://`, without a password.
    pub url: String,
    /// The hash: field = address, value = weight or JSON.
    pub key: String,
    /// For AUTH.
    pub username: Option<String>,
    /// For AUTH.
    pub password: Option<Secret>,
    /// For `rediss://`.
    pub tls: StoreTls,
}

/// `kind = "etcd"`
#[derive(Debug, Clone, PartialEq)]
pub struct EtcdSource {
    /// `http://` or `https://`, at least one; tried in turn.
    pub endpoints: Vec<String>,
    /// Rest of a key under it = address, value = weight or JSON.
    pub prefix: String,
    /// Name and password.
    pub credentials: Option<(String, Secret)>,
    /// For `https://`.
    pub tls: StoreTls,
}

/// `kind = "consul"`
#[derive(Debug, Clone, PartialEq)]
pub struct ConsulSource {
    /// `http://` or `https://` of an agent.
    pub url: String,
    /// The service's name.
    pub service: String,
    /// Only instances with this tag.
    pub tag: Option<String>,
    /// Not the agent's own.
    pub datacentre: Option<String>,
    /// File that holds the token; read for every request, so that it can be renewed.
    pub token_file: Option<PathBuf>,
    /// How long the agent may hold a blocking query: 1 s to 10 min.
    pub wait: Duration,
    /// A server's answer that is older than this behind the leader is refused.
    pub max_lag: Duration,
    /// For `https://`.
    pub tls: StoreTls,
}

/// `kind = "dns"`
#[derive(Debug, Clone, PartialEq)]
pub struct DnsSource {
    /// The name.
    pub name: String,
    /// What is asked for.
    pub records: DnsRecords,
    /// In order of preference; empty is what `/etc/resolv.conf` says.
    pub resolvers: Vec<SocketAddr>,
    /// Shortest time between two questions.
    pub min_ttl: Duration,
    /// Longest time an answer is believed.
    pub max_ttl: Duration,
}

/// What a DNS source asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsRecords {
    /// A and AAAA, each with this port.
    Addresses {
        /// Of every backend.
        port: u16,
    },
    /// SRV: targets, ports and weights of the lowest priority.
    Services,
}
