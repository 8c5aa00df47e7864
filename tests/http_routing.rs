//! From a request to what becomes of it: the rules of the example files, and every kind of
//! condition, expression and template.

use std::path::Path;

use corelane::config::{Config, Environment, HttpListener, LookupKind, Protocol, load, parse};
use corelane::http::client::{Client, Request, behind_proxies, is_trusted};
use corelane::http::head::{HeadLimits, Read};
use corelane::http::question::{self, Question};
use corelane::http::request::{self, RequestHead};
use corelane::http::rule::{self, Target};
use corelane::http::target;
use corelane::http::template::{Gap, Template, Values};
use corelane::http::value::{Purpose, Unfit, dns_name};

fn environment() -> Environment<'static> {
    Environment { variable: &|_| None, cores: vec![0], descriptors_max: 100_000 }
}

fn example(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    load(&path, &environment()).unwrap_or_else(|error| panic!("{error}")).config
}

fn http(config: &Config) -> &HttpListener {
    let Protocol::Http(http) = &config.listeners[0].protocol else { panic!("not http") };
    http
}

fn head(text: &str) -> RequestHead {
    match request::read(text.as_bytes(), &HeadLimits::default()) {
        Read::Complete(head) => head,
        other => panic!("{other:?}: {text}"),
    }
}

fn client() -> Client {
    Client { address: "192.0.2.7:5123".parse().ok(), tls: false, trusted: false }
}

/// What becomes of a request, in words: a status, or the store's question, or pool and key.
fn fate(config: &Config, text: &str) -> String {
    let head = head(text);
    let request = Request::new(text.as_bytes(), &head, client());
    let Some((_, rule)) = rule::choose(&http(config).rules, &request) else {
        return "404".to_string();
    };
    let key = match rule::key(&rule.target, &request) {
        Ok(key) => key,
        Err(unfilled) => return rule.statuses.of(&unfilled).to_string(),
    };
    let (lookup, set) = match &rule.target {
        Target::Reply(reply) => return reply.status.to_string(),
        Target::Pool { pool, .. } => {
            return format!("{} {}", config.pools[*pool].name, String::from_utf8_lossy(&key));
        }
        Target::Lookup { lookup, set, .. } => (&config.lookups[*lookup], set),
    };
    let values = Values { key: Some(&key), set, ..Values::default() };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
    match question::of(lookup, Some(&request), &values) {
        Ok(Question::Dns { name, search }) => {
            format!("{}{}", text(&name), if search { ".SEARCH" } else { "" })
        }
        Ok(Question::Redis { key, field }) => format!("{} {}", text(&key), text(&field)),
        Err(unfilled) => rule.statuses.of(&unfilled).to_string(),
    }
}

