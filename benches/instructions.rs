//! How many instructions operations take, counted by valgrind's callgrind, beside a committed
//! baseline. `scripts/bench-instructions` builds it and knows its options.
//!
//! Each operation has a process of its own: what others did to the heap does not count.

mod operations;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use clap::Parser;

use self::operations::{Length, Measure, Operation};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.tsv");

/// An average over so many shows hundredths of an instruction, and evens out what an algorithm
/// with state does differently each time.
const TIMES: u32 = 100;

/// What callgrind looks for: `counted` and `counted_once`, mangled or not.
const COUNTED: &str = "*instructions*counted*";

/// Counts differ with each of these; where one differs, so do the counts, and nobody is to blame.
const CONDITIONS: [&str; 4] = ["compiler", "C library", "valgrind", "processor"];

const GROWN: u8 = 1;
const NOT_MEASURED: u8 = 2;
const NOT_COMPARABLE: u8 = 3;

/// Counts instructions per operation, and compares them with benches/instructions.tsv. Exits with
/// 1 when an operation has grown, with 3 when the baseline is of another compiler, C library,
/// valgrind or kind of processor.
#[derive(Debug, Parser)]
#[command(override_usage = "scripts/bench-instructions [OPTIONS] [FILTER]")]
struct Arguments {
    /// Only operations whose name contains this
    filter: Option<String>,
    /// Write the counts as the new baseline
    #[arg(long, conflicts_with = "filter")]
    update: bool,
    /// An operation may grow by so many percent
    #[arg(long, default_value_t = 2.0)]
    tolerance: f64,
    /// Count so many times, keep the smallest, and say how far apart they were
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Given by scripts/bench-instructions: `cargo bench` runs this program too
    #[arg(long, hide = true)]
    count: bool,
    /// Run this operation, to be counted from outside
    #[arg(long, hide = true)]
    operation: Option<String>,
    /// Print what this process may use of the processor
    #[arg(long, hide = true)]
    processor: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by `cargo test --quiet`
    #[arg(long, hide = true)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.operation {
        operations::all(&mut Run { only: name });
    } else if arguments.processor {
        println!("{}", processor());
    } else if arguments.count {
        return count_and_compare(&arguments).unwrap_or_else(|error| {
            eprintln!("bench-instructions: {error}");
            ExitCode::from(NOT_MEASURED)
        });
    } else {
        println!("scripts/bench-instructions counts instructions");
    }
    ExitCode::SUCCESS
}

fn name_of(operation: &Operation<'_>) -> String {
    format!("{} / {}", operation.group, operation.name)
}

/// Names of all operations, and how often one is repeated.
struct Names(Vec<(String, u32)>);

impl Measure for Names {
    fn measure<T, F: FnMut() -> T>(&mut self, operation: &Operation<'_>, _: impl FnOnce() -> F) {
        self.0.push((name_of(operation), times(operation.length)));
    }
}

/// Runs the one operation that is to be counted.
struct Run<'a> {
    only: &'a str,
}

impl Measure for Run<'_> {
    fn measure<T, F: FnMut() -> T>(
        &mut self,
        operation: &Operation<'_>,
        prepare: impl FnOnce() -> F,
    ) {
        if self.only != name_of(operation) {
            return;
        }
        let mut run = prepare();
        match operation.length {
            Length::Short => {
                // What is done once in a process: finding out what the processor can, for one.
                drop(black_box(run()));
                counted(&mut run, times(operation.length));
            }
            Length::Long => drop(counted_once(&mut run)),
        }
    }
}

fn times(length: Length) -> u32 {
    match length {
        Length::Short => TIMES,
        Length::Long => 1,
    }
}

// What was prepared is borrowed by both, or dropping it would be counted.

#[inline(never)]
fn counted<T>(run: &mut impl FnMut() -> T, times: u32) {
    for _ in 0..times {
        black_box(run());
    }
}

#[inline(never)]
fn counted_once<T>(run: &mut impl FnMut() -> T) -> T {
    black_box(run())
}

