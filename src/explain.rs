//! What the configuration makes of given bytes or keys, without opening a socket: bytes → fields →
//! key → hash → backend. For operators, and for anyone who checks where devices must land.
//!
//! Both functions call the code that a shard calls. What a shard learns while it runs (backends
//! that failed a moment ago, sessions of others) is not known here.

mod http;
mod lookup;
mod name;

use std::fmt::{self, Write as _};
use std::io;

pub use self::http::explain_http;
pub use self::name::{explain_hello, explain_name, is_by_name};
use crate::balance::{Algorithm, Balance, Candidates, PickState};
use crate::config::{
    BackendState, Config, FrameListener, Listener, Lookup, MissingKey, Pool, Protocol, TcpKey,
};
use crate::end::End;
use crate::frame::{Frame, NextFrame, Preface};
use crate::http::rule;
use crate::key::KEY_LEN_MAX;
use crate::log::is_hidden;
use crate::movement::Standing;

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExplainError {
    /// The configuration has no listener of this index.
    ListenerUnknown(usize),
    /// The listener of this name reads no frames.
    NotFramed(String),
    /// The listener of this name does not speak HTTP.
    NotHttp(String),
    /// The listener of this name does not route by server name.
    NotByName(String),
    /// No client can ask for this server name.
    NotAName(String),
}

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExplainError::ListenerUnknown(index) => write!(f, "there is no listener {index}"),
            ExplainError::NotHttp(name) => {
                write!(f, "listener \"{name}\" does not speak HTTP: its protocol is not \"http\"")
            }
            ExplainError::NotByName(name) => write!(
                f,
                "listener \"{name}\" does not route by server name; that needs protocol = \"tcp\" \
                 and key = \"sni\""
            ),
            ExplainError::NotAName(name) => {
                write!(f, "no client can ask for {name:?}: a server name is a DNS name")
            }
            ExplainError::NotFramed(name) => write!(
                f,
                "listener \"{name}\" reads no frames; explain needs one with protocol = \"frame\""
            ),
        }
    }
}

impl std::error::Error for ExplainError {}

/// Longest input worth explaining, bytes, however short this configuration's frames are: bytes
/// behind them are only counted.
const INPUT_LEN_MAX: usize = 16 << 20;

/// How many bytes of a connection to this listener [`explain`] may need at most.
pub fn input_len_max(config: &Config, listener: usize) -> usize {
    match config.listeners.get(listener).map(|listener| &listener.protocol) {
        Some(Protocol::Frame(frame)) => frame.rules.preface_len_max().max(INPUT_LEN_MAX),
        Some(Protocol::Tcp { .. } | Protocol::Http(_)) | None => INPUT_LEN_MAX,
    }
}

/// A page about the first bytes of a connection to a frame listener: every field, the key, and the
/// backend, or the reason why there is none and where the bytes went wrong. Made for reading; its
/// layout is no interface.
pub fn explain(config: &Config, listener: usize, bytes: &[u8]) -> Result<String, ExplainError> {
    let Some(listener) = config.listeners.get(listener) else {
        return Err(ExplainError::ListenerUnknown(listener));
    };
    let (Protocol::Frame(frame), Some(target)) = (&listener.protocol, target(listener)) else {
        return Err(ExplainError::NotFramed(listener.name.clone()));
    };
    let page = Page { config, name: &listener.name, frame, target, bytes };
    Ok(page.to_string())
}