#[test]
fn callbacks_go_by_their_header() {
    let config = example("http-dns.toml");
    let post = |target: &str, fields: &str| {
        fate(&config, &format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    };
    assert_eq!(post("/mail", "server: 12\r\n"), "zone12-mail.SEARCH");
    assert_eq!(post("/mail?x=y", "Server: 12\r\n"), "zone12-mail.SEARCH");
    // As nginx's $uri.
    assert_eq!(post("/%6dail", "server: 12\r\n"), "zone12-mail.SEARCH");
    assert_eq!(post("//x/../mail", "server: 12\r\n"), "zone12-mail.SEARCH");
    assert_eq!(post("/mail/", "server: 12\r\n"), "zone12-default.SEARCH");
    assert_eq!(post("/MAIL", "server: 12\r\n"), "zone12-default.SEARCH");
    assert_eq!(post("/", "server: a-b\r\n"), "zonea-b-default.SEARCH");
    assert_eq!(post("/", "server: A-1\r\n"), "zonea-1-default.SEARCH");
    assert_eq!(post("/", ""), "403");
    // Sound by itself, and too long for a label with what is around it.
    assert_eq!(post("/", &format!("server: {}\r\n", "1".repeat(51))).len(), 70);
    assert_eq!(post("/", &format!("server: {}\r\n", "1".repeat(52))), "403");
    for hostile in ["", "1.evil", "1/2", "a b", "1\r\nserver: 2", "%31", "1_2", "\u{e4}"] {
        assert_eq!(post("/", &format!("server: {hostile}\r\n")), "403", "{hostile:?}");
    }
    for method in ["GET", "HEAD", "PUT", "OPTIONS", "post"] {
        let text = format!("{method} /mail HTTP/1.1\r\nHost: a\r\nserver: 12\r\n\r\n");
        assert_eq!(fate(&config, &text), "405", "{method}");
    }
    let lookup = &config.lookups[0];
    assert_eq!(lookup.ttl.map(|ttl| ttl.as_secs()), Some(60));
    assert_eq!((lookup.retries, lookup.connect_timeout.as_millis()), (1, 1_000));
    let LookupKind::Dns(dns) = &lookup.kind else { panic!("not dns") };
    assert_eq!(dns.port, 8101);
    let backend = http(&config).backend;
    let timeouts = (backend.send_timeout.as_millis(), backend.read_timeout.as_millis());
    assert_eq!((timeouts, backend.idle), ((500, 500), 10));
    assert_eq!(http(&config).rules[0].statuses.not_found, 502);
}

#[test]
fn games_go_by_their_arguments() {
    let config = example("ws-redis.toml");
    let get = |target: &str| {
        fate(&config, &format!("GET {target} HTTP/1.1\r\nHost: a:8080\r\nConnection: x\r\n\r\n"))
    };
    let node = "game-server_dev_node_wgamed 1";
    assert_eq!(get("/ws?nodeName=wgamed&threadId=1&platform=dev"), node);
    assert_eq!(get("/ws?platform=dev&threadId=1&nodeName=wgamed&x=y"), node);
    // As nginx's $arg_: without regard to case, the first one, as it was sent.
    assert_eq!(get("/ws?NODENAME=wgamed&THREADID=1&threadid=2&PlatForm=dev"), node);
    assert_eq!(get("/ws?nodeName=a%41&threadId=1&platform="), "game-server__node_a%41 1");
    for target in [
        "/ws",
        "/ws?",
        "/ws?nodeName=a&threadId=1",
        "/ws?nodeName=a&threadId=1&platform",
        "/ws?nodeName=a&threadId=1&xplatform=b",
    ] {
        assert_eq!(get(target), "500", "{target}");
    }
    for target in ["/", "/ws/", "/wss", "/WS"] {
        assert_eq!(get(target), "404", "{target}");
    }
}

#[test]
fn players_stay_with_their_server() {
    let config = example("ws-pool.toml");
    let get = |target: &str| fate(&config, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(get("/ws?uid=123"), "games 123");
    assert_eq!(get("/ws?uid=%31&uid=2"), "games 1");
    for target in ["/ws?uid=12a", "/ws?uid=", "/ws", "/ws?UID=1"] {
        assert_eq!(get(target), "400", "{target}");
    }
    assert_eq!(get("/"), "404");
}

/// A listener with these rules before one that answers 204.
fn with_rule(rule: &str) -> Config {
    let text = format!(
        "[[listener]]\nname = \"a\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"http\"\n\
         [[listener.http.rule]]\n{rule}\nreply = {{ status = 200 }}\n"
    );
    parse(&text, "file.toml", &environment()).unwrap_or_else(|faults| panic!("{faults}")).config
}

#[test]
fn every_condition_has_to_be_met() {
    let cases: &[(&str, &str, bool)] = &[
        ("method = [\"GET\", \"PUT\"]", "PUT / HTTP/1.1\r\nHost: a", true),
        ("method = [\"GET\"]", "HEAD / HTTP/1.1\r\nHost: a", false),
        ("host = [\"A.x\"]", "GET / HTTP/1.1\r\nHost: a.X:80", true),
        ("host = [\"a.x\"]", "GET http://a.x/ HTTP/1.1\r\nHost: a.x", true),
        ("host = [\"a.x\"]", "GET / HTTP/1.1\r\nHost: a.x.", true),
        ("host = [\"a.x\"]", "GET / HTTP/1.0\r\nX: y", false),
        ("host = [\"*.x\"]", "GET / HTTP/1.1\r\nHost: b.a.x", true),
        ("host = [\"*.x\"]", "GET / HTTP/1.1\r\nHost: x", false),
        ("host = [\"*.x\"]", "GET / HTTP/1.1\r\nHost: ax", false),
        ("host = [\"[::1]\"]", "GET / HTTP/1.1\r\nHost: [::1]:80", true),
        ("path = \"/a\"", "GET /a?b HTTP/1.1\r\nHost: a", true),
        ("path = \"/a\"", "GET /ab HTTP/1.1\r\nHost: a", false),
        ("path = \"/a b\"", "GET /a%20b HTTP/1.1\r\nHost: a", true),
        ("path_prefix = \"/a/\"", "GET /a/b HTTP/1.1\r\nHost: a", true),
        ("path_prefix = \"/a/\"", "GET /b/../a/ HTTP/1.1\r\nHost: a", true),
        ("path_prefix = \"/a/\"", "GET /a/../b HTTP/1.1\r\nHost: a", false),
        ("path_prefix = \"/a/\"", "GET /a HTTP/1.1\r\nHost: a", false),
        ("path_prefix = \"/\"", "OPTIONS * HTTP/1.1\r\nHost: a", false),
        ("header = { x = true }", "GET / HTTP/1.1\r\nHost: a\r\nX:", true),
        ("header = { x = true }", "GET / HTTP/1.1\r\nHost: a", false),
        ("header = { x = false }", "GET / HTTP/1.1\r\nHost: a", true),
        ("header = { x = false }", "GET / HTTP/1.1\r\nHost: a\r\nX: y", false),
        ("header = { x = \"y\" }", "GET / HTTP/1.1\r\nHost: a\r\nX: y ", true),
        ("header = { x = \"y\" }", "GET / HTTP/1.1\r\nHost: a\r\nX: Y", false),
        ("header = { x = \"y\" }", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX: y", false),
        ("header = { x = \"~^[0-9]+$\" }", "GET / HTTP/1.1\r\nHost: a\r\nX: 12", true),
        ("header = { x = \"~^[0-9]+$\" }", "GET / HTTP/1.1\r\nHost: a\r\nX: 1a", false),
        ("header = { x = \"~b\" }", "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{e4}bc", true),
        ("query = { a = true }", "GET /?a HTTP/1.1\r\nHost: a", true),
        ("query = { a = true }", "GET /?b=a HTTP/1.1\r\nHost: a", false),
        ("query = { a = \"b c\" }", "GET /?a=b+c HTTP/1.1\r\nHost: a", true),
        ("query = { a = \"b\" }", "GET /?a=b&a=c HTTP/1.1\r\nHost: a", true),
        ("query = { a = \"b\" }", "GET /?a=c&a=b HTTP/1.1\r\nHost: a", false),
        ("cookie = { a = \"b\" }", "GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; a=b", true),
        ("cookie = { a = \"b\" }", "GET / HTTP/1.1\r\nHost: a\r\nCookie: xa=b; A=b", false),
        ("cookie = { a = false }", "GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y", true),
        ("path = \"/a\"\nheader = { x = true }", "GET /a HTTP/1.1\r\nHost: a", false),
    ];
    for (rule, text, matches) in cases {
        let expected = if *matches { "200" } else { "404" };
        let text = format!("{text}\r\n\r\n");
        assert_eq!(fate(&with_rule(rule), &text), expected, "{rule}: {text}");
    }
}

#[test]
fn every_expression_has_its_value() {
    let text = "GET //a/%62/c?uid=x%2Fy+z&uid=2&e=&f HTTP/1.1\r\nHost: Play.Example:8080\r\n\
                X-Id: 7\r\nCookie: s=\"q\"; t=1=2\r\n\r\n";
    let head = head(text);
    let request = Request::new(text.as_bytes(), &head, client());
    let set = [("n".to_string(), "v".to_string())];
    let values = Values {
        key: Some(b"k"),
        set: &set,
        backend: Some("10.0.0.1:80"),
        request_id: Some("00ff"),
    };
    let fill = |template: &str| {
        let template = Template::parse(template).expect(template);
        let filled = template.fill(Some(&request), &values, Purpose::FieldValue);
        filled.map(|text| String::from_utf8_lossy(&text).into_owned()).map_err(|u| u.gap)
    };
    let cases = [
        ("{header:x-id}", "7"),
        ("{query:uid}", "x/y z"),
        ("{query:f}{query:e}", ""),
        ("{arg:UID}", "x%2Fy+z"),
        ("{cookie:s}|{cookie:t}", "\"q\"|1=2"),
        ("{path:1}-{path:2}-{path:3}", "a-b-c"),
        ("{path}", "/a/b/c"),
        ("{target}", "//a/%62/c?uid=x%2Fy+z&uid=2&e=&f"),
        ("{method} {scheme}", "GET http"),
        ("{host} {authority}", "play.example Play.Example:8080"),
        ("{client_ip}:{client_port}", "192.0.2.7:5123"),
        ("{key}{set:n}{backend}{request_id}", "kv10.0.0.1:8000ff"),
        ("a{{b}}c", "a{b}c"),
        ("", ""),
    ];
    for (template, expected) in cases {
        assert_eq!(fill(template).as_deref(), Ok(expected), "{template}");
    }
    for missing in ["{header:y}", "{query:g}", "{arg:f}", "{cookie:q}", "{path:4}", "{set:m}"] {
        assert_eq!(fill(missing), Err(Gap::Missing), "{missing}");
    }
    for wrong in
        ["{", "}", "{}", "{a", "a}", "{header:}", "{header:a b}", "{path:0}", "{path:x}", "{ip}"]
    {
        assert!(Template::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn two_of_one_field_are_malformed() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nserver: 1\r\nServer: 1\r\n\r\n";
    let head = head(text);
    let request = Request::new(text.as_bytes(), &head, client());
    let template = Template::parse_key("header:server").expect("a key");
    let unfilled = template.fill(Some(&request), &Values::default(), Purpose::PoolKey);
    let gap = unfilled.map_err(|unfilled| unfilled.gap);
    assert_eq!(gap.map(|_| ()), Err(Gap::Malformed(Unfit::Several)));
}

#[test]
fn a_path_is_nginxs_uri() {
    let cases: &[(&str, Option<&str>)] = &[
        ("/", Some("/")),
        ("", Some("/")),
        ("/a//b", Some("/a/b")),
        ("/a/.", Some("/a/")),
        ("/a/./b", Some("/a/b")),
        ("/a/b/..", Some("/a/")),
        ("/a/../..", None),
        ("/..", None),
        ("/%2e%2e/", None),
        ("/...", Some("/...")),
        ("/.a", Some("/.a")),
        ("/a%2fb", Some("/a/b")),
        ("/a%252fb", Some("/a%2fb")),
        ("/a%20b+c", Some("/a b+c")),
    ];
    for (raw, path) in cases {
        let found = target::path(raw.as_bytes());
        assert_eq!(found.as_deref(), path.map(str::as_bytes), "{raw}");
    }
}

/// SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Whatever a caller sends, what comes of it is a name with the labels of the template, and in
/// Redis's own protocol one argument.
#[test]
fn a_filled_template_is_what_it_was_meant_to_be() {
    let template = Template::parse("zone{header:server}-mail.svc").expect("a template");
    let (mut filled_count, mut refused) = (0, 0);
    for seed in 0..20_000_u64 {
        let mut state = seed;
        let len = random(&mut state) % 8;
        let alphabet = b"aZ09-._/ %\x80:\t@{}";
        let value: Vec<u8> = (0..len)
            .map(|_| alphabet[(random(&mut state) % alphabet.len() as u64) as usize])
            .collect();
        let mut text = b"GET / HTTP/1.1\r\nHost: a\r\nserver: ".to_vec();
        text.extend_from_slice(&value);
        text.extend_from_slice(b"\r\n\r\n");
        let Read::Complete(head) = request::read(&text, &HeadLimits::default()) else {
            panic!("seed {seed}: not a request")
        };
        let request = Request::new(&text, &head, client());
        match template.fill(Some(&request), &Values::default(), Purpose::DnsLabel) {
            Ok(name) => {
                filled_count += 1;
                assert_eq!(name.iter().filter(|byte| **byte == b'.').count(), 1, "seed {seed}");
                assert_eq!(dns_name(&name), Ok(()), "seed {seed}: {}", name.escape_ascii());
            }
            Err(unfilled) => {
                refused += 1;
                assert!(matches!(unfilled.gap, Gap::Malformed(_)), "seed {seed}");
            }
        }
    }
    assert!(filled_count > 500 && refused > 5_000, "{filled_count} and {refused}");
}

#[test]
fn the_client_behind_proxies_is_the_last_who_is_not_one() {
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|n| n.parse().expect("a network"));
    let behind = |fields: &[&str]| {
        let fields = fields.iter().map(|field| field.as_bytes());
        behind_proxies(fields, &networks).map(|ip| ip.to_string())
    };
    let client = Some("192.0.2.1".to_string());
    assert_eq!(behind(&["192.0.2.1"]), client);
    assert_eq!(behind(&["6.6.6.6, 192.0.2.1, 10.0.0.1"]), client);
    assert_eq!(behind(&["6.6.6.6", "192.0.2.1:55", "10.0.0.1,fd00::1"]), client);
    assert_eq!(behind(&["10.0.0.2, 10.0.0.1"]), Some("10.0.0.2".to_string()));
    assert_eq!(behind(&["192.0.2.1, unknown"]), None);
    assert_eq!(behind(&[""]), None);
    assert!(is_trusted("::ffff:10.0.0.1".parse().ok(), &networks, false));
    assert!(!is_trusted("192.0.2.1".parse().ok(), &networks, true));
    assert!(is_trusted(None, &networks, true) && !is_trusted(None, &networks, false));
}
