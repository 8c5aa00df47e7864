//! Asks a Redis for fields of hashes, over one connection on which the server also tells which
//! hashes have changed (client tracking).
//!
//! What is told is only worth something while the connection stands: with its end, and again with
//! the beginning of the next, everything that shards remember is out of date.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{ProtocolVersion, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::desk::{Desk, Said};
use crate::config::{RedisLookup, RedisSource};
use crate::http::value::{Allowed, means_nothing};
use crate::lookup::{Asked, LookupName};
use crate::source::redis::stream::Place;
use crate::source::redis::{Asker, Driver, Fault};
use crate::source::retry::Retry;
use crate::source::{Failure, FailureCause, Timings};

/// How long a field is believed if the server tells of changes.
const FRESH_TOLD: Duration = Duration::from_secs(60);
/// The same if it does not.
const FRESH_UNTOLD: Duration = Duration::from_secs(5);
/// Longest time without a try to connect: callers wait for the store to come back.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Changes told that may wait to be passed on; with more, all is out of date.
const CHANGES_MAX: usize = 4_096;

/// Answers questions until nobody can ask any more.
pub(super) async fn serve(settings: RedisLookup, mut desk: Desk, mut asked: mpsc::Receiver<Asked>) {
    let source = RedisSource {
        url: settings.url,
        key: String::new(),
        username: settings.username,
        password: settings.password,
        tls: settings.tls,
    };
    let mut retry = Retry::default();
    loop {
        match connect(&source, &mut desk, &mut asked).await {
            Greeted::Closed => return,
            Greeted::Failed(failure) => desk.fail_all(&failure),
            Greeted::Connected(mut link, early) => {
                retry.forget();
                let (lookup, tracking) = (desk.settings.name.clone(), link.tracking);
                tracing::info!(lookup, tracking, "a lookup is connected to its store");
                desk.identity.asked.connections.add(1);
                desk.identity.asked.set_connected(true);
                // Nobody fails to answer any more.
                desk.changed_everything();
                let ended = link.converse(&mut desk, &mut asked, early).await;
                desk.identity.asked.set_connected(false);
                desk.changed_everything();
                match ended {
                    None => return,
                    Some(failure) => desk.fail_all(&failure),
                }
            }
        }
        if rest(retry.pause().min(PAUSE_MAX), &mut desk, &mut asked).await.is_none() {
            return;
        }
    }
}

/// What came of connecting.
enum Greeted<'a> {
    Closed,
    Failed(Failure),
    /// And what was asked meanwhile.
    Connected(Box<Link<'a>>, Vec<LookupName>),
}

async fn connect<'a>(
    source: &'a RedisSource,
    desk: &mut Desk,
    asked: &mut mpsc::Receiver<Asked>,
) -> Greeted<'a> {
    let deadline = desk.settings.timeout;
    let greeting = timeout(deadline, Link::open(source, Terms::of(desk)));
    tokio::pin!(greeting);
    let mut early = Vec::new();
    loop {
        tokio::select! {
            greeted = &mut greeting => return match greeted {
                Ok(Ok(link)) => Greeted::Connected(Box::new(link), early),
                Ok(Err(failure)) => Greeted::Failed(failure),
                Err(_elapsed) => Greeted::Failed(Failure {
                    cause: FailureCause::Timeout,
                    detail: format!("no connection in {deadline:?}"),
                }),
            },
            question = asked.recv() => match question {
                Some(question) => early.extend(desk.take(question)),
                None => return Greeted::Closed,
            },
        }
    }
}

/// Stays away from a store that failed; who asks meanwhile is told so at once.
async fn rest(pause: Duration, desk: &mut Desk, asked: &mut mpsc::Receiver<Asked>) -> Option<()> {
    let until = Instant::now() + pause;
    loop {
        tokio::select! {
            () = sleep_until(until) => return Some(()),
            question = asked.recv() => {
                if desk.take(question?).is_some() {
                    desk.fail_all(&Failure {
                        cause: FailureCause::Unreachable,
                        detail: "there was no connection a moment ago".to_owned(),
                    });
                }
            }
        }
    }
}

