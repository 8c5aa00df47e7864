//! WebSocket games by Redis, beside nginx with Lua doing the same: the same requests to both, and
//! the same statuses, nodes and fields, but for the differences that are listed here with their
//! reasons. A real Redis, which also stands still, is killed, and is written to by somebody else.

mod gateway;
mod side_by_side;
mod stores;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use gateway::{Gateway, ONE_SHARD};
use side_by_side::exchange::{exchange, read_response};
use side_by_side::nginx::Nginx;
use side_by_side::recorder::Recorder;
use side_by_side::{Answer, Case, FieldDifference, at, faults, own, send};
use stores::process::{DEADLINE, Directory, free_port, until};
use stores::redis::Redis;

// Why we do something else.
const STRICT: &str = "what two programs can read in two ways is refused";
const OPEN_PROXY: &str = "who can write to Redis sent players anywhere";
const NOT_AN_ADDRESS: &str = "what is no address is not used, here or as the name of a file";
const HOP: &str = "meant for the next neighbour only";
const UNDERSCORE: &str = "a name with an underscore is a good name; nginx drops it unasked";
const METHODS: &str = "a method is a word, with or without capitals, and \"get\" is not GET";
const CLAIM: &str = "anybody could say it: from trusted clients only";
const PAST_RULES: &str = "a tunnel for any protocol, in which no rule is asked again";
const REFUSED: &str = "an error of Redis was taken for a node whose name is false";

/// Every request that reaches a node.
const EVERYWHERE: &[FieldDifference] = &[
    FieldDifference {
        name: "connection",
        theirs: Some("upgrade"),
        ours: None,
        reason: "nothing is upgraded that did not ask for it",
    },
    // Its port is the caller's own, and looked at elsewhere.
    FieldDifference {
        name: "x-forwarded-for",
        theirs: Some("*"),
        ours: Some("*"),
        reason: "the caller's port differs",
    },
];

/// The nodes' numbers: the last part of their addresses.
const NODES: &[u8] = &[1, 2, 3];

/// Nodes and a Redis that knows them. Number 9 is a place that no player may get to.
struct Fleet {
    redis: Redis,
    port: u16,
    recorder: Recorder,
}

impl Fleet {
    fn start() -> Fleet {
        let (redis, port, recorder) = (Redis::start(), free_port(), Recorder::default());
        for number in NODES {
            recorder.backend(([127, 0, 4, *number], port).into(), *number);
        }
        recorder.backend(([127, 0, 5, 9], port).into(), 9);
        let fleet = Fleet { redis, port, recorder };
        for number in NODES {
            fleet.put(("dev", "wgamed"), &number.to_string(), &fleet.place(*number));
        }
        fleet.put(("live", "wgamed"), "1", &fleet.place(2));
        fleet.put(("dev", ""), "1", &fleet.place(3));
        fleet.put(("dev", "wgamed"), "", &fleet.place(2));
        fleet.put(("dev", "a%20b"), "1", &fleet.place(1));
        for (thread, value) in [
            ("empty", String::new()),
            ("null", "null".to_owned()),
            ("NULL", "NULL".to_owned()),
            ("name", "localhost".to_owned()),
            ("nothing", "nonsense".to_owned()),
            ("path", format!("{}/admin", fleet.place(1))),
            ("userinfo", format!("x@{}", fleet.place(1))),
            ("elsewhere", format!("127.0.5.9:{}", fleet.port)),
            ("escape", "../escape".to_owned()),
            ("refused", "127.0.4.66:1".to_owned()),
            ("blank", format!(" {}", fleet.place(1))),
        ] {
            fleet.put(("dev", "odd"), thread, &value);
        }
        fleet.redis.run("SET game-server_dev_node_text hello");
        fleet
    }

    fn place(&self, number: u8) -> String {
        format!("127.0.4.{number}:{}", self.port)
    }

    fn put(&self, (platform, node): (&str, &str), thread: &str, value: &str) {
        let key = format!("game-server_{platform}_node_{node}");
        let mut command = redis::cmd("HSET");
        command.arg(key).arg(thread).arg(value);
        command.exec(&mut self.redis.connection()).unwrap();
    }

