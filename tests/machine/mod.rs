//! What tests need of the machine itself: addresses that stay theirs, and processes that really
//! stand still.
#![allow(dead_code, reason = "each test uses a part of this")]

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// Takes an address for as long as this process lives, with any free port if its port is 0; `None`
/// if somebody has it. It refuses connections until a listener is bound to it, and again after
/// that: a socket that is bound and does not listen keeps the port from everybody who wants any
/// port, and from outgoing connections, but not from listeners with `SO_REUSEADDR`, as nearly all
/// are. Set after the bind, so that the bind itself shares with nobody.
pub fn reserve(address: SocketAddr) -> Option<SocketAddr> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).ok()?;
    socket.set_reuse_address(true).unwrap();
    let address = socket.local_addr().unwrap().as_socket();
    // Closed with the process.
    std::mem::forget(socket);
    address
}

/// Whether every thread of a process stands. SIGSTOP only asks: a thread that runs on another core
/// goes on for a moment.
pub fn is_stopped(process: u32) -> bool {
    std::fs::read_dir(format!("/proc/{process}/task")).unwrap().all(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
        // proc_pid_stat(5): the state is what follows the name, which is in parentheses.
        stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    })
}
