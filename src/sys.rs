//! The only unsafe code: system calls that no library in use wraps, each block with its reason.
#![allow(unsafe_code)]

mod accept;
mod exchange;
mod limits;
mod pipe;
mod poller;
mod readable;
mod socket;
mod wake;

pub use accept::{Accepted, accept, set_bind_address_no_port};
pub use exchange::{Answer, BUFFER_LEN, Exchange, Listen, Received};
pub use limits::raise_descriptors;
pub use pipe::Pipe;
pub use poller::{Interest, Poller, Report};
pub use readable::readable;
pub use socket::{Connecting, Socket, connecting, peek};
pub use wake::{Timer, WakeFd, always_readable, eventfd};
