//! `corelane-loadgen http`: requests at a rate over a number of connections.
//!
//! Requests come due at their intended times whether or not a connection is free. One that has to
//! wait for a connection counts from when it was due.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use super::check::Asked;
use super::{REQUEST_HEADER, WebPlan, plans};
use crate::cli::HttpArgs;
use crate::counters::{Count, Measure, Tally};
use crate::course::{self, Course, Interrupts};
use crate::device::dial;
use crate::live::Live;
use crate::oracle::Home;
use crate::pacer::{Schedule, pace};
use crate::plan::Arm;
use crate::random::PayloadPool;
use crate::report::{ArmReport, Report, Subject};
use crate::squad::{Command, wait_until};

mod exchange;

use exchange::{Exchange, Failure};

/// Requests that may wait for a connection, per thread.
const QUEUE_LEN_MAX: usize = 1 << 20;
/// How many requests a lane looks at for one of its own.
const SEARCH_MAX: u32 = 10_000;
/// How often counters are shown to others.
const PUBLISH_PERIOD: Duration = Duration::from_millis(10);

type Sender = SendRequest<Full<Bytes>>;

/// Runs every arm that was asked for and reports. The exit code is the report's.
pub fn run(args: &HttpArgs) -> anyhow::Result<u8> {
    if args.connections < args.web.threads {
        bail!("every thread needs a connection");
    }
    let plans = plans(&args.web, args.method.as_str(), args.connections)?;
    let report = Report::new(&args.web.output, args.web.config.as_deref());
    report.run(plans, async |plan: WebPlan, interrupts| {
        let per_thread = args.connections / args.web.threads;
        if plan.arm == Arm::Direct && (per_thread as usize) < plan.targets.len() {
            bail!("every thread needs a connection to each of {} backends", plan.targets.len());
        }
        run_arm(args, Arc::new(plan), interrupts).await
    })
}

