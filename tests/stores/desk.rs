//! A watcher on a thread of its own, and what reaches the desk.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corelane::source::{Desk, Failure, FailureCause, Member, Reading, Report};
use tokio::sync::Notify;

use super::process::{DEADLINE, Process};

/// No test watches longer, however many reports come: a loop over them ends.
const LIFE: Duration = Duration::from_secs(120);

/// A running watcher.
pub struct Watch {
    reports: Receiver<(Instant, Report)>,
    seen: Mutex<Vec<(Duration, Report)>>,
    began: Instant,
    refresh: Arc<Notify>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Runs what `watcher` makes of a desk, as the control plane does.
    pub fn start<F>(watcher: impl FnOnce(Desk) -> F + Send + 'static) -> Watch
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (to_test, reports) = channel();
        let (refresh, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let thread = std::thread::spawn({
            let (refresh, stop) = (refresh.clone(), stop.clone());
            move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(forward(watcher, refresh, stop, to_test));
            }
        });
        let began = Instant::now();
        Watch { reports, seen: Mutex::default(), began, refresh, stop, thread: Some(thread) }
    }

    /// Asks for a reading now, as an operator does.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// The next report and when it came.
    pub fn report(&self) -> (Instant, Report) {
        self.report_within(DEADLINE).unwrap_or_else(|| panic!("no report; {}", self.story()))
    }

    pub fn report_within(&self, patience: Duration) -> Option<(Instant, Report)> {
        assert!(self.began.elapsed() < LIFE, "not what is waited for; {}", self.story());
        let (at, report) = self.reports.recv_timeout(patience).ok()?;
        self.seen.lock().unwrap().push((at - self.began, report.clone()));
        Some((at, report))
    }

    /// The next report that is not [`Report::Unchanged`].
    pub fn news(&self) -> Report {
        loop {
            match self.report() {
                (_, Report::Unchanged) => {}
                (_, report) => return report,
            }
        }
    }

    /// The next news, which has to be a set. On a machine that stands still for a moment a store
    /// may have been late before: that is no failure of its own.
    pub fn set(&self) -> Reading {
        loop {
            match self.news() {
                Report::Set(reading) => return reading,
                Report::Failed(failure) if failure.cause == FailureCause::Timeout => {}
                other => panic!("{other:?} instead of a set; {}", self.story()),
            }
        }
    }

    /// The next news, which has to be a failure.
    pub fn failure(&self) -> Failure {
        match self.news() {
            Report::Failed(failure) => failure,
            other => panic!("{other:?} instead of a failure; {}", self.story()),
        }
    }

    /// The set after any number of failures, and the causes of those.
    pub fn set_after_failures(&self) -> (Reading, Vec<FailureCause>) {
        let mut causes = Vec::new();
        loop {
            match self.news() {
                Report::Set(reading) => return (reading, causes),
                Report::Failed(failure) => causes.push(failure.cause),
                Report::Unchanged => {}
            }
        }
    }

    /// The first failure of this cause; what came before may be any failure, but no set.
    pub fn failure_of(&self, cause: FailureCause) -> Failure {
        loop {
            let failure = self.failure();
            if failure.cause == cause {
                return failure;
            }
        }
    }

    /// Waits until the watcher says that nothing has changed.
    pub fn unchanged(&self) {
        let (_, report) = self.report();
        assert_eq!(report, Report::Unchanged, "{}", self.story());
    }

    /// Stops the store, whose set was `known`: that is noticed, more than once, because the kernel
    /// still takes connections for it. Then has it go on with a `change`, which is seen; the set
    /// after it, as [`shown`].
    pub fn survives_a_pause(
        &self,
        store: &Process,
        known: &[&str],
        change: impl FnOnce(),
    ) -> Vec<String> {
        store.pause();
        for _ in 0..2 {
            assert_eq!(self.failure().cause, FailureCause::Timeout, "{}", self.story());
        }
        store.resume();
        change();
        let (mut reading, _) = self.set_after_failures();
        while shown(&reading) == known {
            (reading, _) = self.set_after_failures();
        }
        shown(&reading)
    }

    /// Nothing but "unchanged" comes for this long.
    pub fn is_quiet_for(&self, duration: Duration) {
        let end = Instant::now() + duration;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.report_within(left) {
                None => return,
                Some((_, Report::Unchanged)) => {}
                Some((_, report)) => panic!("{report:?} out of nothing; {}", self.story()),
            }
        }
    }

    /// Closes the desk: the watcher has to end by itself.
    pub fn end(mut self) {
        self.stop.notify_one();
        self.thread.take().unwrap().join().unwrap();
    }

    fn story(&self) -> String {
        let seen = self.seen.lock().unwrap();
        format!("the last of {} reports: {:#?}", seen.len(), &seen[seen.len().saturating_sub(20)..])
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

async fn forward<F>(
    watcher: impl FnOnce(Desk) -> F,
    refresh: Arc<Notify>,
    stop: Arc<Notify>,
    to_test: Sender<(Instant, Report)>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (reports, mut inbox) = tokio::sync::mpsc::channel(4);
    let watcher = tokio::spawn(watcher(Desk { source: 7, reports, refresh }));
    loop {
        tokio::select! {
            () = stop.notified() => break,
            report = inbox.recv() => match report {
                Some((source, report)) => {
                    assert_eq!(source, 7);
                    let _ = to_test.send((Instant::now(), report));
                }
                None => break,
            },
        }
    }
    drop(inbox);
    let ended = tokio::time::timeout(Duration::from_secs(2), watcher).await;
    ended.expect("the watcher ends with its desk").expect("the watcher does not panic");
}

/// Members as `ADDRESS WEIGHT STATE`, sorted.
pub fn shown(reading: &Reading) -> Vec<String> {
    let mut lines: Vec<String> = reading.members.iter().map(line).collect();
    lines.sort();
    lines
}

fn line(member: &Member) -> String {
    format!("{} {} {:?}", member.address, member.weight, member.state).to_lowercase()
}
