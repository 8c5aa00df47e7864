//! The command line: arguments, and what each command prints.
//!
//! Exit codes: 0 good, 1 the configuration file has faults, or the gateway that was asked refuses,
//! 2 could not run, or no gateway could be asked. Results go to standard output; a reader that
//! closes it early has seen enough and changes no exit code.

mod ctl;
mod edited;
mod explain;
mod pages;
mod route;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use corelane::config::{
    self, Config, Environment, EnvironmentError, Fault, Faults, LoadError, Loaded,
};
use corelane::explain::ExplainError;
use corelane::run::{self, RunError, Start};
use serde::Serialize;

use self::ctl::{CtlArguments, ReloadArguments};
use self::edited::ShownEdit;
use self::explain::ExplainArguments;
use self::pages::{CompletionsArguments, ManArguments};
use self::route::RouteArguments;

/// Exit code for faults in the configuration file, and for what a gateway refuses.
pub const EXIT_FAULTS: u8 = 1;
/// Exit code when a command could not do its work.
pub const EXIT_COULD_NOT_RUN: u8 = 2;

/// Forwards the TCP connections of device fleets: each device's key decides its backend.
#[derive(Debug, Parser)]
#[command(name = "corelane", version, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until told to stop (TERM, INT or QUIT drain; a second signal ends at once).
    Run(FileArgument),
    /// Check a configuration file: exit 0 good, 1 faults in the file, 2 could not run.
    Check(CheckArguments),
    /// Print where keys go: KEY, POOL and BACKEND, separated by tabs, a line per key. In keys,
    /// control characters and bytes that are not UTF-8 are escaped. With --diff: which keys move.
    Route(RouteArguments),
    /// Explain the first bytes of a connection: fields, key, hash and backend.
    Explain(ExplainArguments),
    /// About configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Have a running gateway read its configuration again: exit 0 all of it is in force, 1 nothing
    /// of it (the reasons are on standard error), 2 the gateway could not be asked.
    Reload(ReloadArguments),
    /// Ask a running gateway, or change what it does: exit 0 done, 1 refused, 2 the gateway could
    /// not be asked.
    Ctl(CtlArguments),
    /// Print the completions of a shell.
    Completions(CompletionsArguments),
    /// Print the manual page.
    Man(ManArguments),
}

/// Commands about configuration files.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the JSON Schema of a configuration file.
    Schema,
}

/// A configuration file.
#[derive(Debug, Args)]
pub struct FileArgument {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// `check`
#[derive(Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    file: FileArgument,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How `check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line per fault or warning.
    Text,
    /// One JSON object.
    Json,
}