    fn nginx(&self) -> Nginx {
        Nginx::start("games.conf", &[("REDIS_PORT", self.redis.port.to_string())])
    }

    /// The file as it is given away, at other addresses.
    fn gateway(&self, logs: &Path) -> Gateway {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ws-redis.toml");
        let mut text = std::fs::read_to_string(file).unwrap();
        let url = format!("redis://127.0.0.1:{}/0", self.redis.port);
        for (there, here) in [
            ("bind = [\"0.0.0.0:8080\"]", "bind = [\"127.0.0.1:0\"]".to_owned()),
            ("redis://127.0.0.1:6379/0", url),
            ("/var/log/corelane", logs.display().to_string()),
            ("allow = [\"127.0.0.0/8\"", "allow = [\"127.0.4.0/24\"".to_owned()),
        ] {
            assert_eq!(text.matches(there).count(), 1, "{there}");
            text = text.replace(there, &here);
        }
        Gateway::start(&format!("{ONE_SHARD}{text}"))
    }
}

/// A request with Host and these further lines.
fn request(line: &str, fields: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: play.test\r\n{fields}\r\n").into_bytes()
}

fn get(query: &str) -> Vec<u8> {
    request(&format!("GET /ws?{query}"), "")
}

const NODE_1: &str = "nodeName=wgamed&threadId=1&platform=dev";

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Platforms, nodes, threads, each with each and each missing; in every order.
fn argument_cases() -> Vec<Case> {
    let platforms = [None, Some("dev"), Some("live"), Some("none"), Some("")];
    let nodes = [None, Some("wgamed"), Some("other"), Some("")];
    let threads = [None, Some("1"), Some("2"), Some("3"), Some("99"), Some("")];
    let mut cases = Vec::new();
    for platform in platforms {
        for node in nodes {
            for thread in threads {
                let theirs = match (platform, node, thread) {
                    (Some("dev"), Some("wgamed"), Some(thread @ ("1" | "2" | "3"))) => {
                        at(thread.parse().unwrap())
                    }
                    (Some("dev"), Some("wgamed"), Some("")) => at(2),
                    (Some("live"), Some("wgamed"), Some("1")) => at(2),
                    (Some("dev"), Some(""), Some("1")) => at(3),
                    _ => own(500),
                };
                let part = |name: &str, value: Option<&str>| value.map(|v| format!("{name}={v}"));
                let parts =
                    [part("platform", platform), part("nodeName", node), part("threadId", thread)];
                let mut parts: Vec<String> = parts.into_iter().flatten().collect();
                for _ in 0..2 {
                    let query = parts.join("&");
                    cases.push(Case::new(format!("?{query}"), get(&query), theirs));
                    parts.reverse();
                }
            }
        }
    }
    cases
}

fn value_cases() -> Vec<Case> {
    let case = |thread: &str, theirs| {
        let query = format!("platform=dev&nodeName=odd&threadId={thread}");
        Case::new(format!("value {thread}"), get(&query), theirs)
    };
    let text = "platform=dev&nodeName=text&threadId=1";
    vec![
        case("empty", own(500)),
        case("null", own(500)),
        case("NULL", own(500)),
        case("name", own(502)).but(own(500), NOT_AN_ADDRESS),
        case("nothing", own(502)).but(own(500), NOT_AN_ADDRESS),
        case("path", at(1)).but(own(500), NOT_AN_ADDRESS),
        case("userinfo", own(502)).but(own(500), NOT_AN_ADDRESS),
        case("escape", own(502)).but(own(500), NOT_AN_ADDRESS),
        case("blank", own(502)).but(own(500), NOT_AN_ADDRESS),
        case("elsewhere", at(9)).but(own(500), OPEN_PROXY),
        case("refused", own(502)),
        Case::new("not a hash", get(text), own(502)).but(own(500), REFUSED),
    ]
}

