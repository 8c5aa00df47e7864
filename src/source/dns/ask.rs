//! Asks resolvers one question: the preferred one first, over UDP, and over TCP when the answer
//! does not fit; the next one when a resolver does not answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_net::proto::op::{DnsRequest, DnsRequestOptions, Message, Query};
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsRequestSender, FirstAnswer};
use hickory_net::{DnsHandle, NetError};

use super::answer::{NoAnswer, Said, read};
use super::search::Plan;
use crate::source::{Failure, FailureCause};

/// Largest answer over UDP, in bytes: fits into every path (RFC 9715).
const PAYLOAD: u16 = 1232;
/// A resolver that did not answer is asked last for this long.
const SHUNNED: Duration = Duration::from_secs(30);

/// Which resolvers to ask, and how they did lately.
#[derive(Debug)]
pub(crate) struct Resolvers {
    plan: Plan,
    /// When the resolver with the same index failed last. Locked for moments only, by questions
    /// of one lookup that are asked at the same time.
    failed: Mutex<Vec<Option<Instant>>>,
    /// Lookups begun, for rotation.
    turn: AtomicUsize,
}

impl Resolvers {
    /// None has failed yet.
    pub(super) fn new(plan: Plan) -> Resolvers {
        let failed = Mutex::new(vec![None; plan.resolvers.len()]);
        Resolvers { plan, failed, turn: AtomicUsize::new(0) }
    }

    /// How to ask.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A lookup begins.
    pub(crate) fn turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks one after the other until one answers. If none does, the first one's reason counts.
    pub(super) async fn ask(&self, question: &Query) -> Result<Said, Failure> {
        let mut first = None;
        for index in self.order(Instant::now()) {
            let Some(resolver) = self.plan.resolvers.get(index) else { continue };
            let said = self.ask_one(*resolver, question).await;
            self.remember(index, said.is_err().then(Instant::now));
            match said {
                Ok(said) => return Ok(said),
                Err(NoAnswer { cause, why, .. }) => {
                    let (name, kind) = (question.name(), question.query_type());
                    let detail = format!("{resolver}: {name} {kind}: {why}");
                    first.get_or_insert(Failure { cause, detail });
                }
            }
        }
        Err(first.unwrap_or_else(|| Failure {
            cause: FailureCause::Unreachable,
            detail: "there is no resolver to ask".to_owned(),
        }))
    }

    /// In order of preference, but those that failed lately last.
    fn order(&self, now: Instant) -> Vec<usize> {
        let count = self.plan.resolvers.len();
        let first = if self.plan.rotate { self.turn.load(Ordering::Relaxed) } else { 0 };
        let mut order: Vec<usize> = (0..count).collect();
        order.rotate_left(first % count.max(1));
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // Stable: among either kind the preference holds.
        order.sort_by_key(|index| {
            let failed_at = failed.get(*index).copied().flatten();
            failed_at.is_some_and(|at| now.saturating_duration_since(at) < SHUNNED)
        });
        order
    }

    fn remember(&self, index: usize, failed_at: Option<Instant>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = failed.get_mut(index) {
            *entry = failed_at;
        }
    }

    async fn ask_one(&self, resolver: SocketAddr, question: &Query) -> Result<Said, NoAnswer> {
        let mut said = self.over_udp(resolver, question, true).await;
        if said.as_ref().is_err_and(|no_answer| no_answer.is_format_error) {
            // RFC 6891, section 7: so answers a resolver that does not know EDNS.
            said = self.over_udp(resolver, question, false).await;
        }
        if matches!(said, Ok(Said::Truncated)) {
            said = self.over_tcp(resolver, question).await;
        }
        match said? {
            Said::Truncated => {
                Err(NoAnswer::new(FailureCause::Malformed, "truncated, also over TCP"))
            }
            said => Ok(said),
        }
    }

    async fn over_udp(
        &self,
        resolver: SocketAddr,
        question: &Query,
        use_edns: bool,
    ) -> Result<Said, NoAnswer> {
        let mut stream = UdpClientStream::builder(resolver, TokioRuntimeProvider::new())
            .with_timeout(Some(self.plan.timeout))
            .with_max_retries(u8::try_from(self.plan.tries).unwrap_or(u8::MAX))
            .build();
        let request = self.request(question, use_edns);
        let response = stream.send_message(request).first_answer().await;
        judge(question, response.map(|response| response.into_message()))
    }

    async fn over_tcp(&self, resolver: SocketAddr, question: &Query) -> Result<Said, NoAnswer> {
        let timeout = self.plan.timeout;
        // Owns the task that drives the connection: both end with this question.
        let provider = TokioRuntimeProvider::new();
        let asking = async {
            let exchange =
                TcpClientStream::exchange(resolver, None, timeout, None, provider.clone()).await?;
            exchange.send(self.request(question, true)).first_answer().await
        };
        match tokio::time::timeout(timeout, asking).await {
            Ok(response) => judge(question, response.map(|response| response.into_message())),
            Err(_elapsed) => judge(question, Err(NetError::Timeout)),
        }
    }

    /// A new one each time: its number is drawn at random.
    fn request(&self, question: &Query, use_edns: bool) -> DnsRequest {
        let mut options = DnsRequestOptions::default();
        options.use_edns = use_edns;
        options.edns_payload_len = PAYLOAD;
        options.recursion_desired = true;
        options.retry_interval = self.plan.timeout / self.plan.tries.max(1);
        DnsRequest::from_query(question.clone(), options)
    }
}

fn judge(question: &Query, response: Result<Message, NetError>) -> Result<Said, NoAnswer> {
    let error = match response {
        Ok(message) => return read(question, &message),
        Err(error) => error,
    };
    let cause = match &error {
        NetError::Timeout => FailureCause::Timeout,
        NetError::Io(io) if io.kind() == std::io::ErrorKind::TimedOut => FailureCause::Timeout,
        NetError::Io(_) | NetError::NoConnections | NetError::Busy => FailureCause::Unreachable,
        NetError::Proto(_) => FailureCause::Malformed,
        _ => FailureCause::Unreachable,
    };
    Err(NoAnswer::new(cause, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolvers(rotate: bool) -> Resolvers {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let plan = Plan::of_settings((1..=3).map(address).collect(), Duration::from_secs(1));
        Resolvers::new(Plan { rotate, ..plan })
    }

    #[test]
    fn one_that_failed_is_asked_last_for_a_while() {
        let resolvers = resolvers(false);
        let now = Instant::now();
        assert_eq!(resolvers.order(now), [0, 1, 2]);
        resolvers.remember(0, Some(now));
        assert_eq!(resolvers.order(now), [1, 2, 0]);
        resolvers.remember(1, Some(now + Duration::from_secs(10)));
        assert_eq!(resolvers.order(now + Duration::from_secs(11)), [2, 0, 1]);
        assert_eq!(resolvers.order(now + SHUNNED), [0, 2, 1]);
        resolvers.remember(1, None);
        assert_eq!(resolvers.order(now + SHUNNED), [0, 1, 2]);
    }

    #[test]
    fn rotation() {
        let resolvers = resolvers(true);
        let now = Instant::now();
        let mut firsts = Vec::new();
        for _ in 0..4 {
            resolvers.turn();
            firsts.push(resolvers.order(now)[0]);
        }
        assert_eq!(firsts, [1, 2, 0, 1]);
        let nobody = Plan::of_settings(Vec::new(), Duration::from_secs(1));
        assert!(Resolvers::new(nobody).order(now).is_empty());
    }
}
