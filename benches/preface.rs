//! Cost of a preface: one frame, its key, and the ways they can be long.

use std::hint::black_box;

use corelane::frame::{FrameRules, Layout};
use corelane::key::{KeyExpression, NumberFormat};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

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
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    let rules = rules("json:devid", NumberFormat::Raw);
    let login = frame(LOGIN);
    group.bench_function("bounds", |bencher| {
        bencher.iter(|| rules.frame_at(black_box(&login), 0));
    });
    group.bench_function("incomplete header", |bencher| {
        bencher.iter(|| rules.frame_at(black_box(&login[..5]), 0));
    });
    group.finish();
}

/// From the first byte to the key.
fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("preface");
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
        let rules = rules(key, format);
        let stream = frame(body);
        assert!(matches!(rules.read(&stream), corelane::frame::Preface::Key(_)), "{name}");
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| rules.read(black_box(&stream))));
    }
    let rules = rules("json:devid", NumberFormat::Raw);
    let fourth = [frame(""), frame(r#"{"ping":1}"#), frame(""), frame(LOGIN)].concat();
    group.throughput(Throughput::Bytes(fourth.len() as u64));
    group.bench_function("json in the fourth frame", |bencher| {
        bencher.iter(|| rules.read(black_box(&fourth)));
    });
    let bomb = frame(&"[".repeat(65_000));
    group.throughput(Throughput::Bytes(bomb.len() as u64));
    group.bench_function("refusing 65,000 brackets", |bencher| {
        bencher.iter(|| rules.read(black_box(&bomb)));
    });
    group.finish();
}

criterion_group!(benches, frames, keys);
criterion_main!(benches);