/// Other ways to write arguments, paths and methods.
fn request_cases() -> Vec<Case> {
    let query = |query: &str, theirs| Case::new(format!("?{query}"), get(query), theirs);
    let line = |line: &str, theirs| Case::new(line, request(line, ""), theirs);
    let fields = |fields: &str| {
        let bytes = request(&format!("GET /ws?{NODE_1}"), &format!("{fields}\r\n"));
        Case::new(fields.to_owned(), bytes, at(1))
    };
    vec![
        query(&format!("{NODE_1}&more=1"), at(1)),
        query(&format!("{NODE_1}&threadId=2"), at(1)),
        query(&format!("&&{NODE_1}&"), at(1)),
        query("nodename=wgamed&THREADID=1&Platform=dev", at(1)),
        query("nodeName&threadId&platform", own(500)),
        query("nodeName=wgamed&threadId=%31&platform=dev", own(500)),
        query("nodeName=a%20b&threadId=1&platform=dev", at(1)),
        query("nodeName=a+b&threadId=1&platform=dev", own(500)),
        query("nodeName=wgamed;threadId=1;platform=dev", own(500)),
        query("xnodeName=wgamed&threadId=1&platform=dev", own(500)),
        query("nodeName=wgamed&threadId=1=2&platform=dev", own(500)),
        query("nodeName=wgamed%00&threadId=1&platform=dev", own(500)).but(own(400), STRICT),
        query("nodeName=wgamed%0d%0aDEL&threadId=1&platform=dev", own(500)),
        query("nodeName=../wgamed&threadId=1&platform=dev", own(500)),
        query("nodeName=*&threadId=*&platform=*", own(500)),
        query("nodeName=w\u{e9}&threadId=1&platform=dev", own(500)),
        line(&format!("GET /wss?{NODE_1}"), own(404)),
        line(&format!("GET /ws/?{NODE_1}"), own(404)),
        line(&format!("GET /WS?{NODE_1}"), own(404)),
        line(&format!("GET /?{NODE_1}"), own(403)).but(own(404), "nginx has a folder there"),
        line(&format!("GET //ws?{NODE_1}"), at(1)),
        line(&format!("GET /a/../ws?{NODE_1}"), at(1)),
        line(&format!("GET /%77s?{NODE_1}"), at(1)),
        line(&format!("POST /ws?{NODE_1}"), at(1)),
        line(&format!("DELETE /ws?{NODE_1}"), at(1)),
        line(&format!("HEAD /ws?{NODE_1}"), at(1)),
        line(&format!("OPTIONS /ws?{NODE_1}"), at(1)),
        line("GET /ws", own(500)),
        line("GET /ws?", own(500)),
        fields("User-Agent: game/1.0"),
        fields("Origin: https://play.test"),
        fields("Sec-WebSocket-Protocol: a, b"),
        fields("Cookie: a=b"),
        fields("TE: trailers"),
        fields("Connection: close"),
        fields("Connection: X-Hop\r\nX-Hop: 1").field("x-hop", false, HOP),
        fields("Proxy-Connection: close").field("proxy-connection", false, HOP),
        fields("under_score: 1").field("under_score", true, UNDERSCORE),
        fields("X-Real_IP: 10.1.1.1"),
        fields("X-Forwarded-For: 10.1.1.1"),
        fields("X-Real-IP: 10.1.1.1").field("x-real-ip", false, CLAIM),
        fields("X-Forwarded-Proto: https").field("x-forwarded-proto", false, CLAIM),
        fields("X-Forwarded-Host: a").field("x-forwarded-host", false, CLAIM),
        fields("Forwarded: for=10.1.1.1").field("forwarded", false, CLAIM),
        fields("X-Request-ID: 1").field("x-request-id", false, CLAIM),
        Case { theirs: Answer { status: 101, at: Some(1) }, ..fields("Upgrade: h2c") }
            .but(at(1), PAST_RULES)
            .field("upgrade", false, PAST_RULES),
    ]
}

