//! Children: started pinned and in a process group of their own, ended with all they forked when
//! dropped, and by the kernel when we do not get that far.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::interrupt;

/// How often waits look for a signal to us.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How to start a program.
pub struct Start<'a> {
    /// The program and its arguments.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [String],
    /// Cores it may use.
    pub cores: &'a [usize],
    /// Folder of a cgroup to put it into.
    pub cgroup: Option<&'a Path>,
    /// What the kernel sends it when we are gone.
    pub death: Signal,
    /// Where both its outputs go; `None` to read them here.
    pub log: Option<PathBuf>,
}

/// A program that runs, and dies when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<Line>,
    /// Kept open: the load takes its end as the request to stop.
    pub stdin: Option<ChildStdin>,
    log: Option<PathBuf>,
    last_errors: VecDeque<String>,
}

enum Line {
    Output(String),
    Error(String),
}

impl Start<'_> {
    /// Starts it.
    pub fn spawn(self) -> anyhow::Result<Running> {
        let cores: Vec<String> = self.cores.iter().map(ToString::to_string).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["launch", "--cores", &cores.join(",")]);
        command.args(["--parent", &std::process::id().to_string()]);
        command.args(["--death", self.death.as_str()]);
        if let Some(cgroup) = self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg("--").arg(self.program).args(self.arguments);
        // A group of its own: Ctrl-C reaches us alone, and we reach what it forks.
        command.process_group(0).stdin(Stdio::piped());
        match &self.log {
            Some(path) => {
                let file = File::create(path).with_context(|| path.display().to_string())?;
                command.stdout(file.try_clone()?).stderr(file);
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        let mut child =
            command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let (sender, lines) = channel();
        if let Some(pipe) = child.stdout.take() {
            follow(pipe, sender.clone(), Line::Output);
        }
        if let Some(pipe) = child.stderr.take() {
            follow(pipe, sender, Line::Error);
        }
        let stdin = child.stdin.take();
        Ok(Running { child, lines, stdin, log: self.log, last_errors: VecDeque::new() })
    }
}

fn follow(pipe: impl Read + Send + 'static, lines: Sender<Line>, kind: fn(String) -> Line) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(kind(line)).is_err() {
                return;
            }
        }
    });
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output, `None` at its end; `None` as deadline error.
    pub fn output_line(&mut self, deadline: Instant) -> anyhow::Result<Option<String>> {
        while let Some(line) = self.line(deadline)? {
            match line {
                Line::Output(line) => return Ok(Some(line)),
                Line::Error(line) => self.keep_error(line),
            }
        }
        Ok(None)
    }

    /// Waits for a line of standard error that is this word.
    pub fn error_line(&mut self, word: &str, deadline: Instant) -> anyhow::Result<()> {
        while let Some(line) = self.line(deadline)? {
            if let Line::Error(line) = line {
                if line.trim() == word {
                    return Ok(());
                }
                self.keep_error(line);
            }
        }
        bail!("it ended without saying {word}: {}", self.said())
    }

    fn line(&self, deadline: Instant) -> anyhow::Result<Option<Line>> {
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!("no answer in time: {}", self.said()),
            }
        }
    }

    fn keep_error(&mut self, line: String) {
        if self.last_errors.len() == 10 {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(line);
    }

    /// Waits until `is_ready`, and fails when the program ends first.
    pub fn wait_until(
        &mut self,
        what: &str,
        deadline: Instant,
        mut is_ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        while !is_ready()? {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}): {}", self.said());
            }
            if Instant::now() > deadline {
                bail!("not {what} in time: {}", self.said());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        let Some(log) = &self.log else {
            return self.last_errors.iter().cloned().collect::<Vec<_>>().join("\n");
        };
        let text = std::fs::read(log).unwrap_or_default();
        let tail = text.len().saturating_sub(2_000);
        String::from_utf8_lossy(&text[tail..]).into_owned()
    }

    /// It and all it forked.
    pub fn family(&self) -> Vec<u32> {
        family(self.id())
    }
}

/// A process and all it forked.
pub fn family(id: u32) -> Vec<u32> {
    let mut family = vec![id];
    let mut next = 0;
    while let Some(id) = family.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{id}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        next += 1;
    }
    family
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let Ok(group) = group {
            // It may be over already, with all it forked.
            let _ = killpg(group, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Lets time pass, unless a signal comes.
pub fn settle(time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        interrupt::check()?;
        std::thread::park_timeout(left.min(LOOK_EVERY));
    }
    Ok(())
}
