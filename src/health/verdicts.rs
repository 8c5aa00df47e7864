//! What is known of every backend's health, for the next table.
//!
//! The control plane keeps one [`Verdicts`]. Every table passes through [`Verdicts::judge`] before
//! it is published, wherever it comes from: that puts what is known of its backends into it, and is
//! how backends that joined, left or became ready are noticed. [`Verdicts::tick`] looks at what
//! sessions met since the last time, and [`Verdicts::flip`] takes what a checker says; when one of
//! them returns changes, the next version of the table is due.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::checker::Flip;
use super::ejection::{Cause, Met, Record, Step, ejected_max, panics};
use crate::config::{Address, BackendState};
use crate::table::{Backend, BackendShared, Pool, Table, Verdict};

/// Something that changed, to be said and shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// What.
    pub what: What,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A backend's verdict.
    Verdict {
        /// Its address.
        backend: Arc<str>,
        /// What holds now.
        verdict: Verdict,
        /// For people.
        why: String,
    },
    /// A backend should be ejected, and the cap forbids it. No table is due for it.
    Withheld {
        /// Its address.
        backend: Arc<str>,
        /// Why it should be.
        cause: Cause,
    },
    /// The pool began or stopped to panic.
    Panic {
        /// Whether it panics now.
        panicking: bool,
        /// Backends out of service.
        out: usize,
        /// Backends that would take sessions if all were healthy.
        of: usize,
    },
}

impl Change {
    /// Whether it shows in a table.
    pub fn is_in_table(&self) -> bool {
        !matches!(self.what, What::Withheld { .. })
    }

    /// An operational line.
    pub fn log(&self) {
        let pool = &*self.pool;
        match &self.what {
            What::Verdict { backend, verdict: Verdict::Healthy, why } => {
                tracing::info!(pool, backend = &**backend, why, "backend back in service");
            }
            What::Verdict { backend, verdict, why } => {
                let (backend, verdict) = (&**backend, verdict.label());
                tracing::warn!(pool, backend, verdict, why, "backend out of service");
            }
            What::Withheld { backend, cause } => {
                let (backend, cause) = (&**backend, cause.label());
                tracing::warn!(pool, backend, cause, "backend not ejected: too many are");
            }
            What::Panic { panicking: true, out, of } => {
                tracing::error!(pool, out, of, "too many backends out of service: using all");
            }
            What::Panic { panicking: false, out, of } => {
                tracing::info!(pool, out, of, "enough backends in service again");
            }
        }
    }
}

/// Of all pools.
#[derive(Debug)]
pub struct Verdicts {
    pools: HashMap<String, Known>,
    began: Instant,
}

/// Of one pool.
#[derive(Debug)]
struct Known {
    /// The version that `backends` is in the order of.
    pool: Arc<Pool>,
    backends: Vec<Patient>,
    indexes: HashMap<Address, usize>,
    panicking: bool,
}

/// Of one backend.
#[derive(Debug)]
struct Patient {
    shared: Arc<BackendShared>,
    label: Arc<str>,
    ready: bool,
    /// Its checks fail.
    down: bool,
    record: Record,
    returned: Option<Instant>,
    /// What the last table said.
    verdict: Verdict,
}

impl Verdicts {
    /// Nothing is known; `now` is when the process began.
    pub fn new(now: Instant) -> Verdicts {
        Verdicts { pools: HashMap::new(), began: now }
    }

    /// Puts what is known into a table that is about to be published, and says what its new set
    /// changed by itself. Of a pool seen for the first time, or empty until now, no backend counts
    /// as one that returned.
    pub fn judge(&mut self, mut table: Table, now: Instant) -> (Table, Vec<Change>) {
        let mut changes = Vec::new();
        self.pools.retain(|name, _| table.pool(name).is_some());
        for pool in &mut table.pools {
            let name = &pool.settings.name;
            match self.pools.get_mut(name) {
                Some(known) => known.follow(pool, now),
                None => {
                    let known = Known::new(pool);
                    self.pools.insert(name.clone(), known);
                }
            }
            let Some(known) = self.pools.get_mut(name) else { continue };
            // A set that changed may be one to panic about, or one no longer.
            known.changes(now, "checks or ejection are off", &mut changes);
            if let Some(judged) = known.judged(pool) {
                *pool = Arc::new(judged);
            }
            known.pool = pool.clone();
        }
        (table, changes)
    }

