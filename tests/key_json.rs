//! JSON keys: what a path finds in a body, what it refuses, and how numbers are written.

use corelane::frame::Layout;
use corelane::key::{
    JSON_DEPTH_MAX, KEY_LEN_MAX, Key, KeyExpression, KeyFault, NumberFormat, NumberFormat::Raw,
};

fn layout() -> Layout {
    Layout::compile(">ccHH", &["type", "version", "time", "length"]).unwrap()
}

fn find(path: &str, body: &[u8], format: NumberFormat) -> Result<Option<Vec<u8>>, KeyFault> {
    match KeyExpression::parse(&format!("json:{path}"), &layout()).unwrap() {
        KeyExpression::Json(path) => Ok(path.key(body, format)?.map(Key::into_owned)),
        other => panic!("json:{path} became {other:?}"),
    }
}

#[track_caller]
fn finds(path: &str, body: &str, key: &str) {
    let found = find(path, body.as_bytes(), Raw);
    assert_eq!(found, Ok(Some(key.as_bytes().to_vec())), "{path} in {body}");
}

#[track_caller]
fn finds_nothing(path: &str, body: &str) {
    assert_eq!(find(path, body.as_bytes(), Raw), Ok(None), "{path} in {body}");
}

#[track_caller]
fn refuses(path: &str, body: &[u8], fault: KeyFault) {
    let found = find(path, body, Raw);
    assert_eq!(found, Err(fault), "{path} in {}", String::from_utf8_lossy(body));
}

