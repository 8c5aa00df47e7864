//! `[listener.http.forward]` and `[listener.http.access_log]`

use super::super::Checker;
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::shape::{Entries, Slot};
use crate::config::value::{Flag, OneOf, Trusted};
use crate::config::{SessionLog, raw};
use crate::http::access::{AccessLog, AccessTarget, Escape, Format};
use crate::http::rewrite::{Forwarding, Mode};
use crate::http::template::{Expression, Template};

/// What stands for the backend in the path of a log.
const BACKEND: &str = "{backend}";

impl Checker<'_> {
    pub(super) fn forward(&mut self, slot: Slot<raw::Forward>, path: &Path) -> Option<Forwarding> {
        let raw = self.or(slot, path, raw::Forward::default())?;
        let mut mode = |slot: Slot<OneOf<Mode>>, key: &str, default| {
            self.or(slot, &path.key(key), OneOf(default)).map(|OneOf(mode)| mode)
        };
        let x_forwarded_for = mode(raw.x_forwarded_for, "x_forwarded_for", Mode::Append);
        let x_forwarded_proto = mode(raw.x_forwarded_proto, "x_forwarded_proto", Mode::Set);
        let x_forwarded_host = mode(raw.x_forwarded_host, "x_forwarded_host", Mode::Set);
        let x_real_ip = mode(raw.x_real_ip, "x_real_ip", Mode::Off);
        let forwarded = mode(raw.forwarded, "forwarded", Mode::Off);
        let request_id = mode(raw.request_id, "request_id", Mode::Off);
        let trusted = self.trusted(raw.trusted, &path.key("trusted"));
        let client_path = path.key("client_from_x_forwarded_for");
        let client = self.or(raw.client_from_x_forwarded_for, &client_path, Flag(false));
        let host_path = path.key("host");
        let host = self.or(raw.host, &host_path, "{authority}".to_string());
        let host = host.and_then(|text| self.onward(&text, &host_path));
        let headers = self.forward_headers(raw.headers, &path.key("headers"));
        let via = self.via(raw.via, &path.key("via"));
        let (networks, trusted_unix) = trusted?;
        let Flag(client_behind_proxies) = client?;
        if client_behind_proxies && networks.is_empty() {
            let what = "nobody is trusted whose X-Forwarded-For could be believed";
            self.relation(&client_path, Problem::new(what, "false, or networks in trusted"));
        }
        Some(Forwarding {
            x_forwarded_for: x_forwarded_for?,
            x_forwarded_proto: x_forwarded_proto?,
            x_forwarded_host: x_forwarded_host?,
            x_real_ip: x_real_ip?,
            forwarded: forwarded?,
            request_id: request_id?,
            trusted: networks,
            trusted_unix,
            client_behind_proxies,
            host: host?,
            headers: headers?,
            via: via?,
        })
    }

    /// Networks, and whether "unix" is among them.
    pub(super) fn trusted(
        &mut self,
        slot: Slot<Vec<Slot<Trusted>>>,
        path: &Path,
    ) -> Option<(Vec<ipnet::IpNet>, bool)> {
        let list = self.or(slot, path, Vec::new())?;
        let (entries, complete) = self.entries(list, path);
        let mut networks = Vec::new();
        let mut unix = false;
        for (_, trusted) in entries {
            match trusted {
                Trusted::Network(network) => networks.push(network),
                Trusted::Unix => unix = true,
            }
        }
        complete.then_some((networks, unix))
    }

    /// A template of a field on its way to a backend.
    fn onward(&mut self, text: &str, path: &Path) -> Option<Template> {
        if !self.field_value(text, path) {
            return None;
        }
        self.template(text, path, |expression| {
            !matches!(expression, Expression::Key | Expression::Set(_))
        })
    }

    fn forward_headers(
        &mut self,
        slot: Slot<Entries<String>>,
        path: &Path,
    ) -> Option<Vec<(String, Template)>> {
        let Entries(entries) = self.or(slot, path, Entries::default())?;
        let mut headers = Vec::new();
        let mut complete = true;
        for (name, slot) in entries {
            let path = path.key(&name);
            let named = self.field_name(&name, &path);
            let text = self.take(slot, &path);
            match text.and_then(|text| self.onward(&text, &path)).filter(|_| named) {
                Some(template) => headers.push((name, template)),
                None => complete = false,
            }
        }
        complete.then_some(headers)
    }

    /// `Some(None)` when it is not written.
    fn via(&mut self, slot: Slot<String>, path: &Path) -> Option<Option<String>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let name = self.take(slot, path)?;
        if name.is_empty() || !name.bytes().all(crate::http::is_token_byte) {
            self.wrong(path, Problem::new("not a name for Via", "letters, digits and \"-._\""));
            return None;
        }
        Some(Some(name))
    }

    /// `Some(None)` when there is no such log.
    pub(super) fn access_log(
        &mut self,
        slot: Slot<raw::AccessLog>,
        path: &Path,
    ) -> Option<Option<AccessLog>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let raw = self.take(slot, path)?;
        let path_path = path.key("path");
        let target = self.or(raw.path, &path_path, "stdout".to_string());
        let target = target.and_then(|text| self.access_target(text, &path_path));
        let format_path = path.key("format");
        let escape = self.or(raw.escape, &path.key("escape"), OneOf(Escape::Default));
        let format = self.or(raw.format, &format_path, "json".to_string());
        // Names of variables are right or wrong whatever the escape is.
        let known = escape.map_or(Escape::Default, |OneOf(escape)| escape);
        let format = format.and_then(|text| self.format(&text, known, &format_path));
        escape?;
        Some(Some(AccessLog { target: target?, format: format? }))
    }

    fn access_target(&mut self, text: String, path: &Path) -> Option<AccessTarget> {
        use crate::config::shape::{Scalar, Shape};
        let valid = "\"stdout\", \"stderr\", or a path with a \"/\" whose last part may have \
                     \"{backend}\" in it, once";
        if let Some((before, after)) = text.split_once(BACKEND) {
            let good = before.contains('/') && !after.contains(['/', '{', '}']);
            if !good || before.contains(['{', '}', '\0']) || after.contains('\0') {
                self.wrong(path, Problem::new("not the path of files for backends", valid));
                return None;
            }
            let (before, after) = (before.to_string(), after.to_string());
            return Some(AccessTarget::PerBackend { before, after });
        }
        match SessionLog::from_scalar(Scalar::Text(&text)) {
            Ok(SessionLog::Stdout) => Some(AccessTarget::Stdout),
            Ok(SessionLog::Stderr) => Some(AccessTarget::Stderr),
            Ok(SessionLog::File(file)) if !text.contains(['{', '}', '\0']) => {
                Some(AccessTarget::File(file))
            }
            Ok(SessionLog::Off | SessionLog::File(_)) => {
                self.wrong(path, Problem::new("not where lines can go", valid));
                None
            }
            Err(problem) => {
                self.wrong(path, Problem { valid: Some(valid.to_string()), ..problem });
                None
            }
        }
    }

    fn format(&mut self, text: &str, escape: Escape, path: &Path) -> Option<Format> {
        match Format::parse(text, escape) {
            Ok(format) => Some(format),
            Err(error) => {
                let near = error.near.map(|near| format!("\"${near}\""));
                let valid = "\"json\", \"combined\", or a text with nginx's variables";
                self.wrong(path, Problem::new(error.to_string(), valid).near(near));
                None
            }
        }
    }
}
