//! Guards the page: line length, file and function size, module docs, vocabulary, where unsafe is.

use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 500;

/// Words with a better one in this project, looked for in code we ship.
const BANNED: &[(&str, &str)] = &[
    ("upstream", "backend"),
    ("downstream", "client"),
    ("blazing", "a number"),
    ("todo!(", "the work"),
    ("unimplemented!(", "the work"),
    ("FIXME", "the work"),
    ("TODO", "the work"),
    ("#[ignore", "a test that runs"),
    ("dbg!(", "tracing"),
];

fn files(folder: &str, found: &mut Vec<PathBuf>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
}

fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in folders {
        files(folder, &mut found);
    }
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The part before the unit tests.
fn shipped(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn lines_files_and_docs() {
    let sources = sources(&["src", "loadgen", "benches", "tests"]);
    assert!(sources.len() > 60, "looked at {} files only", sources.len());
    let mut faults = Vec::new();
    for (path, text) in &sources {
        let path = path.display();
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX && !line.contains('"') {
                faults.push(format!("{path}:{}: over {COLUMNS_MAX} columns", number + 1));
            }
        }
        let lines = shipped(text).lines().count();
        if lines > LINES_MAX && !path.to_string().contains("/tests/") {
            faults.push(format!("{path}: {lines} lines before its tests, {LINES_MAX} at most"));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{path}: no module doc"));
        }
    }
    report(&faults);
}

#[test]
fn words() {
    let mut faults = Vec::new();
    for (path, text) in sources(&["src", "loadgen/src", "loadgen/bench", "benches"]) {
        // Writes nginx's configuration, in nginx's words.
        if path.ends_with("loadgen/bench/peers/nginx.rs")
            || path.ends_with("loadgen/bench/peers/nginx_http.rs")
            // Knows nginx's variables by their names.
            || path.ends_with("src/http/access/variable.rs")
        {
            continue;
        }
        for (number, line) in shipped(&text).lines().enumerate() {
            for (word, better) in BANNED {
                // Names of other programs' files are what they are.
                let line = line.replace(&format!("_{word}"), "");
                if line.contains(word) {
                    let path = path.display();
                    faults.push(format!("{path}:{}: {word:?}: say {better}", number + 1));
                }
            }
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if ["utils", "helpers", "common", "manager"].contains(&name.as_str()) {
            faults.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    report(&faults);
}

#[test]
fn unsafe_is_in_sys_only_and_every_block_says_why() {
    let mut faults = Vec::new();
    let mut blocks = 0;
    for (path, text) in sources(&["src", "loadgen/src", "loadgen/bench", "benches"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            blocks += 1;
            let at = format!("{}:{}", path.display(), number + 1);
            if !path.to_string_lossy().contains("/src/sys") {
                faults.push(format!("{at}: unsafe outside src/sys"));
            }
            let reasons = lines[number.saturating_sub(6)..number].iter();
            if !reasons.clone().any(|line| line.trim_start().starts_with("// SAFETY:")) {
                faults.push(format!("{at}: no SAFETY comment"));
            }
        }
    }
    assert!(blocks > 10, "found {blocks} blocks only: is the search right?");
    report(&faults);
}

#[test]
fn the_message_path_cannot_panic_by_unwrapping() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for (path, text) in sources(&["src"]) {
        let name = path.to_string_lossy().into_owned();
        let on_path =
            ["/session", "/relay", "/frame", "/key", "/proxy", "/shard", "/backend", "/http"]
                .iter()
                .any(|part| name.contains(&format!("src{part}")));
        if !on_path {
            continue;
        }
        seen += 1;
        for (number, line) in shipped(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for call in [".unwrap()", ".expect(", "panic!(", "unreachable!("] {
                if code.contains(call) {
                    faults.push(format!("{name}:{}: {call}", number + 1));
                }
            }
        }
    }
    assert!(seen > 15, "looked at {seen} files only");
    report(&faults);
}
