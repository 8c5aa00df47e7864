//! Waiting until a drained backend has no sessions left.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;

use super::client::Client;
use crate::cli::{EXIT_FAULTS, Failure, write_error};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(500);

/// Looks at a backend until it is empty, or gone, or the time is over.
pub(super) fn wait(client: &mut Client, path: &str, most: Duration) -> Result<ExitCode, Failure> {
    let give_up = Instant::now() + most;
    loop {
        let reply = client.ask(Method::GET, path, None)?;
        // One that is no longer in its pool is shown until its last session has ended.
        let sessions = reply.value["live"].as_u64().unwrap_or(0);
        if !reply.is_good || sessions == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let most = humantime::format_duration(most);
            // A closed standard error is no reason to fail in another way.
            let _ = write_error(&format!("{sessions} sessions are left after {most}\n"));
            return Ok(ExitCode::from(EXIT_FAULTS));
        }
        client.pause(left.min(EVERY));
    }
}
