//! What the admin interface does to a running gateway: sessions found and closed, sources told,
//! where a key is, the configuration in force, and events while all that happens.

mod gateway;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{DEADLINE, Gateway, frame_config};
use serde_json::{Value, json};

/// A client of this key that is served.
fn served(gateway: &Gateway, key: &str) -> Client {
    let mut client = Client::login(gateway.address("devices"), key);
    assert_eq!(client.receive(5), b"only\n");
    let login = login(key);
    assert_eq!(client.receive(login.len()), login);
    client
}

fn get(gateway: &Gateway, path: &str) -> Value {
    let (status, body) = gateway.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect(&body)
}

fn count(gateway: &Gateway, query: &str) -> usize {
    get(gateway, &format!("/sessions?{query}"))["sessions"].as_array().unwrap().len()
}

#[test]
fn a_session_is_found_by_its_key_and_closed() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "").replace("cores = [0]", "cores = [0, 1]");
    let gateway = Gateway::start(&toml);
    let mut others: Vec<Client> = (0..5).map(|n| served(&gateway, &format!("other-{n}"))).collect();
    let mut wanted = served(&gateway, "wanted");
    assert_eq!(count(&gateway, ""), 6);
    assert_eq!(count(&gateway, "key=nobody"), 0);
    assert_eq!(count(&gateway, "pool=c2s&listener=devices"), 6);
    assert_eq!(count(&gateway, &format!("backend={backend}&limit=4")), 4);
    assert_eq!(count(&gateway, "pool=other"), 0);
    assert_eq!(count(&gateway, "key_hex=77616e746564"), 1);
    let found = get(&gateway, "/sessions?key=wanted");
    let session = &found["sessions"][0];
    assert_eq!((&session["key"], &session["placement"]), (&json!("wanted"), &json!("home")));
    let id = session["id"].as_str().unwrap();

    let (status, body) = gateway.ask("DELETE", &format!("/sessions/{id}"));
    assert_eq!(status, 200, "{body}");
    wanted.assert_closed_silently();
    assert_eq!(gateway.ask("DELETE", &format!("/sessions/{id}")).0, 404, "it is gone");
    for name in ["9-0-0", "0-4000000000-1"] {
        assert_eq!(gateway.ask("DELETE", &format!("/sessions/{name}")).0, 404, "{name}");
    }
    for name in ["0-1", "a-b-c", "0-1-2-3", "0-01-1"] {
        assert_eq!(gateway.ask("DELETE", &format!("/sessions/{name}")).0, 400, "{name}");
    }
    assert_eq!(gateway.assert_end("operator")["key"], "wanted");
    others.iter_mut().for_each(|other| other.echo(b"undisturbed"));
    assert_eq!(gateway.get("/sessions?key=a&key_hex=61").0, 400);
    assert_eq!(gateway.get("/sessions?key_hex=6").0, 400);
}

#[test]
fn a_place_in_a_shards_slab_that_is_taken_again_is_another_session() {
    let gateway = Gateway::start(&frame_config(&[Backend::echo("only")], "", ""));
    let first = served(&gateway, "first");
    let id = |key: &str| {
        let found = get(&gateway, &format!("/sessions?key={key}"));
        found["sessions"][0]["id"].as_str().unwrap().to_owned()
    };
    let old = id("first");
    first.reset();
    gateway.session_lines(1);
    let mut second = served(&gateway, "second");
    let new = id("second");
    assert_eq!(old.rsplit_once('-').unwrap().0, new.rsplit_once('-').unwrap().0, "same place");
    assert_eq!(gateway.ask("DELETE", &format!("/sessions/{old}")).0, 404);
    second.echo(b"still here");
}

#[test]
fn sessions_of_a_backend_are_closed_at_a_rate_and_those_that_come_back_are_not() {
    let backend = Backend::echo("only");
    let gateway = Gateway::start(&frame_config(&[backend], "", ""));
    let mut clients: Vec<Client> = (0..30).map(|n| served(&gateway, &format!("k{n}"))).collect();
    let path = format!("/pools/c2s/backends/{backend}/close");
    let begun = Instant::now();
    let (status, body) = gateway.send("POST", &path, &json!({ "rate": "20/s" }));
    assert_eq!(status, 202, "{body}");
    assert_eq!(body["sessions"], 30);
    let mut returned = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        client.assert_closed_silently();
        returned.push(served(&gateway, &format!("k{number}")));
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900), "30 sessions at 20/s took {took:?}");
    // Two more rounds of the search would have found them.
    let quiet = Instant::now() + Duration::from_millis(500);
    while Instant::now() < quiet {
        returned.iter_mut().for_each(|client| client.echo(b"left alone"));
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let ends = gateway.session_lines(30);
    assert!(ends.iter().all(|line| line["end"] == "operator"), "{ends:?}");

    let (status, _) = gateway.send("POST", &path, &json!({ "rate": "1/s" }));
    assert_eq!(status, 202);
    let (status, body) = gateway.ask("DELETE", &path);
    assert_eq!(status, 200, "{body}");
    std::thread::park_timeout(Duration::from_millis(1_500));
    returned.iter_mut().for_each(|client| client.echo(b"taken back"));
    for rate in ["0/s", "5", "", "-1/s", "9999999/s", "x/s"] {
        assert_eq!(gateway.send("POST", &path, &json!({ "rate": rate })).0, 400, "{rate}");
    }
    assert_eq!(gateway.send("POST", "/pools/no/backends/1.1.1.1:1/close", &json!({})).0, 404);
    assert_eq!(gateway.send("POST", "/pools/c2s/backends/1.1.1.1:1/close", &json!({})).0, 404);
}

