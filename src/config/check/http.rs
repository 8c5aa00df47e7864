//! `[listener.http]`

mod forward;
mod lookup;
mod rule;

use super::{Checker, count_u32};
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::quantity::{ByteCount, Count};
use crate::config::shape::Slot;
use crate::config::{HttpBackend, HttpListener, limits, raw};
use crate::http::head::HeadLimits;
use crate::http::template::{EXPRESSIONS_VALID, Expression, Template};
use crate::http::value::{self, Purpose};

/// A lookup as rules see it.
pub struct DeclaredLookup {
    pub name: String,
    pub path: Path,
    /// What its templates want of a rule: `None` when that is not known.
    pub wants: Option<Wants>,
    pub used: bool,
}

/// What a lookup's templates want of a rule.
#[derive(Default)]
pub struct Wants {
    /// `{key}`
    pub key: bool,
    /// The names of `{set:NAME}`.
    pub set: Vec<String>,
    /// Anything else.
    pub request: bool,
}

impl Checker<'_> {
    pub(super) fn http_listener(&mut self, raw: raw::Http, path: &Path) -> Option<HttpListener> {
        let head = self.head_limits((raw.max_head, raw.max_headers, raw.max_target), path);
        let body = self.within(raw.max_body, &path.key("max_body"), limits::HTTP_MAX_BODY);
        let mut duration = |slot, key: &str, rule| self.within(slot, &path.key(key), rule);
        let head_timeout = duration(raw.head_timeout, "head_timeout", limits::HTTP_HEAD_TIMEOUT);
        let body_timeout = duration(raw.body_timeout, "body_timeout", limits::HTTP_BODY_TIMEOUT);
        let idle_timeout = duration(raw.idle_timeout, "idle_timeout", limits::HTTP_IDLE_TIMEOUT);
        let send_timeout = duration(raw.send_timeout, "send_timeout", limits::HTTP_SEND_TIMEOUT);
        let requests_max =
            self.within(raw.max_requests, &path.key("max_requests"), limits::HTTP_MAX_REQUESTS);
        let backend = self.http_backend(raw.backend, &path.key("backend"));
        let forwarding = self.forward(raw.forward, &path.key("forward"));
        let access_log = self.access_log(raw.access_log, &path.key("access_log"));
        let rules = self.rules(raw.rule, &path.key("rule"));
        let ByteCount(body_len_max) = body?;
        Some(HttpListener {
            head: head?,
            body_len_max,
            head_timeout: head_timeout?,
            body_timeout: body_timeout?,
            idle_timeout: idle_timeout?,
            send_timeout: send_timeout?,
            requests_max: count_u32(requests_max)?,
            backend: backend?,
            forwarding: forwarding?,
            access_log: access_log?.map(std::sync::Arc::new),
            rules: rules?,
        })
    }

    fn head_limits(
        &mut self,
        (head, headers, target): (Slot<ByteCount>, Slot<Count>, Slot<ByteCount>),
        path: &Path,
    ) -> Option<HeadLimits> {
        let head = self.within(head, &path.key("max_head"), limits::HTTP_MAX_HEAD);
        let headers = self.within(headers, &path.key("max_headers"), limits::HTTP_MAX_HEADERS);
        let target_path = path.key("max_target");
        let target = self.within(target, &target_path, limits::HTTP_MAX_TARGET);
        let (ByteCount(head), ByteCount(target)) = (head?, target?);
        if target >= head {
            let what = "not smaller than max_head, in which the target is";
            self.relation(&target_path, Problem::new(what, "less than max_head"));
        }
        Some(HeadLimits {
            head_len_max: usize::try_from(head).ok()?,
            fields_max: usize::try_from(headers?.0).ok()?,
            target_len_max: usize::try_from(target).ok()?,
        })
    }

    fn http_backend(&mut self, slot: Slot<raw::HttpBackend>, path: &Path) -> Option<HttpBackend> {
        let raw = self.or(slot, path, raw::HttpBackend::default())?;
        let mut duration = |slot, key: &str, rule| self.within(slot, &path.key(key), rule);
        let rule = limits::HTTP_BACKEND_TIMEOUT;
        let send_timeout = duration(raw.send_timeout, "send_timeout", rule);
        let read_timeout = duration(raw.read_timeout, "read_timeout", rule);
        let idle_timeout = duration(raw.idle_timeout, "idle_timeout", limits::HTTP_IDLE_TIMEOUT);
        let idle = self.within(raw.idle, &path.key("idle"), limits::HTTP_BACKEND_IDLE);
        let requests_max =
            self.within(raw.max_requests, &path.key("max_requests"), limits::HTTP_MAX_REQUESTS);
        Some(HttpBackend {
            send_timeout: send_timeout?,
            read_timeout: read_timeout?,
            idle: count_u32(idle)?,
            idle_timeout: idle_timeout?,
            requests_max: count_u32(requests_max)?,
        })
    }

    /// A template whose expressions are all `allowed`.
    fn template(
        &mut self,
        text: &str,
        path: &Path,
        allowed: fn(&Expression) -> bool,
    ) -> Option<Template> {
        let template = self.said_by(Template::parse(text), path)?;
        self.template_allowed(template, path, allowed)
    }

    /// What stands in `key`: an expression alone, or a template.
    fn template_of_key(&mut self, text: &str, path: &Path) -> Option<Template> {
        let template = self.said_by(Template::parse_key(text), path)?;
        self.template_allowed(template, path, is_of_caller)
    }

    fn said_by(
        &mut self,
        parsed: Result<Template, crate::http::template::TemplateError>,
        path: &Path,
    ) -> Option<Template> {
        match parsed {
            Ok(template) => Some(template),
            Err(error) => {
                let valid = format!("a text with expressions in braces: {EXPRESSIONS_VALID}");
                self.wrong(path, Problem::new(error.to_string(), valid));
                None
            }
        }
    }

    fn template_allowed(
        &mut self,
        template: Template,
        path: &Path,
        allowed: fn(&Expression) -> bool,
    ) -> Option<Template> {
        let odd = template.expressions().find(|expression| !allowed(expression));
        if let Some(odd) = odd {
            let what = format!("{{{odd}}} is not known here");
            self.wrong(path, Problem::new(what, "other expressions"));
            return None;
        }
        Some(template)
    }

    /// Whether a text can stand in a head as the value of a field.
    fn field_value(&mut self, text: &str, path: &Path) -> bool {
        let good = value::check(text.as_bytes(), Purpose::FieldValue).is_ok();
        if !good {
            self.wrong(path, Problem::new("control characters", "a text of one line"));
        }
        good
    }

    /// Whether a text is the name of a field that is not ours to decide about otherwise.
    fn field_name(&mut self, name: &str, path: &Path) -> bool {
        let valid = "a field's name, none of those that frame a message or belong to a connection";
        let token = !name.is_empty() && name.bytes().all(crate::http::is_token_byte);
        if !token || FIELDS_NEVER.iter().any(|never| name.eq_ignore_ascii_case(never)) {
            self.wrong(path, Problem::new("not a field that can be set", valid).without_found());
            return false;
        }
        true
    }
}

/// Fields that frame a message, belong to a connection, or have a key of their own.
const FIELDS_NEVER: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Whether an expression is known from the request alone.
fn is_of_caller(expression: &Expression) -> bool {
    !matches!(
        expression,
        Expression::Key | Expression::Set(_) | Expression::Backend | Expression::RequestId
    )
}
