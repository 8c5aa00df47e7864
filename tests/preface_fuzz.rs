//! Seeded fuzz of the preface parser against a second implementation.
//!
//! Frames are generated (documents with the key in all kinds of places), broken on purpose, and
//! cut. Every answer is compared with a model that shares no code with the parser: it builds a
//! whole tree with its own JSON reader, whose verdict is in turn compared with `serde_json::Value`.
//!
//! `CORELANE_FUZZ_SEED` and `CORELANE_FUZZ_CASES` choose other runs; a failure prints what
//! repeats it.

use std::collections::BTreeMap;

use corelane::end::End;
use corelane::frame::{Expect, FrameRules, Layout, Preface};
use corelane::key::{KeyExpression, NumberFormat};

const CASES_DEFAULT: u64 = 200_000;
const SEED_DEFAULT: u64 = 0x0c07_e1a9_e000_0001;

#[test]
fn every_answer_equals_the_models() {
    let seed = from_environment("CORELANE_FUZZ_SEED", SEED_DEFAULT);
    let cases = from_environment("CORELANE_FUZZ_CASES", CASES_DEFAULT);
    let subjects = subjects();
    let mut seen = BTreeMap::<String, u64>::new();
    for case in 0..cases {
        let mut random = Random(seed.wrapping_add(case.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let subject = random.choose(&subjects);
        let stream = subject.stream(&mut random);
        let bytes = &stream[..random.cut(stream.len())];
        let expected = subject.model(bytes);
        let found = answer(subject.rules.read(bytes));
        assert!(
            found == expected,
            "CORELANE_FUZZ_SEED={seed} case {case}: found {found:?}, expected {expected:?}\n\
             key {}, header {}\nbytes {}",
            subject.rules.key.text(&subject.rules.layout),
            subject.rules.layout,
            bytes.escape_ascii()
        );
        *seen.entry(label(&found)).or_default() += 1;
    }
    // A generator that stops reaching an outcome would leave it untested without a word.
    for outcome in [
        "need_more",
        "key",
        "key_missing",
        "length_negative",
        "body_too_long",
        "field_unexpected",
        "utf8_invalid",
        "json_invalid",
        "json_too_deep",
        "key_too_long",
        "key_not_scalar",
    ] {
        let count = seen.get(outcome).copied().unwrap_or(0);
        assert!(count >= cases / 2_000, "only {count} cases of {outcome}: {seen:?}");
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[derive(Debug, PartialEq)]
enum Answer {
    NeedMore(usize),
    Key(Vec<u8>),
    Missing,
    Invalid(End),
}

fn answer(preface: Preface<'_>) -> Answer {
    match preface {
        Preface::NeedMore(total) => Answer::NeedMore(total),
        Preface::Key(key) => Answer::Key(key.into_owned()),
        Preface::KeyMissing => Answer::Missing,
        Preface::Invalid(end) => Answer::Invalid(end),
    }
}

fn label(answer: &Answer) -> String {
    match answer {
        Answer::NeedMore(_) => "need_more".into(),
        Answer::Key(_) => "key".into(),
        Answer::Missing => "key_missing".into(),
        Answer::Invalid(end) => end.label().into(),
    }
}

// ---- what is fuzzed -------------------------------------------------------------------------

/// Rules, and what the model needs to know of them in its own terms.
struct Subject {
    rules: FrameRules,
    key: ModelKey,
    /// Where the length stands: offset, bytes, whether signed; big-endian.
    length: (usize, usize, bool),
    header_len: usize,
    /// The byte at this offset must be within these bounds.
    expect: Option<(usize, u8, u8)>,
}

enum ModelKey {
    Json(Vec<ModelStep>),
    Bytes(usize, usize),
    /// One unsigned byte of the header.
    Byte(usize),
}

enum ModelStep {
    Name(&'static str),
    Index(usize),
}

fn subjects() -> Vec<Subject> {
    use ModelStep::{Index, Name};
    let mut subjects = Vec::new();
    for (header, length, header_len) in [
        (">ccHH", (4, 2, false), 6),
        (">BBHh", (4, 2, true), 6),
        (">BBIQ", (6, 8, false), 14),
        (">BBBi", (3, 4, true), 7),
    ] {
        for search_frames in [1, 2, 3] {
            for (text, key) in [
                ("json:devid", ModelKey::Json(vec![Name("devid")])),
                ("json:a.devid", ModelKey::Json(vec![Name("a"), Name("devid")])),
                ("json:[1]", ModelKey::Json(vec![Index(1)])),
                ("json:a[0]", ModelKey::Json(vec![Name("a"), Index(0)])),
                ("bytes:3..9", ModelKey::Bytes(3, 9)),
                ("field:version", ModelKey::Byte(1)),
            ] {
                let layout =
                    Layout::compile(header, &["type", "version", "time", "length"]).unwrap();
                // `c` is signed, and the model reads the field's byte as unsigned.
                if text == "field:version" && header == ">ccHH" {
                    continue;
                }
                let expect = (search_frames == 2).then_some((1, 1, 9));
                let rules = FrameRules {
                    key: KeyExpression::parse(text, &layout).unwrap(),
                    layout,
                    number_format: NumberFormat::Raw,
                    body_len_max: 1_500,
                    search_frames,
                    expect: expect.map(|_| Expect { field: 1, range: 1..=9 }).into_iter().collect(),
                };
                subjects.push(Subject { rules, key, length, header_len, expect });
            }
        }
    }
    subjects
}

// ---- the generator --------------------------------------------------------------------------

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn choose<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len())]
    }

    fn word(&mut self, words: &[&'static str]) -> &'static str {
        self.choose::<&'static str>(words)
    }

    /// Mostly everything, else a random part.
    fn cut(&mut self, len: usize) -> usize {
        if self.one_in(4) { self.below(len + 1) } else { len }
    }
}

impl Subject {
    fn stream(&self, random: &mut Random) -> Vec<u8> {
        let mut stream = Vec::new();
        for _ in 0..=random.below(4) {
            let body = body(random);
            let mut header = vec![0; self.header_len];
            header[0] = random.next() as u8;
            header[1] = 1 + random.below(9) as u8;
            let (offset, len, _) = self.length;
            let length = (body.len() as u64).to_be_bytes();
            header[offset..offset + len].copy_from_slice(&length[8 - len..]);
            if random.one_in(12) {
                let at = random.below(header.len());
                header[at] = *random.choose(&[0, 1, 0x7f, 0x80, 0xff]);
            }
            stream.extend(header);
            stream.extend(body);
        }
        if random.one_in(6) {
            mutate(random, &mut stream);
        }
        stream
    }
}

fn body(random: &mut Random) -> Vec<u8> {
    match random.below(24) {
        0 => Vec::new(),
        1 => (0..random.below(20)).map(|_| random.next() as u8).collect(),
        2 => {
            let depth = 60 + random.below(10);
            let (open, close) = *random.choose(&[("[", "]"), ("{\"a\":", "}")]);
            let inside = *random.choose(&["1", "\"[[[\"", "", "\"\\\"{{\""]);
            format!("{}{inside}{}", open.repeat(depth), close.repeat(depth)).into_bytes()
        }
        3 => {
            let value = *random.choose(&["k", "7", "\\u0041", "设"]);
            let (value, quote) = (value.repeat(250 + random.below(12)), "\"");
            let quote = if value.starts_with('7') { "" } else { quote };
            format!("{{\"devid\":{quote}{value}{quote}}}").into_bytes()
        }
        choice => {
            let mut text = String::new();
            document(random, &mut text, 0);
            let mut body = text.into_bytes();
            if choice < 9 {
                mutate(random, &mut body);
            }
            body
        }
    }
}

const NAMES: &[&str] = &["devid", "devid", "a", "a", "b", "d\\u0065vid", "", "Devid", "设备"];
const STRINGS: &[&str] = &[
    "dev-0001",
    "868120212345678",
    "",
    "设备",
    "a\\nb",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\u0000",
    "[[{{",
    "\\\"",
    "\\\\",
    "\\u00e9x",
];
const SCALARS: &[&str] = &[
    "868120212345678",
    "0",
    "-0",
    "1.50",
    "1e3",
    "1E+400",
    "-1.5e-7",
    "null",
    "null",
    "true",
    "false",
];
const SPACES: &[&str] = &["", "", "", "", " ", "\t", "\r\n", "  "];

/// Random JSON, mostly an object with a key somewhere near its root.
fn document(random: &mut Random, out: &mut String, depth: usize) {
    out.push_str(random.word(SPACES));
    let kind = if depth == 0 && !random.one_in(6) { 8 } else { random.below(10) };
    match kind {
        6 | 7 if depth < 4 => {
            out.push('[');
            for index in 0..random.below(4) {
                if index > 0 {
                    out.push(',');
                }
                document(random, out, depth + 1);
            }
            out.push(']');
        }
        8 | 9 if depth < 4 => {
            out.push('{');
            for index in 0..random.below(5) {
                if index > 0 {
                    out.push(',');
                }
                let (space, name) = (random.word(SPACES), random.word(NAMES));
                out.push_str(&format!("{space}\"{name}\"{space}:"));
                document(random, out, depth + 1);
            }
            out.push('}');
        }
        0..3 => out.push_str(random.word(SCALARS)),
        _ => out.push_str(&format!("\"{}\"", random.word(STRINGS))),
    }
    out.push_str(random.word(SPACES));
}

/// Pieces that matter to the grammar.
const PIECES: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\u",
    b"\\ud83d",
    b"null",
    b"\xff",
    b"\xe8\xae",
    b"\0",
    b"\n",
    b"-",
    b"0",
    b"1e",
    b".",
    b"\"devid\":",
    b"\x80",
    b" ",
];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..(at + random.below(4)).min(bytes.len()))),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + random.below(12)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ => drop(bytes.splice(at..at, random.choose(PIECES).iter().copied())),
        }
    }
}

