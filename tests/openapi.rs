//! Answers of a running gateway are what its OpenAPI document says, for every operation of it.

mod gateway;

use std::io::{Read, Write};
use std::net::TcpStream;

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{DEADLINE, Gateway, frame_config};
use serde_json::{Value, json};

/// Where a value is not what a schema says: paths and reasons. The words that the document uses are
/// checked; a word that is not known here is a fault, too.
struct Check<'d> {
    document: &'d Value,
    faults: Vec<String>,
}

impl Check<'_> {
    fn value(&mut self, value: &Value, schema: &Value, at: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            let found = self.document.pointer(name.trim_start_matches('#'));
            return match found {
                Some(schema) => self.value(value, &schema.clone(), at),
                None => self.faults.push(format!("{at}: there is no {name}")),
            };
        }
        for (word, wanted) in schema.as_object().expect("a schema") {
            match word.as_str() {
                "description" | "default" | "pattern" | "items" | "additionalProperties" => {}
                "type" => self.kind(value, wanted, at),
                "enum" => {
                    let listed = wanted.as_array().expect("a list").contains(value);
                    self.expect(listed, || format!("{at}: {value} is none of {wanted}"));
                }
                "minimum" => {
                    let fits = value.as_f64() >= wanted.as_f64();
                    self.expect(fits, || format!("{at}: {value} is under {wanted}"));
                }
                "maximum" => {
                    let fits = value.as_f64() <= wanted.as_f64();
                    self.expect(fits, || format!("{at}: {value} is over {wanted}"));
                }
                "required" => {
                    for name in wanted.as_array().expect("a list") {
                        let name = name.as_str().expect("a name");
                        let there = value.get(name).is_some();
                        self.expect(there, || format!("{at}: no {name}"));
                    }
                }
                "properties" => {}
                "oneOf" => {
                    let fits = |schema: &&Value| {
                        let mut check = Check { document: self.document, faults: Vec::new() };
                        check.value(value, schema, at);
                        check.faults.is_empty()
                    };
                    let fitting = wanted.as_array().expect("a list").iter().filter(fits).count();
                    self.expect(fitting == 1, || format!("{at}: fits {fitting} of oneOf"));
                }
                word => self.faults.push(format!("{at}: the word {word} is not checked")),
            }
        }
        self.parts(value, schema, at);
    }

    /// What is in a list or table. A table whose schema names no further keys has none.
    fn parts(&mut self, value: &Value, schema: &Value, at: &str) {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.value(item, &schema["items"], &format!("{at}[{index}]"));
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(true)) => {}
                (Value::Null, Value::Object(others)) => {
                    self.value(inner, &Value::Object(others.clone()), &at);
                }
                (Value::Null, _) => self.faults.push(format!("{at}: not documented")),
                (schema, _) => self.value(inner, schema, &at),
            }
        }
    }

    fn kind(&mut self, value: &Value, wanted: &Value, at: &str) {
        let is = |name: &str| match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => false,
        };
        let fits = match wanted {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is),
            kind => kind.as_str().is_some_and(is),
        };
        self.expect(fits, || format!("{at}: {value} is not {wanted}"));
    }

    fn expect(&mut self, is_so: bool, fault: impl FnOnce() -> String) {
        if !is_so {
            self.faults.push(fault());
        }
    }
}

/// Status, media type and body of an answer; of a stream only its head.
fn ask(gateway: &Gateway, method: &str, path: &str, body: Option<&Value>) -> (u16, String, String) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect_timeout(&gateway.admin, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buf) {
        answer.extend_from_slice(&buf[..count]);
        if String::from_utf8_lossy(&answer).contains("event: start") {
            break;
        }
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let media = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-type").then(|| value.to_owned())
    });
    let media = media.unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, media.split(';').next().unwrap_or_default().to_owned(), body.to_owned())
}

