//! The messages of etcd's v3 API that we speak, with the fields that we use: field numbers are
//! those of `etcd/api/etcdserverpb/rpc.proto` and `etcd/api/mvccpb/kv.proto`. Written by hand so
//! that building needs no compiler of protocol buffers; fields that we do not name are skipped.

use prost::Message;

/// `etcdserverpb.KV/Range`
pub const RANGE: &str = "/etcdserverpb.KV/Range";
/// `etcdserverpb.Watch/Watch`
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// `etcdserverpb.Auth/Authenticate`
pub const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// `etcdserverpb.KV/Txn`
pub const TXN: &str = "/etcdserverpb.KV/Txn";

/// Of every answer.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseHeader {
    /// Which etcd this is.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Of the whole store.
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

/// A key and what it holds.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Whole, prefix included.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// When it was changed last; of a deleted key, when it was deleted.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Empty for a deleted key.
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// Asks for the keys from `key` up to, not with, `range_end`.
#[derive(Clone, PartialEq, Message)]
pub struct RangeRequest {
    /// First key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// End of the keys.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// Most keys in the answer; 0 is no limit.
    #[prost(int64, tag = "3")]
    pub limit: i64,
    /// As of this revision; 0 is now.
    #[prost(int64, tag = "4")]
    pub revision: i64,
    /// No keys, only how many there are.
    #[prost(bool, tag = "9")]
    pub count_only: bool,
}

/// Keys in order.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// Always there.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Up to the limit.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// There are more than these.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Of all keys from the request's first on.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// Our half of a watch: one of these, as in a `oneof`.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// Begin.
    #[prost(message, optional, tag = "1")]
    pub create: Option<WatchCreateRequest>,
    /// Answer at once.
    #[prost(message, optional, tag = "3")]
    pub progress: Option<WatchProgressRequest>,
}

/// Begins a watch of the keys from `key` up to `range_end`.
#[derive(Clone, PartialEq, Message)]
pub struct WatchCreateRequest {
    /// First key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// End of the keys.
    #[prost(bytes = "vec", tag = "2")]
    pub range_end: Vec<u8>,
    /// First revision whose events are wanted.
    #[prost(int64, tag = "3")]
    pub start_revision: i64,
    /// Say now and then how far the store is when there are no events.
    #[prost(bool, tag = "4")]
    pub progress_notify: bool,
    /// A revision with many events may come in several answers.
    #[prost(bool, tag = "8")]
    pub fragment: bool,
}

/// Has no fields.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WatchProgressRequest {}

/// The store's half of a watch.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// Always there.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// −1 answers a progress request, and is about no watch in particular.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// The watch has begun.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// If not 0: revisions before this one are forgotten, and so were those we asked for.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// For people.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// In the order of revisions.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

/// A change of one key.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// 0 is PUT, 1 is DELETE.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The key after the change.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
}

/// [`Event::kind`] of a key that is gone.
pub const DELETE: i32 = 1;

/// Asks for a token.
#[derive(Clone, PartialEq, Message)]
pub struct AuthenticateRequest {
    /// The user's.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The user's.
    #[prost(string, tag = "2")]
    pub password: String,
}

/// Gives a token.
#[derive(Clone, PartialEq, Message)]
pub struct AuthenticateResponse {
    /// For the metadata of later requests.
    #[prost(string, tag = "2")]
    pub token: String,
}

/// Does all of `success`, or nothing if a comparison does not hold.
#[derive(Clone, PartialEq, Message)]
pub struct TxnRequest {
    /// All have to hold.
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    /// In one revision; no key twice.
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<RequestOp>,
}

/// Whether a key is at a revision.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// [`COMPARE_EQUAL`]
    #[prost(int32, tag = "1")]
    pub result: i32,
    /// [`COMPARE_MOD`]
    #[prost(int32, tag = "2")]
    pub target: i32,
    /// The key.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// When it was changed last; 0 for a key that is not there.
    #[prost(int64, optional, tag = "6")]
    pub mod_revision: Option<i64>,
}

/// [`Compare::result`]
pub const COMPARE_EQUAL: i32 = 0;
/// [`Compare::target`]
pub const COMPARE_MOD: i32 = 2;

/// One of these, as in a `oneof`.
#[derive(Clone, PartialEq, Message)]
pub struct RequestOp {
    /// Write a key.
    #[prost(message, optional, tag = "2")]
    pub put: Option<PutRequest>,
    /// Take a key away.
    #[prost(message, optional, tag = "3")]
    pub delete: Option<DeleteRangeRequest>,
}

impl RequestOp {
    /// Writes.
    pub fn put(put: PutRequest) -> RequestOp {
        RequestOp { put: Some(put), delete: None }
    }

    /// Takes away.
    pub fn delete(delete: DeleteRangeRequest) -> RequestOp {
        RequestOp { put: None, delete: Some(delete) }
    }
}

/// Writes a key.
#[derive(Clone, PartialEq, Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// What it holds from now on.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
    /// The lease that it has stays; only for a key that is there.
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// Takes one key away.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeRequest {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
}

/// What came of it.
#[derive(Clone, PartialEq, Message)]
pub struct TxnResponse {
    /// All comparisons held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
}
