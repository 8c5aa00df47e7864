//! Opening a connection for HTTP: TCP with keepalive, TLS when asked for, or a UNIX socket.

use std::io;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Connection, FetchError, Place};
use crate::config::StoreTls;
use crate::source::tls::client_config;

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
                    let connector = client_config(tls)
                        .map(TlsConnector::from)
                        .map_err(|failure| FetchError::Tls(failure.detail))?;
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
