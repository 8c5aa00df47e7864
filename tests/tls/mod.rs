//! Certificates, clients and backends of TLS tests: real files, real handshakes, by rustls.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};

use crate::gateway::{DEADLINE, directory};

/// Signs certificates, and keeps their files until it is dropped.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub folder: PathBuf,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = directory();
        std::fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, folder }
    }

    /// The file of its own certificate.
    pub fn ca_file(&self) -> String {
        self.folder.join("ca.pem").display().to_string()
    }

    /// A certificate for these names, in files called so.
    pub fn sign(&self, file: &str, names: &[&str]) -> Files {
        self.sign_with(file, names, |_| {})
    }

    /// The same; `change` may alter it before it is signed.
    pub fn sign_with(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Files {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            cert: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        std::fs::write(&files.cert, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// A client's settings: trusts this authority.
    pub fn client(&self, client: &ClientSettings<'_>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(client.versions)
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match client.identity {
            None => builder.with_no_client_auth(),
            Some(files) => builder
                .with_client_auth_cert(files.chain(), files.private_key())
                .expect("a certificate and its key"),
        };
        config.alpn_protocols = client.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = client.sni;
        if !client.resume {
            config.resumption = Resumption::disabled();
        }
        Arc::new(config)
    }

    /// A backend's settings; with `ask` clients must show a certificate of this authority.
    pub fn server(&self, files: &Files, ask: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let roots = Arc::new(self.roots());
        let builder = match ask {
            false => builder.with_no_client_auth(),
            true => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap(),
            ),
        };
        Arc::new(builder.with_single_cert(files.chain(), files.private_key()).unwrap())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

impl Files {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(&self.cert).unwrap().map(Result::unwrap).collect()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }

    /// As an entry of a listener's certificates.
    pub fn toml(&self) -> String {
        format!(
            "[[listener.tls.certificate]]\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            self.cert.display(),
            self.key.display()
        )
    }

    /// The other's files take its place, as a renewal does.
    pub fn replace_by(&self, other: &Files) {
        let put = |from: &Path, to: &Path| {
            let beside = to.with_extension("new");
            std::fs::copy(from, &beside).unwrap();
            std::fs::rename(&beside, to).unwrap();
        };
        put(&other.cert, &self.cert);
        put(&other.key, &self.key);
    }
}

/// How a client speaks.
pub struct ClientSettings<'a> {
    pub versions: &'a [&'static SupportedProtocolVersion],
    pub alpn: &'a [&'a str],
    pub identity: Option<&'a Files>,
    pub sni: bool,
    pub resume: bool,
}

impl Default for ClientSettings<'_> {
    fn default() -> Self {
        ClientSettings {
            versions: tokio_rustls::rustls::DEFAULT_VERSIONS,
            alpn: &[],
            identity: None,
            sni: true,
            resume: false,
        }
    }
}

/// A client inside TLS, blocking, with deadlines.
pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;
/// A backend's side of a connection.
pub type TlsBackend = StreamOwned<ServerConnection, TcpStream>;

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    limit(stream)
}

fn limit(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Connects and completes the handshake.
pub fn try_client(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsClient> {
    let mut socket = connect(address);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

pub fn client(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> TlsClient {
    try_client(address, name, config).expect("a handshake")
}

/// Completes the handshake with a client of this backend's.
pub fn accept(mut socket: TcpStream, config: &Arc<ServerConfig>) -> io::Result<TlsBackend> {
    socket.set_nodelay(true)?;
    let mut connection = ServerConnection::new(config.clone()).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

/// Ends our direction: close_notify and FIN.
pub fn finish(client: &mut TlsClient) {
    client.conn.send_close_notify();
    client.flush().unwrap();
    client.sock.shutdown(std::net::Shutdown::Write).unwrap();
}

/// The same on a backend's side.
pub fn finish_backend(backend: &mut TlsBackend) {
    backend.conn.send_close_notify();
    backend.flush().unwrap();
    backend.sock.shutdown(std::net::Shutdown::Write).unwrap();
}

pub fn receive(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends and expects the same back.
pub fn echo(stream: &mut (impl Read + Write), bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.flush().unwrap();
    assert_eq!(receive(stream, bytes.len()), bytes);
}

/// A backend inside TLS whose connections the test takes one by one, handshake done or failed.
pub struct SecureBackend {
    pub address: SocketAddr,
    accepted: Receiver<io::Result<TlsBackend>>,
}

impl SecureBackend {
    pub fn start(config: &Arc<ServerConfig>) -> SecureBackend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, accepted) = mpsc::channel();
        let config = config.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if sender.send(accept(limit(socket), &config)).is_err() {
                    return;
                }
            }
        });
        SecureBackend { address, accepted }
    }

    /// The next connection the gateway made.
    pub fn accept(&self) -> io::Result<TlsBackend> {
        self.accepted.recv_timeout(DEADLINE).expect("the gateway connects")
    }
}

/// A configuration with one tcp listener `secure` inside TLS and one pool `p` over `backends`.
/// `tls` holds further keys of `[listener.tls]`, its certificates included.
pub fn tcp_config(backends: &[SocketAddr], tls: &str, pool: &str) -> String {
    let backends: Vec<String> = backends.iter().map(|b| format!("\"{b}\"")).collect();
    format!(
        r#"{}
[[listener]]
name = "secure"
bind = ["127.0.0.1:0"]
protocol = "tcp"
pool = "p"
{tls}
[pool.p]
balance = "round_robin"
backends = [{}]
{pool}
"#,
        crate::gateway::ONE_SHARD,
        backends.join(", ")
    )
}

/// `[listener.tls]` with these further keys and certificates.
pub fn tls_table(keys: &str, certificates: &[&Files]) -> String {
    let certificates: String = certificates.iter().map(|files| files.toml()).collect();
    format!("[listener.tls]\n{keys}\n{certificates}")
}
