//! Backends that are edited in a real Redis and a real etcd: every gateway follows, editors do not
//! undo each other's changes, and what cannot be done is answered as what it is.

mod stores;

use std::time::{Duration, Instant};

use corelane::config::{BackendState, OnEmpty, RedisSource, Source, SourceKind};
use corelane::source::value::rewrite::{Wanted, fresh};
use corelane::source::write::{Write, WriteError, Written, write};
use corelane::source::{FailureCause, Member};
use stores::desk::Watch;
use stores::etcd::{Etcd, PREFIX};
use stores::process::DEADLINE;
use stores::proxy::Proxy;
use stores::redis::{KEY, Redis};

const A: &str = "10.0.0.1:7000";
const B: &str = "10.0.0.2:7000";

/// Of every question.
const TIMEOUT: Duration = Duration::from_secs(1);

fn source(kind: SourceKind, timeout: Duration) -> Source {
    Source {
        kind,
        on_empty: OnEmpty::Keep,
        max_removal_percent: 100,
        removal_delay: timeout,
        settle: timeout,
        resync: Duration::from_secs(600),
        timeout,
        stale_after: Duration::from_secs(60),
    }
}

/// One edit, as the control plane does it.
fn edit(source: &Source, address: &str, change: &Write) -> Result<Written, WriteError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(write(source, &address.parse().unwrap(), change))
}

fn add() -> Write {
    Write::Add(fresh(1, BackendState::Ready, None))
}

fn weight(weight: u32) -> Write {
    Write::Set(Wanted { weight: Some(weight), state: None })
}

fn state(state: BackendState) -> Write {
    Write::Set(Wanted { weight: None, state: Some(state) })
}

/// A store with A, whose value is an object that has a stranger's member, and B.
trait Store {
    fn new() -> Self;
    fn kind(&self) -> SourceKind;
    fn follow(&self) -> Watch;
    fn value(&self, name: &str) -> String;
    fn put_value(&self, name: &str, value: &str);
    fn pause(&self);
}

const OBJECT: &str = r#"{"zone":{"rack":[7]},"weight":2,"order":5}"#;

impl Store for Redis {
    fn new() -> Redis {
        let redis = Redis::start();
        redis.put_value(A, OBJECT);
        redis.put_value(B, "1");
        redis
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Redis(self.settings())
    }

    fn follow(&self) -> Watch {
        self.watch()
    }

    fn value(&self, name: &str) -> String {
        let mut command = redis::cmd("HGET");
        let value: Option<String> =
            command.arg(KEY).arg(name).query(&mut self.connection()).unwrap();
        value.unwrap_or_default()
    }

    fn put_value(&self, name: &str, value: &str) {
        self.put(&format!("{name} {value}"));
    }

    fn pause(&self) {
        self.process.pause();
    }
}

impl Store for Etcd {
    fn new() -> Etcd {
        let etcd = Etcd::start();
        etcd.put_value(A, OBJECT);
        etcd.put_value(B, "1");
        etcd
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Etcd(self.settings())
    }

    fn follow(&self) -> Watch {
        self.watch()
    }

    fn value(&self, name: &str) -> String {
        self.run(&format!("get --print-value-only {PREFIX}{name}")).trim_end().to_owned()
    }

    fn put_value(&self, name: &str, value: &str) {
        self.put(name, value);
    }

    fn pause(&self) {
        self.process.pause();
    }
}

fn members(watch: &Watch) -> Vec<Member> {
    let mut members = watch.set().members;
    members.sort_by_key(|member| member.address.to_string());
    members
}

/// The next set of both, which is the same.
fn both(watches: &[Watch; 2]) -> Vec<Member> {
    let first = members(&watches[0]);
    assert_eq!(first, members(&watches[1]));
    first
}

fn everybody_follows<S: Store>() {
    let store = S::new();
    let source = source(store.kind(), TIMEOUT);
    let gateways = [store.follow(), store.follow()];
    assert_eq!(both(&gateways).len(), 2);

    assert_eq!(edit(&source, A, &state(BackendState::Drain)), Ok(Written::Done));
    let drained = &both(&gateways)[0];
    assert_eq!((drained.weight, drained.state), (2, BackendState::Drain));
    let expected = r#"{"zone":{"rack":[7]},"weight":2,"order":5,"state":"drain"}"#;
    assert_eq!(store.value(A), expected, "the stranger's member is as it was");

    assert_eq!(edit(&source, A, &weight(9)), Ok(Written::Done));
    let heavier = &both(&gateways)[0];
    assert_eq!((heavier.weight, heavier.state), (9, BackendState::Drain));
    assert_eq!(edit(&source, A, &weight(9)), Ok(Written::Same));
    assert_eq!(edit(&source, A, &state(BackendState::Ready)), Ok(Written::Done));
    assert_eq!((both(&gateways)[0].state, both_orders(&store)), (BackendState::Ready, true));

    let value = fresh(3, BackendState::Down, Some(-1));
    assert_eq!(edit(&source, "[::1]:7000", &Write::Add(value)), Ok(Written::Done));
    let added = both(&gateways).pop().unwrap();
    assert_eq!((added.weight, added.state, added.order), (3, BackendState::Down, Some(-1)));
    assert_eq!(edit(&source, "[0:0::1]:7000", &add()), Err(WriteError::Present));
    assert_eq!(edit(&source, B, &Write::Remove), Ok(Written::Done));
    assert_eq!(both(&gateways).len(), 2);
    assert_eq!(edit(&source, B, &Write::Remove), Err(WriteError::Absent));
    assert_eq!(edit(&source, B, &weight(2)), Err(WriteError::Absent));

    store.put_value(B, "garbage");
    let refused = edit(&source, B, &weight(2));
    assert!(matches!(&refused, Err(WriteError::Value(why)) if why.contains(B)), "{refused:?}");
    assert_eq!(store.value(B), "garbage");
    gateways.into_iter().for_each(Watch::end);
}

