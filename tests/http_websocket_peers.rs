//! WebSocket through the gateway between clients and servers that share no code with it: the
//! libraries of Python and of Node (ws), with their own kind and with each other. Fragments, close
//! handshakes, large messages, compression, refusals, idle sockets.

mod gateway;
mod stores;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gateway::Gateway;
use stores::process::until;

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/websocket/peers.py");
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/websocket/peers.js");

/// Idle sockets. Each is a descriptor of the client, one of the server, and two of ours.
const IDLE: usize = 3_000;

/// The two libraries.
#[derive(Clone, Copy, Debug)]
enum Library {
    Python,
    Node,
}

/// A running part of `peers.py` or `peers.js`.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn start(library: Library, arguments: &[&str]) -> Peer {
        let (program, script) = match library {
            Library::Python => (python(), PYTHON),
            Library::Node => ("node", NODE),
        };
        let mut child = Command::new("prlimit")
            .arg(format!("--nofile={0}:{0}", IDLE + 200))
            .args(["setpriv", "--pdeathsig", "KILL", "--", program, script])
            .args(arguments)
            // Where Debian puts libraries of Node, for a Node that is not Debian's.
            .env("NODE_PATH", "/usr/share/nodejs")
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
fn gateway(port: &str) -> Gateway {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ws-pool.toml");
    let mut text = std::fs::read_to_string(file).unwrap();
    let first = text.find("\nbackends = [").unwrap();
    let end = first + 1 + text[first + 1..].find('\n').unwrap();
    text.replace_range(first + 1..end, &format!("backends = [\"127.0.0.1:{port}\"]"));
    let bind = "bind = [\"0.0.0.0:8080\"]";
    assert_eq!(text.matches(bind).count(), 1);
    let text = text.replace(bind, "bind = [\"127.0.0.1:0\"]");
    let runtime = format!("[runtime]\ncores = [0]\nmax_connections = {}\n", IDLE + 200);
    Gateway::start(&format!("{runtime}{text}"))
}

/// A server, and its port.
fn server(library: Library) -> (Peer, String) {
    let mut server = Peer::start(library, &["serve"]);
    let port = server.line();
    (server, port)
}

fn understand_each_other(client: Library, served_by: Library) {
    let (_server, port) = server(served_by);
    // The checks pass without a gateway: they are about what is between.
    let mut direct = Peer::start(client, &["check", &port, "/ws?uid=1"]);
    assert_eq!(direct.rest(), "", "without a gateway");
    let gateway = gateway(&port);
    let port = gateway.address("games").port().to_string();
    let mut check = Peer::start(client, &["check", &port, "/ws?uid=12345"]);
    assert_eq!(check.rest(), "", "{client:?} by {served_by:?}");
    assert!(check.child.wait().unwrap().success());
}

#[test]
fn a_client_and_a_server_of_python() {
    understand_each_other(Library::Python, Library::Python);
}

/// Beside messages: what they say about compression and protocols passes as it is, and compressed
/// messages, also in pieces, are what they were.
#[test]
fn a_client_and_a_server_of_node() {
    understand_each_other(Library::Node, Library::Node);
}

#[test]
fn a_client_of_python_and_a_server_of_node() {
    understand_each_other(Library::Python, Library::Node);
}

#[test]
fn idle_sockets_stay_open_and_are_let_go() {
    let (_server, port) = server(Library::Node);
    let gateway = gateway(&port);
    let port = gateway.address("games").port().to_string();
    let mut idle =
        Peer::start(Library::Node, &["idle", &port, "/ws?uid=NUMBER", &IDLE.to_string()]);
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