fn hostile_cases() -> Vec<Case> {
    let line = |line: &str, theirs| {
        let bytes = request(line, "");
        Case::new(format!("line {line:.60?}"), bytes, theirs).hostile()
    };
    let fields = |fields: &str, theirs| {
        let bytes = request(&format!("GET /ws?{NODE_1}"), &format!("{fields}\r\n"));
        Case::new(fields.to_owned(), bytes, theirs).hostile()
    };
    vec![
        line(&format!("GET  /ws?{NODE_1}"), at(1)).but(own(400), STRICT),
        line(&format!("GET /ws?{NODE_1} x"), own(400)),
        line(&format!("get /ws?{NODE_1}"), own(400)).but(at(1), METHODS),
        line(&format!("GET /ws?{NODE_1}#x"), at(1)).but(own(400), STRICT),
        line(&format!("GET /%00/ws?{NODE_1}"), own(400)),
        fields("nonsense", at(1)).but(own(400), STRICT),
        fields("Host: other.test", own(400)),
        fields("Content-Length: 5\r\nTransfer-Encoding: chunked", own(400)),
        fields("X-A : 1", own(400)),
        fields(" folded", own(400)),
        fields("X-A: a\0b", own(400)),
    ]
}

fn cases() -> Vec<Case> {
    let mut cases = argument_cases();
    cases.extend(value_cases());
    cases.extend(request_cases());
    cases.extend(hostile_cases());
    cases
}

#[test]
fn the_same_comes_of_every_request_on_both() {
    let fleet = Fleet::start();
    let logs = Directory::new("logs");
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway(logs.path()));
    let to_us = gateway.address("games");
    let (cases, mut all) = (cases(), Vec::new());
    assert!(cases.len() > 250, "{} cases", cases.len());
    for case in &cases {
        let theirs = send(nginx.address, &fleet.recorder, &case.bytes, case.hostile);
        let ours = send(to_us, &fleet.recorder, &case.bytes, case.hostile);
        all.extend(faults(case, &theirs, &ours, EVERYWHERE));
    }
    side_by_side::report(&all);
}

/// An upgraded connection, past the 101.
fn upgrade(to: SocketAddr, query: &str) -> (u16, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = request(&format!("GET /ws?{query}"), UPGRADE);
    // Bytes of the first frame, before the answer.
    bytes.extend_from_slice(b"early");
    stream.write_all(&bytes).unwrap();
    let mut reader = BufReader::new(stream);
    let response = read_response(&mut reader, false).unwrap().expect("a response");
    (response.status, reader)
}

#[test]
fn upgrades_reach_the_node_with_the_same_fields_on_both() {
    let fleet = Fleet::start();
    let logs = Directory::new("logs");
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway(logs.path()));
    let arrivals = [nginx.address, gateway.address("games")].map(|to| {
        fleet.recorder.take();
        let (status, mut reader) = upgrade(to, NODE_1);
        assert_eq!(status, 101);
        let mut echo = [0; 5];
        reader.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"early");
        // Frames are bytes, any bytes.
        let frames: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut writer = reader.get_ref().try_clone().unwrap();
        let sent = frames.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut back = vec![0; frames.len()];
        reader.read_exact(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == frames);
        let port = reader.get_ref().local_addr().unwrap().port();
        let mut arrival = fleet.recorder.take().remove(0);
        let told = format!("127.0.0.1:{port}");
        assert_eq!(arrival.value("x-forwarded-for"), Some(&*told));
        assert_eq!(arrival.value("x-real_ip"), Some("127.0.0.1"));
        assert_eq!(arrival.value("host"), Some("play.test"));
        arrival.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("x-forwarded-for"));
        // Words without capitals that matter.
        for (name, value) in &mut arrival.fields {
            if name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("upgrade") {
                value.make_ascii_lowercase();
            }
        }
        (arrival.backend, arrival.line(), arrival.sorted_fields())
    });
    assert_eq!(arrivals[0], arrivals[1]);
}

/// Files below a folder, by their paths in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    found.sort();
    found
}

