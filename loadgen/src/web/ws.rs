//! `corelane-loadgen ws`: WebSocket clients that beat, send, and compare what comes back.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{WebPlan, plans};
use crate::cli::WsArgs;
use crate::counters::{Count, Measure, Tally};
use crate::course::{self, Course, Interrupts};
use crate::live::Live;
use crate::oracle::Home;
use crate::pacer::{Schedule, pace};
use crate::random::PayloadPool;
use crate::report::{ArmReport, Report, Subject};
use crate::squad::{Command, Phase, wait_until};

mod client;
mod message;

use client::{Client, Order};
use message::MESSAGE_LEN_MIN;

/// Largest message, bytes: one frame of the library.
const MESSAGE_LEN_MAX: usize = 16 << 20;
/// Messages that may wait for a client's socket.
const QUEUE_LEN_MAX: u64 = 1_024;
/// How often counters are shown to others.
const PUBLISH_PERIOD: Duration = Duration::from_millis(10);

/// Runs every arm that was asked for and reports. The exit code is the report's.
pub fn run(args: &WsArgs) -> anyhow::Result<u8> {
    if !(MESSAGE_LEN_MIN..=MESSAGE_LEN_MAX).contains(&args.payload) {
        bail!("--payload is {MESSAGE_LEN_MIN} to {MESSAGE_LEN_MAX} bytes");
    }
    let plans = plans(&args.web, "GET", args.count)?;
    let report = Report::new(&args.web.output, args.web.config.as_deref());
    report.run(plans, async |plan, interrupts| run_arm(args, Arc::new(plan), interrupts).await)
}

