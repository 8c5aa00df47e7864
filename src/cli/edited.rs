//! What operators have changed of a configuration while a gateway ran with it: the state file, as
//! commands see it that ask no store.

use std::path::Path;
use std::process::ExitCode;

use corelane::config::{Config, Fault, Faults};
use corelane::edits::overlay::{self, Use};
use corelane::edits::state::{self, State, StateError};
use serde::Serialize;

use super::{EXIT_FAULTS, Failure, with_config, write_error};

/// An edit that is kept, as `check` prints it.
#[derive(Debug, Serialize)]
pub(super) struct ShownEdit {
    pool: String,
    backend: String,
    /// What it comes to.
    edit: String,
    /// When the last of it was asked for.
    at: String,
    in_force: InForce,
    /// Why it does nothing.
    unused: Option<&'static str>,
}

/// As far as is known without asking a store.
#[derive(Debug, Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum InForce {
    Yes,
    IfASourceHasIt,
    No,
}

/// The edits that are kept beside a configuration.
///
/// # Errors
/// The state file is broken: a fault of that file.
pub(super) fn shown(config: &Config) -> Result<Vec<ShownEdit>, Faults> {
    let state = load(config)?;
    let show = |kept: &state::Kept| {
        let (in_force, unused) = match overlay::use_of(kept, config) {
            Use::InForce => (InForce::Yes, None),
            Use::IfSourceHasIt => (InForce::IfASourceHasIt, None),
            Use::Unused(why) => (InForce::No, Some(why)),
        };
        ShownEdit {
            pool: kept.pool.clone(),
            backend: kept.address.to_string(),
            edit: kept.what.to_string(),
            at: humantime::format_rfc3339_seconds(kept.at).to_string(),
            in_force,
            unused,
        }
    };
    Ok(state.all().iter().map(show).collect())
}

/// A line per edit: `FILE: edit: POOL BACKEND: what it comes to (since when)`.
pub(super) fn lines(config: &Config, edits: &[ShownEdit]) -> String {
    let file = state::path(&config.runtime.state_dir);
    let line = |shown: &ShownEdit| {
        let ShownEdit { pool, backend, edit, at, .. } = shown;
        let unused = match (shown.in_force, shown.unused) {
            (InForce::IfASourceHasIt, _) => "; in force if a source has this backend".to_owned(),
            (_, Some(why)) => format!("; unused: {why}"),
            (_, None) => String::new(),
        };
        format!("{}: edit: {pool} {backend}: {edit} (since {at}){unused}\n", file.display())
    };
    edits.iter().map(line).collect()
}

/// For commands that say where keys go: what the file pins counts as it was edited. A broken state
/// file is a fault.
pub(super) fn with_edits(
    path: &Path,
    act: impl FnOnce(Config) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    with_config(path, |config| match load(&config) {
        Ok(state) => act(overlay::edited(config, &state)),
        Err(faults) => {
            // A closed standard error is no reason to refuse work.
            let _ = write_error(&format!("{faults}\n"));
            Ok(ExitCode::from(EXIT_FAULTS))
        }
    })
}

fn load(config: &Config) -> Result<State, Faults> {
    State::load(&config.runtime.state_dir).map_err(|error: StateError| Faults {
        file: error.file().display().to_string(),
        faults: vec![Fault {
            line: 1,
            column: 1,
            path: String::new(),
            problem: error.why(),
            found: None,
            valid: Some("a state file as corelane writes it, or none".to_owned()),
            near: None,
        }],
    })
}
