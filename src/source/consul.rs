//! Watches the healthy instances of a service in Consul by blocking queries, as
//! <https://developer.hashicorp.com/consul/api-docs/features/blocking> asks of a client.
//!
//! The agent holds a query until the service changes or `wait` has passed. That it answers is no
//! proof of a change, and its index may go back (a server was restored or rebuilt): both are
//! looked at before anything is reported. Answers may come from any of Consul's servers, so each
//! says how far it is behind the leader, and one that is too far is asked for again at the leader.

mod answer;

use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::answer::{Judged, judge};
use super::bucket::Bucket;
use super::retry::Retry;
use super::{Desk, Failure, FailureCause, Reading, Report, Timings};
use crate::config::ConsulSource;
use crate::fetch::{Answer, Ask, FetchError, Fetcher, Site};

/// Queries that may follow each other at once; a query that blocks as it should needs one.
const BURST: u32 = 2;
/// After those, one per this long: what a service that changes all the time costs the agent, and
/// how late we are then.
const REFILL: Duration = Duration::from_millis(500);
/// Largest answer, in bytes: an instance takes 1 to 3 KiB.
const BODY_MAX: usize = 64 * 1024 * 1024;
/// What may stand in a path segment or a query value as it is (RFC 3986, unreserved).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
static TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// Reports the service's instances until the desk is closed.
pub async fn watch(settings: ConsulSource, timings: Timings, desk: Desk) {
    let site = match Site::parse(&settings.url, &settings.tls) {
        Ok(site) => site,
        Err(error) => {
            desk.report(Report::Failed(failure(FailureCause::Malformed, &error))).await;
            return desk.reports.closed().await;
        }
    };
    let mut watch = Watch {
        fetcher: Fetcher::new(site),
        settings,
        timings,
        position: Position::default(),
        known: None,
    };
    let mut bucket = Bucket::new(BURST, REFILL);
    let mut retry = Retry::default();
    loop {
        let pause = bucket.take(Instant::now());
        tokio::select! {
            () = desk.reports.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let report = tokio::select! {
            () = desk.reports.closed() => return,
            () = desk.refresh.notified() => {
                watch.position = Position::default();
                continue;
            }
            report = watch.ask() => report,
        };
        match report {
            // The next question is already another one.
            None => {}
            Some(Report::Failed(failure)) => {
                if !desk.report(Report::Failed(failure)).await {
                    return;
                }
                tokio::select! {
                    () = desk.reports.closed() => return,
                    () = retry.rest(&desk) => {}
                }
            }
            Some(report) => {
                retry.forget();
                if !desk.report(report).await {
                    return;
                }
            }
        }
    }
}

struct Watch {
    fetcher: Fetcher,
    settings: ConsulSource,
    timings: Timings,
    position: Position,
    /// What was reported last, without its revision.
    known: Option<Reading>,
}

/// What the next query asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    /// Answer when the service is past this; 0 is at once.
    index: u64,
    /// Only the leader's answer will do.
    from_leader: bool,
}

impl Watch {
    async fn ask(&mut self) -> Option<Report> {
        let asked = self.position;
        self.position = Position::default();
        let ask = match self.query(asked) {
            Ok(ask) => ask,
            Err(failure) => return Some(Report::Failed(failure)),
        };
        match self.fetcher.fetch(&ask).await {
            Ok(answer) => self.take(asked, &answer),
            Err(error) => Some(Report::Failed(self.not_fetched(&error))),
        }
    }

    fn take(&mut self, asked: Position, answer: &Answer) -> Option<Report> {
        match judge(answer, asked.from_leader, self.settings.max_lag) {
            Ok(Judged::Lagging) => {
                self.position = Position { index: 0, from_leader: true };
                None
            }
            // Older than what we saw: what it says is looked at anew, from the beginning.
            Ok(Judged::Set { index, .. }) if index < asked.index => None,
            Ok(Judged::Set { index, mut reading }) => {
                self.position.index = index;
                if self.known.as_ref() == Some(&reading) {
                    return Some(Report::Unchanged);
                }
                self.known = Some(reading.clone());
                reading.revision = Some(index.to_string());
                Some(Report::Set(reading))
            }
            Err(mut failure) => {
                failure.detail = format!("{}: {}", self.fetcher.site(), failure.detail);
                Some(Report::Failed(failure))
            }
        }
    }

    /// How long the agent may hold a query: everything is read again at least every `resync`.
    fn wait(&self) -> Duration {
        self.settings.wait.min(self.timings.resync)
    }

    fn query(&self, position: Position) -> Result<Ask, Failure> {
        let settings = &self.settings;
        let mut path = format!(
            "/v1/health/service/{}?passing=1&index={}&wait={}ms",
            utf8_percent_encode(&settings.service, PLAIN),
            position.index,
            self.wait().as_millis(),
        );
        if !position.from_leader {
            path.push_str("&stale");
        }
        for (name, value) in [("dc", &settings.datacentre), ("tag", &settings.tag)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", utf8_percent_encode(value, PLAIN)));
            }
        }
        // The agent adds up to a sixteenth of `wait`, so that many watchers do not wake as one.
        let held = if position.index == 0 { Duration::ZERO } else { self.wait() };
        Ok(Ask {
            method: Method::GET,
            path,
            headers: self.token()?.map(|token| (TOKEN.clone(), token)).into_iter().collect(),
            body: Bytes::new(),
            connect_timeout: self.timings.timeout,
            timeout: held + held / 16 + self.timings.timeout,
            body_max: BODY_MAX,
        })
    }

    fn token(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(path) = &self.settings.token_file else { return Ok(None) };
        let denied = |error: &dyn std::fmt::Display| Failure {
            cause: FailureCause::Denied,
            detail: format!("token file {}: {error}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|error| denied(&error))?;
        // The library's error names the fault, not the text.
        let mut token = HeaderValue::from_str(text.trim()).map_err(|error| denied(&error))?;
        token.set_sensitive(true);
        Ok(Some(token))
    }

    fn not_fetched(&self, error: &FetchError) -> Failure {
        let cause = match error {
            FetchError::Connect(_) => FailureCause::Unreachable,
            FetchError::Exchange(error) if error.is_parse() => FailureCause::Malformed,
            FetchError::Exchange(_) => FailureCause::Unreachable,
            FetchError::Timeout(..) => FailureCause::Timeout,
            FetchError::Tls(_) => FailureCause::Unreachable,
            FetchError::Site(_) | FetchError::TooLarge(_) => FailureCause::Malformed,
        };
        let mut failure = failure(cause, error);
        failure.detail = format!("{}: {}", self.fetcher.site(), failure.detail);
        failure
    }
}

fn failure(cause: FailureCause, error: &FetchError) -> Failure {
    Failure { cause, detail: error.to_string() }
}