/// What is asked for every operation: its method and path in the document, the path as it is asked,
/// and the body.
fn requests(
    backend: &str,
    session: &str,
) -> Vec<(&'static str, &'static str, String, Option<Value>)> {
    const BACKEND: &str = "/pools/{pool}/backends/{backend}";
    const CLOSE: &str = "/pools/{pool}/backends/{backend}/close";
    let of_backend = format!("/pools/c2s/backends/{backend}");
    let plain = ["/", "/openapi.json", "/livez", "/healthz", "/readyz", "/version", "/metrics"];
    let more = ["/pools", "/sources", "/config", "/log", "/audit", "/events"];
    let mut requests: Vec<_> =
        plain.into_iter().chain(more).map(|path| ("get", path, path.to_owned(), None)).collect();
    let level = json!({ "level": "debug" });
    let other = "/pools/c2s/backends/127.0.0.1:9";
    requests.extend([
        ("get", "/pools/{pool}", "/pools/c2s".to_owned(), None),
        ("get", "/backends", "/backends?state=ready&pool=c2s".to_owned(), None),
        ("get", BACKEND, of_backend.clone(), None),
        ("get", "/sessions", "/sessions?limit=5".to_owned(), None),
        ("get", "/where/{key}", "/where/a%00b".to_owned(), None),
        ("get", "/where/{key}", "/where/device".to_owned(), None),
        ("get", "/sources/{pool}", "/sources/c2s".to_owned(), None),
        ("post", "/sources/{pool}/refresh", "/sources/c2s/refresh".to_owned(), None),
        ("post", "/sources/{pool}/confirm", "/sources/c2s/confirm".to_owned(), None),
        (
            "post",
            "/pools/{pool}/backends",
            "/pools/c2s/backends".to_owned(),
            Some(json!({ "address": "127.0.0.1:9", "weight": 2, "state": "drain" })),
        ),
        ("patch", BACKEND, other.to_owned(), Some(json!({ "weight": 3 }))),
        ("patch", BACKEND, other.to_owned(), Some(json!({ "state": "down" }))),
        ("delete", BACKEND, other.to_owned(), None),
        ("delete", "/sessions/{id}", format!("/sessions/{session}"), None),
        ("post", CLOSE, format!("{of_backend}/close"), Some(json!({ "rate": "10/s" }))),
        ("delete", CLOSE, format!("{of_backend}/close"), None),
        ("patch", "/log", "/log".to_owned(), Some(level)),
        ("post", "/reload", "/reload?dry_run=true".to_owned(), None),
        ("post", "/reload", "/reload".to_owned(), None),
        ("get", "/audit", "/audit?limit=3".to_owned(), None),
    ]);
    requests
}

#[test]
fn every_operation_answers_as_it_is_documented() {
    let backend = Backend::echo("only");
    let file = gateway::directory().join("backends.json");
    std::fs::write(&file, "{\"backends\":[\"127.0.0.1:7\"]}").unwrap();
    let source = format!("[pool.c2s.source]\nkind = \"file\"\npath = {file:?}\n");
    let gateway = Gateway::start(&format!("{}\n{source}", frame_config(&[backend], "", "")));
    let mut client = Client::login(gateway.address("devices"), "device");
    client.receive(5);
    let document: Value = serde_json::from_str(&gateway.get("/openapi.json").1).unwrap();
    let sessions: Value = serde_json::from_str(&gateway.get("/sessions").1).unwrap();
    let session = sessions["sessions"][0]["id"].as_str().unwrap().to_owned();
    let mut left: Vec<String> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        left.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    let mut check = Check { document: &document, faults: Vec::new() };
    for (method, template, path, body) in requests(&backend.to_string(), &session) {
        let operation = &document["paths"][template][method];
        let (status, media, text) = ask(&gateway, &method.to_uppercase(), &path, body.as_ref());
        let at = format!("{method} {path}");
        if let Some(body) = &body {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            check.value(body, schema, &format!("{at}, asked"));
        }
        let schema = &operation["responses"][status.to_string()]["content"][&media]["schema"];
        check.expect(schema.is_object(), || format!("{at}: {status} {media}: {text}"));
        if media == "application/json" && schema.is_object() {
            check.value(&serde_json::from_str(&text).unwrap(), schema, &at);
        }
        left.retain(|operation| *operation != format!("{method} {template}"));
    }
    // Errors are what every operation says of them.
    let toml = frame_config(&[backend], "retires = 1", "");
    gateway.rewrite(&toml);
    for (method, path) in [("POST", "/reload"), ("GET", "/pools/nobody"), ("GET", "/nothing")] {
        let (status, media, text) = ask(&gateway, method, path, None);
        assert!(status >= 400 && media == "application/problem+json", "{path}: {status} {media}");
        let problem = json!({ "$ref": "#/components/schemas/Problem" });
        check.value(&serde_json::from_str(&text).unwrap(), &problem, path);
    }
    assert!(left.is_empty(), "not asked: {left:?}");
    assert!(check.faults.is_empty(), "{:#?}", check.faults);
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let document = json!({ "components": { "schemas": { "A": {
        "type": "object",
        "properties": { "n": { "type": "integer", "minimum": 1 }, "s": { "enum": ["a"] } },
        "required": ["n"],
        "additionalProperties": false,
    }}}});
    let schema = json!({ "type": "array", "items": { "$ref": "#/components/schemas/A" } });
    let faults = |value: Value| {
        let mut check = Check { document: &document, faults: Vec::new() };
        check.value(&value, &schema, "");
        check.faults.len()
    };
    assert_eq!(faults(json!([{ "n": 1, "s": "a" }, { "n": 2 }])), 0);
    for wrong in [json!({}), json!([1]), json!([{ "n": 0 }]), json!([{ "s": "a" }])] {
        assert!(faults(wrong.clone()) > 0, "{wrong}");
    }
    assert!(faults(json!([{ "n": 1, "s": "b" }])) > 0);
    assert!(faults(json!([{ "n": 1, "more": 1 }])) > 0);
}
