//! The command line of the built binary: exit codes, what goes where, and readers that leave.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind under target/ harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const GOOD: &str = r#"
[runtime]
max_connections = 100

[[listener]]
name = "devices"
bind = ["127.0.0.1:9000"]
protocol = "frame"
pool = "c2s"

[listener.frame]
header = ">ccHH"
fields = ["type", "version", "time", "length"]
key = "json:devid"

[pool.c2s]
balance = "crc32_mod"
backends = ["10.0.0.1:1000", "10.0.0.2:1000", "10.0.0.3:1000"]
"#;

const SECOND_LISTENER: &str = r#"
[[listener]]
name = "plain"
bind = ["127.0.0.1:9001"]
protocol = "tcp"
pool = "any"

[pool.any]
balance = "round_robin"
backends = ["10.0.0.4:1000"]
"#;

fn corelane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    corelane(arguments).output().expect("the command starts")
}

fn run_with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = corelane(arguments).stdin(Stdio::piped()).spawn().expect("the command starts");
    child.stdin.take().expect("its input").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[track_caller]
fn assert_ends(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", out(output), err(output));
}

#[test]
fn version_is_one_line() {
    let output = run(&["--version"]);
    assert_ends(&output, 0);
    assert_eq!(out(&output), format!("corelane {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn check_of_a_good_file_says_what_it_amounts_to() {
    let folder = Folder::new();
    let file = folder.file("good.toml", GOOD.replace("[runtime]", "[runtime]\ncores = [0]"));
    let output = run(&["check", "-c", &file]);
    assert_ends(&output, 0);
    let expected = "ok: 1 listener, 1 pool, 3 backends, 1 shard, 100 connections, 373 file \
                    descriptors";
    assert_eq!(out(&output), format!("{file}: {expected}\n"));
    assert_eq!(err(&output), "");
}

#[test]
fn check_says_1_backend() {
    let folder = Folder::new();
    let one = GOOD.replace(", \"10.0.0.2:1000\", \"10.0.0.3:1000\"", "");
    let file = folder.file("one.toml", one.replace("= 100", "= 1\ncores = [0]"));
    let output = run(&["check", "-c", &file]);
    assert_ends(&output, 0);
    let expected = "ok: 1 listener, 1 pool, 1 backend, 1 shard, 1 connection, ";
    assert!(out(&output).contains(expected), "{}", out(&output));
}

#[test]
fn check_says_that_backends_come_from_elsewhere() {
    let folder = Folder::new();
    let source = "[pool.c2s.source]\nkind = \"file\"\npath = \"b.json\"\n";
    let file = folder.file("source.toml", format!("{GOOD}{source}"));
    let output = run(&["check", "-c", &file]);
    assert_ends(&output, 0);
    let printed = out(&output);
    assert!(printed.contains("1 pool, 3 backends, 1 source, "), "{printed}");
    let output = run(&["check", "--format", "json", "-c", &file]);
    let result: serde_json::Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!(result["summary"]["sources"], 1);
}

#[test]
fn check_prints_warnings_and_stays_good() {
    let folder = Folder::new();
    let spare = "[pool.spare]\nbalance = \"random\"\nbackends = [\"10.0.0.9:1\"]\n";
    let file = folder.file("warn.toml", format!("{GOOD}{spare}"));
    let output = run(&["check", "-c", &file]);
    assert_ends(&output, 0);
    let printed = out(&output);
    let first = printed.lines().next().expect("a line");
    assert!(
        first.starts_with(&format!("{file}:19:7: warning: pool.spare: no listener")),
        "{first}"
    );
    assert!(printed.lines().nth(1).expect("a line").contains(": ok: "), "{printed}");
}

#[test]
fn check_of_a_faulty_file_prints_every_fault() {
    let folder = Folder::new();
    let file = folder.file(
        "bad.toml",
        GOOD.replace("max_connections = 100", "max_connection = 100\ndrain_timeout = 5"),
    );
    let output = run(&["check", "-c", &file]);
    assert_ends(&output, 1);
    let lines: Vec<String> = out(&output).lines().map(str::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with(&format!("{file}:3:1: runtime.max_connection: unknown key")));
    assert!(lines[1].starts_with(&format!("{file}:4:17: runtime.drain_timeout: a duration needs")));
    for command in [&["run"][..], &["route", "key"], &["explain", "--frame", "-"]] {
        let output = run(&[command, &["-c", &file]].concat());
        assert_ends(&output, 1);
        assert_eq!(out(&output), "");
        assert_eq!(err(&output).lines().collect::<Vec<_>>(), lines, "{command:?}");
    }
}

#[test]
fn check_speaks_json() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    let output = run(&["check", "--format", "json", "-c", &good]);
    assert_ends(&output, 0);
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["ok"], true);
    assert_eq!(result["file"], *good);
    assert_eq!(result["summary"]["backends"], 3);
    assert_eq!(result["faults"], serde_json::json!([]));

    let bad = folder.file("bad.toml", GOOD.replace("crc32_mod", "crc32_mot"));
    let output = run(&["check", "--format", "json", "-c", &bad]);
    assert_ends(&output, 1);
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["ok"], false);
    assert_eq!(result["summary"], Value::Null);
    let fault = &result["faults"][0];
    assert_eq!(fault["line"], 17);
    assert_eq!(fault["column"], 11);
    assert_eq!(fault["path"], "pool.c2s.balance");
    assert_eq!(fault["found"], "\"crc32_mot\"");
    assert_eq!(fault["near"], "\"crc32_mod\"");
}