/// The order of A is as it was.
fn both_orders<S: Store>(store: &S) -> bool {
    store.value(A).contains(r#""order":5"#)
}

#[test]
fn two_gateways_follow_what_is_edited_in_redis() {
    everybody_follows::<Redis>();
}

#[test]
fn two_gateways_follow_what_is_edited_in_etcd() {
    everybody_follows::<Etcd>();
}

const ROUNDS: u32 = 15;

/// Two change different things of one backend, others add and remove: at the end everything is as
/// each of them left it.
fn nothing_is_lost<S: Store>() {
    let store = S::new();
    // Editors wait for each other, not for the store.
    let source = &source(store.kind(), Duration::from_secs(10));
    let done = |address: &str, change: &Write| {
        assert_eq!(edit(source, address, change), Ok(Written::Done), "{address} {change:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..ROUNDS).for_each(|round| done(A, &weight(10 + round))));
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let down = round % 2 == 0;
                done(A, &state(if down { BackendState::Down } else { BackendState::Ready }));
            }
        });
        for editor in 1..=2 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let address = format!("10.0.{editor}.{round}:1");
                    done(&address, &add());
                    if round % 3 == 0 {
                        done(&address, &Write::Remove);
                    }
                }
            });
        }
    });
    let watch = store.follow();
    let all = members(&watch);
    assert_eq!((all[0].weight, all[0].state), (10 + ROUNDS - 1, BackendState::Down));
    let kept = (0..ROUNDS).filter(|round| round % 3 != 0).count();
    assert_eq!(all.len(), 2 + 2 * kept);
    assert!(store.value(A).starts_with(r#"{"zone":{"rack":[7]},"#), "{}", store.value(A));
    watch.end();
}

#[test]
fn editors_of_redis_lose_nothing() {
    nothing_is_lost::<Redis>();
}

#[test]
fn editors_of_etcd_lose_nothing() {
    nothing_is_lost::<Etcd>();
}

#[test]
fn two_who_add_the_same_are_told_apart() {
    let (redis, etcd) = (Redis::new(), Etcd::new());
    for kind in [redis.kind(), etcd.kind()] {
        let source = &source(kind, Duration::from_secs(10));
        let answers: Vec<_> = std::thread::scope(|scope| {
            let add_it = || edit(source, "10.0.0.9:1", &add());
            let editors: Vec<_> = (0..4).map(|_| scope.spawn(add_it)).collect();
            editors.into_iter().map(|editor| editor.join().unwrap()).collect()
        });
        let count = |answer| answers.iter().filter(|one| **one == answer).count();
        assert_eq!((count(Ok(Written::Done)), count(Err(WriteError::Present))), (1, 3));
    }
}

/// A failure from before the store was told.
fn cause(answer: Result<Written, WriteError>) -> FailureCause {
    match answer {
        Err(WriteError::Failed(failure)) => {
            assert!(!failure.detail.contains("secret"), "{failure}");
            failure.cause
        }
        other => panic!("{other:?}"),
    }
}

fn silence_is_a_timeout<S: Store>() {
    let store = S::new();
    let source = source(store.kind(), TIMEOUT);
    store.pause();
    let began = Instant::now();
    assert_eq!(cause(edit(&source, A, &weight(3))), FailureCause::Timeout);
    assert!((TIMEOUT..DEADLINE).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[test]
fn a_redis_that_keeps_silent_is_a_timeout() {
    silence_is_a_timeout::<Redis>();
}

#[test]
fn an_etcd_that_keeps_silent_is_a_timeout() {
    silence_is_a_timeout::<Etcd>();
}

#[test]
fn a_store_that_is_not_there_is_unreachable() {
    let port = stores::process::free_port();
    let redis = SourceKind::Redis(stores::redis::settings(&format!("redis://127.0.0.1:{port}")));
    let etcd = SourceKind::Etcd(stores::etcd::settings(&[port, port]));
    for kind in [redis, etcd] {
        assert_eq!(cause(edit(&source(kind, TIMEOUT), A, &add())), FailureCause::Unreachable);
    }
}

#[test]
fn redis_denies_by_password_and_by_right() {
    let redis = Redis::start_with(&["--requirepass", "right-secret"]);
    redis.put(&format!("{A} 1"));
    let with = |settings: RedisSource| source(SourceKind::Redis(settings), TIMEOUT);
    let password = |word| stores::redis::with_password(redis.settings(), word);
    assert_eq!(cause(edit(&with(redis.settings()), A, &weight(2))), FailureCause::Denied);
    let wrong = with(password("wrong-secret"));
    assert_eq!(cause(edit(&wrong, A, &weight(2))), FailureCause::Denied);
    // What watching needs, and what editing needs besides.
    redis.run("ACL SETUSER gate on >gate-secret ~corelane:* +hello +ping +select +hlen +hgetall");
    let username = Some("gate".to_owned());
    let reader = with(RedisSource { username, ..password("gate-secret") });
    assert_eq!(cause(edit(&reader, A, &weight(2))), FailureCause::Denied);
    redis.run("ACL SETUSER gate +watch +multi +exec");
    assert_eq!(cause(edit(&reader, A, &weight(2))), FailureCause::Denied);
    assert_eq!(redis.value(A), "1");
    redis.run("ACL SETUSER gate +hset +hdel");
    assert_eq!(edit(&reader, A, &weight(2)), Ok(Written::Done));
    assert_eq!(edit(&reader, A, &Write::Remove), Ok(Written::Done));
    assert_eq!(edit(&with(password("right-secret")), A, &add()), Ok(Written::Done));
}

#[test]
fn a_replica_of_redis_is_not_written() {
    let redis = Redis::new();
    redis.run(&format!("REPLICAOF 127.0.0.1 {}", stores::process::free_port()));
    let answer = edit(&source(redis.kind(), TIMEOUT), A, &weight(3));
    assert_eq!(cause(answer), FailureCause::Unavailable);
    redis.run("REPLICAOF NO ONE");
    assert_eq!(edit(&source(redis.kind(), TIMEOUT), A, &weight(3)), Ok(Written::Done));
}

#[test]
fn etcd_denies_by_password_and_by_right() {
    let etcd = Etcd::new();
    for command in [
        "user add root:root-secret",
        "role add reader",
        &format!("role grant-permission --prefix=true reader read {PREFIX}"),
        "user add gate:gate-secret",
        "user grant-role gate reader",
        "user grant-role root root",
        "auth enable",
    ] {
        etcd.run(command);
    }
    let with = |word| {
        let settings = stores::etcd::with_password(etcd.settings(), "gate", word);
        source(SourceKind::Etcd(settings), TIMEOUT)
    };
    let nameless = source(etcd.kind(), TIMEOUT);
    assert_eq!(cause(edit(&nameless, B, &weight(2))), FailureCause::Denied);
    assert_eq!(cause(edit(&with("wrong-secret"), B, &weight(2))), FailureCause::Denied);
    let reader = with("gate-secret");
    assert_eq!(cause(edit(&reader, B, &weight(2))), FailureCause::Denied);
    let grant = format!("role grant-permission --prefix=true reader readwrite {PREFIX}");
    etcd.run(&format!("--user root:root-secret {grant}"));
    assert_eq!(edit(&reader, B, &weight(2)), Ok(Written::Done));
}

#[test]
fn a_lease_goes_on_when_its_value_is_edited() {
    let etcd = Etcd::new();
    let lease = etcd.run("lease grant 600");
    let lease = lease.split(' ').nth(1).unwrap();
    etcd.run(&format!("put --lease={lease} {PREFIX}{B} 1"));
    assert_eq!(edit(&source(etcd.kind(), TIMEOUT), B, &weight(4)), Ok(Written::Done));
    assert_eq!(etcd.value(B), "4");
    etcd.run(&format!("lease revoke {lease}"));
    assert_eq!(etcd.value(B), "", "gone with its lease");
}

#[test]
fn of_several_members_one_that_answers_is_enough() {
    let etcd = Etcd::new();
    let gone = stores::process::free_port();
    let kind = SourceKind::Etcd(stores::etcd::settings(&[gone, etcd.port, gone]));
    for round in 0..6 {
        assert_eq!(edit(&source(kind.clone(), TIMEOUT), A, &weight(10 + round)), Ok(Written::Done));
    }
}

/// Slow, but within every question's deadline: the whole edit still comes to an end.
#[test]
fn a_slow_store_is_waited_for() {
    let redis = Redis::new();
    let proxy = Proxy::start(redis.port);
    proxy.delay_bytes(Duration::from_millis(1));
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let kind = SourceKind::Redis(stores::redis::settings(&url));
    assert_eq!(edit(&source(kind, Duration::from_secs(10)), A, &weight(3)), Ok(Written::Done));
    assert!(redis.value(A).contains(r#""weight":3"#));
}
