//! Watches a hash in Redis: field = address, value = weight or object.
//!
//! A conversation is: ask to be told of changes, then read the whole hash, then read it again
//! whenever a change is told, however many were told meanwhile. Nothing that is told is believed
//! beyond "something changed", because whatever Redis says while nobody listens is lost. A broken
//! connection is therefore a new conversation from the beginning, and the hash is read once in a
//! while even if nothing was told.

pub(crate) mod stream;
mod write;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, ProtocolVersion, PushInfo, PushKind,
    RedisConnectionInfo, RedisError, Value,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use self::stream::{Allowance, Bounded, Place};
pub use self::write::write;
use super::retry::{GAP, PAUSE_MAX, Retry, jittered};
use super::value::{self, ENTRIES_MAX};
use super::{Desk, Failure, FailureCause, Reading, Report, Timings};
use crate::config::RedisSource;

/// Longest answer that is read, bytes: ten times what a large fleet needs.
const ANSWER_LEN_MAX: usize = 32 << 20;
/// The hash is read this often if changes may go untold.
const POLL: Duration = Duration::from_secs(5);
/// How often in a row one node of a cluster may name another.
const HOPS_MAX: u32 = 3;
/// Of what a server says about an error, characters.
const DETAIL_LEN_MAX: usize = 500;

/// What follows may be the password.
const ARGUMENTS: &str = ", with args beginning with";

/// How changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notices {
    /// CLIENT TRACKING in broadcasting mode: every change, with no settings in the server.
    Tracking,
    /// Keyspace notifications: if the server's `notify-keyspace-events` asks for them.
    Keyspace,
    /// Not at all.
    None,
}

/// What went wrong in a conversation.
#[derive(Debug)]
pub(crate) struct Fault {
    /// For people and metrics.
    pub failure: Failure,
    /// There is no use in going on with this connection.
    pub ends: bool,
    /// The node of a Redis Cluster that has the hash.
    moved: Option<(String, u16)>,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault { failure, ends: true, moved: None }
    }
}

/// Watches until nobody wants reports any more.
pub async fn watch(settings: RedisSource, timings: Timings, desk: Desk) {
    tokio::select! {
        () = desk.reports.closed() => {}
        never = conversations(&settings, timings, &desk) => match never {},
    }
}

async fn conversations(settings: &RedisSource, timings: Timings, desk: &Desk) -> Infallible {
    let mut retry = Retry::default();
    let mut told = None;
    let mut elsewhere = None;
    let mut hops = 0;
    loop {
        let began = Instant::now();
        let place = Place::parse(settings).map(|place| place.or_at(elsewhere.take()));
        let fault = match place {
            Ok(place) => {
                let asker = Asker::new(settings, place, timings);
                let Err(fault) = converse(asker, desk, &mut told).await;
                fault
            }
            Err(failure) => failure.into(),
        };
        if began.elapsed() >= PAUSE_MAX {
            retry.forget();
            hops = 0;
        }
        if fault.moved.is_some() && hops < HOPS_MAX {
            tracing::info!(key = settings.key, why = %fault.failure, "asking another node");
            hops += 1;
            elsewhere = fault.moved;
            continue;
        }
        hops = 0;
        // A closed desk ends the whole watcher, see `watch`.
        desk.report(Report::Failed(fault.failure)).await;
        retry.rest(desk).await;
    }
}

/// One connection, from its beginning to its end.
async fn converse(
    mut asker: Asker<'_>,
    desk: &Desk,
    told: &mut Option<Notices>,
) -> Result<Infallible, Fault> {
    let changed = Arc::new(Notify::new());
    let (key, noticed) = (asker.settings.key.clone(), changed.clone());
    let push = move |push: PushInfo| {
        if concerns(&push, key.as_bytes()) {
            noticed.notify_one();
        }
    };
    let (connection, protocol, mut driver) = asker.greet(push).await?;
    let mut client = Client { asker, connection, desk, changed: changed.clone() };
    let follow = async {
        let notices = match protocol {
            ProtocolVersion::RESP3 => client.subscribe().await?,
            _ => Notices::None,
        };
        if told.replace(notices) != Some(notices) {
            client.say(notices);
        }
        client.follow(notices).await
    };
    // The library's half of the work is done here too, and so ends with us. If it ends first, what
    // was asked last fails with the reason, and the next question does if there was none.
    tokio::pin!(follow);
    let mut driving = true;
    loop {
        tokio::select! {
            biased;
            ended = &mut follow => return ended,
            () = &mut driver, if driving => {
                driving = false;
                changed.notify_one();
            }
        }
    }
}

