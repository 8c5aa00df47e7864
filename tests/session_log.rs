//! The session log: one readable JSON line per record whatever the key is, and a target that
//! stalls or fails costs lines, never the time of whoever logs.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, UNIX_EPOCH};

use corelane::config;
use corelane::end::{End, Placement};
use corelane::log::{LogCells, SessionLogSender, SessionLogWriter, SessionRecord};
use serde_json::{Value, json};

/// Longest a test waits for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// A directory of one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("corelane-session-log-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory");
        Directory(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn fifo(&self) -> PathBuf {
        let path = self.file("fifo");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Log {
    writer: SessionLogWriter,
    senders: Vec<SessionLogSender>,
    cells: Arc<LogCells>,
}

impl Log {
    fn start(shards: usize, sessions: config::SessionLog, queue: usize) -> Log {
        let config = config::Log { level: tracing::Level::INFO, sessions, queue };
        let cells = Arc::new(LogCells::default());
        let (writer, senders) =
            SessionLogWriter::start(shards, &config, cells.clone()).expect("a log");
        assert_eq!(senders.len(), shards);
        Log { writer, senders, cells }
    }

    fn to_file(shards: usize, path: &Path) -> Log {
        Log::start(shards, config::SessionLog::File(path.into()), 4096)
    }
}

fn record(key: &[u8]) -> Box<SessionRecord> {
    Box::new(SessionRecord {
        ended: UNIX_EPOCH + Duration::from_millis(1_772_353_800_125),
        listener: "devices".into(),
        client: None,
        via: None,
        key: key.into(),
        pool: None,
        backend: None,
        placement: None,
        end: End::PrefaceSilent,
        attempts: 0,
        bytes_in: 0,
        bytes_out: 0,
        preface: None,
        connect: None,
        duration: Duration::from_millis(5000),
        table_version: 1,
        shard: 0,
    })
}

fn numbered(number: u64) -> Box<SessionRecord> {
    let mut record = record(b"key");
    record.bytes_in = number;
    record
}

/// Every line of a text; each must be a JSON object.
fn parse(text: &[u8]) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is complete");
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| match serde_json::from_slice(line) {
            Ok(value @ Value::Object(_)) => value,
            other => panic!("{other:?}: {}", String::from_utf8_lossy(line)),
        })
        .collect()
}

fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["bytes_in"].as_u64().expect("a number")).collect()
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Opens a FIFO for reading without waiting for a writer.
fn open_reader(fifo: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK).open(fifo).expect("the reading end")
}

/// Appends what the FIFO holds now; `false` when the writer is gone.
fn drain(reader: &mut File, text: &mut Vec<u8>) -> bool {
    let mut piece = [0; 65_536];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return false,
            Ok(len) => text.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_line_says_everything_that_is_known() {
    let directory = Directory::new();
    let path = directory.file("sessions.log");
    let log = Log::to_file(1, &path);
    let full = SessionRecord {
        client: Some("192.0.2.7:40312".parse().expect("an address")),
        via: Some("[2001:db8::1]:7".parse().expect("an address")),
        pool: Some("c2s".into()),
        backend: Some("127.0.0.1:1000".into()),
        placement: Some(Placement::Home),
        end: End::ClientFin,
        attempts: 1,
        bytes_in: 5120,
        bytes_out: u64::MAX,
        preface: Some(Duration::from_micros(412)),
        connect: Some(Duration::from_nanos(87_900)),
        duration: Duration::from_millis(7_200_134),
        table_version: 3,
        shard: 2,
        ..*record(b"860123456789012")
    };
    assert!(log.senders[0].is_on());
    assert!(log.senders[0].push(Box::new(full)));
    assert!(log.senders[0].push(record(b"")));
    assert!(log.writer.finish());
    let lines = parse(&std::fs::read(&path).expect("the file"));
    let full = json!({
        "time": "2026-03-01T08:30:00.125Z", "event": "session", "listener": "devices",
        "client": "192.0.2.7:40312", "via": "[2001:db8::1]:7", "key": "860123456789012",
        "pool": "c2s", "backend": "127.0.0.1:1000", "placement": "home", "end": "client_fin",
        "side": "client", "attempts": 1, "bytes_in": 5120, "bytes_out": u64::MAX,
        "preface_ms": 0.412, "connect_ms": 0.087, "duration_ms": 7_200_134.0, "table": 3,
        "shard": 2,
    });
    let least = json!({
        "time": "2026-03-01T08:30:00.125Z", "event": "session", "listener": "devices",
        "end": "preface_silent", "side": "client", "attempts": 0, "bytes_in": 0, "bytes_out": 0,
        "duration_ms": 5000.0, "table": 1, "shard": 0,
    });
    assert_eq!(lines, [full, least]);
    let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o007, 0, "keys are not for everybody");
}

