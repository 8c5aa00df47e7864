//! From a file to the checked configuration: parse, substitute, read, check.

use std::fmt;
use std::path::Path as FilePath;

use toml::de::DeTable;

use super::check::{Early, check};
use super::document::{Document, line_column, may_hold_secret, one_line, quote};
use super::environment::Environment;
use super::fault::{Fault, Faults};
use super::{Config, raw, read, substitute};
use crate::input::read_at_most;

/// Longest file that is read, bytes: some ten thousand backends, with their weights and comments.
pub(super) const FILE_LEN_MAX: usize = 1 << 20;

/// A configuration without faults.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Legal, but perhaps not meant; in file order.
    pub warnings: Vec<Fault>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file could not be read, or has over 1 MiB.
    Unreadable {
        /// The file as it was named.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file has faults.
    Faults(Faults),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Unreadable { file, error } => write!(f, "cannot read {file}: {error}"),
            LoadError::Faults(faults) => faults.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Unreadable { error, .. } => Some(error),
            LoadError::Faults(_) => None,
        }
    }
}

/// Reads and checks a file.
///
/// # Errors
/// When the file cannot be read or has over 1 MiB, or with every fault that is in it.
pub fn load(path: &FilePath, environment: &Environment<'_>) -> Result<Loaded, LoadError> {
    let file = path.display().to_string();
    let opened = std::fs::File::open(path);
    let bytes = match opened.and_then(|opened| read_at_most(opened, FILE_LEN_MAX)) {
        Ok(bytes) => bytes,
        Err(error) => return Err(LoadError::Unreadable { file, error }),
    };
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &file, environment).map_err(LoadError::Faults),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let lossy = String::from_utf8_lossy(error.as_bytes());
            let (line, column) = line_column(&lossy, good);
            let fault = fault_of_text((line, column), "not UTF-8, as TOML has to be".to_string());
            Err(LoadError::Faults(Faults { file, faults: vec![fault] }))
        }
    }
}

/// Checks the text of a file; `file_name` is what its faults are printed with.
///
/// # Errors
/// Every fault that is in the text.
pub fn parse(text: &str, file_name: &str, environment: &Environment<'_>) -> Result<Loaded, Faults> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut syntax: Vec<Fault> = errors.iter().map(|error| syntax_fault(text, error)).collect();
    // The parser goes on within a broken line; what it says there first is what helps.
    syntax.sort_by_key(|fault| (fault.line, fault.column));
    syntax.dedup_by_key(|fault| fault.line);
    let mut document = Document { file: file_name, text, tree };
    let unset = substitute::substitute(document.tree.get_mut(), environment.variable);
    let (raw, unknown) = match read::read(&document) {
        Ok(read) => read,
        Err(error) => {
            let mut faults = syntax;
            faults.push(syntax_fault(text, &error));
            return Err(Faults { file: file_name.to_string(), faults });
        }
    };
    let unset = unset.into_iter().map(|(path, problem)| Early::Value(path, problem));
    let unknown = unknown.into_iter().map(|(path, problem)| Early::Key(path, problem));
    let verdict = check(&document, environment, raw, unset.chain(unknown).collect());

    let mut faults = verdict.values;
    if syntax.is_empty() {
        faults.extend(verdict.relations);
    } else {
        // The parser skipped what it could not read: what seems absent may be there, and what is
        // on a broken line may be something else. The rest is worth saying in the same run.
        faults.retain(|fault| syntax.iter().all(|broken| broken.line != fault.line));
        faults.extend(syntax);
    }
    faults.sort_by_key(|fault| (fault.line, fault.column));
    let mut warnings = verdict.warnings;
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    match verdict.config {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings }),
        // A check that gives nothing has always reported why; say so rather than panic if not.
        _ if faults.is_empty() => {
            let fault = fault_of_text((1, 1), "refused without a reason; please report".into());
            Err(Faults { file: file_name.to_string(), faults: vec![fault] })
        }
        _ => Err(Faults { file: file_name.to_string(), faults }),
    }
}

/// The JSON Schema of a configuration file.
pub fn schema() -> serde_json::Value {
    raw::schema().to_value()
}

/// What the parser said, with its place.
pub(super) fn syntax_fault(text: &str, error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or(0..0);
    let before = text.get(..span.start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let after = text.get(span.end..).unwrap_or_default();
    let line_end = after.find('\n').map_or(text.len(), |newline| span.end + newline);
    let secret = may_hold_secret(text.get(line_start..line_end).unwrap_or_default());
    let found = text.get(span.clone()).map(str::trim).filter(|found| !found.is_empty() && !secret);
    Fault {
        found: found.map(quote),
        ..fault_of_text(line_column(text, span.start), format!("not TOML: {}", error.message()))
    }
}

fn fault_of_text((line, column): (usize, usize), problem: String) -> Fault {
    Fault {
        line,
        column,
        path: String::new(),
        problem: one_line(&problem),
        found: None,
        valid: None,
        near: None,
    }
}