/// The library's half of a connection: moves bytes while it is polled.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Asks with a deadline, and knows what it means if there is no answer.
pub(crate) struct Asker<'a> {
    settings: &'a RedisSource,
    place: Place,
    timings: Timings,
    allowance: Allowance,
}

impl<'a> Asker<'a> {
    /// Nothing is asked yet.
    pub(crate) fn new(settings: &'a RedisSource, place: Place, timings: Timings) -> Asker<'a> {
        Asker { settings, place, timings, allowance: Allowance::new(ANSWER_LEN_MAX) }
    }

    /// Connects and logs in: with RESP3 if the server knows it.
    pub(crate) async fn greet(
        &mut self,
        push: impl Fn(PushInfo) + Clone + Send + Sync + 'static,
    ) -> Result<(MultiplexedConnection, ProtocolVersion, Driver), Failure> {
        for protocol in [ProtocolVersion::RESP3, ProtocolVersion::RESP2] {
            let stream =
                match timeout(self.timings.timeout, self.place.connect(&self.settings.tls)).await {
                    Ok(connected) => connected?,
                    Err(_elapsed) => return Err(self.silence("connecting").failure),
                };
            self.allowance.renew();
            let stream = Bounded::new(stream, self.allowance.clone());
            let mut config = AsyncConnectionConfig::new().set_response_timeout(None);
            if protocol == ProtocolVersion::RESP3 {
                let push = push.clone();
                config = config.set_push_sender(move |info: PushInfo| {
                    push(info);
                    Ok::<(), Infallible>(())
                });
            }
            let info = self.login(protocol);
            let greeting = MultiplexedConnection::new_with_config(&info, stream, config);
            match timeout(self.timings.timeout, greeting).await {
                Ok(Ok((connection, driver))) => {
                    return Ok((connection, protocol, Box::pin(driver)));
                }
                Ok(Err(error)) if protocol == ProtocolVersion::RESP3 && lacks_resp3(&error) => {}
                Ok(Err(error)) => return Err(self.fault("logging in", &error).failure),
                Err(_elapsed) => return Err(self.silence("logging in").failure),
            }
        }
        Err(Failure {
            cause: FailureCause::Malformed,
            detail: format!("{} speaks neither RESP3 nor RESP2", self.place),
        })
    }

    /// How much may still be read.
    pub(crate) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    fn login(&self, protocol: ProtocolVersion) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default()
            .set_db(self.place.database)
            .set_protocol(protocol)
            .set_lib_name("corelane", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.settings.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.settings.password {
            info = info.set_password(password.reveal());
        }
        info
    }

    async fn ask<T: FromRedisValue>(
        &mut self,
        connection: &mut MultiplexedConnection,
        what: &str,
        command: &Cmd,
    ) -> Result<T, Fault> {
        self.allowance.renew();
        let answer = command.query_async(connection);
        match timeout(self.timings.timeout, answer).await {
            Ok(answer) => answer.map_err(|error| self.fault(what, &error)),
            Err(_elapsed) => Err(self.silence(what)),
        }
    }

    /// Every field of the hash with its value, as they are at one moment.
    async fn entries(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Fault> {
        let key = self.settings.key.clone();
        // Asked first, since an answer cannot be stopped short of losing the connection.
        let mut count = redis::cmd("HLEN");
        let what = format!("HLEN {key}");
        let count: usize = self.ask(connection, &what, count.arg(&key)).await?;
        if count > ENTRIES_MAX {
            let detail = format!("hash {key:?} has {count} fields, {ENTRIES_MAX} at most");
            let failure = Failure { cause: FailureCause::Malformed, detail };
            return Err(Fault { failure, ends: false, moved: None });
        }
        let mut all = redis::cmd("HGETALL");
        self.ask(connection, &format!("HGETALL {key}"), all.arg(&key)).await
    }

    /// No answer in time.
    pub(crate) fn silence(&self, what: &str) -> Fault {
        let detail = format!("{what}: no answer from {} in {:?}", self.place, self.timings.timeout);
        Failure { cause: FailureCause::Timeout, detail }.into()
    }

    /// What an error means; without what must not be told.
    pub(crate) fn fault(&self, what: &str, error: &RedisError) -> Fault {
        let (cause, ends) = match self.allowance.is_used_up() {
            true => (FailureCause::Malformed, true),
            false => judge(error),
        };
        let mut said: String = error.to_string().chars().take(DETAIL_LEN_MAX).collect();
        // A server repeats the beginning of the arguments of a command that it does not know.
        if let Some(arguments) = said.find(ARGUMENTS) {
            said.truncate(arguments);
        }
        if let Some(password) = &self.settings.password
            && !password.reveal().is_empty()
        {
            said = said.replace(password.reveal(), "(secret)");
        }
        let detail = format!("{what}: {} says: {said}", self.place);
        let moved = error.redirect_node().and_then(|(node, _)| node_address(node));
        let ends = ends || moved.is_some();
        Fault { failure: Failure { cause, detail }, ends, moved }
    }
}

/// A connection that is logged in.
struct Client<'a> {
    asker: Asker<'a>,
    connection: MultiplexedConnection,
    desk: &'a Desk,
    /// Something happened to the hash, or to the connection.
    changed: Arc<Notify>,
}

impl Client<'_> {
    /// Asks to be told of changes, in the best way that the server allows.
    async fn subscribe(&mut self) -> Result<Notices, Failure> {
        let key = self.asker.settings.key.as_str();
        let mut tracking = redis::cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(key);
        let channel = format!("__keyspace@{}__:{key}", self.asker.place.database);
        let mut keyspace = redis::cmd("SUBSCRIBE");
        keyspace.arg(channel);
        for (notices, command) in [(Notices::Tracking, tracking), (Notices::Keyspace, keyspace)] {
            match self.ask::<Value>("subscribing", &command).await {
                Ok(_) => return Ok(notices),
                Err(fault) if fault.failure.cause == FailureCause::Timeout => {
                    return Err(fault.failure);
                }
                Err(fault) if fault.failure.cause == FailureCause::Unreachable => {
                    return Err(fault.failure);
                }
                Err(fault) => {
                    let key = &self.asker.settings.key;
                    tracing::debug!(key, why = %fault.failure, "{notices:?} is refused");
                }
            }
        }
        Ok(Notices::None)
    }

