//! Hostile prefaces: each ends with one reason, as early as it can, and none panics.

use std::time::{Duration, Instant};

use corelane::end::End;
use corelane::frame::{Expect, FrameRules, Layout, Preface};
use corelane::key::{KeyExpression, NumberFormat};

fn rules(header: &str) -> FrameRules {
    let layout = Layout::compile(header, &["type", "version", "time", "length"]).unwrap();
    let key = KeyExpression::parse("json:devid", &layout).unwrap();
    FrameRules {
        layout,
        key,
        number_format: NumberFormat::Raw,
        body_len_max: 65_535,
        search_frames: 1,
        expect: Vec::new(),
    }
}

fn pmtp() -> FrameRules {
    rules(">ccHH")
}

fn frame(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[0, 1, 0, 60][..], &len[..], body].concat()
}

#[track_caller]
fn ends(rules: &FrameRules, bytes: &[u8], end: End) {
    assert_eq!(rules.read(bytes), Preface::Invalid(end), "{}", bytes.escape_ascii());
}

#[test]
fn an_empty_body_has_no_key() {
    assert_eq!(pmtp().read(&[0, 1, 0, 60, 0, 0]), Preface::KeyMissing);
    assert_eq!(pmtp().read(&[0, 1, 0, 60, 0, 0, b'{']), Preface::KeyMissing);
}

#[test]
fn the_longest_body_is_waited_for_if_it_is_allowed() {
    let mut rules = pmtp();
    let header = [0, 1, 0, 60, 0xff, 0xff];
    assert_eq!(rules.read(&header), Preface::NeedMore(65_541));
    let body = format!("{{\"devid\":\"x\"{}}}", " ".repeat(65_535 - 13));
    assert_eq!(rules.read(&frame(body.as_bytes())), Preface::Key(key(b"x")));
    rules.body_len_max = 65_534;
    ends(&rules, &header, End::BodyTooLong);
    ends(&rules, &frame(body.as_bytes()), End::BodyTooLong);
}

fn key(bytes: &[u8]) -> corelane::key::Key<'_> {
    corelane::key::Key::InBuffer(bytes)
}

#[test]
fn lengths_that_lie() {
    // Too short: the body is cut, and is no JSON; what follows is not looked at.
    let body = br#"{"devid":"dev-0001"}"#;
    for len in 1..20_u8 {
        ends(&pmtp(), &[&[0, 1, 0, 60, 0, len][..], body].concat(), End::JsonInvalid);
    }
    // Too long: the next frame is taken for the body's rest, and that is no JSON either.
    let stream = [&[0, 1, 0, 60, 0, 25][..], body, &frame(body)].concat();
    ends(&pmtp(), &stream, End::JsonInvalid);
    // Too long and nothing follows: undecided, and the deadline's business.
    assert_eq!(pmtp().read(&stream[..26]), Preface::NeedMore(31));
}

#[test]
fn announced_lengths_near_the_limits_of_integers() {
    for (header, length, expected) in [
        (">ccHb", &[0x80_u8][..], End::LengthNegative),
        (">ccHb", &[0xff], End::LengthNegative),
        (">ccHh", &[0x80, 0], End::LengthNegative),
        ("<ccHh", &[0, 0x80], End::LengthNegative),
        (">ccHi", &[0xff; 4], End::LengthNegative),
        (">ccHI", &[0xff; 4], End::BodyTooLong),
        (">ccHi", &[0x7f, 0xff, 0xff, 0xff], End::BodyTooLong),
        (">ccHq", &[0xff; 8], End::LengthNegative),
        (">ccHq", &[0x80, 0, 0, 0, 0, 0, 0, 0], End::LengthNegative),
        (">ccHQ", &[0xff; 8], End::BodyTooLong),
        ("<ccHQ", &[0, 0, 0, 0, 0, 0, 0, 0x80], End::BodyTooLong),
        (">ccHQ", &[0, 0, 0, 0, 0, 1, 0, 0], End::BodyTooLong),
    ] {
        ends(&rules(header), &[&[0, 1, 0, 60][..], length].concat(), expected);
    }
    // Without a limit of ours the sums must still hold.
    let mut unlimited = rules(">ccHQ");
    unlimited.body_len_max = usize::MAX;
    unlimited.search_frames = u32::MAX;
    let bytes = [&[0, 1, 0, 60][..], &[0xff; 8]].concat();
    assert_eq!(unlimited.read(&bytes), Preface::NeedMore(usize::MAX));
    assert_eq!(unlimited.preface_len_max(), usize::MAX);
}

#[test]
fn fields_outside_their_range() {
    let mut rules = pmtp();
    rules.expect.push(Expect { field: 0, range: 0..=10 });
    rules.expect.push(Expect { field: 2, range: 60..=60 });
    let body = br#"{"devid":"x"}"#;
    let good = frame(body);
    assert_eq!(rules.read(&good), Preface::Key(key(b"x")));
    for (at, byte) in [(0, 0xff), (0, 0x80), (0, 11), (2, 1), (3, 59), (3, 61)] {
        let mut bad = good.clone();
        bad[at] = byte;
        ends(&rules, &bad, End::FieldUnexpected);
        ends(&rules, &bad[..6], End::FieldUnexpected);
    }
    // The length is judged first.
    ends(&self::rules(">ccHh"), &[0xff, 1, 0, 60, 0xff, 0xff], End::LengthNegative);
    // A negative type is just a value where nothing was expected.
    assert_eq!(pmtp().read(&[&[0xff][..], &good[1..]].concat()), Preface::Key(key(b"x")));
}

