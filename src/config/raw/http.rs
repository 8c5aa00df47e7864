//! `[listener.http]` and `[lookup.NAME]` as they are written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::fault::Problem;
use crate::config::limits;
use crate::config::quantity::{ByteCount, Count};
use crate::config::shape::{Entries, Shape, Slot, table_shapes};
use crate::config::value::{
    ConditionText, Flag, LookupKindName, OneOf, PortRange, Resolver, SearchText, SecretText,
    Trusted,
};
use crate::http::access::Escape;
use crate::http::rewrite::Mode;

table_shapes!(Http, HttpBackend, Forward, AccessLog, Rule, Reply, Lookup);

/// How requests are read, and where they go.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["rule"]))]
pub struct Http {
    /// Largest head of a request or response.
    #[schemars(transform = limits::HTTP_MAX_HEAD.describe())]
    pub max_head: Slot<ByteCount>,
    /// Most header fields of a request or response.
    #[schemars(transform = limits::HTTP_MAX_HEADERS.describe())]
    pub max_headers: Slot<Count>,
    /// Longest target of a request: path and query.
    #[schemars(transform = limits::HTTP_MAX_TARGET.describe())]
    pub max_target: Slot<ByteCount>,
    /// Largest body of a request; it is streamed, never kept.
    #[schemars(transform = limits::HTTP_MAX_BODY.describe())]
    pub max_body: Slot<ByteCount>,
    /// From the first byte of a request to the end of its head.
    #[schemars(transform = limits::HTTP_HEAD_TIMEOUT.describe())]
    pub head_timeout: Slot<Duration>,
    /// Between two pieces of a request's body.
    #[schemars(transform = limits::HTTP_BODY_TIMEOUT.describe())]
    pub body_timeout: Slot<Duration>,
    /// Between two requests of a connection, and before the first.
    #[schemars(transform = limits::HTTP_IDLE_TIMEOUT.describe())]
    pub idle_timeout: Slot<Duration>,
    /// How long a client may take nothing of a response.
    #[schemars(transform = limits::HTTP_SEND_TIMEOUT.describe())]
    pub send_timeout: Slot<Duration>,
    /// Requests of one connection; it is closed behind the last.
    #[schemars(transform = limits::HTTP_MAX_REQUESTS.describe())]
    pub max_requests: Slot<Count>,
    /// Connections to backends.
    pub backend: Slot<HttpBackend>,
    /// What backends are told about clients.
    pub forward: Slot<Forward>,
    /// A line per request; without this table there are none.
    pub access_log: Slot<AccessLog>,
    /// Which requests go where: the first that matches decides. What none matches is answered 404.
    pub rule: Slot<Vec<Slot<Rule>>>,
}

/// Connections to backends. Deadline and retries of connecting are the pool's or the lookup's.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct HttpBackend {
    /// How long a backend may take nothing of a request.
    #[schemars(transform = limits::HTTP_BACKEND_TIMEOUT.describe())]
    pub send_timeout: Slot<Duration>,
    /// How long a backend may say nothing while a response is due.
    #[schemars(transform = limits::HTTP_BACKEND_TIMEOUT.describe())]
    pub read_timeout: Slot<Duration>,
    /// Idle connections kept per backend and core.
    #[schemars(transform = limits::HTTP_BACKEND_IDLE.describe())]
    pub idle: Slot<Count>,
    /// How long one is kept.
    #[schemars(transform = limits::HTTP_IDLE_TIMEOUT.describe())]
    pub idle_timeout: Slot<Duration>,
    /// Requests of one connection.
    #[schemars(transform = limits::HTTP_MAX_REQUESTS.describe())]
    pub max_requests: Slot<Count>,
}

