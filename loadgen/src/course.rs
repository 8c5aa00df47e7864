//! A run from beginning to end, whatever it loads with: threads, phases, progress.

use std::io::{IsTerminal, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::counters::{Count, Tally};
use crate::live::Live;
use crate::machine;
use crate::plan::Arm;
use crate::squad::Command;
use crate::units::Kill;

/// How often phases are looked at.
const TURN: Duration = Duration::from_millis(20);
/// Progress on a terminal, in one line.
const PROGRESS_TERMINAL: Duration = Duration::from_secs(1);
/// Progress elsewhere, a line each.
const PROGRESS_LOG: Duration = Duration::from_secs(10);

/// Ctrl-C and TERM: the first ends the run, the second the process.
pub struct Interrupts {
    signals: UnboundedReceiver<()>,
    /// Whether there was one.
    pub seen: bool,
}

impl Interrupts {
    /// Listens from now on. Needs a runtime with I/O.
    pub fn new() -> anyhow::Result<Interrupts> {
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

/// What one thread does until it is told to stop.
pub type Work = Pin<Box<dyn Future<Output = Tally>>>;

/// Starts the work of one thread, on that thread.
pub type Start =
    Arc<dyn Fn((u32, u32), Arc<Live>, UnboundedReceiver<Command>) -> Work + Send + Sync>;

/// One arm, as far as it is the same for everything that loads.
pub struct Course {
    /// Which way.
    pub arm: Arm,
    /// What times are counted from.
    pub epoch: Instant,
    /// Threads.
    pub threads: u32,
    /// How many devices, connections or clients there are,
    pub count: u32,
    /// and what they are called.
    pub noun: &'static str,
    /// Started per second.
    pub ramp: f64,
    /// How long the last one started may take to settle.
    pub patience: Duration,
    /// Load before the measurement.
    pub warmup: Duration,
    /// The measurement.
    pub duration: Duration,
    /// Storms.
    pub kills: Vec<Kill>,
    /// What throughput counts.
    pub answer: Count,
    /// No progress on standard error.
    pub quiet: bool,
    /// What every thread does.
    pub start: Start,
}

/// An arm after it ran.
pub struct Finished {
    /// What it found.
    pub tally: Tally,
    /// Length of the measurement.
    pub seconds: f64,
    /// CPU of this process during the measurement.
    pub cpu_seconds: f64,
    /// [`Course::answer`] during the measurement.
    pub answered: u64,
    /// Whether a signal ended it.
    pub interrupted: bool,
}

struct Squads<'c> {
    course: &'c Course,
    commands: Vec<UnboundedSender<Command>>,
    live: Vec<Arc<Live>>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<Tally>>>,
}

impl Squads<'_> {
    fn start(course: &Course) -> anyhow::Result<Squads<'_>> {
        let mut squads =
            Squads { course, commands: Vec::new(), live: Vec::new(), threads: Vec::new() };
        for index in 0..course.threads {
            let (sender, receiver) = unbounded_channel();
            let live = Arc::new(Live::new());
            let share = (index, course.threads);
            let (start, seen) = (Arc::clone(&course.start), Arc::clone(&live));
            let body = move || {
                let builder = &mut tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build_local(Default::default())?;
                Ok(runtime.block_on(async move { start(share, seen, receiver).await }))
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

/// Runs one arm: the ramp, the warm-up, the measurement and its end.
///
/// # Errors
/// When a thread cannot be started, or failed.
pub async fn run(course: &Course, interrupts: &mut Interrupts) -> anyhow::Result<Finished> {
    let squads = Squads::start(course)?;
    let mut progress = Progress::new(course);
    ramp(&squads, interrupts, &mut progress).await;
    squads.tell(Command::Load(course.epoch.elapsed().as_nanos() as u64));
    progress.phase = "warm-up";
    wait(&squads, course.warmup, interrupts, &mut progress).await;
    squads.tell(Command::Measure);
    progress.phase = "load";
    let (began, cpu_before) = (Instant::now(), machine::cpu_time());
    let answers = |squads: &Squads<'_>| squads.sum(|live| live.get(course.answer));
    let answered_before = answers(&squads);
    measure(&squads, interrupts, &mut progress).await;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = machine::cpu_time().saturating_sub(cpu_before).as_secs_f64();
    let answered = answers(&squads) - answered_before;
    squads.tell(Command::Stop);
    progress.end();
    let tally = squads.join().await?;
    Ok(Finished { tally, seconds, cpu_seconds, answered, interrupted: interrupts.seen })
}

/// Until every device has logged in or failed to, or no more are to be expected.
async fn ramp(squads: &Squads<'_>, interrupts: &mut Interrupts, progress: &mut Progress) {
    let course = squads.course;
    progress.phase = "ramp";
    let ramp_s = f64::from(course.count) / course.ramp;
    let allowed = Duration::from_secs_f64(ramp_s) + course.patience;
    let deadline = Instant::now() + allowed;
    let expected = |squads: &Squads| {
        u64::from(course.count) - squads.sum(|live| live.get(Count::DevicesUnroutable))
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
async fn measure(squads: &Squads<'_>, interrupts: &mut Interrupts, progress: &mut Progress) {
    let course = squads.course;
    let mut kills = course.kills.clone();
    kills.sort_by_key(|kill| kill.at);
    let began = Instant::now();
    for kill in kills.iter().filter(|kill| kill.at < course.duration) {
        let pause = kill.at.saturating_sub(began.elapsed());
        wait(squads, pause, interrupts, progress).await;
        if interrupts.seen {
            return;
        }
        squads.tell(Command::Kill(kill.share));
    }
    let rest = course.duration.saturating_sub(began.elapsed());
    wait(squads, rest, interrupts, progress).await;
}

async fn wait(
    squads: &Squads<'_>,
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
    fn new(course: &Course) -> Progress {
        Progress {
            phase: "",
            arm: course.arm.name(),
            terminal: std::io::stderr().is_terminal(),
            quiet: course.quiet,
            shown: Instant::now(),
            answered: 0,
        }
    }

    fn show(&mut self, squads: &Squads<'_>) {
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
            "{} {:<7} {:>4} s  {} {}  messages {answered} ({per_second:.0}/s)  heartbeats {}  \
             wrong {}  broken {}  killed {}",
            self.arm,
            self.phase,
            squads.course.epoch.elapsed().as_secs(),
            squads.course.noun,
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
