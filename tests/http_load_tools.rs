//! wrk and h2load, in HTTP/1, load a gateway: every request is answered by the backend, nothing
//! breaks, and what they count, the backend counts and the metrics say is the same.

mod gateway;
mod tls;
mod web;

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gateway::Gateway;
use tls::{Authority, tls_table};
use web::{Web, ok, one_pool};

/// Connections of a tool.
const CONNECTIONS: u64 = 50;

/// Requests of h2load, which stops after so many.
const REQUESTS: u64 = 10_000;

/// Tools and gateways have the machine for themselves, one pair after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// As many kept as are used: none is closed and made again.
const KEPT: &str = "[listener.http.backend]\nidle = 50\n";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["20", program])
        .args(arguments)
        .output()
        .expect("timeout, of coreutils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    text
}

/// A backend that counts requests, and those of them that are not as they were sent.
struct Counting {
    web: Web,
    requests: Arc<AtomicU64>,
    odd: Arc<AtomicU64>,
}

impl Counting {
    fn start(start_line: &'static str, body: &'static [u8]) -> Counting {
        let (requests, odd) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, wrong) = (requests.clone(), odd.clone());
        let answer = ok(&"x".repeat(500));
        let web = Web::serve(move |_, mut wire| {
            // Idle connections are the gateway's to close.
            wire.stream.set_read_timeout(None).unwrap();
            while let Some(message) = wire.message("") {
                count.fetch_add(1, Ordering::SeqCst);
                if message.start_line() != start_line || message.body != body {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
                if !wire.try_send(&answer) {
                    return;
                }
            }
        });
        Counting { web, requests, odd }
    }

    fn count(&self) -> u64 {
        assert_eq!(self.odd.load(Ordering::SeqCst), 0, "requests came as they were sent");
        self.requests.load(Ordering::SeqCst)
    }
}

