//! Waits that the ring's poll cannot do: see `sys/watches.rs`.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use socket2::SockRef;

use super::Shard;
use crate::end::Side;
use crate::session::{Room, Session, Watch};
use crate::sys::{Socket, Wanted};

/// Tells sessions what their watched sockets report.
pub async fn run(shard: Rc<Shard>) {
    loop {
        if let Err(error) = shard.watches.ready().await {
            tracing::error!(%error, shard = shard.index, "waiting for watches failed; ending");
            std::process::abort();
        }
        shard.watches.take(|token| {
            let (slot, serial, side) = parts(token);
            if let Some(session) = shard.session(slot, serial) {
                session.reported(side);
            }
        });
    }
}

/// A session's slot has at most 31 bits: there are fewer descriptors.
fn token(session: &Session, side: Side) -> u64 {
    let bit = u64::from(side == Side::Backend);
    u64::from(session.serial) << 32 | u64::from(session.slot) << 1 | bit
}

fn parts(token: u64) -> (u32, u32, Side) {
    let side = if token & 1 == 0 { Side::Client } else { Side::Backend };
    ((token >> 1) as u32 & 0x7fff_ffff, (token >> 32) as u32, side)
}

impl Shard {
    /// Ends the session if this half-closed socket is reset. UNIX sockets hang up when they are
    /// closed in good order too, so only TCP is watched.
    pub fn watch_hangup(&self, session: &Session, socket: &Socket, side: Side) {
        let local = SockRef::from(socket).local_addr();
        if !local.is_ok_and(|address| address.as_socket().is_some()) {
            return;
        }
        let watch = session.watch(side);
        watch.set(Watch { hangup: true, ..watch.get() });
        // Whoever waits for room hears of a reset, and renews this watch.
        if watch.get().room == Room::Unwanted
            && self.watches.watch(socket, Wanted::Hangup, token(session, side)).is_err()
        {
            self.cells().bugs.add(1);
        }
    }

    /// Waits until a send to a half-closed socket would not block, or would fail.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub async fn room(&self, session: &Session, socket: &Socket, side: Side) -> io::Result<()> {
        let watch = session.watch(side);
        watch.set(Watch { room: Room::Wanted, ..watch.get() });
        self.watches.watch(socket, Wanted::Room, token(session, side))?;
        // The session's interrupt has the waker: both are polled by the same task.
        poll_fn(|_context| match watch.get().room {
            Room::There => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
        watch.set(Watch { room: Room::Unwanted, ..watch.get() });
        if watch.get().hangup {
            self.watches.watch(socket, Wanted::Hangup, token(session, side))?;
        }
        Ok(())
    }
}
