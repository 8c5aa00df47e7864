//! What an agent's answer to a health query says. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::Address;
use crate::fetch::Answer;
use crate::source::{Failure, FailureCause, Member, Reading, Rejected, value};

/// Longest quotation of a store's words, in characters.
const QUOTED_MAX: usize = 200;

/// An answer that counts, or one that is asked for again elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// The set and the index to wait behind.
    Set {
        /// At least 1: a query with 0 would not wait.
        index: u64,
        /// Sorted by address, without a revision.
        reading: Reading,
    },
    /// From a server that is too far behind its leader.
    Lagging,
}

/// Judges an answer. `from_leader`: the leader was asked, and no lag is accepted as an excuse.
pub(super) fn judge(
    answer: &Answer,
    from_leader: bool,
    max_lag: Duration,
) -> Result<Judged, Failure> {
    if answer.status != StatusCode::OK {
        return Err(refused(answer));
    }
    if text(&answer.headers, "x-consul-knownleader") == Some("false") {
        let detail = "answered by a server that knows no leader".to_owned();
        return Err(Failure { cause: FailureCause::Unavailable, detail });
    }
    if let Some(lag_ms) = number(&answer.headers, "x-consul-lastcontact")?
        && Duration::from_millis(lag_ms) > max_lag
    {
        if !from_leader {
            return Ok(Judged::Lagging);
        }
        let detail = format!("the answer is {lag_ms} ms behind the leader");
        return Err(Failure { cause: FailureCause::Unavailable, detail });
    }
    // Sent by agents from 1.11 on: what the token may not see is left out, not refused.
    if text(&answer.headers, "x-consul-results-filtered-by-acls") == Some("true") {
        let detail = "the token may not see all of the service's instances".to_owned();
        return Err(Failure { cause: FailureCause::Denied, detail });
    }
    let Some(index) = number(&answer.headers, "x-consul-index")? else {
        return Err(malformed("no X-Consul-Index: is this Consul?".to_owned()));
    };
    Ok(Judged::Set { index: index.max(1), reading: read(&answer.body)? })
}

fn refused(answer: &Answer) -> Failure {
    let cause = match answer.status.as_u16() {
        401 | 403 => FailureCause::Denied,
        404 => FailureCause::Missing,
        429 | 500..=599 => FailureCause::Unavailable,
        _ => FailureCause::Malformed,
    };
    let said = String::from_utf8_lossy(&answer.body);
    Failure { cause, detail: format!("status {}: {:?}", answer.status.as_u16(), cut(said.trim())) }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| malformed(format!("header {name}: {value:?} is no number")))
}

fn malformed(detail: String) -> Failure {
    Failure { cause: FailureCause::Malformed, detail }
}

fn cut(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    weights: Weights,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
}

impl Default for Weights {
    /// What Consul means by none (agents before 1.2.3).
    fn default() -> Weights {
        Weights { passing: 1 }
    }
}

fn read(body: &[u8]) -> Result<Reading, Failure> {
    let instances: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| malformed(format!("the answer is no list of instances: {error}")))?;
    let count = instances.len();
    let mut entries: Vec<Result<Member, Rejected>> = instances
        .iter()
        .enumerate()
        .map(|(number, instance)| match serde_json::from_str::<Instance>(instance.get()) {
            Ok(instance) => member(&instance),
            Err(error) => {
                let entry = format!("instance {number}");
                Err(Rejected::new(entry.as_bytes(), cut(&error.to_string())))
            }
        })
        .collect();
    // Consul's order means nothing.
    entries.sort_by(|a, b| place(a).cmp(&place(b)));
    let reading = Reading::gather(entries, None)?;
    match reading.rejected.first() {
        Some(Rejected { entry, why }) if reading.members.is_empty() => {
            Err(malformed(format!("none of {count} instances is usable: {entry}: {why}")))
        }
        _ => Ok(reading),
    }
}

/// Members by address, what is rejected after them by name.
fn place(entry: &Result<Member, Rejected>) -> (Option<SocketAddr>, &str, &str) {
    match entry {
        Ok(Member { address: Address::Tcp(address), .. }) => (Some(*address), "", ""),
        Ok(Member { address: Address::Unix(_), .. }) => (None, "", ""),
        Err(Rejected { entry, why }) => (None, entry, why),
    }
}

fn member(instance: &Instance) -> Result<Member, Rejected> {
    let Instance { node, service } = instance;
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let by_name = |why: String| Rejected::new(service.id.as_bytes(), why);
    let ip: IpAddr = host.parse().map_err(|error| by_name(format!("{:?}: {error}", cut(host))))?;
    if service.port == 0 {
        return Err(by_name("it has no port".to_owned()));
    }
    let address = SocketAddr::new(ip, service.port);
    // From here on the address is its name: what was known of it stays in force.
    let (weight, state) = value::weight(service.weights.passing)
        .map_err(|why| Rejected::new(address.to_string().as_bytes(), why))?;
    Ok(Member { address: Address::Tcp(address), weight, state, order: None })
}
