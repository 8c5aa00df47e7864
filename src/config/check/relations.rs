//! What holds between tables: addresses that collide, and file descriptors.

use std::net::SocketAddr;

use super::Checker;
use crate::backend::kept::KEPT_MAX;
use crate::backend::spare::SPARES_MAX;
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::quantity::Count;
use crate::config::{Address, Listener, Lookup, LookupKind, Pool, Protocol, limits};
use crate::health::checker::CHECKS_MAX;
use crate::http::access::AccessTarget;
use crate::http::rule::Target;
use crate::log::ACCESS_FILES_MAX;
use crate::lookup::QUESTIONS_AT_ONCE;
use crate::relay::PIPES_MAX;

/// Descriptors besides those of sessions, listeners and shards: the other logs, the admin
/// interface's own connections, and a reserve for refusing politely.
const DESCRIPTORS_FIXED: u64 = 64;

/// What a shard has of its own: rings, epoll set, timer, event descriptors.
const DESCRIPTORS_OF_SHARD: u64 = 12 + 2 * PIPES_MAX as u64 + SPARES_MAX as u64;

/// Descriptors of a session: one to the client, one to the backend.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

/// Sockets that one shard holds besides sessions.
pub(super) struct Sockets {
    /// Bound addresses of listeners.
    listening: u64,
    /// Warm connections of all pools together.
    warm: u64,
    /// Connections to backends that http listeners keep between requests.
    kept: u64,
    /// Of the control plane, for all sources together.
    sources: u64,
    /// Checks of backends under way, all pools together. Not per shard: the control plane's.
    checks: u64,
    /// Questions of lookups under way, likewise.
    lookups: u64,
    /// Files of access logs, of the whole process.
    logs: u64,
}

/// Descriptors of the whole process besides sessions, as a sum that can be shown.
pub(super) struct Descriptors {
    sockets: Sockets,
    shards: u64,
}

/// Descriptors of a source: a folder or a store watched, a connection to ask it, one in reserve.
const DESCRIPTORS_PER_SOURCE: u64 = 4;

/// Descriptors of a lookup that asks over one connection: as a source.
const DESCRIPTORS_PER_LOOKUP: u64 = DESCRIPTORS_PER_SOURCE;

/// Descriptors of a lookup that asks DNS: a socket for each question, of which a name has two.
const DESCRIPTORS_PER_DNS_LOOKUP: u64 = 2 * QUESTIONS_AT_ONCE as u64;

/// Backends that a pool with sources is taken to have, where it has no more by itself.
const BACKENDS_OF_SOURCES: u64 = 256;

/// Counts what one shard holds, and what sources do.
pub(super) fn sockets(pools: &[Pool], listeners: &[Listener], lookups: &[Lookup]) -> Sockets {
    let backends = |pool: &Pool| match pool.backends.len() as u64 {
        pinned if pool.sources.is_empty() => pinned,
        pinned => pinned.max(BACKENDS_OF_SOURCES),
    };
    let warm: u64 = pools.iter().map(|pool| u64::from(pool.warm) * backends(pool)).sum();
    let kept = listeners.iter().map(|listener| kept(listener, pools));
    let kept = kept.fold(0, u64::saturating_add).min(KEPT_MAX as u64);
    let logs =
        listeners.iter().map(log_files).fold(0, u64::saturating_add).min(ACCESS_FILES_MAX as u64);
    let sources = pools.iter().map(|pool| pool.sources.len() as u64 * DESCRIPTORS_PER_SOURCE).sum();
    let listening = listeners.iter().map(|listener| listener.bind.len() as u64).sum();
    let checking = pools.iter().filter(|pool| pool.health.check.is_some()).count();
    let checks = checking as u64 * CHECKS_MAX as u64;
    let asking = |lookup: &Lookup| match lookup.kind {
        LookupKind::Dns(_) => DESCRIPTORS_PER_DNS_LOOKUP,
        LookupKind::Redis(_) => DESCRIPTORS_PER_LOOKUP,
    };
    let lookups = lookups.iter().map(asking).sum();
    Sockets { listening, warm, kept, sources, checks, lookups, logs }
}