/// Writes `KEY<TAB>POOL<TAB>BACKEND` and a line feed for each key, in order.
///
/// Keys are written as they are, except that control characters (tabs and line feeds among them),
/// invisible marks and bytes that are not UTF-8 are escaped as in Rust strings: a line always has
/// three fields. Nothing escapes a backslash.
///
/// The pool is the listener's, or the one `missing_key` names for the empty key; `-` stands for a
/// pool or backend that the key would not get: an empty or overlong key on a frame listener that
/// rejects it, or no backend (the home is down under `on_down = "reject"`, or all are). For a
/// lookup its name stands for the pool's, and what it would be asked for the backend's.
///
/// Keyed algorithms need nothing but the key; `bounded_load`, which depends on live sessions, is
/// left out. For the others, and for the empty key where an algorithm gives that to anybody, the
/// answer depends on the sessions before: these are simulated as one shard that starts with seed 0,
/// takes the keys in order, and keeps every session open.
///
/// # Errors
/// Those of `out`, and `InvalidInput` if there is no such listener.
pub fn route(
    config: &Config,
    listener: usize,
    keys: impl Iterator<Item = Vec<u8>>,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let Some(listener) = config.listeners.get(listener) else {
        let error = ExplainError::ListenerUnknown(listener);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    };
    let mut pools: Vec<Trial> = config.pools.iter().map(Trial::new).collect();
    for key in keys {
        write!(out, "{}", Escaped(&key))?;
        let pool = match target_of(listener, &key) {
            Some(Target::Lookup(index)) => {
                let Some(lookup) = config.lookups.get(index) else { continue };
                let question = lookup::question(lookup, &key);
                let question = question.as_ref().map_or("-", |text| text.as_str());
                writeln!(out, "\t{}\t{question}", lookup.name)?;
                continue;
            }
            Some(Target::Pool(index)) => Some(index),
            None => None,
        };
        match pool.and_then(|index| pools.get_mut(index)) {
            None => out.write_all(b"\t-\t-\n")?,
            Some(trial) => match trial.place(&key) {
                Ok(index) => {
                    let backend = &trial.pool.backends[index].address;
                    writeln!(out, "\t{}\t{backend}", trial.pool.name)?;
                }
                Err(_) => writeln!(out, "\t{}\t-", trial.pool.name)?,
            },
        }
    }
    Ok(())
}

/// Where a listener sends a key; an index in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Pool(usize),
    Lookup(usize),
}

fn target(listener: &Listener) -> Option<Target> {
    let lookup = listener.lookup.map(Target::Lookup);
    listener.pool.map(Target::Pool).or(lookup)
}

/// The pool in which a listener would look for this key's backend; `None` if it would refuse the
/// key, or look it up.
pub fn pool_of(listener: &Listener, key: &[u8]) -> Option<usize> {
    match target_of(listener, key) {
        Some(Target::Pool(index)) => Some(index),
        Some(Target::Lookup(_)) | None => None,
    }
}

fn target_of(listener: &Listener, key: &[u8]) -> Option<Target> {
    match &listener.protocol {
        Protocol::Tcp { key: Some(TcpKey::Sni(sni)) } => name::target_of_name(listener, sni, key),
        Protocol::Tcp { .. } => target(listener),
        Protocol::Frame(_) if key.len() > KEY_LEN_MAX => None,
        Protocol::Frame(frame) if key.is_empty() => match frame.missing_key {
            MissingKey::Reject => None,
            MissingKey::Pool(index) => Some(Target::Pool(index)),
        },
        Protocol::Frame(_) => target(listener),
        // Rules choose, and they ask more than a key: only where one pool has keys it is clear.
        Protocol::Http(http) => {
            let mut keyed = http.rules.iter().filter_map(|rule| match &rule.target {
                rule::Target::Pool { pool, key: Some(_) } => Some(*pool),
                rule::Target::Pool { .. }
                | rule::Target::Lookup { .. }
                | rule::Target::Reply(_) => None,
            });
            let first = keyed.next().filter(|_| key.len() <= KEY_LEN_MAX)?;
            keyed.all(|pool| pool == first).then_some(Target::Pool(first))
        }
    }
}

/// A pool as one fresh shard would place sessions in it.
struct Trial<'c> {
    pool: &'c Pool,
    balance: Balance,
    standing: Standing<'c>,
    state: PickState,
    live: Vec<u32>,
}

impl<'c> Trial<'c> {
    fn new(pool: &'c Pool) -> Trial<'c> {
        let count = pool.backends.len();
        let standing = Standing::of_settings(pool);
        let balance = standing.balance().clone();
        Trial { pool, balance, standing, state: PickState::new(count, 0), live: vec![0; count] }
    }

    fn place(&mut self, key: &[u8]) -> Result<usize, End> {
        if self.pool.backends.is_empty() || self.balance.home(key).is_some() {
            return self.standing.place(key);
        }
        let declared = Declared { pool: self.pool, live: &self.live };
        let picked = self.balance.pick(key, &mut self.state, &declared);
        let index = picked.ok_or(End::BackendDown)?;
        self.live[index] = self.live[index].saturating_add(1);
        Ok(index)
    }
}

/// Backends as the configuration declares them.
struct Declared<'c> {
    pool: &'c Pool,
    live: &'c [u32],
}

impl Candidates for Declared<'_> {
    fn count(&self) -> usize {
        self.pool.backends.len()
    }

    fn weight(&self, index: usize) -> u32 {
        self.pool.backends[index].weight
    }

    fn usable(&self, index: usize) -> bool {
        self.pool.backends[index].state == BackendState::Ready
    }

    fn live(&self, index: usize) -> u32 {
        self.live[index]
    }
}

