//! A run from beginning to end: threads, phases, progress, and what remains to be said.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cli::DevicesArgs;
use crate::counters::{Count, Tally};
use crate::live::Live;
use crate::machine;
use crate::oracle::{self, Routes};
use crate::plan::{Arm, Plan};
use crate::report::{ArmReport, Report};
use crate::squad::{Command, Squad};

/// How often phases are looked at.
const TURN: Duration = Duration::from_millis(20);
/// Progress on a terminal, in one line.
const PROGRESS_TERMINAL: Duration = Duration::from_secs(1);
/// Progress elsewhere, a line each.
const PROGRESS_LOG: Duration = Duration::from_secs(10);

/// Runs every arm that was asked for and reports. The exit code is the report's.
pub fn run(args: &DevicesArgs) -> anyhow::Result<u8> {
    let plans = plans(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::new(args);
    runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        for (arm, (targets, routes)) in plans {
            let plan = Arc::new(Plan::new(args, arm, targets, routes)?);
            report.add(run_arm(plan, &mut interrupts).await?);
            if interrupts.seen {
                break;
            }
        }
        anyhow::Ok(())
    })?;
    report.publish()
}

type Way = (Vec<std::net::SocketAddr>, Routes);

/// The arms in the order in which they run: first direct, then through the gateway.
fn plans(args: &DevicesArgs) -> anyhow::Result<Vec<(Arm, Way)>> {
    let gateway = args.config.as_deref().map(oracle::read_gateway).transpose()?;
    let table = match &gateway {
        Some(config) => Some(Routes::of_gateway(config, args.target.first().copied())?),
        None => None,
    };
    let mut plans = Vec::new();
    if let Some(addresses) = &args.direct {
        let routes = match (&table, addresses.is_empty()) {
            (_, false) => Routes::crc32_mod(addresses),
            (Some(table), true) => table.clone(),
            (None, true) => bail!("--direct needs addresses, or --config to take them from"),
        };
        plans.push((Arm::Direct, (routes.addresses()?, routes)));
    }
    if !args.target.is_empty() {
        let routes = table.unwrap_or_else(|| match &args.direct {
            Some(addresses) => Routes::crc32_mod(addresses),
            None => Routes::unknown("routing is not checked without --config"),
        });
        plans.push((Arm::Gateway, (args.target.clone(), routes)));
    }
    if plans.is_empty() {
        bail!("nothing to do: give --target, --direct, or both");
    }
    Ok(plans)
}

/// Ctrl-C and TERM: the first ends the run, the second the process.
struct Interrupts {
    signals: UnboundedReceiver<()>,
    seen: bool,
}

impl Interrupts {
    fn new() -> anyhow::Result<Interrupts> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, signals) = unbounded_channel();
        tokio::spawn(async move {
            for again in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if again || sender.send(()).is_err() {
                    std::process::exit(130);
                }
            }
        });
        Ok(Interrupts { signals, seen: false })
    }

    /// Whether there was a signal since the start.
    fn look(&mut self) -> bool {
        self.seen |= self.signals.try_recv().is_ok();
        self.seen
    }
}

struct Squads {
    plan: Arc<Plan>,
    commands: Vec<UnboundedSender<Command>>,
    live: Vec<Arc<Live>>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<Tally>>>,
}

impl Squads {
    fn start(plan: &Arc<Plan>) -> anyhow::Result<Squads> {
        let mut squads = Squads {
            plan: Arc::clone(plan),
            commands: Vec::new(),
            live: Vec::new(),
            threads: Vec::new(),
        };
        for index in 0..plan.args.threads {
            let (sender, receiver) = unbounded_channel();
            let live = Arc::new(Live::new());
            let share = (index, plan.args.threads);
            let (plan, seen) = (Arc::clone(plan), Arc::clone(&live));
            let body = move || {
                let builder = &mut tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build_local(Default::default())?;
                Ok(runtime.block_on(Squad::new(plan, share, seen).run(receiver)))
            };
            let thread = std::thread::Builder::new().name(format!("squad-{index}")).spawn(body)?;
            squads.threads.push(thread);
            squads.commands.push(sender);
            squads.live.push(live);
        }
        Ok(squads)
    }

    fn tell(&self, command: Command) {
        for sender in &self.commands {
            // A squad that is gone has panicked; joining it says so.
            let _ = sender.send(command);
        }
    }

    fn sum(&self, value: impl Fn(&Live) -> u64) -> u64 {
        self.live.iter().map(|live| value(live)).sum()
    }

    fn dead(&self) -> bool {
        self.threads.iter().any(|thread| thread.is_finished())
    }

    async fn join(self) -> anyhow::Result<Tally> {
        while !self.threads.iter().all(|thread| thread.is_finished()) {
            tokio::time::sleep(TURN).await;
        }
        let mut tally = Tally::new();
        for thread in self.threads {
            let part = thread.join().map_err(|panic| {
                let text = panic.downcast_ref::<String>().map_or("", String::as_str);
                anyhow!("a thread of the fleet failed: {text}")
            })?;
            tally.merge(&part.context("starting a runtime")?);
        }
        Ok(tally)
    }
}

