//! Asks the backends of a pool how they are: a task per pool on the control plane. It follows the
//! table: backends are asked in the order and set of the table in force, and forgotten with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::check::{Check, Rule};
use super::probe::{self, Failure, Outcome};
use super::random;
use crate::config::{self, Address};
use crate::table::{Pool, Table};

/// Checks of one pool under way at once. Bounds descriptors; what is due meanwhile waits its turn.
pub const CHECKS_MAX: usize = 256;

/// A backend came into service or went out of it.
#[derive(Debug, Clone)]
pub struct Flip {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Of the backend.
    pub address: Address,
    /// Whether it is in service now.
    pub up: bool,
    /// For people: the last thing that was seen.
    pub why: String,
}

/// The checkers of all pools.
#[derive(Debug)]
pub struct Checkers {
    tables: watch::Receiver<Arc<Table>>,
    flips: mpsc::Sender<Flip>,
    tasks: HashMap<String, tokio::task::JoinHandle<()>>,
    seed: u64,
}

impl Checkers {
    /// None yet. `seed` should differ from gateway to gateway, so that they do not ask in step.
    pub fn new(
        tables: watch::Receiver<Arc<Table>>,
        flips: mpsc::Sender<Flip>,
        seed: u64,
    ) -> Checkers {
        Checkers { tables, flips, tasks: HashMap::new(), seed }
    }

    /// Starts a task for each pool of the table in force that asks for checks and has none. To be
    /// called on a tokio runtime, at first and after pools or their settings changed; a task ends
    /// by itself when its pool is gone or wants no checks any more.
    pub fn follow(&mut self) {
        self.tasks.retain(|_, task| !task.is_finished());
        let table = self.tables.borrow().clone();
        for pool in table.pools.iter().filter(|pool| pool.settings.health.check.is_some()) {
            if self.tasks.contains_key(&pool.settings.name) {
                continue;
            }
            let checker = Checker {
                name: pool.settings.name.clone(),
                backends: HashMap::new(),
                keys: HashMap::new(),
                due: BinaryHeap::new(),
                running: JoinSet::new(),
                next_key: 0,
                began: Instant::now(),
                seed: random(&mut self.seed),
            };
            let running = checker.run(self.tables.clone(), self.flips.clone());
            self.tasks.insert(pool.settings.name.clone(), tokio::spawn(running));
        }
    }
}

impl Drop for Checkers {
    fn drop(&mut self) {
        self.tasks.values().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A backend that is asked.
struct Asked {
    address: Address,
    check: Check,
}

struct Checker {
    name: String,
    backends: HashMap<u64, Asked>,
    keys: HashMap<Address, u64>,
    /// When each is due; entries of backends that are gone are skipped.
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    running: JoinSet<(u64, Result<(), Failure>)>,
    next_key: u64,
    began: Instant,
    seed: u64,
}

impl Checker {
    async fn run(mut self, mut tables: watch::Receiver<Arc<Table>>, flips: mpsc::Sender<Flip>) {
        let Some(mut pool) = self.follow(&tables.borrow_and_update().clone()) else { return };
        loop {
            self.start_due(&pool);
            let room = self.running.len() < CHECKS_MAX;
            let next = self.due.peek().map(|Reverse((due, _))| self.began + *due);
            tokio::select! {
                changed = tables.changed() => {
                    let table = tables.borrow_and_update().clone();
                    pool = match (changed, self.follow(&table)) {
                        (Ok(()), Some(pool)) => pool,
                        _ => return,
                    };
                }
                Some(done) = self.running.join_next(), if !self.running.is_empty() => {
                    // A check never panics and is never cancelled while this runs.
                    let Ok((key, result)) = done else { continue };
                    let Some(flip) = self.result(&pool, key, result) else { continue };
                    if flips.send(flip).await.is_err() {
                        return;
                    }
                }
                () = until(next), if room && next.is_some() => {}
            }
        }
    }

    /// Takes the set of a table over; `None`: there is nothing to check any more.
    fn follow(&mut self, table: &Table) -> Option<Arc<Pool>> {
        let (_, pool) = table.pool(&self.name)?;
        let rule = rule(pool.settings.health.check.as_ref()?);
        let now = self.began.elapsed();
        let mut keys = HashMap::with_capacity(pool.backends.len());
        for backend in &pool.backends {
            let key = self.keys.remove(&backend.address).unwrap_or_else(|| {
                let key = self.next_key;
                self.next_key += 1;
                let check = Check::new(&rule, now, random(&mut self.seed));
                self.due.push(Reverse((check.due(), key)));
                self.backends.insert(key, Asked { address: backend.address.clone(), check });
                key
            });
            keys.insert(backend.address.clone(), key);
        }
        for key in self.keys.values() {
            self.backends.remove(key);
        }
        self.keys = keys;
        Some(pool.clone())
    }

    /// Starts what is due, as far as there is room.
    fn start_due(&mut self, pool: &Arc<Pool>) {
        let now = self.began.elapsed();
        while self.running.len() < CHECKS_MAX {
            match self.due.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => return,
            }
            let Some(Reverse((_, key))) = self.due.pop() else { return };
            let Some(asked) = self.backends.get_mut(&key) else { continue };
            let Some(check) = &pool.settings.health.check else { return };
            asked.check.begin(&rule(check), now);
            let (pool, address) = (pool.clone(), asked.address.clone());
            self.running.spawn(async move {
                let Some(check) = &pool.settings.health.check else { return (key, Ok(())) };
                let turn = usize::try_from(key).unwrap_or_default();
                (key, probe::run(&pool.settings, check, &address, turn).await)
            });
        }
    }

    /// Counts a result, and plans the next check of its backend. A check is shorter than the
    /// interval, so none is due twice.
    fn result(&mut self, pool: &Pool, key: u64, result: Result<(), Failure>) -> Option<Flip> {
        let outcome = result.as_ref().map_or_else(|failure| failure.outcome, |()| Outcome::Good);
        pool.health.checks[outcome as usize].add(1);
        let rule = rule(pool.settings.health.check.as_ref()?);
        let asked = self.backends.get_mut(&key)?;
        self.due.push(Reverse((asked.check.due(), key)));
        if outcome == Outcome::Ours {
            return None;
        }
        let up = asked.check.result(&rule, outcome == Outcome::Good)?;
        let counter = if up { &pool.health.rises } else { &pool.health.falls };
        counter.add(1);
        let why = result.map_or_else(|failure| failure.to_string(), |()| "good checks".to_owned());
        Some(Flip { pool: pool.label.clone(), address: asked.address.clone(), up, why })
    }
}

fn rule(check: &config::Check) -> Rule {
    Rule { interval: check.interval, rise: check.rise, fall: check.fall }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}
