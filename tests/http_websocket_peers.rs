//! WebSocket through the gateway between a client and servers that share no code with it: Python's
//! library on both sides. Fragments, close handshakes, large messages, refusals, idle sockets.

mod gateway;
mod stores;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gateway::Gateway;
use stores::process::until;

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/websocket/peers.py");

/// Idle sockets. Each is a descriptor of the client, one of the server, and two of ours.
const IDLE: usize = 2_000;

/// A running part of `peers.py`.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn start(arguments: &[&str]) -> Peer {
        let mut child = Command::new("prlimit")
            .arg(format!("--nofile={0}:{0}", IDLE + 200))
            .args(["setpriv", "--pdeathsig", "KILL", "--", python(), PEERS])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("prlimit and setpriv: see scripts/install-test-tools");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        Peer { child, stdin, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Everything it says until it ends.
    fn rest(&mut self) -> String {
        std::io::read_to_string(&mut self.stdout).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The Python that has the library: one of somebody's own may come before the system's.
fn python() -> &'static str {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|program| {
            let check = Command::new(program)
                .args(["-c", "import websockets"])
                .stderr(Stdio::null())
                .status();
            check.is_ok_and(|status| status.success())
        })
        .expect("python3-websockets: see scripts/install-test-tools")
}

/// The file as it is given away, at other addresses.
fn gateway(ports: &[String]) -> Gateway {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ws-pool.toml");
    let mut text = std::fs::read_to_string(file).unwrap();
    let first = text.find("\nbackends = [").unwrap();
    let end = first + 1 + text[first + 1..].find('\n').unwrap();
    let backends: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    text.replace_range(first + 1..end, &format!("backends = [{}]", backends.join(", ")));
    let bind = "bind = [\"0.0.0.0:8080\"]";
    assert_eq!(text.matches(bind).count(), 1);
    let text = text.replace(bind, "bind = [\"127.0.0.1:0\"]");
    let runtime = format!("[runtime]\ncores = [0]\nmax_connections = {}\n", IDLE + 200);
    Gateway::start(&format!("{runtime}{text}"))
}

fn servers(count: usize) -> (Vec<Peer>, Vec<String>) {
    let mut servers: Vec<Peer> = (0..count).map(|_| Peer::start(&["serve"])).collect();
    let ports = servers.iter_mut().map(Peer::line).collect();
    (servers, ports)
}

#[test]
fn an_independent_client_and_server_understand_each_other() {
    let (_servers, ports) = servers(1);
    // The checks pass without a gateway: they are about what is between.
    let mut direct = Peer::start(&["check", &ports[0], "/ws?uid=1"]);
    assert_eq!(direct.rest(), "", "without a gateway");
    let gateway = gateway(&ports);
    let port = gateway.address("games").port().to_string();
    let mut check = Peer::start(&["check", &port, "/ws?uid=12345"]);
    assert_eq!(check.rest(), "");
    assert!(check.child.wait().unwrap().success());
}

#[test]
fn idle_sockets_stay_open_and_are_let_go() {
    let (_servers, ports) = servers(1);
    let gateway = gateway(&ports);
    let port = gateway.address("games").port().to_string();
    let mut idle = Peer::start(&["idle", &port, "/ws?uid=NUMBER", &IDLE.to_string()]);
    assert_eq!(idle.line(), "open");
    assert!(descriptors(&gateway) >= 2 * IDLE, "{}", descriptors(&gateway));
    // All at once, after they had nothing to say.
    idle.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(idle.rest(), "done\n");
    until("descriptors given back", || descriptors(&gateway) < 100);
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id())).unwrap().count()
}