// ---- the model ------------------------------------------------------------------------------

impl Subject {
    fn model(&self, mut bytes: &[u8]) -> Answer {
        let mut before = 0;
        for _ in 0..self.rules.search_frames {
            if bytes.len() < self.header_len {
                return Answer::NeedMore(before + self.header_len);
            }
            let body_len = match self.model_length(bytes) {
                Ok(body_len) => body_len,
                Err(end) => return Answer::Invalid(end),
            };
            let frame_len = self.header_len + body_len;
            if bytes.len() < frame_len {
                return Answer::NeedMore(before + frame_len);
            }
            match self.model_key(&bytes[..self.header_len], &bytes[self.header_len..frame_len]) {
                Ok(Some(key)) => return Answer::Key(key),
                Ok(None) => {}
                Err(end) => return Answer::Invalid(end),
            }
            bytes = &bytes[frame_len..];
            before += frame_len;
        }
        Answer::Missing
    }

    fn model_length(&self, header: &[u8]) -> Result<usize, End> {
        let (offset, len, signed) = self.length;
        let field = &header[offset..offset + len];
        let negative = signed && field[0] >= 0x80;
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[16 - len..].copy_from_slice(field);
        match i128::from_be_bytes(wide) {
            ..0 => Err(End::LengthNegative),
            1_501.. => Err(End::BodyTooLong),
            length => match self.expect {
                Some((at, low, high)) if header[at] < low || header[at] > high => {
                    Err(End::FieldUnexpected)
                }
                _ => Ok(length as usize),
            },
        }
    }

