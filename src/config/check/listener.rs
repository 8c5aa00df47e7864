//! `[[listener]]`

use std::collections::BTreeMap;

use tokio_rustls::rustls::pki_types::DnsName;

use super::frame::FrameSettings;
use super::probe::Header;
use super::{Checker, NAME_VALID, count_u32};
use crate::balance::Algorithm;
use crate::config::document::{Path, quote};
use crate::config::fault::Problem;
use crate::config::shape::{Entries, Shape, Slot};
use crate::config::value::{OneOf, ProtocolName, TcpKeyName, Trusted};
use crate::config::{
    Address, Listener, MissingKey, Protocol, ProxyIn, ProxyOthers, SniKey, SocketOptions, TcpKey,
    limits, raw,
};

/// The tables of a listener that say what its first bytes are.
struct Preface {
    protocol: Option<ProtocolName>,
    frame: Slot<raw::Frame>,
    tcp: Slot<raw::Tcp>,
    http: Slot<raw::Http>,
}

impl Checker<'_> {
    /// Every listener in file order.
    pub(super) fn listeners(
        &mut self,
        slot: Slot<Vec<Slot<raw::Listener>>>,
        path: &Path,
    ) -> Option<Vec<Listener>> {
        let valid = "at least one table [[listener]]";
        let list = self.required(slot, path, valid)?;
        if list.is_empty() {
            self.missing(path, valid);
        }
        let mut names: Vec<String> = Vec::new();
        let mut listeners = Vec::new();
        for (index, slot) in list.into_iter().enumerate() {
            let path = path.index(index);
            let Some(raw) = self.take(slot, &path) else {
                listeners.push(None);
                continue;
            };
            if let Slot::Present(name) = &raw.name {
                let path = path.key("name");
                if self.name_checked(name, &path) && names.contains(name) {
                    let what = "another listener has this name";
                    self.relation(&path, Problem::new(what, "a name of its own"));
                }
                names.push(name.clone());
            }
            listeners.push(self.listener(raw, &path));
        }
        listeners.into_iter().collect()
    }

    fn listener(&mut self, raw: raw::Listener, path: &Path) -> Option<Listener> {
        let name = self.required(raw.name, &path.key("name"), NAME_VALID);
        let bind = self.bind(raw.bind, &path.key("bind"));
        let names = OneOf::<ProtocolName>::expected();
        let protocol = self.required(raw.protocol, &path.key("protocol"), &names);
        let named = protocol.map(|OneOf(protocol)| protocol);
        let keyed = named == Some(ProtocolName::Frame) || !matches!(raw.tcp, Slot::Absent);
        let by_lookup = !matches!(raw.lookup, Slot::Absent);
        let lookup = self.lookup_of_listener(raw.lookup, path, (named, keyed));
        let pool = match by_lookup && matches!(raw.pool, Slot::Absent) {
            true => Some(None),
            false => self.pool_of_listener(raw.pool, &path.key("pool"), named),
        };
        if by_lookup && pool.flatten().is_some() {
            let what = "a listener has a pool or a lookup, not both";
            self.relation(&path.key("lookup"), Problem::new(what, "remove one of them"));
        }
        let backlog = self.within(raw.backlog, &path.key("backlog"), limits::BACKLOG);
        let user_timeout = self.within(
            raw.tcp_user_timeout,
            &path.key("tcp_user_timeout"),
            limits::TCP_USER_TIMEOUT,
        );
        let keepalive = self.keepalive(raw.tcp_keepalive, &path.key("tcp_keepalive"));
        let preface = Preface { protocol: named, frame: raw.frame, tcp: raw.tcp, http: raw.http };
        let protocol = self.protocol(preface, path, pool.flatten());
        if let Some(name) = &name {
            let header = match &protocol {
                Some(Protocol::Frame(frame)) => Header::Of(frame.rules.layout.clone()),
                Some(Protocol::Tcp { .. } | Protocol::Http(_)) => Header::None,
                None => Header::Unknown,
            };
            self.headers.push((name.clone(), header));
        }
        let proxy = self.proxy(raw.proxy_protocol, &path.key("proxy_protocol"), named);
        let tls = self.listener_tls(raw.tls, &path.key("tls"), named);
        Some(Listener {
            name: name?,
            bind: bind?,
            protocol: protocol?,
            pool: pool?,
            lookup: lookup?,
            backlog: count_u32(backlog)?,
            socket: SocketOptions { user_timeout: user_timeout?, keepalive: keepalive? },
            proxy: proxy?,
            tls: tls?,
        })
    }

    fn bind(&mut self, slot: Slot<Vec<Slot<Address>>>, path: &Path) -> Option<Vec<Address>> {
        let valid = "a list of addresses, such as [\"0.0.0.0:9000\"]";
        let list = self.required(slot, path, valid)?;
        if list.is_empty() {
            self.wrong(path, Problem::new("no addresses", valid));
        }
        let (entries, complete) = self.entries(list, path);
        self.bound.extend(entries.iter().cloned());
        complete.then(|| entries.into_iter().map(|(_, address)| address).collect())
    }

    /// `Some(None)` without one; `keyed`: the listener finds out a key.
    fn lookup_of_listener(
        &mut self,
        slot: Slot<String>,
        path: &Path,
        (protocol, keyed): (Option<ProtocolName>, bool),
    ) -> Option<Option<usize>> {
        let lookup_path = path.key("lookup");
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let name = self.take(slot, &lookup_path)?;
        if protocol == Some(ProtocolName::Http) {
            let what = "an http listener has no lookup of its own";
            self.relation(&lookup_path, Problem::new(what, "lookup in [[listener.http.rule]]"));
            return None;
        }
        self.lookup_by_key(&name, keyed, path).map(Some)
    }

    /// `Some(None)` for http, whose rules name pools.
    fn pool_of_listener(
        &mut self,
        slot: Slot<String>,
        path: &Path,
        protocol: Option<ProtocolName>,
    ) -> Option<Option<usize>> {
        if protocol == Some(ProtocolName::Http) {
            if !matches!(slot, Slot::Absent) {
                let what = "an http listener has no pool of its own";
                self.relation(path, Problem::new(what, "pool in [[listener.http.rule]]"));
            }
            return Some(None);
        }
        let name = self.required(slot, path, "the name of a pool")?;
        self.pool_index(&name, path).map(Some)
    }

    /// Checks every table whatever the protocol is, so that no fault waits for the next run.
    fn protocol(&mut self, raw: Preface, path: &Path, pool: Option<usize>) -> Option<Protocol> {
        let (frame_path, tcp_path) = (path.key("frame"), path.key("tcp"));
        let http_path = path.key("http");
        let framed = !matches!(raw.frame, Slot::Absent);
        let keyed_by_tcp = !matches!(raw.tcp, Slot::Absent);
        let ruled = !matches!(raw.http, Slot::Absent);
        let frame = self.take(raw.frame, &frame_path).map(|raw| self.frame(raw, &frame_path));
        let tcp = self.take(raw.tcp, &tcp_path).map(|raw| self.tcp(raw, &tcp_path));
        let http = self.take(raw.http, &http_path).map(|raw| self.http_listener(raw, &http_path));
        let protocol = raw.protocol?;
        let tables = [
            (framed, &frame_path, ProtocolName::Frame, "frame"),
            (keyed_by_tcp, &tcp_path, ProtocolName::Tcp, "tcp"),
            (ruled, &http_path, ProtocolName::Http, "http"),
        ];
        for (written, path, of, name) in tables {
            if written && of != protocol {
                self.other_protocol(path, name);
            }
        }
        match protocol {
            ProtocolName::Frame => {
                if !framed {
                    let valid = "a table [listener.frame] with header, fields and key";
                    self.missing(&frame_path, valid);
                }
                let FrameSettings { listener, missing_key } = frame??;
                if let Some(target) = missing_key {
                    self.keyless_to_one(target, &frame_path.key("missing_key"));
                }
                Some(Protocol::Frame(Box::new(listener)))
            }
            ProtocolName::Tcp => {
                if !keyed_by_tcp {
                    self.key_needed(pool, path);
                    return Some(Protocol::Tcp { key: None });
                }
                tcp?.map(|key| Protocol::Tcp { key: Some(key) })
            }
            ProtocolName::Http => {
                if !ruled {
                    self.missing(&http_path, "a table [listener.http] with rules");
                }
                http?.map(|http| Protocol::Http(Box::new(http)))
            }
        }
    }

    fn tcp(&mut self, raw: raw::Tcp, path: &Path) -> Option<TcpKey> {
        let names = OneOf::<TcpKeyName>::expected();
        let key = self.required(raw.key, &path.key("key"), &names).map(|OneOf(key)| key);
        let only_sni = [
            ("missing_key", !matches!(raw.missing_key, Slot::Absent)),
            ("timeout", !matches!(raw.timeout, Slot::Absent)),
            ("names", !matches!(raw.names, Slot::Absent)),
        ];
        let missing_path = path.key("missing_key");
        let missing_key = self.missing_key(raw.missing_key, &missing_path);
        let timeout = self.within(raw.timeout, &path.key("timeout"), limits::SNI_TIMEOUT);
        let names = self.sni_names(raw.names, &path.key("names"));
        match key? {
            TcpKeyName::ClientIp => {
                for (name, _) in only_sni.into_iter().filter(|(_, written)| *written) {
                    let problem = Problem::new("only for key = \"sni\"", "remove it");
                    self.relation(&path.key(name), problem.without_found());
                }
                Some(TcpKey::ClientIp)
            }
            TcpKeyName::Sni => {
                let missing_key = missing_key?;
                if let MissingKey::Pool(pool) = missing_key {
                    self.keyless_to_one(pool, &missing_path);
                }
                let key = SniKey { missing_key, timeout: timeout?, names: names? };
                Some(TcpKey::Sni(Box::new(key)))
            }
        }
    }

    fn sni_names(
        &mut self,
        slot: Slot<Entries<String>>,
        path: &Path,
    ) -> Option<BTreeMap<String, usize>> {
        let Entries(entries) = self.or(slot, path, Entries::default())?;
        let count = entries.len();
        let mut names = BTreeMap::new();
        for (name, slot) in entries {
            let path = path.key(&name);
            let plain = name.strip_prefix("*.").unwrap_or(&name);
            let is_name = DnsName::try_from(plain).is_ok() && !plain.ends_with('.');
            if !is_name {
                let valid = "a DNS name, or \"*.\" and one";
                self.wrong(&path, Problem::new("not a name", valid).without_found());
            }
            let pool = self.take(slot, &path).and_then(|pool| self.pool_index(&pool, &path));
            if let Some(pool) = pool.filter(|_| is_name)
                && names.insert(name.to_ascii_lowercase(), pool).is_some()
            {
                let problem = Problem::new("listed twice", "each name once");
                self.relation(&path, problem.without_found());
            }
        }
        (names.len() == count).then_some(names)
    }

    fn other_protocol(&mut self, path: &Path, protocol: &str) {
        let what = format!("only for protocol \"{protocol}\"");
        let valid = "remove this table, or change the listener's protocol";
        self.relation(path, Problem::new(what, valid));
    }

    /// A keyed pool behind a listener that has no key would put every client on one backend.
    fn key_needed(&mut self, pool: Option<usize>, path: &Path) {
        let Some((pool, balance)) = self.keyed(pool) else { return };
        let what = format!(
            "pool {} balances by key ({}), and this tcp listener has none",
            quote(&pool),
            balance.name()
        );
        let unkeyed: Vec<&str> = Algorithm::NAMES
            .iter()
            .filter(|(_, algorithm)| !algorithm.is_keyed())
            .map(|(name, _)| *name)
            .collect();
        let valid = format!(
            "[listener.tcp] with key = \"client_ip\", or a pool with balance {}",
            unkeyed.join(", ")
        );
        self.relation(&path.key("pool"), Problem::new(what, valid).without_found());
    }

    /// Legal, but rarely meant: without a key every client hashes alike.
    fn keyless_to_one(&mut self, pool: usize, path: &Path) {
        let Some((pool, balance)) = self.keyed(Some(pool)) else { return };
        if balance.spreads_keyless() {
            return;
        }
        let what = format!(
            "clients without a key all go to one backend of pool {}, as {} gives the empty key one \
             home",
            quote(&pool),
            balance.name()
        );
        self.warn(path, Problem::new(what, "a pool that does not balance by key").without_found());
    }

    /// Name and algorithm of a pool if it needs a key.
    pub(super) fn keyed(&self, pool: Option<usize>) -> Option<(String, Algorithm)> {
        let pool = self.declared.as_ref()?.get(pool?)?;
        let balance = pool.balance.filter(|balance| balance.is_keyed())?;
        Some((pool.name.clone(), balance))
    }

    /// Whether a pool is known not to need a key.
    pub(super) fn balances_without_key(&self, pool: usize) -> bool {
        let declared = self.declared.as_ref().and_then(|pools| pools.get(pool));
        declared.and_then(|pool| pool.balance).is_some_and(|balance| !balance.is_keyed())
    }

    /// `Some(None)` when no PROXY protocol is expected.
    fn proxy(
        &mut self,
        slot: Slot<raw::ProxyProtocol>,
        path: &Path,
        protocol: Option<ProtocolName>,
    ) -> Option<Option<ProxyIn>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let raw = self.take(slot, path)?;
        let from_path = path.key("from");
        let valid = "a list of networks or addresses, such as [\"10.0.0.0/8\"], or [\"unix\"]";
        let from = self.required(raw.from, &from_path, valid).map(|list| {
            if list.is_empty() {
                self.wrong(&from_path, Problem::new("nobody is listed", valid));
            }
            self.entries(list, &from_path)
        });
        let others_path = path.key("others");
        let others = self.or(raw.others, &others_path, OneOf(ProxyOthers::Reject));
        if protocol == Some(ProtocolName::Tcp) && matches!(others, Some(OneOf(ProxyOthers::Plain)))
        {
            // Nothing looks at the first bytes: a forged header would reach the backend as data.
            let what = "a tcp listener cannot tell a forged PROXY header from data";
            let valid = "\"reject\", or a listener of its own for clients that send no header";
            self.relation(&others_path, Problem::new(what, valid));
        }
        let timeout = self.within(raw.timeout, &path.key("timeout"), limits::PROXY_TIMEOUT);
        let mut proxy =
            ProxyIn { from: Vec::new(), from_unix: false, others: others?.0, timeout: timeout? };
        let (from, complete) = from?;
        for (_, trusted) in from {
            match trusted {
                Trusted::Network(network) => proxy.from.push(network),
                Trusted::Unix => proxy.from_unix = true,
            }
        }
        complete.then_some(Some(proxy))
    }
}
