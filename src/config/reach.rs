//! Where the process that a file belongs to can be asked. Read on its own: whoever asks need not be
//! allowed to read the secrets of the file, and the file may have faults that the process has not.

use std::fs::File;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::load::{FILE_LEN_MAX, LoadError};
use super::shape::{Scalar, Shape};
use super::substitute;
use super::{Address, Environment};
use crate::input::read_at_most;

/// An address as it stands in a file.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn read_address(text: &str) -> Result<Address, String> {
    Address::from_scalar(Scalar::Text(text)).map_err(|problem| {
        let valid = problem.valid.map(|valid| format!("; valid: {valid}"));
        format!("{}{}", problem.what, valid.unwrap_or_default())
    })
}

/// `[admin]`, as far as a client needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Where the interface listens.
    pub listen: Address,
    /// The file of tokens, one of which is asked for.
    pub token_file: Option<PathBuf>,
}

/// Reads `[admin]` of a file, whatever else is in it; `None` if it has no address that could be
/// connected to.
///
/// # Errors
/// The file cannot be read.
pub fn reach(path: &Path, environment: &Environment<'_>) -> Result<Option<Reach>, LoadError> {
    let unreadable = |error| LoadError::Unreadable { file: path.display().to_string(), error };
    let bytes = File::open(path).and_then(|file| read_at_most(file, FILE_LEN_MAX));
    let text = String::from_utf8(bytes.map_err(unreadable)?);
    let text = text.map_err(|error| unreadable(std::io::Error::other(error)))?;
    let (mut tree, _faults) = DeTable::parse_recoverable(&text);
    // What is not set stays as it is written, and is no address.
    let _unset = substitute::substitute(tree.get_mut(), environment.variable);
    let admin = tree.get_ref().get("admin").and_then(|admin| admin.get_ref().as_table());
    let text = |key: &str| admin?.get(key)?.get_ref().as_str();
    let address = |text| Address::from_scalar(Scalar::Text(text)).ok();
    let token_file = text("token_file").map(PathBuf::from);
    Ok(text("listen").and_then(address).map(|listen| Reach { listen, token_file }))
}
