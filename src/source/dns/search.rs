//! Which resolvers are asked and which names, from the settings or from resolv.conf(5). Pure.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use hickory_net::proto::rr::Name;
use resolv_conf::ScopedIp;

/// Most resolvers of a resolv.conf, as glibc has it (MAXNS).
const RESOLVERS_MAX: usize = 3;
/// Most entries of a search list; glibc has no limit since 2.26, Kubernetes allows 32.
const SEARCH_MAX: usize = 32;
/// Datagrams to one resolver, if resolv.conf says nothing.
const TRIES: u32 = 3;

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// In order of preference; at least one.
    pub resolvers: Vec<SocketAddr>,
    /// Begin each lookup with another one.
    pub rotate: bool,
    /// Datagrams to one resolver, at least 1.
    pub tries: u32,
    /// For all of them together.
    pub timeout: Duration,
    /// IPv6 addresses are not wanted.
    pub no_ipv6: bool,
    /// Put behind names, see [`Plan::candidates`].
    pub search: Vec<Name>,
    /// A name with at least this many dots is tried as it is first.
    pub ndots: usize,
}

impl Plan {
    /// Resolvers of the settings: names are complete, no search list applies.
    pub(super) fn of_settings(resolvers: Vec<SocketAddr>, timeout: Duration) -> Plan {
        Plan {
            resolvers,
            rotate: false,
            tries: TRIES,
            timeout,
            no_ipv6: false,
            search: Vec::new(),
            ndots: 0,
        }
    }

    /// What a resolv.conf says. Lines that are not understood count for nothing, as in glibc.
    pub(super) fn of_system(text: &[u8], port: u16, timeout: Duration) -> Plan {
        let (config, _not_understood) = resolv_conf::Config::parse_with_errors(text);
        let resolvers = config.get_nameservers_or_local().into_iter();
        let search = config.get_last_search_or_domain();
        let tries = config.attempts.clamp(1, 5);
        let asked = Duration::from_secs(u64::from(config.timeout.clamp(1, 30))) * tries;
        Plan {
            resolvers: resolvers
                .filter_map(|ip| socket_address(ip, port))
                .take(RESOLVERS_MAX)
                .collect(),
            rotate: config.rotate,
            tries,
            timeout: asked.min(timeout),
            no_ipv6: config.no_aaaa,
            search: search
                .filter_map(|domain| Name::from_ascii(domain).ok())
                .take(SEARCH_MAX)
                .collect(),
            ndots: usize::try_from(config.ndots.min(15)).unwrap_or(1),
        }
    }

    /// The complete names that a name may mean, in the order to try them.
    pub(super) fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut as_it_is = name.clone();
        as_it_is.set_fqdn(true);
        if name.is_fqdn() || self.search.is_empty() {
            return vec![as_it_is];
        }
        let longer = |domain: &Name| name.clone().append_domain(domain).ok();
        let mut candidates: Vec<Name> = self.search.iter().filter_map(longer).collect();
        let dots = name.iter().count().saturating_sub(1);
        let place = if dots >= self.ndots { 0 } else { candidates.len() };
        candidates.insert(place, as_it_is);
        candidates
    }
}

/// An interface of a link-local address is understood as a number only.
fn socket_address(ip: ScopedIp, port: u16) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(ip) => Some((ip, port).into()),
        ScopedIp::V6(ip, None) => Some((ip, port).into()),
        ScopedIp::V6(ip, Some(scope)) => {
            let scope = scope.parse().ok()?;
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(8);

    fn candidates(conf: &str, name: &str) -> Vec<String> {
        let plan = Plan::of_system(conf.as_bytes(), 53, TIMEOUT);
        let names = plan.candidates(&Name::from_ascii(name).unwrap());
        names.iter().map(Name::to_string).collect()
    }

    #[test]
    fn search_lists() {
        let conf = "nameserver 10.0.0.1\nsearch ns.svc.test svc.test\n";
        assert_eq!(candidates(conf, "c2s"), ["c2s.ns.svc.test.", "c2s.svc.test.", "c2s."]);
        assert_eq!(
            candidates(conf, "c2s.ns"),
            ["c2s.ns.", "c2s.ns.ns.svc.test.", "c2s.ns.svc.test."]
        );
        assert_eq!(candidates(conf, "c2s."), ["c2s."]);
        let five = "search svc.test\noptions ndots:5\n";
        assert_eq!(candidates(five, "_a._tcp.b.c"), ["_a._tcp.b.c.svc.test.", "_a._tcp.b.c."]);
        // The last of both lines counts, and a search list may be empty.
        assert_eq!(candidates("search a.test\ndomain b.test\n", "c"), ["c.b.test.", "c."]);
        assert_eq!(candidates("", "c"), ["c."]);
    }

    #[test]
    fn resolvers_and_options() {
        let conf = "nameserver 10.0.0.1\nnameserver fe80::1%2\nnameserver fe80::1%eth0\n\
                    nonsense\nnameserver ::1\nnameserver 10.0.0.9\n\
                    options timeout:2 attempts:2 rotate no-aaaa\n";
        let plan = Plan::of_system(conf.as_bytes(), 53, TIMEOUT);
        let named: Vec<String> = plan.resolvers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(named, ["10.0.0.1:53", "[fe80::1%2]:53", "[::1]:53"]);
        assert_eq!((plan.tries, plan.timeout), (2, Duration::from_secs(4)));
        assert!(plan.rotate && plan.no_ipv6);
        let default = Plan::of_system(b"", 5353, TIMEOUT);
        assert_eq!(default.resolvers[0], "127.0.0.1:5353".parse().unwrap());
        assert_eq!((default.tries, default.timeout), (2, TIMEOUT));
    }
}