    /// Looks at what sessions met until `now`: to be called about ten times a second.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let since = now.saturating_duration_since(self.began);
        let mut changes = Vec::new();
        for known in self.pools.values_mut() {
            known.look(since, now, &mut changes);
        }
        changes
    }

    /// Takes in what a checker says. Backends that have left the table since are ignored.
    pub fn flip(&mut self, flip: &Flip, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(known) = self.pools.get_mut(&*flip.pool) else { return changes };
        let Some(index) = known.indexes.get(&flip.address) else { return changes };
        if let Some(patient) = known.backends.get_mut(*index) {
            patient.down = !flip.up;
        }
        known.changes(now, &flip.why, &mut changes);
        changes
    }
}

impl Known {
    fn new(pool: &Arc<Pool>) -> Known {
        let backends = pool.backends.iter().map(|backend| Patient::new(backend, None)).collect();
        Known { pool: pool.clone(), backends, indexes: indexes(pool), panicking: false }
    }

    /// Takes over the set of a pool's next version.
    fn follow(&mut self, pool: &Arc<Pool>, now: Instant) {
        if Arc::ptr_eq(&self.pool, pool) {
            return;
        }
        let mut old: Vec<Option<Patient>> =
            std::mem::take(&mut self.backends).into_iter().map(Some).collect();
        let checked = pool.settings.health.check.is_some();
        let ejecting = pool.settings.health.ejection.is_some();
        let joined = (!old.is_empty()).then_some(now);
        for backend in &pool.backends {
            let known = self.indexes.get(&backend.address);
            let known = known.and_then(|index| old.get_mut(*index)?.take());
            let same = known.filter(|known| Arc::ptr_eq(&known.shared, &backend.shared));
            let mut patient = same.unwrap_or_else(|| Patient::new(backend, joined));
            let ready = backend.state == BackendState::Ready;
            if ready && !patient.ready {
                patient.returned = Some(now);
            }
            patient.ready = ready;
            // Nobody would say that it is up again.
            patient.down &= checked;
            if !ejecting {
                patient.record = Record::new(patient.met());
            }
            self.backends.push(patient);
        }
        self.indexes = indexes(pool);
        self.pool = pool.clone();
    }

    /// Looks at what sessions met; takes ejections in as the pool's settings say.
    fn look(&mut self, since: Duration, now: Instant, changes: &mut Vec<Change>) {
        let Some(rule) = self.pool.settings.health.ejection else {
            return;
        };
        let (mut out, of) = self.out();
        let most = ejected_max(&rule, of);
        for index in 0..self.backends.len() {
            let patient = &mut self.backends[index];
            let may_eject = patient.down || out < most;
            let was_in = patient.is_in();
            let step = patient.record.look(&rule, (since, patient.met()), may_eject);
            let cells = self.pool.health.clone();
            match step {
                None => {}
                Some(Step::Ejected(cause, time)) => {
                    cells.ejections[cause as usize].add(1);
                    out += usize::from(was_in && patient.ready);
                    let why = format!("{} for {time:?}", cause.label());
                    self.changes(now, &why, changes);
                }
                Some(Step::Returned) => {
                    out = out.saturating_sub(usize::from(patient.is_in() && patient.ready));
                    self.changes(now, "its time is over", changes);
                }
                Some(Step::Withheld(cause)) => {
                    cells.withheld.add(1);
                    let what = What::Withheld { backend: patient.label.clone(), cause };
                    changes.push(Change { pool: self.pool.label.clone(), what });
                }
            }
        }
    }

    /// Backends out of service, and backends that would take sessions if all were healthy.
    fn out(&self) -> (usize, usize) {
        let ready = self.backends.iter().filter(|patient| patient.ready);
        ready.fold((0, 0), |(out, of), patient| (out + usize::from(!patient.is_in()), of + 1))
    }

    /// What differs from the last table, for this reason.
    fn changes(&mut self, now: Instant, why: &str, changes: &mut Vec<Change>) {
        let pool = &self.pool.label;
        for patient in &mut self.backends {
            let verdict = patient.judgement();
            if verdict == patient.verdict {
                continue;
            }
            if verdict == Verdict::Healthy {
                patient.returned = Some(now);
            }
            patient.verdict = verdict;
            let what =
                What::Verdict { backend: patient.label.clone(), verdict, why: why.to_owned() };
            changes.push(Change { pool: pool.clone(), what });
        }
        let (out, of) = self.out();
        let panicking = panics(self.pool.settings.health.panic_percent, out, of);
        if panicking != self.panicking {
            self.panicking = panicking;
            self.pool.health.panics.add(u64::from(panicking));
            let what = What::Panic { panicking, out, of };
            changes.push(Change { pool: self.pool.label.clone(), what });
        }
    }

