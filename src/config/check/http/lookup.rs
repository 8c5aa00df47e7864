//! `[lookup.NAME]`

use super::super::source::port;
use super::super::store::{Credentials, TlsFiles};
use super::super::{Checker, count_u32};
use super::{DeclaredLookup, Wants};
use crate::config::document::{Path, quote};
use crate::config::fault::{Problem, nearest};
use crate::config::quantity::Count;
use crate::config::shape::{Entries, Shape, Slot};
use crate::config::value::{LookupKindName, OneOf, PortRange, Resolver, SearchText};
use crate::config::{DnsLookup, Lookup, LookupKind, RedisLookup, Search, limits, raw, store_url};
use crate::http::template::{Expression, Template};
use crate::http::value::Allowed;

/// The keys of one kind only.
const KEYS: &[(&str, LookupKindName)] = &[
    ("name", LookupKindName::Dns),
    ("search", LookupKindName::Dns),
    ("port", LookupKindName::Dns),
    ("resolvers", LookupKindName::Dns),
    ("min_ttl", LookupKindName::Dns),
    ("max_ttl", LookupKindName::Dns),
    ("url", LookupKindName::Redis),
    ("key", LookupKindName::Redis),
    ("field", LookupKindName::Redis),
    ("username", LookupKindName::Redis),
    ("password", LookupKindName::Redis),
    ("password_file", LookupKindName::Redis),
    ("tls_ca_file", LookupKindName::Redis),
    ("tls_cert_file", LookupKindName::Redis),
    ("tls_key_file", LookupKindName::Redis),
];

