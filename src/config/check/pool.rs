//! `[pool.NAME]`

use std::collections::HashMap;
use std::net::IpAddr;

use super::health::{RawHealth, RawLimits, overrides};
use super::{Checker, Declared, count_u32};
use crate::balance::{Algorithm, Excess, Factor};
use crate::config::document::{Path, quote};
use crate::config::fault::Problem;
use crate::config::quantity::{Count, Ratio};
use crate::config::shape::{Entries, Shape, Slot};
use crate::config::share::PerSecond;
use crate::config::value::{Keepalive, OneOf, ProxyOut};
use crate::config::{
    Address, Backend, BackendState, Health, OnDown, OnRemove, Pool, SocketOptions, limits, raw,
};

/// What becomes of sessions whose backend is taken away; `None` for what is wrong.
struct OnRemoval {
    on_remove: Option<OnRemove>,
    close_rate: Option<u32>,
}

impl Checker<'_> {
    /// Every pool in file order.
    pub(super) fn pools(
        &mut self,
        slot: Slot<Entries<raw::Pool>>,
        path: &Path,
    ) -> Option<Vec<Pool>> {
        let valid = "at least one table [pool.NAME]";
        let Entries(mut entries) = self.required(slot, path, valid)?;
        if entries.is_empty() {
            self.missing(path, valid);
        }
        // The TOML library sorts tables by name; a pool's place in the file is its key's.
        entries.sort_by_key(|(name, _)| self.document.key_offset(&path.key(name)));
        let mut declared = Vec::new();
        let mut pools = Vec::new();
        for (name, slot) in entries {
            let path = path.key(&name);
            let named = self.name_checked(&name, &path);
            let mut raw = self.take(slot, &path);
            let health = raw.as_mut().map(|raw| std::mem::take(&mut raw.health));
            self.pending_checks.push((path.key("health"), health.unwrap_or_default()));
            let balance = raw.as_ref().and_then(|raw| match raw.balance {
                Slot::Present(OneOf(balance)) => Some(balance),
                Slot::Absent | Slot::Wrong(_) => None,
            });
            let pool = raw.and_then(|raw| self.pool(raw, &name, &path)).filter(|_| named);
            pools.push(pool);
            declared.push(Declared { name, path, balance, used: false });
        }
        self.declared = Some(declared);
        pools.into_iter().collect()
    }

    /// A file without pools, which is good enough for some.
    pub(super) fn no_pools(&mut self) -> Option<Vec<Pool>> {
        self.declared = Some(Vec::new());
        Some(Vec::new())
    }

    fn pool(&mut self, raw: raw::Pool, name: &str, path: &Path) -> Option<Pool> {
        let names = OneOf::<Algorithm>::expected();
        let balance = self.required(raw.balance, &path.key("balance"), &names).map(|one| one.0);
        let on_down = self.on_down(raw.on_down, &path.key("on_down"), balance);
        let bounded_load = self.bounded_load(raw.bounded_load, &path.key("bounded_load"), balance);
        let connect_timeout =
            self.within(raw.connect_timeout, &path.key("connect_timeout"), limits::CONNECT_TIMEOUT);
        let retries = self.within(raw.retries, &path.key("retries"), limits::RETRIES);
        let fail_timeout =
            self.within(raw.fail_timeout, &path.key("fail_timeout"), limits::FAIL_TIMEOUT);
        let idle_timeout =
            self.within(raw.idle_timeout, &path.key("idle_timeout"), limits::IDLE_TIMEOUT);
        let warm = self.within(raw.warm, &path.key("warm"), limits::WARM);
        let user_timeout = self.within(
            raw.tcp_user_timeout,
            &path.key("tcp_user_timeout"),
            limits::TCP_USER_TIMEOUT,
        );
        let keepalive = self.keepalive(raw.tcp_keepalive, &path.key("tcp_keepalive"));
        let proxy = self.or(raw.proxy_protocol, &path.key("proxy_protocol"), OneOf(ProxyOut::Off));
        let sources = self.sources(raw.source_addresses, &path.key("source_addresses"));
        let OnRemoval { on_remove, close_rate } =
            self.on_removal(raw.on_remove, raw.close_rate, path);
        let stored = !matches!(raw.source, Slot::Absent);
        let pinned = match raw.backends {
            Slot::Absent if stored => Some(Vec::new()),
            backends => self.backends(backends, &path.key("backends")),
        };
        let mut backends = pinned;
        let mut nobody = Vec::new();
        let pins = backends.as_mut().unwrap_or(&mut nobody);
        let stores = self.pool_sources(raw.source, &path.key("source"), pins);
        let limits = RawLimits { connections: raw.max_connections, rate: raw.connect_rate };
        let health = RawHealth {
            ejection: raw.ejection,
            panic_threshold: raw.panic_threshold,
            slow_start: raw.slow_start,
            limits,
            queue: raw.admission_queue,
            queue_timeout: raw.admission_timeout,
        };
        let tls = self.pool_tls(raw.tls, &path.key("tls"));
        let own = std::mem::take(&mut self.own_limits);
        let health = self.health(health, path).map(|health| {
            let overrides = overrides(own, health.limits);
            Health { overrides, ..health }
        });
        if let Some(backends) = &backends {
            self.suited(backends, (sources.as_deref(), balance), path);
        }
        Some(Pool {
            name: name.to_string(),
            balance: balance?,
            on_down: on_down?,
            bounded_load: bounded_load?,
            connect_timeout: connect_timeout?,
            retries: count_u32(retries)?,
            fail_timeout: fail_timeout?,
            idle_timeout: idle_timeout?,
            warm: count_u32(warm)?,
            socket: SocketOptions { user_timeout: user_timeout?, keepalive: keepalive? },
            proxy_out: proxy?.0 == ProxyOut::Version2,
            source_addresses: sources?,
            on_remove: on_remove?,
            close_rate: close_rate?,
            sources: stores?,
            tls: tls?,
            health: health?,
            backends: backends?,
        })
    }

    /// `None` when it is wrong; `Some(None)` when it is off.
    pub(super) fn keepalive(
        &mut self,
        slot: Slot<Keepalive>,
        path: &Path,
    ) -> Option<Option<std::time::Duration>> {
        match self.or(slot, path, Keepalive::Off)?.within(&limits::TCP_KEEPALIVE) {
            Ok(keepalive) => Some(keepalive),
            Err(problem) => {
                self.wrong(path, problem);
                None
            }
        }
    }

    fn on_down(
        &mut self,
        slot: Slot<OneOf<OnDown>>,
        path: &Path,
        balance: Option<Algorithm>,
    ) -> Option<OnDown> {
        let written = !matches!(slot, Slot::Absent);
        let OneOf(on_down) = self.or(slot, path, OneOf(OnDown::Reject))?;
        if written {
            self.keyed_only(balance, path, "remove it: backends that are down are passed over");
        }
        Some(on_down)
    }

    /// `None` when it is wrong; `Some(None)` when there is no bound.
    fn bounded_load(
        &mut self,
        slot: Slot<Ratio>,
        path: &Path,
        balance: Option<Algorithm>,
    ) -> Option<Option<Factor>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let Ratio(hundredths) = self.within(slot, path, limits::BOUNDED_LOAD)?;
        self.keyed_only(balance, path, "remove it, or choose a balance by key");
        Some(Some(Factor(hundredths)))
    }

    fn keyed_only(&mut self, balance: Option<Algorithm>, path: &Path, valid: &str) {
        if let Some(balance) = balance.filter(|balance| !balance.is_keyed()) {
            let what = format!(
                "has no meaning for {}, which gives no key a backend of its own",
                balance.name()
            );
            self.relation(path, Problem::new(what, valid));
        }
    }

    fn on_removal(
        &mut self,
        on_remove: Slot<OneOf<OnRemove>>,
        close_rate: Slot<PerSecond>,
        path: &Path,
    ) -> OnRemoval {
        let on_remove = self.or(on_remove, &path.key("on_remove"), OneOf(OnRemove::Keep));
        let close_rate = self.within(close_rate, &path.key("close_rate"), limits::CLOSE_RATE);
        OnRemoval {
            on_remove: on_remove.map(|OneOf(on_remove)| on_remove),
            close_rate: close_rate.map(|PerSecond(rate)| rate),
        }
    }

    fn sources(&mut self, slot: Slot<Vec<Slot<IpAddr>>>, path: &Path) -> Option<Vec<IpAddr>> {
        let list = self.or(slot, path, Vec::new())?;
        let (entries, complete) = self.entries(list, path);
        let mut sources = Vec::new();
        for (path, source) in entries {
            if source.is_unspecified() || source.is_multicast() {
                let valid = "an address of this host";
                self.wrong(&path, Problem::new("not an address to connect from", valid));
            } else if sources.contains(&source) {
                self.relation(&path, Problem::new("listed twice", "each address once"));
            } else {
                sources.push(source);
            }
        }
        complete.then_some(sources)
    }

    /// What source addresses and the algorithm make of the backends.
    fn suited(
        &mut self,
        backends: &[Backend],
        (sources, balance): (Option<&[IpAddr]>, Option<Algorithm>),
        path: &Path,
    ) {
        if let Some(sources) = sources {
            self.families(sources, backends, &path.key("source_addresses"));
        }
        if let Some(balance) = balance {
            self.weights(balance, backends, &path.key("backends"));
        }
    }

    /// A backend that no source address can reach would fail at its first session.
    fn families(&mut self, sources: &[IpAddr], backends: &[Backend], path: &Path) {
        if sources.is_empty() {
            return;
        }
        for backend in backends {
            let Address::Tcp(address) = &backend.address else { continue };
            if !sources.iter().any(|source| source.is_ipv4() == address.is_ipv4()) {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                let what = format!("no {family} address to reach backend {address} from");
                let valid = format!("at least one {family} address besides");
                self.relation(path, Problem::new(what, valid));
                return;
            }
        }
    }

    pub(super) fn backends(
        &mut self,
        slot: Slot<Vec<Slot<raw::Backend>>>,
        path: &Path,
    ) -> Option<Vec<Backend>> {
        let valid = "a list of addresses, such as [\"10.0.0.1:7000\", \"10.0.0.2:7000\"], or \
                     a source beside it";
        let list = self.required(slot, path, valid)?;
        if list.is_empty() {
            self.wrong(path, Problem::new("no backends", valid));
        }
        self.backends_listed(list, path)
    }

    /// The backends of a list, which may be empty where it is no pool's only one.
    pub(super) fn backends_listed(
        &mut self,
        list: Vec<Slot<raw::Backend>>,
        path: &Path,
    ) -> Option<Vec<Backend>> {
        let mut backends = Vec::new();
        for (index, slot) in list.into_iter().enumerate() {
            let path = path.index(index);
            let backend = match self.take(slot, &path) {
                None => None,
                Some(raw::Backend::Address(address)) => {
                    let weight = limits::WEIGHT.default;
                    self.backend(Some(address), weight, &path)
                }
                Some(raw::Backend::Table(raw)) => self.backend_table(*raw, &path),
            };
            backends.push(backend);
        }
        self.duplicates(&backends, path);
        backends.into_iter().collect()
    }

    fn backend_table(&mut self, raw: raw::BackendTable, path: &Path) -> Option<Backend> {
        let valid = "\"IP:PORT\", \"[IPv6]:PORT\" or \"unix:/PATH\"";
        let address_path = path.key("address");
        let address = self.required(raw.address, &address_path, valid);
        let weight = self.within(raw.weight, &path.key("weight"), limits::WEIGHT);
        let state = self.or(raw.state, &path.key("state"), OneOf(BackendState::Ready));
        let limits = RawLimits { connections: raw.max_connections, rate: raw.connect_rate };
        let limits = self.backend_limits(limits, path);
        let backend = self.backend(address, weight, &address_path)?;
        self.own_limits.push((backend.address.clone(), limits?));
        Some(Backend { state: state?.0, ..backend })
    }

    fn backend(
        &mut self,
        address: Option<Address>,
        weight: Option<Count>,
        path: &Path,
    ) -> Option<Backend> {
        let address = address?;
        if let Address::Tcp(tcp) = &address
            && tcp.port() == 0
        {
            self.wrong(path, Problem::new("port 0", "the port the backend listens on, 1 to 65535"));
            return None;
        }
        let weight = count_u32(weight)?;
        Some(Backend { address, weight, state: BackendState::Ready })
    }

    fn duplicates(&mut self, backends: &[Option<Backend>], path: &Path) {
        let mut places = HashMap::new();
        for (index, backend) in backends.iter().enumerate() {
            let Some(backend) = backend else { continue };
            let first = *places.entry(&backend.address).or_insert(index);
            if first != index {
                let what = format!("{} is listed already, as entry {first}", backend.address);
                let valid = "each address once; weight gives one a larger share";
                self.relation(&path.index(index), Problem::new(what, valid).without_found());
            }
        }
    }

    /// What the algorithm makes of the weights: nothing, or too much.
    fn weights(&mut self, balance: Algorithm, backends: &[Backend], path: &Path) {
        let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
        if balance.ignores_weights() && weights.iter().any(|weight| *weight != 1) {
            let what = format!(
                "{} ignores weights: every backend owns the same share of keys",
                balance.name()
            );
            let valid = "leave weight out, or choose another balance";
            self.warn(path, Problem::new(what, valid));
        }
        if let Some(Excess { what, found, most }) = balance.excess(&weights) {
            let what = format!("too much for {}: {what}: {found}", balance.name());
            let valid = format!("at most {most}: smaller weights, or another balance");
            self.relation(path, Problem::new(what, valid).without_found());
        }
    }

    /// The index of the pool called `name`, which is thereby in use.
    pub(super) fn pool_index(&mut self, name: &str, path: &Path) -> Option<usize> {
        let declared = self.declared.as_mut()?;
        if let Some(index) = declared.iter().position(|pool| pool.name == name) {
            declared[index].used = true;
            return Some(index);
        }
        let names: Vec<&str> = declared.iter().map(|pool| pool.name.as_str()).collect();
        let mut problem = Problem::unknown_name("pool", name, &names);
        problem.what = format!("no pool is called {}", quote(name));
        self.relation(path, problem.without_found());
        None
    }

    /// A pool that nothing names is most often a misspelt name elsewhere.
    pub(super) fn pools_unused(&mut self) {
        let unused = self.declared.iter().flatten().filter(|pool| !pool.used);
        let paths: Vec<Path> = unused.map(|pool| pool.path.clone()).collect();
        for path in paths {
            let valid = "name it in a listener's pool or missing_key, or remove it";
            self.warn(&path, Problem::new("no listener uses this pool", valid));
        }
    }
}
