//! Default and range of every key that is a number, a duration or a size.

use std::time::Duration;

use super::quantity::{ByteCount, Count, Ratio, Rule, ShortDuration};
use super::share::{PerSecond, Percent};

/// The tick of a shard: no deadline is finer.
const TICK: Duration = Duration::from_millis(100);

const HOUR: Duration = Duration::from_secs(3_600);

const fn count(default: i64, least: i64, most: i64) -> Rule<Count> {
    Rule { default: Some(Count(default)), least: Count(least), most: Count(most) }
}

const fn deadline(default: Duration, most: Duration) -> Rule<Duration> {
    Rule { default: Some(default), least: TICK, most }
}

const fn share(default: u32, least: u32) -> Rule<Percent> {
    Rule { default: Some(Percent(default)), least: Percent(least), most: Percent(100) }
}

/// The default depends on the descriptor limit.
pub const MAX_CONNECTIONS: Rule<Count> =
    Rule { default: None, least: Count(1), most: Count(10_000_000) };
/// The largest default of `max_connections`: more must be asked for.
pub const MAX_CONNECTIONS_DEFAULT_MOST: u64 = 1_000_000;
/// Long enough to hand over, short enough for a service manager's patience.
pub const DRAIN_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(30), Duration::from_secs(24 * 3_600));
/// A power of two besides; the kernel's own maximum is 32,768.
pub const RING_ENTRIES: Rule<Count> = count(4_096, 64, 32_768);
/// From a page to where larger copies gain nothing.
pub const RELAY_BUFFER_MAX: Rule<ByteCount> = Rule {
    default: Some(ByteCount(64 << 10)),
    least: ByteCount(4 << 10),
    most: ByteCount(1 << 20),
};

/// Off; longer than a reply takes to come back is wasted.
pub const SPIN: Rule<ShortDuration> = Rule {
    default: Some(ShortDuration(Duration::ZERO)),
    least: ShortDuration(Duration::ZERO),
    most: ShortDuration(Duration::from_millis(10)),
};

/// Records per shard.
pub const LOG_QUEUE: Rule<Count> = count(8_192, 1, 1_048_576);

/// The kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: Rule<Count> = count(4_096, 1, 65_535);
/// Between a lossy radio's longest gap and a dead peer's cost.
pub const TCP_USER_TIMEOUT: Rule<Duration> =
    Rule { default: Some(Duration::from_secs(30)), least: Duration::from_secs(1), most: HOUR };
/// No default: keepalive is off. The kernel counts seconds, up to 32,767.
pub const TCP_KEEPALIVE: Rule<Duration> =
    Rule { default: None, least: Duration::from_secs(1), most: Duration::from_secs(9 * 3_600) };

/// A login is small; a length field that lies is cut here.
pub const MAX_BODY: Rule<ByteCount> =
    Rule { default: Some(ByteCount(8 << 10)), least: ByteCount(1), most: ByteCount(16 << 20) };
/// From accept to a whole preface.
pub const PREFACE_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(5), Duration::from_secs(600));
/// The first frame decides unless told otherwise.
pub const SEARCH_FRAMES: Rule<Count> = count(1, 1, 16);
/// From accept to a whole PROXY header.
pub const PROXY_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(5), Duration::from_secs(600));

/// A radio that has just woken needs seconds.
pub const HANDSHAKE_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(10), Duration::from_secs(600));
/// Each holds some 20 KiB while it lasts.
pub const MAX_HANDSHAKES: Rule<Count> = count(1_024, 1, 65_536);
/// From accept to a whole ClientHello, where its name decides.
pub const SNI_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(5), Duration::from_secs(600));

/// A store in the same building answers in milliseconds; one that is swapping, in seconds.
pub const SOURCE_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(5), Duration::from_secs(60));
/// Notifications get lost; this is how long a lost one may go unnoticed.
pub const RESYNC: Rule<Duration> = Rule {
    default: Some(Duration::from_secs(300)),
    least: Duration::from_secs(1),
    most: Duration::from_secs(24 * 3_600),
};
/// Several commands of one hand are one change; zero: each is put in force at once.
pub const SETTLE: Rule<Duration> = Rule {
    default: Some(Duration::from_millis(500)),
    least: Duration::ZERO,
    most: Duration::from_secs(60),
};
/// Two of the longest silences that a source may have by default.
pub const STALE_AFTER: Rule<Duration> = Rule {
    default: Some(Duration::from_secs(600)),
    least: Duration::from_secs(1),
    most: Duration::from_secs(168 * 3_600),
};
/// Of `keep_for:`, which has no default.
pub const KEEP_FOR: Rule<Duration> =
    Rule { default: None, least: Duration::from_secs(1), most: Duration::from_secs(168 * 3_600) };
