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
