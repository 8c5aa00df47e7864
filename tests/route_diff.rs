//! `corelane route --diff`: which keys move between two files, and what share of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("diff-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    /// A file with one listener and these pools; the listener uses the first.
    fn file(&self, name: &str, pools: &[(&str, &str, &[u16])]) -> String {
        let pool = |(name, settings, ports): &(&str, &str, &[u16])| {
            let backends: Vec<String> =
                ports.iter().map(|port| format!("\"10.0.0.1:{port}\"")).collect();
            format!("[pool.{name}]\n{settings}\nbackends = [{}]\n", backends.join(", "))
        };
        let listener = |(name, ..): &(&str, &str, &[u16])| {
            let port = 9_000 + name.len();
            format!(
                "[[listener]]\nname = \"l-{name}\"\nbind = [\"127.0.0.1:{port}\"]\n\
                 protocol = \"tcp\"\npool = \"{name}\"\n[listener.tcp]\nkey = \"client_ip\"\n"
            )
        };
        let text: String = pools.iter().map(listener).chain(pools.iter().map(pool)).collect();
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind under target/ harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn route(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_corelane"))
        .arg("route")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    // It may not read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("an end")
}

#[track_caller]
fn lines(output: &Output) -> Vec<Vec<String>> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect()
}

fn homes(file: &str, keys: &str) -> BTreeMap<String, String> {
    let routed = lines(&route(&["-c", file, "-"], keys));
    routed.into_iter().map(|line| (line[0].clone(), line[2].clone())).collect()
}

#[test]
fn keys_that_move_are_those_whose_route_differs() {
    let folder = Folder::new();
    let old = folder.file("old.toml", &[("a", "balance = \"ketama\"", &[1, 2, 3])]);
    let new = folder.file("new.toml", &[("a", "balance = \"ketama\"", &[3, 2, 4, 1])]);
    let keys: String = (0..500).map(|n| format!("192.0.2.{n}\n")).collect();
    let (before, after) = (homes(&old, &keys), homes(&new, &keys));
    let moved = lines(&route(&["--diff", &old, &new, "-"], &keys));
    let expected: Vec<Vec<String>> = keys
        .lines()
        .filter(|key| before[*key] != after[*key])
        .map(|key| vec![key.into(), "a".into(), before[key].clone(), after[key].clone()])
        .collect();
    assert_eq!(moved, expected);
    assert!((60..250).contains(&moved.len()), "{} of 500", moved.len());
    assert!(moved.iter().all(|line| line[3] == "10.0.0.1:4"), "only to the new one");
    // The same as arguments.
    let first = &*moved[0][0];
    assert_eq!(lines(&route(&["--diff", &old, &new, first], "")), [expected[0].clone()]);
}

#[test]
fn a_share_is_given_for_each_pool() {
    let folder = Folder::new();
    let old = folder.file(
        "old.toml",
        &[
            ("a", "balance = \"crc32_mod\"", &[1, 2, 3]),
            ("bb", "balance = \"rendezvous\"", &[1, 2, 3, 4]),
            ("ccc", "balance = \"least_conn\"", &[1]),
            ("dddd", "balance = \"maglev\"", &[1, 2]),
            ("eeeee", "balance = \"maglev\"", &[1, 2]),
        ],
    );
    let new = folder.file(
        "new.toml",
        &[
            ("a", "balance = \"crc32_mod\"", &[1, 2, 3, 4]),
            ("bb", "balance = \"rendezvous\"", &[4, 3, 2]),
            ("ccc", "balance = \"least_conn\"", &[1, 2]),
            ("dddd", "balance = \"maglev\"", &[2, 1]),
            ("ffffff", "balance = \"maglev\"", &[1]),
        ],
    );
    let shares = lines(&route(&["--diff", &old, &new, "--sample", "20000"], ""));
    let names: Vec<&str> = shares.iter().map(|line| &*line[0]).collect();
    assert_eq!(names, ["a", "bb", "ccc", "dddd", "ffffff", "eeeee"]);
    let percent = |line: &[String]| {
        assert!(line[2].ends_with(" of 20000 move"), "{line:?}");
        line[1].strip_suffix('%').expect("a share").parse::<f64>().expect("a number")
    };
    // Three quarters of all keys change their remainder; a quarter lost its backend.
    assert!((percent(&shares[0]) - 75.0).abs() < 1.5, "{shares:?}");
    assert!((percent(&shares[1]) - 25.0).abs() < 1.5, "{shares:?}");
    assert_eq!(shares[2][1], "no keys: least_conn does not look at them");
    assert!(percent(&shares[3]).abs() < 1e-9, "{shares:?}");
    assert_eq!((&*shares[4][1], &*shares[5][1]), ("added", "removed"));
    // One listener's pool, and the same keys each time.
    let named = ["--diff", &old, &new, "--sample", "20000", "--listener", "l-a"];
    assert_eq!(lines(&route(&named, "")), [shares[0].clone()]);
}

#[test]
fn what_a_state_or_a_policy_moves_is_counted() {
    let folder = Folder::new();
    let next = "balance = \"haproxy_consistent\"\non_down = \"next\"";
    let old = folder.file("old.toml", &[("a", next, &[1, 2, 3, 4])]);
    let down = std::fs::read_to_string(&old)
        .expect("the file")
        .replace("\"10.0.0.1:2\"", "{ address = \"10.0.0.1:2\", state = \"drain\" }");
    let drained = folder.0.join("drained.toml");
    std::fs::write(&drained, &down).expect("a file");
    let drained = drained.display().to_string();
    let rejecting = folder.0.join("rejecting.toml");
    std::fs::write(&rejecting, down.replace("\"next\"", "\"reject\"")).expect("a file");
    let rejecting = rejecting.display().to_string();
    let keys: String = (0..300).map(|n| format!("{n}\n")).collect();
    for (file, goes_to_none) in [(&drained, false), (&rejecting, true)] {
        let moved = lines(&route(&["--diff", &old, file, "-"], &keys));
        assert!(moved.len() > 20, "{moved:?}");
        assert!(moved.iter().all(|line| line[2] == "10.0.0.1:2"), "{moved:?}");
        assert!(moved.iter().all(|line| (line[3] == "-") == goes_to_none), "{moved:?}");
    }
}

#[test]
fn wrong_uses_are_told() {
    let folder = Folder::new();
    let keyed = folder.file("keyed.toml", &[("a", "balance = \"maglev\"", &[1])]);
    let unkeyed = folder.file("unkeyed.toml", &[("a", "balance = \"p2c\"", &[1])]);
    let broken = folder.0.join("broken.toml");
    std::fs::write(&broken, "[pool").expect("a file");
    let broken = broken.display().to_string();
    for (arguments, code, expected) in [
        (&["--diff", &keyed, &unkeyed, "key"][..], 2, "does not balance by key (p2c)"),
        (&["--diff", &keyed], 2, "2 values required"),
        (&["--diff", &keyed, &keyed, "-c", &keyed], 2, "cannot be used with"),
        (&["--diff", &keyed, &keyed, "--sample", "5", "key"], 2, "cannot be used with"),
        (&["--sample", "5", "-c", &keyed, "key"], 2, "--diff"),
        (&["-c", &keyed], 2, "KEY"),
        (&["key"], 2, "--config"),
        (&["--diff", &keyed, &broken, "key"], 1, "broken.toml:1"),
    ] {
        let output = route(arguments, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected) && output.stdout.is_empty(), "{arguments:?}: {said}");
    }
}
