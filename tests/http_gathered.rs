//! Small answers of many connections are sent together; what a socket does not take of its own is
//! sent later, in order, and costs nobody else anything.

mod gateway;
mod web;

use std::io::Write;
use std::time::{Duration, Instant};

use gateway::{DEADLINE, Gateway};
use socket2::{Domain, Socket, Type};
use web::{Message, Web, Wire, one_pool};

/// Requests that each slow client sends before it reads.
const REQUESTS: usize = 3000;
/// Slow clients, and quick ones.
const CLIENTS: usize = 8;

fn request(client: usize, number: usize) -> String {
    format!("GET /{client}/{number} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// Some 1.5 KiB that say which request they answer.
fn answer(asked: &Message) -> Vec<u8> {
    let target = asked.start_line().split(' ').nth(1).unwrap().to_owned();
    web::ok(&format!("{target} {}", "x".repeat(1500)))
}

fn assert_answers(wire: &mut Wire, target: &str) {
    let message = wire.message("GET").unwrap();
    assert_eq!(message.status(), 200);
    assert!(message.text().starts_with(&format!("{target} ")), "{target}: {}", message.text());
}

/// A client whose socket takes little before it is read.
fn narrow(gateway: &Gateway) -> Wire {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&gateway.address("web").into()).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    Wire::new(socket.into())
}

/// Has slow clients ask much and read nothing, until nothing moves any more.
fn stall(gateway: &Gateway) -> Vec<(Wire, std::thread::JoinHandle<()>)> {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let wire = narrow(gateway);
            let mut writer = wire.stream.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                for number in 0..REQUESTS {
                    writer.write_all(request(client, number).as_bytes()).unwrap();
                }
            });
            (wire, writing)
        })
        .collect();
    let answered = settled(gateway);
    assert!(answered < (CLIENTS * REQUESTS * 1500) as f64, "all of it was taken: nothing is tried");
    clients
}

/// Waits until nothing is answered any more. Bytes that were.
fn settled(gateway: &Gateway) -> f64 {
    let answered = || gateway.metric("corelane_bytes_total{listener=\"web\",direction=\"out\"}");
    let give_up = Instant::now() + DEADLINE;
    let mut before = answered();
    loop {
        std::thread::park_timeout(Duration::from_millis(300));
        let now = answered();
        if now == before && now > 0.0 {
            return now;
        }
        assert!(Instant::now() < give_up, "still answering who does not read");
        before = now;
    }
}

#[test]
fn who_does_not_read_gets_everything_later_and_holds_nobody_up() {
    let web = Web::answering(answer);
    let settings = "send_timeout = \"1h\"\nmax_requests = 1000000";
    let gateway = Gateway::start(&one_pool(settings, &[web.address], ""));
    let slow = stall(&gateway);
    let mut quick: Vec<Wire> = (0..CLIENTS).map(|_| web::client(&gateway)).collect();
    for number in 0..50 {
        for (client, wire) in quick.iter_mut().enumerate() {
            wire.send(request(100 + client, number));
        }
        for (client, wire) in quick.iter_mut().enumerate() {
            assert_answers(wire, &format!("/{}/{number}", 100 + client));
        }
    }
    for (client, (mut wire, writing)) in slow.into_iter().enumerate() {
        for number in 0..REQUESTS {
            assert_answers(&mut wire, &format!("/{client}/{number}"));
        }
        writing.join().unwrap();
    }
    assert_eq!(gateway.metric("corelane_bugs_total"), 0.0);
}

/// One of these counts of answers fills the client's socket just so that the last one does not fit.
#[test]
fn who_has_said_everything_and_reads_late_gets_the_last_answer_whole() {
    let web = Web::answering(answer);
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let mut clients: Vec<Wire> = (1..=120)
        .map(|count| {
            let mut wire = narrow(&gateway);
            for number in 0..count {
                wire.send(request(count, number));
            }
            wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
            wire
        })
        .collect();
    settled(&gateway);
    for (count, wire) in (1..).zip(&mut clients) {
        for number in 0..count {
            assert_answers(wire, &format!("/{count}/{number}"));
        }
        assert_eq!(wire.rest(), (vec![], true), "the end of {count}");
    }
}

#[test]
fn who_never_reads_is_late_and_its_connection_ends() {
    let web = Web::answering(answer);
    let settings = "send_timeout = \"1s\"\nmax_requests = 1000000";
    let gateway = Gateway::start(&one_pool(settings, &[web.address], ""));
    let slow = stall(&gateway);
    let lines = gateway.session_lines(CLIENTS);
    for line in lines {
        assert_eq!(line["end"], "http_send_timeout", "{line}");
    }
    for (wire, writing) in slow {
        drop(wire);
        // The gateway has reset it.
        let _broken = writing.join();
    }
}
