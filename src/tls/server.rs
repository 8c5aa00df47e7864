//! TLS of a listener: its certificates by name, and whom it lets in.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::ring::Ticketer;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::identity::certificates;
use super::{Identity, note_hello, provider};

/// `[listener.tls]` as it is written, without the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Lowest version that is spoken.
    pub min_version: Version,
    /// Protocols offered, the best first; empty: none is agreed on.
    pub alpn: Vec<Vec<u8>>,
    /// From accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Handshakes under way at once, per shard; at least 1.
    pub max_handshakes: u32,
    /// Whether sessions may be resumed by tickets.
    pub resumption: bool,
    /// What happens to names that no certificate has.
    pub unknown_name: UnknownName,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
}

/// `min_version`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// `unknown_name`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownName {
    /// They see the first certificate, as do clients that name none.
    Default,
    /// The handshake fails, also without a name.
    Reject,
}

/// `client_certificates`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Not asked for.
    Off,
    /// Asked for; one that is shown must be good.
    Optional,
    /// Without a good one there is no session.
    Required,
}

/// What a listener with TLS has prepared. Two are equal if settings and files are.
pub struct ListenerTls {
    /// As written.
    pub settings: ListenerSettings,
    /// In file order; the first is shown to clients without a name.
    pub identities: Vec<Identity>,
    /// Who signs clients' certificates.
    authorities: Vec<CertificateDer<'static>>,
    /// What handshakes are made with.
    pub config: Arc<ServerConfig>,
}

impl ListenerTls {
    /// Prepares handshakes. `authorities` sign clients' certificates, and are not looked at
    /// unless clients show some.
    ///
    /// # Errors
    /// What rustls has against it, for people: authorities that are none.
    pub fn new(
        settings: ListenerSettings,
        identities: Vec<Identity>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<ListenerTls, String> {
        let resolver = Resolver::new(&identities, settings.unknown_name);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(settings.min_version.versions())
            .map_err(|error| error.to_string())?;
        let builder = match settings.clients {
            ClientCertificates::Off => builder.with_no_client_auth(),
            clients => {
                let roots = Arc::new(roots(&authorities)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = match clients {
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                let verifier = verifier.build().map_err(|error| error.to_string())?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols.clone_from(&settings.alpn);
        // Tickets need no memory here and work on every shard.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if settings.resumption {
            // Of this listener only: a ticket of one that asks for no certificate must not open
            // another. Its keys are replaced every six hours.
            config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(ListenerTls { settings, identities, authorities, config: Arc::new(config) })
    }
}

impl PartialEq for ListenerTls {
    fn eq(&self, other: &ListenerTls) -> bool {
        self.settings == other.settings
            && self.identities == other.identities
            && self.authorities == other.authorities
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerTls")
            .field("settings", &self.settings)
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

impl Version {
    /// This version and all above it.
    pub(super) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self {
            Version::Tls12 => &VERSIONS,
            Version::Tls13 => &VERSIONS[..1],
        }
    }
}

/// The certificates of a PEM file, each of which can be a root of trust.
///
/// # Errors
/// What is wrong with it, for people.
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let authorities = certificates(pem)?;
    roots(&authorities)?;
    Ok(authorities)
}

/// Certificates as roots of trust.
///
/// # Errors
/// The first that cannot be one, for people.
pub(super) fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// Chooses a certificate by the client's name: an exact one before a wildcard, and of several for
/// one name the first whose key the client can check.
struct Resolver {
    /// Indexes of `keys` by name; wildcards by what follows `*.`.
    exact: HashMap<String, Vec<usize>>,
    wildcard: HashMap<String, Vec<usize>>,
    keys: Vec<Arc<CertifiedKey>>,
    unknown: UnknownName,
}

impl Resolver {
    fn new(identities: &[Identity], unknown: UnknownName) -> Resolver {
        let mut resolver = Resolver {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            keys: identities.iter().map(|identity| identity.key.clone()).collect(),
            unknown,
        };
        for (index, identity) in identities.iter().enumerate() {
            for name in &identity.names {
                let indexes = match name.strip_prefix("*.") {
                    Some(rest) => resolver.wildcard.entry(rest.to_owned()),
                    None => resolver.exact.entry(name.clone()),
                };
                indexes.or_default().push(index);
            }
        }
        resolver
    }

    /// Indexes of the keys for a name in lower case.
    fn candidates(&self, name: Option<&str>) -> &[usize] {
        let named = name.and_then(|name| {
            let wild = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(wild)
        });
        match (named, self.unknown) {
            (Some(indexes), _) => indexes,
            (None, UnknownName::Default) if self.keys.is_empty() => &[],
            (None, UnknownName::Default) => &[0],
            (None, UnknownName::Reject) => &[],
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let candidates = self.candidates(name.as_deref());
        let usable = |index: &&usize| {
            let key = self.keys.get(**index);
            key.is_some_and(|key| key.key.choose_scheme(hello.signature_schemes()).is_some())
        };
        let chosen = candidates.iter().find(usable).or(candidates.first());
        note_hello(name.as_deref(), chosen.is_some());
        chosen.and_then(|index| self.keys.get(*index)).cloned()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
