//! Watches a name in DNS: A and AAAA records with a fixed port, or SRV records and their targets.
//!
//! An answer is believed for its time to live, and asked for again shortly before the end of it;
//! what cannot be asked leaves the set as it is (RFC 8767 calls that serving stale), and is tried
//! again with growing pauses (RFC 9520). Only an answer with the zone's SOA record says that
//! there is nothing (RFC 2308). The order of records means nothing: resolvers rotate them.

mod answer;
mod ask;
pub(crate) mod lookup;
mod search;

use std::path::PathBuf;
use std::time::Duration;

use self::lookup::{Found, Lookup};
use super::retry::Retry;
use super::{Desk, Reading, Report, Timings};
use crate::config::DnsSource;

/// However short a record lives, and however often asking failed, there is this much time between
/// two lookups (RFC 9520 has it for failures).
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest time for which we believe that there is nothing, whatever the zone says.
const NOTHING_MAX: Duration = Duration::from_secs(30);

/// Where the system's resolvers are written down.
#[derive(Debug, Clone)]
pub struct SystemResolvers {
    /// In the format of resolv.conf(5); read again for every lookup.
    pub file: PathBuf,
    /// The format has no ports.
    pub port: u16,
}

impl Default for SystemResolvers {
    fn default() -> SystemResolvers {
        SystemResolvers { file: PathBuf::from("/etc/resolv.conf"), port: 53 }
    }
}

/// Reports the name's backends until the desk is closed. How often the set is read is a matter of
/// its time to live: `timings.resync` does not count.
pub async fn watch(settings: DnsSource, timings: Timings, desk: Desk) {
    watch_with(SystemResolvers::default(), settings, timings, desk).await;
}

/// Like [`watch`], with another file in place of `/etc/resolv.conf`.
pub async fn watch_with(
    system: SystemResolvers,
    settings: DnsSource,
    timings: Timings,
    desk: Desk,
) {
    let mut lookup = Lookup::new(&settings, timings.timeout, system);
    let mut retry = Retry::default();
    let mut known: Option<Reading> = None;
    loop {
        let looked = tokio::select! {
            () = desk.reports.closed() => return,
            looked = lookup.run() => looked,
        };
        let (report, pause) = match looked {
            Err(failure) => {
                let pause = retry.pause().max(INTERVAL_MIN);
                (Report::Failed(failure), pause)
            }
            Ok(found) => {
                retry.forget();
                let pause = pause(&found, &settings, rand::random());
                if known.as_ref() == Some(&found.reading) {
                    (Report::Unchanged, pause)
                } else {
                    known = Some(found.reading.clone());
                    (Report::Set(found.reading), pause)
                }
            }
        };
        if !desk.report(report).await {
            return;
        }
        tokio::select! {
            () = desk.reports.closed() => return,
            () = desk.refresh.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// When to ask again: after 80 to 90 % of the time to live, so that many gateways do not ask as
/// one. `chance` is uniform in 0 to 1.
fn pause(found: &Found, settings: &DnsSource, chance: f64) -> Duration {
    let is_empty = found.reading.members.is_empty();
    let ttl_max = if is_empty { settings.max_ttl.min(NOTHING_MAX) } else { settings.max_ttl };
    let believed = found.ttl.min(ttl_max).mul_f64(0.8 + 0.1 * chance);
    believed.max(settings.min_ttl).max(INTERVAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Address, BackendState, DnsRecords};
    use crate::source::Member;

    const SECOND: Duration = Duration::from_secs(1);

    fn found(ttl_s: u64, count: u16) -> Found {
        let members = (1..=count).map(|port| Member {
            address: Address::Tcp(([10, 0, 0, 1], port).into()),
            weight: 1,
            state: BackendState::Ready,
            order: None,
        });
        let reading = Reading { members: members.collect(), ..Reading::default() };
        Found { reading, ttl: Duration::from_secs(ttl_s) }
    }

    #[test]
    fn asked_again_shortly_before_the_end_and_within_the_bounds() {
        let settings = |min_s: u64, max_s: u64| DnsSource {
            name: "a.test".to_owned(),
            records: DnsRecords::Addresses { port: 1 },
            resolvers: Vec::new(),
            min_ttl: Duration::from_secs(min_s),
            max_ttl: Duration::from_secs(max_s),
        };
        let wide = settings(0, 86_400);
        for (ttl_s, count, chance, expected_s) in [
            (60, 2, 0.0, 48.0),
            (60, 2, 1.0, 54.0),
            (0, 2, 0.5, 1.0),
            (1, 2, 0.5, 1.0),
            (4_000_000_000, 2, 0.0, 0.8 * 86_400.0),
            (3_600, 0, 0.0, 24.0),
            (5, 0, 0.0, 4.0),
        ] {
            let pause = pause(&found(ttl_s, count), &wide, chance).as_secs_f64();
            assert!((pause - expected_s).abs() < 1e-6, "{ttl_s} s, {count}: {pause}");
        }
        assert_eq!(pause(&found(1, 1), &settings(5, 60), 0.5), 5 * SECOND);
        assert_eq!(pause(&found(600, 1), &settings(1, 10), 0.0), 8 * SECOND);
    }
}