/// What programs, and the libraries that choose by it, see of the processor. Valgrind knows no
/// AVX-512, and hides it.
fn processor() -> String {
    let mut seen = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, detected) in [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ] {
        if detected {
            seen.push(name);
        }
    }
    seen.join(" ")
}

/// Counts by operation, and what they were made with.
struct Counts {
    conditions: BTreeMap<String, String>,
    operations: BTreeMap<String, f64>,
}

fn count_and_compare(arguments: &Arguments) -> io::Result<ExitCode> {
    let mut names = Names(Vec::new());
    operations::all(&mut names);
    let Names(mut names) = names;
    if let Some(filter) = &arguments.filter {
        names.retain(|(name, _)| name.contains(filter));
    }
    if names.is_empty() {
        return Err(io::Error::other("no operation has such a name"));
    }
    let conditions = conditions()?;
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        rounds.push(count(&names)?);
    }
    let operations = smallest(&rounds);
    let counts = Counts { conditions, operations };
    let order: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    let baseline = if Path::new(BASELINE).exists() {
        parse(&std::fs::read_to_string(BASELINE)?)?
    } else {
        Counts { conditions: BTreeMap::new(), operations: BTreeMap::new() }
    };
    let grown = print_table(&order, &baseline, &counts, arguments.tolerance);
    print_missing(&baseline, arguments, &order);
    if arguments.rounds > 1 {
        print_spread(&rounds);
    }
    if arguments.update {
        std::fs::write(BASELINE, text_of(&order, &counts))?;
        println!("wrote {BASELINE}");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(verdict(&baseline, &counts, &grown, arguments.tolerance))
}

fn verdict(baseline: &Counts, now: &Counts, grown: &[String], tolerance: f64) -> ExitCode {
    let mut comparable = true;
    for name in CONDITIONS {
        let (then, now) = (baseline.conditions.get(name), now.conditions.get(name));
        if then != now {
            let [then, now] = [then, now].map(|value| value.map_or("none", String::as_str));
            println!("not comparable: the baseline was made with {name} {then}; this is {now}");
            comparable = false;
        }
    }
    if !comparable {
        println!("scripts/bench-instructions --update on the older commit makes one that is");
        return ExitCode::from(NOT_COMPARABLE);
    }
    if grown.is_empty() {
        println!("nothing grew by more than {tolerance} %");
        return ExitCode::SUCCESS;
    }
    println!("grown by more than {tolerance} %: {}", grown.join(", "));
    ExitCode::from(GROWN)
}

fn conditions() -> io::Result<BTreeMap<String, String>> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut under_valgrind = valgrind("none")?;
    let values = [
        first_line(Command::new(rustc).arg("--version"))?,
        first_line(Command::new("getconf").arg("GNU_LIBC_VERSION"))?,
        first_line(Command::new("valgrind").arg("--version"))?,
        first_line(under_valgrind.arg("--processor"))?,
    ];
    Ok(CONDITIONS.map(String::from).into_iter().zip(values).collect())
}

