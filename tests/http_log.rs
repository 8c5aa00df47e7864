//! Access logs of a running gateway: a line per request, to a file or one for each backend,
//! reopened on USR1; what a caller sends makes neither lines nor files.

mod gateway;
mod web;

use std::path::Path;

use gateway::Gateway;
use serde_json::Value;
use web::{Web, client, eventually, one_pool};

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_request_has_its_line() {
    let web = Web::named("w");
    let folder = gateway::directory();
    let path = folder.join("access.log");
    let http = format!("access_log = {{ path = \"{}\" }}", path.display());
    let gateway = Gateway::start(&one_pool(&http, &[web.address], ""));
    let mut wire = client(&gateway);
    wire.ask("GET /a?b=%22 HTTP/1.1\r\nHost: h\r\nUser-Agent: \"x\"\t\r\n\r\n");
    wire.ask("POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    let refused = wire.ask("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n");
    assert_eq!(refused.status(), 400);
    eventually("three lines", || lines(&path).len() == 3);
    let said: Vec<Value> =
        lines(&path).iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(said[0]["target"], "/a?b=%22");
    assert_eq!(said[0]["status"], 200);
    assert_eq!(said[0]["backend"], web.address.to_string());
    assert_eq!(said[0]["rule"], "all");
    assert_eq!(said[1]["method"], "POST");
    let request = "POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(said[1]["bytes_in"], request.len());
    assert_eq!((&said[2]["status"], &said[2]["reason"]), (&400.into(), &"host_duplicate".into()));
    // Somebody renames the file.
    let moved = folder.join("access.log.1");
    std::fs::rename(&path, &moved).unwrap();
    gateway.signal("USR1");
    gateway.operational.wait("reopened line", |lines| {
        lines.iter().any(|line| line.contains("reopened") && line.contains("access")).then_some(())
    });
    let mut wire = client(&gateway);
    wire.ask("GET /new HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("a line in the new file", || lines(&path).len() == 1);
    assert_eq!(lines(&moved).len(), 3);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_for_each_backend_and_never_more_open_than_allowed() {
    let webs: Vec<Web> = (0..70).map(|_| Web::named("w")).collect();
    let folder = gateway::directory();
    let http = format!(
        "access_log = {{ path = \"{}/{{backend}}_access.log\", format = \"$request $status\" }}\n\
         backend = {{ idle = 0 }}",
        folder.display()
    );
    let addresses: Vec<_> = webs.iter().map(|web| web.address).collect();
    let gateway = Gateway::start(&one_pool(&http, &addresses, ""));
    let mut wire = client(&gateway);
    for round in 0..2 {
        for _ in &webs {
            assert_eq!(
                wire.ask(&format!("GET /{round} HTTP/1.1\r\nHost: h\r\n\r\n")).status(),
                200
            );
        }
    }
    let path = |address| folder.join(format!("{address}_access.log"));
    for address in &addresses {
        eventually("two lines for each", || lines(&path(address)).len() == 2);
        let said = lines(&path(address));
        assert_eq!(said, ["GET /0 HTTP/1.1 200", "GET /1 HTTP/1.1 200"]);
    }
    let fds = std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id())).unwrap();
    let open = fds
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|target| target.starts_with(&folder))
        .count();
    assert!((1..=64).contains(&open), "{open} files open");
    assert_eq!(gateway.metric("corelane_log_lines_dropped_total{log=\"access\"}"), 0.0);
    std::fs::remove_dir_all(folder).unwrap();
}