    fn say(&self, notices: Notices) {
        let (store, key) = (self.asker.place.to_string(), self.asker.settings.key.as_str());
        match notices {
            Notices::Tracking => {
                tracing::info!(store, key, "Redis tells of changes by client tracking");
            }
            Notices::Keyspace => tracing::warn!(
                store,
                key,
                "Redis refuses client tracking; keyspace notifications are used if \
                 notify-keyspace-events has Kghx, and the hash is read every {POLL:?}"
            ),
            Notices::None => tracing::warn!(
                store,
                key,
                "Redis tells of no changes; the hash is read every {POLL:?}"
            ),
        }
    }

    /// Reads the hash at once and whenever there is reason to.
    async fn follow(&mut self, notices: Notices) -> Result<Infallible, Fault> {
        let mut retry = Retry::default();
        let mut last: Option<Reading> = None;
        let period = match notices {
            Notices::Tracking => self.asker.timings.resync,
            Notices::Keyspace | Notices::None => self.asker.timings.resync.min(POLL),
        };
        loop {
            let next = Instant::now() + GAP;
            let read = self.read().await;
            // Only tracking tells of every change, and only a set that was read can be the same.
            let vouched = read.is_ok() && notices == Notices::Tracking;
            let due = match read {
                Ok(reading) => {
                    retry.forget();
                    let report = match last.as_ref() == Some(&reading) {
                        true => Report::Unchanged,
                        false => Report::Set(last.insert(reading).clone()),
                    };
                    self.desk.report(report).await;
                    jittered(period)
                }
                Err(fault) if fault.ends => return Err(fault),
                Err(fault) => {
                    // What is read next is news even if it is as before.
                    last = None;
                    self.desk.report(Report::Failed(fault.failure)).await;
                    retry.pause()
                }
            };
            self.wait(Instant::now() + due, vouched).await?;
            sleep_until(next).await;
        }
    }

