//! What is wrong with a file: faults with their place, and how they print.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong, or worth a warning, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `listener[0].frame.timeout`; empty when the text is not TOML.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// The value in the file, if there is one.
    pub found: Option<String>,
    /// What would be right.
    pub valid: Option<String>,
    /// The nearest valid thing, if one is near.
    pub near: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)?;
        if let Some(found) = &self.found {
            write!(f, ", found {found}")?;
        }
        if let Some(valid) = &self.valid {
            write!(f, "; valid: {valid}")?;
        }
        if let Some(near) = &self.near {
            write!(f, " (did you mean {near}?)")?;
        }
        Ok(())
    }
}

/// Every fault of a file, in file order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file as it was named.
    pub file: String,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Faults {
    /// A line per fault: `FILE:LINE:COLUMN: PATH: what is wrong, found X; valid: Y`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, fault) in self.faults.iter().enumerate() {
            let newline = if position > 0 { "\n" } else { "" };
            write!(f, "{newline}{}:{}:{}: {fault}", self.file, fault.line, fault.column)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// What is wrong with a value, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub valid: Option<String>,
    /// The nearest valid thing, as it would be written.
    pub near: Option<String>,
    /// Whether the value in the file is repeated.
    pub found: ShowFound,
}

/// When a fault repeats the value in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShowFound {
    /// Not at all: the words name it already.
    Never,
    /// Unless it is a table or a list.
    Scalar,
    /// "a table" and "a list" are worth saying, too.
    Always,
}

impl Problem {
    /// A problem and what would be right.
    pub fn new(what: impl Into<String>, valid: impl Into<String>) -> Problem {
        Problem {
            what: what.into(),
            valid: Some(valid.into()),
            near: None,
            found: ShowFound::Scalar,
        }
    }

    /// A problem whose words say everything.
    pub fn said(what: impl Into<String>) -> Problem {
        Problem { what: what.into(), valid: None, near: None, found: ShowFound::Never }
    }

    /// Leaves out the value in the file.
    pub fn without_found(self) -> Problem {
        Problem { found: ShowFound::Never, ..self }
    }

    /// A value of the wrong type.
    pub fn wrong_type(expected: impl Into<String>) -> Problem {
        Problem { found: ShowFound::Always, ..Problem::new("wrong type", expected) }
    }

    /// Whether it is about the type of a value.
    pub fn is_wrong_type(&self) -> bool {
        self.found == ShowFound::Always
    }

    /// A name that is not one of `names`.
    pub fn unknown_name(what: &str, name: &str, names: &[&str]) -> Problem {
        let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        let valid = if quoted.is_empty() { "none exists".to_string() } else { quoted.join(", ") };
        Problem::new(format!("unknown {what}"), valid)
            .near(nearest(name, names.iter().copied()).map(|name| format!("{name:?}")))
    }

    /// Adds the nearest valid thing.
    pub fn near(mut self, near: Option<String>) -> Problem {
        self.near = near;
        self
    }
}

/// The candidate that `name` most likely was meant to be, if any is close.
pub fn nearest<'n>(name: &str, candidates: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // Jaro-Winkler favours a common start, as in "retry" for "retries"; 0.8 keeps strangers out.
    const SIMILARITY_MIN: f64 = 0.8;
    let wanted = name.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (strsim::jaro_winkler(&wanted, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
