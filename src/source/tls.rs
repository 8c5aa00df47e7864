//! TLS to a store: whom we trust, and who we say we are.
//!
//! Files are read for every connection, so that a certificate can be renewed in place. They are
//! small, and the control plane may wait for a disk.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Failure, FailureCause};
use crate::config::StoreTls;

/// What a TLS handshake with a store needs.
///
/// # Errors
/// A file that cannot be read or holds no such thing; named in the detail.
pub fn client_config(tls: &StoreTls) -> Result<Arc<ClientConfig>, Failure> {
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("TLS versions", &error))?
        .with_root_certificates(roots(tls)?);
    let config = match &tls.client {
        None => versions.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| refused(&key.display().to_string(), &error))?;
            versions
                .with_client_auth_cert(chain, key)
                .map_err(|error| refused(&certificate.display().to_string(), &error))?
        }
    };
    Ok(Arc::new(config))
}

fn roots(tls: &StoreTls) -> Result<RootCertStore, Failure> {
    let Some(file) = &tls.ca_file else {
        return Ok(RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| refused(&file.display().to_string(), &error))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let name = file.display().to_string();
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| refused(&name, &error))?;
    match certificates.is_empty() {
        true => Err(refused(&name, &"no certificate in it")),
        false => Ok(certificates),
    }
}

fn refused(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure { cause: FailureCause::Unreachable, detail: format!("TLS: {what}: {error}") }
}
