//! Lookups in a real DNS server by a running gateway: what is there, what is not, what is not
//! allowed; times to live, herds, and a server that is killed or stands still.

mod gateway;
mod stores;

use std::time::{Duration, Instant};

use gateway::Gateway;
use gateway::backend::Backend;
use gateway::client::Client;
use gateway::looked_up::{config, greeting, place};
use stores::dns::Dns;
use stores::process::{free_port, until};

/// Three backends on one port, by their addresses, and a server that knows them.
struct Fleet {
    dns: Dns,
    port: u16,
}

const RECORDS: &[&str] = &[
    "host-record=zone1.fleet.test,127.0.0.2",
    "host-record=zone2.fleet.test,127.0.0.3",
    "host-record=many.fleet.test,127.0.0.2",
    "host-record=many.fleet.test,127.0.0.3",
    "host-record=outside.fleet.test,10.9.9.9",
    "host-record=both.fleet.test,10.9.9.9",
    "host-record=both.fleet.test,127.0.0.3",
    "cname=alias.fleet.test,zone2.fleet.test",
];

impl Fleet {
    fn start(ttl_s: u32) -> Fleet {
        let port = free_port();
        for number in 2..=3 {
            Backend::echo_at(([127, 0, 0, number], port).into());
        }
        Fleet { dns: Dns::authority(ttl_s, RECORDS), port }
    }

    fn lookup(&self, more: &str) -> String {
        config(&format!(
            "kind = \"dns\"\nname = \"{{key}}\"\nsearch = \"fleet.test\"\nport = {}\n\
             resolvers = [\"{}\"]\nallow = [\"127.0.0.0/8\"]\n{more}\n",
            self.port,
            self.dns.address()
        ))
    }

    fn gateway(&self, more: &str) -> Gateway {
        Gateway::start(&self.lookup(more))
    }

    fn at(&self, number: u8) -> Option<String> {
        Some(format!("127.0.0.{number}:{}", self.port))
    }
}

#[test]
fn devices_go_where_dns_says_and_nowhere_else() {
    let fleet = Fleet::start(60);
    let gateway = fleet.gateway("negative_ttl = \"1h\"");
    let devices = gateway.address("devices");
    assert_eq!(place(devices, "zone1"), fleet.at(2));
    assert_eq!(place(devices, "ZONE2"), fleet.at(3), "names have no case");
    assert_eq!(place(devices, "alias"), fleet.at(3));
    assert_eq!(place(devices, "both"), fleet.at(3), "only what is allowed");
    let placed: Vec<_> = (0..12).map(|_| place(devices, "many")).collect();
    assert!(placed.contains(&fleet.at(2)) && placed.contains(&fleet.at(3)), "{placed:?}");
    let ends_with = |id: &str, end: &str| {
        assert_eq!(place(devices, id), None, "{id}");
        assert_eq!(gateway.end_of(id), end, "{id}");
    };
    ends_with("nobody", "lookup_nothing");
    ends_with("outside", "lookup_refused");
    for id in ["a.b", "zone1.", "a b", "../x", "zone1\\u0000", "-a", "a_b"] {
        ends_with(id, "lookup_name_invalid");
    }
    let asked = fleet.dns.questions();
    for id in ["zone1", "nobody", "outside"] {
        for _ in 0..8 {
            place(devices, id);
        }
    }
    // The other shard may not have known one or the other: two families each.
    assert!(fleet.dns.questions() <= asked + 6);
}

#[test]
fn records_are_used_for_as_long_as_they_live() {
    let mut fleet = Fleet::start(1);
    let gateway = fleet.gateway("negative_ttl = \"1s\"");
    let devices = gateway.address("devices");
    assert_eq!(place(devices, "zone1"), fleet.at(2));
    assert_eq!(place(devices, "new"), None);
    let records =
        ["host-record=zone1.fleet.test,127.0.0.3", "host-record=new.fleet.test,127.0.0.2"];
    fleet.dns.restart_authority(1, &records);
    let began = Instant::now();
    until("the new record on both shards", || {
        (0..20).all(|_| place(devices, "zone1") == fleet.at(3))
    });
    until("the name that was not there", || place(devices, "new") == fleet.at(2));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // Used all the while, it is asked for again before its end: hardly anybody waits.
    let before = (gateway.looked("asked"), gateway.metric(REFRESHES));
    let until_at = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until_at {
        assert_eq!(place(devices, "zone1"), fleet.at(3));
    }
    assert!(gateway.metric(REFRESHES) > before.1 + 1.0);
    assert!(gateway.looked("asked") <= before.0 + 4.0);
}

const REFRESHES: &str = "corelane_lookup_refreshes_total{lookup=\"nodes\"}";

#[test]
fn a_herd_asks_once() {
    let fleet = Fleet::start(60);
    let gateway = fleet.gateway("timeout = \"20s\"\nconnect_timeout = \"20s\"");
    let devices = gateway.address("devices");
    let before = fleet.dns.questions();
    fleet.dns.process.pause();
    let mut herd: Vec<Client> = (0..1_000).map(|_| Client::login(devices, "zone1")).collect();
    let waiting = || {
        let (_, sessions) = gateway.get("/sessions?limit=2000");
        sessions.matches("\"lookup\"").count()
    };
    until("a thousand sessions wait", || waiting() == 1_000);
    fleet.dns.process.resume();
    for client in &mut herd {
        assert_eq!(greeting(client), fleet.at(2));
    }
    assert_eq!(gateway.questions("found"), 1.0, "both shards share the question");
    // A and AAAA; a datagram is sent again if there is no answer for long.
    let asked = fleet.dns.questions() - before;
    assert!((2..=6).contains(&asked), "{asked} questions");
}

#[test]
fn without_dns_what_was_known_goes_on() {
    let mut fleet = Fleet::start(1);
    let gateway = fleet.gateway("ttl = \"500ms\"\ntimeout = \"500ms\"");
    let devices = gateway.address("devices");
    until("both shards know", || {
        place(devices, "zone1") == fleet.at(2)
            && gateway.metric("corelane_lookup_entries{lookup=\"nodes\"}") == 2.0
    });
    let stale = || {
        gateway.metric("corelane_lookup_placements_total{lookup=\"nodes\",reason=\"lookup_stale\"}")
    };
    let second = fleet.at(2);
    let goes_on = |before: f64| {
        until("an old answer on both shards", || {
            assert_eq!(place(devices, "zone1"), second);
            stale() >= before + 4.0
        });
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(place(devices, "zone1"), second);
        }
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waits: {:?}", began.elapsed());
    };
    fleet.dns.process.pause();
    goes_on(0.0);
    assert_eq!(place(devices, "zone2"), None, "nothing was known of it");
    assert!(gateway.looked("timeout") >= 1.0);
    fleet.dns.process.kill();
    goes_on(stale());
    fleet.dns.restart_authority(1, &["host-record=zone1.fleet.test,127.0.0.3"]);
    until("the server is believed again", || place(devices, "zone1") == fleet.at(3));
    // Poisoned: what it says is not allowed, and it says so.
    fleet.dns.restart_authority(1, &["host-record=zone1.fleet.test,169.254.169.254"]);
    until("the address is refused", || place(devices, "zone1").is_none());
    assert!(gateway.looked("refused") >= 1.0);
}