fn first_line(command: &mut Command) -> io::Result<String> {
    let output = command.output().map_err(|error| failure(command, &error.to_string()))?;
    if !output.status.success() {
        return Err(failure(command, &String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn failure(command: &Command, what: &str) -> io::Error {
    io::Error::other(format!("{}: {what}", command.get_program().display()))
}

/// This program under valgrind. An environment of its own: the size of one moves the stack.
fn valgrind(tool: &str) -> io::Result<Command> {
    let mut command = Command::new("valgrind");
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).arg(format!("--tool={tool}"));
    if tool == "callgrind" {
        command.arg("--callgrind-out-file=/dev/null").arg(format!("--toggle-collect={COUNTED}"));
    }
    command.arg(std::env::current_exe()?);
    Ok(command)
}

/// As many processes at a time as there are cores: they share no counts.
fn count(names: &[(String, u32)]) -> io::Result<BTreeMap<String, f64>> {
    let left = Mutex::new(names.iter());
    let work = || -> io::Result<Vec<(String, f64)>> {
        let mut counts = Vec::new();
        loop {
            let next = left.lock().map_or(None, |mut left| left.next());
            let Some((name, times)) = next else { return Ok(counts) };
            counts.push((name.clone(), count_one(name)? as f64 / f64::from(*times)));
        }
    };
    let workers = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut counts = BTreeMap::new();
        for worker in workers {
            let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            counts.extend(done?);
        }
        Ok(counts)
    })
}

fn count_one(name: &str) -> io::Result<u64> {
    let mut command = valgrind("callgrind")?;
    let output = command.arg("--operation").arg(name).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    match count {
        Some(count) if count > 0 && output.status.success() => Ok(count),
        _ => Err(failure(&command, &format!("no count of {name}:\n{text}"))),
    }
}

fn smallest(rounds: &[BTreeMap<String, f64>]) -> BTreeMap<String, f64> {
    let mut smallest = BTreeMap::new();
    for (name, count) in rounds.iter().flatten() {
        let least = smallest.entry(name.clone()).or_insert(*count);
        *least = count.min(*least);
    }
    smallest
}

/// Lines of `name TAB value`, conditions with a `#` before them.
fn parse(text: &str) -> io::Result<Counts> {
    let mut counts = Counts { conditions: BTreeMap::new(), operations: BTreeMap::new() };
    for line in text.lines() {
        let fault = || io::Error::other(format!("{BASELINE}: not a count: {line}"));
        let (name, value) = line.split_once('\t').ok_or_else(fault)?;
        if let Some(condition) = name.strip_prefix("# ") {
            counts.conditions.insert(condition.into(), value.into());
        } else {
            let value = value.parse().ok().ok_or_else(fault)?;
            counts.operations.insert(name.into(), value);
        }
    }
    Ok(counts)
}

fn text_of(order: &[&str], counts: &Counts) -> String {
    let mut text = String::new();
    for name in CONDITIONS {
        let _ = writeln!(text, "# {name}\t{}", counts.conditions[name]);
    }
    for name in order {
        let _ = writeln!(text, "{name}\t{:.2}", counts.operations[*name]);
    }
    text
}

fn percent(then: f64, now: f64) -> f64 {
    (now - then) / then * 100.0
}

/// Prints all counts, and returns which have grown.
fn print_table(order: &[&str], baseline: &Counts, now: &Counts, tolerance: f64) -> Vec<String> {
    let mut grown = Vec::new();
    println!("{:<80}{:>14}{:>14}{:>10}", "instructions per operation", "baseline", "now", "%");
    for name in order {
        let count = now.operations[*name];
        let Some(then) = baseline.operations.get(*name) else {
            println!("{name:<80}{:>14}{count:>14.2}{:>10}", "-", "new");
            continue;
        };
        let percent = percent(*then, count);
        println!("{name:<80}{then:>14.2}{count:>14.2}{percent:>+10.2}");
        if percent > tolerance {
            grown.push(format!("{name} ({percent:+.2} %)"));
        }
    }
    grown
}

/// What the baseline has and nobody counted: it was removed, or goes by another name now.
fn print_missing(baseline: &Counts, arguments: &Arguments, order: &[&str]) {
    if arguments.filter.is_some() {
        return;
    }
    for name in baseline.operations.keys().filter(|name| !order.contains(&name.as_str())) {
        println!("only in the baseline: {name}");
    }
}

fn print_spread(rounds: &[BTreeMap<String, f64>]) {
    let least = smallest(rounds);
    let spread = |(name, count): (&String, &f64)| (percent(least[name], *count), name.clone());
    let mut spreads: Vec<_> = rounds.iter().flatten().map(spread).collect();
    spreads.sort_by(|a, b| b.0.total_cmp(&a.0));
    if let Some((widest, name)) = spreads.first() {
        println!("{} rounds differed by {widest:.3} % at most: {name}", rounds.len());
    }
    let mut different: Vec<_> = spreads.iter().filter(|(percent, _)| *percent > 0.0).collect();
    different.dedup_by(|a, b| a.1 == b.1);
    println!("{} of {} operations differed at all", different.len(), least.len());
}
