//! A session without a byte either way is closed after the pool's `idle_timeout`; one with traffic
//! in either direction is not.

mod gateway;

use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::{Client, Closed, login};
use gateway::{Gateway, frame_config};

#[test]
fn an_idle_session_ends_in_time_and_an_active_one_does_not() {
    let listening = Backend::manual();
    let toml = frame_config(&[listening.address], "idle_timeout = \"2s\"", "");
    let gateway = Gateway::start(&toml);
    let mut idle = Client::login(gateway.address("devices"), "idle");
    let mut idle_backend = listening.accept();
    idle_backend.receive(login("idle").len());
    let begun = Instant::now();
    let mut active = Client::login(gateway.address("devices"), "active");
    let mut active_backend = listening.accept();
    active_backend.receive(login("active").len());

    // Bytes from the backend alone keep a session alive.
    let ended = std::thread::spawn(move || (idle.read_to_end(), idle_backend.read_to_end()));
    while !ended.is_finished() || begun.elapsed() < Duration::from_millis(4_500) {
        active_backend.send(b"x");
        active.receive(1);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let (idle, idle_backend) = ended.join().unwrap();
    assert_eq!((idle, idle_backend), ((vec![], Closed::Fin), (vec![], Closed::Fin)));
    let line = gateway.assert_end("idle_timeout");
    assert_eq!(line["key"], "idle");
    let lived = line["duration_ms"].as_f64().unwrap();
    assert!(lived > 1900.0, "{lived} ms");
    active.echo_through(&mut active_backend, b"still here");
}

trait Through {
    fn echo_through(&mut self, backend: &mut Client, bytes: &[u8]);
}

impl Through for Client {
    fn echo_through(&mut self, backend: &mut Client, bytes: &[u8]) {
        self.send(bytes);
        assert_eq!(backend.receive(bytes.len()), bytes);
    }
}