#[test]
fn keys_of_an_http_listener_without_pools_go_nowhere() {
    let folder = Folder::new();
    let file = folder.file(
        "web.toml",
        "[[listener]]\nname = \"web\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\n\
         [[listener.http.rule]]\nreply = { status = 204 }\n",
    );
    let checked = run(&["check", "-c", &file]);
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    let placed = run(&["route", "-c", &file, "key"]);
    assert_eq!(String::from_utf8_lossy(&placed.stdout), "key\t-\t-\n");
}

#[test]
fn what_cannot_run_exits_2() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    let two = folder.file("two.toml", format!("{GOOD}{SECOND_LISTENER}"));
    let absent = folder.0.join("absent.toml").display().to_string();
    let directory = folder.0.display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["check", "-c", &absent], "No such file"),
        (&["run", "-c", &absent], "No such file"),
        (&["check", "-c", &directory], "directory"),
        (&["check"], "--config"),
        (&["chekc", "-c", &good], "check"),
        (&["route", "-c", &good], "KEY"),
        (&["route", "-c", &good, "--listener", "other", "key"], "valid: devices"),
        (&["route", "-c", &two, "key"], "choose one with --listener: devices, plain"),
        (&["explain", "-c", &good, "--frame", &absent], "No such file"),
        (&["explain", "-c", &two, "--listener", "plain", "--frame", "-"], "reads no frames"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert_ends(&output, 2);
        assert_eq!(out(&output), "", "{arguments:?}");
        assert!(err(&output).contains(expected), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn endless_input_is_refused_and_not_read_whole() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    let long = folder.file("long.toml", format!("{GOOD}{}", "#\n".repeat(1 << 19)));
    let cases: &[(&[&str], &str)] = &[
        (&["check", "-c", "/dev/zero"], "cannot read /dev/zero: over 1048576 bytes"),
        (&["run", "-c", "/dev/zero"], "cannot read /dev/zero: over 1048576 bytes"),
        (&["check", "-c", &long], "over 1048576 bytes"),
        (&["explain", "-c", &good, "--frame", "/dev/zero"], "/dev/zero: over 16777216 bytes"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert_ends(&output, 2);
        assert_eq!(out(&output), "", "{arguments:?}");
        assert!(err(&output).contains(expected), "{arguments:?}: {}", err(&output));
    }
    let zeros = File::open("/dev/zero").expect("/dev/zero");
    let explain = ["explain", "-c", &good, "--frame", "-"];
    let output = corelane(&explain).stdin(zeros).output().expect("it ends");
    assert_ends(&output, 2);
    assert!(err(&output).contains("standard input: over 67108864 bytes"), "{}", err(&output));
    // As long as it may be.
    let padding = (1 << 20) - GOOD.len();
    let full = folder.file("full.toml", format!("{GOOD}{}", "\n".repeat(padding)));
    assert_ends(&run(&["check", "-c", &full]), 0);
}

#[test]
fn route_prints_a_line_per_key() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    // crc32: 1459567867 % 3 = 1, 3002054893 % 3 = 1, 4289425978 % 3 = 1, 0xCBF43926 % 3 = 2.
    let expected = "dev-0001\tc2s\t10.0.0.2:1000\n868120212345678\tc2s\t10.0.0.2:1000\n\
                    hello, world\tc2s\t10.0.0.2:1000\n123456789\tc2s\t10.0.0.3:1000\n";
    let keys = ["dev-0001", "868120212345678", "hello, world", "123456789"];
    let output = run(&[&["route", "-c", &good][..], &keys].concat());
    assert_ends(&output, 0);
    assert_eq!(out(&output), expected);
    let output = run_with_input(&["route", "-c", &good, "-"], keys.join("\n").as_bytes());
    assert_ends(&output, 0);
    assert_eq!(out(&output), expected);
    // Lines of a file from elsewhere.
    let output = run_with_input(&["route", "-c", &good, "-"], keys.join("\r\n").as_bytes());
    assert_ends(&output, 0);
    assert_eq!(out(&output), expected);
}

#[test]
fn a_line_of_route_has_three_fields_whatever_is_in_the_key() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    let cases: &[(&[u8], &str)] = &[
        // What can be read stays as it is.
        (b"a\\tb", "a\\tb"),
        ("\"gerät\" 設備 e\u{301} ' ".as_bytes(), "\"gerät\" 設備 e\u{301} ' "),
        (b"a\tb", "a\\tb"),
        (b"\t\t", "\\t\\t"),
        (b"a\rb\r\r", "a\\rb\\r"),
        (b"\x1b[31m\x00\x7f", "\\u{1b}[31m\\u{0}\\u{7f}"),
        ("\u{9b}\u{202e}\u{200b}".as_bytes(), "\\u{9b}\\u{202e}\\u{200b}"),
        (b"\xff\xfe-1", "\\xff\\xfe-1"),
    ];
    for (key, printed) in cases {
        let output = run_with_input(&["route", "-c", &good, "-"], &[key, &b"\n"[..]].concat());
        assert_ends(&output, 0);
        let text = out(&output);
        let fields: Vec<&str> = text.strip_suffix('\n').expect("a line").split('\t').collect();
        assert_eq!(fields.len(), 3, "{text:?}");
        assert_eq!(fields[..2], [*printed, "c2s"], "{text:?}");
    }
    // A line feed can come in an argument only. The hash is that of the key itself.
    let output = run(&["route", "-c", &good, "dev\n0001"]);
    assert_ends(&output, 0);
    let home = crc32fast::hash(b"dev\n0001") % 3 + 1;
    assert_eq!(out(&output), format!("dev\\n0001\tc2s\t10.0.0.{home}:1000\n"));
}

