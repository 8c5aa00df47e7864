//! Callers over HTTP and WebSocket, and what answers them.

pub mod backend;
mod check;
pub mod http;
mod route;
pub mod ws;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, bail};
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};

use crate::cli::WebArgs;
use crate::fleet::{Way, ways};
use crate::machine;
use crate::oracle::{self, Home, Routes};
use crate::plan::Arm;
use crate::template::HeaderTemplate;
use route::{Asking, Keys};

/// In which a backend names itself.
pub const BACKEND_HEADER: HeaderName = HeaderName::from_static("x-backend");
/// In which a request says which one it is, and its answer too.
pub const REQUEST_HEADER: HeaderName = HeaderName::from_static("x-request-number");

/// One arm of a run, as far as requests and upgrades have it in common. Nothing changes it.
#[derive(Debug)]
pub struct WebPlan {
    /// The command line.
    pub args: WebArgs,
    /// Which way.
    pub arm: Arm,
    /// Gateway addresses, used in turn; or the backends, by place in the table.
    pub targets: Vec<SocketAddr>,
    /// Where callers must land.
    pub routes: Routes,
    /// What decides that.
    keys: Keys,
    /// Of every request.
    method: String,
    /// Local addresses, used in turn.
    sources: Vec<IpAddr>,
    /// What times are counted from.
    pub epoch: Instant,
}

/// What is sent for one number.
#[derive(Debug, Clone)]
pub struct Head {
    /// Path and query.
    pub target: Uri,
    /// Host and what the command line adds.
    pub headers: HeaderMap,
}

/// The arms of a run, checked.
///
/// # Errors
/// When nothing can run so; the reason is for the user.
pub fn plans(args: &WebArgs, method: &str, connections: u32) -> anyhow::Result<Vec<WebPlan>> {
    if connections == 0 || args.threads == 0 {
        bail!("there must be at least 1 of everything, threads too");
    }
    let fits = machine::raise_descriptor_limit()?;
    if u64::from(connections) > fits {
        bail!("{connections} connections are too many for {fits} descriptors (ulimit -n)");
    }
    let gateway = args.config.as_deref().map(oracle::read_gateway).transpose()?;
    let (keys, table) = route::of(args, gateway.as_ref())?;
    let ways: Vec<(Arm, Way)> = ways(table, &args.target, args.direct.as_deref())?;
    ways.into_iter()
        .map(|(arm, (targets, mut routes))| {
            if targets.is_empty() {
                bail!("no address to connect to in the {} arm", arm.name());
            }
            keys.remark(&mut routes);
            let plan = WebPlan {
                arm,
                sources: machine::loopback_sources(args.sources, &targets)?,
                targets,
                routes,
                keys: keys.clone(),
                method: method.to_string(),
                epoch: Instant::now(),
                args: args.clone(),
            };
            // What is wrong with a template is wrong with every number.
            plan.head(args.first_id)?;
            Ok(plan)
        })
        .collect()
}

impl WebPlan {
    /// Nanoseconds since the epoch of this run.
    pub fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Where this number must land.
    pub fn home(&self, number: u64) -> Home {
        self.keys.home(&self.routes, number, || {
            // What cannot be composed is not sent, which is said where it is not.
            let Head { target, headers } = self.head(number).ok()?;
            Some(Asking { method: self.method.clone(), target: target.to_string(), headers })
        })
    }

    /// Where a connection goes; in the direct arm, straight home.
    pub fn target_of(&self, connection: u32, home: Home) -> SocketAddr {
        match (self.arm, home) {
            (Arm::Direct, Home::At(place)) => self.targets[place],
            _ => self.targets[connection as usize % self.targets.len()],
        }
    }

    /// What a connection binds to. Sources change after each round over the targets.
    pub fn source_of(&self, connection: u32) -> Option<IpAddr> {
        let turn = connection as usize / self.targets.len();
        (!self.sources.is_empty()).then(|| self.sources[turn % self.sources.len()])
    }

    /// What is sent for this number.
    ///
    /// # Errors
    /// When the templates make something that is no target or no header.
    pub fn head(&self, number: u64) -> anyhow::Result<Head> {
        let text = target_text(&self.args, number);
        let target: Uri = text.parse().with_context(|| format!("{text:?} is no target"))?;
        if target.authority().is_some() || !text.starts_with('/') {
            bail!("--path begins with /, {text:?} does not");
        }
        let mut headers = HeaderMap::new();
        for HeaderTemplate { name, value } in &self.args.header {
            headers.append(name, header_value(&value.fill(number))?);
        }
        if !headers.contains_key(HOST) {
            headers.insert(HOST, header_value(&self.targets[0].to_string())?);
        }
        Ok(Head { target, headers })
    }

    /// The headers that every answer must have.
    pub fn expected(&self, number: u64) -> impl Iterator<Item = (&HeaderName, String)> {
        self.args.expect_header.iter().map(move |header| (&header.name, header.value.fill(number)))
    }
}

/// Path and query of a number.
fn target_text(args: &WebArgs, number: u64) -> String {
    let mut text = args.path.fill(number);
    for argument in &args.query {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(&argument.fill(number));
    }
    text
}

fn header_value(text: &str) -> anyhow::Result<HeaderValue> {
    HeaderValue::from_str(text).with_context(|| format!("{text:?} cannot be a header's value"))
}
