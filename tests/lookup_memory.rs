//! What a name that a lookup remembers costs the gateway, in resident memory of the whole process.

mod gateway;
mod stores;
mod web;

use std::io::Write;

use gateway::Gateway;
use stores::dns::Dns;
use stores::redis::Redis;
use web::{Web, client, config, ok};

/// Names of each kind. More, by this variable, make a better measurement.
fn names() -> usize {
    std::env::var("NAMES").map_or(10_000, |text| text.parse().expect("a number"))
}

/// Most bytes of a name, here with those of a key of its own.
const EACH_MAX: u64 = 1_000;

/// Asks for names by their numbers; every request has this status.
fn ask(gateway: &Gateway, numbers: std::ops::Range<usize>, status: u16) {
    let threads = 4;
    std::thread::scope(|scope| {
        for first in 0..threads {
            let numbers = numbers.clone();
            scope.spawn(move || {
                let mut wire = client(gateway);
                let mine: Vec<usize> = numbers.skip(first).step_by(threads).collect();
                for some in mine.chunks(50) {
                    let requests: String = some
                        .iter()
                        .map(|id| format!("GET /?id=device-{id:012} HTTP/1.1\r\nHost: h\r\n\r\n"))
                        .collect();
                    wire.stream.write_all(requests.as_bytes()).unwrap();
                    for _ in some {
                        assert_eq!(wire.message("GET").unwrap().status(), status);
                    }
                }
            });
        }
    });
}

/// Resident bytes that each name adds, after some that warm everything up.
fn bytes_each(what: &str, lookup: &str, status: u16) {
    let (warm, names) = (1_000, names());
    let rule = "[[listener.http.rule]]\nlookup = \"l\"\nnot_found = 404\n";
    let bounds = format!("max_entries = {}\nnegative_ttl = \"1h\"", names + warm);
    let gateway = Gateway::start(&config(
        "max_requests = 1000000",
        &format!("{rule}[lookup.l]\n{bounds}\n{lookup}\n"),
    ));
    ask(&gateway, 0..warm, status);
    let before = gateway.resident_bytes();
    ask(&gateway, warm..warm + names, status);
    let each = gateway.resident_bytes().saturating_sub(before) / names as u64;
    gateway.wait_metric("corelane_lookup_entries{lookup=\"l\"}", (warm + names) as f64);
    println!("{what}: {each} bytes");
    assert!(each < EACH_MAX, "{what}: {each} bytes");
}

fn web() -> Web {
    Web::serve(|_, mut wire| {
        wire.stream.set_read_timeout(None).unwrap();
        while wire.message("").is_some() && wire.try_send(ok("")) {}
    })
}

#[test]
fn a_name_in_redis() {
    let (redis, web) = (Redis::start(), web());
    let mut connection = redis.connection();
    let mut pipe = redis::pipe();
    let numbers = 0..1_000 + names();
    for id in numbers {
        let id = format!("device-{id:012}");
        pipe.cmd("HSET").arg("nodes").arg(&id).arg(web.address.to_string()).ignore();
        pipe.cmd("HSET").arg(id).arg("at").arg(web.address.to_string()).ignore();
    }
    pipe.exec(&mut connection).unwrap();
    let lookup = |rest: &str| {
        format!(
            "kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"\nallow = [\"127.0.0.0/8\"]\n{rest}",
            redis.port
        )
    };
    bytes_each("a field", &lookup("key = \"nodes\"\nfield = \"{query:id}\""), 200);
    bytes_each("a key", &lookup("key = \"{query:id}\"\nfield = \"at\""), 200);
    bytes_each("nothing", &lookup("key = \"none\"\nfield = \"{query:id}\""), 404);
}

#[test]
fn a_name_in_dns() {
    let web = web();
    let dns = Dns::start("address=/fleet.test/127.0.0.1\nlocal-ttl=600");
    let lookup = format!(
        "kind = \"dns\"\nname = \"{{query:id}}\"\nsearch = \"fleet.test\"\nport = {}\n\
         resolvers = [\"{}\"]\n",
        web.address.port(),
        dns.address()
    );
    bytes_each("an address", &lookup, 200);
}
