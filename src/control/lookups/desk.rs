//! The desk of one lookup: many shards ask, each name is asked for once, and everybody who wanted
//! to know gets the answer.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::config;
use crate::http::value::Unfit;
use crate::lookup::{
    ADDRESSES_MAX, Answer, Answered, Asked, Cause, Forget, Found, LookupName, QUESTIONS_AT_ONCE,
};
use crate::shard::mailbox::{Message, ShardHandle};
use crate::source::{Failure, FailureCause};
use crate::table::{Lookup, LookupIdentity};

/// Questions that wait until one of those is answered.
const QUEUE_MAX: usize = 8_192;
/// How often in a row a question is asked again because its answer changed while it was under way.
const AGAIN_MAX: u32 = 3;
/// A store that fails or says what is not allowed is spoken of once in this time.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What a store says.
#[derive(Debug)]
pub(super) enum Said {
    /// Addresses, at least one; not checked yet.
    Addresses {
        /// Further ones than [`ADDRESSES_MAX`] are not looked at.
        addresses: Vec<SocketAddr>,
        /// How long they may be believed.
        fresh_for: Duration,
    },
    /// There is nothing, which may be believed for this long at most.
    Nothing(Duration),
    /// Something that is no address, or one that is not allowed.
    Refused(Unfit),
    /// No answer.
    Failed(Failure),
}

/// A question that is being asked, or waits to be.
#[derive(Debug)]
struct Flight {
    shards: SmallVec<[usize; 4]>,
    began: Instant,
    /// What it asks for has changed meanwhile.
    changed: bool,
    again: u32,
}

/// See the module.
pub(super) struct Desk {
    id: u64,
    pub settings: config::Lookup,
    pub identity: Arc<LookupIdentity>,
    shards: Vec<ShardHandle>,
    flights: HashMap<LookupName, Flight>,
    /// Names in `flights` that are not being asked for yet.
    queue: VecDeque<LookupName>,
    asking: usize,
    said_at: Option<Instant>,
}

impl Desk {
    /// Nobody has asked yet.
    pub fn new(lookup: &Lookup, shards: &[ShardHandle]) -> Desk {
        Desk {
            id: lookup.id,
            settings: lookup.settings.clone(),
            identity: lookup.identity.clone(),
            shards: shards.to_vec(),
            flights: HashMap::new(),
            queue: VecDeque::new(),
            asking: 0,
            said_at: None,
        }
    }

    /// A shard asks. Returns what the store is to be asked now.
    #[must_use]
    pub fn take(&mut self, asked: Asked) -> Option<LookupName> {
        let Asked { name, shard } = asked;
        if let Some(flight) = self.flights.get_mut(&name) {
            if !flight.shards.contains(&shard) {
                flight.shards.push(shard);
            }
            return None;
        }
        let waits = self.asking >= QUESTIONS_AT_ONCE;
        let shards = SmallVec::from_slice(&[shard]);
        let flight = Flight { shards, began: Instant::now(), changed: false, again: 0 };
        if waits && self.queue.len() >= QUEUE_MAX {
            self.answer(&name, &flight, Answer::Failed(Cause::Busy));
            return None;
        }
        self.flights.insert(name.clone(), flight);
        if waits {
            self.queue.push_back(name);
            return None;
        }
        self.asking += 1;
        Some(name)
    }

    /// The store has said something. Returns what it is to be asked next, if anything.
    #[must_use]
    pub fn done(&mut self, name: &LookupName, said: Said) -> Option<LookupName> {
        if let Some(flight) = self.flights.get_mut(name)
            && std::mem::take(&mut flight.changed)
            && flight.again < AGAIN_MAX
        {
            flight.again += 1;
            return Some(name.clone());
        }
        if let Some(flight) = self.flights.remove(name) {
            let answer = self.judge(name, said);
            self.identity.asked.times.record(flight.began.elapsed());
            self.answer(name, &flight, answer);
        }
        self.asking = self.asking.saturating_sub(1);
        self.next()
    }

    fn next(&mut self) -> Option<LookupName> {
        while let Some(name) = self.queue.pop_front() {
            let began = self.flights.get(&name).map(|flight| flight.began);
            if began.is_some_and(|began| began.elapsed() < self.settings.timeout) {
                self.asking += 1;
                return Some(name);
            }
            // Nobody waits that long.
            if let Some(flight) = self.flights.remove(&name) {
                self.identity.asked.failed[Cause::Busy.index()].add(1);
                self.answer(&name, &flight, Answer::Failed(Cause::Busy));
            }
        }
        None
    }

    /// There is nobody to ask: everything that is asked or waits fails.
    pub fn fail_all(&mut self, failure: &Failure) {
        self.say(failure);
        let cause = Cause::Store(failure.cause);
        for (name, flight) in std::mem::take(&mut self.flights) {
            self.identity.asked.failed[cause.index()].add(1);
            self.answer(&name, &flight, Answer::Failed(cause));
        }
        self.queue.clear();
        self.asking = 0;
    }

