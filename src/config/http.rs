//! HTTP listeners and lookups, checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Health, OnDown, OnRemove, Pool, Secret, SocketOptions, StoreTls, limits};
use crate::balance::Algorithm;
use crate::http::access::AccessLog;
use crate::http::head::HeadLimits;
use crate::http::rewrite::Forwarding;
use crate::http::rule::Rule;
use crate::http::template::Template;
use crate::http::value::Allowed;

/// `[listener.http]`
#[derive(Debug, Clone, PartialEq)]
pub struct HttpListener {
    /// Of heads, in both directions.
    pub head: HeadLimits,
    /// Largest body of a request, bytes.
    pub body_len_max: u64,
    /// From the first byte of a request to the end of its head.
    pub head_timeout: Duration,
    /// Between two pieces of a request's body.
    pub body_timeout: Duration,
    /// Between two requests of a connection, and before the first.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of a response.
    pub send_timeout: Duration,
    /// Requests of one connection.
    pub requests_max: u32,
    /// Connections to backends.
    pub backend: HttpBackend,
    /// What backends are told about clients.
    pub forwarding: Forwarding,
    /// Where lines go, if they do.
    pub access_log: Option<Arc<AccessLog>>,
    /// In file order, at least one; names are unique. Indices of pools and lookups are those of
    /// [`super::Config`].
    pub rules: Vec<Rule>,
}

/// `[listener.http.backend]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpBackend {
    /// How long a backend may take nothing of a request.
    pub send_timeout: Duration,
    /// How long it may say nothing while a response is due.
    pub read_timeout: Duration,
    /// Idle connections kept per backend and shard.
    pub idle: u32,
    /// How long one is kept.
    pub idle_timeout: Duration,
    /// Requests of one connection.
    pub requests_max: u32,
}

/// `[lookup.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    /// Unique; a metric label.
    pub name: String,
    /// What is asked.
    pub kind: LookupKind,
    /// How long an answer is used; `None` leaves it to the store.
    pub ttl: Option<Duration>,
    /// How long it is remembered that there is none.
    pub negative_ttl: Duration,
    /// How long an answer that is over is still used while nobody gives another; zero: not at all.
    pub stale: Duration,
    /// Answers kept per shard.
    pub entries_max: usize,
    /// Deadline of one question.
    pub timeout: Duration,
    /// Where callers may be sent.
    pub allowed: Allowed,
    /// Deadline of one connection attempt.
    pub connect_timeout: Duration,
    /// Further attempts after the first.
    pub retries: u32,
    /// An upgraded connection without a byte either way for this long is closed.
    pub idle_timeout: Duration,
}

/// What a lookup asks.
#[derive(Debug, Clone, PartialEq)]
pub enum LookupKind {
    /// A name's A and AAAA records.
    Dns(DnsLookup),
    /// A field of a hash.
    Redis(RedisLookup),
}

/// `kind = "dns"`
#[derive(Debug, Clone, PartialEq)]
pub struct DnsLookup {
    /// Of the name, for [`crate::http::value::Purpose::DnsLabel`]; the whole has to be a DNS name
    /// once more.
    pub name: Template,
    /// What is put behind it, with a point between.
    pub search: Search,
    /// The backends'.
    pub port: u16,
    /// In order of preference; empty is what /etc/resolv.conf says.
    pub resolvers: Vec<SocketAddr>,
    /// Shortest time that an answer is believed.
    pub min_ttl: Duration,
    /// Longest time.
    pub max_ttl: Duration,
}

/// `search`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    /// Nothing: the name is whole.
    Off,
    /// The first search domain of /etc/resolv.conf; without one the lookup fails.
    ResolvConf,
    /// This one.
    Domain(String),
}

/// `kind = "redis"`
#[derive(Debug, Clone, PartialEq)]
pub struct RedisLookup {
    /// Without credentials.
    pub url: String,
    /// For AUTH.
    pub username: Option<String>,
    /// For AUTH.
    pub password: Option<Secret>,
    /// How the store is spoken to.
    pub tls: StoreTls,
    /// Of the hash's name, for [`crate::http::value::Purpose::RedisKey`].
    pub key: Template,
    /// Of its field, likewise.
    pub field: Template,
}

impl Lookup {
    /// What sessions that it places have in place of a pool's settings.
    pub fn as_pool(&self) -> Pool {
        Pool {
            name: self.name.clone(),
            balance: Algorithm::RoundRobin,
            on_down: OnDown::Next,
            bounded_load: None,
            connect_timeout: self.connect_timeout,
            retries: self.retries,
            fail_timeout: limits::FAIL_TIMEOUT.default.unwrap_or_default(),
            idle_timeout: self.idle_timeout,
            warm: 0,
            socket: SocketOptions {
                user_timeout: limits::TCP_USER_TIMEOUT.default.unwrap_or_default(),
                keepalive: None,
            },
            proxy_out: false,
            tls: None,
            source_addresses: Vec::new(),
            on_remove: OnRemove::Keep,
            close_rate: 1,
            health: Health::default(),
            sources: Vec::new(),
            backends: Vec::new(),
        }
    }

    /// Every template of it.
    pub fn templates(&self) -> Vec<&Template> {
        match &self.kind {
            LookupKind::Dns(dns) => vec![&dns.name],
            LookupKind::Redis(redis) => vec![&redis.key, &redis.field],
        }
    }
}
