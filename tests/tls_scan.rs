//! What openssl and curl see of a listener: every protocol and cipher suite that openssl knows is
//! tried, and only the strong ones are taken.

mod gateway;
mod tls;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use gateway::Gateway;
use gateway::backend::Backend;
use tls::{Authority, Files, tcp_config, tls_table};

/// An RSA key and its own certificate, made by openssl: what it cannot sign, ECDSA can.
fn rsa(folder: &Path) -> Files {
    let files = Files { cert: folder.join("rsa.pem"), key: folder.join("rsa.key") };
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=r"])
        .args(["-addext", "subjectAltName=DNS:a.test", "-keyout"])
        .arg(&files.key)
        .arg("-out")
        .arg(&files.cert)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    files
}

/// Whether a handshake with these options succeeds, and what openssl said.
fn handshake(address: SocketAddr, options: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args(["s_client", "-servername", "a.test", "-connect", &address.to_string()])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success() && !text.contains("Cipher is (NONE)"), text)
}

/// The names of all suites of TLS 1.2 and below that openssl has.
fn suites() -> Vec<String> {
    let output = Command::new("openssl")
        .args(["ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"])
        .output()
        .expect("openssl");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split(':').map(str::to_owned).collect()
}

#[test]
fn only_strong_protocols_and_suites_are_taken() {
    let authority = Authority::new("test");
    let ecdsa = authority.sign("a", &["a.test"]);
    let rsa = rsa(&authority.folder);
    let backend = Backend::echo("");
    let table = tls_table("", &[&ecdsa, &rsa]);
    let gateway = Gateway::start(&tcp_config(&[backend], &table, ""));
    let address = gateway.address("secure");
    for old in ["-tls1", "-tls1_1"] {
        let (taken, text) = handshake(address, &[old, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!taken, "{old}: {text}");
    }
    let suites = suites();
    assert!(suites.len() > 60, "openssl knows more suites than {suites:?}");
    let mut taken = BTreeSet::new();
    for some in suites.chunks(suites.len().div_ceil(4)).map(<[String]>::to_vec) {
        let scan = some.into_iter().filter(|suite| {
            let suite = format!("{suite}:@SECLEVEL=0");
            handshake(address, &["-tls1_2", "-cipher", &suite]).0
        });
        taken.extend(scan);
    }
    let strong: BTreeSet<String> = ["ECDSA", "RSA"]
        .iter()
        .flat_map(|key| {
            ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
                .map(|rest| format!("ECDHE-{key}-{rest}"))
        })
        .collect();
    assert_eq!(taken, strong, "forward secrecy and authenticated encryption, and nothing else");
    for suite in
        ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
    {
        assert!(handshake(address, &["-tls1_3", "-ciphersuites", suite]).0, "{suite}");
    }
    for weak in ["TLS_AES_128_CCM_8_SHA256", "TLS_AES_128_CCM_SHA256"] {
        assert!(!handshake(address, &["-tls1_3", "-ciphersuites", weak]).0, "{weak}");
    }
    for group in ["P-256", "P-384", "X25519"] {
        assert!(handshake(address, &["-groups", group]).0, "{group}");
    }
    for weak in ["P-521", "ffdhe2048"] {
        assert!(!handshake(address, &["-tls1_3", "-groups", weak]).0, "{weak}");
    }
    let (_, text) = handshake(address, &["-tls1_2"]);
    assert!(text.contains("Compression: NONE"), "{text}");
    assert!(text.contains("Secure Renegotiation IS supported"), "{text}");
    // A signature that ECDSA cannot give chooses the other certificate of the same name.
    let (taken, text) = handshake(address, &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"]);
    assert!(taken && text.contains("CN = r"), "{text}");
}

#[test]
fn curl_reaches_a_backend_by_name() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::manual();
    let table = tls_table("alpn = [\"http/1.1\"]", &[&files]);
    let gateway = Gateway::start(&tcp_config(&[backend.address], &table, ""));
    let port = gateway.address("secure").port();
    let serving = std::thread::spawn(move || {
        let mut served = backend.accept();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut some = [0; 1024];
            let n = served.stream.read(&mut some).unwrap();
            assert_ne!(n, 0, "a whole request");
            request.extend_from_slice(&some[..n]);
        }
        let body = vec![b'x'; 1 << 20];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        served.stream.write_all(head.as_bytes()).unwrap();
        served.stream.write_all(&body).unwrap();
        request
    });
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "20", "--cacert"])
        .arg(authority.ca_file())
        .arg("--resolve")
        .arg(format!("a.test:{port}:127.0.0.1"))
        .arg(format!("https://a.test:{port}/path"))
        .output()
        .expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 1 << 20);
    let request = serving.join().unwrap();
    assert!(request.starts_with(b"GET /path HTTP/1.1\r\n"));
}
