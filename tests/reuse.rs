//! The socket of a session that was reset serves another, which gets no byte and no error of the
//! earlier one.

mod gateway;

use std::net::{SocketAddr, TcpListener};

use gateway::client::{Client, Closed, login};
use gateway::{DEADLINE, Gateway, frame_config};
use socket2::SockRef;

const REUSED: &str = "corelane_backend_sockets_reused_total";
/// Bytes taken from clients.
const IN: &str = "corelane_bytes_total{listener=\"devices\",direction=\"in\"}";
/// Spare sockets of a shard (`SPARES_MAX` in src/backend/spare.rs).
const SPARES_MAX: usize = 32;

/// A backend that is accepted from by the test itself. Its connections take little before they are
/// read: what is sent to them waits at the sender.
struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    fn new() -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SockRef::from(&listener).set_recv_buffer_size(2048).unwrap();
        let address = listener.local_addr().unwrap();
        Listening { listener, address }
    }

    fn accept(&self, id: &str) -> Client {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut backend = Client { stream };
        assert_eq!(backend.receive(login(id).len()), login(id), "the first bytes of a session");
        backend
    }
}

struct Fixture {
    listening: Listening,
    gateway: Gateway,
    sessions: usize,
}

impl Fixture {
    fn start() -> Fixture {
        let listening = Listening::new();
        let gateway = Gateway::start(&frame_config(&[listening.address], "", ""));
        Fixture { listening, gateway, sessions: 0 }
    }

    fn pair(&mut self) -> (Client, Client) {
        self.sessions += 1;
        let id = format!("device-{}", self.sessions);
        let client = Client::login(self.gateway.address("devices"), &id);
        (client, self.listening.accept(&id))
    }

    /// A session on a used socket, from its first byte to its last.
    fn assert_clean(&mut self) {
        let before = self.gateway.metric(REUSED);
        let (mut client, mut backend) = self.pair();
        assert_eq!(self.gateway.metric(REUSED), before + 1.0, "the socket is used again");
        for n in 0..5u8 {
            client.send(&[n; 100]);
            assert_eq!(backend.receive(100), [n; 100]);
            backend.send(&[0x80 | n; 100]);
            assert_eq!(client.receive(100), [0x80 | n; 100]);
        }
        client.fin();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Fin));
        backend.send(b"bye");
        backend.fin();
        assert_eq!(client.read_to_end(), (b"bye".to_vec(), Closed::Fin));
        self.assert_last_end("client_fin");
    }

    fn assert_last_end(&self, end: &str) {
        let line = self.gateway.session_lines(self.sessions).remove(self.sessions - 1);
        assert_eq!(line["end"], end, "{line}");
    }

    /// Lets things happen that the gateway finds all at once.
    fn while_stopped(&self, act: impl FnOnce()) {
        self.gateway.pause();
        act();
        self.gateway.signal("CONT");
    }
}

#[test]
fn after_a_reset_with_nothing_on_its_way() {
    let mut fixture = Fixture::start();
    for _ in 0..20 {
        let (client, mut backend) = fixture.pair();
        client.reset();
        assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
        fixture.assert_last_end("client_reset");
        fixture.assert_clean();
    }
}

#[test]
fn after_a_reset_while_data_of_the_backend_is_unread() {
    let mut fixture = Fixture::start();
    for reset_first in [true, false, true, false] {
        let (client, mut backend) = fixture.pair();
        fixture.while_stopped(|| {
            if reset_first {
                client.reset();
                backend.send(&[0xee; 5000]);
            } else {
                backend.send(&[0xee; 5000]);
                client.reset();
            }
        });
        assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
        fixture.assert_last_end("client_reset");
        fixture.assert_clean();
    }
}

#[test]
fn after_a_reset_while_data_for_the_backend_is_unsent() {
    let mut fixture = Fixture::start();
    for _ in 0..5 {
        let (mut client, mut backend) = fixture.pair();
        let taken = fixture.gateway.metric(IN);
        // More than the backend's socket takes, less than makes our buffers grow.
        client.send(&[0xcc; 40_000]);
        fixture.gateway.wait_metric(IN, taken + 40_000.0);
        client.reset();
        fixture.assert_last_end("client_reset");
        let (received, closed) = backend.read_to_end();
        assert!(received.len() < 40_000, "everything had been sent: nothing was tried");
        assert!(received.iter().all(|byte| *byte == 0xcc));
        assert_eq!(closed, Closed::Reset);
        fixture.assert_clean();
    }
}

#[test]
fn after_data_and_reset_that_are_found_at_once() {
    let mut fixture = Fixture::start();
    for _ in 0..5 {
        let (mut client, mut backend) = fixture.pair();
        fixture.while_stopped(|| {
            client.send(&[0xcc; 1000]);
            backend.send(&[0xee; 1000]);
            client.reset();
        });
        let (received, closed) = backend.read_to_end();
        assert!(received.iter().all(|byte| *byte == 0xcc));
        assert_eq!(closed, Closed::Reset);
        fixture.assert_last_end("client_reset");
        fixture.assert_clean();
    }
}

#[test]
fn not_after_a_reset_of_the_backend_itself() {
    let mut fixture = Fixture::start();
    let (mut client, backend) = fixture.pair();
    backend.reset();
    assert_eq!(client.read_to_end(), (vec![], Closed::Reset));
    fixture.assert_last_end("backend_reset");
    drop(fixture.pair());
    assert_eq!(fixture.gateway.metric(REUSED), 0.0);
}

#[test]
fn not_after_a_session_whose_buffers_have_grown() {
    let mut fixture = Fixture::start();
    let (client, mut backend) = fixture.pair();
    let mut sender = Client { stream: client.stream.try_clone().unwrap() };
    let sending = std::thread::spawn(move || sender.send(&[1; 200_000]));
    backend.receive(200_000);
    sending.join().unwrap();
    client.reset();
    assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
    fixture.assert_last_end("client_reset");
    drop(fixture.pair());
    assert_eq!(fixture.gateway.metric(REUSED), 0.0);
}

#[test]
fn many_at_once_serve_many_at_once() {
    let mut fixture = Fixture::start();
    let many = SPARES_MAX + 18;
    for round in 1..=3 {
        let pairs: Vec<_> = (0..many).map(|_| fixture.pair()).collect();
        let (clients, backends): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        fixture.while_stopped(|| clients.into_iter().for_each(Client::reset));
        for mut backend in backends {
            assert_eq!(backend.read_to_end(), (vec![], Closed::Reset));
        }
        fixture.gateway.session_lines(round * many);
        let reused = (round - 1) * SPARES_MAX;
        assert_eq!(fixture.gateway.metric(REUSED), reused as f64, "round {round}");
    }
    assert_eq!(fixture.gateway.metric("corelane_bugs_total"), 0.0);
}