async fn run_arm(
    args: &WsArgs,
    plan: Arc<WebPlan>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<ArmReport> {
    let web = &args.web;
    let pool = Arc::new(PayloadPool::new(web.seed, args.payload));
    let (shared, ws) = (Arc::clone(&plan), Arc::new(args.clone()));
    let course = Course {
        arm: plan.arm,
        epoch: plan.epoch,
        threads: web.threads,
        count: args.count,
        noun: "clients",
        ramp: web.ramp,
        patience: web.connect_timeout + args.upgrade_timeout,
        warmup: web.warmup,
        duration: web.duration,
        kills: Vec::new(),
        answer: Count::Received,
        quiet: web.output.quiet,
        start: Arc::new(move |share, live, commands| {
            let plan = (Arc::clone(&ws), Arc::clone(&shared), Arc::clone(&pool));
            Box::pin(Clients::new(plan, share, live).run(commands))
        }),
    };
    let finished = course::run(&course, interrupts).await?;
    let unroutable = finished.tally.get(Count::DevicesUnroutable);
    Ok(ArmReport {
        arm: plan.arm,
        subject: Subject::WebSocket,
        targets: plan.targets.clone(),
        routes: plan.routes.clone(),
        count: args.count,
        tolerate_breaks: web.tolerate_breaks,
        expected: u64::from(args.count) - unroutable,
        finished,
    })
}

/// What the clients of one thread share.
struct Clients {
    args: Arc<WsArgs>,
    plan: Arc<WebPlan>,
    pool: Arc<PayloadPool>,
    share: (u32, u32),
    clients: Vec<Rc<Client>>,
    tally: RefCell<Tally>,
    live: Arc<Live>,
    /// Indices of clients that are upgraded, in no order.
    roster: RefCell<Vec<usize>>,
    /// Messages and heartbeats without an answer.
    outstanding: Cell<u64>,
    phase: Cell<Phase>,
    /// Wakes clients that are connecting or waiting, when it is time to leave.
    leave: Notify,
    settled: Cell<u64>,
    next: Cell<usize>,
    tasks: Cell<u64>,
}

impl Clients {
    fn new(
        (args, plan, pool): (Arc<WsArgs>, Arc<WebPlan>, Arc<PayloadPool>),
        share: (u32, u32),
        live: Arc<Live>,
    ) -> Rc<Clients> {
        let (index, threads) = share;
        let mut tally = Tally::new();
        let mut clients = Vec::new();
        for number in (index..args.count).step_by(threads as usize) {
            let client = Client::new(&plan, number);
            match client.home {
                Home::Refused => tally.count(Count::DevicesUnroutable),
                _ => clients.push(Rc::new(client)),
            }
        }
        Rc::new(Clients {
            args,
            plan,
            pool,
            share,
            clients,
            tally: RefCell::new(tally),
            live,
            roster: RefCell::default(),
            outstanding: Cell::new(0),
            phase: Cell::new(Phase::Ramp),
            leave: Notify::new(),
            settled: Cell::new(0),
            next: Cell::new(0),
            tasks: Cell::new(0),
        })
    }

    async fn run(self: Rc<Clients>, mut commands: UnboundedReceiver<Command>) -> Tally {
        let ramp = tokio::task::spawn_local(Rc::clone(&self).ramp());
        let shown = tokio::task::spawn_local(Rc::clone(&self).show());
        let mut pacer = None;
        while let Some(command) = commands.recv().await {
            match command {
                Command::Load(start_ns) => {
                    self.phase.set(Phase::Load);
                    if let Some(rate) = self.args.rate {
                        let schedule = Schedule::new(start_ns, rate, self.share);
                        pacer = Some(tokio::task::spawn_local(Rc::clone(&self).pace(schedule)));
                    }
                }
                Command::Measure => {
                    let mut tally = self.tally.borrow_mut();
                    tally.clear(Measure::RoundTrip);
                    tally.clear(Measure::SendLag);
                }
                Command::Kill(_) => {}
                Command::Stop => break,
            }
        }
        ramp.abort();
        if let Some(pacer) = pacer {
            pacer.abort();
        }
        self.leave().await;
        shown.abort();
        self.publish();
        self.tally.replace(Tally::new())
    }

    async fn ramp(self: Rc<Clients>) {
        let mut schedule = Schedule::new(self.plan.now_ns(), self.plan.args.ramp, self.share);
        for n in 0..self.clients.len() {
            let wait_ns = schedule.due_ns().saturating_sub(self.plan.now_ns());
            if wait_ns > 0 {
                tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
            }
            schedule.advance();
            self.tasks.set(self.tasks.get() + 1);
            let all = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                client::live(&all, n).await;
                all.tasks.set(all.tasks.get() - 1);
            });
        }
    }

    async fn pace(self: Rc<Clients>, schedule: Schedule) {
        let paced = pace(schedule, || self.plan.now_ns(), |_, due_ns| self.send_due(due_ns));
        if let Err(error) = paced.await {
            panic!("a timer for the open loop: {error}");
        }
    }

    /// Hands a message to the next client in turn.
    fn send_due(&self, due_ns: u64) {
        let next = self.next.get();
        let (sender, others) = {
            let roster = self.roster.borrow();
            match roster.get(next).or(roster.first()) {
                Some(n) => (*n, roster.len()),
                None => return self.count(Count::NobodyToSend),
            }
        };
        self.next.set(if next + 1 < others { next + 1 } else { 0 });
        let client = &self.clients[sender];
        if client.queued.get() >= QUEUE_LEN_MAX {
            return self.count(Count::QueueFull);
        }
        client.order(Order::Send(due_ns));
    }

    fn count(&self, count: Count) {
        self.tally.borrow_mut().count(count);
    }

    /// Whether heartbeats may start: their answers are still awaited.
    fn may_send(&self) -> bool {
        matches!(self.phase.get(), Phase::Ramp | Phase::Load)
    }

    /// Waits for answers, then says goodbye and waits for the other ends'.
    async fn leave(&self) {
        self.phase.set(Phase::Drain);
        let gone = self.clients.iter().filter(|client| client.is_gone()).count() as u64;
        self.tally.borrow_mut().count_many(Count::ClientsGone, gone);
        let idle = || {
            let queued: u64 = self.clients.iter().map(|client| client.queued.get()).sum();
            self.outstanding.get() == 0 && queued == 0
        };
        wait_until(self.plan.args.drain, idle).await;
        self.phase.set(Phase::Leave);
        self.leave.notify_waiters();
        self.clients.iter().for_each(|client| client.order(Order::Leave));
        wait_until(self.plan.args.drain, || self.tasks.get() == 0).await;
        for client in &self.clients {
            client::give_up(self, client);
        }
    }

    async fn show(self: Rc<Clients>) {
        let mut interval = tokio::time::interval(PUBLISH_PERIOD);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.publish();
        }
    }

    fn publish(&self) {
        let open = self.roster.borrow().len() as u64;
        self.live.publish(&self.tally.borrow(), open, self.settled.get());
    }
}
