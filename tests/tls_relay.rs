//! The relay with TLS on either side or both: half-close, back-pressure, truncation, resets.

mod gateway;
mod tls;

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use gateway::Gateway;
use gateway::backend::Backend;
use gateway::client::{Client, Closed};
use tls::{
    Authority, ClientSettings, SecureBackend, TlsClient, client, echo, finish, receive, tcp_config,
    tls_table,
};

/// A gateway with TLS towards clients; its authority lives as long.
fn secured(backend: std::net::SocketAddr, pool: &str) -> (Gateway, Authority) {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let gateway = Gateway::start(&tcp_config(&[backend], &tls_table("", &[&files]), pool));
    (gateway, authority)
}

fn connected(gateway: &Gateway, authority: &Authority) -> TlsClient {
    let config = authority.client(&ClientSettings::default());
    client(gateway.address("secure"), "a.test", &config)
}

/// Bytes that tell where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn an_end_of_one_direction_leaves_the_other_open() {
    let backend = Backend::manual();
    let (gateway, authority) = secured(backend.address, "");
    let mut client = connected(&gateway, &authority);
    client.write_all(b"request").unwrap();
    finish(&mut client);
    let mut served = backend.accept();
    assert_eq!(served.read_to_end(), (b"request".to_vec(), Closed::Fin));
    let answer = pattern(300_000);
    served.send(&answer);
    assert_eq!(receive(&mut client, answer.len()), answer);
    served.fin();
    assert_eq!(client.read(&mut [0; 1]).expect("close_notify"), 0);
    gateway.assert_end("client_fin");
}

#[test]
fn a_fin_of_the_backend_is_a_close_notify_for_the_client() {
    let backend = Backend::manual();
    let (gateway, authority) = secured(backend.address, "");
    let mut client = connected(&gateway, &authority);
    client.write_all(b"request").unwrap();
    let mut served = backend.accept();
    served.send(b"answer");
    served.fin();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("close_notify");
    assert_eq!(answer, b"answer");
    client.write_all(b" and more").unwrap();
    finish(&mut client);
    assert_eq!(served.read_to_end(), (b"request and more".to_vec(), Closed::Fin));
    gateway.assert_end("backend_fin");
}

#[test]
fn an_end_without_close_notify_is_a_reset_for_the_backend() {
    let backend = Backend::manual();
    let (gateway, authority) = secured(backend.address, "");
    let mut client = connected(&gateway, &authority);
    client.write_all(b"half of it").unwrap();
    let mut served = backend.accept();
    assert_eq!(served.receive(10), b"half of it");
    client.sock.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(served.read_to_end(), (Vec::new(), Closed::Reset));
    gateway.assert_end("client_truncated");
}

#[test]
fn a_reset_is_passed_on_both_ways() {
    let backend = Backend::manual();
    let (gateway, authority) = secured(backend.address, "");
    let mut client = connected(&gateway, &authority);
    client.write_all(b"x").unwrap();
    let mut served = backend.accept();
    served.receive(1);
    socket2::SockRef::from(&client.sock).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(served.read_to_end().1, Closed::Reset);
    let mut client = connected(&gateway, &authority);
    client.write_all(b"x").unwrap();
    let mut served = backend.accept();
    served.receive(1);
    served.reset();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let ends: Vec<_> = gateway.session_lines(2).iter().map(|l| l["end"].clone()).collect();
    assert_eq!(ends, ["client_reset", "backend_reset"]);
}

#[test]
fn a_broken_record_ends_the_session_with_its_reason() {
    let backend = Backend::manual();
    let (gateway, authority) = secured(backend.address, "");
    let mut client = connected(&gateway, &authority);
    client.write_all(b"x").unwrap();
    let mut served = backend.accept();
    served.receive(1);
    // A record of application data whose tag is wrong.
    client.sock.write_all(&[&[23, 3, 3, 0, 40][..], &[0; 40]].concat()).unwrap();
    assert_eq!(served.read_to_end().1, Closed::Reset);
    gateway.assert_end("client_tls");
}