#[test]
fn where_a_key_is_and_why() {
    let addresses: Vec<_> = (0..3).map(|_| Backend::echo("only")).collect();
    let toml = frame_config(&addresses, "on_down = \"next\"", "");
    let gateway = Gateway::start(&toml);
    let home = |key: &str| addresses[crc32fast::hash(key.as_bytes()) as usize % 3].to_string();
    let asked = get(&gateway, "/where/868120200000001");
    let place = &asked["places"][0];
    assert_eq!((&place["listener"], &place["pool"]), (&json!("devices"), &json!("c2s")));
    assert_eq!(
        (&place["backend"], &place["home"]),
        (&place["home"], &json!(home("868120200000001")))
    );
    assert_eq!(place["reason"], "home");
    assert!(place["hash"].as_str().unwrap().starts_with("crc32 0x"), "{place}");
    assert_eq!(asked["sessions"], json!([]));
    let _client = served(&gateway, "868120200000001");
    let asked = get(&gateway, "/where/868120200000001?listener=devices");
    let session = &asked["sessions"][0];
    assert_eq!(session["backend"], home("868120200000001"));
    assert!(session["since"].as_str().unwrap().starts_with("20"), "{session}");
    // Any bytes, also those that a path or UTF-8 has no place for.
    for (path, key, hex) in [("a%2Fb", "a/b", None), ("%00%FF", "\0\u{fffd}", Some("00ff"))] {
        let asked = get(&gateway, &format!("/where/{path}"));
        assert_eq!((asked["key"].as_str(), asked["key_hex"].as_str()), (Some(key), hex));
    }
    assert_eq!(gateway.get("/where/a?listener=nobody").0, 404);
    let long = get(&gateway, &format!("/where/{}", "k".repeat(300)));
    assert_eq!(
        (&long["places"][0]["reason"], &long["places"][0]["pool"]),
        (&json!("key_too_long"), &Value::Null)
    );

    // With its home down the key goes to the next, and the answer says so.
    let down = toml.replace(
        &format!("\"{}\"", home("a")),
        &format!("{{ address = \"{}\", state = \"down\" }}", home("a")),
    );
    gateway.rewrite(&down);
    assert_eq!(gateway.ask("POST", "/reload").0, 200);
    let place = get(&gateway, "/where/a")["places"][0].clone();
    assert_eq!((&place["home"], &place["reason"]), (&json!(home("a")), &json!("next")));
    assert_ne!(place["backend"], json!(home("a")));
}

