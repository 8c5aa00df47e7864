//! The backends, which echo or answer requests: a process of their own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;

use super::args::Plan;
use super::engine::Engine;
use crate::launch::end_with_parent;

const LISTENING: &str = "listening";

/// Echoes until the process is killed, with its parent at the latest.
///
/// # Errors
/// What the machine refuses.
pub fn serve(plan: Plan) -> anyhow::Result<u8> {
    end_with_parent(Signal::SIGKILL)?;
    let mut engine = Engine::new(plan)?;
    engine.listen()?;
    println!("{LISTENING}");
    loop {
        engine.turn(None)?;
    }
}

/// The process.
#[derive(Debug)]
pub struct Backends {
    child: Child,
}

impl Backends {
    /// Starts it on the cores of this process and waits until it listens; `http`: for requests.
    ///
    /// # Errors
    /// Addresses that cannot be listened on.
    pub fn start(addresses: &[SocketAddr], http: bool) -> anyhow::Result<Backends> {
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["load", "echo", "--backends", &list.join(",")])
            .args(http.then_some("--http"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the backends")?;
        let output = child.stdout.take().context("no output of the backends")?;
        let backends = Backends { child };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == LISTENING, "the backends do not listen");
        Ok(backends)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        // It may have ended by itself, having said why.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