/// How fields are asked for.
#[derive(Debug, Clone)]
struct Terms {
    timeout: Duration,
    ttl: Option<Duration>,
    negative_ttl: Duration,
    allowed: Allowed,
}

impl Terms {
    fn of(desk: &Desk) -> Terms {
        let settings = &desk.settings;
        Terms {
            timeout: settings.timeout,
            ttl: settings.ttl,
            negative_ttl: settings.negative_ttl,
            allowed: settings.allowed.clone(),
        }
    }
}

/// What a server tells unasked.
enum Change {
    Key(Vec<u8>),
    Everything,
}

/// What an answer belongs to.
enum Flown {
    Field(LookupName, Result<Option<Vec<u8>>, RedisError>),
    /// No answer in time.
    Silence(LookupName),
    Ping(Result<Value, RedisError>),
    PingSilence,
}

/// A connection that is logged in.
struct Link<'a> {
    asker: Asker<'a>,
    terms: Terms,
    connection: MultiplexedConnection,
    driver: Driver,
    changes: mpsc::Receiver<Change>,
    /// Changes were told that found no room in `changes`.
    lost: Arc<AtomicBool>,
    tracking: bool,
}

impl<'a> Link<'a> {
    async fn open(source: &'a RedisSource, terms: Terms) -> Result<Link<'a>, Failure> {
        let timings = Timings { resync: FRESH_TOLD, timeout: terms.timeout };
        let place = Place::parse(source)?;
        let mut asker = Asker::new(source, place, timings);
        let (sender, changes) = mpsc::channel(CHANGES_MAX);
        let lost = Arc::new(AtomicBool::new(false));
        let (allowance, losing) = (asker.allowance().clone(), lost.clone());
        let push = move |push: PushInfo| {
            // What is told is no answer that was too long.
            allowance.renew();
            for change in changes_of(push) {
                if sender.try_send(change).is_err() {
                    losing.store(true, Ordering::Relaxed);
                }
            }
        };
        let (connection, protocol, driver) = asker.greet(push).await?;
        let mut link = Link { asker, terms, connection, driver, changes, lost, tracking: false };
        if protocol == ProtocolVersion::RESP3 {
            link.track().await?;
        }
        Ok(link)
    }

    /// Asks to be told when a hash changes that we have asked for.
    async fn track(&mut self) -> Result<(), Failure> {
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON");
        let mut connection = self.connection.clone();
        let answer = command.query_async::<Value>(&mut connection);
        let answered = tokio::select! {
            answer = answer => answer,
            () = &mut self.driver => {
                let cause = FailureCause::Unreachable;
                let detail = "the connection broke at its beginning".to_owned();
                return Err(Failure { cause, detail });
            }
        };
        match answered {
            Ok(_) => self.tracking = true,
            Err(error) => {
                let fault = self.asker.fault("CLIENT TRACKING", &error);
                if fault.ends && fault.failure.cause != FailureCause::Denied {
                    return Err(fault.failure);
                }
                let why = fault.failure;
                tracing::warn!(%why, "a lookup's store does not tell of changes");
            }
        }
        Ok(())
    }

    /// Asks what is asked and passes on what is told, until the connection ends (why) or nobody can
    /// ask any more (`None`).
    async fn converse(
        &mut self,
        desk: &mut Desk,
        asked: &mut mpsc::Receiver<Asked>,
        early: Vec<LookupName>,
    ) -> Option<Failure> {
        let heartbeat = self.terms.timeout.clamp(Duration::from_secs(1), Duration::from_secs(10));
        let mut flights: FuturesUnordered<BoxFuture<'static, Flown>> = FuturesUnordered::new();
        flights.extend(early.into_iter().map(|name| self.ask(name)));
        let mut beat_at = Instant::now() + heartbeat;
        loop {
            if self.lost.swap(false, Ordering::Relaxed) {
                desk.changed_everything();
            }
            // What was told before an answer was read is looked at before it.
            tokio::select! {
                biased;
                Some(change) = self.changes.recv() => match change {
                    Change::Key(key) => desk.changed(&key),
                    Change::Everything => desk.changed_everything(),
                },
                () = &mut self.driver => {
                    let cause = match self.asker.allowance().is_used_up() {
                        true => FailureCause::Malformed,
                        false => FailureCause::Unreachable,
                    };
                    return Some(Failure { cause, detail: "the connection broke".to_owned() });
                }
                Some(flown) = flights.next() => match self.landed(flown) {
                    Ok(None) => {}
                    Ok(Some((name, said))) => {
                        if let Some(next) = desk.done(&name, said) {
                            flights.push(self.ask(next));
                        }
                    }
                    Err(fault) => return Some(fault.failure),
                },
                question = asked.recv() => match question {
                    Some(question) => {
                        if let Some(name) = desk.take(question) {
                            flights.push(self.ask(name));
                        }
                    }
                    None => return None,
                },
                () = sleep_until(beat_at) => {
                    beat_at = Instant::now() + heartbeat;
                    flights.push(self.ping());
                }
            }
        }
    }

    fn ask(&self, name: LookupName) -> BoxFuture<'static, Flown> {
        self.asker.allowance().renew();
        let (mut connection, deadline) = (self.connection.clone(), self.terms.timeout);
        let mut command = redis::cmd("HGET");
        command.arg(name.key()).arg(name.field());
        Box::pin(async move {
            match timeout(deadline, command.query_async(&mut connection)).await {
                Ok(answer) => Flown::Field(name, answer),
                Err(_elapsed) => Flown::Silence(name),
            }
        })
    }

