//! The benchmark's load: what it counts, and what it counts as an error. Nothing is said about
//! speed: machines that run tests are busy.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// An address nobody listens on just now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn load(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane-bench"));
    command.arg("load").args(arguments.split_whitespace()).stdin(Stdio::null());
    command.output().unwrap()
}

fn direct(arguments: &str) -> Value {
    let backend = free_address();
    let output = load(&format!("{arguments} --direct --backends {backend}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A target that changes one byte of every login.
fn lying_about_logins() -> SocketAddr {
    let liar = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = liar.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in liar.incoming().map_while(Result::ok) {
            let mut login = [0; 128];
            if stream.read_exact(&mut login).is_ok() {
                login[100] ^= 1;
                // The load may be over.
                let _ = stream.write_all(&login);
            }
        }
    });
    address
}

fn number(result: &Value, pointer: &str) -> f64 {
    result.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {result}"))
}

#[test]
fn messages_are_echoed_and_timed() {
    for spin in ["", "--spin"] {
        let result = direct(&format!(
            "messages --connections 5 --idle 3 --warmup 50ms --duration 300ms {spin}"
        ));
        assert_eq!(result["errors"], serde_json::json!({}));
        assert!(number(&result, "/completed") > 5.0);
        assert!(number(&result, "/latency_us/p50") > 0.0);
        assert_eq!(result["percentiles"].as_array().unwrap().len(), 60);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let result =
        direct("messages --connections 10 --rate 500/s --warmup 100ms --duration 1s --spin");
    assert_eq!(result["errors"], serde_json::json!({}));
    // A late machine finishes what was intended a little later.
    let completed = number(&result, "/completed");
    assert!((300.0..=700.0).contains(&completed), "{result}");
}

#[test]
fn connections_follow_each_other_and_leave_no_time_wait() {
    let backend = free_address();
    let output = load(&format!(
        "connects --parallel 4 --warmup 50ms --duration 300ms --direct --backends {backend}"
    ));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["errors"], serde_json::json!({}));
    assert!(number(&result, "/completed") > 4.0);
    assert!(number(&result, "/first_echo_us/p50") > 0.0);
    let port = format!(":{:04X}", backend.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let waiting = table.lines().filter(|line| line.contains(&port) && line.contains(" 06 "));
    assert_eq!(waiting.count(), 0);
}

#[test]
fn a_flood_comes_back_whole() {
    let result = direct("bulk --connections 2 --warmup 50ms --duration 300ms");
    assert_eq!(result["errors"], serde_json::json!({}));
    assert!(number(&result, "/megabytes_per_second") > 1.0);
}

#[test]
fn silent_devices_stay_until_standard_input_ends() {
    let result = direct("idle --count 20");
    assert_eq!(number(&result, "/completed"), 20.0);
}

/// A target that takes everything and says nothing after the login.
#[test]
fn what_is_never_answered_is_an_error() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in mute.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut login = [0; 128];
                let echoed = stream.read_exact(&mut login).and_then(|()| stream.write_all(&login));
                // Reads on, so that nobody is held up.
                let _ = echoed.and_then(|()| stream.read_to_end(&mut Vec::new()));
            });
        }
    });
    let backend = free_address();
    let common = format!("--backends {backend} --warmup 0s --duration 300ms --connections 3");
    let output = load(&format!("messages --target {address} {common}"));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&result, "/errors/unanswered"), 3.0, "{result}");
}

/// A target that changes a byte of what it echoes, and one that does not listen.
#[test]
fn what_is_not_an_echo_is_an_error() {
    let liar = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = liar.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in liar.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut frame = [0; 128];
                while stream.read_exact(&mut frame).is_ok() {
                    if frame[0] != 1 {
                        frame[6] ^= 0xff;
                    }
                    if stream.write_all(&frame).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let backend = free_address();
    let common = format!("--backends {backend} --warmup 0s --duration 300ms --connections 2");
    let output = load(&format!("messages --target {address} {common}"));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&result, "/errors/corrupt"), 2.0, "{result}");
    let output = load(&format!(
        "connects --target {} --parallel 2 --warmup 0s --duration 300ms --backends {backend}",
        lying_about_logins()
    ));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&result, "/completed"), 0.0, "{result}");
    assert!(number(&result, "/errors/corrupt") > 0.0, "{result}");
    let output = load(&format!("messages --target {} {common}", free_address()));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"));
}

#[test]
fn requests_are_answered_and_messages_upgraded() {
    for requests in ["--method get", "--method post --header server --places 64", ""] {
        let result =
            direct(&format!("requests --connections 5 {requests} --warmup 50ms --duration 300ms"));
        assert_eq!(result["errors"], serde_json::json!({}));
        assert!(number(&result, "/completed") > 5.0);
        assert!(number(&result, "/latency_us/p50") > 0.0);
    }
    for spin in ["", "--spin --message-bytes 200"] {
        let result = direct(&format!(
            "messages --upgrade --connections 5 --warmup 50ms --duration 300ms {spin}"
        ));
        assert_eq!(result["errors"], serde_json::json!({}));
        assert!(number(&result, "/completed") > 5.0);
    }
}

/// A target that answers every request in this way.
fn answering(answer: &'static str) -> SocketAddr {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in target.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 1024];
                while stream.read(&mut request).is_ok_and(|n| n > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn answers_that_are_none_are_errors() {
    let cases = [
        ("requests", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "status_5xx"),
        ("requests", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "chunked"),
        ("requests", "HTTP/1.1 200 OK\r\n\r\n", "no_length"),
        ("requests", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "corrupt"),
        // The first request has number 0, whose place belongs to backend 0.
        (
            "requests",
            "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n0000000000000000 0001\n",
            "corrupt",
        ),
        ("messages --upgrade", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "not_upgraded"),
        ("messages --upgrade", "HTTP/1.1 101 Hello\r\n\r\n", "accept"),
    ];
    for (kind, answer, fault) in cases {
        let (target, backend) = (answering(answer), free_address());
        let arguments = format!("{kind} --connections 1 --target {target} --backends {backend}");
        let output = load(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{answer}");
        assert!(stderr.contains(&format!("could not log in: {fault}")), "{answer}: {stderr}");
    }
}

/// A target that ends each connection with its first answer.
#[test]
fn connections_that_end_in_order_follow_each_other() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in target.incoming().map_while(Result::ok) {
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..n]).into_owned();
            let number = text.split(['/', ' ']).nth(3).unwrap_or_default();
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 22\r\nConnection: close";
            let _over = write!(stream, "{head}\r\n\r\n{number} 0000\n");
        }
    });
    let backend = free_address();
    let output = load(&format!(
        "requests --connections 1 --warmup 0s --duration 300ms --target {address} \
         --backends {backend}"
    ));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["errors"], serde_json::json!({}), "{result}");
    assert!(number(&result, "/completed") > 2.0, "{result}");
}
