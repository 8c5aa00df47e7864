//! A real DNS server (dnsmasq), and what stands between it and a watcher.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane::config::{DnsRecords, DnsSource};
use corelane::source::Timings;
use corelane::source::dns::{SystemResolvers, watch, watch_with};
use hickory_net::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_net::proto::rr::{Name, RecordType};

use super::desk::Watch;
use super::process::{Directory, Process, free_port, pause};

/// Of every question to one resolver.
pub const TIMEOUT: Duration = Duration::from_millis(600);
/// The port of backends that have none in DNS.
pub const PORT: u16 = 1000;

pub struct Dns {
    pub process: Process,
    pub port: u16,
    pub directory: Directory,
}

impl Dns {
    /// An authority for `fleet.test` and `other.test`: its records live for `ttl_s`, what is not
    /// there is denied with an SOA record, and other names are refused.
    pub fn authority(ttl_s: u32, records: &[&str]) -> Dns {
        Dns::start(&authority(ttl_s, records))
    }

    /// With these lines in its configuration.
    pub fn start(lines: &str) -> Dns {
        let directory = Directory::new("dns");
        std::fs::write(directory.path().join("hosts"), "").unwrap();
        let port = free_port();
        let process = spawn(&directory, port, lines);
        let mut dns = Dns { process, port, directory };
        dns.wait();
        dns
    }

    /// Starts again on the same port, with other lines.
    pub fn restart(&mut self, lines: &str) {
        self.process.kill();
        self.process = spawn(&self.directory, self.port, lines);
        self.wait();
    }

    pub fn restart_authority(&mut self, ttl_s: u32, records: &[&str]) {
        self.restart(&authority(ttl_s, records));
    }

    fn wait(&mut self) {
        let port = self.port;
        self.process.wait(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let mut message = Message::query();
            let name = Name::from_ascii("ready.test.").unwrap();
            message.add_query(Query::query(name, RecordType::TXT));
            let question = message.to_vec().unwrap();
            // It answers, if not kindly.
            socket.send(&question).is_ok() && socket.recv(&mut [0; 512]).is_ok()
        });
    }

    /// Addresses and names, as in /etc/hosts.
    pub fn hosts(&self, lines: &[&str]) {
        std::fs::write(self.directory.path().join("hosts"), lines.join("\n") + "\n").unwrap();
        self.process.signal("HUP");
    }

    /// What it was asked so far.
    pub fn questions(&self) -> usize {
        let log = std::fs::read_to_string(self.directory.path().join("dnsmasq.log")).unwrap();
        log.lines().filter(|line| line.contains("query[") || line.contains("auth[A")).count()
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A/AAAA of a name, or its SRV records if it begins with an underscore.
    pub fn watch(&self, name: &str) -> Watch {
        start(&[self.address()], name)
    }
}

fn authority(ttl_s: u32, records: &[&str]) -> String {
    format!(
        "auth-server=ns.fleet.test,127.0.0.1\nauth-zone=fleet.test\nauth-zone=other.test\n\
         auth-ttl={ttl_s}\n{}\n",
        records.join("\n")
    )
}

fn spawn(directory: &Directory, port: u16, lines: &str) -> Process {
    let place = directory.path().display();
    let settings = format!(
        "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nno-poll\n\
         pid-file={place}/pid\nuser=root\nlog-queries\nlog-facility=-\naddn-hosts={place}/hosts\n\
         {lines}\n"
    );
    std::fs::write(directory.path().join("dnsmasq.conf"), settings).unwrap();
    let arguments = ["-k", "-C", "dnsmasq.conf"].map(str::to_owned);
    Process::start(directory, "dnsmasq", &arguments)
}

pub fn settings(resolvers: &[SocketAddr], name: &str) -> DnsSource {
    DnsSource {
        name: name.to_owned(),
        records: match name.starts_with('_') {
            true => DnsRecords::Services,
            false => DnsRecords::Addresses { port: PORT },
        },
        resolvers: resolvers.to_vec(),
        min_ttl: Duration::from_secs(1),
        max_ttl: Duration::from_secs(60),
    }
}

fn timings() -> Timings {
    Timings { timeout: TIMEOUT, resync: Duration::from_secs(60) }
}

/// Runs a watcher with resolvers of its own.
pub fn start(resolvers: &[SocketAddr], name: &str) -> Watch {
    let settings = settings(resolvers, name);
    Watch::start(move |desk| watch(settings, timings(), desk))
}

/// Runs a watcher with what a resolv.conf says.
pub fn start_with(system: SystemResolvers, name: &str) -> Watch {
    let settings = settings(&[], name);
    Watch::start(move |desk| watch_with(system, settings, timings(), desk))
}

/// Answers datagrams with what a test makes of them; nothing to stay silent. Its TCP port, of the
/// same number, is closed.
pub fn respond(mut answer: impl FnMut(&Message) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 4_096];
        while let Ok((count, from)) = socket.recv_from(&mut bytes) {
            let question = Message::from_vec(&bytes[..count]).unwrap();
            if let Some(answer) = answer(&question) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    address
}

/// An empty answer with this code, for a test to put things in.
pub fn response(question: &Message, code: ResponseCode) -> Message {
    let mut message = Message::response(question.id, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.recursion_available = true;
    message.add_queries(question.queries.iter().cloned());
    message
}

/// Holds every answer of a server back for a while.
pub struct SlowResolver {
    pub address: SocketAddr,
    delay_ms: Arc<AtomicU64>,
}

impl SlowResolver {
    pub fn start(server: SocketAddr) -> SlowResolver {
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = delay_ms.clone();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok((count, from)) = socket.recv_from(&mut bytes) {
                let question = bytes[..count].to_vec();
                let (socket, delay) = (socket.try_clone().unwrap(), delay.clone());
                std::thread::spawn(move || {
                    let asking = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                    asking.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                    asking.send_to(&question, server).unwrap();
                    let mut bytes = [0; 4_096];
                    if let Ok(count) = asking.recv(&mut bytes) {
                        pause(Duration::from_millis(delay.load(Ordering::Relaxed)));
                        socket.send_to(&bytes[..count], from).unwrap();
                    }
                });
            }
        });
        SlowResolver { address, delay_ms }
    }

    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}
