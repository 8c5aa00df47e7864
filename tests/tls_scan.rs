//! Scans of a listener for weak settings, by programs that share no code with it.
//!
//! openssl tries every protocol, cipher suite and group that it knows. sslscan tries also what
//! today's openssl has no code for, by bytes of its own: SSL 2 and 3, suites without encryption or
//! for export, RC4, DES, Heartbleed. A client that wants a second handshake within the first, or
//! compression, is one of openssl's, and bytes of ours, as no program of today offers the latter.
//!
//! Not scanned: TLS_FALLBACK_SCSV, of which rustls knows nothing (clients of TLS 1.3 see by the
//! random bytes that they were talked down to 1.2, which is looked at); data before the handshake
//! ends (0-RTT), which no setting of ours turns on; and how long anything takes.

mod gateway;
mod tls;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
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
    assert!(text.contains("Secure Renegotiation IS supported"), "{text}");
    // A signature that ECDSA cannot give chooses the other certificate of the same name.
    let (taken, text) = handshake(address, &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"]);
    assert!(taken && text.contains("CN = r"), "{text}");
}

/// A listener with a certificate of each kind.
fn scanned() -> (Authority, Gateway) {
    let authority = Authority::new("test");
    let table = tls_table("", &[&authority.sign("a", &["a.test"]), &rsa(&authority.folder)]);
    let gateway = Gateway::start(&tcp_config(&[Backend::echo("")], &table, ""));
    (authority, gateway)
}

/// The elements of this name in what sslscan says, each with its attributes.
fn elements<'x>(xml: &'x str, name: &str) -> Vec<&'x str> {
    let start = format!("<{name} ");
    let lines = xml.lines().map(str::trim);
    lines.filter_map(|line| line.strip_prefix(&*start)?.strip_suffix("/>")).collect()
}

fn attribute<'x>(element: &'x str, name: &str) -> &'x str {
    let rest = element.split_once(&format!("{name}=\"")).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("{name}: {element}"))
}

#[test]
fn a_scanner_finds_nothing_weak() {
    let (_authority, gateway) = scanned();
    let address = gateway.address("secure").to_string();
    let output = Command::new("sslscan")
        .args(["--no-colour", "--sni-name=a.test", "--xml=-", &address])
        .output()
        .expect("sslscan: see scripts/install-test-tools");
    let xml = String::from_utf8(output.stdout).unwrap();
    let versions: Vec<(&str, &str, &str)> = elements(&xml, "protocol")
        .into_iter()
        .map(|one| (attribute(one, "type"), attribute(one, "version"), attribute(one, "enabled")))
        .collect();
    let expected = [
        ("ssl", "2", "0"),
        ("ssl", "3", "0"),
        ("tls", "1.0", "0"),
        ("tls", "1.1", "0"),
        ("tls", "1.2", "1"),
        ("tls", "1.3", "1"),
    ];
    assert_eq!(versions, expected, "{xml}");
    // Suites that openssl has no code for are among those it tries.
    let suites = elements(&xml, "cipher");
    for suite in &suites {
        let name = attribute(suite, "cipher");
        let strong = name.contains("GCM") || name.contains("CHACHA20");
        let secret = name.starts_with("ECDHE-") || name.starts_with("TLS_");
        assert!(
            strong && secret && attribute(suite, "bits").parse::<u16>().unwrap() >= 128,
            "{xml}"
        );
    }
    assert_eq!(suites.len(), 9, "three of TLS 1.3, six of 1.2: {xml}");
    let groups: BTreeSet<&str> =
        elements(&xml, "group").into_iter().map(|group| attribute(group, "id")).collect();
    assert_eq!(groups, BTreeSet::from(["0x0017", "0x0018", "0x001d"]), "{xml}");
    let heartbleed = elements(&xml, "heartbleed");
    assert_eq!(heartbleed.len(), 2, "{xml}");
    assert!(heartbleed.iter().all(|one| attribute(one, "vulnerable") == "0"), "{xml}");
}

#[test]
fn nobody_begins_a_second_handshake() {
    let (_authority, gateway) = scanned();
    let address = gateway.address("secure").to_string();
    let mut child = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-tls1_2", "-servername", "a.test", "-connect"])
        .arg(&address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    // A line with only this letter asks for another handshake.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"R\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
}

#[test]
fn signatures_by_sha1_are_not_made() {
    let (_authority, gateway) = scanned();
    let address = gateway.address("secure");
    for (weak, strong) in [("ECDSA+SHA1", "ECDSA+SHA256"), ("RSA+SHA1", "RSA-PSS+SHA256")] {
        let with = |algorithm| {
            let options = ["-tls1_2", "-cipher", "ALL:@SECLEVEL=0", "-sigalgs", algorithm];
            handshake(address, &options).0
        };
        assert!(!with(weak), "{weak}");
        assert!(with(strong), "{strong}");
    }
}

/// A hello of TLS 1.2 that offers these ways to compress.
fn hello(compressions: &[u8]) -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; two suites.
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f]);
    hello.push(compressions.len() as u8);
    hello.extend(compressions);
    // Groups: x25519, P-256. Signatures: ECDSA and RSA-PSS by SHA-256. Points: uncompressed.
    let groups = [0, 10, 0, 6, 0, 4, 0, 29, 0, 23];
    let signatures = [0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    let points = [0, 11, 0, 2, 1, 0];
    let name = [&[0, 0, 0, 11, 0, 9, 0, 0, 6][..], b"a.test"].concat();
    let extensions = [&groups[..], &signatures, &points, &name].concat();
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let len = (hello.len() as u32).to_be_bytes();
    let handshake = [&[1][..], &len[1..], &hello].concat();
    let len = (handshake.len() as u16).to_be_bytes();
    [&[22, 3, 1][..], &len, &handshake].concat()
}

#[test]
fn nothing_is_compressed_and_who_is_talked_down_is_told() {
    let (_authority, gateway) = scanned();
    let answer = |compressions: &[u8]| {
        let mut socket: TcpStream = tls::connect(gateway.address("secure"));
        socket.write_all(&hello(compressions)).unwrap();
        let mut record = [0; 5];
        socket.read_exact(&mut record).unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
        socket.read_exact(&mut payload).unwrap();
        (record[0], payload)
    };
    const DEFLATE: u8 = 1;
    for offered in [&[0][..], &[DEFLATE, 0], &[0, DEFLATE]] {
        let (kind, server_hello) = answer(offered);
        assert_eq!((kind, server_hello[0]), (22, 2), "a handshake, and a hello: {offered:?}");
        let random = &server_hello[6..38];
        // RFC 8446, 4.1.3: from somebody who could have spoken 1.3.
        assert_eq!(&random[24..], b"DOWNGRD\x01");
        let behind_session = 39 + usize::from(server_hello[38]);
        assert_eq!(server_hello[behind_session + 2], 0, "{offered:?}");
    }
    let (kind, alert) = answer(&[DEFLATE]);
    assert_eq!((kind, alert[0]), (21, 2), "a fatal alert: {alert:?}");
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