    /// The pool with what is known in it; `None` if it says so already.
    fn judged(&self, pool: &Pool) -> Option<Pool> {
        let agrees = |(backend, patient): (&Arc<Backend>, &Patient)| {
            backend.verdict == patient.verdict && backend.returned == patient.returned
        };
        let mut both = pool.backends.iter().zip(&self.backends);
        if pool.panicking == self.panicking && both.all(agrees) {
            return None;
        }
        let backends = pool.backends.iter().zip(&self.backends).map(|(backend, patient)| {
            if agrees((backend, patient)) {
                return backend.clone();
            }
            Arc::new(backend.judged(patient.verdict, patient.returned))
        });
        Some(pool.judged(backends.collect(), self.panicking))
    }
}

impl Patient {
    fn new(backend: &Backend, returned: Option<Instant>) -> Patient {
        let shared = backend.shared.clone();
        let mut patient = Patient {
            shared,
            label: backend.label.clone(),
            ready: backend.state == BackendState::Ready,
            down: false,
            record: Record::default(),
            returned,
            verdict: Verdict::Healthy,
        };
        patient.record = Record::new(patient.met());
        patient
    }

    fn is_in(&self) -> bool {
        !self.down && !self.record.is_out()
    }

    fn judgement(&self) -> Verdict {
        match (self.down, self.record.is_out()) {
            (true, _) => Verdict::Unhealthy,
            (false, true) => Verdict::Ejected,
            (false, false) => Verdict::Healthy,
        }
    }

    fn met(&self) -> Met {
        Met {
            failures_in_row: self.shared.failures_in_row.load(Relaxed),
            sessions: self.shared.cells.sum(|cell| &cell.sessions),
            early: self.shared.cells.sum(|cell| &cell.early_ends),
        }
    }
}

