//! `[pool.NAME.health]`: what backends are asked. Checked after the listeners, since a frame is
//! written in the header of one.

use std::ops::RangeInclusive;

use super::{Checker, count_u32};
use crate::config::document::{Path, quote};
use crate::config::fault::Problem;
use crate::config::quantity::Quantity;
use crate::config::raw::{CheckName, FieldValue, Message};
use crate::config::shape::{Entries, Scalar, Shape, Slot};
use crate::config::value::{Expected, OneOf};
use crate::config::{Answer, AnswerFrame, Check, CheckKind, Pool, limits, raw};
use crate::frame::{Expect, Layout};

/// The header of a listener's frames.
pub(super) enum Header {
    /// It has one.
    Of(Layout),
    /// Its protocol has none.
    None,
    /// It has faults of its own.
    Unknown,
}

/// A table of a pool, to be checked later.
pub(super) type Pending = (Path, Slot<raw::Health>);

/// The bytes of a frame table, before it is known what they are for.
struct Written {
    /// Index, place, and what may stand there.
    fields: Vec<(usize, Path, RangeInclusive<i128>)>,
    body: Vec<u8>,
    /// Nothing in the table is wrong.
    sound: bool,
}

const LENGTH: &str = "length";
const BODY: &str = "body";
/// Longest text of a check, bytes: one segment, and one receive.
const MESSAGE_LEN_MAX: usize = 1_024;