#[test]
fn route_needs_a_listener_only_where_it_matters() {
    let folder = Folder::new();
    let two = folder.file("two.toml", format!("{GOOD}{SECOND_LISTENER}"));
    let output = run(&["route", "-c", &two, "--listener", "plain", "key"]);
    assert_ends(&output, 0);
    assert_eq!(out(&output), "key\tany\t10.0.0.4:1000\n");
    let (listener, _) = SECOND_LISTENER.split_once("[pool").expect("a pool");
    let listener = listener.replace("any", "c2s") + "[listener.tcp]\nkey = \"client_ip\"\n";
    let shared = folder.file("shared.toml", format!("{GOOD}{listener}"));
    let output = run(&["route", "-c", &shared, "123456789"]);
    assert_ends(&output, 0);
    assert_eq!(out(&output), "123456789\tc2s\t10.0.0.3:1000\n");
}

/// A login frame of device "dev-0001".
const FRAME: &[u8] = b"\x01\x01\x00\x1e\x00\x14{\"devid\":\"dev-0001\"}";

#[test]
fn explain_takes_bytes_from_a_file_and_hexadecimal_from_input() {
    let folder = Folder::new();
    let two = folder.file("two.toml", format!("{GOOD}{SECOND_LISTENER}"));
    let frame = folder.file("frame.bin", FRAME);
    // Only one of the listeners reads frames, so it need not be named.
    let output = run(&["explain", "-c", &two, "--frame", &frame]);
    assert_ends(&output, 0);
    let page = out(&output);
    for part in ["devices", "dev-0001", "1459567867", "10.0.0.2:1000"] {
        assert!(page.contains(part), "{part} in\n{page}");
    }
    let digits: Vec<String> = FRAME.iter().map(|byte| format!("{byte:02X}")).collect();
    for between in ["", " ", "\n"] {
        let input = digits.join(between);
        let output = run_with_input(&["explain", "-c", &two, "--frame", "-"], input.as_bytes());
        assert_ends(&output, 0);
        assert_eq!(out(&output), page);
    }
}