fn indexes(pool: &Pool) -> HashMap<Address, usize> {
    let addresses = pool.backends.iter().map(|backend| backend.address.clone());
    addresses.enumerate().map(|(index, address)| (address, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Ejection};
    use crate::health::random;

    fn addresses(count: u16) -> Vec<Address> {
        (0..count).map(|port| Address::Tcp(([10, 0, 0, 1], 1 + port).into())).collect()
    }

    fn sample(count: u16, change: impl FnOnce(&mut config::Pool)) -> Table {
        Table::sample(&addresses(count), |pool| {
            pool.health.check = Some(config::Check {
                kind: config::CheckKind::Tcp,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                rise: 1,
                fall: 1,
                port: None,
            });
            change(pool);
        })
    }

    fn ejection() -> Ejection {
        Ejection {
            failures: 2,
            early: Duration::from_secs(5),
            early_count: 3,
            early_percent: 50,
            window: Duration::from_secs(30),
            base_time: Duration::from_secs(10),
            max_time: Duration::from_secs(40),
            max_ejected_percent: 50,
        }
    }

    fn flip(index: usize, up: bool) -> Flip {
        let address = addresses(100)[index].clone();
        Flip { pool: "p".into(), address, up, why: "a test".to_owned() }
    }

    /// Verdicts of a table, one letter each; `!` in front of one that panics.
    fn shown(table: &Table) -> String {
        let letter = |backend: &Arc<Backend>| match backend.verdict {
            Verdict::Healthy => '+',
            Verdict::Unhealthy => '-',
            Verdict::Ejected => 'x',
        };
        let pool = &table.pools[0];
        let panicking = if pool.panicking { "!" } else { "" };
        panicking.chars().chain(pool.backends.iter().map(letter)).collect()
    }

    #[test]
    fn flips_reach_the_next_table_and_only_what_changed_is_new() {
        let now = Instant::now();
        let mut verdicts = Verdicts::new(now);
        let (first, changes) = verdicts.judge(sample(4, |_| {}), now);
        assert_eq!((shown(&first).as_str(), changes.len()), ("++++", 0));
        let down = verdicts.flip(&flip(2, false), now);
        let What::Verdict { backend, verdict, why } = &down[0].what else { panic!("{down:?}") };
        assert_eq!(
            (&**backend, *verdict, why.as_str()),
            ("10.0.0.1:3", Verdict::Unhealthy, "a test")
        );
        assert!(verdicts.flip(&flip(2, false), now).is_empty(), "known");
        let (second, _) = verdicts.judge(first.again(), now);
        assert_eq!((second.version, shown(&second).as_str()), (2, "++-+"));
        for (index, (old, new)) in
            first.pools[0].backends.iter().zip(&second.pools[0].backends).enumerate()
        {
            assert_eq!(Arc::ptr_eq(old, new), index != 2);
            assert!(Arc::ptr_eq(&old.shared, &new.shared));
        }
        let (third, _) = verdicts.judge(second.again(), now);
        assert!(Arc::ptr_eq(&second.pools[0], &third.pools[0]), "nothing changed");
        // A table from elsewhere knows nothing of it until it is judged.
        let (fourth, _) = verdicts.judge(third.successor(1), now);
        assert_eq!(shown(&fourth), "++-+");
        assert!(verdicts.flip(&flip(50, false), now).is_empty(), "who is that?");
    }

    #[test]
    fn it_panics_and_calms_down() {
        let now = Instant::now();
        let mut verdicts = Verdicts::new(now);
        let (mut table, _) =
            verdicts.judge(sample(5, |pool| pool.backends[4].state = BackendState::Down), now);
        let mut seen = Vec::new();
        // Four would take sessions; three of them are more than half.
        for (index, up) in [(0, false), (1, false), (4, false), (2, false), (0, true)] {
            let changes = verdicts.flip(&flip(index, up), now);
            let panics = changes.iter().filter(|c| matches!(c.what, What::Panic { .. })).count();
            table = verdicts.judge(table.again(), now).0;
            seen.push((shown(&table), panics));
        }
        let seen: Vec<(&str, usize)> = seen.iter().map(|(s, p)| (s.as_str(), *p)).collect();
        let expected = [("-++++", 0), ("--+++", 0), ("--++-", 0), ("!---+-", 1), ("+--+-", 1)];
        assert_eq!(seen, expected);
        assert_eq!(table.pools[0].health.panics.value(), 1);
        // A change of the set alone may end or begin it.
        verdicts.flip(&flip(0, false), now);
        let smaller = Table { pools: sample(8, |_| {}).pools, ..table.again() };
        let (larger, changes) = verdicts.judge(smaller, now);
        assert_eq!(shown(&larger), "++++++++", "other backends under the same addresses");
        assert!(changes.iter().any(|c| matches!(c.what, What::Panic { panicking: false, .. })));
    }

    #[test]
    fn who_returns_joins_or_becomes_ready_is_known_by_when() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut verdicts = Verdicts::new(start);
        let down = |pool: &mut config::Pool| pool.backends[1].state = BackendState::Down;
        let (first, _) = verdicts.judge(sample(2, down), start);
        let returned = |table: &Table| -> Vec<Option<Instant>> {
            table.pools[0].backends.iter().map(|backend| backend.returned).collect()
        };
        assert_eq!(returned(&first), [None, None], "nothing is slow at the start");
        // The second is made ready, a third joins, and the first goes out and comes back.
        let mut second = sample(3, |_| {});
        let pool = Arc::get_mut(&mut second.pools[0]).unwrap();
        for (new, old) in pool.backends.iter_mut().zip(&first.pools[0].backends) {
            Arc::get_mut(new).unwrap().shared = old.shared.clone();
        }
        let (second, _) = verdicts.judge(second, at(1));
        assert_eq!(returned(&second), [None, Some(at(1)), Some(at(1))]);
        verdicts.flip(&flip(0, false), at(2));
        verdicts.flip(&flip(0, true), at(3));
        let (third, _) = verdicts.judge(second.again(), at(4));
        assert_eq!(returned(&third), [Some(at(3)), Some(at(1)), Some(at(1))]);
        // A pool that was empty fills: that is a start, not a return.
        let mut verdicts = Verdicts::new(start);
        let (empty, _) = verdicts.judge(sample(0, |_| {}), start);
        let (full, _) = verdicts.judge(Table { pools: sample(2, |_| {}).pools, ..empty }, at(9));
        assert_eq!(returned(&full), [None, None]);
    }

    #[test]
    fn without_its_checks_nobody_stays_unhealthy() {
        let now = Instant::now();
        let mut verdicts = Verdicts::new(now);
        let (mut table, _) = verdicts.judge(sample(3, |_| {}), now);
        verdicts.flip(&flip(1, false), now);
        table = verdicts.judge(table.again(), now).0;
        assert_eq!(shown(&table), "+-+");
        let mut next = table.successor(1);
        Arc::get_mut(&mut next.pools[0]).unwrap().settings.health.check = None;
        let (next, changes) = verdicts.judge(next, now);
        assert_eq!((shown(&next).as_str(), changes.len()), ("+++", 1));
    }

    #[test]
    fn what_sessions_meet_ejects_and_the_unhealthy_count_against_the_cap() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut verdicts = Verdicts::new(start);
        let (table, _) =
            verdicts.judge(sample(4, |pool| pool.health.ejection = Some(ejection())), start);
        let backends = table.pools[0].backends.clone();
        verdicts.flip(&flip(0, false), at(1));
        backends[1..].iter().for_each(|backend| backend.shared.failed());
        assert!(verdicts.tick(at(1)).is_empty(), "one is not two");
        backends[1..].iter().for_each(|backend| backend.shared.failed());
        let changes = verdicts.tick(at(2));
        let ejected =
            |c: &&Change| matches!(c.what, What::Verdict { verdict: Verdict::Ejected, .. });
        let withheld = |c: &&Change| matches!(c.what, What::Withheld { .. });
        assert_eq!(changes.iter().filter(ejected).count(), 1, "half of four is two: {changes:?}");
        assert_eq!(changes.iter().filter(withheld).count(), 2);
        let (second, _) = verdicts.judge(table.again(), at(2));
        assert_eq!(shown(&second), "-x++");
        assert!(verdicts.tick(at(3)).is_empty());
        for backend in &backends {
            backend.shared.connected();
        }
        let back = verdicts.tick(at(12));
        assert_eq!(back.len(), 1, "{back:?}");
        let (third, _) = verdicts.judge(second.again(), at(12));
        assert_eq!(shown(&third), "-+++");
        assert_eq!(third.pools[0].backends[1].returned, Some(at(12)));
        assert_eq!(third.pools[0].health.withheld.value(), 2);
    }

    /// Flips, failures, joins and leaves in any order: a table always says what is known, and panic
    /// is exactly the threshold.
    #[test]
    fn a_simulated_table_agrees_with_what_is_known() {
        for seed in 0..30u64 {
            let mut state = seed;
            let mut dice = |to: u64| random(&mut state) % to;
            let start = Instant::now();
            let mut verdicts = Verdicts::new(start);
            let settings = |pool: &mut config::Pool| pool.health.ejection = Some(ejection());
            let all = sample(12, settings).pools[0].backends.clone();
            let mut down = [false; 12];
            let mut table = verdicts.judge(sample(0, settings), start).0;
            for step in 0..2_000u32 {
                let now = start + Duration::from_millis(100) * step;
                let index = dice(12) as usize;
                match dice(6) {
                    0 => {
                        let known = table.pools[0].position(&all[index]).is_some();
                        down[index] = known && dice(2) == 0;
                        verdicts.flip(&flip(index, !down[index]), now);
                    }
                    1 => all[index].shared.failed(),
                    2 => all[index].shared.connected(),
                    3 => {
                        // Any part of them, as they are known from elsewhere: without verdicts.
                        let mut next = sample(0, settings);
                        let mut backends = Vec::new();
                        for (backend, down) in all.iter().zip(&mut down) {
                            if dice(3) > 0 {
                                backends.push(backend.clone());
                            } else {
                                // Forgotten: it begins anew.
                                *down = false;
                            }
                        }
                        next.pools[0] = Arc::new(next.pools[0].judged(backends, false));
                        table = verdicts.judge(next, now).0;
                    }
                    _ => {}
                }
                verdicts.tick(now);
                table = verdicts.judge(table.again(), now).0;
                let pool = &table.pools[0];
                let mut out = 0;
                for (backend, down) in all.iter().zip(down) {
                    let Some(index) = pool.position(backend) else { continue };
                    let verdict = pool.backends[index].verdict;
                    assert_eq!(verdict == Verdict::Unhealthy, down, "seed {seed} step {step}");
                    out += usize::from(verdict != Verdict::Healthy);
                }
                let panicking = 2 * out > pool.backends.len();
                assert_eq!(pool.panicking, panicking, "seed {seed} step {step}");
            }
        }
    }
}