/// What backends are told about clients: each field is "set" (ours), "append" (ours behind a trusted
/// client's), "leave" (a trusted client's only) or "off".
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Forward {
    /// X-Forwarded-For: addresses, the client's last.
    #[schemars(extend("default" = "append"))]
    pub x_forwarded_for: Slot<OneOf<Mode>>,
    /// X-Forwarded-Proto: "http" or "https".
    #[schemars(extend("default" = "set"))]
    pub x_forwarded_proto: Slot<OneOf<Mode>>,
    /// X-Forwarded-Host: Host as the client sent it.
    #[schemars(extend("default" = "set"))]
    pub x_forwarded_host: Slot<OneOf<Mode>>,
    /// X-Real-IP: the client's address.
    #[schemars(extend("default" = "off"))]
    pub x_real_ip: Slot<OneOf<Mode>>,
    /// Forwarded, as RFC 7239 has it.
    #[schemars(extend("default" = "off"))]
    pub forwarded: Slot<OneOf<Mode>>,
    /// X-Request-ID: 32 random hexadecimal digits.
    #[schemars(extend("default" = "off"))]
    pub request_id: Slot<OneOf<Mode>>,
    /// Networks or addresses of proxies in front, whose fields are believed; "unix" stands for peers
    /// on UNIX sockets. Everybody else's are removed.
    #[schemars(extend("default" = []))]
    pub trusted: Slot<Vec<Slot<Trusted>>>,
    /// true: the client is who trusted proxies say by X-Forwarded-For.
    #[schemars(extend("default" = false))]
    pub client_from_x_forwarded_for: Slot<Flag>,
    /// Template of Host.
    #[schemars(extend("default" = "{authority}"))]
    pub host: Slot<String>,
    /// Further fields by name, each a template; instead of what the client sent under that name.
    #[schemars(extend("default" = {}))]
    pub headers: Slot<Entries<String>>,
    /// Our name in Via; without it there is no Via of ours.
    pub via: Slot<String>,
}

/// A line per request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct AccessLog {
    /// "stdout", "stderr", or a file's path with a "/"; "{backend}" in the file's name makes a file
    /// for each backend.
    #[schemars(extend("default" = "stdout"))]
    pub path: Slot<String>,
    /// "json", "combined", or a text with nginx's variables.
    #[schemars(extend("default" = "json"))]
    pub format: Slot<String>,
    /// How values of a text are escaped: "default" as nginx does, or for "json".
    #[schemars(extend("default" = "default"))]
    pub escape: Slot<OneOf<Escape>>,
}

/// Which requests go where. All that is written has to match.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its listener; a metric label. Without it: the rule's number, from 1.
    pub name: Slot<String>,
    /// Methods, one of which it has to be.
    pub method: Slot<Vec<Slot<String>>>,
    /// Hosts without port, one of which it has to be; "*.NAME" is any name below.
    pub host: Slot<Vec<Slot<String>>>,
    /// The path.
    pub path: Slot<String>,
    /// What the path begins with.
    pub path_prefix: Slot<String>,
    /// Header fields by name: true for present, false for absent, a text, or "~" and a pattern.
    pub header: Slot<Entries<ConditionText>>,
    /// Arguments of the query, likewise.
    pub query: Slot<Entries<ConditionText>>,
    /// Cookies, likewise.
    pub cookie: Slot<Entries<ConditionText>>,
    /// Send it to a backend of this pool.
    pub pool: Slot<String>,
    /// What the pool balances by, or "{key}" of the lookup: "header:NAME", "query:NAME",
    /// "cookie:NAME", "path:2", "host", "client_ip", or a template of these in braces.
    pub key: Slot<String>,
    /// Send it to the address that this lookup gives.
    pub lookup: Slot<String>,
    /// What "{set:NAME}" stands for in the lookup.
    pub set: Slot<Entries<String>>,
    /// Answer it.
    pub reply: Slot<Reply>,
    /// Status if the request lacks what a template names.
    #[schemars(transform = limits::HTTP_STATUS_CALLER.describe())]
    pub missing: Slot<Count>,
    /// Status if what a template names cannot be used.
    #[schemars(transform = limits::HTTP_STATUS_CALLER.describe())]
    pub malformed: Slot<Count>,
    /// Status if the lookup finds nothing that is allowed.
    #[schemars(transform = limits::HTTP_STATUS_BACKEND.describe())]
    pub not_found: Slot<Count>,
    /// Status if the lookup fails, or no backend of the pool may be used.
    #[schemars(transform = limits::HTTP_STATUS_BACKEND.describe())]
    pub unavailable: Slot<Count>,
}

