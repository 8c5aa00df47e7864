//! What `explain` and `route` say: the backend a shard would choose, or the reason why there is
//! none.

use std::io;
use std::time::Duration;

use corelane::balance::Algorithm;
use corelane::config::{
    Address, Backend, BackendState, Config, FrameListener, Listener, Log, MissingKey, OnDown,
    OnRemove, Pool, Protocol, Runtime, SessionLog, SocketOptions, TcpKey,
};
use corelane::explain::{ExplainError, explain, route};
use corelane::frame::{Expect, FrameRules, Layout};
use corelane::key::{KeyExpression, NumberFormat};

const SOCKET: SocketOptions =
    SocketOptions { user_timeout: Duration::from_secs(30), keepalive: None };

fn pool(name: &str, balance: Algorithm, weights: &[u32]) -> Pool {
    let address = |port: usize| Address::Tcp(([127, 0, 0, 1], 1000 + port as u16).into());
    let backend = |(index, weight): (usize, &u32)| Backend {
        address: address(index),
        weight: *weight,
        state: BackendState::Ready,
    };
    Pool {
        name: name.into(),
        balance,
        on_down: OnDown::Reject,
        connect_timeout: Duration::from_secs(1),
        retries: 1,
        fail_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(600),
        warm: 0,
        socket: SOCKET,
        proxy_out: false,
        tls: None,
        source_addresses: Vec::new(),
        on_remove: OnRemove::Keep,
        close_rate: 200,
        sources: Vec::new(),
        bounded_load: None,
        health: corelane::config::Health::default(),
        backends: weights.iter().enumerate().map(backend).collect(),
    }
}

fn rules(search_frames: u32) -> FrameRules {
    let layout = Layout::compile(">ccHH", &["type", "version", "time", "length"]).unwrap();
    let key = KeyExpression::parse("json:devid", &layout).unwrap();
    let expect = vec![Expect { field: 0, range: 0..=9 }];
    let number_format = NumberFormat::Raw;
    FrameRules { layout, key, number_format, body_len_max: 8_192, search_frames, expect }
}

fn listener(name: &str, protocol: Protocol) -> Listener {
    Listener {
        name: name.into(),
        bind: vec![Address::Tcp(([127, 0, 0, 1], 9000).into())],
        protocol,
        pool: Some(0),
        lookup: None,
        backlog: 1024,
        socket: SOCKET,
        proxy: None,
        tls: None,
    }
}

/// Listener 0 reads frames, 1 reads none; both use the first pool.
fn config(pools: Vec<Pool>) -> Config {
    let frame = FrameListener {
        rules: rules(2),
        missing_key: MissingKey::Reject,
        timeout: Duration::from_secs(5),
    };
    Config {
        runtime: Runtime {
            cores: vec![0],
            max_connections: 100,
            drain_timeout: Duration::from_secs(1),
            ring_entries: 64,
            relay_buffer_max: 65_536,
            spin: std::time::Duration::ZERO,
            state_dir: "state".into(),
            descriptors_needed: 300,
        },
        admin: None,
        log: Log { level: tracing::Level::INFO, sessions: SessionLog::Off, queue: 16 },
        listeners: vec![
            listener("devices", Protocol::Frame(Box::new(frame))),
            listener("plain", Protocol::Tcp { key: Some(TcpKey::ClientIp) }),
        ],
        pools,
        lookups: Vec::new(),
        shown: Default::default(),
    }
}

fn three() -> Config {
    config(vec![pool("c2s", Algorithm::Crc32Mod, &[1, 1, 1])])
}

fn frame(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[0, 1, 0, 60][..], &len[..], body].concat()
}

