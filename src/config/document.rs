//! A parsed file and where things are in it: paths to keys and values, lines and columns.

use std::borrow::Cow;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::ShowFound;

/// Longest text of a value that a fault repeats, characters.
const FOUND_LEN_MAX: usize = 80;

/// One step from a table or list to something in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An entry of a list, from 0.
    Index(usize),
}

/// Where something is in the file, from the root: `listener[0].frame.timeout`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The path of a key below this one.
    pub fn key(&self, key: &str) -> Path {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_string()));
        Path(steps)
    }

    /// The path of a list entry below this one.
    pub fn index(&self, index: usize) -> Path {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Path(steps)
    }

    /// The path of the table or list that holds this one; the root holds itself.
    pub fn parent(&self) -> Path {
        Path(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if position > 0 { "." } else { "" };
                    if is_bare(key) { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

/// Whether TOML lets this key stand without quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The text of a file and the tree of values in it.
pub struct Document<'t> {
    /// As the file was named.
    pub file: &'t str,
    /// The file as it was read.
    pub text: &'t str,
    /// Its values, each with its place in `text`.
    pub tree: Spanned<DeTable<'t>>,
}

/// What is at a path.
enum Node<'a, 't> {
    Root(&'a DeTable<'t>),
    Value(&'a Spanned<DeValue<'t>>),
}

impl<'t> Document<'t> {
    /// Line and column, from 1, of a byte of the text; columns count characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        line_column(self.text, offset)
    }

    /// Where the value at `path` begins; for something absent, the table that should hold it.
    pub fn value_offset(&self, path: &Path) -> usize {
        let mut path = path.clone();
        loop {
            match self.node(&path) {
                Some(Node::Value(value)) => return value.span().start,
                Some(Node::Root(_)) => return 0,
                None => path = path.parent(),
            }
        }
    }

    /// Where the last key of `path` begins; for something absent, the table that should hold it.
    pub fn key_offset(&self, path: &Path) -> usize {
        let key = match path.0.last() {
            Some(Step::Key(key)) => key,
            Some(Step::Index(_)) | None => return self.value_offset(path),
        };
        let entry = self.table(&path.parent()).and_then(|table| table.get_key_value(key.as_str()));
        entry.map_or_else(|| self.value_offset(path), |(key, _)| key.span().start)
    }

    /// What is written at `path`, short enough for a message; `None` if nothing is.
    pub fn found(&self, path: &Path, show: ShowFound) -> Option<String> {
        let Node::Value(value) = self.node(path)? else { return None };
        let value = value.get_ref();
        if matches!(path.0.last(), Some(Step::Key(key)) if key == "password") {
            return None;
        }
        match show {
            ShowFound::Never => None,
            ShowFound::Scalar if value.is_table() || value.is_array() => None,
            ShowFound::Scalar | ShowFound::Always => Some(describe(value)),
        }
    }

    /// The keys of the table at `path`, in no particular order; none if it is no table.
    pub fn keys(&self, path: &Path) -> Vec<String> {
        let table = self.table(path).into_iter();
        table.flat_map(|table| table.keys().map(|key| key.get_ref().to_string())).collect()
    }

    fn table(&self, path: &Path) -> Option<&DeTable<'t>> {
        match self.node(path)? {
            Node::Root(table) => Some(table),
            Node::Value(value) => value.get_ref().as_table(),
        }
    }

    fn node(&self, path: &Path) -> Option<Node<'_, 't>> {
        let mut node = Node::Root(self.tree.get_ref());
        for step in &path.0 {
            let next = match (&node, step) {
                (Node::Root(table), Step::Key(key)) => table.get(key.as_str()),
                (Node::Value(value), Step::Key(key)) => {
                    value.get_ref().as_table().and_then(|table| table.get(key.as_str()))
                }
                (Node::Value(value), Step::Index(index)) => {
                    value.get_ref().as_array().and_then(|list| list.get(*index))
                }
                (Node::Root(_), Step::Index(_)) => None,
            };
            node = Node::Value(next?);
        }
        Some(node)
    }
}

/// Line and column, from 1, of a byte of `text`; columns count characters.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// A value as a message repeats it.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quote(&without_secret(text)),
        DeValue::Integer(integer) => shorten(&integer.to_string()),
        DeValue::Float(float) => shorten(&float.to_string()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => format!("the date {datetime}"),
        DeValue::Array(_) => "a list".to_string(),
        DeValue::Table(_) => "a table".to_string(),
    }
}

/// A URL without what may be a password in it; any other text as it is.
pub fn without_secret(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let (who, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    Cow::Owned(format!("{scheme}://{who}{rest}{query}"))
}

/// Whether what a broken line says had better not be repeated.
pub fn may_hold_secret(line: &str) -> bool {
    line.contains("password") || line.contains("://")
}

/// A text in quotes, without control characters, not too long.
pub fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

/// A text with its control characters escaped: a fault is one line, whatever a string contains.
pub fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, character| {
        if character.is_control() {
            line.extend(character.escape_debug());
        } else {
            line.push(character);
        }
        line
    })
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= FOUND_LEN_MAX {
        return text.to_string();
    }
    let start: String = text.chars().take(FOUND_LEN_MAX).collect();
    format!("{start}…")
}
