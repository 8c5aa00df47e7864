//! From the raw file to the checked configuration, collecting every fault on the way.
//!
//! A check that meets a fault goes on with what it has: `None` stands for "reported already", and
//! nothing that depends on it is reported again.

mod frame;
mod health;
mod http;
mod listener;
mod pool;
mod probe;
mod process;
mod relations;
mod source;
mod store;
mod tls;

use std::collections::HashSet;

use super::document::{Document, Path, one_line};
use super::environment::Environment;
use super::fault::{Fault, Problem};
use super::quantity::{Count, Quantity, Rule};
use super::shape::Slot;
use super::shown::shown;
use super::value::{OneOf, ProtocolName};
use super::{Address, Backend, Config, Limits, raw};
use crate::balance::Algorithm;

/// The state of one check.
pub struct Checker<'a> {
    document: &'a Document<'a>,
    environment: &'a Environment<'a>,
    /// Values that a fault was reported for before they were read.
    spoiled: HashSet<Path>,
    /// About one value or key.
    values: Vec<Fault>,
    /// About several, or about something absent.
    relations: Vec<Fault>,
    warnings: Vec<Fault>,
    /// Every address that will be listened on.
    bound: Vec<(Path, Address)>,
    /// Every declared pool; `None` when the tables could not be read.
    declared: Option<Vec<Declared>>,
    /// The header of every listener's frames, by name.
    headers: Vec<(String, probe::Header)>,
    /// The `health` of every pool, in file order.
    pending_checks: Vec<probe::Pending>,
    /// What backends of the pool at hand bear by their own tables.
    own_limits: Vec<(Address, Limits)>,
    /// Every declared lookup, likewise.
    declared_lookups: Option<Vec<http::DeclaredLookup>>,
}

/// What names of listeners and pools may be, being metric labels.
const NAME_VALID: &str = "1 to 64 of the characters A-Z a-z 0-9 _ . -";

/// A pool as its listeners see it.
struct Declared {
    name: String,
    path: Path,
    /// `None` when it is not known what the file means.
    balance: Option<Algorithm>,
    used: bool,
}

/// What a check found.
pub struct Verdict {
    /// Faults about one value or key.
    pub values: Vec<Fault>,
    /// Faults about several values, or about something absent.
    pub relations: Vec<Fault>,
    /// Worth saying, but no reason to stop.
    pub warnings: Vec<Fault>,
    /// The configuration; `None` if there are faults.
    pub config: Option<Config>,
}

/// Checks a file; `early` are the problems found before its values were read, by their keys or
/// values.
pub fn check(
    document: &Document<'_>,
    environment: &Environment<'_>,
    raw: raw::File,
    early: Vec<Early>,
) -> Verdict {
    let mut checker = Checker::new(document, environment, early);
    let config = checker.file(raw);
    let faultless = checker.values.is_empty() && checker.relations.is_empty();
    Verdict {
        values: checker.values,
        relations: checker.relations,
        warnings: checker.warnings,
        config: config.filter(|_| faultless),
    }
}

/// Whether a listener can do without pools, as far as can be said before listeners are checked.
fn needs_no_pool(listeners: &Slot<Vec<Slot<raw::Listener>>>) -> bool {
    let Slot::Present(listeners) = listeners else { return false };
    listeners.iter().any(|listener| match listener {
        Slot::Present(listener) => {
            matches!(listener.protocol, Slot::Present(OneOf(ProtocolName::Http)))
                || !matches!(listener.lookup, Slot::Absent)
        }
        Slot::Absent | Slot::Wrong(_) => false,
    })
}

/// Checks a file of backends.
///
/// # Errors
/// Every fault, in no particular order; at least one.
pub fn check_backends(
    document: &Document<'_>,
    raw: raw::BackendsFile,
    early: Vec<Early>,
) -> Result<Vec<Backend>, Vec<Fault>> {
    let environment =
        Environment { variable: &|_| None, cores: Vec::new(), descriptors_max: u64::MAX };
    let mut checker = Checker::new(document, &environment, early);
    let path = Path::default().key("backends");
    let list = checker.required(raw.backends, &path, "a list of addresses");
    let backends = list.and_then(|list| checker.backends_listed(list, &path));
    if checker.own_limits.iter().any(|(_, limits)| *limits != Limits::default()) {
        let valid = "max_connections and connect_rate of the pool, in the configuration";
        let problem = Problem::new("limits have no place in a file of backends", valid);
        checker.relation(&path, problem.without_found());
    }
    let mut faults = checker.values;
    faults.append(&mut checker.relations);
    match backends {
        Some(backends) if faults.is_empty() => Ok(backends),
        _ => Err(faults),
    }
}

/// A problem found before values were read.
pub enum Early {
    /// With a key.
    Key(Path, Problem),
    /// With a value.
    Value(Path, Problem),
}

impl<'a> Checker<'a> {
    fn new(
        document: &'a Document<'a>,
        environment: &'a Environment<'a>,
        early: Vec<Early>,
    ) -> Checker<'a> {
        let mut checker = Checker {
            document,
            environment,
            spoiled: HashSet::new(),
            values: Vec::new(),
            relations: Vec::new(),
            warnings: Vec::new(),
            bound: Vec::new(),
            declared: None,
            headers: Vec::new(),
            pending_checks: Vec::new(),
            own_limits: Vec::new(),
            declared_lookups: None,
        };
        for early in early {
            match early {
                Early::Key(path, problem) => {
                    let offset = document.key_offset(&path);
                    let fault = checker.fault(&path, offset, problem.without_found());
                    checker.values.push(fault);
                }
                Early::Value(path, problem) => {
                    checker.wrong(&path, problem);
                    checker.spoiled.insert(path);
                }
            }
        }
        checker
    }
}

