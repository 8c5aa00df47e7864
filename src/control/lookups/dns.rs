//! Asks DNS for the addresses of names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_net::proto::rr::Name;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::desk::{Desk, Said, failed};
use crate::config::{DnsLookup, Search};
use crate::lookup::{Asked, LookupName};
use crate::source::dns::lookup::{Resolvers, Whom};
use crate::source::{Failure, FailureCause};

/// How long it is believed what /etc/resolv.conf says.
const SYSTEM_FOR: Duration = Duration::from_secs(1);
/// However short a record lives, its name is not asked for more often (RFC 1035 has 0 for "use it
/// now and forget it").
const FRESH_MIN: Duration = Duration::from_secs(1);

/// How names are asked for.
struct Asker {
    settings: DnsLookup,
    /// Instead of what the records say.
    ttl: Option<Duration>,
    timeout: Duration,
    whom: Whom,
    current: Option<(Instant, Arc<Resolvers>)>,
}

/// Answers questions until nobody can ask any more.
pub(super) async fn serve(settings: DnsLookup, mut desk: Desk, mut asked: mpsc::Receiver<Asked>) {
    let (ttl, timeout) = (desk.settings.ttl, desk.settings.timeout);
    let whom = Whom::new(settings.resolvers.clone(), timeout);
    let mut asker = Asker { settings, ttl, timeout, whom, current: None };
    let mut flights = FuturesUnordered::new();
    let mut open = true;
    while open || !flights.is_empty() {
        let next = tokio::select! {
            question = asked.recv(), if open => match question {
                Some(question) => desk.take(question),
                None => {
                    open = false;
                    None
                }
            },
            Some((name, said)) = flights.next() => desk.done(&name, said),
        };
        if let Some(name) = next {
            let asking = asker.ask(&name);
            flights.push(async move { (name, asking.await) });
        }
    }
}

impl Asker {
    fn ask(&mut self, name: &LookupName) -> impl Future<Output = Said> + use<> {
        let prepared = self.prepare(name);
        let (port, ttl, deadline) = (self.settings.port, self.ttl, self.timeout);
        let bounds = (self.settings.min_ttl.max(FRESH_MIN), self.settings.max_ttl);
        async move {
            let (name, resolvers) = match prepared {
                Ok(prepared) => prepared,
                Err(failure) => return Said::Failed(failure),
            };
            let host = match timeout(deadline, resolvers.host(&name)).await {
                Ok(host) => host,
                Err(_elapsed) => {
                    let detail = format!("{name}: no answer in {deadline:?}");
                    return failed(FailureCause::Timeout, detail);
                }
            };
            match host {
                Err(failure) => Said::Failed(failure),
                Ok((ips, believed)) if ips.is_empty() => Said::Nothing(believed),
                Ok((ips, believed)) => {
                    let (least, most) = bounds;
                    let believed = believed.clamp(least, most.max(least));
                    Said::Addresses {
                        addresses: ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect(),
                        fresh_for: ttl.unwrap_or(believed),
                    }
                }
            }
        }
    }

    /// The complete name, and whom to ask for it.
    fn prepare(&mut self, name: &LookupName) -> Result<(Name, Arc<Resolvers>), Failure> {
        let resolvers = match &self.current {
            Some((at, resolvers)) if at.elapsed() < SYSTEM_FOR => resolvers.clone(),
            _ => {
                let resolvers = self.whom.resolvers()?;
                self.current.insert((Instant::now(), resolvers)).1.clone()
            }
        };
        resolvers.turn();
        let malformed = |detail| Failure { cause: FailureCause::Malformed, detail };
        let text = String::from_utf8_lossy(name.key());
        let mut complete =
            Name::from_ascii(&*text).map_err(|error| malformed(format!("{name}: {error}")))?;
        if self.settings.search == Search::ResolvConf {
            let Some(domain) = resolvers.search_domain() else {
                return Err(malformed("resolv.conf names no search domain".to_owned()));
            };
            complete = complete
                .append_domain(domain)
                .map_err(|error| malformed(format!("{name}.{domain}: {error}")))?;
        }
        complete.set_fqdn(true);
        Ok((complete, resolvers))
    }
}
