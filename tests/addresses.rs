//! Listeners and backends on IPv4, IPv6 and UNIX sockets; source addresses; tcp listeners.

mod gateway;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, ONE_SHARD, frame_config};

#[test]
fn ipv6_listener_and_backend() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let toml =
        frame_config(&[listener.local_addr().unwrap()], "", "").replace("127.0.0.1:0", "[::1]:0");
    let gateway = Gateway::start(&toml);
    let mut client = Client::login(gateway.address("devices"), "six");
    let (mut accepted, _) = listener.accept().unwrap();
    let mut bytes = vec![0; login("six").len()];
    accepted.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, login("six"));
    accepted.write_all(b"hello").unwrap();
    assert_eq!(client.receive(5), b"hello");
}

#[test]
fn unix_listener_and_backend_with_half_close() {
    let directory = gateway::directory();
    let (front, back) = (directory.join("front.sock"), directory.join("back.sock"));
    let listener = UnixListener::bind(&back).unwrap();
    let toml = frame_config(&[], "", "")
        .replace("127.0.0.1:0", &format!("unix:{}", front.display()))
        .replace("backends = []", &format!("backends = [\"unix:{}\"]", back.display()));
    let mut gateway = Gateway::start(&toml);
    let mut client = UnixStream::connect(&front).unwrap();
    client.set_read_timeout(Some(gateway::DEADLINE)).unwrap();
    client.write_all(&login("unix")).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(gateway::DEADLINE)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    accepted.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, login("unix"));
    let writer = std::thread::spawn(move || accepted.write_all(&[9; 900_000]).unwrap());
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, vec![9; 900_000]);
    writer.join().unwrap();
    gateway.assert_end("client_fin");
    // A stale file is no obstacle, and it is gone after an orderly end.
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    assert!(!front.exists());
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    let directory = gateway::directory();
    let path = directory.join("front.sock");
    drop(UnixListener::bind(&path).unwrap());
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "")
        .replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let _gateway = Gateway::start(&toml);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&login("a")).unwrap();
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"only\n");
    let (code, said) = gateway::run_to_end(&toml, &gateway::Start::default());
    assert_eq!(code, Some(2), "{said}");
    assert!(path.exists());
}

#[test]
fn a_file_in_the_way_of_a_unix_socket_is_left_alone() {
    let directory = gateway::directory();
    let path = directory.join("precious.txt");
    std::fs::write(&path, "precious").unwrap();
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "")
        .replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let (code, said) = gateway::run_to_end(&toml, &gateway::Start::default());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("a file that is not a socket is in the way"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_process_that_drains_leaves_the_unix_socket_of_its_successor() {
    let directory = gateway::directory();
    let path = directory.join("front.sock");
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "")
        .replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let mut first = Gateway::start(&toml);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&login("a")).unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    first.signal("TERM");
    let give_up = std::time::Instant::now() + gateway::DEADLINE;
    while UnixStream::connect(&path).is_ok() {
        assert!(std::time::Instant::now() < give_up, "still listening");
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    let _second = Gateway::start(&toml);
    drop(client);
    assert!(first.wait().success());
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&login("b")).unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn connections_come_from_the_source_addresses_in_turn() {
    let listening = Backend::manual();
    let pool = "source_addresses = [\"127.0.0.21\", \"127.0.0.22\"]";
    let gateway = Gateway::start(&frame_config(&[listening.address], pool, ""));
    let mut seen = Vec::new();
    let mut open = Vec::new();
    for n in 0..4 {
        open.push(Client::login(gateway.address("devices"), &format!("{n}")));
        let accepted = listening.accept();
        seen.push(accepted.stream.peer_addr().unwrap().ip().to_string());
        open.push(accepted);
    }
    seen.sort();
    assert_eq!(seen, ["127.0.0.21", "127.0.0.21", "127.0.0.22", "127.0.0.22"]);
}

#[test]
fn a_source_address_of_another_machine_is_refused_at_start() {
    let toml = frame_config(&[Backend::echo("only")], "source_addresses = [\"192.0.2.1\"]", "");
    let (code, said) = gateway::run_to_end(&toml, &gateway::Start::default());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("pool \"c2s\""), "{said}");
    assert!(said.contains("192.0.2.1: Cannot assign requested address"), "{said}");
}

#[test]
fn a_tcp_listener_forwards_from_the_first_byte_whoever_speaks_first() {
    let listening = Backend::manual();
    let toml = format!(
        r#"{ONE_SHARD}
[[listener]]
name = "plain"
bind = ["127.0.0.1:0"]
protocol = "tcp"
pool = "any"
[pool.any]
balance = "least_conn"
backends = ["{}"]
"#,
        listening.address
    );
    let gateway = Gateway::start(&toml);
    let mut client = Client::connect(gateway.address("plain"));
    let mut backend = listening.accept();
    backend.send(b"220 hello\r\n");
    assert_eq!(client.receive(11), b"220 hello\r\n");
    client.send(b"QUIT\r\n");
    assert_eq!(backend.receive(6), b"QUIT\r\n");
}

#[test]
fn a_tcp_listener_keyed_by_client_address_keeps_each_address_on_its_backend() {
    let backends: Vec<_> = (0..3).map(|n| Backend::echo(&format!("b{n}"))).collect();
    let list: Vec<String> = backends.iter().map(|b| format!("\"{b}\"")).collect();
    let toml = format!(
        r#"{ONE_SHARD}
[[listener]]
name = "plain"
bind = ["127.0.0.1:0"]
protocol = "tcp"
pool = "any"
[listener.tcp]
key = "client_ip"
[pool.any]
balance = "crc32_mod"
backends = [{}]
"#,
        list.join(", ")
    );
    let gateway = Gateway::start(&toml);
    for last in 1..20 {
        let ip = format!("127.0.1.{last}");
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let source: std::net::SocketAddr = format!("{ip}:0").parse().unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&gateway.address("plain").into()).unwrap();
        let mut stream: std::net::TcpStream = socket.into();
        stream.write_all(b"x").unwrap();
        let mut greeting = [0; 3];
        stream.read_exact(&mut greeting).unwrap();
        let home = crc32fast::hash(ip.as_bytes()) % 3;
        assert_eq!(greeting, format!("b{home}\n").as_bytes(), "{ip}");
    }
}