#[test]
fn the_configuration_is_shown_with_defaults_and_without_secrets() {
    let toml = frame_config(&[Backend::echo("only")], "", "");
    let source = "[[pool.c2s.source]]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:1/0\"\n\
                  key = \"k\"\nusername = \"u\"\npassword = \"${SECRET}\"\ntimeout = \"200ms\"\n";
    let start = gateway::Start {
        variables: vec![("SECRET".to_owned(), "hunter2-hunter2".to_owned())],
        ..gateway::Start::default()
    };
    let gateway = Gateway::start_with(&format!("{toml}\n{source}"), &start);
    let (_, text) = gateway.get("/config");
    assert!(!text.contains("hunter2"), "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    let pool = &shown["config"]["pool"]["c2s"];
    assert_eq!(pool["source"][0]["password"], "(secret)");
    assert_eq!((&pool["idle_timeout"], &pool["retries"]), (&json!("10m"), &json!(0)));
    assert_eq!(shown["config"]["log"]["level"], "info");
    assert_eq!(shown["resolved"]["cores"], json!([0]));
    assert_eq!(shown["generation"], 1);
    let all = get(&gateway, "/sources/c2s");
    let line = &all["sources"][0];
    assert_eq!((&line["pool"], &line["backends"]), (&json!("c2s"), &Value::Null));
    assert_eq!(line["failure"]["reason"], "unreachable", "{line}");
    for what in ["refresh", "confirm"] {
        let (status, body) = gateway.ask("POST", &format!("/sources/c2s/{what}"));
        assert_eq!((status, body.contains("\"sources\":1")), (200, true), "{body}");
        assert_eq!(gateway.ask("POST", &format!("/sources/nobody/{what}")).0, 404);
    }
    assert_eq!(gateway.get("/sources/nobody").0, 404);
}

#[test]
fn a_removal_that_is_held_back_is_believed_when_an_operator_says_so() {
    let backends: Vec<_> = (0..4).map(|_| Backend::echo("only")).collect();
    let directory = gateway::directory();
    let file = directory.join("backends.json");
    let write = |count: usize| {
        let list: Vec<String> = backends.iter().take(count).map(ToString::to_string).collect();
        std::fs::write(&file, json!({ "backends": list }).to_string()).unwrap();
    };
    write(4);
    let toml = frame_config(&[], "", "").replace("backends = []", "");
    let source = format!("[pool.c2s.source]\nkind = \"file\"\npath = {file:?}\nsettle = \"0s\"\n");
    let gateway = Gateway::start(&format!("{toml}\n{source}"));
    let shown = || get(&gateway, "/pools/c2s")["backends"].as_array().unwrap().len();
    assert_eq!(shown(), 4);
    write(1);
    gateway.wait_until("the removal is held back", || {
        get(&gateway, "/sources/c2s")["sources"][0]["held"] == 3
    });
    assert_eq!(shown(), 4);
    assert_eq!(gateway.ask("POST", "/sources/c2s/confirm").0, 200);
    gateway.wait_until("the removal is believed", || shown() == 1);
}

/// A stream of events.
struct Events {
    lines: std::io::Lines<BufReader<TcpStream>>,
}

impl Events {
    fn open(gateway: &Gateway, header: &str) -> Events {
        let mut stream = TcpStream::connect_timeout(&gateway.admin, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut events = Events { lines: BufReader::new(stream).lines() };
        let head = events.lines.next().unwrap().unwrap();
        assert!(head.contains(" 200 "), "{head}");
        events
    }

    /// The next event: its number, name and data.
    fn next(&mut self) -> (u64, String, Value) {
        let (mut id, mut name) = (0, String::new());
        loop {
            let line = self.lines.next().expect("more").expect("an event before the deadline");
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().unwrap();
            } else if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                return (id, name, serde_json::from_str(text).unwrap());
            }
        }
    }
}

#[test]
fn events_are_told_as_they_happen_and_again_to_those_who_come_back() {
    let (first, second) = (Backend::echo("only"), Backend::echo("only"));
    let toml = frame_config(&[first], "", "");
    let gateway = Gateway::start(&toml);
    let mut events = Events::open(&gateway, "");
    let (_, name, data) = events.next();
    assert_eq!((name.as_str(), &data["table"]), ("start", &json!(1)));
    // An event after the time that every other connection has: the stream is still there.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(10_500) {
        std::thread::park_timeout(Duration::from_millis(200));
    }
    gateway.rewrite(&frame_config(&[first, second], "", ""));
    assert_eq!(gateway.ask("POST", "/reload").0, 200);
    let (id, name, data) = events.next();
    assert_eq!(name, "table");
    assert_eq!(
        (&data["table"], &data["from"], &data["generation"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_eq!(data["pools"][0]["added"]["backends"], json!([second.to_string()]));
    drop(events);

    let drained = format!("{{ address = \"{second}\", state = \"drain\" }}");
    let toml = frame_config(&[first, second], "", "").replace(&format!("\"{second}\""), &drained);
    gateway.rewrite(&toml);
    assert_eq!(gateway.ask("POST", "/reload").0, 200);
    let mut again = Events::open(&gateway, &format!("Last-Event-ID: {id}\r\n"));
    assert_eq!(again.next().1, "start");
    let (next, name, _) = again.next();
    assert_eq!((next, name.as_str()), (id + 1, "table"), "what was missed comes first");
    let (_, name, data) = again.next();
    assert_eq!(name, "backend");
    assert_eq!((&data["from"], &data["to"]), (&json!("ready"), &json!("drain")));
    assert_eq!(data["backend"], second.to_string());
}

#[test]
fn streams_of_events_are_few_and_those_whose_readers_left_are_gone() {
    let gateway = Gateway::start(&frame_config(&[Backend::echo("only")], "", ""));
    let mut open: Vec<Events> = (0..16).map(|_| Events::open(&gateway, "")).collect();
    open.iter_mut().for_each(|events| assert_eq!(events.next().1, "start"));
    assert_eq!(gateway.get("/events").0, 503);
    assert_eq!(gateway.get("/livez").0, 200);
    open.pop();
    // At once, not with the next heartbeat.
    let begun = Instant::now();
    gateway.wait_until("a place is free", || {
        let mut stream = TcpStream::connect_timeout(&gateway.admin, DEADLINE).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut head = String::new();
        BufReader::new(stream).read_line(&mut head).unwrap();
        head.contains(" 200 ")
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
