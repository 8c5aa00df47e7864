//! What a listener makes of the head of a request.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use super::{Escaped, ExplainError, Shown, write_placement};
use crate::config::{Config, HttpListener, LookupKind, Protocol};
use crate::end::End;
use crate::http::client::{self, Client, Request};
use crate::http::fields::Once;
use crate::http::head::Read;
use crate::http::request::{self, RequestHead};
use crate::http::rule::{self, Rule, Target};
use crate::http::template::{Gap, Template, Unfilled, Values};
use crate::http::value::Purpose;

/// A page about the head of a request to an HTTP listener: what was read, the rule, the key, and
/// the backend or the answer. `client` is who would have sent it. Made for reading; its layout is
/// no interface.
///
/// # Errors
/// When there is no such listener, or it does not speak HTTP.
pub fn explain_http(
    config: &Config,
    listener: usize,
    bytes: &[u8],
    client: Option<SocketAddr>,
) -> Result<String, ExplainError> {
    let Some(listener) = config.listeners.get(listener) else {
        return Err(ExplainError::ListenerUnknown(listener));
    };
    let Protocol::Http(http) = &listener.protocol else {
        return Err(ExplainError::NotHttp(listener.name.clone()));
    };
    let tls = listener.tls.is_some();
    let page = Page { config, name: &listener.name, http, tls, bytes, client };
    Ok(page.to_string())
}

struct Page<'c> {
    config: &'c Config,
    name: &'c str,
    http: &'c HttpListener,
    /// Whether its clients are inside TLS.
    tls: bool,
    bytes: &'c [u8],
    client: Option<SocketAddr>,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listener {}", self.name)?;
        match request::read(self.bytes, &self.http.head) {
            Read::Partial => writeln!(
                f,
                "outcome  incomplete: no empty line ends the head; a connection that stays like \
                 this is answered 408 after {:?} ({})",
                self.http.head_timeout,
                End::HttpHeadTimeout.label()
            ),
            Read::Refused(refusal) => {
                writeln!(f, "outcome  answered {}: {}", refusal.status(), refusal.label())
            }
            Read::Complete(head) => self.write_request(f, &head),
        }
    }
}

impl Page<'_> {
    fn write_request(&self, f: &mut fmt::Formatter<'_>, head: &RequestHead) -> fmt::Result {
        let forwarding = &self.http.forwarding;
        let ip = self.client.map(|client| client.ip());
        let trusted = client::is_trusted(ip, &forwarding.trusted, forwarding.trusted_unix);
        let client = Client { address: self.client, tls: self.tls, trusted };
        let request = Request::new(self.bytes, head, client);
        writeln!(f, "method   {}", Escaped(request.method()))?;
        writeln!(f, "path     {}", Shown(&request.path))?;
        if !request.query().is_empty() {
            writeln!(f, "query    {}", Shown(request.query()))?;
        }
        writeln!(f, "host     {}", Escaped(&head.host(self.bytes)))?;
        if head.upgrades {
            writeln!(f, "upgrade  websocket")?;
        } else if head.fields.once(self.bytes, "upgrade") != Once::Absent {
            writeln!(f, "upgrade  ignored: only WebSocket is passed on")?;
        }
        match rule::choose(&self.http.rules, &request) {
            None => writeln!(f, "\noutcome  answered 404: no rule matches"),
            Some((index, rule)) => {
                writeln!(f, "\nrule     {} (number {})", rule.name, index + 1)?;
                self.write_target(f, &request, rule)
            }
        }
    }

    fn write_target(
        &self,
        f: &mut fmt::Formatter<'_>,
        request: &Request<'_>,
        rule: &Rule,
    ) -> fmt::Result {
        let key = match rule::key(&rule.target, request) {
            Ok(key) => key,
            Err(unfilled) => return write_unfilled(f, rule, &unfilled),
        };
        match &rule.target {
            Target::Reply(reply) => writeln!(f, "outcome  answered {}", reply.status),
            Target::Pool { pool, key: template } => {
                write_key(f, template.as_ref(), &key)?;
                write_placement(f, self.config.pools.get(*pool), &key)
            }
            Target::Lookup { lookup, key: template, set } => {
                write_key(f, template.as_ref(), &key)?;
                let Some(lookup) = self.config.lookups.get(*lookup) else { return Ok(()) };
                writeln!(f, "lookup   {}", lookup.name)?;
                let values = Values { key: Some(&key), set, ..Values::default() };
                let (purpose, names): (_, &[&str]) = match &lookup.kind {
                    LookupKind::Dns(_) => (Purpose::DnsLabel, &["name"]),
                    LookupKind::Redis(_) => (Purpose::RedisKey, &["hash", "field"]),
                };
                for (name, template) in names.iter().zip(lookup.templates()) {
                    match template.fill(Some(request), &values, purpose) {
                        Ok(text) => writeln!(f, "{name:8} {}", Shown(&text))?,
                        Err(unfilled) => return write_unfilled(f, rule, &unfilled),
                    }
                }
                Ok(())
            }
        }
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, template: Option<&Template>, key: &[u8]) -> fmt::Result {
    match template {
        Some(template) => writeln!(f, "key      {} = {}", template.text(), Shown(key)),
        None => Ok(()),
    }
}

/// The answer to a request that lacks what a template names.
fn write_unfilled(f: &mut fmt::Formatter<'_>, rule: &Rule, unfilled: &Unfilled<'_>) -> fmt::Result {
    write!(f, "outcome  answered {}: ", rule.statuses.of(unfilled))?;
    match unfilled.part {
        Some(part) => write!(f, "{part}")?,
        None => f.write_str("the whole")?,
    }
    f.write_char(' ')?;
    match unfilled.gap {
        Gap::Missing => writeln!(f, "is missing"),
        Gap::Malformed(unfit) => writeln!(f, "cannot be used ({})", unfit.label()),
    }
}
