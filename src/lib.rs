//! corelane forwards TCP connections of device fleets: it reads just enough of a connection's first
//! bytes to learn who is calling, decides which backend owns that caller, connects the two and gets
//! out of the way.
//!
//! # One sentence, four nouns
//!
//! **listener → key → pool → backend.** A *listener* accepts and extracts a *key* from the first
//! bytes. A *pool* is a named set of *backends* with a *balance* algorithm. Sides are called
//! *client*, *backend* and *us*.
//!
//! # Two planes
//!
//! ```text
//!   control plane: 1 thread, tokio            data plane: N shards, 1 pinned thread + ring each
//!  ┌──────────────────────────────┐          ┌─────────────────────────────────────────────────┐
//!  │ config  signals  admin  logs │  Table   │ accept → preface → key → pick → connect or warm │
//!  │ metrics page  health checks  │ ───────► │   connection → relay → one end                  │
//!  │                              │ ◄─────── │ own sessions, warm connections, timers, cells   │
//!  └──────────────────────────────┘ counters └─────────────────────────────────────────────────┘
//! ```
//!
//! The control plane does whatever may block or be slow and publishes one immutable, numbered
//! [`table::Table`]. A shard takes a new one from its mailbox and never waits for anybody.
//!
//! # The path of a connection: four files, top to bottom
//!
//! `shard/accept.rs` (accept only) → `session.rs` (preface → key → pick → connect) → `relay.rs`
//! (bytes both ways, half-close) → `Shard::end` in `shard/sessions.rs`: one reason, one count, at
//! most one log line.
//!
//! Until it has its backend a session is a task on monoio. A relaying one is a record in the
//! shard's slab, no task and no future: `shard/watch.rs` calls `relay/flow.rs` with what happened
//! to its sockets. Each direction is moved on one of three paths that look the same from outside:
//!
//! ```text
//!  polled    one edge-triggered epoll set per shard, receive and send by calls (quiet, large)
//!  armed     a second ring: multishot receives into shared buffers, sends in batches (busy)
//!  spliced   splice(2) through a borrowed pipe, nothing passes through this process (floods)
//! ```
//!
//! With TLS (`tls/session.rs`) on either side a handshake precedes the preface or follows the
//! connect (`session/secure.rs`), and `relay/secure.rs` copies.
//!
//! # Invariants
//!
//! - Nothing mutable is shared between shards on the message path: no lock, no atomic
//!   read-modify-write. Process-wide atomics are touched when a connection begins or ends.
//! - The core is pure: [`frame`], [`key`], [`http`], [`balance`], [`movement`], `placement`,
//!   `proxy`, the timer wheel, the relay's verdict and the machines of [`health`] and [`source`]
//!   see no socket, no clock and no entropy; time and seeds are arguments.
//! - Bytes from a peer never panic. `unsafe` is in `sys` only.
//! - A receive that is armed in a ring is taken back and waited for, never dropped, while its
//!   connection lives on.
//! - A quiet session owns no buffer. What a sink does not take is kept, and nothing more is read
//!   until it is gone. Everything that can grow has a bound.
//! - Every placement and every end has one of the reasons in [`end`], and is counted.
//!
//! # Absent on purpose
//!
//! Plugins, UDP, HTTP/2, clustering of gateways: many gateways agree because the same key and the
//! same table give the same backend everywhere.

pub mod admin;
mod backend;
pub mod balance;
pub mod config;
mod control;
pub mod edits;
pub mod end;
pub mod explain;
pub mod fetch;
pub mod frame;
pub mod health;
pub mod http;
pub mod input;
pub mod key;
mod listen;
pub mod log;
pub mod lookup;
pub mod metrics;
pub mod movement;
mod placement;
mod proxy;
mod relay;
pub mod run;
mod session;
pub mod shard;
pub mod source;
mod stream;
mod sys;
pub mod table;
pub mod tls;
