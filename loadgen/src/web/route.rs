//! Which backend a request belongs to: by the key on the command line, or by the gateway's rules.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use corelane::config::{Config, Protocol};
use corelane::http::rule::{Rule, Target};

use crate::cli::WebArgs;
use crate::oracle::{Home, Routes, find_listener};
use crate::template::Template;

mod rules;

pub use rules::Asking;

/// What decides.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Nothing known: any backend is right.
    Unknown,
    /// As the command line says.
    Given(Template),
    /// The gateway's rules, and the tables of the pools that they name.
    Rules(Vec<Rule>, BTreeMap<usize, Routes>),
}

/// The keys of requests like these and the table they are looked up in.
///
/// # Errors
/// When the configuration has no such listener, or there is nothing to look a key up in.
pub fn of(args: &WebArgs, gateway: Option<&Config>) -> anyhow::Result<(Keys, Option<Routes>)> {
    let given = args.key.clone().map_or(Keys::Unknown, Keys::Given);
    let Some(config) = gateway else {
        if args.direct.as_ref().is_none_or(Vec::is_empty) && args.key.is_some() {
            bail!("--key needs a table: --config, or addresses behind --direct");
        }
        return Ok((given, None));
    };
    let target = args.target.first().copied();
    let listener = find_listener(config, target)?;
    let Protocol::Http(http) = &listener.protocol else {
        return Ok((given, Some(Routes::of_gateway(config, target)?)));
    };
    if args.key.is_some() {
        bail!("--key: the rules of listener {} say what is balanced by", listener.name);
    }
    let mut tables = BTreeMap::new();
    for rule in &http.rules {
        if let Target::Pool { pool, .. } = rule.target {
            let found = config.pools.get(pool);
            let found = found.with_context(|| format!("rule {} names no pool", rule.name))?;
            tables.insert(pool, Routes::of_pool(found));
        }
    }
    let all = Routes::of_tables(tables.values());
    Ok((Keys::Rules(http.rules.clone(), tables), Some(all)))
}

impl Keys {
    /// Where this request must land, as a place in `routes`. What the rules leave open, or what we
    /// cannot tell as surely as the gateway, may land anywhere.
    pub fn home(&self, routes: &Routes, number: u64, asking: impl Fn() -> Option<Asking>) -> Home {
        match self {
            Keys::Unknown => Home::Open,
            Keys::Given(key) => routes.home(key.fill(number).as_bytes()),
            Keys::Rules(rules, tables) => {
                let decided = asking().and_then(|asking| rules::pool_and_key(rules, &asking));
                let Some((pool, key)) = decided else { return Home::Open };
                let Some(table) = tables.get(&pool) else { return Home::Open };
                match table.home(key.as_bytes()) {
                    Home::At(place) => {
                        let name = table.backends.get(place);
                        let place = name.and_then(|name| routes.place_of(name));
                        place.map_or(Home::Open, Home::At)
                    }
                    other => other,
                }
            }
        }
    }

    /// Says in the report what cannot be checked.
    pub fn remark(&self, routes: &mut Routes) {
        if matches!(self, Keys::Unknown) && routes.remark.is_none() {
            routes.remark = Some("places are not checked without a key (--key)".into());
        }
    }
}
