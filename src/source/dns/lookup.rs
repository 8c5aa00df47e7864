//! One whole lookup: every name a search list offers, both address families, all targets of SRV
//! records. It is all or nothing: a part that is not answered leaves the set as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hickory_net::proto::op::Query;
use hickory_net::proto::rr::rdata::SRV;
use hickory_net::proto::rr::{Name, RecordType};

use super::SystemResolvers;
use super::answer::{CHAIN_MAX, Data, Said};
pub(crate) use super::ask::Resolvers;
use super::search::Plan;
use crate::config::{Address, BackendState, DnsRecords, DnsSource};
use crate::source::{Failure, FailureCause, Member, Reading, Rejected};

/// Most SRV records of the lowest priority: each costs two questions.
const TARGETS_MAX: usize = 1_024;
/// Questions about targets that are asked at the same time.
const AT_ONCE: usize = 16;

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Sorted by address.
    pub reading: Reading,
    /// How long it may be believed.
    pub ttl: Duration,
}

/// A name and whom to ask.
#[derive(Debug)]
pub(super) struct Lookup {
    name: String,
    records: DnsRecords,
    whom: Whom,
}

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct Whom {
    /// Empty: the system's.
    configured: Vec<SocketAddr>,
    timeout: Duration,
    /// Whether `timeout` is for all resolvers together.
    together: bool,
    system: SystemResolvers,
    resolvers: Option<Arc<Resolvers>>,
}

/// Answers to one or several questions.
#[derive(Debug, Default)]
struct Part {
    data: Vec<Data>,
    /// The shortest of all answers.
    ttl: Option<Duration>,
}

impl Part {
    fn add(&mut self, data: Vec<Data>, ttl: Duration) {
        self.data.extend(data);
        self.ttl = Some(self.ttl.map_or(ttl, |shortest| shortest.min(ttl)));
    }
}

impl Lookup {
    /// Nothing is asked yet.
    pub(super) fn new(settings: &DnsSource, timeout: Duration, system: SystemResolvers) -> Lookup {
        let configured = settings.resolvers.clone();
        let whom = Whom { configured, timeout, together: false, system, resolvers: None };
        Lookup { name: settings.name.clone(), records: settings.records, whom }
    }

    /// Looks everything up.
    pub(super) async fn run(&mut self) -> Result<Found, Failure> {
        let name = Name::from_ascii(&self.name)
            .map_err(|error| malformed(format!("{:?} is no name: {error}", self.name)))?;
        let resolvers = self.whom.resolvers()?;
        resolvers.turn();
        match self.records {
            DnsRecords::Addresses { port } => resolvers.addresses_with(&name, port).await,
            DnsRecords::Services => resolvers.services(&name).await,
        }
    }
}

impl Whom {
    /// These resolvers, or those of the system if there are none; each question has an answer from
    /// one of them, or none, within `timeout`.
    pub(crate) fn new(configured: Vec<SocketAddr>, timeout: Duration) -> Whom {
        let system = SystemResolvers::default();
        Whom { configured, timeout, together: true, system, resolvers: None }
    }

    /// The same with another file in place of `/etc/resolv.conf`.
    #[cfg(test)]
    pub(crate) fn with_system(self, system: SystemResolvers) -> Whom {
        Whom { system, ..self }
    }

    /// Those to ask now; what was learnt about them is kept while they are the same.
    pub(crate) fn resolvers(&mut self) -> Result<Arc<Resolvers>, Failure> {
        let mut plan = self.plan()?;
        if self.together {
            plan.timeout /= u32::try_from(plan.resolvers.len()).unwrap_or(u32::MAX).max(1);
        }
        let known = self.resolvers.take().filter(|resolvers| *resolvers.plan() == plan);
        let resolvers = known.unwrap_or_else(|| Arc::new(Resolvers::new(plan)));
        Ok(self.resolvers.insert(resolvers).clone())
    }

    fn plan(&self) -> Result<Plan, Failure> {
        if !self.configured.is_empty() {
            return Ok(Plan::of_settings(self.configured.clone(), self.timeout));
        }
        let file = &self.system.file;
        let text = match std::fs::read(file) {
            Ok(text) => text,
            // As in glibc: without a file a resolver on this host is asked.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let detail = format!("{}: {error}", file.display());
                return Err(Failure { cause: FailureCause::Unreachable, detail });
            }
        };
        Ok(Plan::of_system(&text, self.system.port, self.timeout))
    }
}

