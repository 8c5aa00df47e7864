//! TLS to the backends of a pool: whom we trust, and by what name we call them.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::server::roots;
use super::{Identity, Version, provider};

/// `[pool.NAME.tls]` as it is written, without the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// The name that backends' certificates must have.
    pub name: Option<ServerName<'static>>,
    /// Where a name comes from that a session brings; `name` stands in when it brings none.
    pub name_from: Option<NameFrom>,
    /// Lowest version that is spoken.
    pub min_version: Version,
    /// Protocols asked for, the best first; empty: none.
    pub alpn: Vec<Vec<u8>>,
    /// Whether any certificate will do.
    pub insecure: bool,
}

/// `server_name_from`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFrom {
    /// The name that the client asked our listener for.
    Sni,
    /// The host of the client's request.
    Host,
}

/// Names that a session brings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Brought<'a> {
    /// That its client asked our listener for.
    pub sni: Option<&'a str>,
    /// The host of its request, without a port, an IPv6 address without its brackets.
    pub host: Option<&'a str>,
}

/// What a pool with TLS has prepared. Two are equal if settings and files are.
pub struct PoolTls {
    /// As written.
    pub settings: PoolSettings,
    /// Who we say we are.
    identity: Option<Identity>,
    /// Who signs backends' certificates; `None`: the public authorities.
    authorities: Option<Vec<CertificateDer<'static>>>,
    /// What handshakes are made with.
    pub config: Arc<ClientConfig>,
}

impl PoolTls {
    /// Prepares handshakes.
    ///
    /// # Errors
    /// What rustls has against it, for people: authorities that are none.
    pub fn new(
        settings: PoolSettings,
        identity: Option<Identity>,
        authorities: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<PoolTls, String> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(settings.min_version.versions())
            .map_err(|error| error.to_string())?;
        let builder = match (&authorities, settings.insecure) {
            (_, true) => {
                let anybody = Arc::new(Anybody(provider()));
                builder.dangerous().with_custom_certificate_verifier(anybody)
            }
            (Some(authorities), false) => builder.with_root_certificates(roots(authorities)?),
            (None, false) => {
                let public = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
                builder.with_root_certificates(RootCertStore::from_iter(public))
            }
        };
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let always = SingleCertAndKey::from(identity.key.clone());
                builder.with_client_cert_resolver(Arc::new(always))
            }
        };
        config.alpn_protocols.clone_from(&settings.alpn);
        Ok(PoolTls { settings, identity, authorities, config: Arc::new(config) })
    }

    /// The name to call a backend by, for a session that brings these; `None` if that is no name,
    /// or there is none. Nothing stands in for a name that cannot be used.
    pub fn name(&self, brought: &Brought<'_>) -> Option<ServerName<'static>> {
        match self.brought(brought) {
            Some(name) => ServerName::try_from(name.to_owned()).ok(),
            None => self.settings.name.clone(),
        }
    }

    /// Whether that name is one that the session brings.
    pub fn is_brought(&self, brought: &Brought<'_>) -> bool {
        self.brought(brought).is_some()
    }

    fn brought<'a>(&self, brought: &Brought<'a>) -> Option<&'a str> {
        match self.settings.name_from {
            None => None,
            Some(NameFrom::Sni) => brought.sni,
            Some(NameFrom::Host) => brought.host,
        }
    }
}

impl PartialEq for PoolTls {
    fn eq(&self, other: &PoolTls) -> bool {
        self.settings == other.settings
            && self.identity == other.identity
            && self.authorities == other.authorities
    }
}

impl fmt::Debug for PoolTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolTls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Takes any certificate whose owner has its key: `insecure = true`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
