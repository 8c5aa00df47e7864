//! Bringing sessions onto one of the three paths that a relay moves bytes on, and streams of bytes
//! of which every one says where it belongs.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::client::{Client, login};
use super::{DEADLINE, Gateway, frame_config};

/// How a relay moves bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Polled,
    Armed,
    Spliced,
}

impl Path {
    pub const ALL: [Path; 3] = [Path::Polled, Path::Armed, Path::Spliced];
}

/// Whose end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Client,
    Backend,
}

impl By {
    pub const BOTH: [By; 2] = [By::Client, By::Backend];

    /// The end of a session that this side begins to end in this way.
    pub fn end(self, how: &str) -> String {
        match self {
            By::Client => format!("client_{how}"),
            By::Backend => format!("backend_{how}"),
        }
    }
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn within(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        let span = (range.end() - range.start() + 1) as u64;
        range.start() + (self.number() % span) as usize
    }
}

/// After how many bytes a stream repeats: a prime, so that no buffer's length divides it.
const PERIOD: usize = 1_048_573;

/// The part of a stream from a place on, as far as it is in one piece.
fn piece(stream: u64, from: usize) -> &'static [u8] {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let mut random = Random(1);
        (0..PERIOD).map(|_| random.number() as u8).collect()
    });
    &all[(stream as usize * 7919 + from) % PERIOD..]
}

/// Bytes of a stream from a place on.
pub fn bytes(stream: u64, from: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let piece = piece(stream, from + bytes.len());
        bytes.extend_from_slice(&piece[..piece.len().min(len - bytes.len())]);
    }
    bytes
}

/// Panics at the first byte that is not what the stream has there.
pub fn assert_bytes(stream: u64, from: usize, received: &[u8]) {
    let expected = bytes(stream, from, received.len());
    if received != expected {
        let wrong = received.iter().zip(&expected).position(|(one, other)| one != other);
        panic!("stream {stream}: not its byte at {}", from + wrong.unwrap_or(0));
    }
}

