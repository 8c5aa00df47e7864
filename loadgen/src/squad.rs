//! One thread's share of the fleet: its devices, what they share, and the tasks that drive them.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::counters::{Count, Measure, Tally};
use crate::device::{self, Device, Order};
use crate::frame::FRAME_LEN_MAX;
use crate::live::Live;
use crate::oracle::Home;
use crate::pacer::{self, Schedule};
use crate::plan::Plan;
use crate::random::{Random, mix};

/// How exact heartbeats and idle times are.
const TICK: Duration = Duration::from_millis(10);
/// One buffer per thread, large enough to empty a busy socket in a few reads.
const READ_BUFFER_LEN: usize = 4 * FRAME_LEN_MAX;

/// What a squad is told to do.
#[derive(Debug, Clone, Copy)]
pub enum Command {
    /// Start sending; open-loop times count from this moment, ns since the plan's epoch.
    Load(u64),
    /// Forget durations so far: the measurement starts.
    Measure,
    /// Reset this share of the connections.
    Kill(f64),
    /// Stop sending, wait for answers, leave, report.
    Stop,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Devices arrive.
    Ramp,
    /// Messages flow.
    Load,
    /// Answers are awaited, nothing is sent.
    Drain,
    /// Connections are closed.
    Leave,
}

/// What the devices of one thread share.
pub struct Squad {
    /// What this run is.
    pub plan: Arc<Plan>,
    /// This thread and how many there are.
    pub share: (u32, u32),
    /// Every device of this thread.
    pub devices: Vec<RefCell<Device>>,
    /// What was found out so far.
    pub tally: RefCell<Tally>,
    /// Where sockets are read to.
    pub read_buffer: RefCell<Vec<u8>>,
    /// Where frames are composed.
    pub write_buffer: RefCell<Vec<u8>>,
    /// Indices of devices that are logged in, in no order.
    pub roster: RefCell<Vec<usize>>,
    /// Names of backends seen in acknowledgements.
    pub servers: RefCell<HashMap<String, u32>>,
    /// Data frames and heartbeats without an answer.
    pub outstanding: Cell<u64>,
    /// Where the run is.
    pub phase: Cell<Phase>,
    /// Devices that logged in, or failed to, at least once.
    pub settled: Cell<u64>,
    /// Wakes devices that are connecting or waiting, when it is time to leave.
    pub leave: Notify,
    /// When a device must next be looked at: (time ns, device, generation of its connection).
    timers: RefCell<BinaryHeap<Reverse<(u64, usize, u32)>>>,
    open_tasks: Cell<u64>,
    next_sender: Cell<usize>,
    storms: Cell<u64>,
    live: Arc<Live>,
}

impl Squad {
    /// The devices whose number, modulo the number of threads, is this thread's.
    pub fn new(plan: Arc<Plan>, share: (u32, u32), live: Arc<Live>) -> Rc<Squad> {
        let (index, threads) = share;
        let mut devices = Vec::new();
        let mut tally = Tally::new();
        for number in (index..plan.args.count).step_by(threads as usize) {
            let device = Device::new(&plan, number);
            if device.home == Home::Refused {
                tally.count(Count::DevicesUnroutable);
            } else {
                devices.push(RefCell::new(device));
            }
        }
        Rc::new(Squad {
            share,
            devices,
            tally: RefCell::new(tally),
            read_buffer: RefCell::new(vec![0; READ_BUFFER_LEN]),
            write_buffer: RefCell::default(),
            roster: RefCell::default(),
            servers: RefCell::default(),
            outstanding: Cell::new(0),
            phase: Cell::new(Phase::Ramp),
            settled: Cell::new(0),
            leave: Notify::new(),
            timers: RefCell::default(),
            open_tasks: Cell::new(0),
            next_sender: Cell::new(0),
            storms: Cell::new(0),
            live,
            plan,
        })
    }

    /// Runs until told to stop and gives what was found out.
    pub async fn run(self: Rc<Squad>, mut commands: UnboundedReceiver<Command>) -> Tally {
        let ramp = tokio::task::spawn_local(Rc::clone(&self).ramp());
        let ticks = tokio::task::spawn_local(Rc::clone(&self).tick());
        let mut pacer = None;
        while let Some(command) = commands.recv().await {
            match command {
                Command::Load(start_ns) => {
                    self.phase.set(Phase::Load);
                    if let Some(rate) = self.plan.args.rate {
                        let schedule = Schedule::new(start_ns, rate, self.share);
                        pacer = Some(tokio::task::spawn_local(Rc::clone(&self).pace(schedule)));
                    }
                    self.start_closed_loops();
                }
                Command::Measure => self.start_measurement(),
                Command::Kill(share) => self.kill(share),
                Command::Stop => break,
            }
        }
        ramp.abort();
        if let Some(pacer) = pacer {
            pacer.abort();
        }
        self.leave().await;
        ticks.abort();
        self.publish();
        self.tally.replace(Tally::new())
    }

    /// Nanoseconds since the plan's epoch.
    pub fn now_ns(&self) -> u64 {
        self.plan.now_ns()
    }

    /// Whether messages flow.
    pub fn is_loading(&self) -> bool {
        self.phase.get() == Phase::Load
    }

    /// Whether heartbeats may start: their answers are still awaited.
    pub fn may_send(&self) -> bool {
        matches!(self.phase.get(), Phase::Ramp | Phase::Load)
    }