/// Envoy's panic threshold.
pub const MAX_REMOVAL: Rule<Percent> = share(50, 0);
/// Longer than a store's restart, shorter than somebody's patience.
pub const REMOVAL_DELAY: Rule<Duration> = Rule {
    default: Some(Duration::from_secs(60)),
    least: Duration::from_secs(1),
    most: Duration::from_secs(24 * 3_600),
};
/// Consul's own default and maximum.
pub const CONSUL_WAIT: Rule<Duration> = Rule {
    default: Some(Duration::from_secs(300)),
    least: Duration::from_secs(1),
    most: Duration::from_secs(600),
};
/// Ten times what a healthy follower has.
pub const CONSUL_MAX_LAG: Rule<Duration> = deadline(Duration::from_secs(10), HOUR);
/// No zone is asked more often, whatever it says.
pub const DNS_MIN_TTL: Rule<Duration> =
    Rule { default: Some(Duration::from_secs(1)), least: Duration::from_secs(1), most: HOUR };
/// A record with a day's life is looked at more often than that.
pub const DNS_MAX_TTL: Rule<Duration> = Rule {
    default: Some(Duration::from_secs(300)),
    least: Duration::from_secs(1),
    most: Duration::from_secs(24 * 3_600),
};
/// Of a DNS source; needed without `srv`.
pub const DNS_PORT: Rule<Count> = Rule { default: None, least: Count(1), most: Count(65_535) };

/// A hundred thousand devices come back within nine minutes.
pub const CLOSE_RATE: Rule<PerSecond> =
    Rule { default: Some(PerSecond(200)), least: PerSecond(1), most: PerSecond(1_000_000) };

/// One attempt.
pub const CONNECT_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(1), Duration::from_secs(300));
/// After the first attempt.
pub const RETRIES: Rule<Count> = count(0, 0, 16);
/// How long a failure is remembered.
pub const FAIL_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(2), HOUR);
/// Twenty heartbeats of 30 s.
pub const IDLE_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(600), Duration::from_secs(168 * 3_600));
/// No default: there is no bound. At 1 a backend that has its share could take nobody else's key.
pub const BOUNDED_LOAD: Rule<Ratio> =
    Rule { default: None, least: Ratio(101), most: Ratio(10_000) };
/// Per backend and shard.
pub const WARM: Rule<Count> = count(0, 0, 1_024);
/// Relative share of a backend.
pub const WEIGHT: Rule<Count> = count(1, 1, 65_535);

const fn size(default: u64, least: u64, most: u64) -> Rule<ByteCount> {
    Rule { default: Some(ByteCount(default)), least: ByteCount(least), most: ByteCount(most) }
}

/// What browsers and their cookies need, doubled; nginx takes 32 KiB at most.
pub const HTTP_MAX_HEAD: Rule<ByteCount> = size(16 << 10, 1 << 10, 64 << 10);
/// Of one message; the parser has room for 256.
pub const HTTP_MAX_HEADERS: Rule<Count> = count(100, 8, 256);
/// nginx's, too.
pub const HTTP_MAX_TARGET: Rule<ByteCount> = size(8 << 10, 256, 32 << 10);
/// nginx's, too; "0B" takes no bodies.
pub const HTTP_MAX_BODY: Rule<ByteCount> = size(1 << 20, 0, 1 << 40);
/// A head is a packet or two.
pub const HTTP_HEAD_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(10), HOUR);
/// Longer than a mobile network's gaps.
pub const HTTP_BODY_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(30), HOUR);
/// Of clients and of backends: what most others have, 60 to 75 s.
pub const HTTP_IDLE_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(60), HOUR);
/// Longer than a mobile network's gaps.
pub const HTTP_SEND_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(30), HOUR);
/// nginx's, too.
pub const HTTP_MAX_REQUESTS: Rule<Count> = count(1_000, 1, 1_000_000);
/// nginx's, too.
pub const HTTP_BACKEND_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(60), HOUR);
/// Per backend and shard.
pub const HTTP_BACKEND_IDLE: Rule<Count> = count(10, 0, 1_024);
/// The request is at fault.
pub const HTTP_STATUS_CALLER: Rule<Count> = count(400, 400, 599);
/// Somebody behind us is.
pub const HTTP_STATUS_BACKEND: Rule<Count> = count(502, 400, 599);
/// Of a fixed reply, which has to say one.
pub const HTTP_STATUS_REPLY: Rule<Count> =
    Rule { default: None, least: Count(200), most: Count(599) };

