//! `corelane route`: where keys go, and which of them move between two files.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use corelane::config::{Config, Pool};
use corelane::explain::{self, Escaped};
use corelane::movement::{Comparison, Standing, sample};

use super::edited::with_edits;
use super::{Failure, chosen, with_config, write_result, written};

/// Keys that are compared when none are named.
const SAMPLED_DEFAULT: u64 = 1_000_000;

/// `route`
#[derive(Debug, Args)]
pub struct RouteArguments {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", required_unless_present = "diff")]
    config: Option<PathBuf>,
    /// Name of the listener; needed when listeners have different pools.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Compare two configuration files: print those of the keys that move, KEY, POOL, OLD and NEW
    /// backend, separated by tabs; without keys, the share of sampled ones that move, per pool.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "config")]
    diff: Option<Vec<PathBuf>>,
    /// With --diff: how many keys are sampled, decimal numbers of 15 digits, the same each time;
    /// one million if no keys are given.
    #[arg(long, value_name = "N", requires = "diff", conflicts_with = "keys")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Keys, or a single "-" for keys on standard input, one per line, which LF or CR LF ends.
    #[arg(value_name = "KEY", required_unless_present = "diff")]
    keys: Vec<OsString>,
}

/// Routes keys, or compares.
pub(super) fn execute(arguments: RouteArguments) -> Result<ExitCode, Failure> {
    let RouteArguments { config, listener, diff, sample, keys } = arguments;
    let listener = listener.as_deref();
    match (config, diff.as_deref()) {
        (_, Some([old, new])) => with_config(old, |old| {
            with_config(new, |new| {
                if keys.is_empty() {
                    return shares(&old, &new, listener, sample.unwrap_or(SAMPLED_DEFAULT));
                }
                moves(&old, &new, listener, keys)
            })
        }),
        (Some(config), _) => with_edits(&config, |config| route(&config, listener, keys)),
        // The command line's own rules ask for one of the two.
        (None, _) => Ok(ExitCode::SUCCESS),
    }
}

fn route(
    config: &Config,
    listener: Option<&str>,
    keys: Vec<OsString>,
) -> Result<ExitCode, Failure> {
    let listener = chosen(config, listener, |_| true)?;
    let mut out = BufWriter::new(io::stdout().lock());
    with_keys(keys, |keys| {
        let routed = explain::route(config, listener, keys, &mut out);
        written(routed.and_then(|()| out.flush()))
    })
}

/// Keys of the command line or of standard input.
fn with_keys(
    keys: Vec<OsString>,
    act: impl FnOnce(&mut dyn Iterator<Item = Vec<u8>>) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    if keys.len() != 1 || keys[0] != "-" {
        act(&mut keys.into_iter().map(OsStringExt::into_vec))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut unread = None;
    let mut lines = io::stdin().lock().split(b'\n').map_while(|line| match line {
        Ok(mut line) => {
            // Lists of devices come from spreadsheets too.
            line.pop_if(|last| *last == b'\r');
            Some(line)
        }
        Err(error) => {
            unread = Some(error);
            None
        }
    });
    act(&mut lines)?;
    match unread {
        Some(error) => Err(Failure::Input("standard input".to_string(), error)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// A line for each of the keys that moves.
fn moves(
    old: &Config,
    new: &Config,
    listener: Option<&str>,
    keys: Vec<OsString>,
) -> Result<ExitCode, Failure> {
    let listeners = (chosen(old, listener, |_| true)?, chosen(new, listener, |_| true)?);
    let (old_pools, new_pools) = (standings(old), standings(new));
    let mut out = BufWriter::new(io::stdout().lock());
    with_keys(keys, |keys| {
        for key in keys {
            let pools = (
                explain::pool_of(&old.listeners[listeners.0], &key),
                explain::pool_of(&new.listeners[listeners.1], &key),
            );
            let before = Place::of(&old_pools, pools.0, &key)?;
            let after = Place::of(&new_pools, pools.1, &key)?;
            if before.backend != after.backend {
                let (old, new) = (&before.backend, &after.backend);
                let line = writeln!(out, "{}\t{}\t{old}\t{new}", Escaped(&key), after.pool);
                written(line)?;
            }
        }
        written(out.flush())
    })
}

fn standings(config: &Config) -> Vec<Standing<'_>> {
    config.pools.iter().map(Standing::of_settings).collect()
}

/// Where a key is, as it is printed.
struct Place<'a> {
    pool: &'a str,
    backend: String,
}

impl<'a> Place<'a> {
    fn of(
        pools: &'a [Standing<'a>],
        pool: Option<usize>,
        key: &[u8],
    ) -> Result<Place<'a>, Failure> {
        let nowhere = "-".to_string();
        let Some(pool) = pool.and_then(|pool| pools.get(pool)) else {
            return Ok(Place { pool: "-", backend: nowhere });
        };
        if !pool.algorithm.is_keyed() {
            return Err(Failure::NotKeyed(pool.name.to_string(), pool.algorithm.name()));
        }
        let backend = pool.place(key).map(|index| pool.address(index).to_string());
        Ok(Place { pool: pool.name, backend: backend.unwrap_or(nowhere) })
    }
}

/// A line for each pool, or for one listener's if that is named: the share of sampled keys that
/// move.
fn shares(
    old: &Config,
    new: &Config,
    listener: Option<&str>,
    count: u64,
) -> Result<ExitCode, Failure> {
    let mut page = String::new();
    let mut line = |name: &str, text: &str| {
        // Writing into a string cannot fail.
        let _ = writeln!(page, "{name}\t{text}");
    };
    let compared = match listener {
        None => {
            let same = |new: &Pool| old.pools.iter().find(|old| old.name == new.name);
            new.pools.iter().map(|new| (same(new), new)).collect::<Vec<_>>()
        }
        Some(_) => {
            let pool = |config: &Config| -> Result<Option<usize>, Failure> {
                Ok(config.listeners[chosen(config, listener, |_| true)?].pool)
            };
            // Rules of an http listener choose by more than a key.
            let new = pool(new)?.and_then(|index| new.pools.get(index));
            let old = pool(old)?.and_then(|index| old.pools.get(index));
            new.map(|new| (old, new)).into_iter().collect()
        }
    };
    for (old, new) in compared {
        let Some(old) = old else {
            line(&new.name, "added");
            continue;
        };
        let unkeyed = [old, new].into_iter().find(|pool| !pool.balance.is_keyed());
        if let Some(pool) = unkeyed {
            line(&new.name, &format!("no keys: {} does not look at them", pool.balance.name()));
            continue;
        }
        let (old, new) = (Standing::of_settings(old), Standing::of_settings(new));
        let name = new.name;
        let Some(comparison) = Comparison::new(old, new) else { continue };
        let moves = comparison.moves(sample(count));
        let percent = moves.share() * 100.0;
        line(name, &format!("{percent:.3}%\t{} of {} move", moves.moved, moves.keys));
    }
    if listener.is_none() {
        let gone = |old: &&Pool| new.pools.iter().all(|new| new.name != old.name);
        old.pools.iter().filter(gone).for_each(|old| line(&old.name, "removed"));
    }
    write_result(&page)?;
    Ok(ExitCode::SUCCESS)
}