    /// Adds one to a counter.
    pub fn count(&self, count: Count) {
        self.tally.borrow_mut().count(count);
    }

    /// Looks at this device again at that time, if its connection is still the same.
    pub fn watch(&self, at_ns: u64, device: usize, generation: u32) {
        self.timers.borrow_mut().push(Reverse((at_ns, device, generation)));
    }

    /// Starts devices at the rate of the ramp.
    async fn ramp(self: Rc<Squad>) {
        let mut schedule = Schedule::new(self.now_ns(), self.plan.args.ramp, self.share);
        for n in 0..self.devices.len() {
            let wait_ns = schedule.due_ns().saturating_sub(self.now_ns());
            if wait_ns > 0 {
                tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
            }
            schedule.advance();
            self.open_tasks.set(self.open_tasks.get() + 1);
            let squad = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                device::live(&squad, n).await;
                squad.open_tasks.set(squad.open_tasks.get() - 1);
            });
        }
    }

    /// Heartbeats, idle times and login deadlines, to the nearest tick.
    async fn tick(self: Rc<Squad>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let now_ns = self.now_ns();
            while let Some((n, generation)) = self.next_due(now_ns) {
                device::look_at(&self, n, generation, now_ns);
            }
            self.publish();
        }
    }

    fn next_due(&self, now_ns: u64) -> Option<(usize, u32)> {
        let mut timers = self.timers.borrow_mut();
        let due = timers.peek().is_some_and(|Reverse((at_ns, ..))| *at_ns <= now_ns);
        let Reverse((_, n, generation)) = if due { timers.pop()? } else { return None };
        Some((n, generation))
    }

    /// Open loop: sends what is due, sleeps until the next message is.
    async fn pace(self: Rc<Squad>, schedule: Schedule) {
        let paced = pacer::pace(
            schedule,
            || self.now_ns(),
            |_, due_ns| self.send_due(due_ns, self.now_ns()),
        );
        if let Err(error) = paced.await {
            panic!("a timer for the open loop: {error}");
        }
    }

    fn send_due(&self, due_ns: u64, now_ns: u64) {
        let next = self.next_sender.get();
        let sender = {
            let roster = self.roster.borrow();
            match roster.get(next).or(roster.first()) {
                Some(n) => *n,
                None => return self.count(Count::NobodyToSend),
            }
        };
        let roster_len = self.roster.borrow().len();
        self.next_sender.set(if next + 1 < roster_len { next + 1 } else { 0 });
        self.tally.borrow_mut().record(Measure::SendLag, now_ns - due_ns);
        device::send_open_loop(self, sender, due_ns, now_ns);
    }

    fn start_closed_loops(&self) {
        if !self.plan.args.closed {
            return;
        }
        let roster = self.roster.borrow().clone();
        for n in roster {
            device::start_closed_loop(self, n);
        }
    }

    fn start_measurement(&self) {
        let mut tally = self.tally.borrow_mut();
        tally.clear(Measure::RoundTrip);
        tally.clear(Measure::SendLag);
        if self.plan.args.churn {
            // The connections of the ramp are not the ones to be measured.
            tally.clear(Measure::Connect);
            tally.clear(Measure::FirstReply);
        }
    }

    /// Resets a share of the connections, chosen at random.
    fn kill(&self, share: f64) {
        let storm = self.storms.get();
        self.storms.set(storm + 1);
        let seed = mix(self.plan.args.seed ^ mix(u64::from(self.share.0) << 32 | storm));
        let mut random = Random::new(seed);
        let mut roster = self.roster.borrow().clone();
        let victims = (roster.len() as f64 * share).round() as usize;
        for chosen in 0..victims.min(roster.len()) {
            let other = chosen + random.below((roster.len() - chosen) as u64) as usize;
            roster.swap(chosen, other);
            device::order(self, roster[chosen], Order::Kill);
        }
    }

    /// Waits for answers, then closes every connection and waits for the other ends.
    async fn leave(&self) {
        self.phase.set(Phase::Drain);
        let at_end = self.roster.borrow().len() as u64;
        let gone = self.devices.iter().filter(|device| device.borrow().is_gone()).count() as u64;
        self.tally.borrow_mut().count_many(Count::DevicesAtEnd, at_end);
        if !self.plan.args.churn {
            self.tally.borrow_mut().count_many(Count::DevicesGone, gone);
        }
        let drain = self.plan.args.drain;
        wait_until(drain, || self.outstanding.get() == 0).await;
        self.phase.set(Phase::Leave);
        self.leave.notify_waiters();
        for n in 0..self.devices.len() {
            device::order(self, n, Order::Leave);
        }
        wait_until(drain, || self.open_tasks.get() == 0).await;
        for n in 0..self.devices.len() {
            device::give_up(self, n);
        }
        self.count_places();
    }

    fn count_places(&self) {
        let servers = self.servers.borrow();
        let mut names = vec![""; servers.len()];
        for (name, place) in servers.iter() {
            names[*place as usize] = name;
        }
        let mut tally = self.tally.borrow_mut();
        for device in &self.devices {
            if let Some(server) = device.borrow().server {
                *tally.placed.entry(names[server as usize].into()).or_default() += 1;
            }
        }
    }

    fn publish(&self) {
        let open = self.roster.borrow().len() as u64;
        self.live.publish(&self.tally.borrow(), open, self.settled.get());
    }
}

/// Polls a condition until it holds or the time is over.
pub async fn wait_until(time_max: Duration, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + time_max;
    while !condition() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