/// No default: the store decides.
pub const LOOKUP_TTL: Rule<Duration> =
    Rule { default: None, least: TICK, most: Duration::from_secs(24 * 3_600) };
/// Long enough that a name nobody has costs one question a second.
pub const LOOKUP_NEGATIVE_TTL: Rule<Duration> = deadline(Duration::from_secs(1), HOUR);
/// As long as an outage takes to be noticed by people; zero: not at all.
pub const LOOKUP_STALE: Rule<Duration> =
    Rule { default: Some(HOUR), least: Duration::ZERO, most: Duration::from_secs(168 * 3_600) };
/// Per shard: some 100 B each.
pub const LOOKUP_MAX_ENTRIES: Rule<Count> = count(10_000, 16, 1_000_000);
/// A caller waits for it.
pub const LOOKUP_TIMEOUT: Rule<Duration> =
    deadline(Duration::from_secs(1), Duration::from_secs(60));
/// 3,000 backends are checked 600 times a second.
pub const CHECK_INTERVAL: Rule<Duration> = deadline(Duration::from_secs(5), HOUR);
/// A backend that needs longer to answer one question does not serve a fleet.
pub const CHECK_TIMEOUT: Rule<Duration> = deadline(Duration::from_secs(1), Duration::from_secs(60));
/// Twice is no accident.
pub const RISE: Rule<Count> = count(2, 1, 100);
/// One lost packet takes nobody out.
pub const FALL: Rule<Count> = count(3, 1, 100);
/// No default: the port that sessions go to.
pub const PORT: Rule<Count> = Rule { default: None, least: Count(1), most: Count(65_535) };

/// In a row.
pub const EJECTION_FAILURES: Rule<Count> = count(5, 1, 1_000);
/// Sessions of devices live for hours.
pub const EARLY: Rule<Duration> =
    Rule { default: Some(Duration::from_secs(5)), least: Duration::ZERO, most: HOUR };
/// Within the window.
pub const EARLY_COUNT: Rule<Count> = count(5, 1, 1_000_000);
/// Of the sessions given within the window.
pub const EARLY_SHARE: Rule<Percent> = share(50, 1);
/// Long enough for a few sessions per backend, short enough to act on.
pub const EJECTION_WINDOW: Rule<Duration> =
    Rule { default: Some(Duration::from_secs(30)), least: Duration::from_secs(1), most: HOUR };
/// The first time.
pub const BASE_TIME: Rule<Duration> =
    Rule { default: Some(Duration::from_secs(30)), least: Duration::from_secs(1), most: HOUR };
/// However often.
pub const MAX_TIME: Rule<Duration> = Rule {
    default: Some(Duration::from_secs(300)),
    least: Duration::from_secs(1),
    most: Duration::from_secs(24 * 3_600),
};
/// Half a fleet's backends do not fail by themselves.
pub const MAX_EJECTED: Rule<Percent> = share(50, 0);
/// Envoy's `healthy_panic_threshold`, seen from the other side.
pub const PANIC_THRESHOLD: Rule<Percent> = share(PANIC_THRESHOLD_DEFAULT, 1);
/// Of [`PANIC_THRESHOLD`].
pub const PANIC_THRESHOLD_DEFAULT: u32 = 50;

/// Off.
pub const SLOW_START: Rule<Duration> =
    Rule { default: Some(Duration::ZERO), least: Duration::ZERO, most: HOUR };
/// No default: any number.
pub const BACKEND_CONNECTIONS: Rule<Count> =
    Rule { default: None, least: Count(1), most: Count(10_000_000) };
/// No default: any pace.
pub const CONNECT_RATE: Rule<PerSecond> =
    Rule { default: None, least: PerSecond(1), most: PerSecond(1_000_000) };
/// Per backend; a waiting session costs what a silent one does.
pub const ADMISSION_QUEUE: Rule<Count> = count(ADMISSION_QUEUE_DEFAULT as i64, 0, 1_000_000);
/// Of [`ADMISSION_QUEUE`].
pub const ADMISSION_QUEUE_DEFAULT: u32 = 1_024;
/// Shorter than a device's patience.
pub const ADMISSION_TIMEOUT: Rule<Duration> = deadline(ADMISSION_TIMEOUT_DEFAULT, HOUR);
/// Of [`ADMISSION_TIMEOUT`].
pub const ADMISSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