impl Checker<'_> {
    fn file(&mut self, raw: raw::File) -> Option<Config> {
        let root = Path::default();
        let pools = match raw.pool {
            // Requests may go to lookups, or be answered here.
            Slot::Absent if needs_no_pool(&raw.listener) => self.no_pools(),
            pools => self.pools(pools, &root.key("pool")),
        };
        let lookups = self.lookups(raw.lookup, &root.key("lookup"));
        let listeners = self.listeners(raw.listener, &root.key("listener"));
        let pools = self.checks(pools);
        let admin = self.admin(raw.admin, &root.key("admin"));
        let log = self.log(raw.log, &root.key("log"));
        self.collisions();
        self.pools_unused();
        self.lookups_unused();
        let sockets = match (&pools, &listeners, &lookups) {
            (Some(pools), Some(listeners), Some(lookups)) => {
                Some(relations::sockets(pools, listeners, lookups))
            }
            _ => None,
        };
        let runtime = self.runtime(raw.runtime, &root.key("runtime"), sockets);
        Some(Config {
            runtime: runtime?,
            admin: admin?,
            log: log?,
            listeners: listeners?,
            pools: pools?,
            shown: shown(self.document.tree.get_ref()),
            lookups: lookups?,
        })
    }

    /// Reports a fault about the value at `path`.
    fn wrong(&mut self, path: &Path, problem: Problem) {
        if self.spoiled.contains(path) {
            return;
        }
        let fault = self.fault(path, self.document.value_offset(path), problem);
        self.values.push(fault);
    }

    /// Reports a fault that depends on more than the value at `path`.
    fn relation(&mut self, path: &Path, problem: Problem) {
        if self.spoiled.contains(path) {
            return;
        }
        let fault = self.fault(path, self.document.value_offset(path), problem);
        self.relations.push(fault);
    }

    fn missing(&mut self, path: &Path, valid: &str) {
        self.relation(path, Problem::new("missing", valid));
    }

    fn warn(&mut self, path: &Path, problem: Problem) {
        let fault = self.fault(path, self.document.key_offset(path), problem);
        self.warnings.push(fault);
    }

    fn fault(&self, path: &Path, offset: usize, problem: Problem) -> Fault {
        let (line, column) = self.document.line_column(offset);
        Fault {
            line,
            column,
            path: path.to_string(),
            problem: one_line(&problem.what),
            found: self.document.found(path, problem.found),
            valid: problem.valid.as_deref().map(one_line),
            near: problem.near.as_deref().map(one_line),
        }
    }

    /// The value of an optional key; `None` when it is absent or wrong.
    fn take<T>(&mut self, slot: Slot<T>, path: &Path) -> Option<T> {
        match slot {
            Slot::Present(value) => Some(value),
            Slot::Absent => None,
            Slot::Wrong(problem) => {
                self.wrong(path, problem);
                None
            }
        }
    }

    /// The value of a key that must be there.
    fn required<T>(&mut self, slot: Slot<T>, path: &Path, valid: &str) -> Option<T> {
        let slot = match slot {
            Slot::Absent => {
                self.missing(path, valid);
                Slot::Absent
            }
            Slot::Wrong(problem) if problem.is_wrong_type() => {
                Slot::Wrong(Problem { valid: Some(valid.to_string()), ..problem })
            }
            slot => slot,
        };
        self.take(slot, path)
    }

    /// The value of a key with a range, or its default; `None` when it is wrong, or absent and
    /// without default.
    fn within<T: Quantity>(&mut self, slot: Slot<T>, path: &Path, rule: Rule<T>) -> Option<T> {
        if matches!(slot, Slot::Absent) {
            return rule.default;
        }
        let value = self.take(slot, path)?;
        match rule.check(value) {
            Ok(()) => Some(value),
            Err(problem) => {
                self.wrong(path, problem);
                None
            }
        }
    }

    /// The value of an optional key, or its default; `None` when it is wrong.
    fn or<T>(&mut self, slot: Slot<T>, path: &Path, default: T) -> Option<T> {
        if matches!(slot, Slot::Absent) { Some(default) } else { self.take(slot, path) }
    }

    /// The entries of a list that are well-formed, each with its path, and whether that is all.
    fn entries<T>(&mut self, list: Vec<Slot<T>>, path: &Path) -> (Vec<(Path, T)>, bool) {
        let count = list.len();
        let mut good = Vec::with_capacity(count);
        for (index, slot) in list.into_iter().enumerate() {
            let path = path.index(index);
            if let Some(value) = self.take(slot, &path) {
                good.push((path, value));
            }
        }
        let complete = good.len() == count;
        (good, complete)
    }

    /// Whether `name` may be a metric label and stand in `pool:NAME`.
    fn name_checked(&mut self, name: &str, path: &Path) -> bool {
        let good = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !good {
            self.wrong(path, Problem::new("not usable as a name", NAME_VALID));
        }
        good
    }
}

/// A count that fits the type it is used as, its range having been checked.
fn count_u32(count: Option<Count>) -> Option<u32> {
    u32::try_from(count?.0).ok()
}
