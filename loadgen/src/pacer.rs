//! Open loop: when each message is due, and a clock fine enough to send it then.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Evenly spaced moments, dealt out to threads in turn. Pure.
#[derive(Debug, Clone)]
pub struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    position: u64,
    stride: u64,
}

impl Schedule {
    /// The share of thread `index` of `threads` in `rate` messages per second from `start_ns` on.
    pub fn new(start_ns: u64, rate: f64, (index, threads): (u32, u32)) -> Schedule {
        let interval_ns = 1e9 / rate;
        Schedule { start_ns, interval_ns, position: index.into(), stride: threads.into() }
    }

    /// When the next message is due, ns. Computed from the start, so that nothing accumulates.
    pub fn due_ns(&self) -> u64 {
        self.start_ns + (self.position as f64 * self.interval_ns) as u64
    }

    /// Its number over all threads, from 0.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on to the message after it.
    pub fn advance(&mut self) {
        self.position += self.stride;
    }
}

/// Messages sent before others may read.
const BURST_MAX: u32 = 32;

/// Open loop: hands out what is due with its number and moment, sleeps until the next message is.
///
/// # Errors
/// When there is no timer to be had.
pub async fn pace(
    mut schedule: Schedule,
    now_ns: impl Fn() -> u64,
    mut send: impl FnMut(u64, u64),
) -> std::io::Result<()> {
    let alarm = Alarm::new()?;
    let mut burst = 0;
    loop {
        let (now_ns, due_ns) = (now_ns(), schedule.due_ns());
        if due_ns > now_ns {
            burst = 0;
            alarm.sleep(Duration::from_nanos(due_ns - now_ns)).await?;
            continue;
        }
        send(schedule.position(), due_ns);
        schedule.advance();
        burst += 1;
        if burst == BURST_MAX {
            burst = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// A timer of nanoseconds. The runtime's own timers round up to a millisecond, which would be most
/// of what is measured.
#[derive(Debug)]
pub struct Alarm(AsyncFd<Timer>);

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// Needs a runtime with I/O.
    #[expect(deprecated, reason = "its successor is unsafe; Timer's descriptor never changes")]
    pub fn new() -> std::io::Result<Alarm> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Alarm(AsyncFd::with_interest(Timer(timer), Interest::READABLE)?))
    }

    /// Sleeps.
    pub async fn sleep(&self, duration: Duration) -> std::io::Result<()> {
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX).max(1);
        let when = Expiration::OneShot(TimeSpec::nanoseconds(nanos));
        // Setting the timer also forgets earlier expirations, so none is ever read.
        self.0.get_ref().0.set(when, TimerSetTimeFlags::empty())?;
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_schedule_without_gap_or_overlap() {
        let due = |mut schedule: Schedule, count: usize| -> Vec<u64> {
            let next = |schedule: &mut Schedule| {
                let due_ns = schedule.due_ns();
                schedule.advance();
                due_ns
            };
            (0..count).map(|_| next(&mut schedule)).collect()
        };
        let alone = due(Schedule::new(500, 30_000.0, (0, 1)), 3_000);
        let mut shared = Vec::new();
        for index in 0..3 {
            shared.extend(due(Schedule::new(500, 30_000.0, (index, 3)), 1_000));
        }
        shared.sort_unstable();
        assert_eq!(alone, shared);
        assert_eq!(alone[0], 500);
        assert_eq!(alone[2_999], 500 + 99_966_666);
    }

    #[tokio::test]
    async fn the_alarm_is_never_early_and_can_be_set_again() {
        let alarm = Alarm::new().unwrap();
        for micros in [50, 0, 700, 1] {
            let duration = Duration::from_micros(micros);
            let before = std::time::Instant::now();
            alarm.sleep(duration).await.unwrap();
            assert!(before.elapsed() >= duration);
        }
    }
}
