//! Every invalid file is refused with exactly the faults that stand beside it, all in one run.

use std::path::{Path, PathBuf};

use corelane::config::{Environment, LoadError, load};

/// There are at least so many samples: a lost file must not go unnoticed.
const SAMPLES_MIN: usize = 38;

fn samples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_invalid");
    let mut samples: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of samples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    samples.sort();
    samples
}

/// A small machine: two cores, 20,000 descriptors, one variable.
fn environment() -> Environment<'static> {
    Environment {
        variable: &|name| (name == "POOL").then(|| "c2s".to_string()),
        cores: vec![0, 1],
        descriptors_max: 20_000,
    }
}

/// What a user sees, with the folder taken off the file's name.
fn printed(sample: &Path) -> String {
    match load(sample, &environment()) {
        Ok(_) => panic!("{} has no fault", sample.display()),
        Err(LoadError::Unreadable { error, .. }) => panic!("{}: {error}", sample.display()),
        Err(LoadError::Faults(mut faults)) => {
            faults.file = sample.file_name().expect("a name").to_string_lossy().into_owned();
            format!("{faults}\n")
        }
    }
}

#[test]
fn every_sample_has_exactly_its_faults() {
    let samples = samples();
    assert!(samples.len() >= SAMPLES_MIN, "samples in tests/config_invalid");
    let rewrite = std::env::var_os("REWRITE_EXPECTED").is_some();
    let mut differing = Vec::new();
    for sample in &samples {
        let printed = printed(sample);
        let beside = sample.with_extension("txt");
        if rewrite {
            std::fs::write(&beside, &printed).expect("the expected text is writable");
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if printed != expected {
            differing.push(format!(
                "{}\n--- expected\n{expected}--- printed\n{printed}",
                sample.display()
            ));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(!rewrite, "expected texts were rewritten; read the difference, then run without");
}

#[test]
fn every_fault_is_on_one_line_with_its_place() {
    for sample in samples() {
        let name = sample.file_name().expect("a name").to_string_lossy().into_owned();
        let mut last = (0, 0);
        for line in printed(&sample).lines() {
            let place = line.strip_prefix(&format!("{name}:")).expect(line);
            let mut parts = place.splitn(3, ':');
            let mut number = || parts.next().and_then(|n| n.parse::<usize>().ok()).expect(line);
            let place = (number(), number());
            assert!(place >= last, "out of order: {line}");
            last = place;
        }
        assert_ne!(last, (0, 0), "{name} has no fault");
    }
}

#[test]
fn ten_faults_of_mixed_kinds_are_reported_at_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_invalid");
    let printed = printed(&folder.join("many.toml"));
    assert!(printed.lines().count() >= 10, "{printed}");
    for kind in ["unknown key", "needs a unit", "wrong type", "missing", "no pool is called"] {
        assert!(printed.contains(kind), "{kind} in\n{printed}");
    }
}
