//! What a DNS message says about a question. Pure.

use std::net::IpAddr;
use std::time::Duration;

use hickory_net::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_net::proto::rr::rdata::SRV;
use hickory_net::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::source::FailureCause;

/// Longest chain of aliases.
pub(super) const CHAIN_MAX: usize = 16;

/// The data of a record that can be part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV.
    Service(SRV),
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// At least one record of the type asked for.
    Records {
        /// In the order of the message.
        data: Vec<Data>,
        /// The shortest along the chain.
        ttl: Duration,
    },
    /// The zone says that there is nothing.
    Nothing {
        /// How long that may be believed.
        ttl: Duration,
    },
    /// The name is an alias of one about which the message says nothing.
    Alias {
        /// To be asked for.
        name: Name,
        /// Of the chain so far.
        ttl: Duration,
        /// Aliases followed, at least 1.
        hops: usize,
    },
    /// Too long for a datagram.
    Truncated,
}

/// Why a message is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoAnswer {
    /// For the metric.
    pub cause: FailureCause,
    /// For people.
    pub why: String,
    /// The resolver may not know EDNS.
    pub is_format_error: bool,
}

impl NoAnswer {
    /// One that has nothing to do with EDNS.
    pub(super) fn new(cause: FailureCause, why: impl Into<String>) -> NoAnswer {
        NoAnswer { cause, why: why.into(), is_format_error: false }
    }
}

/// Reads a message as an answer to a question.
pub(super) fn read(question: &Query, message: &Message) -> Result<Said, NoAnswer> {
    let malformed = |why: &str| Err(NoAnswer::new(FailureCause::Malformed, why));
    if message.metadata.message_type != MessageType::Response {
        return malformed("a message that is no response");
    }
    let code = message.metadata.response_code;
    if let Some(no_answer) = refused(code) {
        return Err(no_answer);
    }
    if message.queries.as_slice() != std::slice::from_ref(question) {
        return malformed("an answer to another question");
    }
    if message.metadata.truncation {
        return Ok(Said::Truncated);
    }
    let chain = follow(question, &message.answers)?;
    let data: Vec<(Data, Duration)> = message
        .answers
        .iter()
        .filter(|record| is_at(record, &chain.name))
        .filter_map(|record| Some((wanted(question.query_type(), &record.data)?, ttl(record.ttl))))
        .collect();
    if let Some(shortest) = data.iter().map(|(_, ttl)| *ttl).min() {
        let ttl = chain.ttl.map_or(shortest, |ttl| ttl.min(shortest));
        return Ok(Said::Records { data: data.into_iter().map(|(data, _)| data).collect(), ttl });
    }
    if let Some(negative) = nothing(message) {
        return Ok(Said::Nothing { ttl: chain.ttl.map_or(negative, |ttl| ttl.min(negative)) });
    }
    match chain.ttl {
        Some(ttl) if code == ResponseCode::NoError => {
            Ok(Said::Alias { name: chain.name, ttl, hops: chain.hops })
        }
        _ if code == ResponseCode::NXDomain => {
            malformed("it says that there is no such name, but not which zone says so (no SOA)")
        }
        _ => malformed("no record, and no zone that says so (no SOA)"),
    }
}

fn refused(code: ResponseCode) -> Option<NoAnswer> {
    let cause = match code {
        ResponseCode::NoError | ResponseCode::NXDomain => return None,
        ResponseCode::Refused | ResponseCode::NotAuth => FailureCause::Denied,
        _ => FailureCause::Unavailable,
    };
    Some(NoAnswer {
        cause,
        why: code.to_string(),
        is_format_error: matches!(code, ResponseCode::FormErr | ResponseCode::NotImp),
    })
}

struct Chain {
    name: Name,
    ttl: Option<Duration>,
    hops: usize,
}

/// Follows the aliases within a message.
fn follow(question: &Query, answers: &[Record]) -> Result<Chain, NoAnswer> {
    let mut chain = Chain { name: question.name().clone(), ttl: None, hops: 0 };
    loop {
        let alias = answers.iter().filter(|record| is_at(record, &chain.name)).find_map(|record| {
            match &record.data {
                RData::CNAME(target) => Some((target.0.clone(), ttl(record.ttl))),
                _ => None,
            }
        });
        let Some((name, ttl)) = alias else { return Ok(chain) };
        chain.hops += 1;
        if chain.hops > CHAIN_MAX {
            let why = format!("more than {CHAIN_MAX} aliases in a row");
            return Err(NoAnswer::new(FailureCause::Malformed, why));
        }
        chain.name = name;
        chain.ttl = Some(chain.ttl.map_or(ttl, |shortest| shortest.min(ttl)));
    }
}

fn is_at(record: &Record, name: &Name) -> bool {
    record.dns_class == DNSClass::IN && record.name == *name
}

fn wanted(kind: RecordType, data: &RData) -> Option<Data> {
    match (kind, data) {
        (RecordType::A, RData::A(ip)) => Some(Data::Address(IpAddr::V4(ip.0))),
        (RecordType::AAAA, RData::AAAA(ip)) => Some(Data::Address(IpAddr::V6(ip.0))),
        (RecordType::SRV, RData::SRV(service)) => Some(Data::Service(service.clone())),
        _ => None,
    }
}

/// How long a zone's word that there is nothing holds (RFC 2308, section 5).
fn nothing(message: &Message) -> Option<Duration> {
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(ttl(record.ttl).min(ttl(soa.minimum))),
        _ => None,
    })
}

/// RFC 2181, section 8: what has the highest bit set is 0.
fn ttl(seconds: u32) -> Duration {
    let is_valid = seconds <= i32::MAX.unsigned_abs();
    Duration::from_secs(if is_valid { u64::from(seconds) } else { 0 })
}
