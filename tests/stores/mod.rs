//! Real stores and what a watcher says about them, for tests.
#![allow(dead_code, reason = "each test uses a part of this")]

pub mod consul;
pub mod desk;
pub mod dns;
pub mod etcd;
#[path = "../machine/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "stores and gateways are used without each other")]
pub mod machine;
pub mod process;
pub mod proxy;
pub mod redis;
