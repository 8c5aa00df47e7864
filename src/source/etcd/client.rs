//! Questions to one member of an etcd, each with a deadline.

use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::mirror::too_much;
use super::wire::{
    AUTHENTICATE, AuthenticateRequest, AuthenticateResponse, KeyValue, RANGE, RangeRequest,
    RangeResponse, ResponseHeader, TXN, TxnRequest, TxnResponse, WATCH, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use crate::config::{EtcdSource, StoreTls};
use crate::source::value::{ENTRIES_MAX, VALUE_LEN_MAX};
use crate::source::write::WriteError;
use crate::source::{Failure, FailureCause};

/// A connection without traffic is probed this often; etcd refuses clients that do it more often
/// than every 5 s.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A probe that is not answered in this time means that the connection is dead.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Keys in one answer, unless they turn out to be too long for that.
const PAGE: i64 = 1_000;
/// Longest sum of all keys and values that are kept of a reading, bytes.
const READ_LEN_MAX: usize = 64 << 20;
/// Longest answer, bytes.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// A prefix that is compacted away while it is read is read again from the start.
const ATTEMPTS: usize = 3;
/// Of what a server says about an error, characters.
const DETAIL_LEN_MAX: usize = 500;

/// A connection to one member.
pub struct Client<'a> {
    settings: &'a EtcdSource,
    address: &'a str,
    deadline: Duration,
    grpc: Grpc<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

/// Both halves of a watch.
pub struct Watching {
    /// Ours: dropped, the watch ends.
    pub asks: mpsc::Sender<WatchRequest>,
    /// The store's.
    pub answers: Streaming<WatchResponse>,
}

impl<'a> Client<'a> {
    /// Connects, and logs in if there is a name to log in with.
    ///
    /// # Errors
    /// Why not.
    pub async fn connect(
        settings: &'a EtcdSource,
        address: &'a str,
        deadline: Duration,
    ) -> Result<Client<'a>, Failure> {
        let unreachable = |error: tonic::transport::Error| Failure {
            cause: FailureCause::Unreachable,
            detail: format!("connecting to {address}: {}", with_reasons(&error)),
        };
        let mut endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(unreachable)?
            .connect_timeout(deadline)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if address.starts_with("https://") {
            endpoint = endpoint.tls_config(tls(&settings.tls)?).map_err(unreachable)?;
        }
        let channel = match timeout(deadline, endpoint.connect()).await {
            Ok(connected) => connected.map_err(unreachable)?,
            Err(_elapsed) => return Err(silence("connecting", address, deadline)),
        };
        let grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_LEN_MAX);
        let mut client = Client { settings, address, deadline, grpc, token: None };
        client.log_in().await?;
        Ok(client)
    }

    /// How many keys there are, and how far the store is; agreed with the other members.
    ///
    /// # Errors
    /// Why it is not known.
    pub async fn count(&mut self) -> Result<(ResponseHeader, i64), Failure> {
        let response = self.range(RangeRequest { count_only: true, ..self.prefix() }).await;
        let response = response.map_err(|status| self.failure("counting", &status))?;
        Ok((response.header.unwrap_or_default(), response.count))
    }

    /// All keys under the prefix as of one revision, page by page; agreed with the other members.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn read(&mut self) -> Result<(ResponseHeader, Vec<KeyValue>), Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.pages().await? {
                Ok(whole) => return Ok(whole),
                Err(status) if forgotten(&status) && attempts < ATTEMPTS => {}
                Err(status) => return Err(self.failure("reading", &status)),
            }
        }
    }

    async fn pages(&mut self) -> Result<Result<(ResponseHeader, Vec<KeyValue>), Status>, Failure> {
        let mut header: Option<ResponseHeader> = None;
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut len = 0;
        let mut request = RangeRequest { limit: PAGE, ..self.prefix() };
        loop {
            let page = match self.range(request.clone()).await {
                Ok(page) => page,
                Err(status) if is_too_long(&status) && request.limit > 1 => {
                    request.limit /= 10;
                    continue;
                }
                Err(status) => return Ok(Err(status)),
            };
            let first = header.get_or_insert_with(|| page.header.unwrap_or_default());
            request.revision = first.revision;
            let count = kvs.len().saturating_add(usize::try_from(page.count).unwrap_or(0));
            if count > ENTRIES_MAX {
                return Err(too_much(format!("{count} keys under the prefix")));
            }
            for mut kv in page.kvs {
                // Longer values are rejected, and need not be kept for that.
                kv.value.truncate(VALUE_LEN_MAX + 1);
                kv.value.shrink_to_fit();
                len += kv.key.len() + kv.value.len();
                kvs.push(kv);
            }
            if len > READ_LEN_MAX {
                return Err(too_much(format!("{len} bytes of keys and values")));
            }
            match kvs.last() {
                Some(last) if page.more => {
                    // The next key there can be.
                    request.key = last.key.clone();
                    request.key.push(0);
                }
                _ => return Ok(Ok((first.clone(), kvs))),
            }
        }
    }

    /// Begins to watch the prefix from a revision on.
    ///
    /// # Errors
    /// Why it cannot be watched.
    pub async fn watch(&mut self, start_revision: i64) -> Result<Watching, Failure> {
        let RangeRequest { key, range_end, .. } = self.prefix();
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: true,
            fragment: true,
        };
        let (asks, ours) = mpsc::channel(4);
        // Cannot fail: the channel is empty, and its other end is here.
        let _ = asks.try_send(WatchRequest { create: Some(create), progress: None });
        let request = self.request(ReceiverStream::new(ours));
        let (grpc, deadline) = (&mut self.grpc, self.deadline);
        let open = async {
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            grpc.streaming(request, PathAndQuery::from_static(WATCH), codec).await
        };
        match timeout(deadline, open).await {
            Ok(Ok(response)) => Ok(Watching { asks, answers: response.into_inner() }),
            Ok(Err(status)) => Err(self.failure("watching", &status)),
            Err(_elapsed) => Err(silence("watching", self.address, deadline)),
        }
    }

    /// What a refusal means; `doing` is for people.
    pub fn failure(&self, doing: &str, status: &Status) -> Failure {
        let said: String = with_reasons(status).chars().take(DETAIL_LEN_MAX).collect();
        Failure { cause: judge(status), detail: format!("{doing}: {}: {said}", self.address) }
    }

    /// The failure of a member that does not answer.
    pub fn silence(&self, doing: &str) -> Failure {
        silence(doing, self.address, self.deadline)
    }

    /// The failure of a watch that the store ended for the reason given.
    pub fn ended(&self, reason: &str) -> Failure {
        self.failure("watching", &Status::unavailable(format!("etcdserver: {reason}")))
    }

    /// The failure of a watch that is no more.
    pub fn broken(&self) -> Failure {
        self.failure("watching", &Status::unavailable("the watch has broken off"))
    }

    fn prefix(&self) -> RangeRequest {
        let key = self.settings.prefix.as_bytes().to_vec();
        let range_end = end_of(&key);
        // A key of no bytes is not allowed; without a prefix, keys begin at the byte 0.
        let key = if key.is_empty() { vec![0] } else { key };
        RangeRequest { key, range_end, ..RangeRequest::default() }
    }

    /// Whether a transaction was done: `false` if what it compares is otherwise.
    ///
    /// # Errors
    /// Why it was not done, or may not have been.
    pub async fn transact(&mut self, request: TxnRequest) -> Result<bool, WriteError> {
        let answer: Result<TxnResponse, Status> = self.logged_in(TXN, request).await;
        match answer {
            Ok(answer) => Ok(answer.succeeded),
            Err(status) => Err(WriteError::after(self.failure("writing", &status))),
        }
    }

    async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.logged_in(RANGE, request).await
    }

    /// A question; a token that is not taken any more is replaced.
    async fn logged_in<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        match self.unary(path, request.clone()).await {
            Err(status) if self.token.is_some() && token_is_refused(&status) => {
                self.log_in().await.map_err(|failure| Status::unauthenticated(failure.detail))?;
                self.unary(path, request).await
            }
            answer => answer,
        }
    }

    async fn log_in(&mut self) -> Result<(), Failure> {
        let Some((name, password)) = &self.settings.credentials else { return Ok(()) };
        let password = password.reveal().to_owned();
        let request = AuthenticateRequest { name: name.clone(), password };
        self.token = None;
        let answer: Result<AuthenticateResponse, Status> = self.unary(AUTHENTICATE, request).await;
        match answer {
            Ok(answer) => {
                self.token = Some(answer.token.parse().map_err(|error| Failure {
                    cause: FailureCause::Malformed,
                    detail: format!("logging in: {}: token: {error}", self.address),
                })?);
                Ok(())
            }
            // Nobody has to log in.
            Err(status) if status.message().contains("authentication is not enabled") => Ok(()),
            Err(status) => Err(self.failure("logging in", &status)),
        }
    }

    async fn unary<Q, A>(&mut self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let request = self.request(message);
        let grpc = &mut self.grpc;
        let call = async {
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(request, PathAndQuery::from_static(path), codec).await
        };
        match timeout(self.deadline, call).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_elapsed) => {
                Err(Status::deadline_exceeded(format!("no answer in {:?}", self.deadline)))
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        // A member that is cut off from the others says so, instead of keeping silent.
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        request
    }
}

