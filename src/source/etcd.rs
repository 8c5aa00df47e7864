//! Watches the keys under a prefix in etcd: rest of the key = address, value = weight or object.
//!
//! The whole prefix is read at one revision, and from the next revision on etcd tells of every
//! change, in order and without gaps. A connection that breaks is taken up again at the revision
//! it broke at, with another member if there is one. Where that cannot be (etcd has forgotten the
//! revisions in between, or is at an older one than we are because a backup was put in) everything
//! is read again.
//!
//! Needs etcd 3.4 or later: earlier ones know no progress requests.

mod client;
mod mirror;
mod wire;
mod write;

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

use self::client::{Client, Watching, is_too_long};
use self::mirror::{Mirror, Step};
use self::wire::{WatchProgressRequest, WatchRequest, WatchResponse};
pub use self::write::write;
use super::retry::{GAP, PAUSE_MAX, Retry, jittered};
use super::{Desk, Failure, Report, Timings};
use crate::config::EtcdSource;

/// After a watch was taken up again the whole prefix is read in this time, in case the store is
/// another than it looks like: a new one with the old one's name, and as far.
const RECHECK: Duration = Duration::from_secs(10);

/// Watches until nobody wants reports any more.
pub async fn watch(settings: EtcdSource, timings: Timings, desk: Desk) {
    tokio::select! {
        () = desk.reports.closed() => {}
        never = conversations(&settings, timings, &desk) => match never {},
    }
}

async fn conversations(settings: &EtcdSource, timings: Timings, desk: &Desk) -> Infallible {
    let members = settings.endpoints.len().max(1);
    // Gateways of a fleet spread over the members.
    let mut turn = rand::random_range(0..members);
    let mut failed = 0;
    let mut retry = Retry::default();
    let mut mirror = Mirror::new(&settings.prefix);
    loop {
        let address = settings.endpoints.get(turn % members).map_or("", String::as_str);
        let began = Instant::now();
        let mut follower = Follower { timings, desk, mirror: &mut mirror, told: false };
        let Err(failure) = follower.converse(settings, address).await;
        if began.elapsed() >= PAUSE_MAX {
            retry.forget();
            failed = 0;
        }
        failed += 1;
        turn += 1;
        if failed % members != 0 {
            tracing::debug!(store = address, why = %failure, "trying another member of etcd");
            continue;
        }
        // A closed desk ends the whole watcher, see `watch`.
        desk.report(Report::Failed(failure)).await;
        retry.rest(desk).await;
    }
}

/// One connection to one member.
struct Follower<'a> {
    timings: Timings,
    desk: &'a Desk,
    mirror: &'a mut Mirror,
    /// The set has been reported since this connection began.
    told: bool,
}

/// What happened while watching.
enum Event {
    Answer(Result<Option<WatchResponse>, tonic::Status>),
    /// Nothing came for a while.
    Quiet,
    /// Nothing came although we asked.
    Silent,
    /// The whole prefix should be read.
    Due,
    /// A change has waited long enough to be told.
    Tell,
}

impl Follower<'_> {
    /// From its beginning to its end.
    async fn converse(
        &mut self,
        settings: &EtcdSource,
        address: &str,
    ) -> Result<Infallible, Failure> {
        let mut client = Client::connect(settings, address, self.timings.timeout).await?;
        let (header, count) = client.count().await?;
        let mut due = RECHECK.min(self.timings.resync);
        if self.mirror.continues_at(&header, count) {
            tracing::debug!(store = address, from = self.mirror.next_revision(), "taken up again");
            self.tell().await?;
        } else {
            self.read(&mut client).await?;
            due = self.timings.resync;
        }
        loop {
            let watching = client.watch(self.mirror.next_revision()).await?;
            let why = self.follow(&mut client, watching, jittered(due)).await?;
            tracing::info!(store = address, why, "reading everything again");
            self.read(&mut client).await?;
            due = self.timings.resync;
        }
    }

    /// Reads the whole prefix and reports it.
    async fn read(&mut self, client: &mut Client<'_>) -> Result<(), Failure> {
        let (header, kvs) = client.read().await?;
        match self.mirror.fill(&header, kvs)? {
            Step::Same if self.told => {
                self.desk.report(Report::Unchanged).await;
                Ok(())
            }
            _ => self.tell().await,
        }
    }

    async fn tell(&mut self) -> Result<(), Failure> {
        let reading = self.mirror.reading()?;
        self.told = true;
        self.desk.report(Report::Set(reading)).await;
        Ok(())
    }

    /// Takes what a watch tells, until it cannot be continued for the reason returned.
    async fn follow(
        &mut self,
        client: &mut Client<'_>,
        mut watching: Watching,
        due: Duration,
    ) -> Result<&'static str, Failure> {
        let mut due = Instant::now() + due;
        let mut heard = Instant::now();
        let mut asked: Option<Instant> = None;
        // When a change that came may be told.
        let mut tell: Option<Instant> = None;
        let mut told = Instant::now();
        loop {
            let answers = &mut watching.answers;
            let quiet = asked.is_none().then_some(heard + self.timings.heartbeat());
            let silent = asked.map(|asked| asked + self.timings.timeout);
            let event = self.next(answers, [quiet, silent, Some(due), tell]).await;
            match event {
                Event::Answer(Ok(Some(response))) => {
                    heard = Instant::now();
                    asked = None;
                    match self.mirror.take(response)? {
                        Step::Changed => tell = tell.or(Some((told + GAP).max(heard))),
                        Step::Same if tell.is_none() => {
                            self.desk.report(Report::Unchanged).await;
                        }
                        Step::Same | Step::Partial => {}
                        Step::Restart(why) => return Ok(why),
                        Step::Ended(reason) => return Err(client.ended(&reason)),
                    }
                }
                Event::Answer(Ok(None)) => return Err(client.broken()),
                // It can be read in smaller pieces than it can be told in.
                Event::Answer(Err(status)) if is_too_long(&status) => {
                    return Ok("one answer cannot hold what has changed");
                }
                Event::Answer(Err(status)) => return Err(client.failure("watching", &status)),
                Event::Quiet => {
                    asked = Some(Instant::now());
                    let progress = Some(WatchProgressRequest {});
                    if watching.asks.try_send(WatchRequest { create: None, progress }).is_err() {
                        return Err(client.broken());
                    }
                }
                Event::Silent => return Err(client.silence("watching")),
                Event::Due => {
                    due = Instant::now() + jittered(self.timings.resync);
                    let (header, _) = client.count().await?;
                    if header.revision < self.mirror.next_revision() - 1 {
                        return Ok("the store has gone back to an older revision");
                    }
                    // What is read is no news if it was heard before; that it was told is another
                    // matter.
                    if tell.is_some() {
                        self.tell().await?;
                    }
                    self.read(client).await?;
                    (tell, told) = (None, Instant::now());
                    heard = told;
                }
                Event::Tell => {
                    self.tell().await?;
                    (tell, told) = (None, Instant::now());
                }
            }
        }
    }

    async fn next(
        &self,
        answers: &mut Streaming<WatchResponse>,
        [quiet, silent, due, tell]: [Option<Instant>; 4],
    ) -> Event {
        tokio::select! {
            // Answers first, so that what has come counts before a deadline that passed with it;
            // telling before that, so that a stream of changes cannot put it off.
            biased;
            () = at(tell) => Event::Tell,
            answer = answers.message() => Event::Answer(answer),
            () = at(silent) => Event::Silent,
            () = at(quiet) => Event::Quiet,
            () = self.desk.refresh.notified() => Event::Due,
            () = at(due) => Event::Due,
        }
    }
}

/// At that time; never without one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
