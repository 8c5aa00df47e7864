//! Opening a connection for HTTP: TCP with keepalive, TLS when asked for, or a UNIX socket.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::{Connection, FetchError, Place};
use crate::config::StoreTls;

/// A host that is gone is noticed within about four of these, also while we wait for an answer
/// that may take minutes.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Largest head of an answer, in bytes.
const HEAD_MAX: usize = 64 * 1024;

/// Opens a connection. Certificates are read anew each time, so that they can be renewed.
pub(super) async fn open(place: &Place, tls: Option<&StoreTls>) -> Result<Connection, FetchError> {
    match place {
        Place::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(FetchError::Connect)?;
            speak_http(stream).await
        }
        Place::Tcp { host, port } => {
            let address = (host.as_str(), *port);
            let stream = TcpStream::connect(address).await.map_err(FetchError::Connect)?;
            prepare(&stream).map_err(FetchError::Connect)?;
            match tls {
                None => speak_http(stream).await,
                Some(tls) => {
                    let connector = TlsConnector::from(Arc::new(client_config(tls)?));
                    let name = ServerName::try_from(host.clone())
                        .map_err(|error| FetchError::Tls(format!("{host:?}: {error}")))?;
                    let stream = connector.connect(name, stream).await;
                    speak_http(stream.map_err(FetchError::Connect)?).await
                }
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn speak_http<S>(stream: S) -> Result<Connection, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake =
        http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await;
    let (sender, driving) = handshake.map_err(FetchError::Exchange)?;
    let driver = tokio::spawn(async move {
        // Whoever waits for an answer learns of it there.
        if let Err(error) = driving.await {
            tracing::trace!(%error, "an HTTP connection ended");
        }
    });
    Ok(Connection { sender, driver })
}

fn client_config(tls: &StoreTls) -> Result<ClientConfig, FetchError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Tls(error.to_string()))?
        .with_root_certificates(roots(tls.ca_file.as_deref())?);
    let Some((certificate, key)) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let config = builder.with_client_auth_cert(chain, private);
    config.map_err(|error| unreadable(certificate, &error))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, FetchError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unreadable(path, &error))?;
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unreadable(path, &error))?;
    if certificates.is_empty() {
        return Err(FetchError::Tls(format!("{} holds no certificate", path.display())));
    }
    Ok(certificates)
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> FetchError {
    FetchError::Tls(format!("{}: {error}", path.display()))
}
