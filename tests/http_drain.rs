//! Draining and reloading under connections that stay open: idle ones are closed at once, the
//! response on its way is the last, and rules in force are those of the request's beginning.

mod gateway;
mod web;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use gateway::Gateway;
use gateway::backend::refusing_address;
use web::{Web, client, config, eventually, ok, one_pool};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn idle_connections_close_at_once_and_the_others_behind_their_response() {
    let (answer, wanted) = mpsc::channel::<()>();
    let wanted = Mutex::new(wanted);
    let idle_is_answered = AtomicBool::new(false);
    let web = Web::answering(move |_| {
        if idle_is_answered.swap(true, SeqCst) {
            wanted.lock().unwrap().recv().unwrap();
        }
        ok("late")
    });
    let mut gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut idle = client(&gateway);
    assert_eq!(idle.ask(GET).status(), 200);
    let fresh = client(&gateway);
    let mut busy = client(&gateway);
    busy.send(GET);
    eventually("the request arrives", || web.seen().len() == 2);
    let begun = Instant::now();
    gateway.signal("TERM");
    assert_eq!(idle.rest(), (Vec::new(), true));
    let mut fresh = fresh;
    assert_eq!(fresh.rest(), (Vec::new(), true));
    answer.send(()).unwrap();
    let answer = busy.message("GET").unwrap();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("late", Some("close")));
    assert!(busy.rest().1);
    drop((idle, fresh, busy));
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let lines = gateway.session_lines(3);
    assert!(lines.iter().all(|line| line["end"] == "http_closed"), "{lines:?}");
}

#[test]
fn a_reload_holds_from_the_next_request_on() {
    let (a, b) = (Web::named("a"), Web::named("b"));
    let toml = |backend: &Web, port: u16| {
        one_pool("", &[backend.address], "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
            + "\n[admin]\nlisten = \"127.0.0.1:0\"\n"
    };
    let port = refusing_address().port();
    let first = one_pool("", &[a.address], "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let gateway = Gateway::start(&first);
    let mut wire = client(&gateway);
    assert_eq!(wire.ask(GET).text().split(' ').next(), Some("a"));
    let file = gateway.directory().join("corelane.toml");
    std::fs::write(&file, toml(&b, port)).unwrap();
    gateway.signal("HUP");
    eventually("the next request goes to the new backend", || {
        wire.ask(GET).text().starts_with("b ")
    });
    // The listener leaves: the next response is the last.
    let without = toml(&b, port).replace("name = \"web\"", "name = \"other\"");
    std::fs::write(&file, without).unwrap();
    gateway.signal("HUP");
    eventually("the connection is closed behind a response", || {
        wire.ask(GET).field("connection") == Some("close")
    });
    assert!(wire.rest().1);
}

#[test]
fn kept_connections_of_a_backend_that_leaves_are_closed() {
    let (a, b) = (Web::named("a"), Web::named("b"));
    let rest = |key: &str| {
        format!(
            "[[listener.http.rule]]\nname = \"all\"\npool = \"p\"\n\
             [pool.p]\nbalance = \"round_robin\"\nbackends = [{key}]\n"
        )
    };
    let both = format!("\"{}\", \"{}\"", a.address, b.address);
    let gateway = Gateway::start(&config("", &rest(&both)));
    let mut wire = client(&gateway);
    for _ in 0..4 {
        wire.ask(GET);
    }
    gateway.wait_metric("corelane_http_backend_connections_idle", 2.0);
    let one =
        config("", &rest(&format!("\"{}\"", a.address))) + "\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(gateway.directory().join("corelane.toml"), one).unwrap();
    gateway.signal("HUP");
    gateway.wait_metric("corelane_http_backend_connections_idle", 1.0);
    assert_eq!(wire.ask(GET).text().split(' ').next(), Some("a"));
}
