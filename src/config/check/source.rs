//! `[pool.NAME.source]`: what every kind has, and which keys are whose.

use std::time::Duration;

use super::{Checker, count_u32};
use crate::config::document::Path;
use crate::config::fault::{Problem, nearest};
use crate::config::quantity::Count;
use crate::config::shape::{OneOrMany, Shape, Slot};
use crate::config::share::Percent;
use crate::config::value::{KindName, OnEmptyText, OneOf};
use crate::config::{Backend, OnEmpty, Source, SourceKind, limits, raw};

const WATCHED: &[KindName] =
    &[KindName::File, KindName::Redis, KindName::Etcd, KindName::Consul, KindName::Dns];
const ASKED: &[KindName] = &[KindName::Redis, KindName::Etcd, KindName::Consul, KindName::Dns];
const READ_AGAIN: &[KindName] =
    &[KindName::File, KindName::Redis, KindName::Etcd, KindName::Consul];
const ENCRYPTED: &[KindName] = &[KindName::Redis, KindName::Etcd, KindName::Consul];
const WITH_PASSWORD: &[KindName] = &[KindName::Redis, KindName::Etcd];

/// Every key but `kind`, and the kinds that know it.
const KEYS: &[(&str, &[KindName])] = &[
    ("backends", &[KindName::Static]),
    ("path", &[KindName::File]),
    ("url", &[KindName::Redis, KindName::Consul]),
    ("key", &[KindName::Redis]),
    ("endpoints", &[KindName::Etcd]),
    ("prefix", &[KindName::Etcd]),
    ("service", &[KindName::Consul]),
    ("tag", &[KindName::Consul]),
    ("datacentre", &[KindName::Consul]),
    ("token_file", &[KindName::Consul]),
    ("wait", &[KindName::Consul]),
    ("max_lag", &[KindName::Consul]),
    ("name", &[KindName::Dns]),
    ("port", &[KindName::Dns]),
    ("srv", &[KindName::Dns]),
    ("resolvers", &[KindName::Dns]),
    ("min_ttl", &[KindName::Dns]),
    ("max_ttl", &[KindName::Dns]),
    ("username", WITH_PASSWORD),
    ("password", WITH_PASSWORD),
    ("password_file", WITH_PASSWORD),
    ("tls_ca_file", ENCRYPTED),
    ("tls_cert_file", ENCRYPTED),
    ("tls_key_file", ENCRYPTED),
    ("timeout", ASKED),
    ("resync", READ_AGAIN),
    ("settle", WATCHED),
    ("stale_after", WATCHED),
    ("on_empty", WATCHED),
    ("max_removal", WATCHED),
    ("removal_delay", WATCHED),
];