/// Connections that an http listener may keep in one shard, before the shard's own bound: so many
/// for each backend. How many backends come of a source or a lookup nobody knows.
fn kept(listener: &Listener, pools: &[Pool]) -> u64 {
    let Protocol::Http(http) = &listener.protocol else { return 0 };
    let idle = u64::from(http.backend.idle);
    let mut named: Vec<usize> = Vec::new();
    for rule in &http.rules {
        match rule.target {
            Target::Pool { pool, .. } => named.push(pool),
            Target::Lookup { .. } if idle > 0 => return KEPT_MAX as u64,
            Target::Lookup { .. } | Target::Reply(_) => {}
        }
    }
    named.sort_unstable();
    named.dedup();
    let of_pool = |pool: &Pool| match pool.sources.is_empty() {
        true => idle.saturating_mul(pool.backends.len() as u64),
        false => idle.saturating_mul(KEPT_MAX as u64),
    };
    let pools = named.iter().filter_map(|index| pools.get(*index));
    pools.map(of_pool).fold(0, u64::saturating_add)
}

/// Files that the access log of a listener may have open, before the bound of all of them.
fn log_files(listener: &Listener) -> u64 {
    let Protocol::Http(http) = &listener.protocol else { return 0 };
    match http.access_log.as_ref().map(|log| &log.target) {
        Some(AccessTarget::File(_)) => 1,
        Some(AccessTarget::PerBackend { .. }) => ACCESS_FILES_MAX as u64,
        Some(AccessTarget::Stdout | AccessTarget::Stderr) | None => 0,
    }
}

impl Sockets {
    pub(super) fn with_shards(self, shards: usize) -> Descriptors {
        Descriptors { sockets: self, shards: shards as u64 }
    }
}

impl Descriptors {
    fn besides_connections(&self) -> u64 {
        let Sockets { listening, warm, kept, sources, checks, lookups, logs } = self.sockets;
        let sockets = listening.saturating_add(warm).saturating_add(kept);
        let per_shard = sockets.saturating_add(DESCRIPTORS_OF_SHARD);
        let shards = per_shard.saturating_mul(self.shards);
        let control = sources.saturating_add(checks).saturating_add(lookups).saturating_add(logs);
        shards.saturating_add(control).saturating_add(DESCRIPTORS_FIXED)
    }

    fn with_connections(&self, connections: u64) -> u64 {
        connections
            .saturating_mul(DESCRIPTORS_PER_CONNECTION)
            .saturating_add(self.besides_connections())
    }

    /// The sum behind [`Descriptors::besides_connections`].
    fn sum(&self) -> String {
        let Sockets { listening, warm, kept, sources, checks, lookups, logs } = self.sockets;
        let shards = self.shards;
        let kept = match kept {
            0 => String::new(),
            kept => format!("{kept} × {shards} for kept connections and shards + "),
        };
        let some = |count: u64, what: &str| match count {
            0 => String::new(),
            count => format!("{count} for {what} + "),
        };
        format!(
            "{listening} × {shards} for addresses and shards + {warm} × {shards} for warm \
             connections and shards + {kept}{DESCRIPTORS_OF_SHARD} × {shards} for pipes and such \
             of shards + {}{}{}{}{DESCRIPTORS_FIXED}",
            some(sources, "sources"),
            some(checks, "checks"),
            some(lookups, "lookups"),
            some(logs, "access logs"),
        )
    }
}