    /// Whether the server is there: one that is not tells nothing either.
    fn ping(&self) -> BoxFuture<'static, Flown> {
        let (mut connection, deadline) = (self.connection.clone(), self.terms.timeout);
        Box::pin(async move {
            let command = redis::cmd("PING");
            match timeout(deadline, command.query_async(&mut connection)).await {
                Ok(answer) => Flown::Ping(answer),
                Err(_elapsed) => Flown::PingSilence,
            }
        })
    }

    /// What an answer says; a fault that ends the connection.
    fn landed(&self, flown: Flown) -> Result<Option<(LookupName, Said)>, Fault> {
        let ending = |fault: Fault| if fault.ends { Err(fault) } else { Ok(fault) };
        match flown {
            Flown::Field(name, Ok(value)) => {
                self.asker.allowance().renew();
                Ok(Some((name, self.read(value.as_deref()))))
            }
            Flown::Field(name, Err(error)) => {
                let fault = ending(self.asker.fault(&format!("HGET {name}"), &error))?;
                Ok(Some((name, Said::Failed(fault.failure))))
            }
            Flown::Silence(name) => Err(self.asker.silence(&format!("HGET {name}"))),
            Flown::Ping(Err(error)) => ending(self.asker.fault("PING", &error)).map(|_| None),
            Flown::PingSilence => Err(self.asker.silence("PING")),
            Flown::Ping(Ok(_)) => Ok(None),
        }
    }

    fn read(&self, value: Option<&[u8]>) -> Said {
        let Some(value) = value.filter(|value| !means_nothing(value)) else {
            return Said::Nothing(self.terms.negative_ttl);
        };
        match self.terms.allowed.address(value) {
            Err(unfit) => Said::Refused(unfit),
            Ok(address) => {
                let fresh = if self.tracking { FRESH_TOLD } else { FRESH_UNTOLD };
                let fresh_for = self.terms.ttl.unwrap_or(fresh);
                Said::Addresses { addresses: vec![address], fresh_for }
            }
        }
    }
}

/// What a push means: keys that have changed, or nothing for "all of them".
fn changes_of(push: PushInfo) -> Vec<Change> {
    if push.kind != PushKind::Invalidate {
        return Vec::new();
    }
    match push.data.into_iter().next() {
        Some(Value::Array(keys)) => keys
            .into_iter()
            .filter_map(|key| match key {
                Value::BulkString(key) => Some(Change::Key(key)),
                Value::SimpleString(key) => Some(Change::Key(key.into_bytes())),
                _ => None,
            })
            .collect(),
        _ => vec![Change::Everything],
    }
}
