//! Clients of the private protocol, blocking, with deadlines.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::DEADLINE;

/// A frame: type, version, time, length, body.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 1, 0, 30];
    bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A login frame of a device.
pub fn login(id: &str) -> Vec<u8> {
    frame(1, format!("{{\"devid\":\"{id}\"}}").as_bytes())
}

/// What a connection's end looked like.
#[derive(Debug, PartialEq, Eq)]
pub enum Closed {
    Fin,
    Reset,
}

/// A client connection.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    /// Connects and sends a login frame.
    pub fn login(address: SocketAddr, id: &str) -> Client {
        let mut client = Client::connect(address);
        client.send(&login(id));
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends and expects the same back.
    pub fn echo(&mut self, bytes: &[u8]) {
        self.send(bytes);
        assert_eq!(self.receive(bytes.len()), bytes);
    }

    /// Sends FIN; a connection that was reset meanwhile has nothing to finish.
    pub fn fin(&self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        }
    }

    /// Closes with RST.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads to the end: what came, and how it ended.
    pub fn read_to_end(&mut self) -> (Vec<u8>, Closed) {
        let mut bytes = Vec::new();
        let mut buf = [0; 65536];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => return (bytes, Closed::Fin),
                Ok(n) => bytes.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return (bytes, Closed::Reset);
                }
                Err(error) => panic!("after {} bytes: {error}", bytes.len()),
            }
        }
    }

    /// Expects the connection to be closed, either way, with nothing said.
    pub fn assert_closed_silently(&mut self) {
        let (bytes, _) = self.read_to_end();
        assert_eq!(bytes, b"", "a bad client gets no answer");
    }
}
