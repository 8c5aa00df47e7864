//! What a run counts and measures. Every counter is named here, once.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use hdrhistogram::Histogram;

/// Largest duration a histogram tells apart, nanoseconds (ten minutes).
const RECORDED_NS_MAX: u64 = 600_000_000_000;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// One counter of a fleet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Count { $($(#[$doc])* $name,)+ }

        impl Count {
            /// Every counter with its name in the JSON report.
            pub const ALL: &'static [(Count, &'static str)] = &[$((Count::$name, $text),)+];
        }
    };
}

counters! {
    /// Connection attempts.
    Attempts = "attempts",
    /// Attempts that the other end refused.
    ConnectRefused = "connect_refused",
    /// Attempts that had no outcome in time.
    ConnectTimeout = "connect_timeout",
    /// Attempts that failed because this machine had no port or address left.
    ConnectNoPort = "connect_no_port",
    /// Attempts that failed because this process had no descriptor left.
    ConnectNoDescriptor = "connect_no_descriptor",
    /// Attempts that failed in another way.
    ConnectOther = "connect_other",
    /// Connections established.
    Connected = "connected",
    /// Login acknowledgements.
    Logins = "logins",
    /// Devices that logged in at least once.
    DevicesLoggedIn = "devices_logged_in",
    /// Devices that were logged in when the run was told to end.
    DevicesAtEnd = "devices_at_end",
    /// Devices that had logged in, were without a connection then, and not because of a storm.
    DevicesGone = "devices_gone",
    /// Devices not started: the configuration refuses their key.
    DevicesUnroutable = "devices_unroutable",
    /// Logins whose backend could be compared with the table.
    RouteChecked = "route_checked",
    /// Logins whose backend could not be compared.
    RouteUnchecked = "route_unchecked",
    /// Data frames sent.
    Sent = "sent",
    /// Data frames answered, each verified.
    Received = "received",
    /// Bytes sent, all frames.
    BytesSent = "bytes_sent",
    /// Bytes received, all frames.
    BytesReceived = "bytes_received",
    /// Heartbeats sent.
    HeartbeatsSent = "heartbeats_sent",
    /// Heartbeats answered.
    HeartbeatsAnswered = "heartbeats_answered",
    /// Open loop: messages that were due while no device was logged in.
    NobodyToSend = "nobody_to_send",
    /// Open loop: messages that were due while the device's queue was full.
    QueueFull = "queue_full",
    /// A login was answered by another backend than the table names.
    Misrouted = "misrouted",
    /// Frames that were never answered although the connection was not ours to end.
    Lost = "lost",
    /// Frames answered twice.
    Duplicated = "duplicated",
    /// Frames answered after a later one.
    OutOfOrder = "out_of_order",
    /// Answers whose bytes differ from what was sent, or that are no frames.
    Corrupted = "corrupted",
    /// Answers that belong to another device.
    Foreign = "foreign",
    /// Frames in flight on a connection that we cut, or whose break is tolerated.
    Cut = "cut",
    /// Connections the other end closed.
    PeerClosed = "peer_closed",
    /// Connections the other end reset.
    PeerReset = "peer_reset",
    /// Connections that failed in another way.
    PeerOther = "peer_other",
    /// Connections closed because the login was not answered in time.
    LoginTimeout = "login_timeout",
    /// Connections closed because nothing was read for the reader-idle time.
    ReaderIdle = "reader_idle",
    /// Connections whose other end did not answer our FIN with its own.
    FinUnanswered = "fin_unanswered",
    /// Connections that the storm reset.
    Killed = "killed",
    /// Logins after a loss.
    Reconnected = "reconnected",
    /// WebSocket: connections that were upgraded.
    Upgraded = "upgraded",
    /// WebSocket: clients that were upgraded at least once.
    ClientsUpgraded = "clients_upgraded",
    /// WebSocket: clients that had been upgraded and were not connected at the end.
    ClientsGone = "clients_gone",
    /// WebSocket: upgrades answered with another status than 101.
    UpgradeRefused = "upgrade_refused",
    /// WebSocket: upgrades that were not answered in time.
    UpgradeTimeout = "upgrade_timeout",
    /// WebSocket: our close frame was answered with one.
    CloseAnswered = "close_answered",
    /// WebSocket: our close frame was not answered.
    CloseUnanswered = "close_unanswered",
    /// HTTP: requests that were not answered in time.
    ResponseTimeout = "response_timeout",
    /// HTTP: requests that found their kept connection closed before they were sent.
    FoundClosed = "found_closed",
    /// HTTP: answers with another status than expected.
    StatusUnexpected = "status_unexpected",
}

impl Count {
    /// Anything here means that bytes or places were wrong.
    pub const WRONG: &'static [Count] = &[
        Count::Misrouted,
        Count::Lost,
        Count::Duplicated,
        Count::OutOfOrder,
        Count::Corrupted,
        Count::Foreign,
        Count::StatusUnexpected,
    ];

    /// Anything here means that a connection did not live as its device wanted.
    pub const BROKEN: &'static [Count] = &[
        Count::ConnectRefused,
        Count::ConnectTimeout,
        Count::ConnectNoPort,
        Count::ConnectNoDescriptor,
        Count::ConnectOther,
        Count::PeerClosed,
        Count::PeerReset,
        Count::PeerOther,
        Count::LoginTimeout,
        Count::ReaderIdle,
        Count::FinUnanswered,
        Count::UpgradeRefused,
        Count::UpgradeTimeout,
        Count::CloseUnanswered,
        Count::ResponseTimeout,
    ];

    /// What an attempt that failed so is counted as.
    pub fn of_connect(error: &std::io::Error) -> Count {
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::ConnectionRefused, _) => Count::ConnectRefused,
            (ErrorKind::TimedOut, _) => Count::ConnectTimeout,
            (ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse, _) => Count::ConnectNoPort,
            (_, Some(libc::EMFILE | libc::ENFILE)) => Count::ConnectNoDescriptor,
            _ => Count::ConnectOther,
        }
    }

    /// The name in the JSON report.
    pub fn name(self) -> &'static str {
        Count::ALL[self as usize].1
    }
}

