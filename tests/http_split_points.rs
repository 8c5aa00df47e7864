//! A head and a chunked body arrive in every two pieces they can be cut into, in both directions,
//! and byte by byte: what comes out is the same.

mod gateway;
mod web;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gateway::Gateway;
use web::{Web, client, ok, one_pool};

const REQUEST: &str = "POST /p?q=1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5;x=\"y\"\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 Fine\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n\
                        5\r\nhello\r\n1;a\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n";

/// Time in which the first piece is read alone.
const BETWEEN: Duration = Duration::from_micros(300);

#[test]
fn requests_may_be_cut_anywhere() {
    let web = Web::answering(|message| ok(&format!("{}|{}", message.head, message.text())));
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    let whole = wire.ask(REQUEST).text();
    assert!(whole.ends_with("|hello!"), "{whole}");
    for at in 1..REQUEST.len() {
        wire.send(&REQUEST[..at]);
        std::thread::park_timeout(BETWEEN);
        wire.send(&REQUEST[at..]);
        let answer = wire.message("POST").unwrap_or_else(|| panic!("no answer: cut at {at}"));
        assert_eq!(answer.text(), whole, "cut at {at}");
    }
    for byte in REQUEST.as_bytes() {
        wire.send([*byte]);
        std::thread::park_timeout(BETWEEN);
    }
    assert_eq!(wire.message("POST").unwrap().text(), whole);
    assert_eq!(web.connections(), 1);
}

#[test]
fn responses_may_be_cut_anywhere() {
    let at = Arc::new(AtomicUsize::new(0));
    let cut = at.clone();
    let lock = Mutex::new(());
    let web = Web::serve(move |_, mut wire| {
        wire.stream.set_read_timeout(None).unwrap();
        while wire.message("").is_some() {
            let _one_at_a_time = lock.lock().unwrap();
            let at = cut.load(Ordering::SeqCst);
            if at == RESPONSE.len() {
                for byte in RESPONSE.as_bytes() {
                    wire.send([*byte]);
                    std::thread::park_timeout(BETWEEN);
                }
                continue;
            }
            wire.send(&RESPONSE[..at]);
            std::thread::park_timeout(BETWEEN);
            wire.send(&RESPONSE[at..]);
        }
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut wire = client(&gateway);
    for place in 0..=RESPONSE.len() {
        at.store(place, Ordering::SeqCst);
        let answer = wire.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((answer.status(), answer.field("x")), (200, Some("y")), "cut at {place}");
        assert_eq!(answer.text(), "hello!", "cut at {place}");
    }
    assert_eq!(web.connections(), 1);
}
