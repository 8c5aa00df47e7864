//! Bytes are transparent: hundreds of sessions at once, random sizes, splits and pauses in both
//! directions at the same time, random half-close orders; every stream must hash the same at both
//! ends. Over quiet and busy relays, warm connections, and two shards.

mod gateway;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use gateway::client::{Client, login};
use gateway::{DEADLINE, Gateway, frame_config};

/// SplitMix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}

/// Length and CRC of a stream.
type Digest = (u64, u32);

/// Writes a random stream in random pieces with random pauses, then FIN.
fn write_stream(mut stream: TcpStream, mut random: Random) -> Digest {
    let mut hasher = crc32fast::Hasher::new();
    let mut total = 0;
    for _ in 0..random.below(40) {
        let len = match random.below(4) {
            0 => 1 + random.below(8),
            1 => 1 + random.below(300),
            2 => 1 + random.below(9000),
            _ => 1 + random.below(200_000),
        };
        let bytes = random.bytes(len as usize);
        stream.write_all(&bytes).expect("the other side reads to the end");
        hasher.update(&bytes);
        total += len;
        if random.below(3) == 0 {
            std::thread::park_timeout(Duration::from_millis(random.below(30)));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    (total, hasher.finalize())
}

fn read_stream(mut stream: TcpStream) -> Digest {
    let mut hasher = crc32fast::Hasher::new();
    let mut buf = vec![0; 32 * 1024];
    let mut total = 0;
    loop {
        let n = stream.read(&mut buf).expect("the stream ends with FIN");
        if n == 0 {
            return (total, hasher.finalize());
        }
        hasher.update(&buf[..n]);
        total += n as u64;
    }
}

/// Runs one end of a session: what it sent and what it received.
fn both_ways(stream: TcpStream, random: Random) -> (Digest, Digest) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let writing = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || write_stream(writing, random));
    let received = read_stream(stream);
    (writer.join().unwrap(), received)
}

/// A listener whose queue holds everybody at once.
fn listen() -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(1024).unwrap();
    socket.into()
}

fn soak(sessions: u64, pool: &str) {
    let seed: u64 =
        std::env::var("SOAK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_260_821);
    eprintln!("SOAK_SEED={seed}");
    let listener = listen();
    let backend = listener.local_addr().unwrap();
    let toml = frame_config(&[backend], pool, "").replace("cores = [0]", "cores = \"auto\"");
    let gateway = Gateway::start(&toml);
    let (sender, backend_ends) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut head = [0; 16];
                // A warm connection may never be used.
                if stream.read_exact(&mut head).is_err() {
                    return;
                }
                let mut body = vec![0; login("0000").len() - 16];
                stream.read_exact(&mut body).unwrap();
                let text = String::from_utf8_lossy(&body).into_owned();
                let id: u64 = text.trim_end_matches("\"}").parse().expect("four digits");
                let random = Random(seed ^ (id << 32) ^ 0xbac);
                let _test_failed = sender.send((id, both_ways(stream, random)));
            });
        }
    });
    let clients: Vec<_> = (0..sessions)
        .map(|id| {
            let address = gateway.address("devices");
            std::thread::spawn(move || {
                let client = Client::login(address, &format!("{id:04}"));
                both_ways(client.stream, Random(seed ^ (id << 32)))
            })
        })
        .collect();
    let client_ends: Vec<_> = clients.into_iter().filter_map(|thread| thread.join().ok()).collect();
    if client_ends.len() < sessions as usize {
        let broken: Vec<String> =
            gateway.sessions.all().into_iter().filter(|line| !line.contains("_fin\"")).collect();
        panic!(
            "{} sessions broke, seed {seed}: {broken:#?}",
            sessions as usize - client_ends.len()
        );
    }
    for _ in 0..sessions {
        let (id, (sent, received)) = backend_ends.recv_timeout(DEADLINE).expect("every session");
        let (client_sent, client_received) = client_ends[id as usize];
        assert_eq!(client_sent, received, "to the backend, session {id}, seed {seed}");
        assert_eq!(sent, client_received, "to the client, session {id}, seed {seed}");
    }
    for line in gateway.session_lines(sessions as usize) {
        let end = line["end"].as_str().unwrap();
        assert!(end == "client_fin" || end == "backend_fin", "{line}");
    }
}

#[test]
fn every_byte_arrives_in_order_both_ways() {
    soak(300, "");
}

#[test]
fn every_byte_arrives_over_warm_connections_and_with_small_buffers() {
    soak(100, "warm = 8");
}
