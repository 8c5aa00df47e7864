//! corelane
pub mod admin;
pub mod balance;
pub mod config;
pub mod end;
pub mod frame;
pub mod key;
pub mod log;
pub mod metrics;
pub mod shard;
pub mod table;
