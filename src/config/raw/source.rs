//! `[pool.NAME.source]` as it is written, and files that a source reads.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Backend;
use crate::config::fault::Problem;
use crate::config::limits;
use crate::config::quantity::Count;
use crate::config::shape::{Shape, Slot, table_shapes};
use crate::config::share::Percent;
use crate::config::value::{Flag, KindName, OnEmptyText, OneOf, Resolver, SecretText};

table_shapes!(Source);

/// Where backends come from. Which keys there are depends on the kind.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["kind"]))]
pub struct Source {
    /// What is watched: "static", "file", "redis", "etcd", "consul" or "dns".
    pub kind: Slot<OneOf<KindName>>,
    /// static: addresses, or tables with address, weight and state.
    pub backends: Slot<Vec<Slot<Backend>>>,
    /// file: a TOML or JSON file with a list "backends".
    pub path: Slot<String>,
    /// redis: "redis://HOST:PORT/DB", "rediss://…" or "redis+unix:///PATH?db=DB". consul: the
    /// agent's "http://HOST:PORT" or "https://…".
    pub url: Slot<SecretText>,
    /// redis: name of a hash; field = address, value = weight or JSON.
    pub key: Slot<String>,
    /// etcd: "http://HOST:PORT" or "https://…", tried in turn.
    pub endpoints: Slot<Vec<Slot<SecretText>>>,
    /// etcd: what keys begin with; the rest is the address, the value a weight or JSON.
    pub prefix: Slot<String>,
    /// consul: name of the service.
    pub service: Slot<String>,
    /// consul: only instances with this tag.
    pub tag: Slot<String>,
    /// consul: a datacentre other than the agent's own.
    pub datacentre: Slot<String>,
    /// consul: file with the ACL token, read again for every request.
    pub token_file: Slot<String>,
    /// consul: how long the agent may hold a question that has no new answer.
    #[schemars(transform = limits::CONSUL_WAIT.describe())]
    pub wait: Slot<Duration>,
    /// consul: an answer further behind the leader than this is refused.
    #[schemars(transform = limits::CONSUL_MAX_LAG.describe())]
    pub max_lag: Slot<Duration>,
    /// dns: the name.
    pub name: Slot<String>,
    /// dns: every backend's port; its addresses are the name's A and AAAA records.
    #[schemars(transform = limits::DNS_PORT.describe())]
    pub port: Slot<Count>,
    /// dns: true to ask for SRV records, which have ports and weights.
    #[schemars(extend("default" = false))]
    pub srv: Slot<Flag>,
    /// dns: "IP" or "IP:PORT" in order of preference; empty is what /etc/resolv.conf says.
    #[schemars(extend("default" = []))]
    pub resolvers: Slot<Vec<Slot<Resolver>>>,
    /// dns: shortest time between two questions.
    #[schemars(transform = limits::DNS_MIN_TTL.describe())]
    pub min_ttl: Slot<Duration>,
    /// dns: longest time that an answer is believed.
    #[schemars(transform = limits::DNS_MAX_TTL.describe())]
    pub max_ttl: Slot<Duration>,
    /// redis, etcd: who we are.
    pub username: Slot<String>,
    /// redis, etcd: the password itself; password_file keeps it out of this file.
    pub password: Slot<SecretText>,
    /// redis, etcd: file with the password.
    pub password_file: Slot<String>,
    /// redis, etcd, consul: PEM file of the certificate authorities that are believed.
    pub tls_ca_file: Slot<String>,
    /// redis, etcd, consul: PEM file of our own certificate.
    pub tls_cert_file: Slot<String>,
    /// redis, etcd, consul: PEM file of its key.
    pub tls_key_file: Slot<String>,
    /// Deadline of connecting, and of one question (not of one that waits for news).
    #[schemars(transform = limits::SOURCE_TIMEOUT.describe())]
    pub timeout: Slot<Duration>,
    /// The whole set is read again this often, with jitter, whatever notifications said.
    #[schemars(transform = limits::RESYNC.describe())]
    pub resync: Slot<Duration>,
    /// Changes are gathered for this long; what was undone by then never happened.
    #[schemars(transform = limits::SETTLE.describe())]
    pub settle: Slot<Duration>,
    /// Without a reading for this long the source counts as stale, or failed if it has errors.
    #[schemars(transform = limits::STALE_AFTER.describe())]
    pub stale_after: Slot<Duration>,
    /// What an empty answer means: "keep" the last set, "drop" it, or "keep_for:DURATION".
    #[schemars(extend("default" = "keep"))]
    pub on_empty: Slot<OnEmptyText>,
    /// Largest share of the set in force that may vanish at once; more waits for removal_delay.
    #[schemars(transform = limits::MAX_REMOVAL.describe())]
    pub max_removal: Slot<Percent>,
    /// A larger removal is believed when the store still says so after this long.
    #[schemars(transform = limits::REMOVAL_DELAY.describe())]
    pub removal_delay: Slot<Duration>,
}

/// A file that a source of kind "file" reads.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["backends"]))]
pub struct BackendsFile {
    /// Addresses, or tables with address, weight and state.
    pub backends: Slot<Vec<Slot<Backend>>>,
}
