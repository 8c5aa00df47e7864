//! The answer about a preface depends on its bytes, never on how they are split.
//!
//! `read` is asked with every prefix of a stream. Until the answer is there it must say
//! `NeedMore(n)` with n over what it has, and with fewer than n bytes it must say the same n: so it
//! neither asks in vain nor waits for bytes that may never come. From then on bytes that follow
//! change nothing.

use corelane::end::End;
use corelane::frame::{Expect, FrameRules, Layout, Preface};
use corelane::key::{KeyExpression, NumberFormat};

fn rules(header: &str, key: &str, search_frames: u32) -> FrameRules {
    let layout = Layout::compile(header, &["type", "version", "time", "length"]).unwrap();
    let key = KeyExpression::parse(key, &layout).unwrap();
    FrameRules {
        layout,
        key,
        number_format: NumberFormat::Raw,
        body_len_max: 8_192,
        search_frames,
        expect: Vec::new(),
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, 1, 0, 60][..], &len[..], body].concat()
}

#[derive(Debug, PartialEq)]
enum Answer {
    Key(Vec<u8>),
    Missing,
    Invalid(End),
}

fn answer(preface: Preface<'_>) -> Result<Answer, usize> {
    match preface {
        Preface::NeedMore(total) => Err(total),
        Preface::Key(key) => Ok(Answer::Key(key.into_owned())),
        Preface::KeyMissing => Ok(Answer::Missing),
        Preface::Invalid(end) => Ok(Answer::Invalid(end)),
    }
}

/// Asks with every prefix of `stream`; `asked` are the totals that `NeedMore` names on the way, and
/// the last of them is the first length with an answer.
#[track_caller]
fn check(rules: &FrameRules, stream: &[u8], asked: &[usize], expected: Answer) {
    let decided_at = asked.last().copied().unwrap_or(0);
    let mut totals = Vec::new();
    for len in 0..=stream.len() {
        match answer(rules.read(&stream[..len])) {
            Err(total) => {
                assert!(total > len, "{total} with {len} bytes");
                assert!(len < decided_at, "undecided with {len} bytes");
                assert!(total <= rules.preface_len_max());
                match totals.last() {
                    Some(last) if *last == total => {}
                    Some(last) => assert_eq!(*last, len, "{total} asked before {last} were there"),
                    None => assert_eq!(len, 0),
                }
                if totals.last() != Some(&total) {
                    totals.push(total);
                }
            }
            Ok(found) => {
                assert!(len >= decided_at, "{found:?} with {len} bytes already");
                assert_eq!(found, expected, "with {len} bytes");
            }
        }
    }
    assert_eq!(totals, asked);
    // A caller that waits for exactly what was asked gets there too.
    let mut len = 0;
    while let Err(total) = answer(rules.read(&stream[..len])) {
        len = total;
    }
    assert_eq!(len, decided_at);
}

#[test]
fn the_first_frame_decides() {
    let login = frame(br#"{"devid":"dev-0001"}"#);
    let next = frame(br#"{"devid":"another"}"#);
    let stream = [&login[..], &next, b"and more"].concat();
    let key = || Answer::Key(b"dev-0001".to_vec());
    for expression in ["json:devid", "bytes:10..18"] {
        check(&rules(">ccHH", expression, 1), &stream, &[6, login.len()], key());
        check(&rules(">ccHH", expression, 9), &stream, &[6, login.len()], key());
    }
    let time = Answer::Key(b"60".to_vec());
    check(&rules(">ccHH", "field:time", 1), &stream, &[6, login.len()], time);
}

#[test]
fn later_frames_are_searched() {
    let frames = [
        frame(b""),
        frame(br#"{"ping":1}"#),
        frame(br#"{"devid":null}"#),
        frame(br#"{"devid":868120212345678}"#),
    ];
    let ends: Vec<usize> = frames
        .iter()
        .scan(0, |end, frame| {
            *end += frame.len();
            Some(*end)
        })
        .collect();
    let stream = frames.concat();
    // The first frame has no body: it is complete with its header.
    let asked = [6, ends[0] + 6, ends[1], ends[1] + 6, ends[2], ends[2] + 6, ends[3]];
    let key = || Answer::Key(b"868120212345678".to_vec());
    for search_frames in [4, 5, u32::MAX] {
        check(&rules(">ccHH", "json:devid", search_frames), &stream, &asked, key());
    }
    for (search_frames, asked) in [(1, 1), (2, 3), (3, 5)] {
        let end = ends[search_frames - 1];
        let rules = rules(">ccHH", "json:devid", u32::try_from(search_frames).unwrap());
        check(&rules, &stream, &[6, 12, 22, 28, 42][..asked], Answer::Missing);
        assert_eq!(rules.read_frames(&stream), (Preface::KeyMissing, end));
    }
}

#[test]
fn a_bad_length_is_refused_with_the_header() {
    let login = frame(b"{}");
    let too_long = [&login[..], &[1, 1, 0, 60, 0xff, 0xff], b"body"].concat();
    let invalid = Answer::Invalid(End::BodyTooLong);
    check(&rules(">ccHH", "json:devid", 2), &too_long, &[6, 8, 14], invalid);
    let negative = [&[1, 1, 60, 0, 0xff, 0xff][..], b"body"].concat();
    let invalid = Answer::Invalid(End::LengthNegative);
    check(&rules("<ccHh", "json:devid", 2), &negative, &[6], invalid);
}

#[test]
fn an_unexpected_field_is_refused_with_the_header() {
    let mut rules = rules(">ccHH", "json:devid", 3);
    rules.expect.push(Expect { field: 0, range: 0..=1 });
    rules.expect.push(Expect { field: 1, range: 1..=1 });
    let login = frame(b"{}");
    let heartbeat = [0, 2, 0, 60, 0, 99];
    let stream = [&login[..], &heartbeat, b"body"].concat();
    check(&rules, &stream, &[6, 8, 14], Answer::Invalid(End::FieldUnexpected));
}

#[test]
fn a_bad_body_is_refused_when_it_is_complete() {
    let stream = [frame(br#"{"ping":1}"#), frame(b"{{{{"), frame(b"{}")].concat();
    let invalid = Answer::Invalid(End::JsonInvalid);
    check(&rules(">ccHH", "json:devid", 3), &stream, &[6, 16, 22, 26], invalid);
}

/// The largest preface the rules allow fits its announced bound, and one byte less does not.
#[test]
fn the_bound_is_reached_and_never_passed() {
    let mut rules = rules(">ccHH", "json:devid", 3);
    rules.body_len_max = 16;
    assert_eq!(rules.preface_len_max(), 3 * (6 + 16));
    let body = br#"{"ping":"12345"}"#;
    assert_eq!(body.len(), 16);
    let stream = frame(body).repeat(3);
    check(&rules, &stream, &[6, 22, 28, 44, 50, 66], Answer::Missing);
}
