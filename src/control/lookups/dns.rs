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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::source::dns::SystemResolvers;

    /// The complete name that is asked for with this resolv.conf.
    fn complete(resolv_conf: &str, search: Search) -> Result<String, FailureCause> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("corelane-resolv-{}-{serial}", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, resolv_conf).unwrap();
        let system = SystemResolvers { file: file.clone(), port: 5353 };
        let settings = DnsLookup {
            name: crate::http::template::Template::parse("{key}").unwrap(),
            search,
            port: 8101,
            resolvers: Vec::new(),
            min_ttl: Duration::ZERO,
            max_ttl: Duration::from_secs(60),
        };
        let timeout = Duration::from_secs(1);
        let whom = Whom::new(Vec::new(), timeout).with_system(system);
        let mut asker = Asker { settings, ttl: None, timeout, whom, current: None };
        let name = LookupName::new(b"zone12-mail", b"").unwrap();
        let prepared = asker.prepare(&name);
        std::fs::remove_file(&file).unwrap();
        prepared.map(|(name, _)| name.to_string()).map_err(|failure| failure.cause)
    }

    #[test]
    fn only_the_first_search_domain_is_put_behind_a_name() {
        let conf = "nameserver 127.0.0.1\nsearch ns.svc.test svc.test\noptions ndots:0\n";
        let first = complete(conf, Search::ResolvConf);
        assert_eq!(first, Ok("zone12-mail.ns.svc.test.".to_owned()));
        assert_eq!(complete(conf, Search::Off), Ok("zone12-mail.".to_owned()));
        let domain = complete("domain only.test\n", Search::ResolvConf);
        assert_eq!(domain, Ok("zone12-mail.only.test.".to_owned()));
        let nothing = complete("nameserver 127.0.0.1\n", Search::ResolvConf);
        assert_eq!(nothing, Err(FailureCause::Malformed));
    }
}
