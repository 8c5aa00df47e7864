//! A TCP proxy that passes bytes slowly, or not at all.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::process::pause;

/// Stands between a watcher and a real server.
pub struct Proxy {
    pub port: u16,
    delay_us: Arc<AtomicU64>,
    accepted: Arc<AtomicUsize>,
    links: Arc<Mutex<Links>>,
}

#[derive(Default)]
struct Links {
    refused: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    pub fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (delay_us, accepted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let links = Arc::new(Mutex::new(Links::default()));
        let (delay, count, kept) = (delay_us.clone(), accepted.clone(), links.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
                // Without a server behind it the client just loses its connection.
                let Ok(server) = connect(server) else { continue };
                let mut links = kept.lock().unwrap();
                if links.refused {
                    continue;
                }
                links.open.push(client.try_clone().unwrap());
                let pairs = [
                    (client.try_clone().unwrap(), server.try_clone().unwrap(), None),
                    (server, client, Some(delay.clone())),
                ];
                for (from, to, delay) in pairs {
                    std::thread::spawn(move || pass(from, to, delay.as_deref()));
                }
            }
        });
        Proxy { port, delay_us, accepted, links }
    }

    /// Every byte of the server's is held back for this long, one after the other.
    pub fn delay_bytes(&self, delay: Duration) {
        self.delay_us.store(u64::try_from(delay.as_micros()).unwrap(), Ordering::Relaxed);
    }

    /// Cuts all connections and every new one, until told otherwise.
    pub fn refuse(&self, refused: bool) {
        let mut links = self.links.lock().unwrap();
        links.refused = refused;
        for client in links.open.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's thread may block")]
fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(server)
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay_us: Option<&AtomicU64>) {
    let mut bytes = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let delay = delay_us.map_or(0, |delay| delay.load(Ordering::Relaxed));
            let (now, later) = rest.split_at(if delay > 0 { 1 } else { rest.len() });
            pause(Duration::from_micros(delay));
            if to.write_all(now).is_err() {
                break;
            }
            rest = later;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
