//! corelane
pub mod balance;
pub mod config;
pub mod end;
pub mod explain;
pub mod frame;
pub mod key;
pub mod metrics;
pub mod shard;
pub mod table;
