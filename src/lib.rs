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
//!  │ metrics page                 │ ───────► │   connection → relay → one end                  │
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
//! # Invariants
//!
//! - Nothing mutable is shared between shards on the message path: no lock, no atomic
//!   read-modify-write. Process-wide atomics are touched when a connection begins or ends.
//! - The core is pure: [`frame`], [`key`], [`balance`], `placement`, `proxy`, the timer wheel and
//!   the relay's verdict see no socket, no clock and no entropy; time and seeds are arguments.
//! - Bytes from a peer never panic. `unsafe` is in `sys` only.
//! - A completion-based read is never dropped while its connection lives on; a poll may be.
//! - A session owns at most one buffer per direction, none while it is quiet. Everything that can
//!   grow has a bound in the configuration.
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
pub mod end;
pub mod explain;
pub mod frame;
pub mod input;
pub mod key;
mod listen;
pub mod log;
pub mod metrics;
mod placement;
mod proxy;
mod relay;
pub mod run;
mod session;
pub mod shard;
mod sys;
pub mod table;