    /// The whole hash, as it is at one moment. A hash that is not there is empty.
    async fn read(&mut self) -> Result<Reading, Fault> {
        let mut entries = self.asker.entries(&mut self.connection).await?;
        // Redis keeps no order, and a set that is only shuffled is no news.
        entries.sort_unstable();
        let members = entries.iter().map(|(field, value)| value::parse(field, value));
        Reading::gather(members, None).map_err(|failure| Fault {
            failure,
            ends: false,
            moved: None,
        })
    }

    /// Returns when the hash should be read again; meanwhile makes sure that the server is there.
    async fn wait(&mut self, due: Instant, vouched: bool) -> Result<(), Fault> {
        loop {
            let heartbeat = Instant::now() + self.asker.timings.heartbeat();
            tokio::select! {
                () = self.changed.notified() => return Ok(()),
                () = self.desk.refresh.notified() => return Ok(()),
                () = sleep_until(due) => return Ok(()),
                () = sleep_until(heartbeat) => {}
            }
            match self.ask::<Value>("PING", &redis::cmd("PING")).await {
                // Whatever changed before this answer has been told before it.
                Ok(_) if vouched => tokio::select! {
                    biased;
                    () = self.changed.notified() => return Ok(()),
                    _ = self.desk.report(Report::Unchanged) => {}
                },
                Ok(_) => {}
                Err(fault) if fault.ends => return Err(fault),
                Err(_) => return Ok(()),
            }
        }
    }

    async fn ask<T: FromRedisValue>(&mut self, what: &str, command: &Cmd) -> Result<T, Fault> {
        self.asker.ask(&mut self.connection, what, command).await
    }
}

/// Whether a push may mean that the hash has changed.
fn concerns(push: &PushInfo, key: &[u8]) -> bool {
    match push.kind {
        // Keys with our prefix, or nothing for "all of them".
        PushKind::Invalidate => match push.data.first() {
            Some(Value::Array(keys)) => {
                keys.iter().any(|name| matches!(name, Value::BulkString(name) if name == key))
            }
            _ => true,
        },
        PushKind::Message | PushKind::Disconnection => true,
        _ => false,
    }
}

/// `HOST:PORT` as a cluster names its nodes; IPv6 without brackets. A node that does not know its
/// own name says none.
fn node_address(node: &str) -> Option<(String, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
}

/// Whether a greeting failed because RESP3 is not known.
fn lacks_resp3(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported
        || error.code() == Some("NOPROTO")
        || error.detail().is_some_and(|said| said.starts_with("unknown command"))
}

/// What an error means, and whether it ends the connection.
fn judge(error: &RedisError) -> (FailureCause, bool) {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return (FailureCause::Denied, true);
    }
    match error.code() {
        // Rights are given to a connection when it logs in.
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => (FailureCause::Denied, true),
        Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "READONLY") => {
            (FailureCause::Unavailable, false)
        }
        Some("MOVED" | "ASK") => (FailureCause::Unavailable, true),
        Some(_) => (FailureCause::Malformed, false),
        None if error.is_timeout() => (FailureCause::Timeout, true),
        None if error.is_io_error() => (FailureCause::Unreachable, true),
        None => (FailureCause::Malformed, true),
    }
}
