//! curl, which is nobody's of ours, through a gateway.

mod gateway;
mod web;

use std::process::Command;

use gateway::Gateway;
use web::{Web, ok, one_pool};

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"])
        .args(arguments)
        .output()
        .expect("curl is installed by scripts/install-test-tools");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_gets_what_the_backend_has() {
    let web = Web::answering(|message| match message.start_line().starts_with("HEAD") {
        true => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec(),
        false => ok(&format!("{} {} bytes", message.start_line(), message.body.len())),
    });
    let gateway = Gateway::start(&one_pool("", &[web.address], ""));
    let url = |path: &str| format!("http://{}{path}", gateway.address("web"));
    assert_eq!(curl(&[&url("/a?b=c")]), "GET /a?b=c HTTP/1.1 0 bytes");
    assert_eq!(curl(&["--data", "x=y", &url("/")]), "POST / HTTP/1.1 3 bytes");
    // 1 MiB: curl asks with Expect, which this backend does not meet; and then in chunks.
    let folder = gateway::directory();
    let file = folder.join("body");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    let upload = format!("@{}", file.display());
    let expect = ["--header", "Expect: 100-continue", "--expect100-timeout", "0.2"];
    let sent = curl(&[&expect[..], &["--data-binary", &upload, &url("/")]].concat());
    assert_eq!(sent, "POST / HTTP/1.1 1048576 bytes");
    let chunked = ["--header", "Transfer-Encoding: chunked", "--data-binary", &upload];
    assert_eq!(curl(&[&chunked[..], &[&url("/")]].concat()), "POST / HTTP/1.1 1048576 bytes");
    std::fs::remove_dir_all(folder).unwrap();
    let head = curl(&["--head", &url("/")]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let old = curl(&["--http1.0", &url("/")]);
    assert_eq!(old, "GET / HTTP/1.1 0 bytes");
    // One connection for several requests.
    let format = ["--write-out", "%{num_connects} "];
    let both = curl(&[&format[..], &[&url("/1"), &url("/2")]].concat());
    assert_eq!(both, "GET /1 HTTP/1.1 0 bytes1 GET /2 HTTP/1.1 0 bytes0 ");
    assert_eq!(web.connections(), 1);
}
