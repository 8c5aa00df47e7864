//! Header strings: sizes, byte order, signs, and what is refused with which advice.

use corelane::frame::{FIELDS_MAX, HEADER_LEN_MAX, Layout};

fn compile(header: &str, fields: &[&str]) -> Layout {
    Layout::compile(header, fields).unwrap()
}

/// The values of every field of one header.
fn values(layout: &Layout, header: &[u8]) -> Vec<i128> {
    (0..layout.fields().len()).map(|index| layout.value(header, index).unwrap()).collect()
}

#[test]
fn the_push_protocol_of_netty_fleets() {
    let layout = compile(">ccHH", &["type", "version", "time", "length"]);
    assert_eq!(layout.header_len(), 6);
    assert_eq!(layout.field_names().collect::<Vec<_>>(), ["type", "version", "time", "length"]);
    assert_eq!(layout.field_index("time"), Some(2));
    assert_eq!(layout.field_index("devid"), None);
    let offsets: Vec<usize> = layout.fields().iter().map(|field| field.offset()).collect();
    assert_eq!(offsets, [0, 1, 2, 4]);
    assert_eq!(values(&layout, &[0xff, 1, 0, 60, 0x12, 0x34]), [-1, 1, 60, 0x1234]);
    assert_eq!(layout.to_string(), ">ccHH");
}

/// What Python's `struct.unpack` says of the bytes 0x81, 0x82, … under each letter.
#[test]
fn every_letter_in_both_byte_orders() {
    let bytes = [0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88];
    for (letter, len, big, little) in [
        ('b', 1, -127, -127),
        ('c', 1, -127, -127),
        ('B', 1, 129, 129),
        ('h', 2, -32_382, -32_127),
        ('H', 2, 33_154, 33_409),
        ('i', 4, -2_122_153_084, -2_071_756_159),
        ('l', 4, -2_122_153_084, -2_071_756_159),
        ('I', 4, 2_172_814_212, 2_223_211_137),
        ('L', 4, 2_172_814_212, 2_223_211_137),
        ('q', 8, -9_114_578_090_645_354_616, -8_608_764_254_683_430_271),
        ('Q', 8, 9_332_165_983_064_197_000, 9_837_979_819_026_121_345),
    ] {
        for (order, expected) in [('>', big), ('<', little)] {
            let layout = compile(&format!("{order}{letter}"), &["length"]);
            assert_eq!(layout.header_len(), len, "{letter}");
            assert_eq!(layout.value(&bytes, 0), Some(expected), "{order}{letter}");
            assert_eq!(layout.fields()[0].is_signed(), letter.is_lowercase(), "{letter}");
            let zeros = [0; 8];
            assert_eq!(layout.value(&zeros, 0), Some(0), "{order}{letter}");
            assert_eq!(layout.value(&bytes[..len - 1], 0), None, "{order}{letter} cut short");
        }
    }
    let extremes = compile("<qQ", &["least", "length"]);
    let mut header = [0xff; 16];
    header[..8].copy_from_slice(&i64::MIN.to_le_bytes());
    assert_eq!(values(&extremes, &header), [i128::from(i64::MIN), i128::from(u64::MAX)]);
    assert_eq!(extremes.value(&header, 2), None, "no such field");
}

#[test]
fn counts_stand_before_letters() {
    assert_eq!(
        compile(">2cHH", &["a", "b", "c", "length"]),
        compile(">ccHH", &["a", "b", "c", "length"])
    );
    let names: Vec<String> =
        (1..FIELDS_MAX).map(|i| i.to_string()).chain(["length".into()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(compile(">32H", &names).header_len(), HEADER_LEN_MAX);
    assert_eq!(compile("<16B016b", &names).header_len(), 32);
}

#[test]
fn faults_say_what_would_be_valid() {
    let four = &["a", "b", "c", "length"][..];
    for (header, fields, expected) in [
        ("", four, "is empty; it begins with the byte order: '>'"),
        ("ccHH", four, "begins with 'c'; it begins with the byte order"),
        ("!ccHH", four, "begins with '!'"),
        (">cc\u{e9}HH", four, "at position 4"),
        (">ccHx", four, "'x' at position 5 of the header is no field letter; valid are b B c"),
        (">cc HH", four, "' ' at position 4"),
        (">ccHH\n", four, "'\\n' at position 6"),
        (">>ccHH", four, "'>' at position 2"),
        (">ccHs", four, "'s' at position 5"),
        (">ccHH2", four, "a count goes before its letter, \"2c\" and not \"c2\""),
        (">0cccHH", four, "the count before 'c' at position 3 of the header is 0"),
        (">33c", four, "more than 32 fields"),
        (">32cH", four, "more than 32 fields"),
        (">99999999999999999999999c", four, "more than 32 fields"),
        (">ccH", four, "has 3 fields and 4 names"),
        (">ccHHH", four, "has 5 fields and 4 names"),
        (">", &[][..], "no field is named \"length\""),
        (">ccHH", &["a", "b", "c", "len"][..], "no field is named \"length\""),
        (">ccHH", &["a", "a", "c", "length"][..], "two fields are named \"a\""),
        (">ccHH", &["length", "b", "c", "length"][..], "two fields are named \"length\""),
        (">ccHH", &["a", "", "c", "length"][..], "the name of field 2 is empty"),
        (
            ">9QH",
            &["a", "b", "c", "d", "e", "f", "g", "h", "i", "length"][..],
            "74 bytes long; at most 64",
        ),
    ] {
        let error = Layout::compile(header, fields).unwrap_err().to_string();
        assert!(error.contains(expected), "{header:?}: {error}");
    }
}

#[test]
fn what_is_built_reads_back_and_what_does_not_fit_is_refused() {
    let layout = compile(">ccHH", &["type", "version", "time", "length"]);
    let login = layout.build(&[(0, -1), (1, 1), (2, 60)], b"{}");
    assert_eq!(login.as_deref(), Some(&b"\xff\x01\0\x3c\0\x02{}"[..]));
    let letters = ["b", "B", "h", "H", "i", "I", "q", "Q"];
    for order in [">", "<"] {
        for letter in letters {
            let layout = compile(&format!("{order}{letter}H"), &["value", "length"]);
            let (least, most) = layout.fields()[0].bounds();
            for value in [least, least + 1, 0, 1, most - 1, most] {
                let frame = layout.build(&[(0, value)], b"abc").expect("it fits");
                let header = &frame[..layout.header_len()];
                assert_eq!(layout.value(header, 0), Some(value), "{order}{letter}");
                assert_eq!(layout.body_len(header), 3, "{order}{letter}");
                assert_eq!(&frame[layout.header_len()..], b"abc");
            }
            for value in [least - 1, most + 1] {
                assert_eq!(layout.build(&[(0, value)], b""), None, "{order}{letter} {value}");
            }
        }
    }
    let tiny = compile(">b", &["length"]);
    assert_eq!(tiny.build(&[], &[0; 128]), None, "the length has to fit too");
    assert_eq!(tiny.build(&[(1, 0)], b""), None, "no such field");
}