#[test]
fn strings_are_unescaped() {
    finds("devid", r#"{"devid":"dev-0001"}"#, "dev-0001");
    finds("devid", " \t\r\n{ \"x\" : [1, {}] , \"devid\" : \"a b\" } \n", "a b");
    finds("devid", r#"{"devid":"设备"}"#, "设备");
    finds(
        "devid",
        r#"{"devid":"\u8bbe\u5907 \ud83d\ude00 \"\\\/\b\f\n\r\t"}"#,
        "设备 😀 \"\\/\u{8}\u{c}\n\r\t",
    );
    finds("devid", r#"{"dev\u0069d":"escaped name"}"#, "escaped name");
    finds("devid", r#"{"devid":"\u0000"}"#, "\0");
}

#[test]
fn numbers_keep_their_characters() {
    for number in ["868120212345678", "1.50", "-0", "1e3", "1E+03", "0", "1e999", "0.0"] {
        finds("devid", &format!(r#"{{"devid": {number} }}"#), number);
        finds("[1]", &format!("[[],{number}]"), number);
    }
    let digits = "9".repeat(KEY_LEN_MAX);
    finds("devid", &format!(r#"{{"devid":{digits}}}"#), &digits);
}

#[test]
fn paths_go_down_into_objects_and_arrays() {
    let body = r#"{"device":{"name":"n","ids":[{"imei":1},{"imei":"two"},[3,["deep"]]]},
                   "b.c":{"]":"odd"},"":{"":"empty"}}"#;
    finds("device.name", body, "n");
    finds("device.ids[0].imei", body, "1");
    finds("device.ids[1].imei", body, "two");
    finds("device.ids[2][0]", body, "3");
    finds("device.ids[2][1][0]", body, "deep");
    finds(r#"["b.c"]["]"]"#, body, "odd");
    finds(r#"["\u0062.c"]["]"]"#, body, "odd");
    finds(r#"[""][""]"#, body, "empty");
    finds(r#"device["ids"][1]["imei"]"#, body, "two");
    finds("[0].a", r#"[{"a":"root array"}]"#, "root array");
}

#[test]
fn what_is_not_there_is_missing() {
    for (path, body) in [
        ("devid", "{}"),
        ("devid", ""),
        ("devid", "[]"),
        ("devid", "null"),
        ("devid", "1e999"),
        ("devid", r#""devid""#),
        ("devid", r#"{"devid":null}"#),
        ("devid", r#"{"devid":""}"#),
        ("devid", r#"{"Devid":"x"}"#),
        ("devid", r#"{"other":{"devid":"x"}}"#),
        ("a.b", r#"{"a":"scalar"}"#),
        ("a.b", r#"{"a":1e999}"#),
        ("a.b", r#"{"a":null}"#),
        ("a.b", r#"{"a":[{"b":"x"}]}"#),
        ("a[0]", r#"{"a":{"0":"x"}}"#),
        ("a[2]", r#"{"a":["x","y"]}"#),
        ("a[0]", r#"{"a":[]}"#),
        ("a[4294967295]", r#"{"a":["x"]}"#),
    ] {
        finds_nothing(path, body);
    }
}

#[test]
fn of_duplicate_names_the_first_counts() {
    finds("devid", r#"{"devid":"first","devid":"second"}"#, "first");
    finds("devid", r#"{"devid":"first","devid":{}}"#, "first");
    finds("devid", r#"{"d\u0065vid":"first","devid":"second"}"#, "first");
    finds_nothing("devid", r#"{"devid":null,"devid":"second"}"#);
    finds_nothing("devid", r#"{"devid":"","devid":"second"}"#);
    finds_nothing("a.b", r#"{"a":{},"a":{"b":"second"}}"#);
    refuses("devid", br#"{"devid":[],"devid":"second"}"#, KeyFault::KeyNotScalar);
    refuses("devid", br#"{"devid":"first","devid":}"#, KeyFault::JsonInvalid);
}

#[test]
fn a_key_is_a_scalar_of_at_most_256_bytes() {
    for value in ["true", "false", "{}", "[]", r#"{"a":1}"#, "[1]", "[\"x\"]"] {
        refuses("d", format!(r#"{{"d":{value}}}"#).as_bytes(), KeyFault::KeyNotScalar);
    }
    let longest = "k".repeat(KEY_LEN_MAX);
    finds("d", &format!(r#"{{"d":"{longest}"}}"#), &longest);
    refuses("d", format!(r#"{{"d":"{longest}k"}}"#).as_bytes(), KeyFault::KeyTooLong);
    refuses("d", format!(r#"{{"d":{}}}"#, "1".repeat(257)).as_bytes(), KeyFault::KeyTooLong);
    // 256 bytes only after unescaping, and 258 bytes only after it.
    let escaped = "\\u0041".repeat(KEY_LEN_MAX);
    finds("d", &format!(r#"{{"d":"{escaped}"}}"#), &"A".repeat(KEY_LEN_MAX));
    let three_each = "\\u8bbe".repeat(86);
    refuses("d", format!(r#"{{"d":"{three_each}"}}"#).as_bytes(), KeyFault::KeyTooLong);
}

#[test]
fn the_whole_document_must_be_json() {
    for body in [
        &br#"{"d":"x""#[..],
        br#"{"d":"x"}}"#,
        br#"{"d":"x"} y"#,
        br#"{"d":"x"}{"d":"y"}"#,
        br#"{"d":"x",}"#,
        br#"{"d":"x" "e":1}"#,
        br#"{"d":"x","e":01}"#,
        br#"{"d":"x","e":+1}"#,
        br#"{"d":"x","e":.5}"#,
        br#"{"d":"x","e":5.}"#,
        br#"{"d":"x","e":NaN}"#,
        br#"{"d":"x","e":tru}"#,
        br#"{"d":"x","e":[1,]}"#,
        br#"{"d":"x","e":[}"#,
        br#"{"d":"x","e":"\x"}"#,
        br#"{"d":"x","e":"\u12g4"}"#,
        b"{\"d\":\"x\",\"e\":\"\n\"}",
        br#"{"d":"x",e:1}"#,
        br#"{'d':'x'}"#,
        b" ",
        b"\xef\xbb\xbf{\"d\":\"x\"}",
        b"\xc2\xa0{\"d\":\"x\"}",
        b"\0",
        b"-",
        b"{",
        b"\"",
    ] {
        refuses("d", body, KeyFault::JsonInvalid);
        refuses("d.e[3]", body, KeyFault::JsonInvalid);
    }
}

#[test]
fn lone_surrogates_are_refused_wherever_they_stand() {
    for escape in [r"\ud83d", r"\ude00", r"\ud83d\u0041", r"\ude00\ud83d", r"\ud83dx", r"\uD83D\n"]
    {
        for body in [
            format!(r#"{{"d":"{escape}"}}"#),
            format!(r#"{{"{escape}":1,"d":"x"}}"#),
            format!(r#"{{"d":"x","e":["{escape}"]}}"#),
        ] {
            refuses("d", body.as_bytes(), KeyFault::JsonInvalid);
        }
    }
    // An escaped backslash before a "u" is no surrogate, and a pair is one character.
    finds("d", r#"{"e":"\\ud83d","d":"x"}"#, "x");
    finds("d", r#"{"e":"\uD83D\uDE00","d":"x"}"#, "x");
}

#[test]
fn the_body_must_be_utf8_everywhere() {
    for odd in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xe8\xae"] {
        for (before, after) in [(r#"{"d":""#, r#""}"#), (r#"{"d":"x","e":""#, r#""}"#)] {
            let body = [before.as_bytes(), odd, after.as_bytes()].concat();
            refuses("d", &body, KeyFault::Utf8Invalid);
        }
        refuses("d", odd, KeyFault::Utf8Invalid);
    }
}

#[test]
fn nesting_is_limited() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!(r#"{{"d":"x","e":{}1{}}}"#, open.repeat(depth), close.repeat(depth))
    };
    finds("d", &nested("[", "]", JSON_DEPTH_MAX - 1), "x");
    finds("d", &nested(r#"{"a":"#, "}", JSON_DEPTH_MAX - 1), "x");
    refuses("d", nested("[", "]", JSON_DEPTH_MAX).as_bytes(), KeyFault::JsonTooDeep);
    refuses("d", nested(r#"{"a":"#, "}", JSON_DEPTH_MAX).as_bytes(), KeyFault::JsonTooDeep);
    refuses("d", &b"[".repeat(60_000), KeyFault::JsonTooDeep);
    refuses("d", &br#"{"d":"#.repeat(12_000), KeyFault::JsonTooDeep);
    // Brackets in strings, also behind an escaped quote, and side by side are no nesting.
    finds("d", &format!(r#"{{"e":"{}\"{}","d":"x"}}"#, "[".repeat(200), "{".repeat(200)), "x");
    finds("d", &format!(r#"{{"e":[{}[]],"d":"x"}}"#, "[],{},".repeat(200)), "x");
}

#[test]
fn a_path_as_deep_as_the_limit_is_walked() {
    let path = vec!["a"; JSON_DEPTH_MAX].join(".");
    let depth = JSON_DEPTH_MAX;
    let body = format!("{}\"x\"{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    finds(&path, &body, "x");
}

/// Tokens and what C's `printf("%.14g")` makes of them, written by a C program.
#[test]
fn lua_numbers_are_what_c_prints() {
    let vectors = include_str!("number_vectors.tsv");
    let mut count = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let (token, printed) = line.split_once('\t').unwrap();
        let body = format!(r#"{{"devid":{token}}}"#);
        let found = find("devid", body.as_bytes(), NumberFormat::Lua).unwrap().unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), printed, "{token}");
        count += 1;
    }
    assert_eq!(count, 500);
    let string = br#"{"devid":"868120212345678"}"#;
    let found = find("devid", string, NumberFormat::Lua);
    assert_eq!(found, Ok(Some(b"868120212345678".to_vec())), "strings stay strings");
}

#[test]
fn expressions_say_what_would_be_valid() {
    for (text, expected) in [
        ("devid", "json:PATH"),
        ("header:x", "bytes:A..B"),
        ("json:", "empty name"),
        ("json:a..b", "empty name"),
        ("json:a.", "empty name"),
        ("json:.a", "empty name"),
        ("json:$.a", "without \"$\""),
        ("json:a b", "' ' is not valid in a bare name"),
        ("json:a[x]", "\"[x]\" is no array index"),
        ("json:a[-1]", "\"[-1]\" is no array index"),
        ("json:a[]", "\"[]\" is no array index"),
        ("json:a[99999999999]", "is no array index"),
        ("json:a[0", "']' is missing"),
        ("json:a[0]b", "']' is followed by"),
        ("json:a[\"b]", "no JSON string"),
        ("json:a[\"b\"", "']' is missing after a quoted name"),
        ("json:a]", "']' is not valid in a bare name"),
        ("bytes:4", "has no \"..\""),
        ("bytes:4..", "whole numbers"),
        ("bytes:-1..4", "whole numbers"),
        ("bytes:+1..4", "whole numbers"),
        ("bytes:a..4", "whole numbers"),
        ("bytes:4..4", "B must be over A"),
        ("bytes:5..4", "B must be over A"),
        ("bytes:0..257", "at most 256"),
        ("field:tpye", "its fields are \"type\", \"version\", \"time\", \"length\""),
    ] {
        let error = KeyExpression::parse(text, &layout()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let deep = format!("json:{}", vec!["a"; JSON_DEPTH_MAX + 1].join("."));
    let error = KeyExpression::parse(&deep, &layout()).unwrap_err().to_string();
    assert!(error.contains("at most 64"), "{error}");
}

#[test]
fn expressions_print_as_they_are_written() {
    for text in [
        "json:devid",
        "json:device.ids[0].imei",
        "json:[3].a[0][1]",
        r#"json:a["b.c"].d["x \"y\""]"#,
        r#"json:[""]"#,
        "bytes:0..256",
        "bytes:4000000000..4000000001",
        "field:time",
    ] {
        let expression = KeyExpression::parse(text, &layout()).unwrap();
        assert_eq!(expression.text(&layout()), text);
    }
}