impl Checker<'_> {
    /// Every source of a pool in file order. `pinned` are the pool's own backends, to which those
    /// of static sources are added.
    pub(super) fn pool_sources(
        &mut self,
        slot: Slot<OneOrMany<raw::Source>>,
        path: &Path,
        pinned: &mut Vec<Backend>,
    ) -> Option<Vec<Source>> {
        let entries = match slot {
            Slot::Absent => return Some(Vec::new()),
            slot => match self.take(slot, path)? {
                OneOrMany::One(source) => vec![(path.clone(), Slot::Present(*source))],
                OneOrMany::Many(list) => {
                    let places = (0..list.len()).map(|index| path.index(index));
                    places.zip(list).collect()
                }
            },
        };
        if entries.is_empty() {
            self.wrong(path, Problem::new("no sources", "at least one, or no such key"));
        }
        let mut sources = Vec::new();
        for (path, slot) in entries {
            let raw = self.take(slot, &path);
            let source = raw.and_then(|raw| self.source(raw, &path));
            if let Some(Source { kind: SourceKind::Static(backends), .. }) = &source {
                self.pin(pinned, backends, &path.key("backends"));
            }
            sources.push(source);
        }
        sources.into_iter().collect()
    }

    fn pin(&mut self, pinned: &mut Vec<Backend>, backends: &[Backend], path: &Path) {
        for (index, backend) in backends.iter().enumerate() {
            if pinned.iter().any(|pinned| pinned.address == backend.address) {
                let what = format!("{} is pinned already", backend.address);
                let problem = Problem::new(what, "each address once").without_found();
                self.relation(&path.index(index), problem);
            } else {
                pinned.push(backend.clone());
            }
        }
    }

    fn source(&mut self, mut raw: raw::Source, path: &Path) -> Option<Source> {
        let names = OneOf::<KindName>::expected();
        let kind = self.required(std::mem::take(&mut raw.kind), &path.key("kind"), &names);
        let OneOf(kind) = kind?;
        let own = self.keys_of_kind(kind, path);
        let rules = self.source_rules(&mut raw, path);
        let stored = match kind {
            KindName::Static => {
                self.backends(raw.backends, &path.key("backends")).map(SourceKind::Static)
            }
            KindName::File => self.file_source(raw, path),
            KindName::Redis => self.redis_source(raw, path),
            KindName::Etcd => self.etcd_source(raw, path),
            KindName::Consul => self.consul_source(raw, path),
            KindName::Dns => self.dns_source(raw, path),
        };
        let source = Source { kind: stored?, ..rules? };
        self.silences(&source, path);
        Some(source).filter(|_| own)
    }

    /// Whether every key that is written is one of this kind's.
    fn keys_of_kind(&mut self, kind: KindName, path: &Path) -> bool {
        let own: Vec<&str> =
            KEYS.iter().filter(|(_, kinds)| kinds.contains(&kind)).map(|(key, _)| *key).collect();
        let mut complete = true;
        for key in self.document.keys(path) {
            let Some((_, kinds)) = KEYS.iter().find(|(name, _)| *name == key) else { continue };
            if kinds.contains(&kind) {
                continue;
            }
            let others: Vec<String> =
                kinds.iter().map(|kind| format!("{:?}", kind.name())).collect();
            let what = format!(
                "kind {:?} does not know this key, which is for {}",
                kind.name(),
                others.join(", ")
            );
            let near = nearest(&key, own.iter().copied()).map(str::to_string);
            let problem = Problem::new(what, own.join(", ")).near(near).without_found();
            let path = path.key(&key);
            let fault = self.fault(&path, self.document.key_offset(&path), problem);
            self.values.push(fault);
            complete = false;
        }
        complete
    }

    /// What every watched kind has. Of keys that a kind does not know only the default is used.
    fn source_rules(&mut self, raw: &mut raw::Source, path: &Path) -> Option<Source> {
        let on_empty = self.on_empty(std::mem::take(&mut raw.on_empty), &path.key("on_empty"));
        let max_removal = self.within(
            std::mem::take(&mut raw.max_removal),
            &path.key("max_removal"),
            limits::MAX_REMOVAL,
        );
        let mut duration = |slot: &mut Slot<Duration>, key: &str, rule| {
            self.within(std::mem::take(slot), &path.key(key), rule)
        };
        let removal_delay =
            duration(&mut raw.removal_delay, "removal_delay", limits::REMOVAL_DELAY);
        let settle = duration(&mut raw.settle, "settle", limits::SETTLE);
        let resync = duration(&mut raw.resync, "resync", limits::RESYNC);
        let timeout = duration(&mut raw.timeout, "timeout", limits::SOURCE_TIMEOUT);
        let stale_after = duration(&mut raw.stale_after, "stale_after", limits::STALE_AFTER);
        let Percent(max_removal_percent) = max_removal?;
        Some(Source {
            kind: SourceKind::Static(Vec::new()),
            on_empty: on_empty?,
            max_removal_percent,
            removal_delay: removal_delay?,
            settle: settle?,
            resync: resync?,
            timeout: timeout?,
            stale_after: stale_after?,
        })
    }

    fn on_empty(&mut self, slot: Slot<OnEmptyText>, path: &Path) -> Option<OnEmpty> {
        let policy = self.or(slot, path, OnEmptyText(OnEmpty::Keep))?;
        match policy.within(&limits::KEEP_FOR) {
            Ok(policy) => Some(policy),
            Err(problem) => {
                self.wrong(path, problem);
                None
            }
        }
    }

    /// A source that is silent longer than `stale_after` in good health would look ill.
    fn silences(&mut self, source: &Source, path: &Path) {
        let (longest, key) = match &source.kind {
            SourceKind::Static(_) => return,
            SourceKind::File { .. } | SourceKind::Redis(_) | SourceKind::Etcd(_) => {
                (source.resync, "resync")
            }
            SourceKind::Consul(consul) => (consul.wait, "wait"),
            SourceKind::Dns(dns) => (dns.max_ttl, "max_ttl"),
        };
        if source.stale_after <= longest {
            let what = format!("not longer than {key}: a source in good health will look stale");
            let path = path.key("stale_after");
            self.warn(&path, Problem::new(what, format!("longer than {key}")));
        }
    }
}

/// The port of a DNS source, its range having been checked.
pub(super) fn port(count: Option<Count>) -> Option<u16> {
    count_u32(count).and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Named;

    #[test]
    fn every_key_is_some_kinds_and_every_kind_has_its_own() {
        let schema = raw::schema().to_value();
        let source = &schema["properties"]["pool"]["additionalProperties"]["properties"]["source"];
        let table = &source["anyOf"][0]["properties"];
        let mut keys: Vec<&str> =
            table.as_object().expect("a table").keys().map(String::as_str).collect();
        keys.retain(|key| *key != "kind");
        let mut known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        known.sort_unstable();
        assert_eq!(keys, known);
        for (_, kind) in KindName::NAMES {
            assert!(KEYS.iter().any(|(_, kinds)| *kinds == [*kind]), "{kind:?}");
        }
    }
}