impl Resolvers {
    /// The first search domain, if there is one.
    pub(crate) fn search_domain(&self) -> Option<&Name> {
        self.plan().search.first()
    }

    /// The addresses of a complete name, and how long they, or that there are none, may be
    /// believed. One family that is answered is enough.
    pub(crate) async fn host(&self, name: &Name) -> Result<(Vec<IpAddr>, Duration), Failure> {
        let (mut v4, mut v6) = (Part::default(), Part::default());
        let (four, six) = match self.plan().no_ipv6 {
            true => (self.resolve(name, RecordType::A, &mut v4).await, Ok(())),
            false => tokio::join!(
                self.resolve(name, RecordType::A, &mut v4),
                self.resolve(name, RecordType::AAAA, &mut v6),
            ),
        };
        let ips = |part: &Part| part.data.iter().filter_map(ip).collect::<Vec<_>>();
        let (four_ips, six_ips) = (ips(&v4), ips(&v6));
        let ttl = match (four_ips.is_empty(), six_ips.is_empty()) {
            (false, true) => v4.ttl,
            (true, false) => v6.ttl,
            (false, false) => [v4.ttl, v6.ttl].into_iter().flatten().min(),
            (true, true) => {
                // That there is nothing takes both to say.
                four.and(six)?;
                [v4.ttl, v6.ttl].into_iter().flatten().min()
            }
        };
        Ok((four_ips.into_iter().chain(six_ips).collect(), ttl.unwrap_or_default()))
    }

    async fn addresses_with(&self, name: &Name, port: u16) -> Result<Found, Failure> {
        let part = self.first_with_data(name, Wanted::Addresses).await?;
        let ips = part.data.iter().filter_map(ip);
        found(ips.map(|ip| Ok((SocketAddr::new(ip, port), 1))).collect(), part.ttl)
    }

    async fn services(&self, name: &Name) -> Result<Found, Failure> {
        let part = self.first_with_data(name, Wanted::Services).await?;
        let services = preferred(&part.data);
        if services.len() > TARGETS_MAX {
            let count = services.len();
            return Err(malformed(format!("{name}: {count} SRV records, {TARGETS_MAX} at most")));
        }
        // Many records may point to one target, which is asked for once.
        let targets: BTreeSet<Name> =
            services.iter().map(|service| service.target.clone()).collect();
        let asked: BTreeMap<Name, Part> = stream::iter(targets)
            .map(|target| self.target(target))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let mut entries = Vec::new();
        let mut ttl = part.ttl;
        for service in services {
            let Some(addresses) = asked.get(&service.target) else { continue };
            ttl = [ttl, addresses.ttl].into_iter().flatten().min();
            match judge(service, addresses) {
                Err(why) => entries.push(Err(rejected(service, why))),
                Ok(members) => entries.extend(members.into_iter().map(Ok)),
            }
        }
        found(entries, ttl)
    }

    async fn target(&self, name: Name) -> Result<(Name, Part), Failure> {
        let part = self.addresses(&name).await?;
        Ok((name, part))
    }

    /// The answer of the first candidate that has one. A candidate that is not answered ends the
    /// search: a later one could be another service.
    async fn first_with_data(&self, name: &Name, wanted: Wanted) -> Result<Part, Failure> {
        let mut nothing = Part::default();
        for candidate in self.plan().candidates(name) {
            let part = match wanted {
                Wanted::Addresses => self.addresses(&candidate).await?,
                Wanted::Services => {
                    let mut part = Part::default();
                    self.resolve(&candidate, RecordType::SRV, &mut part).await?;
                    part
                }
            };
            if !part.data.is_empty() {
                return Ok(part);
            }
            nothing.ttl = [nothing.ttl, part.ttl].into_iter().flatten().min();
        }
        Ok(nothing)
    }