async fn run_arm(
    args: &HttpArgs,
    plan: Arc<WebPlan>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<ArmReport> {
    let web = &args.web;
    let pool = Arc::new(PayloadPool::new(web.seed, args.body));
    let (shared, http) = (Arc::clone(&plan), Arc::new(args.clone()));
    let course = Course {
        arm: plan.arm,
        epoch: plan.epoch,
        threads: web.threads,
        count: args.connections,
        noun: "connections",
        ramp: web.ramp,
        patience: web.connect_timeout,
        warmup: web.warmup,
        duration: web.duration,
        kills: Vec::new(),
        answer: Count::Received,
        quiet: web.output.quiet,
        start: Arc::new(move |share, live, commands| {
            let plan = (Arc::clone(&http), Arc::clone(&shared), Arc::clone(&pool));
            Box::pin(Callers::new(plan, share, live).run(commands))
        }),
    };
    let finished = course::run(&course, interrupts).await?;
    Ok(ArmReport {
        arm: plan.arm,
        subject: Subject::Http,
        targets: plan.targets.clone(),
        routes: plan.routes.clone(),
        count: args.connections,
        tolerate_breaks: web.tolerate_breaks,
        // A run without a single answer has shown nothing.
        expected: 1,
        finished,
    })
}

/// One request that is due.
struct Job {
    sequence: u64,
    due_ns: u64,
}

/// Requests for the same connections. Through a gateway there is one; direct, one per backend.
#[derive(Default)]
struct Lane {
    /// Of closed loops: the next request that may be this lane's.
    next: Cell<u64>,
    jobs: RefCell<VecDeque<Job>>,
    due: Notify,
}

impl Lane {
    fn starting(first: u32) -> Lane {
        Lane { next: Cell::new(first.into()), ..Lane::default() }
    }
}

/// What the connections of one thread share.
struct Callers {
    args: Arc<HttpArgs>,
    plan: Arc<WebPlan>,
    pool: Arc<PayloadPool>,
    share: (u32, u32),
    lanes: Vec<Lane>,
    tally: RefCell<Tally>,
    live: Arc<Live>,
    /// Requests due and not answered.
    outstanding: Cell<u64>,
    loading: Cell<bool>,
    leaving: Cell<bool>,
    settled: Cell<u64>,
    open: Cell<u64>,
    workers: Cell<u64>,
}

impl Callers {
    fn new(
        (args, plan, pool): (Arc<HttpArgs>, Arc<WebPlan>, Arc<PayloadPool>),
        share: (u32, u32),
        live: Arc<Live>,
    ) -> Rc<Callers> {
        let lanes = if plan.arm == Arm::Direct { plan.targets.len() } else { 1 };
        Rc::new(Callers {
            args,
            plan,
            pool,
            share,
            lanes: (0..lanes).map(|_| Lane::starting(share.0)).collect(),
            tally: RefCell::new(Tally::new()),
            live,
            outstanding: Cell::new(0),
            loading: Cell::new(false),
            leaving: Cell::new(false),
            settled: Cell::new(0),
            open: Cell::new(0),
            workers: Cell::new(0),
        })
    }

    async fn run(self: Rc<Callers>, mut commands: UnboundedReceiver<Command>) -> Tally {
        let ramp = tokio::task::spawn_local(Rc::clone(&self).ramp());
        let shown = tokio::task::spawn_local(Rc::clone(&self).show());
        let mut pacer = None;
        while let Some(command) = commands.recv().await {
            match command {
                Command::Load(start_ns) => {
                    self.loading.set(true);
                    match self.args.rate {
                        Some(rate) => {
                            let schedule = Schedule::new(start_ns, rate, self.share);
                            pacer = Some(tokio::task::spawn_local(Rc::clone(&self).pace(schedule)));
                        }
                        None => self.wake(),
                    }
                }
                Command::Measure => self.start_measurement(),
                Command::Kill(_) => {}
                Command::Stop => break,
            }
        }
        self.loading.set(false);
        ramp.abort();
        if let Some(pacer) = pacer {
            pacer.abort();
        }
        self.leave().await;
        shown.abort();
        self.publish();
        self.tally.replace(Tally::new())
    }

    fn start_measurement(&self) {
        let mut tally = self.tally.borrow_mut();
        for measure in [Measure::FirstReply, Measure::RoundTrip, Measure::SendLag] {
            tally.clear(measure);
        }
        if !self.args.keep_alive {
            tally.clear(Measure::Connect);
        }
    }

    async fn ramp(self: Rc<Callers>) {
        let mut schedule = Schedule::new(self.plan.now_ns(), self.plan.args.ramp, self.share);
        let (index, threads) = self.share;
        for (n, number) in (index..self.args.connections).step_by(threads as usize).enumerate() {
            let wait_ns = schedule.due_ns().saturating_sub(self.plan.now_ns());
            if wait_ns > 0 {
                tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
            }
            schedule.advance();
            self.workers.set(self.workers.get() + 1);
            let lane = n % self.lanes.len();
            tokio::task::spawn_local(Rc::clone(&self).work(lane, number));
        }
    }

    async fn pace(self: Rc<Callers>, schedule: Schedule) {
        let paced = pace(
            schedule,
            || self.plan.now_ns(),
            |sequence, due_ns| self.enqueue(Job { sequence, due_ns }),
        );
        if let Err(error) = paced.await {
            panic!("a timer for the open loop: {error}");
        }
    }

    fn enqueue(&self, job: Job) {
        let lane = &self.lanes[self.lane_of(job.sequence)];
        if lane.jobs.borrow().len() >= QUEUE_LEN_MAX {
            return self.tally.borrow_mut().count(Count::QueueFull);
        }
        self.outstanding.set(self.outstanding.get() + 1);
        lane.jobs.borrow_mut().push_back(job);
        lane.due.notify_one();
    }

    /// Whose request it is.
    fn lane_of(&self, sequence: u64) -> usize {
        match (self.plan.arm, self.plan.home(self.number(sequence))) {
            (Arm::Direct, Home::At(place)) => place,
            _ => (sequence / u64::from(self.share.1)) as usize % self.lanes.len(),
        }
    }

    /// Of closed loops: a request that is this lane's; `None` if there seems to be none.
    fn next_of(&self, lane: usize) -> Option<u64> {
        let next = &self.lanes[lane].next;
        (0..SEARCH_MAX).find_map(|_| {
            let sequence = next.get();
            next.set(sequence + u64::from(self.share.1));
            (self.lane_of(sequence) == lane).then_some(sequence)
        })
    }

    /// The number of a request's templates.
    fn number(&self, sequence: u64) -> u64 {
        let turn = if self.args.ids == 0 { sequence } else { sequence % self.args.ids };
        self.plan.args.first_id.saturating_add(turn)
    }

    fn wake(&self) {
        self.lanes.iter().for_each(|lane| lane.due.notify_waiters());
    }

    /// The next request of a lane; `None` when it is time to leave.
    async fn next_job(&self, lane: usize) -> Option<Job> {
        let Lane { jobs, due, .. } = &self.lanes[lane];
        loop {
            let woken = due.notified();
            if self.leaving.get() {
                return None;
            }
            if let Some(job) = jobs.borrow_mut().pop_front() {
                return Some(job);
            }
            let closed = self.args.closed && self.loading.get();
            if let Some(sequence) = closed.then(|| self.next_of(lane)).flatten() {
                self.outstanding.set(self.outstanding.get() + 1);
                return Some(Job { sequence, due_ns: self.plan.now_ns() });
            }
            woken.await;
        }
    }

    /// The life of one connection, and of those that follow it.
    async fn work(self: Rc<Callers>, lane: usize, connection: u32) {
        let mut link = None;
        if self.args.keep_alive {
            link = self.connect(lane, connection).await;
        }
        self.settled.set(self.settled.get() + 1);
        while let Some(job) = self.next_job(lane).await {
            link = self.serve((lane, connection), link, &job).await;
            self.outstanding.set(self.outstanding.get() - 1);
        }
        self.workers.set(self.workers.get() - 1);
    }

    async fn connect(&self, lane: usize, connection: u32) -> Option<Sender> {
        let home = Home::At(lane);
        let (source, target) =
            (self.plan.source_of(connection), self.plan.target_of(connection, home));
        self.tally.borrow_mut().count(Count::Attempts);
        let started_ns = self.plan.now_ns();
        let attempt = tokio::time::timeout(self.plan.args.connect_timeout, dial(source, target));
        let late = |late| std::io::Error::new(std::io::ErrorKind::TimedOut, late);
        let stream = match attempt.await.map_err(late).flatten() {
            Ok(stream) => stream,
            Err(error) => {
                let count = Count::of_connect(&error);
                let what = || format!("connection {connection} to {target}: {error}");
                self.tally.borrow_mut().fault(count, what);
                return None;
            }
        };
        {
            let mut tally = self.tally.borrow_mut();
            tally.count(Count::Connected);
            tally.record(Measure::Connect, self.plan.now_ns() - started_ns);
        }
        // Nothing is sent yet, so nothing can fail yet.
        let (sender, driver) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(driver);
        Some(sender)
    }

    /// Sends one request and checks its answer; gives the connection back if it is still good.
    async fn serve(
        &self,
        (lane, connection): (usize, u32),
        mut link: Option<Sender>,
        job: &Job,
    ) -> Option<Sender> {
        let number = self.number(job.sequence);
        let head = match self.plan.head(number) {
            Ok(head) => head,
            Err(error) => {
                let what = || format!("request {} cannot be sent: {error:#}", job.sequence);
                self.tally.borrow_mut().fault(Count::Lost, what);
                return link;
            }
        };
        let body = self.pool.payload(0, job.sequence, self.args.body);
        let home = self.plan.home(number);
        let asked = Asked { number, sequence: job.sequence, head: &head, body, home };
        let mut request = self.request(&asked);
        let exchange = Exchange { asked, due_ns: job.due_ns, sent: Cell::new(false) };
        let mut fresh = false;
        // A kept connection may turn out to be closed before anything was sent on it: once more.
        loop {
            let mut sender = match link.take().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender,
                None => {
                    fresh = true;
                    match self.connect(lane, connection).await {
                        Some(sender) => sender,
                        None => return self.lose(job, None),
                    }
                }
            };
            self.open.set(self.open.get() + 1);
            let answer = self.exchange(&mut sender, request, &exchange);
            let outcome = tokio::time::timeout(self.args.timeout, answer).await;
            self.open.set(self.open.get() - 1);
            match outcome {
                Ok(Ok(())) => return Some(sender).filter(|_| self.args.keep_alive),
                Ok(Err(Failure::Unsent(_))) if fresh => {
                    let why = "closed before the request".to_string();
                    return self.lose(job, Some((Count::PeerClosed, why)));
                }
                Ok(Err(Failure::Unsent(again))) => {
                    self.tally.borrow_mut().count(Count::FoundClosed);
                    request = *again;
                }
                Ok(Err(Failure::Broken(count, why))) => return self.lose(job, Some((count, why))),
                Err(late) => {
                    let why = late.to_string();
                    return self.lose(job, Some((Count::ResponseTimeout, why)));
                }
            }
        }
    }

    fn request(&self, asked: &Asked<'_>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(asked.body)));
        *request.method_mut() = self.args.method.clone();
        *request.uri_mut() = asked.head.target.clone();
        *request.headers_mut() = asked.head.headers.clone();
        request.headers_mut().insert(REQUEST_HEADER, HeaderValue::from(asked.sequence));
        if !self.args.keep_alive {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }

    /// Books a request that nobody answered.
    fn lose(&self, job: &Job, why: Option<(Count, String)>) -> Option<Sender> {
        let mut tally = self.tally.borrow_mut();
        let named = || format!("request {}", job.sequence);
        if let Some((count, why)) = why {
            tally.fault(count, || format!("{}: {why}", named()));
        }
        match self.plan.args.tolerate_breaks {
            true => tally.count(Count::Cut),
            false => tally.fault(Count::Lost, named),
        }
        None
    }

    /// Waits for answers, then lets every connection go.
    async fn leave(&self) {
        wait_until(self.plan.args.drain, || self.outstanding.get() == 0).await;
        self.leaving.set(true);
        self.wake();
        let left = self.outstanding.get();
        if left > 0 {
            let what = || format!("{left} requests were still waiting at the end");
            let mut tally = self.tally.borrow_mut();
            tally.count_many(Count::Lost, left - 1);
            tally.fault(Count::Lost, what);
            return;
        }
        wait_until(self.plan.args.drain, || self.workers.get() == 0).await;
    }

    async fn show(self: Rc<Callers>) {
        let mut interval = tokio::time::interval(PUBLISH_PERIOD);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.publish();
        }
    }

    fn publish(&self) {
        self.live.publish(&self.tally.borrow(), self.open.get(), self.settled.get());
    }
}