    /// Something with this key has changed.
    pub fn changed(&mut self, key: &[u8]) {
        self.identity.asked.changes.add(1);
        for (_, flight) in self.flights.iter_mut().filter(|(name, _)| name.key() == key) {
            flight.changed = true;
        }
        self.forget(&Forget::Key(key.into()));
    }

    /// Anything may have changed.
    pub fn changed_everything(&mut self) {
        for flight in self.flights.values_mut() {
            flight.changed = true;
        }
        self.forget(&Forget::Everything);
    }

    fn forget(&self, what: &Forget) {
        for shard in 0..self.shards.len() {
            self.tell(shard, Message::Forget { lookup: self.id, what: what.clone() });
        }
    }

    fn answer(&self, name: &LookupName, flight: &Flight, answer: Answer<Arc<Found>>) {
        for shard in &flight.shards {
            let (name, answer) = (name.clone(), answer.clone());
            self.tell(*shard, Message::Answer(Answered { lookup: self.id, name, answer }));
        }
    }

    fn tell(&self, shard: usize, message: Message) {
        if let Some(Err(error)) = self.shards.get(shard).map(|shard| shard.send(message)) {
            tracing::error!(shard, %error, "could not wake a shard");
        }
    }

    /// What a shard may know of what the store says.
    fn judge(&mut self, name: &LookupName, said: Said) -> Answer<Arc<Found>> {
        let identity = self.identity.clone();
        let fresh_for = self.settings.negative_ttl;
        match said {
            Said::Failed(failure) => {
                let cause = Cause::Store(failure.cause);
                identity.asked.failed[cause.index()].add(1);
                self.say(&failure);
                Answer::Failed(cause)
            }
            Said::Nothing(believed) => {
                identity.asked.nothing.add(1);
                Answer::Nothing { fresh_for: fresh_for.min(believed) }
            }
            Said::Refused(unfit) => self.refuse(name, unfit),
            Said::Addresses { mut addresses, fresh_for } => {
                addresses.sort_unstable();
                addresses.dedup();
                let allowed = &self.settings.allowed;
                let (mut fit, mut unfit) = (Vec::new(), None);
                for address in addresses.into_iter().take(ADDRESSES_MAX) {
                    match allowed.check(address) {
                        Ok(()) => fit.push(identity.backend(address)),
                        Err(why) => unfit = Some(why),
                    }
                }
                match unfit {
                    Some(unfit) if fit.is_empty() => self.refuse(name, unfit),
                    _ => {
                        identity.asked.found.add(1);
                        let found = Arc::new(Found { backends: fit.into() });
                        Answer::Found { found, fresh_for }
                    }
                }
            }
        }
    }

    fn refuse(&mut self, name: &LookupName, unfit: Unfit) -> Answer<Arc<Found>> {
        self.identity.asked.refused.add(1);
        if self.may_say() {
            let (lookup, reason) = (&*self.settings.name, unfit.label());
            tracing::warn!(lookup, %name, reason, "a store says what is not allowed");
        }
        Answer::Refused { unfit, fresh_for: self.settings.negative_ttl }
    }

    fn say(&mut self, failure: &Failure) {
        if self.may_say() {
            tracing::warn!(lookup = self.settings.name, %failure, "a lookup has no answer");
        }
    }

    fn may_say(&mut self) -> bool {
        let may = self.said_at.is_none_or(|at| at.elapsed() >= SAID_EVERY);
        if may {
            self.said_at = Some(Instant::now());
        }
        may
    }
}