impl Command {
    /// As it is written on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Run(_) => "run",
            Command::Check(_) => "check",
            Command::Route(_) => "route",
            Command::Explain(_) => "explain",
            Command::Config(ConfigCommand::Schema) => "config schema",
            Command::Reload(_) => "reload",
            Command::Ctl(_) => "ctl",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub enum Failure {
    /// Cores or limits are not known.
    Environment(EnvironmentError),
    /// The configuration file could not be read.
    Config(LoadError),
    /// The process could not run, or lost a shard.
    Run(RunError),
    /// Nothing to explain.
    Explain(ExplainError),
    /// `--listener` is needed; the names to choose from.
    ListenerNeeded(Vec<String>),
    /// No listener has this name; the names to choose from.
    ListenerUnknown(String, Vec<String>),
    /// What is not hexadecimal, and its position from 1.
    NotHexadecimal(char, usize),
    /// Half a byte is missing at the end.
    HexadecimalOdd,
    /// Input that could not be read: what it is and why.
    Input(String, io::Error),
    /// Keys of this pool cannot be compared, as its algorithm does not look at them.
    NotKeyed(String, &'static str),
    /// Standard output could not be written.
    Output(io::Error),
    /// A result could not be put into JSON.
    Json(serde_json::Error),
    /// The gateway could not be asked: where, and why.
    Unasked(String, String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Environment(error) => error.fmt(f),
            Failure::Config(error) => error.fmt(f),
            Failure::Run(error) => error.fmt(f),
            Failure::Explain(error) => error.fmt(f),
            Failure::ListenerNeeded(names) => {
                write!(f, "listeners differ; choose one with --listener: {}", names.join(", "))
            }
            Failure::ListenerUnknown(name, names) => {
                write!(f, "no listener is called {name:?}; valid: {}", names.join(", "))
            }
            Failure::NotHexadecimal(character, position) => write!(
                f,
                "{character:?} at character {position} of standard input is not hexadecimal; \
                 for bytes as they are sent, give a file"
            ),
            Failure::HexadecimalOdd => {
                f.write_str("standard input ends within a byte: hexadecimal digits come in pairs")
            }
            Failure::Input(what, error) => write!(f, "cannot read {what}: {error}"),
            Failure::NotKeyed(pool, algorithm) => write!(
                f,
                "pool {pool:?} does not balance by key ({algorithm}): no key of it can move"
            ),
            Failure::Output(error) => write!(f, "cannot write standard output: {error}"),
            Failure::Json(error) => write!(f, "cannot write JSON: {error}"),
            Failure::Unasked(place, why) => write!(f, "{place}: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Does what the command line asks for.
///
/// # Errors
/// When that could not be done; faults in a configuration file are a result, not an error.
pub fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Run(file) => with_config(&file.config, |config| {
            let start = Start { config, file: Some(file.config.clone()), swap_every: None };
            run::run(start).map_err(Failure::Run)?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Check(arguments) => check(&arguments),
        Command::Route(arguments) => route::execute(arguments),
        Command::Reload(arguments) => ctl::reload(arguments),
        Command::Ctl(arguments) => ctl::execute(arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
        Command::Explain(arguments) => explain::execute(arguments),
        Command::Config(ConfigCommand::Schema) => {
            let schema = serde_json::to_string_pretty(&config::schema()).map_err(Failure::Json)?;
            write_result(&format!("{schema}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(path: &Path) -> Result<Result<Loaded, Faults>, Failure> {
    let environment = Environment::of_process().map_err(Failure::Environment)?;
    match config::load(path, &environment) {
        Ok(loaded) => Ok(Ok(loaded)),
        Err(LoadError::Faults(faults)) => Ok(Err(faults)),
        Err(error @ LoadError::Unreadable { .. }) => Err(Failure::Config(error)),
    }
}

/// For commands that need a good file: faults and warnings go to standard error.
fn with_config(
    path: &Path,
    act: impl FnOnce(Config) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    // A closed standard error is no reason to refuse work.
    match load(path)? {
        Ok(loaded) => {
            let _ = write_error(&warning_lines(&path.display().to_string(), &loaded.warnings));
            act(loaded.config)
        }
        Err(faults) => {
            let _ = write_error(&format!("{faults}\n"));
            Ok(ExitCode::from(EXIT_FAULTS))
        }
    }
}

/// The result of `check --format json`.
#[derive(Serialize)]
struct CheckResult<'r> {
    file: &'r str,
    ok: bool,
    summary: Option<Summary>,
    faults: &'r [Fault],
    warnings: &'r [Fault],
    edits: &'r [ShownEdit],
}

/// What a good file amounts to.
#[derive(Serialize)]
struct Summary {
    listeners: usize,
    pools: usize,
    backends: usize,
    sources: usize,
    shards: usize,
    max_connections: usize,
    descriptors_needed: u64,
}

impl Summary {
    fn of(config: &Config) -> Summary {
        Summary {
            listeners: config.listeners.len(),
            pools: config.pools.len(),
            backends: config.pools.iter().map(|pool| pool.backends.len()).sum(),
            sources: config.pools.iter().map(|pool| pool.sources.len()).sum(),
            shards: config.runtime.cores.len(),
            max_connections: config.runtime.max_connections,
            descriptors_needed: config.runtime.descriptors_needed,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: usize, name: &str| match count {
            1 => format!("1 {name}"),
            _ => format!("{count} {name}s"),
        };
        write!(
            f,
            "{}, {}, {}, {}{}, {}, {} file descriptors",
            count(self.listeners, "listener"),
            count(self.pools, "pool"),
            count(self.backends, "backend"),
            match self.sources {
                0 => String::new(),
                sources => format!("{}, ", count(sources, "source")),
            },
            count(self.shards, "shard"),
            count(self.max_connections, "connection"),
            self.descriptors_needed
        )
    }
}

fn check(arguments: &CheckArguments) -> Result<ExitCode, Failure> {
    let path = &arguments.file.config;
    let file = path.display().to_string();
    let (loaded, edits) = match load(path)? {
        Ok(loaded) => match edited::shown(&loaded.config) {
            Ok(edits) => (Ok(loaded), edits),
            Err(faults) => (Err(faults), Vec::new()),
        },
        Err(faults) => (Err(faults), Vec::new()),
    };
    let text = match (&loaded, arguments.format) {
        (Ok(loaded), Format::Text) => {
            let warnings = warning_lines(&file, &loaded.warnings);
            let edits = edited::lines(&loaded.config, &edits);
            format!("{warnings}{edits}{file}: ok: {}\n", Summary::of(&loaded.config))
        }
        (Err(faults), Format::Text) => format!("{faults}\n"),
        (loaded, Format::Json) => {
            let result = CheckResult {
                // Faults of the state file are no faults of the configuration file.
                file: loaded.as_ref().err().map_or(&file, |faults| &faults.file),
                ok: loaded.is_ok(),
                summary: loaded.as_ref().ok().map(|loaded| Summary::of(&loaded.config)),
                faults: loaded.as_ref().err().map_or(&[], |faults| &faults.faults),
                warnings: loaded.as_ref().ok().map_or(&[], |loaded| &loaded.warnings),
                edits: &edits,
            };
            let json = serde_json::to_string_pretty(&result).map_err(Failure::Json)?;
            format!("{json}\n")
        }
    };
    write_result(&text)?;
    Ok(if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAULTS) })
}

fn warning_lines(file: &str, warnings: &[Fault]) -> String {
    let line =
        |fault: &Fault| format!("{file}:{}:{}: warning: {fault}\n", fault.line, fault.column);
    warnings.iter().map(line).collect()
}

/// The listener of this name. Without a name: the first that `fits`, if it does not matter which.
fn chosen(
    config: &Config,
    name: Option<&str>,
    fits: impl Fn(usize) -> bool,
) -> Result<usize, Failure> {
    let names = || config.listeners.iter().map(|listener| listener.name.clone()).collect();
    if let Some(name) = name {
        let found = config.listeners.iter().position(|listener| listener.name == name);
        return found.ok_or_else(|| Failure::ListenerUnknown(name.to_string(), names()));
    }
    let fitting: Vec<usize> = (0..config.listeners.len()).filter(|index| fits(*index)).collect();
    // Where none fits, the first one's refusal says why.
    let first = fitting.first().copied().unwrap_or(0);
    let pool = config.listeners[first].pool;
    if fitting.iter().all(|index| config.listeners[*index].pool == pool) {
        return Ok(first);
    }
    Err(Failure::ListenerNeeded(names()))
}

fn write_result(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Writes to standard error.
///
/// # Errors
/// Those of writing.
pub fn write_error(text: &str) -> io::Result<()> {
    io::stderr().lock().write_all(text.as_bytes())
}

/// A reader that went away has seen enough.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}