/// What Redis holds names nginx' log file: with dots and slashes it is somebody else's file.
#[test]
fn a_log_file_per_node_and_none_elsewhere() {
    let fleet = Fleet::start();
    let place = Directory::new("logs");
    let logs = place.path().join("nodes");
    std::fs::create_dir(&logs).unwrap();
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway(&logs));
    let odd = get("platform=dev&nodeName=odd&threadId=escape");
    for to in [nginx.address, gateway.address("games")] {
        for bytes in [&get(NODE_1), &odd] {
            exchange(to, bytes, false);
        }
    }
    let log = format!("{}_access.log", fleet.place(1));
    let theirs = nginx.directory.path().join("logs").join(&log);
    let ours = logs.join(&log);
    for file in [&theirs, &ours] {
        until("a line", || std::fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n')));
    }
    // The same line but for the time, the length of a page of ours, and what nginx adds.
    let text = std::fs::read_to_string(&ours).unwrap();
    assert!(text.contains(&format!("\"GET /ws?{NODE_1} HTTP/1.1\" 200 ")), "{text}");
    let words = |file| {
        let text = std::fs::read_to_string(file).unwrap();
        let (before, after) = text.lines().next().unwrap().split_once('[').unwrap();
        (before.to_owned(), after.split_once(']').unwrap().1.to_owned())
    };
    assert_eq!(words(&theirs), words(&ours));
    assert!(nginx.directory.path().join("escape_access.log").exists());
    assert_eq!(files(place.path()), Vec::<PathBuf>::new());
    let ours = files(&logs);
    assert!(ours.iter().all(|file| file.parent() == Some(&*logs)), "{ours:?}");
}

fn answers(to: SocketAddr, fleet: &Fleet, query: &str, count: usize) -> Vec<Option<Answer>> {
    (0..count).map(|_| send(to, &fleet.recorder, &get(query), false).answer()).collect()
}

/// A connection to Redis for each request; ours has one, and remembers.
#[test]
fn redis_is_not_dialled_for_every_request() {
    let fleet = Fleet::start();
    let logs = Directory::new("logs");
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway(logs.path()));
    let dialled = |to| {
        let before = connections(&fleet.redis);
        assert_eq!(answers(to, &fleet, NODE_1, 20), vec![Some(at(1)); 20]);
        // Our looking is one of them.
        connections(&fleet.redis) - before - 1
    };
    assert_eq!(dialled(nginx.address), 20);
    let dials = dialled(gateway.address("games"));
    assert!(dials <= 2, "{dials}");
}

fn connections(redis: &Redis) -> usize {
    let info = redis::cmd("INFO").arg("stats").query::<String>(&mut redis.connection()).unwrap();
    let line = info.lines().find(|line| line.starts_with("total_connections_received:")).unwrap();
    line.split(':').nth(1).unwrap().trim().parse().unwrap()
}

/// A node that moves is known at once on both: by a question for each request there, and because
/// Redis says so here.
#[test]
fn a_node_that_moves() {
    let fleet = Fleet::start();
    let logs = Directory::new("logs");
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway(logs.path()));
    let both = [nginx.address, gateway.address("games")];
    for to in both {
        assert_eq!(answers(to, &fleet, NODE_1, 1), [Some(at(1))]);
    }
    fleet.put(("dev", "wgamed"), "1", &fleet.place(3));
    assert_eq!(answers(both[0], &fleet, NODE_1, 1), [Some(at(3))]);
    until("the new place", || answers(both[1], &fleet, NODE_1, 1) == [Some(at(3))]);
}

/// Redis stands still, and dies: nginx sends everybody away, we those only whose node is not known.
#[test]
fn a_redis_that_is_gone_or_stands_still() {
    let mut fleet = Fleet::start();
    let logs = Directory::new("logs");
    let (nginx, gateway) = (fleet.nginx(), fleet.gateway(logs.path()));
    let both = [nginx.address, gateway.address("games")];
    let other = "nodeName=wgamed&threadId=2&platform=dev";
    let third = "nodeName=wgamed&threadId=3&platform=dev";
    for to in both {
        assert_eq!(answers(to, &fleet, NODE_1, 1), [Some(at(1))]);
    }
    fleet.redis.process.pause();
    let begun = Instant::now();
    assert_eq!(answers(both[0], &fleet, NODE_1, 1), [Some(own(500))]);
    assert_eq!(answers(both[1], &fleet, other, 1), [Some(own(500))]);
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(answers(both[1], &fleet, NODE_1, 5), [Some(at(1)); 5]);
    fleet.redis.process.kill();
    assert_eq!(answers(both[0], &fleet, NODE_1, 1), [Some(own(500))]);
    assert_eq!(answers(both[1], &fleet, third, 1), [Some(own(500))]);
    assert_eq!(answers(both[1], &fleet, NODE_1, 5), [Some(at(1)); 5]);
}