    /// Both families. One that is not answered makes the whole unanswered: the set must not lose
    /// half of its backends because half of a question got lost.
    async fn addresses(&self, name: &Name) -> Result<Part, Failure> {
        let (mut v4, mut v6) = (Part::default(), Part::default());
        if self.plan().no_ipv6 {
            self.resolve(name, RecordType::A, &mut v4).await?;
            return Ok(v4);
        }
        tokio::try_join!(
            self.resolve(name, RecordType::A, &mut v4),
            self.resolve(name, RecordType::AAAA, &mut v6),
        )?;
        if let Some(ttl) = v6.ttl {
            // A family that the name does not have is asked for with the other one.
            match (v4.data.is_empty(), v6.data.is_empty()) {
                (true, false) => v4 = v6,
                (false, true) => {}
                _ => v4.add(v6.data, ttl),
            }
        }
        Ok(v4)
    }

    /// One question, and those that aliases lead to.
    async fn resolve(&self, name: &Name, kind: RecordType, into: &mut Part) -> Result<(), Failure> {
        let mut name = name.clone();
        let mut hops = 0;
        loop {
            match self.ask(&Query::query(name.clone(), kind)).await? {
                Said::Records { data, ttl } => {
                    into.add(data, ttl);
                    return Ok(());
                }
                Said::Nothing { ttl } => {
                    into.add(Vec::new(), ttl);
                    return Ok(());
                }
                Said::Alias { name: target, ttl, hops: more } => {
                    into.add(Vec::new(), ttl);
                    name = target;
                    hops += more;
                    if hops > CHAIN_MAX {
                        let why = format!("more than {CHAIN_MAX} aliases in a row");
                        return Err(malformed(format!("{name} {kind}: {why}")));
                    }
                }
                // `ask` has used TCP by now.
                Said::Truncated => return Err(malformed(format!("{name} {kind}: truncated"))),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Addresses,
    Services,
}

fn ip(data: &Data) -> Option<IpAddr> {
    match data {
        Data::Address(ip) => Some(*ip),
        Data::Service(_) => None,
    }
}

/// The records of the lowest priority. A target that is the root says that there is no service
/// (RFC 2782).
fn preferred(data: &[Data]) -> Vec<&SRV> {
    let services = || {
        data.iter().filter_map(|data| match data {
            Data::Service(service) if !service.target.is_root() => Some(service),
            _ => None,
        })
    };
    let lowest = services().map(|service| service.priority).min();
    services().filter(|service| Some(service.priority) == lowest).collect()
}

/// The members of one SRV record. Weight 0 is the smallest share, not none (RFC 2782).
fn judge(service: &SRV, addresses: &Part) -> Result<Vec<(SocketAddr, u32)>, &'static str> {
    if service.port == 0 {
        return Err("it has no port");
    }
    if addresses.data.is_empty() {
        return Err("its target has no address");
    }
    let weight = u32::from(service.weight).max(1);
    let ips = addresses.data.iter().filter_map(ip);
    Ok(ips.map(|ip| (SocketAddr::new(ip, service.port), weight)).collect())
}

fn rejected(service: &SRV, why: &str) -> Rejected {
    Rejected::new(format!("{}:{}", service.target, service.port).as_bytes(), why)
}

fn found(
    mut entries: Vec<Result<(SocketAddr, u32), Rejected>>,
    ttl: Option<Duration>,
) -> Result<Found, Failure> {
    // Resolvers rotate what they answer.
    entries.sort_by(|a, b| place(a).cmp(&place(b)));
    let members = entries.into_iter().map(|entry| {
        let (address, weight) = entry?;
        let address = Address::Tcp(address);
        Ok(Member { address, weight, state: BackendState::Ready, order: None })
    });
    let reading = Reading::gather(members, None)?;
    match reading.rejected.first() {
        Some(Rejected { entry, why }) if reading.members.is_empty() => {
            Err(malformed(format!("no record is usable: {entry}: {why}")))
        }
        _ => Ok(Found { reading, ttl: ttl.unwrap_or_default() }),
    }
}

/// Members by address, what is rejected after them by name.
fn place(entry: &Result<(SocketAddr, u32), Rejected>) -> (Option<SocketAddr>, u32, &str) {
    match entry {
        Ok((address, weight)) => (Some(*address), *weight, ""),
        Err(rejected) => (None, 0, &rejected.entry),
    }
}

fn malformed(detail: String) -> Failure {
    Failure { cause: FailureCause::Malformed, detail }
}
