//! What a DNS message says about a question. Pure.

use std::net::IpAddr;
use std::time::Duration;

use hickory_net::proto::op::{Message, Query, ResponseCode};
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

/// Reads a response as an answer to a question.
pub(super) fn read(question: &Query, message: &Message) -> Result<Said, NoAnswer> {
    let malformed = |why: &str| Err(NoAnswer::new(FailureCause::Malformed, why));
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

#[cfg(test)]
mod tests {
    use hickory_net::proto::op::{MessageType, OpCode};
    use hickory_net::proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question() -> Query {
        Query::query(name("C2S.test."), RecordType::A)
    }

    fn message(code: ResponseCode, answers: Vec<Record>) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(question());
        message.add_answers(answers);
        message
    }

    fn address(at: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(at), ttl, RData::A(A::new(10, 0, 0, last)))
    }

    fn alias(at: &str, ttl: u32, to: &str) -> Record {
        Record::from_rdata(name(at), ttl, RData::CNAME(CNAME(name(to))))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 1, 1, 1, minimum);
        Record::from_rdata(name("test."), ttl, RData::SOA(soa))
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_shortest_time_to_live_of_the_chain_counts() {
        let answers = vec![
            alias("c2s.test.", 60, "a.test."),
            address("b.test.", 300, 1),
            alias("a.test.", 20, "b.test."),
            address("b.test.", 200, 2),
            address("not-asked-for.test.", 1, 3),
        ];
        let said = read(&question(), &message(ResponseCode::NoError, answers)).unwrap();
        let Said::Records { data, ttl } = said else { panic!("{said:?}") };
        assert_eq!((data.len(), ttl), (2, seconds(20)));
        // The highest bit makes it 0.
        for (sent, meant) in [(0, 0), (i32::MAX as u32, i32::MAX as u64), (1 << 31, 0)] {
            let answers = vec![address("c2s.test.", sent, 1)];
            let said = read(&question(), &message(ResponseCode::NoError, answers)).unwrap();
            assert!(matches!(said, Said::Records { ttl, .. } if ttl == seconds(meant)), "{sent}");
        }
    }

    #[test]
    fn nothing_is_believed_from_a_zone_only_and_for_as_long_as_it_says() {
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            let mut denied = message(code, Vec::new());
            assert!(read(&question(), &denied).unwrap_err().why.contains("no SOA"), "{code}");
            denied.add_authority(soa(9, 5));
            assert_eq!(read(&question(), &denied), Ok(Said::Nothing { ttl: seconds(5) }));
            let mut behind_alias = message(code, vec![alias("c2s.test.", 3, "gone.test.")]);
            behind_alias.add_authority(soa(9, 50));
            assert_eq!(read(&question(), &behind_alias), Ok(Said::Nothing { ttl: seconds(3) }));
        }
    }

    #[test]
    fn a_chain_is_followed_as_far_as_the_message_goes() {
        let link = |n: usize| alias(&format!("{n}.test."), 5, &format!("{}.test.", n + 1));
        let mut answers = vec![alias("c2s.test.", 5, "1.test.")];
        answers.extend((1..CHAIN_MAX).map(link));
        let said = read(&question(), &message(ResponseCode::NoError, answers.clone())).unwrap();
        let target = name(&format!("{CHAIN_MAX}.test."));
        assert_eq!(said, Said::Alias { name: target, ttl: seconds(5), hops: CHAIN_MAX });
        answers.push(link(CHAIN_MAX));
        let no_answer = read(&question(), &message(ResponseCode::NoError, answers)).unwrap_err();
        assert_eq!(no_answer.cause, FailureCause::Malformed);
        let answers = vec![alias("c2s.test.", 5, "a.test."), alias("a.test.", 5, "c2s.test.")];
        read(&question(), &message(ResponseCode::NoError, answers)).unwrap_err();
    }

    #[test]
    fn what_is_no_answer() {
        for (code, cause) in [
            (ResponseCode::ServFail, FailureCause::Unavailable),
            (ResponseCode::Refused, FailureCause::Denied),
            (ResponseCode::NotImp, FailureCause::Unavailable),
        ] {
            // Whatever it holds.
            let spoiled = message(code, vec![address("c2s.test.", 1, 1)]);
            assert_eq!(read(&question(), &spoiled).unwrap_err().cause, cause, "{code}");
        }
        let mut other = message(ResponseCode::NoError, vec![address("c2s.test.", 1, 1)]);
        other.queries = vec![Query::query(name("c2s.test."), RecordType::AAAA)];
        assert_eq!(read(&question(), &other).unwrap_err().cause, FailureCause::Malformed);
        let mut truncated = message(ResponseCode::NoError, vec![address("c2s.test.", 1, 1)]);
        truncated.metadata.truncation = true;
        assert_eq!(read(&question(), &truncated), Ok(Said::Truncated));
    }
}