/// Most bytes of a body that are shown.
const BODY_SHOWN_MAX: usize = 512;

/// One explanation.
struct Page<'c> {
    config: &'c Config,
    name: &'c str,
    frame: &'c FrameListener,
    /// Where it sends keys.
    target: Target,
    bytes: &'c [u8],
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = &self.frame.rules;
        let header_len = rules.layout.header_len();
        writeln!(f, "listener {}", self.name)?;
        writeln!(f, "header   {} ({})", rules.layout, Count(header_len, "byte"))?;
        writeln!(f, "key      {}", rules.key.text(&rules.layout))?;
        writeln!(f, "input    {}", Count(self.bytes.len(), "byte"))?;
        let mut start = 0;
        for number in 1..=rules.search_frames.max(1) {
            writeln!(f, "\nframe {number} at byte {start}")?;
            self.write_header(f, start)?;
            let frame = match rules.frame_at(self.bytes, start) {
                NextFrame::Complete(frame) => frame,
                NextFrame::NeedMore(total) => return self.write_incomplete(f, total),
                NextFrame::Invalid(end) => return self.write_invalid(f, start, end),
            };
            self.write_body(f, &frame)?;
            match rules.key_in(self.bytes, &frame) {
                Ok(None) => writeln!(f, "key      none in this frame")?,
                Ok(Some(_)) | Err(_) => break,
            }
            start = frame.whole.end;
        }
        self.write_decision(f)
    }
}

impl Page<'_> {
    /// The header that begins at `start`, field by field, as far as it is there.
    fn write_header(&self, f: &mut fmt::Formatter<'_>, start: usize) -> fmt::Result {
        let layout = &self.frame.rules.layout;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let header = rest.get(..layout.header_len()).unwrap_or(rest);
        f.write_str("header  ")?;
        header.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
        let name_len = layout.field_names().map(str::len).max().unwrap_or(0).max(5);
        writeln!(f, "\n         offset letter {:name_len$} value", "field")?;
        for (index, field) in layout.fields().iter().enumerate() {
            write!(
                f,
                "         {:6} {:6} {:name_len$} ",
                field.offset(),
                field.letter,
                field.name
            )?;
            match layout.value(header, index) {
                Some(value) => writeln!(f, "{value}")?,
                None => writeln!(f, "not received")?,
            }
        }
        Ok(())
    }

    fn write_body(&self, f: &mut fmt::Formatter<'_>, frame: &Frame) -> fmt::Result {
        let body = self.bytes.get(frame.body.clone()).unwrap_or_default();
        writeln!(f, "body     {} at byte {}", Count(body.len(), "byte"), frame.body.start)?;
        if !body.is_empty() {
            writeln!(f, "         {}", Shown(body))?;
        }
        Ok(())
    }

    fn write_incomplete(&self, f: &mut fmt::Formatter<'_>, total: usize) -> fmt::Result {
        let missing = total - self.bytes.len();
        writeln!(
            f,
            "\noutcome  incomplete: {} needed, {total} in all; a connection that stays like \
             this is closed after {:?} ({})",
            Count(missing, "more byte"),
            self.frame.timeout,
            if self.bytes.is_empty() { End::PrefaceSilent } else { End::PrefaceTimeout }.label()
        )
    }

    /// A header that breaks a rule.
    fn write_invalid(&self, f: &mut fmt::Formatter<'_>, start: usize, end: End) -> fmt::Result {
        let rules = &self.frame.rules;
        write!(f, "\noutcome  closed: {} in the header at byte {start}", end.label())?;
        let header = self.bytes.get(start..).unwrap_or_default();
        match end {
            End::BodyTooLong => {
                write!(f, "; at most {} allowed", Count(rules.body_len_max, "byte"))?
            }
            End::FieldUnexpected => {
                let mut values =
                    rules.expect.iter().map(|e| (e, rules.layout.value(header, e.field)));
                let broken = values.find(|(e, v)| v.is_none_or(|v| !e.range.contains(&v)));
                if let Some((expect, Some(value))) = broken {
                    let name = rules.layout.field_names().nth(expect.field).unwrap_or_default();
                    let (low, high) = expect.range.clone().into_inner();
                    write!(f, "; {name} is {value}, allowed are {low} to {high}")?;
                }
            }
            _ => {}
        }
        writeln!(f)
    }

    /// What the frames come to, as a session sees it.
    fn write_decision(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (preface, frames_len) = self.frame.rules.read_frames(self.bytes);
        match preface {
            Preface::Key(key) => {
                writeln!(f, "key      {} ({})", Shown(&key), Count(key.len(), "byte"))?;
                write_rest(f, self.bytes.len() - frames_len)?;
                match self.target {
                    Target::Pool(pool) => write_placement(f, self.config.pools.get(pool), &key),
                    Target::Lookup(lookup) => {
                        write_question(f, self.config.lookups.get(lookup), &key)
                    }
                }
            }
            Preface::KeyMissing => {
                write_rest(f, self.bytes.len() - frames_len)?;
                match self.frame.missing_key {
                    MissingKey::Reject => {
                        writeln!(f, "\noutcome  closed: {}", End::KeyMissing.label())
                    }
                    MissingKey::Pool(pool) => {
                        writeln!(f, "key      none; missing_key names a pool, with the empty key")?;
                        write_placement(f, self.config.pools.get(pool), b"")
                    }
                }
            }
            Preface::Invalid(end) => {
                writeln!(f, "\noutcome  closed: {} in the body above", end.label())
            }
            Preface::NeedMore(total) => self.write_incomplete(f, total),
        }
    }
}

