//! FIN after all data, RST as RST, whichever of its three paths a session is on.

mod gateway;

use std::io::Write;
use std::time::{Duration, Instant};

use gateway::DEADLINE;
use gateway::client::{Client, Closed};
use gateway::path::{By, OnPath, Path, assert_bytes, bytes, fill};

/// More than any buffer on the way but the kernel's.
const LAST_LEN: usize = 300_001;

/// Runs an exchange on every path, begun by either side.
fn everywhere(exchange: impl Fn(Client, Client) -> &'static str) {
    for path in Path::ALL {
        let mut on_path = OnPath::start(path);
        for (n, by) in By::BOTH.into_iter().enumerate() {
            let (one, other) = on_path.pair().by(by);
            let how = exchange(one, other);
            on_path.assert_end(n + 1, &by.end(how));
        }
        on_path.assert_sound();
    }
}

/// One side resets while data waits. The session ends although the other side reads nothing; then
/// that may find what had been passed on, and nothing else, and no FIN.
fn reset_unread(before: impl Fn(&mut Client, &mut Client)) {
    for path in Path::ALL {
        let mut on_path = OnPath::start(path);
        for (n, by) in By::BOTH.into_iter().enumerate() {
            let (mut one, mut other) = on_path.pair().by(by);
            before(&mut one, &mut other);
            one.reset();
            on_path.assert_end(n + 1, &by.end("reset"));
            let (received, closed) = other.read_to_end();
            assert_bytes(1, 0, &received);
            assert_eq!(closed, Closed::Reset, "{path:?}");
        }
        on_path.assert_sound();
    }
}

#[test]
fn fin_behind_data_then_data_of_the_other_side_then_its_fin() {
    everywhere(|mut one, mut other| {
        one.send(b"last words");
        one.fin();
        assert_eq!(other.read_to_end(), (b"last words".to_vec(), Closed::Fin));
        let sending = std::thread::spawn(move || {
            other.send(&bytes(2, 0, LAST_LEN));
            other.fin();
            other
        });
        let (received, closed) = one.read_to_end();
        assert_eq!((received.len(), closed), (LAST_LEN, Closed::Fin));
        assert_bytes(2, 0, &received);
        sending.join().unwrap();
        "fin"
    });
}

#[test]
fn fin_behind_a_large_rest_then_fin() {
    everywhere(|mut one, mut other| {
        let sending = std::thread::spawn(move || {
            one.send(&bytes(1, 0, LAST_LEN));
            one.fin();
            one
        });
        let (received, closed) = other.read_to_end();
        assert_eq!((received.len(), closed), (LAST_LEN, Closed::Fin));
        assert_bytes(1, 0, &received);
        let mut one = sending.join().unwrap();
        other.fin();
        assert_eq!(one.read_to_end(), (vec![], Closed::Fin));
        "fin"
    });
}

#[test]
fn small_messages_after_the_fin_of_the_other_side() {
    everywhere(|mut one, mut other| {
        one.fin();
        assert_eq!(other.read_to_end(), (vec![], Closed::Fin));
        for n in 0..50 {
            other.send(&bytes(2, n * 100, 100));
            assert_bytes(2, n * 100, &one.receive(100));
        }
        other.fin();
        assert_eq!(one.read_to_end(), (vec![], Closed::Fin));
        "fin"
    });
}

#[test]
fn a_reset_is_a_reset_for_the_other_side() {
    everywhere(|one, mut other| {
        one.reset();
        assert_eq!(other.read_to_end(), (vec![], Closed::Reset));
        "reset"
    });
}

#[test]
fn what_has_arrived_before_a_reset_stays() {
    everywhere(|mut one, mut other| {
        one.send(b"last words");
        assert_eq!(other.receive(10), b"last words");
        one.reset();
        assert_eq!(other.read_to_end(), (vec![], Closed::Reset));
        "reset"
    });
}

#[test]
fn fin_then_reset_of_the_same_side() {
    everywhere(|one, mut other| {
        one.fin();
        assert_eq!(other.read_to_end(), (vec![], Closed::Fin));
        one.reset();
        // The other side has seen the FIN and sends nothing: only the reset can tell it.
        assert_reset_on_write(&mut other);
        "reset"
    });
}

#[test]
fn fin_then_reset_of_the_other_side() {
    everywhere(|mut one, mut other| {
        other.fin();
        assert_eq!(one.read_to_end(), (vec![], Closed::Fin));
        one.reset();
        assert_eq!(other.read_to_end(), (vec![], Closed::Reset));
        "reset"
    });
}

#[test]
fn the_reset_of_a_sender_whose_data_waits_ends_the_session() {
    reset_unread(|one, _| {
        fill(one, 1, 65536);
    });
}

#[test]
fn the_reset_of_a_reader_for_which_data_waits_ends_the_session() {
    reset_unread(|_, other| {
        fill(other, 2, 65536);
    });
}

#[test]
fn a_reset_while_data_waits_both_ways_ends_the_session() {
    reset_unread(|one, other| {
        fill(one, 1, 65536);
        fill(other, 2, 65536);
    });
}

#[test]
fn fin_behind_data_that_waits_comes_after_all_of_it() {
    everywhere(|mut one, mut other| {
        let len = fill(&mut one, 1, 65536);
        one.fin();
        let (received, closed) = other.read_to_end();
        assert_eq!((received.len(), closed), (len, Closed::Fin));
        assert_bytes(1, 0, &received);
        other.fin();
        assert_eq!(one.read_to_end(), (vec![], Closed::Fin));
        "fin"
    });
}

/// The peer was reset: after the reset has arrived, a write fails at once.
fn assert_reset_on_write(peer: &mut Client) {
    let give_up = Instant::now() + DEADLINE;
    while Instant::now() < give_up {
        if let Some(error) = peer.stream.take_error().unwrap() {
            assert_eq!(error.raw_os_error(), Some(libc::EPIPE), "reset after FIN is EPIPE");
            assert!(peer.stream.write(b"x").is_err());
            return;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("no reset arrived");
}
