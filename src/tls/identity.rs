//! Who we say we are: a certificate chain with its key, and what can be told from it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::provider;

/// Certificates of one file: more are somebody's mistake.
const CERTIFICATES_MAX: usize = 1_024;

/// A chain, its key, and what the first certificate of the chain says.
#[derive(Clone)]
pub struct Identity {
    /// What rustls signs with.
    pub key: Arc<CertifiedKey>,
    /// DNS names in lower case, as the certificate lists them; `*.` in front of some.
    pub names: Vec<String>,
    /// From when on it is good.
    pub not_before: SystemTime,
    /// Until when it is good.
    pub not_after: SystemTime,
}

/// Why files make no identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityError {
    /// The file of the chain.
    Certificate(String),
    /// The file of the key.
    Key(String),
}

impl Identity {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    /// Which of the two is no good, and why; a key of another certificate is the key's fault.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Identity, IdentityError> {
        let certificate = |why: String| IdentityError::Certificate(why);
        let chain = certificates(chain).map_err(certificate)?;
        let Some(first) = chain.first() else {
            return Err(certificate("no certificate in it".to_owned()));
        };
        let about = About::read(first).map_err(certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            IdentityError::Key(match error {
                pem::Error::NoItemsFound => "no private key in it".to_owned(),
                error => error.to_string(),
            })
        })?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                IdentityError::Key("not the key of the certificate".to_owned())
            }
            Error::InvalidCertificate(error) => certificate(format!("{error:?}")),
            error => IdentityError::Key(error.to_string()),
        })?;
        let About { names, not_before, not_after } = about;
        Ok(Identity { key: Arc::new(key), names, not_before, not_after })
    }

    /// A name for people and metrics: the first DNS name of the certificate.
    pub fn label(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

impl PartialEq for Identity {
    /// A key belongs to its certificate, so that certificates tell all.
    fn eq(&self, other: &Identity) -> bool {
        self.key.cert == other.key.cert
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { names, not_after, .. } = self;
        f.debug_struct("Identity").field("names", names).field("not_after", not_after).finish()
    }
}

/// What a certificate says about itself.
struct About {
    names: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl About {
    fn read(der: &CertificateDer<'_>) -> Result<About, String> {
        let parsed = Certificate::from_der(der).map_err(|error| error.to_string())?;
        let body = parsed.tbs_certificate;
        let moment = |since: Duration| UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
        let not_before = moment(body.validity.not_before.to_unix_duration());
        let not_after = moment(body.validity.not_after.to_unix_duration());
        let listed = body.get::<SubjectAltName>().map_err(|error| error.to_string())?;
        let listed = listed.map_or_else(Vec::new, |(_critical, SubjectAltName(names))| names);
        let names = listed.into_iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        });
        Ok(About { names: names.collect(), not_before, not_after })
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// What is wrong with it, for people; a file without any is an error too.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem).take(CERTIFICATES_MAX).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err("no certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}
