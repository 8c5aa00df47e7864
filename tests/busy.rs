//! Nothing that is busy stands still: many conversations at once on one shard, and flows that
//! wander between the paths a relay knows.

mod gateway;

use std::io::Read;
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::path::{Random, assert_bytes, bytes};
use gateway::{Gateway, frame_config};

const CONVERSATIONS: usize = 200;
/// How long they go on.
const BUSY: Duration = Duration::from_secs(2);
/// Within this time each gets an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

const MESSAGE_LEN: usize = 64;
/// A round takes milliseconds. What is forgotten is found again when its session has been quiet for
/// a second, and a whole second at that.
const SLOW: Duration = Duration::from_millis(1_000);

/// One closed loop: a message, its echo, the next. The number of answers.
fn converse(mut client: Client, stream: u64) -> usize {
    client.stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let mut random = Random(stream);
    let (mut place, mut answers) = (0, 0);
    let until = Instant::now() + BUSY;
    while Instant::now() < until {
        let len = random.within(1..=200);
        client.send(&bytes(stream, place, len));
        let mut received = vec![0; len];
        if let Err(error) = client.stream.read_exact(&mut received) {
            panic!("conversation {stream} stands still after {answers} answers: {error}");
        }
        assert_bytes(stream, place, &received);
        place += len;
        answers += 1;
    }
    answers
}

/// A gateway, and connections to an echo through it.
fn conversations() -> (Gateway, Vec<Client>) {
    let gateway = Gateway::start(&frame_config(&[Backend::echo("")], "", ""));
    let clients = (0..CONVERSATIONS)
        .map(|n| {
            let id = format!("device-{n}");
            let mut client = Client::login(gateway.address("devices"), &id);
            assert_eq!(client.receive(login(&id).len()), login(&id));
            client
        })
        .collect();
    (gateway, clients)
}

/// Everybody waits for the last one: what is forgotten is not found by accident, because of what
/// another connection does.
#[test]
fn none_of_many_is_forgotten_when_all_wait_for_the_last() {
    let (gateway, mut clients) = conversations();
    let (mut place, mut rounds, mut slow) = (0, 0, Vec::new());
    let until = Instant::now() + 2 * BUSY;
    while Instant::now() < until {
        let begun = Instant::now();
        for (stream, client) in (0..).zip(&mut clients) {
            client.send(&bytes(stream, place, MESSAGE_LEN));
        }
        for (stream, client) in (0..).zip(&mut clients) {
            assert_bytes(stream, place, &client.receive(MESSAGE_LEN));
        }
        place += MESSAGE_LEN;
        rounds += 1;
        if begun.elapsed() > SLOW {
            slow.push(begun.elapsed());
        }
    }
    eprintln!("{rounds} rounds, {slow:?}");
    assert!(slow.len() < 2, "of {rounds} rounds these were slow: {slow:?}");
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}

#[test]
fn none_of_many_conversations_stands_still() {
    let (gateway, clients) = conversations();
    let threads: Vec<_> = (0..)
        .zip(clients)
        .map(|(stream, client)| std::thread::spawn(move || converse(client, stream)))
        .collect();
    let answers: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(answers.iter().all(|count| *count >= 2), "{answers:?}");
    let armed = gateway.metric("corelane_relay_warmed_up_total");
    assert!(armed >= 2.0 * CONVERSATIONS as f64, "only {armed} flows were armed");
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}

const SEED_DEFAULT: u64 = 0x0c07_e1a9_e000_0002;
const WANDERERS: u64 = 8;
/// Messages of one direction of a wanderer.
const MESSAGES: usize = 400;

/// What a side does for a while.
#[derive(Clone, Copy)]
enum Mood {
    Quiet,
    Talking,
    Flooding,
}

/// Sends a stream in messages of all sizes, at all paces, then FIN: how much there was.
fn wander(mut sender: Client, stream: u64, mut random: Random) -> usize {
    let (mut place, mut mood) = (0, Mood::Talking);
    for _ in 0..MESSAGES {
        if random.within(1..=15) == 1 {
            mood = [Mood::Quiet, Mood::Talking, Mood::Flooding][random.within(0..=2)];
        }
        let (len, pause_ms) = match mood {
            Mood::Quiet => (random.within(1..=300), random.within(0..=60)),
            Mood::Talking => (random.within(1..=5000), random.within(0..=1)),
            Mood::Flooding => (random.within(1..=300 * 1024), 0),
        };
        sender.send(&bytes(stream, place, len));
        place += len;
        if pause_ms > 0 {
            std::thread::park_timeout(Duration::from_millis(pause_ms as u64));
        }
        // Long enough to be found quiet.
        if random.within(1..=MESSAGES) == 1 {
            std::thread::park_timeout(Duration::from_millis(1300));
        }
    }
    sender.fin();
    place
}

/// Reads a stream to its end, now and then too slowly: how much there was.
fn follow(mut stream: TcpStream, number: u64, mut random: Random) -> usize {
    let mut buffer = vec![0; 300 * 1024];
    let mut place = 0;
    loop {
        let len = random.within(1..=buffer.len());
        match stream.read(&mut buffer[..len]) {
            Ok(0) => return place,
            Ok(n) => {
                assert_bytes(number, place, &buffer[..n]);
                place += n;
            }
            Err(error) => panic!("stream {number} after {place} bytes: {error}"),
        }
        if random.within(1..=30) == 1 {
            std::thread::park_timeout(Duration::from_millis(random.within(0..=40) as u64));
        }
    }
}

/// A sender and the reader of what it sends.
fn one_way(from: &Client, to: &Client, number: u64, seed: u64) -> [JoinHandle<usize>; 2] {
    let sender = Client { stream: from.stream.try_clone().unwrap() };
    let reader = to.stream.try_clone().unwrap();
    let (sending, reading) = (Random(seed ^ (number << 32)), Random(!seed ^ (number << 32)));
    [
        std::thread::spawn(move || wander(sender, number, sending)),
        std::thread::spawn(move || follow(reader, number, reading)),
    ]
}

#[test]
fn flows_that_wander_between_the_paths_lose_nothing() {
    let seed = std::env::var("CORELANE_FUZZ_SEED")
        .map_or(SEED_DEFAULT, |text| text.parse().expect("CORELANE_FUZZ_SEED is a number"));
    // Shown when the test fails.
    eprintln!("CORELANE_FUZZ_SEED={seed}");
    let listening = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[listening.address], "", ""));
    let mut pairs = Vec::new();
    for n in 0..WANDERERS {
        let id = format!("device-{n}");
        let client = Client::login(gateway.address("devices"), &id);
        let mut backend = listening.accept();
        assert_eq!(backend.receive(login(&id).len()), login(&id));
        pairs.push((client, backend));
    }
    let mut directions = Vec::new();
    for (n, (client, backend)) in (0..).zip(&pairs) {
        directions.push(one_way(client, backend, 2 * n, seed));
        directions.push(one_way(backend, client, 2 * n + 1, seed));
    }
    for (number, [sending, reading]) in directions.into_iter().enumerate() {
        let (sent, received) = (sending.join().unwrap(), reading.join().unwrap());
        assert_eq!(sent, received, "bytes of stream {number}");
    }
    for line in gateway.session_lines(WANDERERS as usize) {
        let end = line["end"].as_str().unwrap();
        assert!(end == "client_fin" || end == "backend_fin", "{line}");
    }
    // They did wander.
    for series in ["warmed_up", "cooled_down", "spliced"] {
        let count = gateway.metric(&format!("corelane_relay_{series}_total"));
        assert!(count >= 1.0, "{series}: {count}");
    }
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}
