//! Rules: which requests go where. The first one that matches decides.

use std::borrow::Cow;

use super::client::Request;
use super::target;
use super::template::{Gap, Template, Text, Unfilled, Values};
use super::value::Purpose;
use crate::end::End;

/// One rule of a listener, in file order.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique in its listener; a metric label.
    pub name: String,
    /// What a request has to be.
    pub matches: Matches,
    /// Where it goes.
    pub target: Target,
    /// What the client is answered when something the target needs is not to be had.
    pub statuses: Statuses,
}

/// What a request has to be; all of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matches {
    /// One of these; empty: any. HEAD is not GET.
    pub methods: Vec<String>,
    /// One of these; empty: any.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// Fields, by name.
    pub headers: Vec<(String, Condition)>,
    /// Arguments of the query, by name, as `query:NAME`.
    pub arguments: Vec<(String, Condition)>,
    /// Cookies, by name.
    pub cookies: Vec<(String, Condition)>,
}

/// A host without its port, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This name.
    Exact(String),
    /// "*.NAME": any name below this one, with its leading point.
    Below(String),
}

impl HostPattern {
    /// Whether it stands for this host.
    pub fn matches(&self, host: &[u8]) -> bool {
        match self {
            HostPattern::Exact(name) => name.as_bytes() == host,
            HostPattern::Below(suffix) => {
                host.len() > suffix.len() && host.ends_with(suffix.as_bytes())
            }
        }
    }
}

/// A path as [`target::path`] has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PathPattern {
    /// Any, "*" of OPTIONS included.
    #[default]
    Any,
    /// This one.
    Exact(String),
    /// One that begins so: bytes, not segments, unless it ends in "/".
    Prefix(String),
}

/// What a field, an argument or a cookie has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// There, at least once; it may be empty.
    Present,
    /// Not there.
    Absent,
    /// There once, and this.
    Equals(String),
    /// There once, and matched somewhere.
    Pattern(Pattern),
}

/// A regular expression over bytes: linear in what it is matched against, and bounded in size.
///
/// Matching borrows scratch memory that clones do not share: a thread with a clone of its own takes
/// no lock.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: regex::bytes::Regex,
}

/// Largest compiled pattern, bytes.
const PATTERN_SIZE_MAX: usize = 256 << 10;

impl Pattern {
    /// Compiles a pattern. Letters and classes are ASCII.
    ///
    /// # Errors
    /// What the library says about it.
    pub fn new(text: &str) -> Result<Pattern, regex::Error> {
        let regex = regex::bytes::RegexBuilder::new(text)
            .unicode(false)
            .size_limit(PATTERN_SIZE_MAX)
            .dfa_size_limit(PATTERN_SIZE_MAX)
            .build()?;
        Ok(Pattern { text: text.to_string(), regex })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches anywhere in a value.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A backend of a pool.
    Pool {
        /// Index into the configuration's pools.
        pool: usize,
        /// What it balances by; `None` for pools that balance without.
        key: Option<Template>,
    },
    /// The address that a lookup gives.
    Lookup {
        /// Index into the configuration's lookups.
        lookup: usize,
        /// What its `{key}` stands for.
        key: Option<Template>,
        /// What its `{set:NAME}` stand for.
        set: Vec<(String, String)>,
    },
    /// We answer ourselves.
    Reply(FixedReply),
}

/// An answer that is always the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedReply {
    /// 200 to 599.
    pub status: u16,
    /// May be empty.
    pub body: String,
    /// Of the body.
    pub content_type: String,
    /// Further fields, such as Allow.
    pub headers: Vec<(String, String)>,
}

/// What a client is answered when a target cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses {
    /// The request lacks something that a template names.
    pub missing: u16,
    /// It has it, but it cannot be used.
    pub malformed: u16,
    /// A lookup found nothing, or nothing that is allowed.
    pub not_found: u16,
    /// A lookup failed, or there is no backend that may be used.
    pub unavailable: u16,
}