/// What the metrics say: requests answered with 2xx, and all.
fn answered(gateway: &Gateway) -> (u64, u64) {
    let (_, page) = gateway.get("/metrics");
    let sum = |class: &str| {
        let lines = page.lines().filter(|line| {
            line.starts_with("corelane_http_requests_total{") && line.contains(class)
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    };
    (sum("class=\"2xx\""), sum("class=\""))
}

/// The metrics when nobody has a request on its way.
fn settled(gateway: &Gateway, backend: &Counting) -> (u64, u64) {
    gateway.wait_metric("corelane_connections_open", 0.0);
    let (good, all) = answered(gateway);
    // Whose client hung up may be without an answer, or not have gone on.
    assert!((good..=all).contains(&backend.count()), "{good}, {all}, {}", backend.count());
    (good, all)
}

/// wrk's last word on its responses. It stops in the middle: those on their way are not counted.
fn wrk(arguments: &[&str]) -> u64 {
    let text = run("wrk", arguments);
    for bad in ["Socket errors", "Non-2xx"] {
        assert!(!text.contains(bad), "{text}");
    }
    let line = text.lines().find(|line| line.contains(" requests in ")).expect(&text);
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Loads with wrk; `ahead` requests of each connection may be on their way when it stops.
fn load_with_wrk(url: &str, gateway: &Gateway, backend: &Counting, more: (&[&str], u64)) {
    let connections = CONNECTIONS.to_string();
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (arguments, ahead) = more;
    let threads_and_time = ["-t", "2", "-c", &connections, "-d", "1s"];
    let counted = wrk(&[&threads_and_time[..], arguments, &[url]].concat());
    assert!(counted > 100, "{counted} requests in a second");
    let (good, all) = settled(gateway, backend);
    // A client that hangs up is told nothing: that is no status.
    assert!(good >= counted, "{good} answered with 2xx, wrk had {counted}");
    assert!(all - counted <= CONNECTIONS * ahead, "{all} requests, wrk had {counted}");
    let dials = backend.web.connections() as u64;
    assert!(dials <= CONNECTIONS * 2, "{dials} connections to the backend");
}

#[test]
fn wrk_gets_an_answer_to_every_request() {
    let backend = Counting::start("GET /path?a=b HTTP/1.1", b"");
    let gateway = Gateway::start(&one_pool(KEPT, &[backend.web.address], ""));
    let url = format!("http://{}/path?a=b", gateway.address("web"));
    load_with_wrk(&url, &gateway, &backend, (&[], 1));
}

/// Eight requests at once on each connection, of which each has a body.
#[test]
fn wrk_sends_requests_before_it_has_the_answers() {
    let backend = Counting::start("POST /path HTTP/1.1", b"hello");
    let gateway = Gateway::start(&one_pool(KEPT, &[backend.web.address], ""));
    let url = format!("http://{}/path", gateway.address("web"));
    let script = gateway.directory().join("eight.lua");
    let eight = "init = function(args)\n  local one = wrk.format('POST', nil, nil, 'hello')\n  \
                 eight = string.rep(one, 8)\nend\nrequest = function() return eight end\n";
    std::fs::write(&script, eight).unwrap();
    let script = script.display().to_string();
    load_with_wrk(&url, &gateway, &backend, (&["-s", &script], 8));
}

/// h2load ends after exactly so many, and has counted each.
fn load_with_h2load(url: &str, gateway: &Gateway, backend: &Counting, more: &[&str]) -> String {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (requests, connections) = (REQUESTS.to_string(), CONNECTIONS.to_string());
    let how_many = ["--h1", "-n", &requests, "-c", &connections, "-t", "2"];
    let text = run("h2load", &[&how_many[..], more, &[url]].concat());
    for good in [
        format!(
            "requests: {n} total, {n} started, {n} done, {n} succeeded, 0 failed, 0 errored, \
             0 timeout",
            n = REQUESTS
        ),
        format!("status codes: {REQUESTS} 2xx, 0 3xx, 0 4xx, 0 5xx"),
    ] {
        assert!(text.contains(&good), "{text}");
    }
    assert_eq!(settled(gateway, backend), (REQUESTS, REQUESTS));
    assert_eq!(gateway.metric("corelane_connections_total{listener=\"web\"}") as u64, CONNECTIONS);
    text
}

#[test]
fn h2load_counts_what_the_metrics_count() {
    let backend = Counting::start("GET /path?a=b HTTP/1.1", b"");
    let gateway = Gateway::start(&one_pool(KEPT, &[backend.web.address], ""));
    let url = format!("http://{}/path?a=b", gateway.address("web"));
    load_with_h2load(&url, &gateway, &backend, &[]);
}

#[test]
fn h2load_uploads() {
    let backend = Counting::start("POST /up HTTP/1.1", &[b'u'; 4_000]);
    let gateway = Gateway::start(&one_pool(KEPT, &[backend.web.address], ""));
    let file = gateway.directory().join("body");
    std::fs::write(&file, [b'u'; 4_000]).unwrap();
    let url = format!("http://{}/up", gateway.address("web"));
    let file = file.display().to_string();
    load_with_h2load(&url, &gateway, &backend, &["-d", &file]);
}

/// Both in TLS: what is agreed on is HTTP/1.1, although both know HTTP/2 or nothing of it.
#[test]
fn both_in_tls() {
    let authority = Authority::new("test");
    let table = tls_table("alpn = [\"http/1.1\"]", &[&authority.sign("a", &["localhost"])]);
    let start = |backend: &Counting| {
        let toml = one_pool(KEPT, &[backend.web.address], "");
        Gateway::start(&toml.replace("[listener.http]\n", &format!("[listener.http]\n{table}")))
    };
    let backend = Counting::start("GET / HTTP/1.1", b"");
    let gateway = start(&backend);
    let url = format!("https://{}/", gateway.address("web"));
    load_with_wrk(&url, &gateway, &backend, (&[], 1));
    let backend = Counting::start("GET / HTTP/1.1", b"");
    let gateway = start(&backend);
    let url = format!("https://{}/", gateway.address("web"));
    let text = load_with_h2load(&url, &gateway, &backend, &[]);
    assert!(text.contains("Application protocol: http/1.1"), "{text}");
}