#[test]
fn explain_refuses_what_is_not_hexadecimal() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    for (input, expected) in [("01 0x", "'x' at character 5"), ("010", "ends within a byte")] {
        let output = run_with_input(&["explain", "-c", &good, "--frame", "-"], input.as_bytes());
        assert_ends(&output, 2);
        assert!(err(&output).contains(expected), "{}", err(&output));
    }
}

#[test]
fn the_schema_is_one_and_describes_the_file() {
    let output = run(&["config", "schema"]);
    assert_ends(&output, 0);
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["listener"]));
    let pool = &schema["properties"]["pool"]["additionalProperties"]["properties"];
    assert_eq!(pool["retries"]["maximum"], 16);
    assert_eq!(pool["balance"]["enum"][0], "crc32_mod");
    for property in pool.as_object().expect("pools have keys").values() {
        assert!(property["description"].as_str().is_some_and(|text| text.len() > 10), "{property}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    // Far more than a pipe holds, so that the command is still writing when its reader is gone.
    let keys = "868120212345678\n".repeat(200_000);
    let keys = folder.file("keys", keys);
    for arguments in [&["route", "-c", &good, "-"][..], &["config", "schema"]] {
        let mut child = corelane(arguments)
            .stdin(File::open(&keys).expect("the keys"))
            .spawn()
            .expect("the command starts");
        let mut first = [0];
        let mut stdout = child.stdout.take().expect("its output");
        stdout.read_exact(&mut first).expect("a byte");
        drop(stdout);
        let output = child.wait_with_output().expect("it ends");
        assert_ends(&output, 0);
        assert_eq!(err(&output), "", "{arguments:?}");
    }
    // Closed from the start, the verdict of a check still is its exit code.
    let bad = folder.file("bad.toml", "");
    for (file, code) in [(&good, 0), (&bad, 1)] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = corelane(&["check", "-c", file]).stdout(writer).status().expect("it ends");
        assert_eq!(status.code(), Some(code));
    }
}

#[test]
fn output_that_cannot_be_written_exits_2() {
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full");
    let folder = Folder::new();
    let good = folder.file("good.toml", GOOD);
    let commands =
        [&["check", "-c", &good][..], &["route", "-c", &good, "key"], &["config", "schema"]];
    for arguments in commands {
        let output = corelane(arguments).stdout(full()).output().expect("it ends");
        assert_ends(&output, 2);
        assert!(err(&output).contains("cannot write standard output"), "{}", err(&output));
    }
}