/// Sends a stream until nothing more is taken for a while; how much was taken.
pub fn fill(sender: &mut Client, stream: u64, message_len: usize) -> usize {
    sender.stream.set_nonblocking(true).unwrap();
    let (mut sent, mut full) = (0, 0);
    let give_up = Instant::now() + 2 * DEADLINE;
    let mut chunk = bytes(stream, 0, message_len);
    while full < 30 {
        assert!(Instant::now() < give_up && sent < 1 << 28, "nothing ever stopped the sender");
        match sender.stream.write(&chunk) {
            Ok(n) => {
                sent += n;
                full = 0;
                chunk.drain(..n);
                chunk.extend(bytes(stream, sent + chunk.len(), n));
                if message_len < 65536 {
                    // Small messages arrive as such only one at a time.
                    std::thread::yield_now();
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }
    sender.stream.set_nonblocking(false).unwrap();
    sent
}

/// Receives this much of a stream from a place on and compares it.
pub fn receive_stream(receiver: &mut Client, stream: u64, from: usize, len: usize) {
    let mut received = 0;
    while received < len {
        let part = receiver.receive((len - received).min(1 << 20));
        assert_bytes(stream, from + received, &part);
        received += part.len();
    }
}

/// A gateway whose sessions are brought onto a path.
pub struct OnPath {
    pub gateway: Gateway,
    pub path: Path,
    listening: Backend,
    frame_count: usize,
}

/// A session on its path, in which everything sent so far has arrived.
pub struct Pair {
    pub client: Client,
    pub backend: Client,
}

impl Pair {
    /// The side that acts, and the other one.
    pub fn by(self, side: By) -> (Client, Client) {
        match side {
            By::Client => (self.client, self.backend),
            By::Backend => (self.backend, self.client),
        }
    }
}

impl OnPath {
    pub fn start(path: Path) -> OnPath {
        let listening = Backend::manual();
        let mut toml = frame_config(&[listening.address], "", "");
        // A test may have a side stalled for long, on a slow machine.
        toml = toml.replace("[listener.frame]", "tcp_user_timeout = \"1h\"\n[listener.frame]");
        toml = toml.replace("[pool.c2s]", "[pool.c2s]\ntcp_user_timeout = \"1h\"");
        if path == Path::Polled {
            // Reads that never count as large: no flood is ever spliced.
            toml = toml.replace("[runtime]", "[runtime]\nrelay_buffer_max = \"8KiB\"");
        }
        OnPath { gateway: Gateway::start(&toml), path, listening, frame_count: 0 }
    }

    pub fn address(&self) -> SocketAddr {
        self.gateway.address("devices")
    }

    /// A session of its own, on the path in both directions.
    pub fn pair(&mut self) -> Pair {
        self.frame_count += 1;
        let id = format!("device-{}", self.frame_count);
        let client = Client::login(self.address(), &id);
        let mut backend = self.listening.accept();
        assert_eq!(backend.receive(login(&id).len()), login(&id));
        let mut pair = Pair { client, backend };
        match self.path {
            Path::Polled => self.poll(&mut pair),
            Path::Armed => self.arm(&mut pair),
            Path::Spliced => self.splice(&mut pair),
        }
        pair
    }

    fn poll(&self, pair: &mut Pair) {
        let before = self.armed_or_spliced();
        pair.client.send(b"ping");
        assert_eq!(pair.backend.receive(4), b"ping");
        pair.backend.send(b"pong");
        assert_eq!(pair.client.receive(4), b"pong");
        assert!(self.armed_or_spliced() - before < 0.5, "one message is not polled");
    }

    fn armed_or_spliced(&self) -> f64 {
        self.gateway.metric("corelane_relay_warmed_up_total")
            + self.gateway.metric("corelane_relay_spliced_total")
    }

    fn arm(&self, pair: &mut Pair) {
        let series = "corelane_relay_warmed_up_total";
        let before = self.gateway.metric(series);
        let give_up = Instant::now() + DEADLINE;
        loop {
            for _ in 0..4 {
                pair.client.send(b"ping");
                assert_eq!(pair.backend.receive(4), b"ping");
                pair.backend.send(b"pong");
                assert_eq!(pair.client.receive(4), b"pong");
            }
            if self.gateway.metric(series) - before > 1.5 {
                return;
            }
            assert!(Instant::now() < give_up, "a conversation is not armed");
        }
    }

    fn splice(&self, pair: &mut Pair) {
        self.flood(&mut pair.client, &mut pair.backend);
        self.flood(&mut pair.backend, &mut pair.client);
    }

    fn flood(&self, from: &mut Client, to: &mut Client) {
        let series = "corelane_relay_spliced_total";
        let before = self.gateway.metric(series);
        let give_up = Instant::now() + DEADLINE;
        let mut moved = 0;
        while self.gateway.metric(series) - before < 0.5 {
            assert!(Instant::now() < give_up, "a flood is not spliced");
            let len = 32 * 65536;
            let mut sender = Client { stream: from.stream.try_clone().unwrap() };
            let sending = std::thread::spawn(move || {
                for n in 0..32 {
                    sender.send(&bytes(0, moved + n * 65536, 65536));
                }
            });
            receive_stream(to, 0, moved, len);
            sending.join().unwrap();
            moved += len;
        }
    }

    /// Waits for the end of the `count`th session of the gateway.
    pub fn assert_end(&self, count: usize, end: &str) {
        let line = self.gateway.session_lines(count).remove(count - 1);
        assert_eq!(line["end"], end, "{:?}: {line}", self.path);
    }

    /// Nothing of our own broke on the way.
    pub fn assert_sound(&self) {
        assert_eq!(self.gateway.metric("corelane_bugs_total"), 0.0);
    }
}
