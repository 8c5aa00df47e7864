//! `[listener.tls]`, `[pool.NAME.tls]` and the files that they name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

use super::{Checker, count_u32};
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::shape::Slot;
use crate::config::value::{Flag, OneOf, ProtocolName};
use crate::config::{limits, raw};
use crate::tls::{
    self, ClientCertificates, Identity, IdentityError, ListenerSettings, ListenerTls, PoolSettings,
    PoolTls, UnknownName, Version,
};

/// A certificate that ends sooner is warned of.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);
/// What an http listener speaks, unless it is written otherwise.
const ALPN_HTTP: &str = "http/1.1";
/// What it may say that it speaks.
const ALPN_HTTPS: [&str; 2] = [ALPN_HTTP, "http/1.0"];
/// Longest name of a protocol, bytes (RFC 7301).
const ALPN_LEN_MAX: usize = 255;

/// Files of an identity as written.
struct IdentityFiles {
    cert: Slot<String>,
    key: Slot<String>,
}

impl Checker<'_> {
    /// `Some(None)` for a listener without TLS.
    pub(super) fn listener_tls(
        &mut self,
        slot: Slot<raw::ListenerTls>,
        path: &Path,
        protocol: Option<ProtocolName>,
    ) -> Option<Option<Arc<ListenerTls>>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let raw = self.take(slot, path)?;
        let identities = self.identities(raw.certificate, &path.key("certificate"));
        let min_version = self.or(raw.min_version, &path.key("min_version"), OneOf(Version::Tls12));
        let alpn = self.alpn_of_listener(raw.alpn, &path.key("alpn"), protocol);
        let handshake_timeout = self.within(
            raw.handshake_timeout,
            &path.key("handshake_timeout"),
            limits::HANDSHAKE_TIMEOUT,
        );
        let max_handshakes =
            self.within(raw.max_handshakes, &path.key("max_handshakes"), limits::MAX_HANDSHAKES);
        let resumption = self.or(raw.resumption, &path.key("resumption"), Flag(true));
        let unknown_name =
            self.or(raw.unknown_name, &path.key("unknown_name"), OneOf(UnknownName::Default));
        let clients = self.or(
            raw.client_certificates,
            &path.key("client_certificates"),
            OneOf(ClientCertificates::Off),
        );
        let ca_path = path.key("client_ca_file");
        let written = !matches!(raw.client_ca_file, Slot::Absent);
        let authorities = self.authorities(raw.client_ca_file, &ca_path);
        match clients {
            Some(OneOf(ClientCertificates::Off)) if written => {
                let what = "nobody shows a certificate";
                let valid = "client_certificates = \"required\" or \"optional\" beside it";
                self.relation(&ca_path, Problem::new(what, valid).without_found());
            }
            Some(OneOf(ClientCertificates::Optional | ClientCertificates::Required))
                if !written =>
            {
                self.missing(&ca_path, "a PEM file of the authorities that sign certificates");
            }
            _ => {}
        }
        let settings = ListenerSettings {
            min_version: min_version?.0,
            alpn: alpn?,
            handshake_timeout: handshake_timeout?,
            max_handshakes: count_u32(max_handshakes)?,
            resumption: resumption?.0,
            unknown_name: unknown_name?.0,
            clients: clients?.0,
        };
        match ListenerTls::new(settings, identities?, authorities?.unwrap_or_default()) {
            Ok(tls) => Some(Some(Arc::new(tls))),
            Err(why) => {
                self.relation(path, Problem::said(format!("no TLS can be made of it: {why}")));
                None
            }
        }
    }

    fn identities(
        &mut self,
        slot: Slot<Vec<Slot<raw::Certificate>>>,
        path: &Path,
    ) -> Option<Vec<Identity>> {
        let valid = "at least one table [[listener.tls.certificate]]";
        let list = self.required(slot, path, valid)?;
        if list.is_empty() {
            self.wrong(path, Problem::new("no certificates", valid));
            return None;
        }
        let (entries, complete) = self.entries(list, path);
        let mut identities = Vec::new();
        for (index, (path, raw)) in entries.into_iter().enumerate() {
            let files = IdentityFiles { cert: raw.cert_file, key: raw.key_file };
            let identity = self.identity(files, &path);
            if let Some(identity) = &identity
                && index > 0
                && identity.names.is_empty()
            {
                let what = "a certificate without DNS names, which no client can ask for";
                let valid = "one with names, or as the first, which needs none";
                self.relation(&path.key("cert_file"), Problem::new(what, valid));
            }
            identities.push(identity);
        }
        let identities: Option<Vec<Identity>> = identities.into_iter().collect();
        identities.filter(|_| complete)
    }

    fn identity(&mut self, files: IdentityFiles, path: &Path) -> Option<Identity> {
        let (cert_path, key_path) = (path.key("cert_file"), path.key("key_file"));
        let cert_valid = "a PEM file of a certificate and of those that signed it";
        let key_valid = "a PEM file of the certificate's private key";
        let cert = self.required(files.cert, &cert_path, cert_valid);
        let cert = cert.and_then(|file| self.readable(&file, &cert_path));
        let key = self.required(files.key, &key_path, key_valid);
        let key = key.and_then(|file| self.readable(&file, &key_path));
        match Identity::read(&cert?, &key?) {
            Ok(identity) => {
                self.in_its_time(&identity, &cert_path)?;
                Some(identity)
            }
            Err(IdentityError::Certificate(why)) => {
                self.wrong(&cert_path, Problem::new(why, cert_valid));
                None
            }
            Err(IdentityError::Key(why)) => {
                self.wrong(&key_path, Problem::new(why, key_valid));
                None
            }
        }
    }

    /// `None` for a certificate that nobody would believe now.
    fn in_its_time(&mut self, identity: &Identity, path: &Path) -> Option<()> {
        let now = SystemTime::now();
        let date = |time| humantime::format_rfc3339_seconds(time);
        let (begins, ends) = (identity.not_before, identity.not_after);
        if ends <= now {
            let what = format!("expired at {}", date(ends));
            self.wrong(path, Problem::new(what, "a certificate that is good now"));
            return None;
        }
        if begins > now {
            let what = format!("not good before {}", date(begins));
            self.warn(path, Problem::new(what, "a certificate that is good now"));
        } else if ends.duration_since(now).is_ok_and(|left| left < EXPIRES_SOON) {
            let what = format!("expires at {}", date(ends));
            self.warn(path, Problem::new(what, "a certificate that is good for 14 days or more"));
        }
        Some(())
    }

    /// `Some(None)` when no file is written.
    fn authorities(
        &mut self,
        slot: Slot<String>,
        path: &Path,
    ) -> Option<Option<Vec<CertificateDer<'static>>>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let file = self.take(slot, path)?;
        let bytes = self.readable(&file, path)?;
        match tls::authorities(&bytes) {
            Ok(certificates) => Some(Some(certificates)),
            Err(why) => {
                self.wrong(path, Problem::new(why, "a PEM file of certificates"));
                None
            }
        }
    }

    /// Clients of an http listener that want something else than it speaks are told so.
    fn alpn_of_listener(
        &mut self,
        slot: Slot<Vec<Slot<String>>>,
        path: &Path,
        protocol: Option<ProtocolName>,
    ) -> Option<Vec<Vec<u8>>> {
        if protocol != Some(ProtocolName::Http) {
            return self.alpn(slot, path);
        }
        if matches!(slot, Slot::Absent) {
            return Some(vec![ALPN_HTTP.as_bytes().to_vec()]);
        }
        let protocols = self.alpn(slot, path)?;
        if protocols.iter().any(|name| !ALPN_HTTPS.iter().any(|known| known.as_bytes() == name)) {
            let valid = "\"http/1.1\" and \"http/1.0\"";
            self.relation(
                path,
                Problem::new("not all of it is spoken by protocol \"http\"", valid),
            );
        }
        Some(protocols)
    }

    fn alpn(&mut self, slot: Slot<Vec<Slot<String>>>, path: &Path) -> Option<Vec<Vec<u8>>> {
        let list = self.or(slot, path, Vec::new())?;
        let (entries, complete) = self.entries(list, path);
        let mut protocols: Vec<Vec<u8>> = Vec::new();
        for (path, name) in entries {
            if !(1..=ALPN_LEN_MAX).contains(&name.len()) {
                let valid = format!("1 to {ALPN_LEN_MAX} bytes, such as \"http/1.1\"");
                self.wrong(&path, Problem::new("not the name of a protocol", valid));
            } else if name == "h2" {
                let valid = "\"http/1.1\", or the name of what backends speak";
                self.wrong(&path, Problem::new("HTTP/2 is not spoken here", valid));
            } else if protocols.contains(&name.as_bytes().to_vec()) {
                self.relation(&path, Problem::new("listed twice", "each protocol once"));
            }
            protocols.push(name.into_bytes());
        }
        complete.then_some(protocols)
    }

    /// `Some(None)` for a pool without TLS, the one whose `health` was read last.
    pub(super) fn pool_tls(
        &mut self,
        slot: Slot<raw::PoolTls>,
        path: &Path,
    ) -> Option<Option<Arc<PoolTls>>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let checks = self.pending_checks.last();
        let checked = checks.is_some_and(|(_, slot)| !matches!(slot, Slot::Absent));
        let raw = self.take(slot, path)?;
        let named = !matches!(raw.server_name, Slot::Absent);
        let name = self.server_name(raw.server_name, &path.key("server_name"));
        let from = match raw.server_name_from {
            Slot::Absent => Some(None),
            slot => self.take(slot, &path.key("server_name_from")).map(|OneOf(from)| Some(from)),
        };
        let insecure_path = path.key("insecure");
        let insecure = self.or(raw.insecure, &insecure_path, Flag(false)).map(|Flag(on)| on);
        if !named && matches!(from, Some(None)) {
            let valid = "the name that backends' certificates have, or server_name_from";
            self.missing(&path.key("server_name"), valid);
        } else if !named && checked {
            let what = "missing, and a check has no session to take a name from";
            let valid = "the name that backends' certificates have";
            self.relation(&path.key("server_name"), Problem::new(what, valid).without_found());
        }
        let written = !matches!(raw.ca_file, Slot::Absent);
        let authorities = self.authorities(raw.ca_file, &path.key("ca_file"));
        if insecure == Some(true) {
            let what = "anybody in between can read and change what is sent to these backends";
            self.warn(&insecure_path, Problem::new(what, "ca_file instead").without_found());
            if written {
                let what = "not looked at, as insecure = true believes everybody";
                let problem = Problem::new(what, "one of both").without_found();
                self.relation(&path.key("ca_file"), problem);
            }
        }
        let identity = match (raw.cert_file, raw.key_file) {
            (Slot::Absent, Slot::Absent) => Some(None),
            (cert, key) => self.identity(IdentityFiles { cert, key }, path).map(Some),
        };
        let min_version = self.or(raw.min_version, &path.key("min_version"), OneOf(Version::Tls12));
        let alpn = self.alpn(raw.alpn, &path.key("alpn"));
        let settings = PoolSettings {
            name: name?,
            name_from: from?,
            min_version: min_version?.0,
            alpn: alpn?,
            insecure: insecure?,
        };
        match PoolTls::new(settings, identity?, authorities?) {
            Ok(tls) => Some(Some(Arc::new(tls))),
            Err(why) => {
                self.relation(path, Problem::said(format!("no TLS can be made of it: {why}")));
                None
            }
        }
    }

    fn server_name(
        &mut self,
        slot: Slot<String>,
        path: &Path,
    ) -> Option<Option<ServerName<'static>>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let name = self.take(slot, path)?;
        match ServerName::try_from(name) {
            Ok(name) => Some(Some(name)),
            Err(error) => {
                let what = format!("not a name ({error})");
                self.wrong(path, Problem::new(what, "a DNS name or an IP address"));
                None
            }
        }
    }
}
