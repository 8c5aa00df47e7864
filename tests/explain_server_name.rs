//! `corelane explain` and `corelane route` on listeners that are routed by server name: what they
//! say is what a running gateway does.

mod gateway;
mod tls;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use gateway::backend::Backend;
use gateway::{Gateway, ONE_SHARD};
use tls::{Authority, ClientSettings, connect};
use tokio_rustls::rustls::ClientConnection;

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn corelane(arguments: &[&str], input: &str) -> String {
    let output = run(arguments, input);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The first flight of a client that asks for a name, or for none.
fn hello(authority: &Authority, name: &str, sni: bool) -> Vec<u8> {
    let config = authority.client(&ClientSettings { sni, ..ClientSettings::default() });
    let name = name.to_owned().try_into().unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

fn config(addresses: &[String; 4], keys: &str) -> String {
    let [named, wild, one, two] = addresses;
    format!(
        "{ONE_SHARD}[[listener]]\nname = \"names\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\n\
         pool = \"rest\"\n[listener.tcp]\nkey = \"sni\"\n{keys}\n[listener.tcp.names]\n\
         \"a.test\" = \"named\"\n\"*.wild.test\" = \"wild\"\n\
         [pool.named]\nbalance = \"maglev\"\nbackends = [\"{named}\"]\n\
         [pool.wild]\nbalance = \"maglev\"\nbackends = [\"{wild}\"]\n\
         [pool.rest]\nbalance = \"maglev\"\nbackends = [\"{one}\", \"{two}\"]\n"
    )
}

#[test]
fn what_is_explained_is_what_happens() {
    let backends = [0; 4].map(|_| Backend::manual());
    let addresses = [0, 1, 2, 3].map(|index: usize| backends[index].address.to_string());
    let gateway = Gateway::start(&config(&addresses, ""));
    let file = gateway.directory().join("corelane.toml");
    let file = file.to_str().unwrap();
    let authority = Authority::new("test");
    for (name, entry) in [
        ("a.test", "names    a.test\n"),
        ("A.Test", "names    a.test\n"),
        ("x.wild.test", "names    *.wild.test\n"),
        ("wild.test", "names    no entry"),
        ("b.test", "names    no entry"),
        ("c.test", "names    no entry"),
    ] {
        let bytes = hello(&authority, name, true);
        let mut socket = connect(gateway.address("names"));
        socket.write_all(&bytes).unwrap();
        let line = corelane(&["route", "-c", file, name], "");
        let address = line.trim().rsplit('\t').next().unwrap();
        let index = addresses.iter().position(|other| other == address).expect(&line);
        assert_eq!(backends[index].accept().receive(bytes.len()), bytes, "{name}");
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        for page in [
            corelane(&["explain", "-c", file, "--server-name", name], ""),
            corelane(&["explain", "-c", file, "--hello", "-"], &digits),
        ] {
            assert!(page.contains(&format!("key      {}", name.to_lowercase())), "{page}");
            assert!(page.contains(entry), "{page}");
            assert!(page.contains(&format!("backend  {address}\n")), "{page}");
        }
    }
}

#[test]
fn clients_without_a_name_follow_missing_key() {
    let addresses = [1, 2, 3, 4].map(|port| format!("127.0.0.1:{port}"));
    let authority = Authority::new("test");
    let folder = gateway::directory();
    let (file, bytes) = (folder.join("names.toml"), folder.join("hello"));
    let (file, captured) = (file.to_str().unwrap(), bytes.to_str().unwrap());
    let nameless = hello(&authority, "a.test", false);
    for (keys, page_has, line) in [
        ("", "outcome  closed: key_missing", "\t-\t-\n"),
        ("missing_key = \"pool:wild\"", "pool     wild", "\twild\t127.0.0.1:2\n"),
    ] {
        std::fs::write(file, config(&addresses, keys)).unwrap();
        std::fs::write(captured, &nameless).unwrap();
        let page = corelane(&["explain", "-c", file, "--hello", captured], "");
        assert!(page.contains(page_has), "{page}");
        assert_eq!(corelane(&["route", "-c", file, ""], ""), line);
    }
    for (bytes, page_has) in [
        (&nameless[..50], "preface_timeout"),
        (&[], "preface_silent"),
        (b"GET / HTTP/1.1\r\n\r\n", "closed: tls_invalid"),
    ] {
        std::fs::write(captured, bytes).unwrap();
        let page = corelane(&["explain", "-c", file, "--hello", captured], "");
        assert!(page.contains(page_has), "{page}");
    }
    for arguments in [
        ["explain", "-c", file, "--server-name", "10.0.0.1"],
        ["explain", "-c", file, "--server-name", "a b"],
        ["explain", "-c", file, "--frame", captured],
    ] {
        let output = run(&arguments, "");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
