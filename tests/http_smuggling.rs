//! Every known trick of request smuggling gets the verdict that its line in the corpus says,
//! however its bytes are split.

mod http_reading;

use http_reading::{tricks, verdict};

/// A lost line must not go unnoticed.
const TRICKS: usize = 214;

#[test]
fn every_trick_has_its_verdict() {
    let tricks = tricks();
    let mut wrong = Vec::new();
    for trick in &tricks {
        let said = verdict(&[&trick.bytes]);
        if said != trick.verdict {
            wrong.push(format!("{}: {said}, not {}", trick.name, trick.verdict));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(tricks.len(), TRICKS);
}

#[test]
fn a_split_changes_nothing() {
    for trick in tricks() {
        let bytes = &trick.bytes;
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(verdict(&single), trick.verdict, "{}: byte by byte", trick.name);
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(verdict(&[first, second]), trick.verdict, "{}: at {at}", trick.name);
        }
    }
}

#[test]
fn the_second_request_is_the_clients_own() {
    // Whatever is accepted with bytes left over, those bytes are what was behind the body.
    for trick in tricks() {
        let Some(rest) = trick.verdict.strip_prefix("rest:") else { continue };
        let rest: usize = rest.parse().expect("a number");
        let second = http_reading::plain(&trick.bytes).expect("a request");
        assert_eq!(second.span.end, trick.bytes.len() - rest, "{}", trick.name);
    }
}
