//! shard
pub mod mailbox;