impl Checker<'_> {
    /// Adds their checks to the pools, in the order of both.
    pub(super) fn checks(&mut self, pools: Option<Vec<Pool>>) -> Option<Vec<Pool>> {
        let pending = std::mem::take(&mut self.pending_checks);
        let checks: Vec<_> =
            pending.into_iter().map(|(path, slot)| self.check_or_none(slot, &path)).collect();
        let mut pools = pools?;
        for (pool, check) in pools.iter_mut().zip(checks) {
            pool.health.check = check?;
        }
        Some(pools)
    }

    /// `Some(None)` without the table.
    fn check_or_none(&mut self, slot: Slot<raw::Health>, path: &Path) -> Option<Option<Check>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let raw = self.take(slot, path)?;
        self.check(raw, path).map(Some)
    }

    fn check(&mut self, raw: raw::Health, path: &Path) -> Option<Check> {
        let names = OneOf::<CheckName>::expected();
        let kind = self.required(raw.kind, &path.key("kind"), &names).map(|OneOf(kind)| kind);
        let interval = self.within(raw.interval, &path.key("interval"), limits::CHECK_INTERVAL);
        let timeout_path = path.key("timeout");
        let timeout = self.within(raw.timeout, &timeout_path, limits::CHECK_TIMEOUT);
        let rise = self.within(raw.rise, &path.key("rise"), limits::RISE);
        let fall = self.within(raw.fall, &path.key("fall"), limits::FALL);
        let has_port = !matches!(raw.port, Slot::Absent);
        let port = self.within(raw.port, &path.key("port"), limits::PORT);
        if let (Some(interval), Some(timeout)) = (interval, timeout)
            && timeout > interval
        {
            let valid = format!("at most the interval, {}", interval.written());
            self.relation(&timeout_path, Problem::new("longer than the interval", valid));
        }
        let bytes = (raw.listener, raw.send, raw.expect);
        let http = (raw.path, raw.host, raw.status);
        if kind.is_some_and(|kind| kind != CheckName::Bytes) {
            self.only_for(&bytes.0, &path.key("listener"), CheckName::Bytes);
            self.only_for(&bytes.1, &path.key("send"), CheckName::Bytes);
            self.only_for(&bytes.2, &path.key("expect"), CheckName::Bytes);
        }
        if kind.is_some_and(|kind| kind != CheckName::Http) {
            self.only_for(&http.0, &path.key("path"), CheckName::Http);
            self.only_for(&http.1, &path.key("host"), CheckName::Http);
            self.only_for(&http.2, &path.key("status"), CheckName::Http);
        }
        let kind = match kind? {
            CheckName::Tcp => Some(CheckKind::Tcp),
            CheckName::Bytes => self.bytes(bytes, path),
            CheckName::Http => self.http_probe(http, path),
        };
        let port = match (has_port, port) {
            (false, _) => None,
            (true, port) => Some(u16::try_from(port?.0).ok()?),
        };
        Some(Check {
            kind: kind?,
            interval: interval?,
            timeout: timeout?,
            rise: count_u32(rise)?,
            fall: count_u32(fall)?,
            port,
        })
    }

    fn only_for<T>(&mut self, slot: &Slot<T>, path: &Path, kind: CheckName) {
        if matches!(slot, Slot::Absent) {
            return;
        }
        let name = if kind == CheckName::Http { "http" } else { "bytes" };
        let valid = "remove it, or change the kind";
        self.relation(path, Problem::new(format!("only for kind \"{name}\""), valid));
    }

    fn http_probe(
        &mut self,
        (target, host, status): (Slot<String>, Slot<String>, Slot<Expected>),
        path: &Path,
    ) -> Option<CheckKind> {
        let target = self.probe_target(target, &path.key("path"));
        let has_host = !matches!(host, Slot::Absent);
        let host = self.host(host, &path.key("host"));
        let status = self.probe_status(status, &path.key("status"));
        if has_host && host.is_none() {
            return None;
        }
        Some(CheckKind::Http { path: target?, host, status: status? })
    }

    fn probe_target(&mut self, slot: Slot<String>, path: &Path) -> Option<String> {
        let target = self.or(slot, path, "/".to_string())?;
        if target.starts_with('/') && is_visible(&target) && !target.contains('#') {
            return Some(target);
        }
        let valid = "\"/\" and what follows it, of visible ASCII characters, such as \"/ready\"";
        self.wrong(path, Problem::new("not a path", valid));
        None
    }

    fn host(&mut self, slot: Slot<String>, path: &Path) -> Option<String> {
        let host = self.take(slot, path)?;
        if !host.is_empty() && is_visible(&host) {
            return Some(host);
        }
        let valid = "visible ASCII characters, such as \"chat.example\"";
        self.wrong(path, Problem::new("not a host", valid));
        None
    }

    fn probe_status(&mut self, slot: Slot<Expected>, path: &Path) -> Option<RangeInclusive<u16>> {
        let Expected(status) = self.or(slot, path, Expected(200..=299))?;
        let bound = |status: &i128| u16::try_from(*status).ok().filter(|n| (100..=999).contains(n));
        let (Some(least), Some(most)) = (bound(status.start()), bound(status.end())) else {
            self.wrong(path, Problem::new("not a status", "100 to 999, or a range within"));
            return None;
        };
        Some(least..=most)
    }

    fn bytes(
        &mut self,
        (listener, send, expect): (Slot<String>, Slot<Message>, Slot<Message>),
        path: &Path,
    ) -> Option<CheckKind> {
        let (send_path, expect_path) = (path.key("send"), path.key("expect"));
        let framed = [&send, &expect].iter().any(|s| matches!(s, Slot::Present(Message::Frame(_))));
        let layout = self.header_of(listener, framed, &path.key("listener"));
        let has_send = !matches!(send, Slot::Absent);
        let send = self.take(send, &send_path);
        let expect = self.required(expect, &expect_path, Message::EXPECTED);
        let send = match send {
            Some(Message::Text(text)) => self.message(&text, &send_path),
            Some(Message::Frame(Entries(entries))) => layout.as_ref().and_then(|layout| {
                let written = self.written(entries, &send_path, layout);
                self.built(written, layout)
            }),
            None if has_send => None,
            None => Some(Vec::new()),
        };
        let expect = match expect {
            Some(Message::Text(text)) => {
                let prefix = self.message(&text, &expect_path);
                if prefix.as_ref().is_some_and(Vec::is_empty) {
                    let valid = "at least one byte; kind \"tcp\" expects none";
                    self.wrong(&expect_path, Problem::new("expects nothing", valid));
                }
                prefix.map(Answer::Prefix)
            }
            Some(Message::Frame(Entries(entries))) => layout.and_then(|layout| {
                let Written { fields, body, sound } = self.written(entries, &expect_path, &layout);
                let expect = |(field, _, range)| Expect { field, range };
                let fields = fields.into_iter().map(expect).collect();
                sound.then(|| Answer::Frame(Box::new(AnswerFrame { layout, fields, body })))
            }),
            None => None,
        };
        Some(CheckKind::Bytes { send: send?, expect: expect? })
    }

    /// The header that frames are written in; `None` when there is none, which is a fault if one is
    /// needed.
    fn header_of(&mut self, slot: Slot<String>, needed: bool, path: &Path) -> Option<Layout> {
        let valid = "the name of a listener with protocol \"frame\"";
        if !needed && matches!(slot, Slot::Absent) {
            return None;
        }
        let name = self.required(slot, path, valid)?;
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        match self.headers.iter().find(|(known, _)| *known == name) {
            Some((_, Header::Of(layout))) => Some(layout.clone()),
            Some((_, Header::Unknown)) => None,
            Some((_, Header::None)) => {
                let what = format!("listener {} has no frames", quote(&name));
                self.relation(path, Problem::new(what, valid).without_found());
                None
            }
            None => {
                let mut problem = Problem::unknown_name("listener", &name, &names);
                problem.what = format!("no listener is called {}", quote(&name));
                self.relation(path, problem.without_found());
                None
            }
        }
    }

    /// A table of header fields and `body`.
    fn written(
        &mut self,
        entries: Vec<(String, Slot<FieldValue>)>,
        path: &Path,
        layout: &Layout,
    ) -> Written {
        let mut written = Written { fields: Vec::new(), body: Vec::new(), sound: true };
        for (name, slot) in entries {
            let path = path.key(&name);
            let value = self.take(slot, &path);
            // A field of the header that is called "body" is one all the same.
            let field = layout.field_index(&name);
            if name == BODY && field.is_none() {
                match value {
                    Some(FieldValue::Text(text)) => match self.message(&text, &path) {
                        Some(body) => written.body = body,
                        None => written.sound = false,
                    },
                    _ => {
                        self.wrong(&path, Problem::wrong_type("the text of the body"));
                        written.sound = false;
                    }
                }
                continue;
            }
            match field.and_then(|field| Some((field, self.field(value?, &path, (layout, field))?)))
            {
                Some((field, range)) => written.fields.push((field, path, range)),
                None => {
                    if field.is_none() {
                        self.unknown_field(&name, &path, layout);
                    }
                    written.sound = false;
                }
            }
        }
        written
    }

    fn unknown_field(&mut self, name: &str, path: &Path, layout: &Layout) {
        let names: Vec<&str> = layout.field_names().chain([BODY]).collect();
        let mut problem = Problem::unknown_name("header field", name, &names);
        problem.what = "the header has no such field".to_string();
        self.relation(path, problem.without_found());
    }

    /// What may stand in a header field.
    fn field(
        &mut self,
        value: FieldValue,
        path: &Path,
        (layout, field): (&Layout, usize),
    ) -> Option<RangeInclusive<i128>> {
        let read = match &value {
            FieldValue::Integer(integer) => Expected::from_scalar(Scalar::Integer(*integer)),
            FieldValue::Text(text) => Expected::from_scalar(Scalar::Text(text)),
        };
        let Expected(range) = match read {
            Ok(range) => range,
            Err(problem) => {
                self.wrong(path, problem);
                return None;
            }
        };
        let (least, most) = layout.fields().get(field)?.bounds();
        if *range.start() < least || *range.end() > most {
            let what = "more than the field can hold";
            self.relation(path, Problem::new(what, format!("{least} to {most}")));
            return None;
        }
        Some(range)
    }

    /// A frame to send.
    fn built(&mut self, written: Written, layout: &Layout) -> Option<Vec<u8>> {
        let Written { fields: all, body, mut sound } = written;
        let mut fields = Vec::new();
        let length = layout.field_index(LENGTH);
        for (field, path, range) in all {
            if Some(field) == length {
                let valid = "leave it out: it is the length of the body";
                self.relation(&path, Problem::new("computed", valid));
                sound = false;
            } else if range.start() != range.end() {
                let valid = "one integer; only expect takes a range";
                self.relation(&path, Problem::new("several values to send", valid));
                sound = false;
            }
            fields.push((field, *range.start()));
        }
        if sound { layout.build(&fields, &body) } else { None }
    }

    /// A text as it is, or hexadecimal digits after "hex:".
    fn message(&mut self, text: &str, path: &Path) -> Option<Vec<u8>> {
        let bytes = match text.strip_prefix("hex:") {
            None => Some(text.as_bytes().to_vec()),
            Some(digits) => hexadecimal(digits),
        };
        let Some(bytes) = bytes else {
            let valid = "an even number of hexadecimal digits after \"hex:\"; spaces may separate \
                         them";
            self.wrong(path, Problem::new("not hexadecimal", valid));
            return None;
        };
        if bytes.len() > MESSAGE_LEN_MAX {
            let valid = format!("at most {MESSAGE_LEN_MAX} bytes");
            self.wrong(path, Problem::new("too long", valid).without_found());
            return None;
        }
        Some(bytes)
    }
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = digits
        .chars()
        .filter(|character| *character != ' ')
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_bytes() {
        assert_eq!(hexadecimal("01 fF00"), Some(vec![1, 255, 0]));
        assert_eq!(hexadecimal(""), Some(Vec::new()));
        for wrong in ["0", "0g", "é0", "0x01"] {
            assert_eq!(hexadecimal(wrong), None, "{wrong}");
        }
    }
}