    fn model_key(&self, header: &[u8], body: &[u8]) -> Result<Option<Vec<u8>>, End> {
        match &self.key {
            ModelKey::Byte(at) => Ok(Some(header[*at].to_string().into_bytes())),
            ModelKey::Bytes(_, end) if body.len() < *end => Ok(None),
            ModelKey::Bytes(start, end) => Ok(Some(body[*start..*end].to_vec())),
            ModelKey::Json(_) if body.is_empty() => Ok(None),
            ModelKey::Json(path) => {
                let text = std::str::from_utf8(body).or(Err(End::Utf8Invalid))?;
                if model_depth(text) > 64 {
                    return Err(End::JsonTooDeep);
                }
                let tree = Reader { text: text.chars().collect(), at: 0 }.document();
                // Only a tree of doubles has to refuse 1e400.
                let verdict = serde_json::from_str::<serde_json::Value>(text);
                let is_range = |e: &serde_json::Error| e.to_string().contains("out of range");
                if !verdict.as_ref().is_err_and(is_range) {
                    assert_eq!(tree.is_some(), verdict.is_ok(), "the model errs: {text:?}");
                }
                let tree = tree.ok_or(End::JsonInvalid)?;
                match path.iter().try_fold(&tree, |tree, step| tree.step(step)) {
                    None | Some(Tree::Null) => Ok(None),
                    Some(Tree::Text(text)) if text.is_empty() => Ok(None),
                    Some(Tree::Text(text)) if text.len() > 256 => Err(End::KeyTooLong),
                    Some(Tree::Text(text)) => Ok(Some(text.clone().into_bytes())),
                    Some(_) => Err(End::KeyNotScalar),
                }
            }
        }
    }
}