#[test]
fn a_clock_that_is_wrong_does_no_harm() {
    let directory = Directory::new();
    let path = directory.file("sessions.log");
    let log = Log::to_file(1, &path);
    let century = Duration::from_secs(100 * 365 * 86_400);
    for ended in [UNIX_EPOCH - century, UNIX_EPOCH, UNIX_EPOCH + 100 * century] {
        assert!(log.senders[0].push(Box::new(SessionRecord { ended, ..*record(b"k") })));
    }
    assert!(log.writer.finish());
    let lines = parse(&std::fs::read(&path).expect("the file"));
    let times: Vec<_> = lines.iter().map(|line| &line["time"]).collect();
    let (first, last) = ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.000Z");
    assert_eq!(times, [first, first, last]);
}

/// splitmix64, for keys.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Keys meant to break a line, a terminal or a JSON reader.
fn hostile_keys(seed: u64) -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![b'a', byte, b'z']).collect();
    let texts = [
        "\"}\n{\"event\":\"session\"}",
        "\u{1b}[2J\u{9b}31m",
        "\u{202e}live\u{2066}",
        "\u{2028}\u{2029}\u{feff}\u{200b}",
        "\u{e0041}\u{e007f}",
        "\\u000a",
        "日本語 é 🦀",
        "\0",
    ];
    keys.extend(texts.iter().map(|text| text.as_bytes().to_vec()));
    let mut random = Random(seed);
    for _ in 0..2000 {
        let len = random.next() % 257;
        // Half of them text of all planes, half of them any bytes.
        if random.next().is_multiple_of(2) {
            let characters =
                (0..len / 4).filter_map(|_| char::from_u32(random.next() as u32 >> 11));
            keys.push(characters.collect::<String>().into_bytes());
        } else {
            keys.push((0..len).map(|_| random.next() as u8).collect());
        }
    }
    keys
}

#[test]
fn any_key_is_one_harmless_line_and_reads_back_as_it_was() {
    let seed = 20_260_301;
    println!("seed {seed}");
    let keys = hostile_keys(seed);
    let directory = Directory::new();
    let path = directory.file("sessions.log");
    let log = Log::to_file(1, &path);
    for key in &keys {
        assert!(log.senders[0].push(record(key)));
    }
    assert!(log.writer.finish());
    let text = String::from_utf8(std::fs::read(&path).expect("the file")).expect("UTF-8");
    for hidden in text.chars().filter(|c| *c != '\n') {
        assert!(!hidden.is_control(), "{hidden:?} is written as it is");
        assert!(!"\u{2028}\u{202e}\u{2066}\u{200b}\u{feff}\u{e0041}".contains(hidden));
    }
    assert!(text.contains("日本語 é 🦀"), "readable text stays readable");
    let lines = parse(text.as_bytes());
    assert_eq!(lines.len(), keys.len());
    for (line, key) in lines.iter().zip(&keys) {
        let read = match (&line["key"], &line["key_hex"]) {
            (Value::String(text), Value::Null) => text.clone().into_bytes(),
            (Value::Null, Value::String(hex)) => {
                assert!(std::str::from_utf8(key).is_err(), "text is shown as text");
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
                (0..hex.len()).step_by(2).map(byte).collect()
            }
            (Value::Null, Value::Null) => Vec::new(),
            both => panic!("{both:?}"),
        };
        assert_eq!(&read, key);
    }
}

