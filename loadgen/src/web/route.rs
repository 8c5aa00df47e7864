//! What the backend of a request depends on: the key that its number makes.

use anyhow::bail;
use corelane::config::Config;

use crate::cli::WebArgs;
use crate::oracle::{Home, Routes};
use crate::template::Template;

/// How a number becomes a key.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Not known: any backend is right.
    Unknown,
    /// As the command line says.
    Given(Template),
}

/// The keys of requests like these and the table they are looked up in.
///
/// # Errors
/// When the configuration has no such listener.
pub fn of(
    args: &WebArgs,
    _method: &str,
    gateway: Option<&Config>,
) -> anyhow::Result<(Keys, Option<Routes>)> {
    let keys = args.key.clone().map_or(Keys::Unknown, Keys::Given);
    let table = match gateway {
        Some(config) => Some(Routes::of_gateway(config, args.target.first().copied())?),
        None => None,
    };
    if table.is_none() && args.direct.as_ref().is_none_or(Vec::is_empty) && args.key.is_some() {
        bail!("--key needs a table: --config, or addresses behind --direct");
    }
    Ok((keys, table))
}

impl Keys {
    /// Where this number must land.
    pub fn home(&self, routes: &Routes, _args: &WebArgs, number: u64) -> Home {
        match self {
            Keys::Unknown => Home::Open,
            Keys::Given(key) => routes.home(key.fill(number).as_bytes()),
        }
    }

    /// Says in the report what cannot be checked.
    pub fn remark(&self, routes: &mut Routes) {
        if matches!(self, Keys::Unknown) && routes.remark.is_none() {
            routes.remark = Some("places are not checked without a key (--key)".into());
        }
    }
}
