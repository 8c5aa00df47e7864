//! TLS handshakes of a session: with its client, and with its backend. Waits as everything before
//! the relay does, for the shard's epoll set, within a deadline.

use std::io;
use std::time::{Duration, Instant};

use super::Session;
use super::preface::Reader;
use crate::end::{End, Side};
use crate::shard::Shard;
use crate::shard::wheel::ticks;
use crate::stream::Stream;
use crate::sys::{Interest, Socket};
use crate::tls::{self, Brought, Failure, ListenerTls, PoolTls};

/// Does the handshake with the client. What was read before it belongs to it.
///
/// # Errors
/// Why there is no TLS: one of the `tls_…` ends.
pub async fn accept<'a>(mut reader: Reader<'a>, tls: &ListenerTls) -> Result<Reader<'a>, End> {
    let (shard, session) = (reader.shard, reader.session);
    reader.set_deadline(tls.settings.handshake_timeout, End::TlsTimeout);
    let socket = match reader.client.into_plain() {
        Ok(socket) => socket,
        // There is no TLS inside TLS.
        Err(_secured) => return Err(End::TlsInvalid),
    };
    if reader.received.is_empty() {
        // Silent clients take nobody's turn.
        let input = Interest { input: true, room: false };
        wait(shard, session, (Side::Client, &socket), input).await?;
    }
    let turn = shard.handshakes().begin(shard, session, tls.settings.max_handshakes);
    let turn = session.interrupt.or(turn).await.map_err(|end| match end {
        End::TlsTimeout => End::TlsBusy,
        end => end,
    })?;
    let begun = Instant::now();
    let client = tls::Session::accept(socket, tls.config.clone());
    let mut client = Box::new(client.map_err(|failure| failure.client_end())?);
    client.received_before(&std::mem::take(&mut reader.received));
    let result = handshake(shard, session, (Side::Client, &mut client)).await;
    drop(turn);
    result.map_err(|error| match error {
        Broken::Interrupted(end) => end,
        Broken::Failed(error) => client_end(&error),
    })?;
    shard.listener_cells(&session.listener).tls.count(&client, begun.elapsed());
    reader.client = Stream::Tls(client);
    let since_accept = session.accepted.elapsed().as_millis();
    reader.began_ms = u32::try_from(since_accept).unwrap_or(u32::MAX);
    Ok(reader)
}

/// What a handshake with a backend needs.
pub struct Target<'a> {
    /// Of its pool.
    pub tls: &'a PoolTls,
    /// The names that the session brings.
    pub brought: Brought<'a>,
    /// For the handshake, on top of what connecting took.
    pub timeout: Duration,
    /// Sent in plain before it; may be empty.
    pub header: Vec<u8>,
}

/// Does the handshake with a backend that is connected.
///
/// # Errors
/// Why there is no TLS. Nothing of the client was sent.
pub async fn connect(
    shard: &Shard,
    session: &Session,
    socket: Socket,
    target: Target<'_>,
) -> Result<tls::Session, End> {
    let Target { tls, brought, timeout, header } = target;
    let name = tls.name(&brought).ok_or(End::ConnectNameless)?;
    let brought = tls.is_brought(&brought);
    // A new socket has room for the some fifty bytes.
    match socket.send(&header) {
        Ok(sent) if sent == header.len() => {}
        Ok(_short) => return Err(End::ConnectFailed),
        Err(error) => return Err(backend_end(&error, brought)),
    }
    let backend = tls::Session::connect(socket, tls.config.clone(), name);
    let mut backend = backend.map_err(|failure| backend_end(&failure.into(), brought))?;
    let deadline = shard.now().saturating_add(ticks(timeout)).saturating_add(1);
    shard.set_deadline(session, deadline, End::ConnectTimeout);
    match handshake(shard, session, (Side::Backend, &mut backend)).await {
        Ok(()) => Ok(backend),
        Err(Broken::Failed(error)) => Err(backend_end(&error, brought)),
        Err(Broken::Interrupted(end)) => {
            if end == End::ConnectTimeout {
                // This deadline was for one attempt; the session may have another.
                session.interrupt.take();
            }
            Err(end)
        }
    }
}

/// Why a handshake did not end well.
enum Broken {
    Interrupted(End),
    Failed(io::Error),
}

async fn handshake(
    shard: &Shard,
    session: &Session,
    (side, stream): (Side, &mut tls::Session),
) -> Result<(), Broken> {
    loop {
        match stream.handshake() {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Broken::Failed(error)),
        }
        let interest = Interest { input: true, ..stream.wants() };
        let waited = wait(shard, session, (side, stream.socket()), interest).await;
        waited.map_err(Broken::Interrupted)?;
    }
}

async fn wait(
    shard: &Shard,
    session: &Session,
    (side, socket): (Side, &Socket),
    interest: Interest,
) -> Result<(), End> {
    let ready = shard.ready(session, (side, socket), interest);
    match session.interrupt.or(ready).await? {
        Ok(()) => Ok(()),
        Err(_no_memory) if side == Side::Backend => Err(End::ConnectFailed),
        Err(_no_memory) => Err(End::ClientError),
    }
}

/// The end of a session whose client's handshake failed.
fn client_end(error: &io::Error) -> End {
    match (Failure::of(error), error.raw_os_error()) {
        (Some(failure), _) => failure.client_end(),
        (None, Some(libc::ECONNRESET | libc::EPIPE)) => End::TlsReset,
        (None, _) => End::ClientError,
    }
}

/// The end of an attempt to connect whose handshake failed.
fn backend_end(error: &io::Error, brought: bool) -> End {
    match Failure::of(error) {
        Some(failure) => failure.backend_end(brought),
        // Closed or reset instead of an answer.
        None => End::ConnectTls,
    }
}