fn model_depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A whole document; a string's text is unescaped, a number's is as written.
#[derive(Debug)]
enum Tree {
    Null,
    Bool,
    Text(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    fn step(&self, step: &ModelStep) -> Option<&Tree> {
        match (self, step) {
            (Tree::Array(elements), ModelStep::Index(index)) => elements.get(*index),
            (Tree::Object(members), ModelStep::Name(name)) => {
                members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

/// A plain recursive reader of RFC 8259; `None` is "not JSON".
struct Reader {
    text: Vec<char>,
    at: usize,
}

impl Reader {
    fn document(mut self) -> Option<Tree> {
        let tree = self.value()?;
        self.spaces();
        (self.at == self.text.len()).then_some(tree)
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        self.at += 1;
        self.text.get(self.at - 1).copied()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Tree> {
        self.spaces();
        match self.peek()? {
            '"' => self.string().map(Tree::Text),
            '[' => self.array(),
            '{' => self.object(),
            '-' | '0'..='9' => self.number(),
            _ => [("null", Tree::Null), ("true", Tree::Bool), ("false", Tree::Bool)]
                .into_iter()
                .find(|(word, _)| self.text[self.at..].starts_with(&Vec::from_iter(word.chars())))
                .map(|(word, tree)| {
                    self.at += word.len();
                    tree
                }),
        }
    }

    fn array(&mut self) -> Option<Tree> {
        self.at += 1;
        let mut elements = Vec::new();
        self.spaces();
        if self.eat(']') {
            return Some(Tree::Array(elements));
        }
        loop {
            elements.push(self.value()?);
            self.spaces();
            match self.take()? {
                ',' => {}
                ']' => return Some(Tree::Array(elements)),
                _ => return None,
            }
        }
    }

    fn object(&mut self) -> Option<Tree> {
        self.at += 1;
        let mut members = Vec::new();
        self.spaces();
        if self.eat('}') {
            return Some(Tree::Object(members));
        }
        loop {
            self.spaces();
            let name = self.string()?;
            self.spaces();
            if !self.eat(':') {
                return None;
            }
            members.push((name, self.value()?));
            self.spaces();
            match self.take()? {
                ',' => {}
                '}' => return Some(Tree::Object(members)),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        if !self.eat('"') {
            return None;
        }
        let mut units = Vec::new();
        loop {
            match self.take()? {
                '"' => return String::from_utf16(&units).ok(),
                '\\' => units.push(match self.take()? {
                    'b' => 8,
                    'f' => 12,
                    'n' => 10,
                    'r' => 13,
                    't' => 9,
                    'u' => (0..4).try_fold(0, |unit, _| {
                        Some(unit * 16 + self.take()?.to_digit(16)? as u16)
                    })?,
                    plain @ ('"' | '\\' | '/') => plain as u16,
                    _ => return None,
                }),
                '\0'..' ' => return None,
                letter => units.extend_from_slice(letter.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|digit| digit.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<Tree> {
        let start = self.at;
        self.eat('-');
        if !self.eat('0') {
            self.digits()?;
        }
        if self.eat('.') {
            self.digits()?;
        }
        if self.eat('e') || self.eat('E') {
            let _ = self.eat('+') || self.eat('-');
            self.digits()?;
        }
        // "01" is caught by whoever expects a comma or the end.
        Some(Tree::Text(self.text[start..self.at].iter().collect()))
    }
}