fn routed(config: &Config, listener: usize, keys: &[&str]) -> Vec<String> {
    let mut out = Vec::new();
    let keys = keys.iter().map(|key| key.as_bytes().to_vec());
    route(config, listener, keys, &mut out).unwrap();
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

/// The page of these bytes must hold every one of `expected`, in this order.
#[track_caller]
fn page_holds(config: &Config, bytes: &[u8], expected: &[&str]) {
    let page = explain(config, 0, bytes).unwrap();
    let mut rest = &page[..];
    for part in expected {
        let Some(at) = rest.find(part) else { panic!("no {part:?} (in this order) in\n{page}") };
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_frame_is_followed_to_its_backend() {
    let stream = [frame(br#"{"devid":868120212345678}"#), b"more".to_vec()].concat();
    page_holds(
        &three(),
        &stream,
        &[
            "listener devices",
            ">ccHH (6 bytes)",
            "json:devid",
            "frame 1 at byte 0",
            "00 01 00 3c 00 19",
            "0 c      type    0",
            "1 c      version 1",
            "2 H      time    60",
            "4 H      length  25",
            "25 bytes at byte 6",
            r#"{"devid":868120212345678}"#,
            "key      868120212345678 (15 bytes)",
            "4 bytes more",
            "pool     c2s (crc32_mod, 3 backends)",
            "crc32    0xb2efb8ed = 3002054893",
            "3002054893 % 3 = 1: 127.0.0.1:1001",
            "backend  127.0.0.1:1001",
        ],
    );
}

#[test]
fn later_frames_and_missing_keys() {
    let mut config = three();
    let ping = frame(br#"{"ping":1}"#);
    let late = [&ping[..], &frame(br#"{"devid":"a"}"#)].concat();
    page_holds(
        &config,
        &late,
        &["none in this frame", "frame 2 at byte 16", "key      a (1 byte)"],
    );
    let never = [&ping[..], &ping, &frame(br#"{"devid":"a"}"#)].concat();
    page_holds(&config, &never, &["frame 2", "19 bytes more", "outcome  closed: key_missing"]);
    config.pools.push(pool("lobby", Algorithm::Crc32Mod, &[1, 1]));
    let Protocol::Frame(frame) = &mut config.listeners[0].protocol else { unreachable!() };
    frame.missing_key = MissingKey::Pool(1);
    page_holds(&config, &never, &["key      none", "pool     lobby", "0 % 2 = 0", "backend  127"]);
    assert_eq!(routed(&config, 0, &[""]), ["\tlobby\t127.0.0.1:1000"]);
}

#[test]
fn bad_input_is_explained_with_its_label() {
    let login = frame(br#"{"devid":"x"}"#);
    for (bytes, expected) in [
        (&[][..], &["not received", "incomplete: 6 more bytes", "5s (preface_silent)"][..]),
        (&[0, 1, 0], &["version 1", "time    not received", "3 more bytes needed, 6 in all"]),
        (&login[..10], &["length  13", "9 more bytes needed, 19 in all", "(preface_timeout)"]),
        (&[0, 1, 0, 60, 0xff, 0xff], &["65535", "body_too_long in the header at byte 0", "8192"]),
        (&[0xff, 1, 0, 60, 0, 0], &["field_unexpected", "type is -1, allowed are 0 to 9"]),
        (&frame(b"{\x1b[31m"), &["{\\u{1b}[31m", "closed: json_invalid"]),
        (&frame(b"\xff\xfe"), &["\\xff\\xfe", "closed: utf8_invalid"]),
        (&frame(&[b'['; 8000]), &["(7488 bytes more)", "closed: json_too_deep"]),
        (&frame(br#"{"devid":true}"#), &["closed: key_not_scalar in the body"]),
        (&frame(br#"{"devid":null}"#), &["none in this frame", "frame 2 at byte 20", "incomplete"]),
    ] {
        page_holds(&three(), bytes, expected);
        let page = explain(&three(), 0, bytes).unwrap();
        assert!(!page.contains("backend"), "{page}");
        assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{page}");
    }
}

#[test]
fn one_of_a_thing_is_not_plural() {
    let config = config(vec![pool("only", Algorithm::Crc32Mod, &[1])]);
    let login = [&frame(br#"{"devid":"x"}"#)[..], b"y"].concat();
    let parts =
        ["key      x (1 byte)", "rest     1 byte more", "pool     only (crc32_mod, 1 backend)"];
    page_holds(&config, &login, &parts);
    let short = &login[..login.len() - 2];
    page_holds(&config, short, &["incomplete: 1 more byte needed, 19 in all"]);
}

#[test]
fn pools_without_keys_say_so() {
    let config = config(vec![pool("any", Algorithm::LeastConn, &[1, 1])]);
    let login = frame(br#"{"devid":"x"}"#);
    page_holds(&config, &login, &["least_conn, 2 backends", "depends on the sessions before"]);
}

#[test]
fn a_home_that_is_down() {
    let mut config = three();
    config.pools[0].backends[1].state = BackendState::Down;
    let login = frame(br#"{"devid":"868120212345678"}"#);
    page_holds(&config, &login, &["% 3 = 1: 127.0.0.1:1001", "outcome  closed: backend_down"]);
    let keys = ["868120212345678", "a", "foo"];
    assert_eq!(routed(&config, 0, &keys)[0], "868120212345678\tc2s\t-");
    config.pools[0].on_down = OnDown::Next;
    let moved = ["% 3 = 1: 127.0.0.1:1001", "backend  127.0.0.1:1002: the home is marked down"];
    page_holds(&config, &login, &moved);
    assert_eq!(
        routed(&config, 0, &keys),
        [
            "868120212345678\tc2s\t127.0.0.1:1002",
            "a\tc2s\t127.0.0.1:1000",
            "foo\tc2s\t127.0.0.1:1002"
        ]
    );
    config.pools[0].backends.iter_mut().for_each(|backend| backend.state = BackendState::Down);
    assert_eq!(routed(&config, 0, &keys[1..2]), ["a\tc2s\t-"]);
    config.pools[0].backends.clear();
    page_holds(&config, &login, &["0 backends", "outcome  closed: pool_empty"]);
    assert_eq!(routed(&config, 0, &keys[1..2]), ["a\tc2s\t-"]);
}

#[test]
fn keyed_routes_need_no_order() {
    let config = three();
    let keys: Vec<String> = (0..100).map(|number| format!("dev-{number:04}")).collect();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut forwards = routed(&config, 0, &keys);
    for (key, line) in keys.iter().zip(&forwards) {
        let port = 1000 + crc32fast::hash(key.as_bytes()) % 3;
        assert_eq!(*line, format!("{key}\tc2s\t127.0.0.1:{port}"));
    }
    keys.reverse();
    forwards.reverse();
    assert_eq!(routed(&config, 0, &keys), forwards);
}

#[test]
fn keys_a_frame_listener_refuses_go_nowhere() {
    let config = three();
    let longest = "k".repeat(256);
    assert!(!routed(&config, 0, &[&longest])[0].ends_with('-'));
    let overlong = "k".repeat(257);
    assert_eq!(
        routed(&config, 0, &[&overlong, ""]),
        [format!("{overlong}\t-\t-"), "\t-\t-".into()]
    );
}

#[test]
fn routes_of_unkeyed_pools_are_simulated_in_order() {
    let ports = |config: &Config, count: usize| -> String {
        let lines = routed(config, 1, &vec!["192.0.2.1"; count]);
        lines.iter().map(|line| line.chars().last().unwrap()).collect()
    };
    let round = config(vec![pool("any", Algorithm::RoundRobin, &[5, 1, 1])]);
    assert_eq!(ports(&round, 7), "0010200");
    let mut least = config(vec![pool("any", Algorithm::LeastConn, &[1, 2])]);
    assert_eq!(ports(&least, 6), "101011");
    least.pools[0].backends[1].state = BackendState::Down;
    assert_eq!(ports(&least, 3), "000");
    let random = config(vec![pool("any", Algorithm::Random, &[1, 1])]);
    let drawn = ports(&random, 64);
    assert_eq!(ports(&random, 64), drawn);
    assert!(drawn.contains('0') && drawn.contains('1'), "{drawn}");
}

#[test]
fn errors() {
    let none = || std::iter::empty::<Vec<u8>>();
    assert_eq!(explain(&three(), 1, b""), Err(ExplainError::NotFramed("plain".into())));
    assert_eq!(explain(&three(), 9, b""), Err(ExplainError::ListenerUnknown(9)));
    let error = route(&three(), 9, none(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let mut full = &mut [0_u8; 8][..];
    let keys = [b"dev-0001".to_vec()].into_iter();
    assert_eq!(route(&three(), 0, keys, &mut full).unwrap_err().kind(), io::ErrorKind::WriteZero);
}