#[test]
fn finish_writes_what_all_shards_left() {
    let directory = Directory::new();
    let path = directory.file("sessions.log");
    let log = Log::to_file(3, &path);
    let pushers: Vec<_> = log
        .senders
        .into_iter()
        .enumerate()
        .map(|(shard, sender)| {
            std::thread::spawn(move || {
                for number in 0..4096 {
                    let record = SessionRecord { shard, ..*numbered(number) };
                    assert!(sender.push(Box::new(record)), "the queue holds them all");
                }
            })
        })
        .collect();
    for pusher in pushers {
        pusher.join().expect("a pusher");
    }
    assert!(log.writer.finish());
    let lines = parse(&std::fs::read(&path).expect("the file"));
    for shard in 0..3u64 {
        let of_shard: Vec<_> =
            lines.iter().filter(|line| line["shard"] == shard).cloned().collect();
        assert_eq!(numbers(&of_shard), (0..4096).collect::<Vec<_>>(), "in order, shard {shard}");
    }
}

#[test]
fn lines_appear_without_anybody_asking() {
    let directory = Directory::new();
    let path = directory.file("sessions.log");
    std::fs::write(&path, "{\"before\":true}\n").expect("a file");
    let log = Log::to_file(1, &path);
    assert!(log.senders[0].push(record(b"k")));
    until("a second line", || parse(&std::fs::read(&path).expect("the file")).len() == 2);
    drop(log.senders);
    assert!(log.writer.finish());
    let lines = parse(&std::fs::read(&path).expect("the file"));
    assert_eq!(lines[0], json!({"before": true}), "the file is appended to");
}

#[test]
fn a_stalled_reader_costs_lines_and_no_time() {
    let directory = Directory::new();
    let fifo = directory.fifo();
    let mut reader = open_reader(&fifo);
    let log = Log::start(1, config::SessionLog::File(fifo), 256);
    let (mut pushed, mut dropped, mut slowest) = (0u64, 0u64, Duration::ZERO);
    let deadline = Instant::now() + DEADLINE;
    // Until the FIFO, the batch on its way and the queue are full: then everything is dropped.
    let mut dropped_in_a_row = 0;
    while dropped_in_a_row < 100_000 {
        let record = numbered(pushed);
        let before = Instant::now();
        let taken = log.senders[0].push(record);
        slowest = slowest.max(before.elapsed());
        pushed += 1;
        dropped += u64::from(!taken);
        dropped_in_a_row = if taken { 0 } else { dropped_in_a_row + 1 };
        assert!(Instant::now() < deadline, "the queue never stayed full");
    }
    // Scheduling may cost some milliseconds; waiting for the reader would cost the deadline.
    assert!(slowest < Duration::from_secs(2), "a push took {slowest:?}");
    assert_eq!(log.cells.lost.load(Relaxed), 0, "a stall is not an error");

    // The reader comes back: everything that was taken arrives, whole and in order.
    let mut text = Vec::new();
    let finishing = std::thread::spawn(move || log.writer.finish());
    until("the end of the log", || !drain(&mut reader, &mut text));
    assert!(finishing.join().expect("finish returns"), "the sink took everything again");
    let numbers = numbers(&parse(&text));
    assert_eq!(numbers.len() as u64, pushed - dropped);
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, none twice");
}

#[test]
fn finish_gives_up_on_a_sink_that_takes_nothing() {
    let directory = Directory::new();
    let fifo = directory.fifo();
    let _reader = open_reader(&fifo);
    let log = Log::start(1, config::SessionLog::File(fifo), 4096);
    for number in 0..4096 {
        assert!(log.senders[0].push(numbered(number)));
    }
    let before = Instant::now();
    assert!(!log.writer.finish());
    let waited = before.elapsed();
    assert!((Duration::from_millis(900)..DEADLINE).contains(&waited), "waited {waited:?}");
}

/// The environment variable that makes a test its own child.
const CHILD: &str = "CORELANE_TEST_CHILD";

/// Runs one test of this program as a child, under a shell that has done `setup`.
fn run_as_child(setup: &str, test: &str) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new("sh")
        .args(["-c", &format!("{setup} exec \"$0\" --exact {test} --nocapture")])
        .arg(program)
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