/// What a lookup is asked about a key.
fn write_question(f: &mut fmt::Formatter<'_>, lookup: Option<&Lookup>, key: &[u8]) -> fmt::Result {
    let Some(lookup) = lookup else { return Ok(()) };
    writeln!(f, "\nlookup   {}", lookup.name)?;
    match lookup::question(lookup, key) {
        Ok(question) => writeln!(f, "asks     {question}"),
        Err(unfilled) => {
            let why = unfilled.gap.label("missing");
            let end = End::LookupNameInvalid.label();
            writeln!(f, "outcome  closed: {end}: the key cannot be part of the name ({why})")
        }
    }
}

/// Where a key goes in a pool, and why.
fn write_placement(f: &mut fmt::Formatter<'_>, pool: Option<&Pool>, key: &[u8]) -> fmt::Result {
    let Some(pool) = pool else { return Ok(()) };
    let count = pool.backends.len();
    writeln!(f, "\npool     {} ({}, {})", pool.name, pool.balance.name(), Count(count, "backend"))?;
    let mut trial = Trial::new(pool);
    if !pool.balance.is_keyed() {
        return writeln!(
            f,
            "backend  depends on the sessions before: {} does not look at the key",
            pool.balance.name()
        );
    }
    let home = trial.balance.home(key);
    if let (Some(home), Some(trace)) = (home, trial.balance.trace(key)) {
        writeln!(f, "{:8} {trace}", trace.function)?;
        let address = &pool.backends[home].address;
        match (pool.balance, trace.place) {
            (Algorithm::Crc32Mod, _) => {
                writeln!(f, "home     {} % {count} = {home}: {address}", trace.hash)?;
            }
            (_, Some((place, of))) => writeln!(f, "home     {place} of {of}: {address}")?,
            (_, None) => writeln!(f, "home     {address}")?,
        }
    }
    match trial.place(key) {
        Err(end) => writeln!(f, "outcome  closed: {}", end.label()),
        Ok(index) => {
            let why = match home {
                None => ": the empty key belongs to nobody, and takes its turn",
                Some(home) if home == index => "",
                Some(home) if pool.backends[home].state == BackendState::Ready => {
                    ": another backend is marked down, and on_down = \"next\""
                }
                Some(_) => ": the home is marked down, and on_down = \"next\"",
            };
            writeln!(f, "backend  {}{why}", pool.backends[index].address)
        }
    }
}

/// So many of a thing.
struct Count(usize, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, name) = self;
        write!(f, "{count} {name}{}", if *count == 1 { "" } else { "s" })
    }
}

fn write_rest(f: &mut fmt::Formatter<'_>, rest_len: usize) -> fmt::Result {
    match rest_len {
        0 => Ok(()),
        _ => writeln!(
            f,
            "rest     {} more: forwarded unchanged, not looked at",
            Count(rest_len, "byte")
        ),
    }
}

/// Bytes on a terminal, escaped; the end of long ones is left out.
struct Shown<'b>(&'b [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..BODY_SHOWN_MAX).unwrap_or(self.0);
        Escaped(shown).fmt(f)?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            left_out => write!(f, "… ({} more)", Count(left_out, "byte")),
        }
    }
}

/// Text stays text; what is no text, or would not be seen, is escaped.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'b>(pub &'b [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                match is_hidden(letter) {
                    true => write!(f, "{}", letter.escape_default())?,
                    false => f.write_char(letter)?,
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}