/// A failure of this cause.
pub(super) fn failed(cause: FailureCause, detail: impl Into<String>) -> Said {
    Said::Failed(Failure { cause, detail: detail.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LookupKind, RedisLookup, StoreTls};
    use crate::http::template::Template;
    use crate::http::value::Allowed;

    fn desk(shards: usize) -> Desk {
        let template = |text| Template::parse(text).unwrap();
        let settings = config::Lookup {
            name: "nodes".to_owned(),
            kind: LookupKind::Redis(RedisLookup {
                url: "redis://127.0.0.1".to_owned(),
                username: None,
                password: None,
                tls: StoreTls::default(),
                key: template("nodes"),
                field: template("{key}"),
            }),
            ttl: None,
            negative_ttl: Duration::from_secs(1),
            stale: Duration::ZERO,
            entries_max: 100,
            timeout: Duration::from_secs(60),
            allowed: Allowed {
                networks: vec!["10.0.0.0/8".parse().unwrap()],
                ports: vec![1..=u16::MAX],
            },
            connect_timeout: Duration::from_secs(1),
            retries: 0,
            idle_timeout: Duration::from_secs(1),
        };
        let identity = Arc::new(LookupIdentity::new("nodes", shards));
        let (lookup, _asked) = Lookup::new(&settings, 1, identity);
        let mailbox = |_| ShardHandle::new(crate::sys::eventfd().unwrap());
        Desk::new(&lookup, &(0..shards).map(mailbox).collect::<Vec<_>>())
    }

    fn asked(number: usize, shard: usize) -> Asked {
        let name = LookupName::new(b"nodes", number.to_string().as_bytes()).unwrap();
        Asked { name, shard }
    }

    fn addresses(texts: &[&str]) -> Said {
        let addresses = texts.iter().map(|text| text.parse().unwrap()).collect();
        Said::Addresses { addresses, fresh_for: Duration::from_secs(9) }
    }

    /// Answers that a shard got, since it was asked last.
    fn answers(desk: &Desk, shard: usize) -> Vec<Answered> {
        std::iter::from_fn(|| desk.shards[shard].take())
            .filter_map(|message| match message {
                Message::Answer(answered) => Some(answered),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn shards_share_a_question() {
        let mut desk = desk(3);
        let name = desk.take(asked(7, 0)).unwrap();
        for shard in [1, 1, 0] {
            assert_eq!(desk.take(asked(7, shard)), None);
        }
        assert_eq!(desk.done(&name, addresses(&["10.0.0.1:1", "9.9.9.9:1", "10.0.0.1:1"])), None);
        for shard in 0..2 {
            let [answered] = &answers(&desk, shard)[..] else { panic!("one answer") };
            let Answer::Found { found, .. } = &answered.answer else { panic!("{answered:?}") };
            let found: Vec<String> = found.addresses().map(|one| one.to_string()).collect();
            assert_eq!(found, ["10.0.0.1:1"], "once, and only what is allowed");
        }
        assert!(answers(&desk, 2).is_empty(), "it did not ask");
    }

    #[test]
    fn what_changes_under_way_is_asked_again_but_not_for_ever() {
        let mut desk = desk(1);
        let name = desk.take(asked(7, 0)).unwrap();
        for _ in 0..AGAIN_MAX {
            desk.changed(b"nodes");
            assert_eq!(desk.done(&name, addresses(&["10.0.0.1:1"])), Some(name.clone()));
            assert!(answers(&desk, 0).is_empty());
        }
        desk.changed(b"nodes");
        assert_eq!(desk.done(&name, addresses(&["10.0.0.1:1"])), None);
        assert_eq!(answers(&desk, 0).len(), 1);
        let name = desk.take(asked(8, 0)).unwrap();
        desk.changed(b"others");
        assert_eq!(desk.done(&name, addresses(&["10.0.0.1:1"])), None);
    }

    #[test]
    fn a_flood_waits_and_then_is_refused() {
        let mut desk = desk(1);
        let now: Vec<_> = (0..QUESTIONS_AT_ONCE).map(|n| desk.take(asked(n, 0)).unwrap()).collect();
        for number in QUESTIONS_AT_ONCE..QUESTIONS_AT_ONCE + QUEUE_MAX {
            assert_eq!(desk.take(asked(number, 0)), None);
        }
        assert!(answers(&desk, 0).is_empty());
        assert_eq!(desk.take(asked(1_000_000, 0)), None);
        let [refused] = &answers(&desk, 0)[..] else { panic!("one is too many") };
        assert_eq!(refused.name, asked(1_000_000, 0).name);
        assert!(matches!(refused.answer, Answer::Failed(Cause::Busy)));
        let next = desk.done(&now[0], Said::Nothing(Duration::ZERO));
        assert_eq!(next, Some(asked(QUESTIONS_AT_ONCE, 0).name), "those who wait have their turn");
        let failure = Failure { cause: FailureCause::Timeout, detail: "test".to_owned() };
        desk.fail_all(&failure);
        assert_eq!(answers(&desk, 0).len(), QUESTIONS_AT_ONCE + QUEUE_MAX);
        assert!(desk.take(asked(1, 0)).is_some());
    }

    #[test]
    fn only_what_is_allowed_is_an_answer() {
        let mut desk = desk(1);
        let name = desk.take(asked(7, 0)).unwrap();
        assert_eq!(desk.done(&name, addresses(&["169.254.169.254:80"])), None);
        let answer = &answers(&desk, 0)[0].answer;
        assert!(matches!(answer, Answer::Refused { unfit: Unfit::NetworkNotAllowed, .. }));
        let many: Vec<String> = (1..=200).map(|n| format!("10.0.0.{n}:1")).collect();
        let name = desk.take(asked(8, 0)).unwrap();
        let many = addresses(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(desk.done(&name, many), None);
        let Answer::Found { found, .. } = &answers(&desk, 0)[0].answer else { panic!("found") };
        assert_eq!(found.backends.len(), ADDRESSES_MAX);
    }
}
