//! The only unsafe code: system calls that no library in use wraps, each block with its reason.
#![allow(unsafe_code)]

mod accept;
mod limits;
mod socket;
mod wake;
mod watches;

pub use accept::{Accepted, accept, set_bind_address_no_port};
pub use limits::raise_descriptors;
pub use socket::{Socket, is_writable, peek};
pub use wake::{Timer, WakeFd, eventfd};
pub use watches::{Wanted, Watches};