impl Checker<'_> {
    /// Connections as written, and the descriptors they need.
    pub(super) fn descriptors_checked(
        &mut self,
        Count(connections): Count,
        descriptors: &Descriptors,
        path: &Path,
    ) -> Option<(usize, u64)> {
        let connections = u64::try_from(connections).ok()?;
        let needed = descriptors.with_connections(connections);
        let limit = self.environment.descriptors_max;
        if needed > limit {
            let what = format!(
                "needs {needed} file descriptors ({DESCRIPTORS_PER_CONNECTION} × {connections} for \
                 connections + {}), but the hard limit is {limit}",
                descriptors.sum()
            );
            let affordable = limit.saturating_sub(descriptors.besides_connections())
                / DESCRIPTORS_PER_CONNECTION;
            let raise = format!("raise the hard limit (LimitNOFILE=, ulimit -Hn) to {needed}");
            let valid =
                if affordable == 0 { raise } else { format!("at most {affordable}, or {raise}") };
            self.relation(path, Problem::new(what, valid));
            return None;
        }
        Some((usize::try_from(connections).ok()?, needed))
    }

    /// Connections that the limit leaves room for, when the file does not say.
    pub(super) fn descriptors_shared_out(
        &mut self,
        descriptors: &Descriptors,
        path: &Path,
    ) -> Option<(usize, u64)> {
        let limit = self.environment.descriptors_max;
        let left = limit.saturating_sub(descriptors.besides_connections());
        let connections =
            (left / DESCRIPTORS_PER_CONNECTION).min(limits::MAX_CONNECTIONS_DEFAULT_MOST);
        if connections == 0 {
            let what = format!(
                "no file descriptors are left for connections: {} are needed besides ({}), and \
                 the hard limit is {limit}",
                descriptors.besides_connections(),
                descriptors.sum()
            );
            let valid = "raise the hard limit (LimitNOFILE=, ulimit -Hn)";
            self.relation(path, Problem::new(what, valid));
            return None;
        }
        let needed = descriptors.with_connections(connections);
        Some((usize::try_from(connections).ok()?, needed))
    }

    /// Two sockets cannot listen on one address; SO_REUSEPORT would hide it and split clients.
    pub(super) fn collisions(&mut self) {
        let bound = std::mem::take(&mut self.bound);
        for (index, (path, address)) in bound.iter().enumerate() {
            let other = bound[..index].iter().find(|(_, other)| collide(address, other));
            let Some((other_path, other)) = other else { continue };
            let what = if address == other {
                format!("{other_path} listens there already")
            } else {
                format!("{other_path} listens on {other}, which includes it")
            };
            self.relation(path, Problem::new(what, "an address of its own"));
        }
    }
}

fn collide(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Unix(a), Address::Unix(b)) => a == b,
        (Address::Tcp(a), Address::Tcp(b)) => collide_tcp(a, b),
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

fn collide_tcp(a: &SocketAddr, b: &SocketAddr) -> bool {
    // Port 0 is a different port each time.
    if a.port() != b.port() || a.port() == 0 {
        return false;
    }
    let (a, b) = (a.ip().to_canonical(), b.ip().to_canonical());
    // "::" takes IPv4 as well unless the kernel is told otherwise; "0.0.0.0" never takes IPv6.
    let includes = |wide: std::net::IpAddr, other: std::net::IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4())
    };
    a == b || includes(a, b) || includes(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_include_their_family() {
        let collide = |a: &str, b: &str| {
            let (a, b) = (a.parse().expect(a), b.parse().expect(b));
            assert_eq!(collide_tcp(&a, &b), collide_tcp(&b, &a), "{a} {b}");
            collide_tcp(&a, &b)
        };
        assert!(collide("127.0.0.1:1", "127.0.0.1:1"));
        assert!(!collide("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!collide("127.0.0.1:1", "127.0.0.2:1"));
        assert!(collide("0.0.0.0:1", "127.0.0.1:1"));
        assert!(!collide("0.0.0.0:1", "[::1]:1"));
        assert!(collide("[::]:1", "[::1]:1"));
        assert!(collide("[::]:1", "127.0.0.1:1"));
        assert!(collide("[::]:1", "0.0.0.0:1"));
        assert!(collide("[::ffff:127.0.0.1]:1", "127.0.0.1:1"));
        assert!(!collide("0.0.0.0:0", "0.0.0.0:0"));
    }
}
