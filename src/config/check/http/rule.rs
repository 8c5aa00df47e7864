//! `[[listener.http.rule]]`

use super::super::{Checker, NAME_VALID};
use crate::config::document::{Path, quote};
use crate::config::fault::Problem;
use crate::config::quantity::{Count, Rule as Range};
use crate::config::shape::{Entries, Slot};
use crate::config::value::ConditionText;
use crate::config::{limits, raw};
use crate::http::reply;
use crate::http::rule::{
    Condition, FixedReply, HostPattern, Matches, PathPattern, Rule, Statuses, Target,
};
use crate::http::template::Template;
use crate::http::{is_token_byte, target};

/// The keys of a rule that say where requests go.
struct Targets {
    pool: Slot<String>,
    key: Slot<String>,
    lookup: Slot<String>,
    set: Slot<Entries<String>>,
    reply: Slot<raw::Reply>,
}

impl Checker<'_> {
    pub(super) fn rules(
        &mut self,
        slot: Slot<Vec<Slot<raw::Rule>>>,
        path: &Path,
    ) -> Option<Vec<Rule>> {
        let valid = "at least one table [[listener.http.rule]]";
        let list = self.required(slot, path, valid)?;
        if list.is_empty() {
            self.missing(path, valid);
        }
        let mut names: Vec<String> = Vec::new();
        let mut rules: Vec<Option<Rule>> = Vec::new();
        for (index, slot) in list.into_iter().enumerate() {
            let path = path.index(index);
            let Some(mut raw) = self.take(slot, &path) else {
                rules.push(None);
                continue;
            };
            let name_path = path.key("name");
            let name = self.or(std::mem::take(&mut raw.name), &name_path, (index + 1).to_string());
            let name = name.filter(|name| self.name_checked(name, &name_path));
            if let Some(name) = &name {
                if names.contains(name) {
                    let what = "another rule has this name";
                    let problem = Problem::new(what, NAME_VALID).without_found();
                    self.relation(&path, problem);
                }
                names.push(name.clone());
            }
            let shadowed = rules.last().and_then(|rule| rule.as_ref()).is_some_and(is_for_all);
            if shadowed {
                let what = "no request comes this far: the rule before it matches every one";
                self.warn(&path, Problem::new(what, "this rule before that one").without_found());
            }
            let rule = self.rule(raw, &path);
            rules.push(rule.zip(name).map(|(rule, name)| Rule { name, ..rule }));
        }
        rules.into_iter().collect()
    }

    fn rule(&mut self, raw: raw::Rule, path: &Path) -> Option<Rule> {
        let methods = self.methods(raw.method, &path.key("method"));
        let hosts = self.rule_hosts(raw.host, &path.key("host"));
        let path_pattern = self.path_pattern((raw.path, raw.path_prefix), path);
        let headers = self.conditions(raw.header, &path.key("header"));
        let arguments = self.conditions(raw.query, &path.key("query"));
        let cookies = self.conditions(raw.cookie, &path.key("cookie"));
        let targets = Targets {
            pool: raw.pool,
            key: raw.key,
            lookup: raw.lookup,
            set: raw.set,
            reply: raw.reply,
        };
        let target = self.rule_target(targets, path);
        let mut status = |slot, key: &str, range| self.rule_status(slot, &path.key(key), range);
        let missing = status(raw.missing, "missing", limits::HTTP_STATUS_CALLER);
        let malformed = status(raw.malformed, "malformed", limits::HTTP_STATUS_CALLER);
        let not_found = status(raw.not_found, "not_found", limits::HTTP_STATUS_BACKEND);
        let unavailable = status(raw.unavailable, "unavailable", limits::HTTP_STATUS_BACKEND);
        Some(Rule {
            name: String::new(),
            matches: Matches {
                methods: methods?,
                hosts: hosts?,
                path: path_pattern?,
                headers: headers?,
                arguments: arguments?,
                cookies: cookies?,
            },
            target: target?,
            statuses: Statuses {
                missing: missing?,
                malformed: malformed?,
                not_found: not_found?,
                unavailable: unavailable?,
            },
        })
    }

    fn rule_status(&mut self, slot: Slot<Count>, path: &Path, range: Range<Count>) -> Option<u16> {
        self.within(slot, path, range).and_then(|Count(status)| u16::try_from(status).ok())
    }

    fn methods(&mut self, slot: Slot<Vec<Slot<String>>>, path: &Path) -> Option<Vec<String>> {
        let list = self.listed(slot, path)?;
        let mut methods = Vec::new();
        let count = list.len();
        for (path, method) in list {
            let upper = method.to_ascii_uppercase();
            if method.is_empty() || !method.bytes().all(is_token_byte) {
                self.wrong(&path, Problem::new("not a method", "a method, such as \"POST\""));
            } else if matches!(method.as_str(), "CONNECT" | "TRACE") {
                let what = "requests with this method are always refused";
                self.wrong(&path, Problem::new(what, "other methods"));
            } else if method != upper {
                // Methods are compared with regard to case, and all known ones are in capitals.
                let problem = Problem::new("not in capitals", "a method, such as \"POST\"");
                self.wrong(&path, problem.near(Some(format!("{upper:?}"))));
            } else {
                methods.push(method);
            }
        }
        (methods.len() == count).then_some(methods)
    }

    /// The entries of a list that must not be empty if it is written.
    fn listed(
        &mut self,
        slot: Slot<Vec<Slot<String>>>,
        path: &Path,
    ) -> Option<Vec<(Path, String)>> {
        let written = !matches!(slot, Slot::Absent);
        let list = self.or(slot, path, Vec::new())?;
        if written && list.is_empty() {
            self.wrong(path, Problem::new("nothing would match", "at least one, or no such key"));
            return None;
        }
        let (entries, complete) = self.entries(list, path);
        complete.then_some(entries)
    }

    fn rule_hosts(
        &mut self,
        slot: Slot<Vec<Slot<String>>>,
        path: &Path,
    ) -> Option<Vec<HostPattern>> {
        let list = self.listed(slot, path)?;
        let count = list.len();
        let mut hosts = Vec::new();
        for (path, text) in list {
            let host = text.to_ascii_lowercase();
            let (name, below) = match host.strip_prefix("*.") {
                Some(name) => (name, true),
                None => (host.as_str(), false),
            };
            let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            let address = bare.is_some_and(|bare| bare.parse::<std::net::Ipv6Addr>().is_ok());
            let named = crate::http::value::dns_name(name.as_bytes()).is_ok();
            let named = named && !name.ends_with('.');
            if !named && (below || !address) {
                let valid = "a name or address without port, or \"*.NAME\"";
                let near = name.split_once(':').map(|(host, _)| format!("{host:?}"));
                self.wrong(&path, Problem::new("not a host", valid).near(near));
                continue;
            }
            let name = name.to_string();
            hosts.push(match below {
                true => HostPattern::Below(format!(".{name}")),
                false => HostPattern::Exact(name),
            });
        }
        (hosts.len() == count).then_some(hosts)
    }

    fn path_pattern(
        &mut self,
        (exact, prefix): (Slot<String>, Slot<String>),
        path: &Path,
    ) -> Option<PathPattern> {
        let (exact_path, prefix_path) = (path.key("path"), path.key("path_prefix"));
        let both = !matches!(exact, Slot::Absent) && !matches!(prefix, Slot::Absent);
        if both {
            let what = "written beside path";
            self.relation(&prefix_path, Problem::new(what, "one of both").without_found());
        }
        let (slot, path, make): (_, _, fn(String) -> PathPattern) = match exact {
            Slot::Absent => (prefix, prefix_path, PathPattern::Prefix),
            exact => (exact, exact_path, PathPattern::Exact),
        };
        if matches!(slot, Slot::Absent) {
            return Some(PathPattern::Any);
        }
        let text = self.take(slot, &path)?;
        // Requests are compared with their "%XX" decoded and their dots resolved.
        let decoded = target::path(text.as_bytes());
        if !text.starts_with('/') || decoded.as_deref() != Some(text.as_bytes()) {
            let near = decoded.and_then(|path| String::from_utf8(path.into_owned()).ok());
            let near = near.filter(|near| near.starts_with('/')).map(|near| format!("{near:?}"));
            let valid = "a path from its \"/\", without \"%XX\", \"//\" and dots";
            self.wrong(&path, Problem::new("no request has such a path", valid).near(near));
            return None;
        }
        Some(make(text))
    }

    fn conditions(
        &mut self,
        slot: Slot<Entries<ConditionText>>,
        path: &Path,
    ) -> Option<Vec<(String, Condition)>> {
        let Entries(entries) = self.or(slot, path, Entries::default())?;
        let mut conditions = Vec::new();
        let mut complete = true;
        for (name, slot) in entries {
            let path = path.key(&name);
            if name.is_empty() {
                self.wrong(&path, Problem::new("no name", "a name").without_found());
            }
            match self.take(slot, &path) {
                Some(ConditionText(condition)) => conditions.push((name, condition)),
                None => complete = false,
            }
        }
        complete.then_some(conditions)
    }

    fn rule_target(&mut self, raw: Targets, path: &Path) -> Option<Target> {
        let written = [
            !matches!(raw.pool, Slot::Absent),
            !matches!(raw.lookup, Slot::Absent),
            !matches!(raw.reply, Slot::Absent),
        ];
        let [pool_written, lookup_written, _] = written;
        let count = written.iter().filter(|written| **written).count();
        if count != 1 {
            let what = if count == 0 { "leads nowhere" } else { "leads to more than one place" };
            let problem = Problem::new(what, "pool, lookup or reply, one of them");
            self.relation(path, problem.without_found());
        }
        let key_path = path.key("key");
        let keyed = !matches!(raw.key, Slot::Absent);
        let key = match raw.key {
            Slot::Absent => Some(None),
            slot => self
                .take(slot, &key_path)
                .and_then(|text| self.template_of_key(&text, &key_path))
                .map(Some),
        };
        let set = self.set(raw.set, &path.key("set"), lookup_written);
        let pool = self.take(raw.pool, &path.key("pool"));
        let lookup = self.take(raw.lookup, &path.key("lookup"));
        let reply = match raw.reply {
            Slot::Absent => None,
            slot => self.reply(slot, &path.key("reply")),
        };
        if keyed && !pool_written && !lookup_written {
            let what = "has no meaning without a pool or a lookup";
            self.relation(&key_path, Problem::new(what, "remove it").without_found());
        }
        if let Some(name) = pool {
            let index = self.pool_index(&name, &path.key("pool"))?;
            self.key_of_pool(index, key.as_ref(), path);
            return Some(Target::Pool { pool: index, key: key? });
        }
        if let Some(name) = lookup {
            let (key, set) = (key?, set?);
            let lookup = self.lookup_index(&name, (key.as_ref(), &set), path)?;
            return Some(Target::Lookup { lookup, key, set });
        }
        reply.map(Target::Reply)
    }

    /// A pool that balances by key needs one, and no other does.
    fn key_of_pool(&mut self, pool: usize, key: Option<&Option<Template>>, path: &Path) {
        let Some(key) = key else { return };
        match (self.keyed(Some(pool)), key) {
            (Some((pool, balance)), None) => {
                let what = format!(
                    "pool {} balances by key ({}), and this rule has none",
                    quote(&pool),
                    balance.name()
                );
                let valid = "key, such as \"query:uid\" or \"client_ip\"";
                self.relation(path, Problem::new(what, valid).without_found());
            }
            (None, Some(_)) if self.balances_without_key(pool) => {
                let what = "has no meaning: the pool does not balance by key";
                self.relation(&path.key("key"), Problem::new(what, "remove it").without_found());
            }
            _ => {}
        }
    }

    fn set(
        &mut self,
        slot: Slot<Entries<String>>,
        path: &Path,
        lookup: bool,
    ) -> Option<Vec<(String, String)>> {
        if !matches!(slot, Slot::Absent) && !lookup {
            let what = "has no meaning without a lookup";
            self.relation(path, Problem::new(what, "remove it").without_found());
        }
        let Entries(entries) = self.or(slot, path, Entries::default())?;
        let count = entries.len();
        let mut set = Vec::new();
        for (name, slot) in entries {
            let path = path.key(&name);
            if let Some(text) = self.take(slot, &path) {
                set.push((name, text));
            }
        }
        (set.len() == count).then_some(set)
    }

    fn reply(&mut self, slot: Slot<raw::Reply>, path: &Path) -> Option<FixedReply> {
        let raw = self.take(slot, path)?;
        let status_path = path.key("status");
        let status = match raw.status {
            Slot::Absent => {
                self.missing(&status_path, "a status, 200 to 599");
                None
            }
            slot => self.rule_status(slot, &status_path, limits::HTTP_STATUS_REPLY),
        };
        let body_path = path.key("body");
        let body = match raw.body {
            Slot::Absent => Some(None),
            slot => self.take(slot, &body_path).map(Some),
        };
        let type_path = path.key("content_type");
        let content_type = self.or(raw.content_type, &type_path, "text/plain".to_string());
        let content_type = content_type.filter(|text| self.field_value(text, &type_path));
        let headers_path = path.key("headers");
        let Entries(entries) = self.or(raw.headers, &headers_path, Entries::default())?;
        let mut headers = Vec::new();
        let count = entries.len();
        for (name, slot) in entries {
            let path = headers_path.key(&name);
            let named = self.field_name(&name, &path);
            let text = self.take(slot, &path).filter(|text| self.field_value(text, &path));
            headers.extend(text.filter(|_| named).map(|text| (name, text)));
        }
        let (status, body) = (status?, body?);
        if matches!(status, 204 | 304) && body.as_ref().is_some_and(|body| !body.is_empty()) {
            let what = format!("{status} has no body");
            self.relation(&body_path, Problem::new(what, "another status, or no body"));
        }
        let body = body.unwrap_or_else(|| format!("{status} {}\n", reply::reason(status)));
        let content_type = content_type?;
        (headers.len() == count).then_some(FixedReply { status, body, content_type, headers })
    }
}

/// Whether every request matches a rule.
fn is_for_all(rule: &Rule) -> bool {
    rule.matches == Matches::default()
}
