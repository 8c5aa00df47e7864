//! What connections do when something happened to them.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use corelane_loadgen::frame::{self, kind};

use super::args::Kind;
use super::connection::{Connection, Errand, Role, Talk, Then};
use super::engine::{CHUNK, Engine, Phase};
use super::http;

/// Pieces of a flood before others have a turn.
const PIECES_MAX: usize = 8;

/// What became of a connection.
pub(super) enum Fate {
    /// It goes on.
    Open,
    /// It has more to do than fits a turn.
    Unfinished,
    /// It is over; by a fault with this name.
    Closed(Option<&'static str>),
}

impl Engine {
    /// Something happened to a connection; `ending`: its other end sends no more.
    pub(super) fn ready(&mut self, index: usize, writable: bool, ending: bool) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        let fate = self.act(index, &mut connection, (writable, ending));
        self.connections[index] = Some(connection);
        match fate {
            Ok(Fate::Open) => {}
            Ok(Fate::Unfinished) => self.again.push(index),
            Ok(Fate::Closed(fault)) => self.closed(index, fault),
            Err(error) => {
                let fault = match error.kind() {
                    io::ErrorKind::ConnectionReset => "reset",
                    io::ErrorKind::ConnectionRefused => "refused",
                    io::ErrorKind::BrokenPipe => "broken_pipe",
                    _ => "io",
                };
                self.closed(index, Some(fault));
            }
        }
    }

    fn closed(&mut self, index: usize, fault: Option<&'static str>) {
        let Some(closed) = self.close(index) else { return };
        // Devices reset their connections; that a backend sees it is in order.
        if !closed.role.is_device() {
            return;
        }
        self.devices.retain(|device| *device != index);
        if let Some(fault) = fault {
            self.counts.error(fault);
        }
        let errand = closed.role.errand();
        self.logging_in -= usize::from(errand.is_some());
        let next = match (&closed.role, errand) {
            // In a closed loop of connections one follows the other.
            (_, Some(errand)) if self.plan.kind == Kind::Connects(None) => Some(errand.then),
            // So it does where a connection ends in order, after as many requests as it may have.
            (Role::Asking(..), _) if fault.is_none() => Some(Then::Ask),
            _ => None,
        };
        if let (Phase::Load, Some(then)) = (self.phase, next)
            && self.begin(then, Instant::now()).is_err()
        {
            self.counts.error("connect");
        }
    }

    fn act(
        &mut self,
        index: usize,
        connection: &mut Connection,
        (writable, ending): (bool, bool),
    ) -> io::Result<Fate> {
        if writable && !connection.flush()? {
            return Ok(Fate::Open);
        }
        match connection.role {
            Role::Echo => self.echo(connection, ending),
            Role::Serving { .. } => self.serve(connection, ending),
            Role::Connecting(errand) if writable => {
                if let Some(error) = connection.socket.take_error()? {
                    return Err(error);
                }
                self.connected(connection, errand)?;
                Ok(Fate::Open)
            }
            Role::Connecting(_) => Ok(Fate::Open),
            Role::LoggingIn { .. } => self.read_login(index, connection),
            Role::Upgrading { .. } => self.read_upgrade(index, connection),
            Role::Asking(..) => self.read_responses(index, connection, ending),
            Role::Silent => self.expect_silence(connection),
            Role::Talking(_) => self.read_echoes(connection, ending),
            Role::Flood { .. } => self.flood_both_ways(connection),
        }
    }

    fn connected(&mut self, connection: &mut Connection, errand: Errand) -> io::Result<()> {
        let number = self.next_device;
        self.next_device += 1;
        match errand.then {
            Then::Ask => {
                connection.role = Role::Asking(Some(errand), Talk::default());
                self.ask(connection, errand.begun)
            }
            Then::Talk if self.plan.upgrade => {
                connection.role = Role::Upgrading { errand, partial: Vec::new() };
                connection.send(http::UPGRADE_REQUEST)
            }
            _ => {
                connection.role = Role::LoggingIn { errand, number, got: 0 };
                connection.send(&self.login_frame(number))
            }
        }
    }

