//! What a state file may be, and what not.

use std::time::Duration;

use super::*;

fn kept(pool: &str, address: &str, what: What) -> Kept {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
    Kept { pool: pool.to_owned(), address: address.parse().expect(address), what, at }
}

fn sample() -> State {
    let set = What::Set { weight: None, state: Some(BackendState::Drain) };
    State::default()
        .with(kept("b", "unix:/run/\"a\".sock", What::Removed))
        .with(kept("a", "10.0.0.10:1", set))
        .with(kept("a.b", "[::1]:1", What::Set { weight: Some(65_535), state: None }))
        .with(kept("a", "10.0.0.9:1", What::Added { weight: 2, state: BackendState::Down }))
}

#[test]
fn what_is_written_is_read_again() {
    let state = sample();
    let text = state.text();
    assert_eq!(State::parse(text.as_bytes()).expect("whole"), state);
    let lines: Vec<&str> = text.lines().collect();
    let first = r#"    {"pool":"a","backend":"10.0.0.9:1","edit":"add","weight":2,"state":"down","at":"2026-01-31T12:00:00Z"},"#;
    assert_eq!((lines.len(), lines[3]), (9, first), "{text}");
    assert_eq!(State::parse(State::default().text().as_bytes()).expect("empty").all(), []);
}

#[test]
fn one_edit_of_a_backend_in_the_order_of_addresses() {
    let state = sample();
    let of_a: Vec<String> = state.of_pool("a").iter().map(|k| k.address.to_string()).collect();
    assert_eq!(of_a, ["10.0.0.9:1", "10.0.0.10:1"]);
    assert!(state.of_pool("c").is_empty() && state.of_pool("").is_empty());
    let address = "10.0.0.9:1".parse().expect("an address");
    let again = state.with(kept("a", "10.0.0.9:1", What::Removed));
    assert_eq!(again.all().len(), 4);
    assert_eq!(again.find("a", &address).expect("kept").what, What::Removed);
    assert!(again.without("a", &address).find("a", &address).is_none());
    assert_eq!(again.without("b", &address), again);
}

#[test]
fn what_is_no_state_file_says_why() {
    let entry = |fields: &str| {
        format!(
            r#"{{"corelane_edits":1,"edits":[{{"pool":"p","at":"2026-01-31T12:00:00Z",{fields}}}]}}"#
        )
    };
    let whole = entry(r#""backend":"10.0.0.1:1","edit":"remove""#);
    assert!(State::parse(whole.as_bytes()).is_ok());
    let twice = format!(
        "{},{}",
        whole.trim_end_matches("]}"),
        whole.trim_start_matches(r#"{"corelane_edits":1,"edits":["#)
    );
    let cases = [
        (String::new(), "EOF"),
        ("[]".to_owned(), "invalid"),
        (whole.replace(":1,\"edits", ":2,\"edits"), "version 2"),
        (whole.replace("\"edits\"", "\"edit\""), "unknown field"),
        (whole.replace("\"pool\"", "\"Pool\""), "unknown field"),
        (whole.replace("2026", "x"), "at \"x-"),
        (whole.replace(":1\"", ":0\""), "port 0"),
        (whole.replace("10.0.0.1:1", "host:1"), "host:1"),
        (whole.replace("remove", "drop"), "unknown variant"),
        (twice, "twice"),
        (entry(r#""backend":"10.0.0.1:1","edit":"set""#), "sets nothing"),
        (entry(r#""backend":"10.0.0.1:1","edit":"set","weight":0"#), "weight 0"),
        (entry(r#""backend":"10.0.0.1:1","edit":"set","weight":65536"#), "weight 65536"),
        (entry(r#""backend":"10.0.0.1:1","edit":"set","state":"up""#), "unknown variant"),
        (entry(r#""backend":"10.0.0.1:1","edit":"remove","weight":1"#), "has settings"),
        (format!("{whole} x"), "trailing"),
    ];
    for (text, said) in cases {
        let why = State::parse(text.as_bytes()).expect_err(&text);
        assert!(why.contains(said), "{text}: {why}");
    }
    let long = format!("{whole}{}", " ".repeat(FILE_LEN_MAX));
    assert!(State::parse(long.as_bytes()).expect_err("long").contains("at most"));
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_not_taken() {
    let text = sample().text();
    for len in 0..text.len() - 1 {
        assert!(State::parse(&text.as_bytes()[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn too_many_edits_are_neither_written_nor_read() {
    let mut state = State::default();
    for number in 0..=EDITS_MAX {
        let address = format!("10.0.{}.{}:7", number / 256, number % 256);
        state.edits.push(kept("p", &address, What::Removed));
    }
    assert!(state.check_size().expect_err("too many").contains("at most"));
    assert!(State::parse(state.text().as_bytes()).expect_err("too many").contains("at most"));
    state.edits.pop();
    assert_eq!(state.check_size(), Ok(()));
    assert_eq!(State::parse(state.text().as_bytes()).expect("as many as may be"), state);
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Bytes that are almost a state file: whatever is taken can be written and is then the same, and
/// nothing panics.
#[test]
fn any_bytes_give_a_state_or_a_reason() {
    let text = sample().text().into_bytes();
    let pieces: [&[u8]; 12] = [
        b"\"",
        b"{",
        b"}",
        b"[",
        b",",
        b":",
        b"null",
        b"-1",
        b"1e9",
        b"\"weight\":3",
        b"\\u0000",
        b"\xff",
    ];
    let mut taken = 0;
    for seed in 0..20_000_u64 {
        let mut random = seed;
        let mut bytes = text.clone();
        for _ in 0..1 + next(&mut random) % 4 {
            let at = (next(&mut random) as usize) % (bytes.len() + 1);
            match next(&mut random) % 4 {
                0 => bytes.truncate(at.max(1)),
                1 => {
                    let piece = pieces[(next(&mut random) as usize) % pieces.len()];
                    bytes.splice(at..at, piece.iter().copied());
                }
                2 if at < bytes.len() => bytes[at] = next(&mut random) as u8,
                _ => {
                    let end = (at + (next(&mut random) as usize) % 30).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        match State::parse(&bytes) {
            Ok(state) => {
                taken += 1;
                let again = State::parse(state.text().as_bytes());
                let again = again.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
                assert_eq!(again, state, "seed {seed}");
            }
            Err(why) => assert!(!why.is_empty() && why.len() < 1_000, "seed {seed}: {why}"),
        }
    }
    assert!(taken > 50, "only {taken} were almost right: the fuzz reaches nothing");
}