impl Checker<'_> {
    /// Every lookup in file order.
    pub(in crate::config::check) fn lookups(
        &mut self,
        slot: Slot<Entries<raw::Lookup>>,
        path: &Path,
    ) -> Option<Vec<Lookup>> {
        let Entries(mut entries) = self.or(slot, path, Entries::default())?;
        entries.sort_by_key(|(name, _)| self.document.key_offset(&path.key(name)));
        let mut declared = Vec::new();
        let mut lookups = Vec::new();
        for (name, slot) in entries {
            let path = path.key(&name);
            let named = self.name_checked(&name, &path);
            let raw = self.take(slot, &path);
            let lookup = raw.and_then(|raw| self.lookup(raw, &name, &path)).filter(|_| named);
            let wants = lookup.as_ref().map(wants);
            lookups.push(lookup);
            declared.push(DeclaredLookup { name, path, wants, used: false });
        }
        self.declared_lookups = Some(declared);
        lookups.into_iter().collect()
    }

    fn lookup(&mut self, mut raw: raw::Lookup, name: &str, path: &Path) -> Option<Lookup> {
        let names = OneOf::<LookupKindName>::expected();
        let kind = self.required(std::mem::take(&mut raw.kind), &path.key("kind"), &names);
        let OneOf(kind) = kind?;
        let own = self.keys_of_lookup(kind, path);
        let allowed = self.allowed(&mut raw, kind, path);
        let mut duration = |slot, key: &str, rule| self.within(slot, &path.key(key), rule);
        let negative_ttl = duration(raw.negative_ttl, "negative_ttl", limits::LOOKUP_NEGATIVE_TTL);
        let stale = duration(raw.stale, "stale", limits::LOOKUP_STALE);
        let timeout = duration(raw.timeout, "timeout", limits::LOOKUP_TIMEOUT);
        let connect_timeout =
            duration(raw.connect_timeout, "connect_timeout", limits::CONNECT_TIMEOUT);
        let idle_timeout = duration(raw.idle_timeout, "idle_timeout", limits::IDLE_TIMEOUT);
        let ttl = match std::mem::take(&mut raw.ttl) {
            Slot::Absent => Some(None),
            slot => self.within(slot, &path.key("ttl"), limits::LOOKUP_TTL).map(Some),
        };
        let entries_max = self.within(
            std::mem::take(&mut raw.max_entries),
            &path.key("max_entries"),
            limits::LOOKUP_MAX_ENTRIES,
        );
        let retries =
            self.within(std::mem::take(&mut raw.retries), &path.key("retries"), limits::RETRIES);
        let stored = Stored {
            name: raw.name,
            search: raw.search,
            port: raw.port,
            resolvers: raw.resolvers,
            min_ttl: raw.min_ttl,
            max_ttl: raw.max_ttl,
        };
        let kind = match kind {
            LookupKindName::Dns => self.dns_lookup(stored, path).map(LookupKind::Dns),
            LookupKindName::Redis => {
                let asked = Asked {
                    url: raw.url,
                    key: raw.key,
                    field: raw.field,
                    credentials: Credentials {
                        username: raw.username,
                        password: raw.password,
                        password_file: raw.password_file,
                    },
                    tls: TlsFiles {
                        ca: raw.tls_ca_file,
                        cert: raw.tls_cert_file,
                        key: raw.tls_key_file,
                    },
                };
                self.redis_lookup(asked, path).map(LookupKind::Redis)
            }
        };
        Some(Lookup {
            name: name.to_string(),
            kind: kind.filter(|_| own)?,
            ttl: ttl?,
            negative_ttl: negative_ttl?,
            stale: stale?,
            entries_max: usize::try_from(entries_max?.0).ok()?,
            timeout: timeout?,
            allowed: allowed?,
            connect_timeout: connect_timeout?,
            retries: count_u32(retries)?,
            idle_timeout: idle_timeout?,
        })
    }

    /// Whether every key that is written is one of this kind's.
    fn keys_of_lookup(&mut self, kind: LookupKindName, path: &Path) -> bool {
        let own: Vec<&str> =
            KEYS.iter().filter(|(_, of)| *of == kind).map(|(key, _)| *key).collect();
        let mut complete = true;
        for key in self.document.keys(path) {
            let other = KEYS.iter().find(|(name, of)| *name == key && *of != kind);
            let Some((_, other)) = other else { continue };
            let what = format!(
                "kind {:?} does not know this key, which is for {:?}",
                kind.name(),
                other.name()
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

    /// Who can write to a Redis must not be able to send callers anywhere.
    fn allowed(
        &mut self,
        raw: &mut raw::Lookup,
        kind: LookupKindName,
        path: &Path,
    ) -> Option<Allowed> {
        let allow_path = path.key("allow");
        let allow = std::mem::take(&mut raw.allow);
        let networks = match (&allow, kind) {
            (Slot::Absent, LookupKindName::Dns) => {
                let every = ["0.0.0.0/0", "::/0"].map(|network| network.parse().ok());
                every.into_iter().collect()
            }
            (Slot::Absent, LookupKindName::Redis) => {
                let valid = "the networks of the backends, such as [\"10.0.0.0/8\"]";
                self.missing(&allow_path, valid);
                None
            }
            (Slot::Present(_) | Slot::Wrong(_), _) => {
                let read = self.trusted(allow, &allow_path);
                if read.as_ref().is_some_and(|(networks, unix)| networks.is_empty() || *unix) {
                    let valid = "networks of backends, at least one";
                    self.wrong(&allow_path, Problem::new("not networks", valid));
                }
                read.map(|(networks, _)| networks)
            }
        };
        let ports_path = path.key("allow_ports");
        let ports = std::mem::take(&mut raw.allow_ports);
        let every = vec![Slot::Present(PortRange(1..=u16::MAX))];
        let list = self.or(ports, &ports_path, every)?;
        if list.is_empty() {
            self.wrong(&ports_path, Problem::new("no ports", "at least one, or no such key"));
        }
        let (ports, complete) = self.entries(list, &ports_path);
        let ports = ports.into_iter().map(|(_, PortRange(range))| range).collect();
        complete.then_some(Allowed { networks: networks?, ports })
    }

    fn dns_lookup(&mut self, raw: Stored, path: &Path) -> Option<DnsLookup> {
        let name_path = path.key("name");
        let valid = "a template of a name, such as \"zone{header:server}\"";
        let name = self.required(raw.name, &name_path, valid);
        let name = name.and_then(|text| self.template(&text, &name_path, is_of_rule));
        let name = name.filter(|template| {
            let good = template.literals().all(|literal| {
                literal.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            });
            if !good {
                let valid = "letters, digits, \"-\", \"_\", points and expressions";
                self.wrong(&name_path, Problem::new("not a name in DNS", valid));
            }
            good
        });
        let search = self.or(raw.search, &path.key("search"), SearchText::Off);
        let port_path = path.key("port");
        if matches!(raw.port, Slot::Absent) {
            self.missing(&port_path, "the backends' port, 1 to 65535");
        }
        let port = port(self.within(raw.port, &port_path, limits::DNS_PORT));
        let resolvers_path = path.key("resolvers");
        let list = self.or(raw.resolvers, &resolvers_path, Vec::new())?;
        let (resolvers, complete) = self.entries(list, &resolvers_path);
        let min_ttl = self.within(raw.min_ttl, &path.key("min_ttl"), limits::DNS_MIN_TTL);
        let max_path = path.key("max_ttl");
        let max_ttl = self.within(raw.max_ttl, &max_path, limits::DNS_MAX_TTL);
        let (min_ttl, max_ttl) = (min_ttl?, max_ttl?);
        if min_ttl > max_ttl {
            self.relation(&max_path, Problem::new("less than min_ttl", "at least min_ttl"));
        }
        Some(DnsLookup {
            name: name?,
            search: match search? {
                SearchText::Off => Search::Off,
                SearchText::ResolvConf => Search::ResolvConf,
                SearchText::Domain(domain) => Search::Domain(domain),
            },
            port: port?,
            resolvers: complete
                .then(|| resolvers.into_iter().map(|(_, Resolver(at))| at).collect())?,
            min_ttl,
            max_ttl,
        })
    }

    fn redis_lookup(&mut self, raw: Asked, path: &Path) -> Option<RedisLookup> {
        let url = self.url(raw.url, &path.key("url"), store_url::redis);
        let key = self.redis_template(raw.key, &path.key("key"), "a template of a hash's name");
        let field = self.redis_template(raw.field, &path.key("field"), "a template of its field");
        let credentials = self.redis_credentials(raw.credentials, url.as_ref(), path);
        let tls = self.tls(raw.tls, path, url.as_ref().map(|url| url.tls));
        let (username, password) = credentials?;
        Some(RedisLookup { url: url?.url, username, password, tls: tls?, key: key?, field: field? })
    }

    fn redis_template(&mut self, slot: Slot<String>, path: &Path, valid: &str) -> Option<Template> {
        let text = self.required(slot, path, valid)?;
        let template = self.template(&text, path, is_of_rule)?;
        if text.is_empty() || !template.literals().all(|text| text.bytes().all(is_visible)) {
            self.wrong(path, Problem::new("empty, or not visible ASCII", valid));
            return None;
        }
        Some(template)
    }

    /// The index of the lookup called `name`, which is thereby in use, if the rule gives it what it
    /// wants.
    pub(super) fn lookup_index(
        &mut self,
        name: &str,
        (key, set): (Option<&Template>, &[(String, String)]),
        path: &Path,
    ) -> Option<usize> {
        let lookup_path = path.key("lookup");
        let index = self.lookup_declared(name, &lookup_path)?;
        let lookup = self.declared_lookups.as_ref()?.get(index)?;
        let wants = lookup.wants.as_ref()?;
        let mut problems = Vec::new();
        if wants.key != key.is_some() {
            let (what, valid) = match wants.key {
                true => ("the lookup wants {key}, and this rule has none", "key = …"),
                false => ("has no meaning: nothing in the lookup is {key}", "remove it"),
            };
            let path = if wants.key { path.clone() } else { path.key("key") };
            problems.push((path, Problem::new(what, valid)));
        }
        for name in wants.set.iter().filter(|name| !set.iter().any(|(set, _)| set == *name)) {
            let what = format!("the lookup wants {{set:{name}}}, and this rule does not say it");
            problems.push((path.clone(), Problem::new(what, format!("set = {{ {name} = … }}"))));
        }
        for (name, _) in set.iter().filter(|(set, _)| !wants.set.contains(set)) {
            let what = format!("nothing in the lookup is {{set:{name}}}");
            problems.push((path.key("set").key(name), Problem::new(what, "remove it")));
        }
        let good = problems.is_empty();
        for (path, problem) in problems {
            self.relation(&path, problem.without_found());
        }
        good.then_some(index)
    }

    /// The index of the lookup called `name`, for a listener that knows nothing but a key, or not
    /// even that.
    pub(in crate::config::check) fn lookup_by_key(
        &mut self,
        name: &str,
        keyed: bool,
        path: &Path,
    ) -> Option<usize> {
        let lookup_path = path.key("lookup");
        let index = self.lookup_declared(name, &lookup_path)?;
        let wants = self.declared_lookups.as_ref()?.get(index)?.wants.as_ref()?;
        let problem = if wants.request || !wants.set.is_empty() {
            let valid = "a lookup whose only expression is {key}";
            Some(Problem::new("the lookup wants to know what only requests say", valid))
        } else if wants.key && !keyed {
            let valid = "a table [listener.tcp] with key";
            Some(Problem::new("the lookup wants {key}, and this listener has none", valid))
        } else {
            None
        };
        match problem {
            Some(problem) => {
                self.relation(&lookup_path, problem.without_found());
                None
            }
            None => Some(index),
        }
    }

    fn lookup_declared(&mut self, name: &str, path: &Path) -> Option<usize> {
        let declared = self.declared_lookups.as_mut()?;
        let index = declared.iter().position(|lookup| lookup.name == name);
        match index.and_then(|index| declared.get_mut(index)) {
            Some(lookup) => lookup.used = true,
            None => {
                let names: Vec<&str> = declared.iter().map(|lookup| lookup.name.as_str()).collect();
                let mut problem = Problem::unknown_name("lookup", name, &names);
                problem.what = format!("no lookup is called {}", quote(name));
                self.relation(path, problem.without_found());
            }
        }
        index
    }

    /// A lookup that nothing names is most often a misspelt name elsewhere.
    pub(in crate::config::check) fn lookups_unused(&mut self) {
        let unused = self.declared_lookups.iter().flatten().filter(|lookup| !lookup.used);
        let paths: Vec<Path> = unused.map(|lookup| lookup.path.clone()).collect();
        for path in paths {
            let valid = "name it in a listener's or rule's lookup, or remove it";
            self.warn(&path, Problem::new("nothing uses this lookup", valid));
        }
    }
}

/// What a lookup of kind "dns" says.
struct Stored {
    name: Slot<String>,
    search: Slot<SearchText>,
    port: Slot<Count>,
    resolvers: Slot<Vec<Slot<Resolver>>>,
    min_ttl: Slot<std::time::Duration>,
    max_ttl: Slot<std::time::Duration>,
}

/// What a lookup of kind "redis" says.
struct Asked {
    url: Slot<crate::config::value::SecretText>,
    key: Slot<String>,
    field: Slot<String>,
    credentials: Credentials,
    tls: TlsFiles,
}

fn wants(lookup: &Lookup) -> Wants {
    let mut wants = Wants::default();
    for expression in lookup.templates().into_iter().flat_map(Template::expressions) {
        match expression {
            Expression::Key => wants.key = true,
            Expression::Set(name) if wants.set.contains(name) => {}
            Expression::Set(name) => wants.set.push(name.clone()),
            _ => wants.request = true,
        }
    }
    wants
}

/// Whether an expression is known before there is a backend.
fn is_of_rule(expression: &Expression) -> bool {
    !matches!(expression, Expression::Backend | Expression::RequestId)
}

fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every kind has.
    const SHARED: &[&str] = &[
        "allow",
        "allow_ports",
        "connect_timeout",
        "idle_timeout",
        "kind",
        "max_entries",
        "negative_ttl",
        "retries",
        "stale",
        "timeout",
        "ttl",
    ];

    #[test]
    fn every_key_is_one_kinds_or_everybodys() {
        let schema = raw::schema().to_value();
        let table = &schema["properties"]["lookup"]["additionalProperties"]["properties"];
        let keys: Vec<&str> =
            table.as_object().expect("a table").keys().map(String::as_str).collect();
        let mut known: Vec<&str> =
            KEYS.iter().map(|(key, _)| *key).chain(SHARED.iter().copied()).collect();
        known.sort_unstable();
        assert_eq!(keys, known);
    }
}