    pub(super) fn echo(&mut self, connection: &mut Connection, ending: bool) -> io::Result<Fate> {
        for _ in 0..PIECES_MAX {
            if !connection.out.is_empty() {
                return Ok(Fate::Open);
            }
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(Fate::Closed(None)),
                Ok(n) => {
                    connection.send(&self.buffer[..n])?;
                    if n < CHUNK && !ending {
                        // The event for what comes later has yet to come.
                        return Ok(Fate::Open);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fate::Open),
                Err(error) => return Err(error),
            }
        }
        Ok(Fate::Unfinished)
    }

    /// The login frame of a device, as long as a message.
    fn login_frame(&self, number: u64) -> Vec<u8> {
        let mut body = format!("{{\"devid\":\"dev-{number:08}\",\"pad\":\"");
        let room = self.plan.message_bytes - frame::HEADER_LEN - 2;
        body.extend(std::iter::repeat_n('x', room.saturating_sub(body.len())));
        body.push_str("\"}");
        let mut login = Vec::with_capacity(self.plan.message_bytes);
        frame::encode(&mut login, kind::LOGIN, 0, &[body.as_bytes()]);
        login
    }

    fn read_login(&mut self, index: usize, connection: &mut Connection) -> io::Result<Fate> {
        let Role::LoggingIn { errand, number, got } = &mut connection.role else {
            return Ok(Fate::Open);
        };
        let login = self.login_frame(*number);
        while *got < login.len() {
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(Fate::Closed(Some("fin"))),
                Ok(n) => {
                    errand.first_echo.get_or_insert_with(Instant::now);
                    if login.get(*got..*got + n) != Some(&self.buffer[..n]) {
                        return Ok(Fate::Closed(Some("corrupt")));
                    }
                    *got += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fate::Open),
                Err(error) => return Err(error),
            }
        }
        let errand = *errand;
        Ok(self.logged_in(index, connection, errand))
    }

    /// A device has all that it needs to begin.
    pub(super) fn logged_in(
        &mut self,
        index: usize,
        connection: &mut Connection,
        errand: Errand,
    ) -> Fate {
        connection.role = match errand.then {
            Then::Reset => {
                self.counts.completed += 1;
                let since = |at: Instant| at.saturating_duration_since(errand.begun).as_nanos();
                let first = errand.first_echo.map_or(0, since) as u64;
                self.counts.first_echo.saturating_record(first);
                self.counts.latency.saturating_record(since(Instant::now()) as u64);
                return Fate::Closed(None);
            }
            Then::Silence => Role::Silent,
            Then::Talk => Role::Talking(Talk::default()),
            Then::Ask => Role::Asking(None, Talk::default()),
            Then::Flood => Role::Flood { sent: 0, got: 0 },
        };
        self.logging_in -= 1;
        self.logged_in += 1;
        if errand.then != Then::Silence {
            self.devices.push(index);
        }
        Fate::Open
    }

    fn expect_silence(&mut self, connection: &mut Connection) -> io::Result<Fate> {
        match connection.socket.read(&mut self.buffer) {
            Ok(0) => Ok(Fate::Closed(Some("fin"))),
            Ok(_) => Ok(Fate::Closed(Some("foreign"))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Fate::Open),
            Err(error) => Err(error),
        }
    }

    /// Sends a device's next message or request, whose latency counts from `due`.
    pub(super) fn send_message(&mut self, index: usize, due: Instant) {
        let Some(mut connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        let sent = match connection.role {
            Role::Asking(..) => self.ask(&mut connection, due),
            _ => self.send_next(&mut connection, due),
        };
        self.connections[index] = Some(connection);
        if sent.is_err() {
            self.closed(index, Some("send"));
        }
    }

    fn send_next(&mut self, connection: &mut Connection, due: Instant) -> io::Result<()> {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let len = self.message.len();
        self.message[frame::HEADER_LEN..][..8].copy_from_slice(&sequence.to_be_bytes());
        self.message[len - 8..].copy_from_slice(&sequence.to_le_bytes());
        if let Role::Talking(talk) = &mut connection.role {
            talk.in_flight.push_back((sequence, due));
        }
        connection.send(&self.message)
    }

    fn read_echoes(&mut self, connection: &mut Connection, ending: bool) -> io::Result<Fate> {
        loop {
            let n = match connection.socket.read(&mut self.buffer) {
                Ok(0) => return Ok(Fate::Closed(Some("fin"))),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Fate::Open),
                Err(error) => return Err(error),
            };
            let Role::Talking(talk) = &mut connection.role else { return Ok(Fate::Open) };
            let mut partial = std::mem::take(&mut talk.partial);
            partial.extend_from_slice(&self.buffer[..n]);
            let whole = partial.len() / self.message.len();
            for echo in partial.chunks_exact(self.message.len()).take(whole) {
                let expected = match &mut connection.role {
                    Role::Talking(talk) => talk.in_flight.pop_front(),
                    _ => None,
                };
                let Some((sequence, due)) = expected else {
                    return Ok(Fate::Closed(Some("foreign")));
                };
                if !is_echo(echo, sequence) {
                    return Ok(Fate::Closed(Some("corrupt")));
                }
                let now = Instant::now();
                self.counts.completed += 1;
                let latency = now.saturating_duration_since(due).as_nanos() as u64;
                self.counts.latency.saturating_record(latency);
                if self.plan.kind == Kind::Messages(None) && self.phase == Phase::Load {
                    self.send_next(connection, now)?;
                }
            }
            partial.drain(..whole * self.message.len());
            if let Role::Talking(talk) = &mut connection.role {
                talk.partial = partial;
            }
            if n < CHUNK && !ending {
                return Ok(Fate::Open);
            }
        }
    }

    /// Begins a flood.
    pub(super) fn flood(&mut self, index: usize) {
        self.ready(index, true, false);
    }

    fn flood_both_ways(&mut self, connection: &mut Connection) -> io::Result<Fate> {
        let Role::Flood { sent, got } = &mut connection.role else { return Ok(Fate::Open) };
        if self.phase == Phase::Login {
            return Ok(Fate::Open);
        }
        let (mut writes, mut reads) = (true, true);
        for _ in 0..PIECES_MAX {
            if writes {
                let at = (*sent % CHUNK as u64) as usize;
                match connection.socket.write(&self.pattern[at..at + CHUNK]) {
                    Ok(n) => *sent += n as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => writes = false,
                    Err(error) => return Err(error),
                }
            }
            if reads {
                match connection.socket.read(&mut self.buffer) {
                    Ok(0) => return Ok(Fate::Closed(Some("fin"))),
                    Ok(n) => {
                        if !is_pattern(&self.pattern, *got, &self.buffer[..n]) {
                            return Ok(Fate::Closed(Some("corrupt")));
                        }
                        *got += n as u64;
                        self.counts.completed += n as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => reads = false,
                    Err(error) => return Err(error),
                }
            }
            if !writes && !reads {
                return Ok(Fate::Open);
            }
        }
        Ok(Fate::Unfinished)
    }
}

fn is_echo(echo: &[u8], sequence: u64) -> bool {
    echo[frame::HEADER_LEN..][..8] == sequence.to_be_bytes()
        && echo[echo.len() - 8..] == sequence.to_le_bytes()
}

/// Whether a piece of a flood is what was sent there: its first and last bytes.
fn is_pattern(pattern: &[u8], offset: u64, piece: &[u8]) -> bool {
    let at = (offset % CHUNK as u64) as usize;
    let ends = piece.len().min(16);
    let tail = at + piece.len() - ends;
    piece[..ends] == pattern[at..at + ends]
        && piece[piece.len() - ends..] == pattern[tail..tail + ends]
}