fn tls(settings: &StoreTls) -> Result<ClientTlsConfig, Failure> {
    let read = |file: &std::path::Path| {
        std::fs::read(file).map_err(|error| Failure {
            cause: FailureCause::Unreachable,
            detail: format!("TLS: {}: {error}", file.display()),
        })
    };
    let mut config = match &settings.ca_file {
        Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    if let Some((certificate, key)) = &settings.client {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(config)
}

/// The first key behind all keys with a prefix, in etcd's way: a single 0 is "no end".
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

fn silence(doing: &str, address: &str, deadline: Duration) -> Failure {
    let detail = format!("{doing}: no answer from {address} in {deadline:?}");
    Failure { cause: FailureCause::Timeout, detail }
}

fn token_is_refused(status: &Status) -> bool {
    status.message().contains("invalid auth token")
        || status.message().contains("revision of auth store is old")
}

fn forgotten(status: &Status) -> bool {
    status.message().contains("has been compacted")
}

/// Whether the library has refused an answer by its length, before reading it.
pub fn is_too_long(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("message length too large")
}

fn judge(status: &Status) -> FailureCause {
    let from_etcd = status.message().starts_with("etcdserver: ");
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => FailureCause::Denied,
        Code::InvalidArgument if status.message().contains("authentication failed") => {
            FailureCause::Denied
        }
        Code::InvalidArgument if status.message().contains("user name is empty") => {
            FailureCause::Denied
        }
        _ if status.message().contains("permission denied") => FailureCause::Denied,
        _ if status.message().contains("invalid auth token") => FailureCause::Denied,
        Code::DeadlineExceeded => FailureCause::Timeout,
        _ if from_etcd => FailureCause::Unavailable,
        // What the library says when the connection is not there, or is there no more.
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted => {
            FailureCause::Unreachable
        }
        Code::Internal if std::error::Error::source(status).is_some() => FailureCause::Unreachable,
        _ => FailureCause::Malformed,
    }
}

/// An error with what led to it: the library says "transport error", and why only further in.
fn with_reasons(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut reason = error.source();
    while let Some(error) = reason {
        let why = error.to_string();
        if !said.contains(&why) {
            said.push_str(": ");
            said.push_str(&why);
        }
        reason = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(end_of(b"/a/"), b"/a0");
        assert_eq!(end_of(b"a\xff\xff"), b"b");
        assert_eq!(end_of(b"\xff"), b"\0");
        assert_eq!(end_of(b""), b"\0");
    }

    #[test]
    fn refusals() {
        let cases = [
            (Status::unauthenticated("etcdserver: invalid auth token"), FailureCause::Denied),
            (Status::permission_denied("etcdserver: permission denied"), FailureCause::Denied),
            (Status::unavailable("rpc error: etcdserver: permission denied"), FailureCause::Denied),
            (
                Status::invalid_argument(
                    "etcdserver: authentication failed, invalid user ID or password",
                ),
                FailureCause::Denied,
            ),
            (Status::unavailable("etcdserver: no leader"), FailureCause::Unavailable),
            (Status::unavailable("etcdserver: request timed out"), FailureCause::Unavailable),
            (Status::unavailable("tcp connect error"), FailureCause::Unreachable),
            (Status::deadline_exceeded("no answer in 5s"), FailureCause::Timeout),
            (Status::unimplemented("unknown service"), FailureCause::Malformed),
            (Status::out_of_range("decoded message length too large"), FailureCause::Malformed),
        ];
        for (status, cause) in cases {
            assert_eq!(judge(&status), cause, "{status:?}");
        }
    }
}
