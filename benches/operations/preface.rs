//! Cost of a preface: one frame, its key, and the ways they can be long.

use std::hint::black_box;

use corelane::frame::{FrameRules, Layout, Preface};
use corelane::key::{KeyExpression, NumberFormat};

use super::{Measure, Operation};

fn rules(key: &str, number_format: NumberFormat) -> FrameRules {
    let layout = Layout::compile(">ccHH", &["type", "version", "time", "length"]).unwrap();
    let key = KeyExpression::parse(key, &layout).unwrap();
    FrameRules {
        layout,
        key,
        number_format,
        body_len_max: 65_535,
        search_frames: 4,
        expect: Vec::new(),
    }
}

fn frame(body: &str) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, 1, 0, 60][..], &len[..], body.as_bytes()].concat()
}

/// What a device sends first.
const LOGIN: &str = r#"{"devid":"868120212345678","ver":"4.2.1","token":"f3a9c1d27b","net":4}"#;

/// Finding a frame's bounds, without looking into its body.
pub fn frames(by: &mut impl Measure) {
    let login = frame(LOGIN);
    for (name, bytes) in [("bounds", &login[..]), ("incomplete header", &login[..5])] {
        by.measure(&Operation::short("frame", name), || {
            let rules = rules("json:devid", NumberFormat::Raw);
            move || rules.frame_at(black_box(bytes), 0)
        });
    }
}

/// From the first byte to the key.
pub fn keys(by: &mut impl Measure) {
    let numeric = r#"{"devid":868120212345678,"ver":"4.2.1","token":"f3a9c1d27b","net":4}"#;
    let escaped = r#"{"devid":"8681202\u0031\u0032345678","ver":"4.2.1","token":"f3a9","net":4}"#;
    let nested = r#"{"net":4,"device":{"ids":[{"imei":"868120212345678"}],"ver":"4.2.1"}}"#;
    let late = format!(r#"{{"pad":"{}","devid":"868120212345678"}}"#, "x".repeat(8_000));
    let deep = format!(r#"{{"a":{}1{},"devid":"7"}}"#, "[".repeat(60), "]".repeat(60));
    for (name, key, format, body) in [
        ("json string", "json:devid", NumberFormat::Raw, LOGIN),
        ("json number", "json:devid", NumberFormat::Raw, numeric),
        ("json number as lua", "json:devid", NumberFormat::Lua, numeric),
        ("json escaped string", "json:devid", NumberFormat::Raw, escaped),
        ("json nested path", "json:device.ids[0].imei", NumberFormat::Raw, nested),
        ("json behind 8 kB", "json:devid", NumberFormat::Raw, &late),
        ("json beside deep nesting", "json:devid", NumberFormat::Raw, &deep),
        ("body bytes", "bytes:10..25", NumberFormat::Raw, LOGIN),
        ("header field", "field:time", NumberFormat::Raw, LOGIN),
    ] {
        let stream = frame(body);
        assert!(matches!(rules(key, format).read(&stream), Preface::Key(_)), "{name}");
        read(by, name, (key, format), &stream);
    }
    let json = ("json:devid", NumberFormat::Raw);
    let fourth = [frame(""), frame(r#"{"ping":1}"#), frame(""), frame(LOGIN)].concat();
    read(by, "json in the fourth frame", json, &fourth);
    read(by, "refusing 65,000 brackets", json, &frame(&"[".repeat(65_000)));
}

fn read(by: &mut impl Measure, name: &str, (key, format): (&str, NumberFormat), stream: &[u8]) {
    let operation = Operation::short("preface", name);
    by.measure(&Operation { bytes: Some(stream.len()), ..operation }, || {
        let rules = rules(key, format);
        move || {
            black_box(rules.read(black_box(stream)));
        }
    });
}