/// Both directions at once, with readers that stop in between: everything arrives, in order, and
/// little is held meanwhile.
fn transfers(mut client: impl Split, mut served: impl Split, gateway: &Gateway) {
    const LEN: usize = 12 << 20;
    let before = gateway.resident_bytes();
    let sent = pattern(LEN);
    // Whoever reads nothing holds the other up.
    let (mut client_out, mut served_out) = (client.second(), served.second());
    let (to_backend, to_client) = (sent.clone(), sent.clone());
    let writers = [
        std::thread::spawn(move || client_out.write_fully(&to_backend)),
        std::thread::spawn(move || served_out.write_fully(&to_client)),
    ];
    std::thread::park_timeout(Duration::from_millis(300));
    let held = gateway.resident_bytes().saturating_sub(before);
    assert!(held < 8 << 20, "{held} bytes more while nobody reads");
    let other = std::thread::spawn(move || served.read_fully(LEN));
    assert!(client.read_fully(LEN) == sent, "to the client");
    assert!(other.join().unwrap() == sent, "to the backend");
    for writer in writers {
        writer.join().unwrap();
    }
}

/// A connection whose directions are used by two threads.
trait Split: Send + 'static {
    type Second: Split;
    fn second(&mut self) -> Self::Second;
    fn write_fully(&mut self, bytes: &[u8]);
    fn read_fully(&mut self, len: usize) -> Vec<u8>;
}

impl Split for Client {
    type Second = Client;

    fn second(&mut self) -> Client {
        Client { stream: self.stream.try_clone().unwrap() }
    }

    fn write_fully(&mut self, bytes: &[u8]) {
        self.send(bytes);
    }

    fn read_fully(&mut self, len: usize) -> Vec<u8> {
        self.receive(len)
    }
}

/// openssl, whose two directions are its standard input and output.
struct Openssl {
    child: Option<std::process::Child>,
    input: Option<std::process::ChildStdin>,
    output: Option<std::process::ChildStdout>,
}

impl Split for Openssl {
    type Second = Openssl;

    fn second(&mut self) -> Openssl {
        Openssl { child: None, input: self.input.take(), output: None }
    }

    fn write_fully(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn read_fully(&mut self, len: usize) -> Vec<u8> {
        receive(self.output.as_mut().unwrap(), len)
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

#[test]
fn large_transfers_both_ways_with_slow_readers() {
    for version in ["-tls1_2", "-tls1_3"] {
        let backend = Backend::manual();
        let (gateway, authority) = secured(backend.address, "");
        let mut child = std::process::Command::new("openssl")
            .args(["s_client", "-quiet", "-servername", "a.test", version, "-CAfile"])
            .arg(authority.ca_file())
            .arg("-verify_return_error")
            .arg("-connect")
            .arg(gateway.address("secure").to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("openssl");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let client = Openssl { child: Some(child), input, output };
        transfers(client, backend.accept(), &gateway);
    }
}

#[test]
fn tls_on_both_sides_is_two_sessions_with_the_same_bytes() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let inner = authority.sign("b", &["b.test"]);
    let backend = SecureBackend::start(&authority.server(&inner, false));
    let pool =
        format!("[pool.p.tls]\nserver_name = \"b.test\"\nca_file = \"{}\"\n", authority.ca_file());
    let toml = tcp_config(&[backend.address], &tls_table("", &[&files]), &pool);
    let gateway = Gateway::start(&toml);
    let mut client = connected(&gateway, &authority);
    let mut served = backend.accept().unwrap();
    for len in [1, 16_384, 16_385, 200_000] {
        let bytes = pattern(len);
        let (there, copy) = (&mut client, bytes.clone());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                there.write_all(&copy).unwrap();
                there.flush().unwrap();
            });
            assert!(receive(&mut served, len) == bytes, "{len}");
        });
        served.write_all(&bytes[..len.min(50_000)]).unwrap();
        served.flush().unwrap();
        assert!(receive(&mut client, len.min(50_000)) == bytes[..len.min(50_000)], "{len}");
    }
    finish(&mut client);
    assert_eq!(served.read(&mut [0; 1]).expect("close_notify"), 0);
    served.conn.send_close_notify();
    served.flush().unwrap();
    served.sock.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).expect("close_notify"), 0);
    gateway.assert_end("client_fin");
}

#[test]
fn quiet_sessions_end_with_a_close_notify() {
    let backend = Backend::echo("");
    let (gateway, authority) = secured(backend, "idle_timeout = \"1s\"");
    let mut client = connected(&gateway, &authority);
    echo(&mut client, b"hello");
    assert_eq!(client.read(&mut [0; 1]).expect("close_notify"), 0);
    gateway.assert_end("idle_timeout");
}
