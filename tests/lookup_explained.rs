//! `corelane route` and `corelane explain` say what a lookup would be asked, and ask nobody.

mod gateway;

use std::process::{Command, Stdio};

use gateway::client::login;
use gateway::looked_up::config;

/// Output of `corelane` with a configuration and what it gets on standard input.
fn corelane(toml: &str, arguments: &[&str], input: &[u8]) -> String {
    let directory = gateway::directory();
    let file = directory.join("corelane.toml");
    std::fs::write(&file, toml).unwrap();
    std::fs::write(directory.join("input"), input).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .arg(arguments[0])
        .arg("-c")
        .arg(&file)
        .args(&arguments[1..])
        .stdin(Stdio::from(std::fs::File::open(directory.join("input")).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_dir_all(directory).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

// Nobody is at these addresses.
const REDIS: &str = "kind = \"redis\"\nurl = \"redis://127.0.0.1:9/0\"\nkey = \"nodes\"\n\
                     field = \"{key}\"\nallow = [\"127.0.0.0/8\"]";
const DNS: &str = "kind = \"dns\"\nname = \"zone{key}\"\nsearch = \"fleet.test\"\nport = 8101\n\
                   resolvers = [\"127.0.0.1:9\"]";

#[test]
fn routes() {
    let redis = corelane(&config(REDIS), &["route", "8612", "with blank"], b"");
    assert_eq!(redis, "8612\tnodes\tredis HGET nodes 8612\nwith blank\tnodes\t-\n");
    let dns = corelane(&config(DNS), &["route", "-"], b"12\n1.evil\n");
    assert_eq!(dns, "12\tnodes\tdns zone12.fleet.test, port 8101\n1.evil\tnodes\t-\n");
    let system = DNS.replace("\"fleet.test\"", "\"resolv.conf\"");
    let dns = corelane(&config(&system), &["route", "12"], b"");
    assert_eq!(dns, "12\tnodes\tdns zone12.(search domain), port 8101\n");
}

#[test]
fn frames_are_explained() {
    let explained = |id: &str| {
        let hex: String = login(id).iter().map(|byte| format!("{byte:02x}")).collect();
        corelane(&config(REDIS), &["explain", "--frame", "-"], hex.as_bytes())
    };
    let good = explained("8612");
    assert!(good.contains("lookup   nodes\nasks     redis HGET nodes 8612\n"), "{good}");
    let bad = explained("with blank");
    assert!(bad.contains("closed: lookup_name_invalid"), "{bad}");
    assert!(bad.contains("byte_not_allowed"), "{bad}");
}
