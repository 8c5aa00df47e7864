//! The forwarders that are compared, each set up as a competent operator would for this job.

mod corelane;
mod corelane_http;
mod haproxy;
mod name_server;
mod nginx;
mod nginx_http;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde::Serialize;

pub use self::name_server::NameServer;
use crate::run::plan::Tweak;

/// Where names that lookups ask for are.
const DOMAIN: &str = "bench.test";

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// No forwarder.
    Direct,
    /// corelane with everything on: admin interface and metrics, idle timers, session log.
    Corelane,
    /// HAProxy, choosing the backend by a hash of the JSON key as corelane does; of HTTP by a map
    /// file.
    Haproxy,
    /// nginx's stream module, which does not look at the data; of HTTP by a `map` or by Lua.
    Nginx,
}

/// Something that not every version of corelane has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `runtime.spin`
    Spin,
    /// `pool.*.warm`
    Warm,
}

/// The programs that were found.
#[derive(Debug)]
pub struct Programs {
    corelane: PathBuf,
    /// corelane's own schema of its configuration.
    schema: serde_json::Value,
    haproxy: Option<PathBuf>,
    nginx: Option<nginx::Nginx>,
    lua: Option<nginx_http::Lua>,
    name_server: Option<PathBuf>,
    /// Names and what they say of their version.
    pub versions: BTreeMap<&'static str, String>,
}

/// What a forwarder is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Folder for its files.
    pub folder: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its admin interface listens, if it has one.
    pub admin: SocketAddr,
    /// Who knows names.
    pub name_server: SocketAddr,
    /// Where it forwards to.
    pub backends: Vec<SocketAddr>,
    /// Its cores: a thread on each.
    pub cores: Vec<usize>,
    /// Connections it has to hold.
    pub connections_max: u32,
    /// What is special about it.
    pub tweak: Tweak,
}

/// A forwarder that can be started.
#[derive(Debug)]
pub struct Forwarder {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its configuration, written to this file.
    pub file: PathBuf,
    /// The text of that.
    pub config: String,
    /// Further files that it reads, and their texts.
    pub more_files: Vec<(PathBuf, String)>,
    /// What it is sent when we are gone; nginx has to tell its worker.
    pub death: Signal,
    /// Processes it is ready with.
    pub processes: usize,
}

impl Setup {
    /// The backend that a place belongs to.
    fn backend_of(&self, place: u32) -> SocketAddr {
        self.backends[place as usize % self.backends.len()]
    }

    /// The port of all backends.
    fn backend_port(&self) -> u16 {
        self.backends[0].port()
    }
}

impl Peer {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Direct => "direct",
            Peer::Corelane => "corelane",
            Peer::Haproxy => "haproxy",
            Peer::Nginx => "nginx",
        }
    }
}

impl Programs {
    /// Looks for them; corelane has to be there.
    pub fn find(corelane: &Path) -> anyhow::Result<Programs> {
        let schema = corelane::schema(corelane)?;
        let mut versions = BTreeMap::new();
        versions.insert("corelane", first_line(corelane, "--version")?);
        let haproxy = in_path("haproxy");
        if let Some(haproxy) = &haproxy {
            versions.insert("haproxy", first_line(haproxy, "-v")?);
        }
        let nginx = in_path("nginx").and_then(nginx::Nginx::look);
        if let Some(nginx) = &nginx {
            versions.insert("nginx", first_line(&nginx.program, "-v")?);
        }
        let lua = nginx_http::Lua::look(&nginx::MODULE_FOLDERS);
        let name_server = in_path("dnsmasq");
        let corelane = corelane.to_path_buf();
        Ok(Programs { corelane, schema, haproxy, nginx, lua, name_server, versions })
    }

    /// Why an arm cannot be measured here.
    pub fn absence(&self, peer: Peer, tweak: Tweak) -> Option<String> {
        if asks_names(tweak) && self.name_server.is_none() {
            return Some("dnsmasq is not installed".into());
        }
        match peer {
            Peer::Direct => None,
            Peer::Corelane => match tweak.feature() {
                Some(feature) if !corelane::has(&self.schema, feature) => {
                    Some(format!("this version has no {}", corelane::key(feature)))
                }
                _ => None,
            },
            Peer::Haproxy => self.haproxy.is_none().then(|| "haproxy is not installed".into()),
            Peer::Nginx if asks_names(tweak) && self.lua.is_none() => {
                Some("nginx's Lua module with its resolver is not installed".into())
            }
            Peer::Nginx => {
                let reason = "nginx with its stream module is not installed";
                self.nginx.is_none().then(|| reason.into())
            }
        }
    }

    /// How to start a forwarder; `None` for [`Peer::Direct`] and what is absent.
    ///
    /// # Errors
    /// When our own program, which stands in for corelane where it swaps tables, is not known.
    pub fn forwarder(&self, peer: Peer, setup: &Setup) -> anyhow::Result<Option<Forwarder>> {
        Ok(match peer {
            Peer::Direct => None,
            Peer::Corelane => Some(match setup.tweak {
                Tweak::Swaps(every) => corelane::swapping(&std::env::current_exe()?, setup, every),
                _ => corelane::forwarder(&self.corelane, setup),
            }),
            Peer::Haproxy => self.haproxy.as_deref().map(|path| haproxy::forwarder(path, setup)),
            Peer::Nginx => {
                let lua = self.lua.as_ref();
                self.nginx.as_ref().map(|nginx| nginx::forwarder(nginx, lua, setup))
            }
        })
    }

    /// The name server that a forwarder asks, if it does.
    pub fn name_server(&self, setup: &Setup) -> Option<NameServer> {
        let program = self.name_server.as_deref().filter(|_| asks_names(setup.tweak))?;
        Some(name_server::name_server(program, setup))
    }
}

fn asks_names(tweak: Tweak) -> bool {
    matches!(tweak, Tweak::Lookup | Tweak::Published)
}

/// A program in `PATH`, or where administrators' programs are.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The first line that a program says, on either output.
fn first_line(program: &Path, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = anyhow::Context::with_context(output, || program.display().to_string())?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_string())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A setup with two backends.
    pub fn setup(tweak: Tweak) -> Setup {
        Setup {
            folder: "/nowhere".into(),
            listen: "127.0.0.1:15001".parse().unwrap(),
            admin: "127.0.0.1:15002".parse().unwrap(),
            name_server: "127.0.0.1:15004".parse().unwrap(),
            backends: ["127.0.0.2:15003", "127.0.0.3:15003"].map(|a| a.parse().unwrap()).to_vec(),
            cores: vec![0],
            connections_max: 9_064,
            tweak,
        }
    }

    #[test]
    fn sh_is_in_the_path_and_others_are_not() {
        assert!(in_path("sh").is_some());
        assert!(in_path("no such program").is_none());
    }
}