impl Statuses {
    /// Of a template that could not be filled.
    pub fn of(&self, unfilled: &Unfilled<'_>) -> u16 {
        match unfilled.gap {
            Gap::Missing => self.missing,
            Gap::Malformed(_) => self.malformed,
        }
    }

    /// Of a request without a backend. Where there is one, and it cannot be connected to, that is
    /// no choice of a rule's, as little as an answer that does not come (RFC 9110, 15.6.3, 15.6.5).
    pub fn without_backend(&self, end: End) -> u16 {
        match end {
            End::ConnectNameless => self.missing,
            End::LookupNothing | End::LookupRefused => self.not_found,
            End::ConnectTimeout => 504,
            End::ConnectRefused
            | End::ConnectBusy
            | End::ConnectUnreachable
            | End::ConnectTls
            | End::ConnectCertificate
            | End::ConnectName
            | End::ConnectFailed => 502,
            _ => self.unavailable,
        }
    }
}

/// The first rule that matches, and its place in the list; `None` if none does.
pub fn choose<'r>(rules: &'r [Rule], request: &Request<'_>) -> Option<(usize, &'r Rule)> {
    // The same for every rule, and seldom needed.
    let mut host = None;
    rules.iter().enumerate().find(|(_, rule)| rule.matches.are_met(request, &mut host))
}

impl Matches {
    /// Whether a request is all of it. `host` is the request's, found when the first rule asks.
    fn are_met(&self, request: &Request<'_>, host: &mut Option<Vec<u8>>) -> bool {
        let method = request.method();
        if !self.methods.is_empty() && !self.methods.iter().any(|one| one.as_bytes() == method) {
            return false;
        }
        if !self.path.matches(&request.path) {
            return false;
        }
        if !self.hosts.is_empty() {
            let host = host.get_or_insert_with(|| request.head.host(request.bytes));
            if !self.hosts.iter().any(|pattern| pattern.matches(host)) {
                return false;
            }
        }
        let headers = self
            .headers
            .iter()
            .all(|(name, condition)| condition.is_met(request.values(name).map(Cow::Borrowed)));
        headers
            && self.arguments.iter().all(|(name, condition)| {
                condition.is_met(target::argument(request.query(), name).into_iter())
            })
            && self.cookies.iter().all(|(name, condition)| {
                let cookie = target::cookie(request.values("cookie"), name);
                condition.is_met(cookie.map(Cow::Borrowed).into_iter())
            })
    }
}

impl PathPattern {
    /// Whether it stands for this path.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            PathPattern::Any => true,
            PathPattern::Exact(exact) => exact.as_bytes() == path,
            PathPattern::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
        }
    }
}

impl Condition {
    fn is_met<'v>(&self, mut values: impl Iterator<Item = Cow<'v, [u8]>>) -> bool {
        let (first, more) = (values.next(), values.next().is_some());
        match (self, first) {
            (Condition::Present, first) => first.is_some(),
            (Condition::Absent, first) => first.is_none(),
            (Condition::Equals(text), Some(value)) => !more && *text.as_bytes() == *value,
            (Condition::Pattern(pattern), Some(value)) => !more && pattern.matches(&value),
            (Condition::Equals(_) | Condition::Pattern(_), None) => false,
        }
    }
}

/// The key that a target's template gives; empty for a target that has none.
///
/// # Errors
/// What the request lacks; [`Statuses::of`] says what to answer.
pub fn key<'t>(target: &'t Target, request: &Request<'_>) -> Result<Text, Unfilled<'t>> {
    let template = match target {
        Target::Pool { key, .. } | Target::Lookup { key, .. } => key.as_ref(),
        Target::Reply(_) => None,
    };
    match template {
        Some(template) => template.fill(Some(request), &Values::default(), Purpose::PoolKey),
        None => Ok(Text::new()),
    }
}
