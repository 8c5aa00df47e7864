//! `corelane ctl` and `corelane reload`: a running gateway, asked over its admin interface.

mod client;
mod drain;
mod events;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};

use self::client::{Client, Reply};
use super::{EXIT_FAULTS, Failure, write_error, write_result};

/// `ctl`
#[derive(Debug, Args)]
pub struct CtlArguments {
    #[command(flatten)]
    gateway: GatewayArguments,
    #[command(subcommand)]
    command: CtlCommand,
}

/// Which gateway.
#[derive(Debug, Args)]
pub struct GatewayArguments {
    /// Configuration file of the gateway: its [admin] table says where it is asked, and by which
    /// token.
    #[arg(short, long, value_name = "FILE", global = true, conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Address of its admin interface: IP:PORT, unix:/PATH or an URL.
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin: Option<String>,
    /// File whose first token is sent; instead of the configuration's.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Print what the gateway answers, as JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// `reload`
#[derive(Debug, Args)]
pub struct ReloadArguments {
    #[command(flatten)]
    gateway: GatewayArguments,
    /// Only say what would change.
    #[arg(long)]
    dry_run: bool,
}

/// A backend of a pool.
#[derive(Debug, Args)]
struct BackendArguments {
    /// The pool's name.
    pool: String,
    /// The backend's address.
    backend: String,
}

impl BackendArguments {
    fn path(&self) -> String {
        backend_path(&self.pool, &self.backend)
    }
}

/// What a gateway is asked.
#[derive(Debug, Subcommand)]
enum CtlCommand {
    /// Pools, or the backends of one.
    Pools {
        /// Only this one.
        pool: Option<String>,
    },
    /// Backends of all pools.
    Backends {
        /// Only of this pool.
        #[arg(long)]
        pool: Option<String>,
        /// Only those in this state.
        #[arg(long)]
        state: Option<String>,
    },
    /// Open client connections.
    Sessions(SessionsArguments),
    /// Where backends come from, and what each source is worth.
    Sources {
        /// Only of this pool.
        pool: Option<String>,
    },
    /// Have the sources of a pool read again now.
    Refresh {
        /// The pool's name.
        pool: String,
    },
    /// Believe what the sources of a pool said last, whatever is held back.
    Confirm {
        /// The pool's name.
        pool: String,
    },
    /// Where a key belongs, why, and whether it is connected now.
    Where {
        /// The key.
        key: String,
        /// Only this listener.
        #[arg(long)]
        listener: Option<String>,
    },
    /// The configuration in force, with defaults and without secrets.
    Config,
    /// The level of the operational log; with LEVEL: set it, until the next reload.
    Log {
        /// error, warn, info, debug or trace.
        level: Option<String>,
    },
    /// Who changed what, newest first.
    Audit {
        /// The most that are shown.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// What happens, as it happens.
    Events {
        /// End after so many.
        #[arg(long, value_name = "N")]
        count: Option<u64>,
    },
    /// Read the configuration again.
    Reload {
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a backend no new sessions; on_remove says what becomes of those it has.
    Drain {
        #[command(flatten)]
        backend: BackendArguments,
        /// Wait until it has no sessions left: exit 1 if it still has some after this time.
        #[arg(long, value_name = "DURATION")]
        wait: Option<humantime::Duration>,
    },
    /// Give a backend sessions again.
    Ready(BackendArguments),
    /// Count a backend as not there.
    Down(BackendArguments),
    /// Change the weight of a backend.
    Weight {
        #[command(flatten)]
        backend: BackendArguments,
        /// 1 to 65535.
        weight: u32,
    },
    /// Add a backend to a pool.
    Add {
        #[command(flatten)]
        backend: BackendArguments,
        /// 1 to 65535.
        #[arg(long)]
        weight: Option<u32>,
        /// ready, drain or down.
        #[arg(long)]
        state: Option<String>,
    },
    /// Take a backend out of a pool.
    Remove(BackendArguments),
    /// Close sessions: by name, by key, or all that a backend has now.
    Close(CloseArguments),
}

/// `sessions`
#[derive(Debug, Args)]
struct SessionsArguments {
    /// Only with this key.
    #[arg(long)]
    key: Option<String>,
    /// Only with this key, in hexadecimal.
    #[arg(long, conflicts_with = "key")]
    key_hex: Option<String>,
    /// Only of this listener.
    #[arg(long)]
    listener: Option<String>,
    /// Only of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only on the backend of this address.
    #[arg(long)]
    backend: Option<String>,
    /// The most that are shown.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// `close`
#[derive(Debug, Args)]
struct CloseArguments {
    /// Names of sessions, as `sessions` shows them.
    #[arg(value_name = "SESSION", required_unless_present_any = ["key", "backend"])]
    sessions: Vec<String>,
    /// All sessions with this key.
    #[arg(long, conflicts_with_all = ["sessions", "backend"])]
    key: Option<String>,
    /// All sessions that the backend of this address has now.
    #[arg(long, requires = "pool", conflicts_with = "sessions")]
    backend: Option<String>,
    /// The backend's pool.
    #[arg(long, requires = "backend")]
    pool: Option<String>,
    /// With --backend: how many in a second, 200/s; without it what the pool's close_rate says.
    #[arg(long, requires = "backend")]
    rate: Option<String>,
    /// With --backend: close no more of them.
    #[arg(long, requires = "backend", conflicts_with = "rate")]
    stop: bool,
}

/// Asks, and prints the answer.
pub(super) fn execute(arguments: CtlArguments) -> Result<ExitCode, Failure> {
    let CtlArguments { gateway, command } = arguments;
    let json = gateway.json;
    let mut client = Client::new(gateway)?;
    let command = match command {
        CtlCommand::Events { count } => return events::follow(&mut client, count, json),
        CtlCommand::Close(CloseArguments { sessions, key: None, backend: None, .. }) => {
            return close_all(&mut client, sessions, json);
        }
        CtlCommand::Close(CloseArguments { key: Some(key), .. }) => {
            return close_by_key(&mut client, &key, json);
        }
        command => command,
    };
    let wait = match &command {
        CtlCommand::Drain { backend, wait } => wait.map(|most| (backend.path(), *most)),
        _ => None,
    };
    let Request { method, path, body, show } = request(command);
    let reply = client.ask(method, &path, body)?;
    let printed = print(&reply, json, show)?;
    match wait {
        Some((path, most)) if reply.is_good => drain::wait(&mut client, &path, most),
        _ => Ok(printed),
    }
}

/// Has a file read again.
pub(super) fn reload(arguments: ReloadArguments) -> Result<ExitCode, Failure> {
    let ReloadArguments { gateway, dry_run } = arguments;
    execute(CtlArguments { gateway, command: CtlCommand::Reload { dry_run } })
}

/// One question, and how its answer is shown to people.
struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
    show: fn(&Value) -> String,
}

impl Request {
    fn get(path: impl Into<String>, show: fn(&Value) -> String) -> Request {
        Request { method: Method::GET, path: path.into(), body: None, show }
    }

    fn post(path: impl Into<String>, show: fn(&Value) -> String) -> Request {
        Request { method: Method::POST, ..Request::get(path, show) }
    }

    fn with(self, body: Value) -> Request {
        Request { body: Some(body), ..self }
    }

    fn by(self, method: Method) -> Request {
        Request { method, ..self }
    }
}

/// Everything but letters, digits and what stands in addresses as it is.
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b':').remove(b'-').remove(b'_').remove(b'~');

fn escaped(text: &str) -> String {
    percent_encode(text.as_bytes(), ESCAPED).to_string()
}

/// A path with the parts of a query that are there.
fn with_query(path: &str, parts: &[(&str, Option<&str>)]) -> String {
    let mut text = path.to_owned();
    let mut separator = '?';
    for (name, value) in parts {
        if let Some(value) = value {
            text.push(separator);
            text += &format!("{name}={}", escaped(value));
            separator = '&';
        }
    }
    text
}

fn backend_path(pool: &str, backend: &str) -> String {
    format!("/pools/{}/backends/{}", escaped(pool), escaped(backend))
}

fn request(command: CtlCommand) -> Request {
    let of_pool = |path: &str, pool: Option<String>| match pool {
        Some(pool) => format!("{path}/{}", escaped(&pool)),
        None => path.to_owned(),
    };
    match command {
        CtlCommand::Pools { pool: None } => Request::get("/pools", show::pools),
        CtlCommand::Pools { pool } => Request::get(of_pool("/pools", pool), show::pool),
        CtlCommand::Backends { pool, state } => {
            let query = [("pool", pool.as_deref()), ("state", state.as_deref())];
            Request::get(with_query("/backends", &query), show::backends)
        }
        CtlCommand::Sessions(asked) => {
            let limit = asked.limit.to_string();
            let query = [
                ("key", asked.key.as_deref()),
                ("key_hex", asked.key_hex.as_deref()),
                ("listener", asked.listener.as_deref()),
                ("pool", asked.pool.as_deref()),
                ("backend", asked.backend.as_deref()),
                ("limit", Some(limit.as_str())),
            ];
            Request::get(with_query("/sessions", &query), show::sessions)
        }
        CtlCommand::Sources { pool } => Request::get(of_pool("/sources", pool), show::sources),
        CtlCommand::Refresh { pool } => {
            Request::post(format!("/sources/{}/refresh", escaped(&pool)), show::told)
        }
        CtlCommand::Confirm { pool } => {
            Request::post(format!("/sources/{}/confirm", escaped(&pool)), show::told)
        }
        CtlCommand::Where { key, listener } => {
            let path = format!("/where/{}", escaped(&key));
            let path = with_query(&path, &[("listener", listener.as_deref())]);
            Request::get(path, show::whereis)
        }
        CtlCommand::Config => Request::get("/config", show::config),
        CtlCommand::Log { level: None } => Request::get("/log", show::log),
        CtlCommand::Log { level: Some(level) } => {
            Request::get("/log", show::log).by(Method::PATCH).with(json!({ "level": level }))
        }
        CtlCommand::Audit { limit } => Request::get(format!("/audit?limit={limit}"), show::audit),
        CtlCommand::Reload { dry_run } => {
            let path = if dry_run { "/reload?dry_run=true" } else { "/reload" };
            Request::post(path, show::reloaded)
        }
        CtlCommand::Events { .. } => Request::get("/events", show::anything),
        CtlCommand::Close(asked) => {
            let path = backend_path(
                asked.pool.as_deref().unwrap_or_default(),
                asked.backend.as_deref().unwrap_or_default(),
            );
            let path = format!("{path}/close");
            match asked.stop {
                true => Request::get(path, show::closing).by(Method::DELETE),
                false => {
                    let body = asked.rate.map_or_else(|| json!({}), |rate| json!({ "rate": rate }));
                    Request::post(path, show::closing).with(body)
                }
            }
        }
        edit => edit_request(edit),
    }
}

/// Changes of the set of backends.
fn edit_request(command: CtlCommand) -> Request {
    let change = |backend: BackendArguments, body: Value| {
        Request::get(backend.path(), show::edited).by(Method::PATCH).with(body)
    };
    match command {
        CtlCommand::Drain { backend, .. } => change(backend, json!({ "state": "drain" })),
        CtlCommand::Ready(backend) => change(backend, json!({ "state": "ready" })),
        CtlCommand::Down(backend) => change(backend, json!({ "state": "down" })),
        CtlCommand::Weight { backend, weight } => change(backend, json!({ "weight": weight })),
        CtlCommand::Add { backend, weight, state } => {
            let BackendArguments { pool, backend } = backend;
            let mut body = json!({ "address": backend });
            if let Some(weight) = weight {
                body["weight"] = json!(weight);
            }
            if let Some(state) = state {
                body["state"] = json!(state);
            }
            Request::post(format!("/pools/{}/backends", escaped(&pool)), show::edited).with(body)
        }
        CtlCommand::Remove(backend) => {
            Request::get(backend.path(), show::edited).by(Method::DELETE)
        }
        // Everything else is no edit and was answered before.
        _ => Request::get("/", show::anything),
    }
}

/// Prints an answer; a refusal goes to standard error.
fn print(reply: &Reply, json: bool, show: fn(&Value) -> String) -> Result<ExitCode, Failure> {
    if reply.is_good {
        let text = if json { reply.text.clone() } else { show(&reply.value) };
        write_result(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if json {
        write_result(&reply.text)?;
    } else {
        // A closed standard error is no reason to fail in another way.
        let _ = write_error(&show::problem(&reply.value));
    }
    Ok(ExitCode::from(EXIT_FAULTS))
}

fn close_all(client: &mut Client, sessions: Vec<String>, json: bool) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::SUCCESS;
    for session in sessions {
        let path = format!("/sessions/{}", escaped(&session));
        let reply = client.ask(Method::DELETE, &path, None)?;
        let printed = print(&reply, json, show::closed)?;
        if !reply.is_good {
            code = printed;
        }
    }
    Ok(code)
}

fn close_by_key(client: &mut Client, key: &str, json: bool) -> Result<ExitCode, Failure> {
    let path = with_query("/sessions", &[("key", Some(key)), ("limit", Some("10000"))]);
    let found = client.ask(Method::GET, &path, None)?;
    if !found.is_good {
        return print(&found, json, show::anything);
    }
    let sessions = found.value["sessions"].as_array().into_iter().flatten();
    let names = sessions.filter_map(|session| session["id"].as_str().map(str::to_owned));
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        let _ = write_error("no session has this key\n");
        return Ok(ExitCode::from(EXIT_FAULTS));
    }
    close_all(client, names, json)
}