async fn run_arm(plan: Arc<Plan>, interrupts: &mut Interrupts) -> anyhow::Result<ArmReport> {
    let squads = Squads::start(&plan)?;
    let mut progress = Progress::new(&plan);
    ramp(&squads, interrupts, &mut progress).await;
    squads.tell(Command::Load(plan.now_ns()));
    progress.phase = "warm-up";
    wait(&squads, plan.args.warmup, interrupts, &mut progress).await;
    squads.tell(Command::Measure);
    progress.phase = "load";
    let (began, cpu_before) = (Instant::now(), machine::cpu_time());
    let answered_before = answers(&squads);
    measure(&squads, interrupts, &mut progress).await;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = machine::cpu_time().saturating_sub(cpu_before).as_secs_f64();
    let answered = answers(&squads) - answered_before;
    squads.tell(Command::Stop);
    progress.end();
    let tally = squads.join().await?;
    Ok(ArmReport { plan, tally, seconds, cpu_seconds, answered, interrupted: interrupts.seen })
}

/// What throughput counts: answered messages, or logins when devices only come and go.
fn answers(squads: &Squads) -> u64 {
    let answer = if squads.plan.args.churn { Count::Logins } else { Count::Received };
    squads.sum(|live| live.get(answer))
}

/// Until every device has logged in or failed to, or no more are to be expected.
async fn ramp(squads: &Squads, interrupts: &mut Interrupts, progress: &mut Progress) {
    let args = &squads.plan.args;
    progress.phase = "ramp";
    let ramp_s = f64::from(args.count) / args.ramp;
    let allowed = Duration::from_secs_f64(ramp_s) + args.connect_timeout.max(args.login_timeout);
    let deadline = Instant::now() + allowed;
    let expected = |squads: &Squads| {
        u64::from(args.count) - squads.sum(|live| live.get(Count::DevicesUnroutable))
    };
    while squads.sum(Live::settled) < expected(squads) && Instant::now() < deadline {
        if interrupts.look() || squads.dead() {
            return;
        }
        progress.show(squads);
        tokio::time::sleep(TURN).await;
    }
}

/// The measurement with its storms.
async fn measure(squads: &Squads, interrupts: &mut Interrupts, progress: &mut Progress) {
    let args = &squads.plan.args;
    let mut kills = args.kill.clone();
    kills.sort_by_key(|kill| kill.at);
    let began = Instant::now();
    for kill in kills.iter().filter(|kill| kill.at < args.duration) {
        let pause = kill.at.saturating_sub(began.elapsed());
        wait(squads, pause, interrupts, progress).await;
        if interrupts.seen {
            return;
        }
        squads.tell(Command::Kill(kill.share));
    }
    let rest = args.duration.saturating_sub(began.elapsed());
    wait(squads, rest, interrupts, progress).await;
}

async fn wait(
    squads: &Squads,
    pause: Duration,
    interrupts: &mut Interrupts,
    progress: &mut Progress,
) {
    let deadline = Instant::now() + pause;
    while !interrupts.look() && !squads.dead() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        progress.show(squads);
        tokio::time::sleep(left.min(TURN)).await;
    }
}

/// One line that is rewritten on a terminal; a line now and then elsewhere.
struct Progress {
    phase: &'static str,
    arm: &'static str,
    terminal: bool,
    quiet: bool,
    shown: Instant,
    answered: u64,
}

impl Progress {
    fn new(plan: &Plan) -> Progress {
        Progress {
            phase: "",
            arm: plan.arm.name(),
            terminal: std::io::stderr().is_terminal(),
            quiet: plan.args.output.quiet,
            shown: Instant::now(),
            answered: 0,
        }
    }

    fn show(&mut self, squads: &Squads) {
        let period = if self.terminal { PROGRESS_TERMINAL } else { PROGRESS_LOG };
        let since = self.shown.elapsed();
        if self.quiet || since < period {
            return;
        }
        let answered = squads.sum(|live| live.get(Count::Received));
        let per_second = (answered - self.answered) as f64 / since.as_secs_f64();
        let of = |counts: &[Count]| {
            counts.iter().map(|count| squads.sum(|live| live.get(*count))).sum::<u64>()
        };
        let line = format!(
            "{} {:<7} {:>4} s  devices {}  messages {answered} ({per_second:.0}/s)  heartbeats {}  \
             wrong {}  broken {}  killed {}",
            self.arm,
            self.phase,
            squads.plan.epoch.elapsed().as_secs(),
            squads.sum(Live::open),
            of(&[Count::HeartbeatsAnswered]),
            of(Count::WRONG),
            of(Count::BROKEN),
            of(&[Count::Killed]),
        );
        let (before, after) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Progress that cannot be shown is no reason to stop.
        let _ = write!(std::io::stderr(), "{before}{line}{after}");
        (self.shown, self.answered) = (Instant::now(), answered);
    }

    fn end(&self) {
        if self.terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
