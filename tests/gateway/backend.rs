//! Backends in the test's own process: one thread per connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};

use super::DEADLINE;
use super::client::Client;
use super::machine::reserve;

/// A listening backend whose connections the test takes one by one.
pub struct Backend {
    pub address: SocketAddr,
    accepted: Receiver<TcpStream>,
}

impl Backend {
    /// Connections are left to the test.
    pub fn manual() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, accepted) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Backend { address, accepted }
    }

    /// Every connection gets `name` and a newline, then an echo of everything; FIN for FIN.
    pub fn echo(name: &str) -> SocketAddr {
        Backend::serve(TcpListener::bind("127.0.0.1:0").unwrap(), format!("{name}\n"))
    }

    /// As [`Backend::echo`], at this address, which is its name.
    pub fn echo_at(address: SocketAddr) -> SocketAddr {
        Backend::serve(TcpListener::bind(address).unwrap(), format!("{address}\n"))
    }

    fn serve(listener: TcpListener, greeting: String) -> SocketAddr {
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let greeting = greeting.clone();
                std::thread::spawn(move || serve_echo(stream, &greeting));
            }
        });
        address
    }

    /// The next connection the gateway made.
    pub fn accept(&self) -> Client {
        let stream = self.accepted.recv_timeout(DEADLINE).expect("the gateway connects");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream }
    }

    /// Whether the gateway has made no further connection.
    pub fn is_untouched(&self) -> bool {
        self.accepted.try_recv().is_err()
    }
}

fn serve_echo(mut stream: TcpStream, greeting: &str) {
    stream.set_nodelay(true).unwrap();
    let mut buf = [0; 65536];
    let mut greeted = greeting == "\n";
    while let Ok(n) = stream.read(&mut buf) {
        if n == 0 {
            // The gateway may have gone first.
            let _gone = stream.shutdown(Shutdown::Write);
            return;
        }
        if !greeted {
            greeted = true;
            if stream.write_all(greeting.as_bytes()).is_err() {
                return;
            }
        }
        if stream.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

/// An address where nobody listens, and that is nobody else's while this process lives: a test may
/// listen there later.
pub fn refusing_address() -> SocketAddr {
    reserve(([127, 0, 0, 1], 0).into()).unwrap()
}

/// A place where nobody takes connections, nor refuses them, for as long as the sockets are held: a
/// listener with a full queue answers no handshake.
pub fn deaf(address: SocketAddr) -> (SocketAddr, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    // The port may be one that `reserve` keeps for this process.
    listener.set_reuse_address(true).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..8 {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        // EINPROGRESS: the queue fills without anybody accepting.
        let _pending = socket.connect(&address);
        held.push(socket);
    }
    (address.as_socket().unwrap(), held)
}
