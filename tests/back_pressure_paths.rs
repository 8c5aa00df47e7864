//! A sink that does not read stops its source on every path a session can be on: bounded memory, no
//! CPU, and every byte in order once it reads.

mod gateway;

use std::time::Duration;

use gateway::path::{OnPath, Pair, Path, fill, receive_stream};

const SESSIONS: usize = 20;
/// What one direction may hold in our memory, at worst: a short read arms even a flood, and an
/// armed receive may have filled all buffers of the shard (128 of 4 KiB) before it is taken back;
/// what was kept of them is in a vector that grows by doubling.
const FLOW_BYTES: u64 = 1 << 20;
/// What a stalled session may cost us beside its flows' bytes, and what the allocator rounds up.
const SESSION_BYTES: u64 = 16 * 1024;
/// One-time costs: buffers of the exchange that are touched for the first time, stacks, log.
const ONCE_BYTES: u64 = 4 << 20;

/// A session of which both directions are stalled, and how much they have taken.
struct Stalled {
    pair: Pair,
    to_backend: usize,
    to_client: usize,
}

fn stall(mut pair: Pair, stream: u64, message_len: usize) -> Stalled {
    let to_backend = fill(&mut pair.client, 2 * stream, message_len);
    let to_client = fill(&mut pair.backend, 2 * stream + 1, message_len);
    Stalled { pair, to_backend, to_client }
}

/// Both sides read everything, at the same time.
fn read_all(stalled: Stalled, stream: u64) {
    let Stalled { pair: Pair { mut client, mut backend }, to_backend, to_client } = stalled;
    let reading = std::thread::spawn(move || {
        receive_stream(&mut backend, 2 * stream, 0, to_backend);
        backend
    });
    receive_stream(&mut client, 2 * stream + 1, 0, to_client);
    let mut backend = reading.join().unwrap();
    // And it goes on as if nothing had been.
    client.send(b"again");
    assert_eq!(backend.receive(5), b"again");
    backend.send(b"and back");
    assert_eq!(client.receive(8), b"and back");
}

/// Does something with each, each in a thread of its own.
fn in_parallel<T: Send + 'static, R: Send + 'static>(
    each: Vec<T>,
    act: impl Fn(T, u64) -> R + Copy + Send + 'static,
) -> Vec<R> {
    let threads: Vec<_> =
        (0..).zip(each).map(|(stream, one)| std::thread::spawn(move || act(one, stream))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn assert_no_cpu(on_path: &OnPath) {
    let before = on_path.gateway.cpu();
    std::thread::park_timeout(Duration::from_secs(2));
    let spent = on_path.gateway.cpu() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU while all wait for two seconds");
}

/// Stalls sessions on a path. `flow_bytes`: what one direction may hold in our memory.
fn stalled_on(path: Path, message_len: usize, flow_bytes: u64) {
    let mut on_path = OnPath::start(path);
    // The first session pays for what is allocated once.
    drop(on_path.pair());
    let pairs: Vec<Pair> = (0..SESSIONS).map(|_| on_path.pair()).collect();
    let before = on_path.gateway.resident_bytes();
    let stalled = in_parallel(pairs, move |pair, stream| stall(pair, stream, message_len));
    let grown = on_path.gateway.resident_bytes().saturating_sub(before);
    let bound = SESSIONS as u64 * (2 * flow_bytes + SESSION_BYTES) + ONCE_BYTES;
    assert!(grown < bound, "{path:?}: {grown} bytes for {SESSIONS} stalled sessions, not {bound}");
    let taken: usize = stalled.iter().map(|one| one.to_backend + one.to_client).sum();
    eprintln!("{path:?}: {taken} bytes taken, {grown} bytes of memory, {bound} allowed");
    assert!(taken as u64 > 2 * bound, "only {taken} bytes were sent: nothing was held back");
    assert_no_cpu(&on_path);
    in_parallel(stalled, read_all);
    on_path.assert_sound();
}

#[test]
fn polled() {
    stalled_on(Path::Polled, 65536, FLOW_BYTES);
}

#[test]
fn armed() {
    stalled_on(Path::Armed, 2000, FLOW_BYTES);
}

#[test]
fn spliced() {
    // What waits is in the pipes.
    stalled_on(Path::Spliced, 65536, FLOW_BYTES / 8);
}

/// Pipes of a shard are limited (`PIPES_MAX` in src/relay/bulk.rs).
const PIPES_MAX: usize = 32;

#[test]
fn more_stalled_floods_than_pipes_are_copied_and_counted() {
    let mut on_path = OnPath::start(Path::Spliced);
    let exhausted = "corelane_relay_pipes_exhausted_total";
    let before = on_path.gateway.resident_bytes();
    let mut stalled = Vec::new();
    // Not each holds a pipe: one may stall when its last bytes were copied.
    while on_path.gateway.metric(exhausted) < 1.0 {
        assert!(stalled.len() < 4 * PIPES_MAX, "{} floods found pipes", stalled.len());
        let more = if stalled.is_empty() { PIPES_MAX + 8 } else { 16 };
        let pairs: Vec<Pair> = (0..more).map(|_| on_path.pair()).collect();
        let first = stalled.len() as u64;
        stalled.extend(in_parallel(pairs, move |mut pair, n| {
            let to_backend = fill(&mut pair.client, 2 * (first + n), 65536);
            Stalled { pair, to_backend, to_client: 0 }
        }));
    }
    let floods = stalled.len();
    assert!(floods > PIPES_MAX, "{floods} floods had no pipes");
    let grown = on_path.gateway.resident_bytes().saturating_sub(before);
    eprintln!("{floods} floods: {grown} bytes of memory");
    let bound = floods as u64 * (FLOW_BYTES + SESSION_BYTES) + ONCE_BYTES;
    assert!(grown < bound, "{grown} bytes for {floods} stalled floods, not {bound}");
    assert_no_cpu(&on_path);
    in_parallel(stalled, read_all);
    // Their pipes are free again: a flood finds one.
    let before = on_path.gateway.metric(exhausted);
    drop(on_path.pair());
    assert_eq!(on_path.gateway.metric(exhausted), before);
    on_path.assert_sound();
}