#[test]
fn a_full_pipe_on_standard_output_blocks_nobody() {
    if std::env::var_os(CHILD).is_some() {
        let log = Log::start(1, config::SessionLog::Stdout, 256);
        let mut dropped_in_a_row = 0;
        while dropped_in_a_row < 100_000 {
            let taken = log.senders[0].push(numbered(1));
            dropped_in_a_row = if taken { 0 } else { dropped_in_a_row + 1 };
        }
        eprintln!("finished {}", log.writer.finish());
        // Not by returning: the test harness would write to the full pipe.
        std::process::exit(0);
    }
    let mut child = run_as_child("", "a_full_pipe_on_standard_output_blocks_nobody");
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child's state") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("the child ends");
            panic!("the child hangs on its standard output");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    let output = child.wait_with_output().expect("its output");
    assert!(status.success(), "{status}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("finished false"));
    // The harness speaks first; our lines, whole ones, fill the rest of the pipe.
    let lines: Vec<_> = output.stdout.split(|byte| *byte == b'\n').collect();
    let (_cut_off, lines) = lines.split_last().expect("lines");
    let ours: Vec<_> = lines.iter().filter(|line| line.starts_with(b"{")).collect();
    assert!(ours.len() > 100, "{} lines", ours.len());
    for line in ours {
        serde_json::from_slice::<Value>(line).expect("a whole line");
    }
}

#[test]
fn after_a_rename_reopen_goes_on_in_a_new_file() {
    let directory = Directory::new();
    let (path, renamed) = (directory.file("sessions.log"), directory.file("sessions.log.1"));
    let log = Log::to_file(1, &path);
    assert!(log.senders[0].push(numbered(0)));
    until("the first line", || !std::fs::read(&path).expect("the file").is_empty());
    std::fs::rename(&path, &renamed).expect("renamed");
    assert!(log.senders[0].push(numbered(1)));
    until("a line in the renamed file", || {
        parse(&std::fs::read(&renamed).expect("the file")).len() == 2
    });
    assert!(!path.exists(), "nobody asked yet");
    log.writer.reopen();
    until("a new file", || path.exists());
    assert!(log.senders[0].push(numbered(2)));
    assert!(log.writer.finish());
    assert_eq!(numbers(&parse(&std::fs::read(&renamed).expect("the file"))), [0, 1]);
    assert_eq!(numbers(&parse(&std::fs::read(&path).expect("the file"))), [2]);
    assert_eq!(log.cells.write_errors.load(Relaxed), 0);
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use() {
    let directory = Directory::new();
    let below = directory.file("below");
    std::fs::create_dir(&below).expect("a directory");
    let log = Log::to_file(1, &below.join("sessions.log"));
    let moved = directory.file("moved");
    std::fs::rename(&below, &moved).expect("renamed");
    log.writer.reopen();
    until("the failure is counted", || log.cells.write_errors.load(Relaxed) == 1);
    assert!(log.senders[0].push(numbered(7)));
    assert!(log.writer.finish());
    let lines = parse(&std::fs::read(moved.join("sessions.log")).expect("the file"));
    assert_eq!(numbers(&lines), [7]);
    assert_eq!(log.cells.lost.load(Relaxed), 0);
}

#[test]
fn a_full_disk_costs_lines_that_are_counted() {
    let log = Log::to_file(1, Path::new("/dev/full"));
    for number in 0..1000 {
        assert!(log.senders[0].push(numbered(number)));
    }
    until("every line is lost", || log.cells.lost.load(Relaxed) == 1000);
    assert!(log.cells.write_errors.load(Relaxed) >= 1);
    assert!(log.writer.finish());
}

#[test]
fn a_reader_that_leaves_and_another_that_comes_see_whole_lines() {
    let directory = Directory::new();
    let fifo = directory.fifo();
    let first = open_reader(&fifo);
    let log = Log::start(1, config::SessionLog::File(fifo.clone()), 4096);
    let mut number = 0;
    let mut fill = || {
        while log.senders[0].push(numbered(number)) && number < 4000 {
            number += 1
        }
    };
    fill();
    // The FIFO is full in the middle of a line when its reader goes away.
    let mut probe = OpenOptions::new();
    let mut probe = probe.write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).expect("a writer");
    until("not one byte fits", || probe.write(b"\n").is_err());
    drop((first, probe));
    until("lines are lost", || log.cells.lost.load(Relaxed) > 0);
    let mut second = open_reader(&fifo);
    let mut text = Vec::new();
    until("a new line arrives", || {
        let _ = log.senders[0].push(numbered(1_000_000));
        drain(&mut second, &mut text);
        text.ends_with(b"\n") && text.windows(7).any(|window| window == b"1000000")
    });
    let finishing = std::thread::spawn(move || log.writer.finish());
    until("the end of the log", || !drain(&mut second, &mut text));
    assert!(finishing.join().expect("finish returns"));
    assert!(!parse(&text).is_empty(), "every line is whole");
}

#[test]
fn a_line_torn_by_a_full_disk_does_not_spoil_the_next() {
    let name = "a_line_torn_by_a_full_disk_does_not_spoil_the_next";
    if let Some(path) = std::env::var_os("CORELANE_TEST_FILE") {
        let log = Log::to_file(1, Path::new(&path));
        for number in 0..1000 {
            assert!(log.senders[0].push(numbered(number)));
        }
        until("lines are lost", || log.cells.lost.load(Relaxed) > 0);
        eprintln!("full");
        // The parent makes room and says so.
        std::io::stdin().read_exact(&mut [0]).expect("a word from the parent");
        assert!(log.senders[0].push(numbered(1000)));
        assert!(log.writer.finish());
        eprintln!("lost {}", log.cells.lost.load(Relaxed));
        return;
    }
    let directory = Directory::new();
    let path = directory.file("sessions.log");
    // A limit on file sizes stands for the full disk: the write that reaches it is cut there.
    let setup = format!("trap '' XFSZ; ulimit -S -f 8; CORELANE_TEST_FILE='{}'", path.display());
    let mut child = run_as_child(&setup, name);
    let mut said = Vec::new();
    let mut stderr = child.stderr.take().expect("its standard error");
    until("the disk is full", || {
        let mut piece = [0; 256];
        let len = stderr.read(&mut piece).expect("readable");
        assert!(len > 0, "the child ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..len]);
        String::from_utf8_lossy(&said).contains("full\n")
    });
    let pid = child.id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
    assert!(raised.expect("prlimit runs").success());
    child.stdin.take().expect("its standard input").write_all(b"!").expect("said");
    stderr.read_to_end(&mut said).expect("the rest");
    assert!(child.wait().expect("the child's end").success());

    let text = std::fs::read(&path).expect("the file");
    let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.pop(), Some(&b""[..]), "the last line is complete");
    let whole = |line: &&[u8]| serde_json::from_slice::<Value>(line).ok();
    let last = lines.last().and_then(whole).expect("the line after the failure is whole");
    assert_eq!(last["bytes_in"], 1000);
    let numbers: Vec<_> = lines.iter().filter_map(whole).collect();
    assert_eq!(lines.len() - numbers.len(), 1, "one line is torn");
    let lost = 1001 - numbers.len();
    assert!(String::from_utf8_lossy(&said).contains(&format!("lost {lost}\n")), "{lost} lost");
}

#[test]
fn off_takes_records_and_does_nothing() {
    let log = Log::start(2, config::SessionLog::Off, 1);
    for sender in &log.senders {
        assert!(!sender.is_on());
        assert!((0..100).all(|_| sender.push(record(b"k"))), "nothing is ever full");
    }
    log.writer.reopen();
    assert!(log.writer.finish());
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let directory = Directory::new();
    let path = directory.file("absent/sessions.log");
    let sessions = config::SessionLog::File(path.clone());
    let config = config::Log { level: tracing::Level::INFO, sessions, queue: 1 };
    let error = SessionLogWriter::start(1, &config, Arc::default()).expect_err("no directory");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");

    let fifo = directory.fifo();
    let sessions = config::SessionLog::File(fifo);
    let config = config::Log { level: tracing::Level::INFO, sessions, queue: 1 };
    SessionLogWriter::start(1, &config, Arc::default()).expect_err("a FIFO nobody reads");
}
