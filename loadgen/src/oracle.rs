//! Where each device must land: the gateway's table, read from its configuration, and the hash,
//! computed here without the gateway's code.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};
use corelane::balance::Algorithm;
use corelane::config::{Address, BackendState, Config, Environment, Listener, OnDown, Pool};
use serde::Serialize;

/// Cores a configuration may name.
const CORES_MAX: usize = 4_096;

/// Where a device must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// At the backend with this index.
    At(usize),
    /// Anywhere: nothing is known, or the configuration leaves it open.
    Open,
    /// Nowhere: its backend is down and the pool's `on_down` is `reject`.
    Refused,
}

/// What a table looks like and how much of it can be checked.
#[derive(Debug, Clone, Serialize)]
pub struct Routes {
    /// Backend addresses in the table's order.
    pub backends: Vec<String>,
    /// Why nothing can be checked, or what is left out.
    pub remark: Option<String>,
    /// Pool and algorithm, as the configuration names them.
    pub pool: Option<String>,
    #[serde(skip)]
    rule: Rule,
    #[serde(skip)]
    down: Vec<bool>,
    #[serde(skip)]
    index: HashMap<String, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Crc32Mod(OnDown),
    Unknown,
}

impl Routes {
    /// No table: every place is right.
    pub fn unknown(remark: &str) -> Routes {
        Routes {
            backends: Vec::new(),
            remark: Some(remark.into()),
            pool: None,
            rule: Rule::Unknown,
            down: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// `crc32(devid) % N` over these addresses, all of them up.
    pub fn crc32_mod(backends: &[SocketAddr]) -> Routes {
        let names: Vec<String> = backends.iter().map(SocketAddr::to_string).collect();
        Routes {
            index: index(&names),
            down: vec![false; names.len()],
            backends: names,
            remark: None,
            pool: None,
            rule: Rule::Crc32Mod(OnDown::Reject),
        }
    }

    /// The table of the listener at `target`, or of the only listener.
    pub fn of_gateway(config: &Config, target: Option<SocketAddr>) -> anyhow::Result<Routes> {
        let listener = find_listener(config, target)?;
        let pool = listener
            .pool
            .and_then(|index| config.pools.get(index))
            .with_context(|| format!("listener {} names no pool", listener.name))?;
        Ok(of_pool(pool))
    }

    /// Where this device must be.
    pub fn home(&self, devid: &[u8]) -> Home {
        let Rule::Crc32Mod(on_down) = self.rule else { return Home::Open };
        if self.backends.is_empty() {
            return Home::Open;
        }
        let place = crc32fast::hash(devid) as usize % self.backends.len();
        match (self.down[place], on_down) {
            (false, _) => Home::At(place),
            (true, OnDown::Next) => Home::Open,
            (true, OnDown::Reject) => Home::Refused,
        }
    }

    /// The index of a backend by what it calls itself.
    pub fn place_of(&self, server: &str) -> Option<usize> {
        self.index.get(server).copied()
    }

    /// The backends' addresses; fails for UNIX sockets, which devices cannot reach directly.
    pub fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        self.backends
            .iter()
            .map(|name| name.parse().with_context(|| format!("backend {name} is no TCP address")))
            .collect()
    }
}

fn index(names: &[String]) -> HashMap<String, usize> {
    names.iter().cloned().enumerate().map(|(place, name)| (name, place)).collect()
}

fn of_pool(pool: &Pool) -> Routes {
    let backends: Vec<String> = pool.backends.iter().map(|b| b.address.to_string()).collect();
    let down: Vec<bool> = pool.backends.iter().map(|b| b.state == BackendState::Down).collect();
    let mut remark = None;
    if down.contains(&true) {
        let fate = match pool.on_down {
            OnDown::Reject => "refuses them: their devices are not started",
            OnDown::Next => "moves them: their devices are not checked",
        };
        remark = Some(format!("pool {} has keys of backends that are down and {fate}", pool.name));
    }
    let rule = match pool.balance {
        Algorithm::Crc32Mod => Rule::Crc32Mod(pool.on_down),
        other => {
            let name = other.name();
            remark = Some(format!("pool {} uses {name}: any backend is right", pool.name));
            Rule::Unknown
        }
    };
    let pool = Some(format!("{} ({})", pool.name, pool.balance.name()));
    Routes { index: index(&backends), backends, down, remark, pool, rule }
}

fn find_listener(config: &Config, target: Option<SocketAddr>) -> anyhow::Result<&Listener> {
    let binds = |listener: &Listener, target: SocketAddr| {
        listener.bind.iter().any(|address| match address {
            Address::Tcp(bound) => {
                bound.port() == target.port()
                    && (bound.ip() == target.ip() || bound.ip().is_unspecified())
            }
            Address::Unix(_) => false,
        })
    };
    let found = target.and_then(|at| config.listeners.iter().find(|l| binds(l, at)));
    match (found, config.listeners.as_slice()) {
        (Some(listener), _) | (None, [listener]) => Ok(listener),
        _ => bail!("no listener of the configuration is bound to the target"),
    }
}

/// Reads the gateway's configuration.
///
/// It is checked for what it says, not for this process: the gateway may run on other cores and
/// with more descriptors than we have.
pub fn read_gateway(path: &Path) -> anyhow::Result<Config> {
    let environment = Environment {
        variable: &|name| std::env::var(name).ok(),
        cores: (0..CORES_MAX).collect(),
        descriptors_max: u64::MAX,
    };
    let loaded = corelane::config::load(path, &environment)
        .context("the gateway's configuration cannot be used")?;
    Ok(loaded.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (0..count).map(|n| SocketAddr::from(([127, 0, 0, 1], 1_000 + n))).collect()
    }

    #[test]
    fn published_hashes_decide() {
        // crc32("123456789") = 0xCBF43926, crc32("") = 0, crc32("868120212345678") = 3002054893.
        let routes = Routes::crc32_mod(&addresses(3));
        assert_eq!(routes.home(b"123456789"), Home::At(0xCBF4_3926_usize % 3));
        assert_eq!(routes.home(b""), Home::At(0));
        assert_eq!(routes.home(b"868120212345678"), Home::At(3_002_054_893_usize % 3));
        assert_eq!(routes.place_of("127.0.0.1:1002"), Some(2));
        assert_eq!(routes.place_of("127.0.0.1:1003"), None);
    }

    #[test]
    fn without_a_table_every_place_is_right() {
        assert_eq!(Routes::unknown("none given").home(b"x"), Home::Open);
        assert_eq!(Routes::crc32_mod(&[]).home(b"x"), Home::Open);
    }

    #[test]
    fn backends_that_are_down_keep_their_place_in_the_count() {
        let mut routes = Routes::crc32_mod(&addresses(2));
        routes.down[1] = true;
        let homes: Vec<Home> = (0..40).map(|n| routes.home(format!("d{n}").as_bytes())).collect();
        assert!(homes.contains(&Home::At(0)) && homes.contains(&Home::Refused));
        routes.rule = Rule::Crc32Mod(OnDown::Next);
        let moved: Vec<Home> = (0..40).map(|n| routes.home(format!("d{n}").as_bytes())).collect();
        for (before, after) in homes.iter().zip(&moved) {
            match before {
                Home::Refused => assert_eq!(*after, Home::Open),
                other => assert_eq!(after, other),
            }
        }
    }
}
