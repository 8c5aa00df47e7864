//! `corelane explain --http` and `corelane route` on listeners that speak HTTP: what they say is
//! what a running gateway does.

mod gateway;
mod web;

use std::io::Write;
use std::process::{Command, Stdio};

use gateway::Gateway;
use web::{Web, client, config};

fn corelane(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_explained_is_what_happens() {
    let (a, b, c) = (Web::named("a"), Web::named("b"), Web::named("c"));
    let rest = format!(
        "[[listener.http.rule]]\nname = \"none\"\npath = \"/none\"\nreply = {{ status = 410 }}\n\
         [[listener.http.rule]]\nname = \"all\"\npool = \"p\"\nkey = \"header:server\"\n\
         missing = 403\n[pool.p]\nbalance = \"resty_chash\"\n\
         backends = [\"{}\", \"{}\", \"{}\"]\n",
        a.address, b.address, c.address
    );
    let toml = config("", &rest);
    let gateway = Gateway::start(&toml);
    let file = gateway.directory().join("corelane.toml");
    let file = file.to_str().unwrap();
    let mut wire = client(&gateway);
    for key in ["1", "22", "333", "zone-7"] {
        let head = format!("GET /x?y HTTP/1.1\nHost: h\nServer: {key}\n");
        let page = corelane(&["explain", "-c", file, "--http", "-"], &head);
        assert!(page.contains("rule     all (number 2)"), "{page}");
        assert!(page.contains(&format!("key      header:server = {key}")), "{page}");
        let answer = wire.ask(&format!("GET /x?y HTTP/1.1\r\nHost: h\r\nServer: {key}\r\n\r\n"));
        let address = match answer.text().split(' ').next() {
            Some("a") => a.address,
            Some("b") => b.address,
            _ => c.address,
        };
        assert!(page.contains(&format!("backend  {address}")), "{page}");
        let line = corelane(&["route", "-c", file, key], "");
        assert_eq!(line, format!("{key}\tp\t{address}\n"));
    }
    let page = corelane(&["explain", "-c", file, "--http", "-"], "GET /none HTTP/1.1\nHost: h\n");
    assert!(page.contains("outcome  answered 410"), "{page}");
    let page = corelane(&["explain", "-c", file, "--http", "-"], "GET / HTTP/1.1\nHost: h\n");
    assert!(page.contains("outcome  answered 403: header:server is missing"), "{page}");
    let page = corelane(&["explain", "-c", file, "--http", "-"], "GET / HTTP/1.1\r\n\r\n");
    assert!(page.contains("outcome  answered 400: host_missing"), "{page}");
}
