//! Watches a file of backends.
//!
//! Not the file but the folders that its path leads through are watched (`file/trail.rs`), so that
//! it may be replaced by rename, deleted and made again, and reached through links that are
//! swapped, as those of a mounted Kubernetes ConfigMap are. What the kernel does not tell (network
//! file systems) is found by reading again every `resync`.
//!
//! A file that is being written is read when its writer closes it or pauses. What is then no whole
//! list is a failure like any other: the last set stays in force, and the file is read again.

mod trail;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::trail::{Trail, Watch};
use super::retry::jittered;
use super::{Desk, Failure, FailureCause, Member, Reading, Report, Timings};
use crate::config::{BackendsFormat, parse_backends};
use crate::input::read_at_most;

/// Longest file, bytes: fifty thousand backends with their weights.
const FILE_LEN_MAX: usize = 4 << 20;
/// After a rename or a close nothing is expected; several files may be renamed in a row.
const PAUSE_CLOSED: Duration = Duration::from_millis(20);
/// A writer that has the file open is given this long to go on.
const PAUSE_WRITING: Duration = Duration::from_millis(250);
/// And to come to an end: a file that is written all the time is read all the same.
const GATHER_MAX: Duration = Duration::from_secs(1);
/// What failed is tried again this often, if nothing is heard before.
const RETRY: Duration = Duration::from_secs(5);

/// Reports what is in a file, at first and whenever that changes. Ends when nobody wants reports
/// any more.
pub async fn watch(path: PathBuf, timings: Timings, desk: Desk) {
    tokio::select! {
        () = desk.reports.closed() => {}
        () = looks(&path, timings, &desk) => {}
    }
}

async fn looks(path: &Path, timings: Timings, desk: &Desk) {
    let mut watch = match Watch::new() {
        Ok(watch) => Some(watch),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot be notified of changes, and looks now and then");
            None
        }
    };
    let mut last: Option<Vec<Member>> = None;
    loop {
        let found = look(path, watch.as_mut(), timings.timeout, desk).await;
        let mut pause = jittered(timings.resync);
        if found.is_err() || watch.as_ref().is_none_or(|watch| !watch.is_complete()) {
            pause = pause.min(RETRY);
        }
        let report = match found {
            Ok(members) if last.as_ref() == Some(&members) => Report::Unchanged,
            Ok(members) => {
                last = Some(members.clone());
                Report::Set(Reading { members, ..Reading::default() })
            }
            Err(failure) => Report::Failed(failure),
        };
        if !desk.report(report).await {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = desk.refresh.notified() => {}
            () = change(watch.as_mut()) => {}
        }
    }
}

/// Follows the path and reads what is at its end. A file system that hangs holds up nobody else.
async fn look(
    path: &Path,
    watch: Option<&mut Watch>,
    deadline: Duration,
    desk: &Desk,
) -> Result<Vec<Member>, Failure> {
    let descriptor = watch.as_ref().map(|watch| watch.descriptor());
    let own = path.to_path_buf();
    let mut work = tokio::task::spawn_blocking(move || {
        // Watched first, then read: what changes in between is noticed.
        let trail = descriptor.map(|descriptor| Trail::follow(&own, &descriptor));
        (trail, read(&own))
    });
    let outcome = match timeout(deadline, &mut work).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            let detail = format!("{}: not read within {deadline:?}", path.display());
            let failure = Failure { cause: FailureCause::Timeout, detail };
            desk.report(Report::Failed(failure)).await;
            // Another try would hang beside this one.
            work.await
        }
    };
    match outcome {
        Ok((trail, read)) => {
            if let (Some(watch), Some(trail)) = (watch, trail) {
                watch.keep(trail);
            }
            read
        }
        Err(error) => {
            let detail = format!("{}: {error}", path.display());
            Err(Failure { cause: FailureCause::Unavailable, detail })
        }
    }
}

/// Returns when something on the way to the file changed, and has come to rest.
async fn change(watch: Option<&mut Watch>) {
    let Some(watch) = watch else { return std::future::pending().await };
    let mut writing = watch.changed().await;
    let end = Instant::now() + GATHER_MAX;
    loop {
        let pause = if writing { PAUSE_WRITING } else { PAUSE_CLOSED };
        match timeout_at(end.min(Instant::now() + pause), watch.changed()).await {
            Ok(more) => writing = more,
            Err(_rest) => return,
        }
    }
}

/// The members that a file lists, numbered in its order.
fn read(path: &Path) -> Result<Vec<Member>, Failure> {
    let failed = |cause, what: &dyn std::fmt::Display| {
        let detail = format!("{}: {what}", path.display());
        Failure { cause, detail }
    };
    let bytes = match read_bytes(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let cause = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FailureCause::Missing,
                io::ErrorKind::PermissionDenied => FailureCause::Denied,
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput => {
                    FailureCause::Malformed
                }
                _ => FailureCause::Unavailable,
            };
            return Err(failed(cause, &error));
        }
    };
    let malformed = |what: &dyn std::fmt::Display| failed(FailureCause::Malformed, what);
    let text = std::str::from_utf8(&bytes).map_err(|error| malformed(&error))?;
    let backends =
        parse_backends(text, format_of(path, text)).map_err(|fault| malformed(&fault))?;
    let numbered = (0_i64..).zip(backends);
    let member = |(place, backend): (i64, crate::config::Backend)| Member {
        address: backend.address,
        weight: backend.weight,
        state: backend.state,
        order: Some(place),
    };
    Ok(numbered.map(member).collect())
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        // Opening a pipe would wait for somebody to write.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    read_at_most(File::open(path)?, FILE_LEN_MAX)
}

/// By the end of the name; without a known one by the first character, as no TOML begins with "{".
fn format_of(path: &Path, text: &str) -> BackendsFormat {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => BackendsFormat::Json,
        Some("toml") => BackendsFormat::Toml,
        _ if text.trim_start().starts_with('{') => BackendsFormat::Json,
        _ => BackendsFormat::Toml,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_in_the_name_or_in_the_first_character() {
        use BackendsFormat::{Json, Toml};
        for (path, text, format) in [
            ("a.json", "backends = []", Json),
            ("a.toml", "{}", Toml),
            ("a", " \n{}", Json),
            ("a.conf", "# {\nbackends = []", Toml),
            ("..data", "", Toml),
        ] {
            assert_eq!(format_of(Path::new(path), text), format, "{path}");
        }
    }
}