#[test]
fn bodies_that_are_no_json() {
    for body in [
        &b"{"[..],
        b"}",
        b"{\"devid\":\"x\"",
        b"{\"devid\":\"x\"}}",
        b"{\"devid\":\"x\",\"devid\"}",
        b"{\"devid\":x}",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0",
        b"\0\0\0\0",
    ] {
        ends(&pmtp(), &frame(body), End::JsonInvalid);
    }
}

#[test]
fn bodies_that_are_not_utf8() {
    ends(&pmtp(), &frame(b"\xff\xff\xff"), End::Utf8Invalid);
    ends(&pmtp(), &frame(b"{\"devid\":\"x\",\"name\":\"\xc3\"}"), End::Utf8Invalid);
    // Also where the document is broken or too deep before that.
    ends(&pmtp(), &frame(&[&b"["[..], &[b'['; 100], b"\xff"].concat()), End::Utf8Invalid);
}

#[test]
fn deep_nesting_is_refused_quickly() {
    let started = Instant::now();
    for opening in [&b"["[..], b"{\"a\":", b"[{\"devid\":", b"{\"devid\":["] {
        let bomb = opening.repeat(60_000 / opening.len());
        ends(&pmtp(), &frame(&bomb), End::JsonTooDeep);
    }
    // Wide is not deep.
    let wide = format!("{{\"wide\":[{}0],\"devid\":\"x\"}}", "[],".repeat(15_000));
    assert_eq!(pmtp().read(&frame(wide.as_bytes())), Preface::Key(key(b"x")));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn duplicate_keys() {
    let read = |body: &[u8]| match pmtp().read(&frame(body)) {
        Preface::Key(key) => String::from_utf8(key.into_owned()).unwrap(),
        other => format!("{other:?}"),
    };
    assert_eq!(read(br#"{"devid":"first","devid":"second"}"#), "first");
    assert_eq!(read(br#"{"devid":null,"devid":"second"}"#), "KeyMissing");
    assert_eq!(read(br#"{"devid":true,"devid":"second"}"#), "Invalid(KeyNotScalar)");
    let many = format!("{{\"devid\":1{}}}", r#","devid":2"#.repeat(5_000));
    assert_eq!(read(many.as_bytes()), "1");
}

#[test]
fn keys_that_are_too_long_or_no_scalars() {
    let body = |value: &str| frame(format!("{{\"devid\":{value}}}").as_bytes());
    let longest = "k".repeat(256);
    let expected = Preface::Key(key(longest.as_bytes()));
    assert_eq!(pmtp().read(&body(&format!("\"{longest}\""))), expected);
    ends(&pmtp(), &body(&format!("\"{longest}k\"")), End::KeyTooLong);
    ends(&pmtp(), &body(&format!("\"{}\"", "k".repeat(60_000))), End::KeyTooLong);
    ends(&pmtp(), &body(&"7".repeat(60_000)), End::KeyTooLong);
    for value in ["true", "false", "{}", "[\"x\"]"] {
        ends(&pmtp(), &body(value), End::KeyNotScalar);
    }
    for value in ["null", "\"\""] {
        assert_eq!(pmtp().read(&body(value)), Preface::KeyMissing);
    }
}

#[test]
fn byte_ranges_beyond_the_body() {
    let mut rules = pmtp();
    for (range, expected) in [
        ("bytes:0..4", Preface::Key(key(b"abcd"))),
        ("bytes:3..4", Preface::Key(key(b"d"))),
        ("bytes:0..5", Preface::KeyMissing),
        ("bytes:4..5", Preface::KeyMissing),
        ("bytes:4294967294..4294967295", Preface::KeyMissing),
    ] {
        rules.key = KeyExpression::parse(range, &rules.layout).unwrap();
        // The byte behind the body is the next frame's, not the key's.
        let stream = [frame(b"abcd"), frame(b"efgh")].concat();
        assert_eq!(rules.read(&stream), expected, "{range}");
    }
}

#[test]
fn header_fields_as_keys() {
    for (header, field, bytes, expected) in [
        (">ccHH", "type", &[0xff_u8, 1, 0, 60, 0, 0][..], "-1"),
        (">ccHH", "time", &[0, 1, 0xff, 0xff, 0, 0], "65535"),
        (">cqHH", "version", &[0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0], "-9223372036854775808"),
        (
            "<cQHH",
            "version",
            &[&[0][..], &[0xff; 8], &[60, 0, 0, 0]].concat(),
            "18446744073709551615",
        ),
    ] {
        let mut rules = rules(header);
        rules.key = KeyExpression::parse(&format!("field:{field}"), &rules.layout).unwrap();
        assert_eq!(rules.read(bytes), Preface::Key(key(expected.as_bytes())), "{header} {field}");
    }
}