/// An answer that is always the same.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["status"]))]
pub struct Reply {
    /// Its status.
    #[schemars(transform = limits::HTTP_STATUS_REPLY.describe())]
    pub status: Slot<Count>,
    /// Its body; without it: the status in words.
    pub body: Slot<String>,
    /// Type of the body.
    #[schemars(extend("default" = "text/plain"))]
    pub content_type: Slot<String>,
    /// Further fields by name.
    #[schemars(extend("default" = {}))]
    pub headers: Slot<Entries<String>>,
}

/// From a request to an address. Which keys there are depends on the kind.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["kind"]))]
pub struct Lookup {
    /// What is asked: "dns" or "redis".
    pub kind: Slot<OneOf<LookupKindName>>,
    /// dns: template of the name.
    pub name: Slot<String>,
    /// dns: what is put behind the name: "off", "resolv.conf" for the first search domain of
    /// /etc/resolv.conf, or a domain.
    #[schemars(extend("default" = "off"))]
    pub search: Slot<SearchText>,
    /// dns: the backends' port.
    #[schemars(transform = limits::DNS_PORT.describe())]
    pub port: Slot<Count>,
    /// dns: "IP" or "IP:PORT" in order of preference; empty is what /etc/resolv.conf says.
    #[schemars(extend("default" = []))]
    pub resolvers: Slot<Vec<Slot<Resolver>>>,
    /// dns: shortest time that an answer is believed, whatever its records say.
    #[schemars(transform = limits::DNS_MIN_TTL.describe())]
    pub min_ttl: Slot<Duration>,
    /// dns: longest time.
    #[schemars(transform = limits::DNS_MAX_TTL.describe())]
    pub max_ttl: Slot<Duration>,
    /// redis: "redis://HOST:PORT/DB", "rediss://…" or "redis+unix:///PATH?db=DB".
    pub url: Slot<SecretText>,
    /// redis: template of a hash's name.
    pub key: Slot<String>,
    /// redis: template of its field, which holds "IP:PORT".
    pub field: Slot<String>,
    /// redis: who we are.
    pub username: Slot<String>,
    /// redis: the password itself; password_file keeps it out of this file.
    pub password: Slot<SecretText>,
    /// redis: file with the password.
    pub password_file: Slot<String>,
    /// redis: PEM file of the certificate authorities that are believed.
    pub tls_ca_file: Slot<String>,
    /// redis: PEM file of our own certificate.
    pub tls_cert_file: Slot<String>,
    /// redis: PEM file of its key.
    pub tls_key_file: Slot<String>,
    /// How long an answer is used. Without it: dns by its records, redis until told otherwise, one
    /// minute at most.
    #[schemars(transform = limits::LOOKUP_TTL.describe())]
    pub ttl: Slot<Duration>,
    /// How long it is remembered that there is none.
    #[schemars(transform = limits::LOOKUP_NEGATIVE_TTL.describe())]
    pub negative_ttl: Slot<Duration>,
    /// How long an answer that is over is still used while nobody gives another.
    #[schemars(transform = limits::LOOKUP_STALE.describe())]
    pub stale: Slot<Duration>,
    /// Answers kept per core; of more, those unused for longest go.
    #[schemars(transform = limits::LOOKUP_MAX_ENTRIES.describe())]
    pub max_entries: Slot<Count>,
    /// Deadline of one question.
    #[schemars(transform = limits::LOOKUP_TIMEOUT.describe())]
    pub timeout: Slot<Duration>,
    /// Networks that an address has to be in. Required for redis; dns allows all without it.
    pub allow: Slot<Vec<Slot<Trusted>>>,
    /// Ports that are allowed: numbers, or ranges such as "8000-8999".
    #[schemars(extend("default" = ["1-65535"]))]
    pub allow_ports: Slot<Vec<Slot<PortRange>>>,
    /// Deadline of one connection attempt.
    #[schemars(transform = limits::CONNECT_TIMEOUT.describe())]
    pub connect_timeout: Slot<Duration>,
    /// Further attempts after the first, when that is safe.
    #[schemars(transform = limits::RETRIES.describe())]
    pub retries: Slot<Count>,
    /// A connection that was upgraded is closed without a byte either way for this long.
    #[schemars(transform = limits::IDLE_TIMEOUT.describe())]
    pub idle_timeout: Slot<Duration>,
}