/// Nanoseconds, three significant digits.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// An empty histogram.
    pub fn new() -> Latency {
        Latency(Histogram::new_with_bounds(1, RECORDED_NS_MAX, 3).expect("constant bounds"))
    }

    /// Records one duration; what exceeds the range is recorded as its end.
    pub fn record(&mut self, duration_ns: u64) {
        self.0.saturating_record(duration_ns.max(1));
    }

    /// The histogram itself.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// What is measured, with its name in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// From the start of an attempt to the established connection.
    Connect,
    /// From the start of an attempt to the login acknowledgement.
    FirstReply,
    /// From the intended moment of sending to the verified answer.
    RoundTrip,
    /// From the loss of a connection to the next login acknowledgement.
    Reconnect,
    /// Open loop: from the intended moment to the moment of the send call.
    SendLag,
}

impl Measure {
    /// Every measure, in the order of reports.
    pub const ALL: &'static [(Measure, &'static str)] = &[
        (Measure::Connect, "connect"),
        (Measure::FirstReply, "first_reply"),
        (Measure::RoundTrip, "round_trip"),
        (Measure::Reconnect, "reconnect"),
        (Measure::SendLag, "send_lag"),
    ];
}

/// Everything one run found out.
#[derive(Debug, Clone)]
pub struct Tally {
    counts: Vec<u64>,
    latencies: Vec<Latency>,
    /// Devices by the backend that acknowledged their last login.
    pub placed: BTreeMap<String, u64>,
    /// A sentence for each of the first few faults.
    pub examples: Vec<String>,
}

/// How many faults are described in words,
const EXAMPLES_MAX: usize = 12;
/// and how many of one kind.
const EXAMPLES_PER_COUNT: u64 = 3;

impl Tally {
    /// Nothing happened yet.
    pub fn new() -> Tally {
        Tally {
            counts: vec![0; Count::ALL.len()],
            latencies: Measure::ALL.iter().map(|_| Latency::new()).collect(),
            placed: BTreeMap::new(),
            examples: Vec::new(),
        }
    }

    /// Adds one.
    pub fn count(&mut self, count: Count) {
        self.counts[count as usize] += 1;
    }

    /// Adds many.
    pub fn count_many(&mut self, count: Count, by: u64) {
        self.counts[count as usize] += by;
    }

    /// Adds one fault and keeps the sentence if it is among the first of its kind.
    pub fn fault(&mut self, count: Count, describe: impl FnOnce() -> String) {
        self.count(count);
        if self.get(count) <= EXAMPLES_PER_COUNT && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{}: {}", count.name(), describe()));
        }
    }

    /// The value of a counter.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// One histogram.
    pub fn latency(&self, measure: Measure) -> &Latency {
        &self.latencies[measure as usize]
    }

    /// Records one duration.
    pub fn record(&mut self, measure: Measure, duration_ns: u64) {
        self.latencies[measure as usize].record(duration_ns);
    }

    /// Forgets what was measured so far; counters stay.
    pub fn clear(&mut self, measure: Measure) {
        self.latencies[measure as usize] = Latency::new();
    }

    /// Books an answer or a client of this backend.
    pub fn place(&mut self, backend: &str) {
        match self.placed.get_mut(backend) {
            Some(placed) => *placed += 1,
            None => drop(self.placed.insert(backend.to_string(), 1)),
        }
    }

    /// Adds what another thread found out.
    pub fn merge(&mut self, other: &Tally) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            mine.0.add(&theirs.0).expect("same bounds");
        }
        for (server, devices) in &other.placed {
            *self.placed.entry(server.clone()).or_default() += devices;
        }
        let room = EXAMPLES_MAX.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_discriminants() {
        let mut seen = std::collections::BTreeSet::new();
        for (index, (count, name)) in Count::ALL.iter().enumerate() {
            assert_eq!(*count as usize, index);
            assert!(seen.insert(*name), "{name} twice");
        }
        for (index, (measure, _)) in Measure::ALL.iter().enumerate() {
            assert_eq!(*measure as usize, index);
        }
    }

    #[test]
    fn merging_adds_counts_and_durations() {
        let mut one = Tally::new();
        let mut two = Tally::new();
        one.count(Count::Sent);
        two.count_many(Count::Sent, 4);
        one.record(Measure::RoundTrip, 1_000);
        two.record(Measure::RoundTrip, 3_000_000);
        two.record(Measure::RoundTrip, u64::MAX);
        one.merge(&two);
        assert_eq!(one.get(Count::Sent), 5);
        let histogram = one.latency(Measure::RoundTrip).histogram();
        assert_eq!(histogram.len(), 3);
        assert!(histogram.equivalent(histogram.max(), RECORDED_NS_MAX));
    }
}
