//! Keys go where the real programs send them: nginx's `hash` and `hash … consistent`, in its http
//! and its stream module, and HAProxy's map-based and consistent hashing. Each is started with
//! random pools of weights, IPv6 backends and backends that are down, and asked for random keys.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corelane::balance::{Balance, Candidates, Entry, PickState};
use corelane::config::{self, BackendState, Environment};
use corelane::movement::Standing;
use socket2::{Domain, Socket, Type};

const DEADLINE: Duration = Duration::from_secs(10);
const KEYS_PER_POOL: usize = 120;
const POOLS: u64 = 10;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    /// Of characters that mean nothing in a URL.
    fn key(&mut self) -> String {
        const ALPHABET: &[u8] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
        let len = 1 + self.below(40);
        (0..len).map(|_| char::from(ALPHABET[self.below(ALPHABET.len())])).collect()
    }

    fn client_ip(&mut self) -> String {
        if self.below(3) == 0 {
            return format!("2001:db8::{:x}:{:x}", 1 + self.below(65_535), 1 + self.below(65_535));
        }
        format!(
            "{}.{}.{}.{}",
            1 + self.below(223),
            self.below(256),
            self.below(256),
            self.below(256)
        )
    }
}

/// Backends that answer any request with their own address.
struct Fleet {
    live: Vec<String>,
    /// Addresses that refuse connections: bound, and never listened on.
    refusing: Vec<String>,
    _closed: Vec<Socket>,
}

impl Fleet {
    fn start() -> Fleet {
        let bind = |address: &str| TcpListener::bind(address).expect("a loopback address");
        let mut live = Vec::new();
        for address in ["127.0.0.1:0"; 7].into_iter().chain(["[::1]:0"; 4]) {
            let listener = bind(address);
            let own = listener.local_addr().expect("an address").to_string();
            live.push(own.clone());
            std::thread::spawn(move || {
                for client in listener.incoming() {
                    let Ok(mut client) = client else { continue };
                    let mut request = Vec::new();
                    let mut buffer = [0; 1024];
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        match client.read(&mut buffer) {
                            Ok(0) | Err(_) => break,
                            Ok(len) => request.extend_from_slice(&buffer[..len]),
                        }
                    }
                    let len = own.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n");
                    let _gone = write!(client, "{head}Connection: close\r\n\r\n{own}");
                }
            });
        }
        let silent = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("one").into()).expect("bound");
            socket
        };
        let closed: Vec<Socket> = (0..3).map(|_| silent()).collect();
        let address = |socket: &Socket| socket.local_addr().ok()?.as_socket();
        let refusing = closed.iter().map(|socket| address(socket).expect("TCP").to_string());
        Fleet { live, refusing: refusing.collect(), _closed: closed }
    }
}

/// A pool of one program and of a file of ours.
#[derive(Debug)]
struct Pool {
    balance: &'static str,
    /// Address, weight, down.
    backends: Vec<(String, usize, bool)>,
}

impl Pool {
    /// Backends that are down have less than half of the weight: beyond that nginx soon gives up
    /// hashing and takes turns.
    fn random(
        balance: &'static str,
        most: usize,
        addresses: &[String],
        random: &mut Random,
    ) -> Pool {
        let mut left = addresses.to_vec();
        let count = 2 + random.below(addresses.len() - 1);
        let mut backends: Vec<(String, usize, bool)> = (0..count)
            .map(|_| {
                let address = left.swap_remove(random.below(left.len()));
                (address, 1 + random.below(most), false)
            })
            .collect();
        let total: usize = backends.iter().map(|(_, weight, _)| weight).sum();
        let mut down = 0;
        for (_, weight, is_down) in &mut backends {
            if random.below(3) == 0 && (down + *weight) * 2 < total {
                down += *weight;
                *is_down = true;
            }
        }
        Pool { balance, backends }
    }

    fn config(&self) -> config::Config {
        let backend = |(address, weight, down): &(String, usize, bool)| {
            let state = if *down { "down" } else { "ready" };
            format!("  {{ address = {address:?}, weight = {weight}, state = {state:?} }},\n")
        };
        let backends: String = self.backends.iter().map(backend).collect();
        let text = format!(
            "[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
             [listener.tcp]\nkey = \"client_ip\"\n\
             [pool.p]\nbalance = {:?}\non_down = \"next\"\nbackends = [\n{backends}]\n",
            self.balance
        );
        let environment =
            Environment { variable: &|_| None, cores: vec![0], descriptors_max: 20_000 };
        config::parse(&text, "pool.toml", &environment).expect("no faults").config
    }
}

/// A program that runs until this is dropped.
struct Program {
    child: Child,
    folder: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("corelane-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Starts it and waits until it takes connections on `socket`.
fn start(folder: PathBuf, program: &str, arguments: &[&str], socket: &Path) -> Program {
    // Administrators' programs are not in everybody's PATH.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let log = std::fs::File::create(folder.join("output")).expect("a file");
    let child = Command::new("env")
        .arg(format!("PATH={path}"))
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file"))
        .stderr(log)
        .spawn()
        .expect("env");
    let mut started = Program { child, folder };
    let begun = Instant::now();
    while UnixStream::connect(socket).is_err() {
        let ended = started.child.try_wait().expect("its state");
        if ended.is_some() || begun.elapsed() > DEADLINE {
            let said = std::fs::read_to_string(started.folder.join("output")).unwrap_or_default();
            panic!("{program} did not start (scripts/install-test-tools installs it): {said}");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    started
}

/// The address that answered.
fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.rsplit("\r\n").next().unwrap_or_default().to_string()
}

fn get(path: &str, key: &str) -> String {
    format!("GET {path}?k={key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

/// An nginx with every pool: over http under `/INDEX`, as a stream on its own socket.
struct Nginx {
    _running: Program,
    http: PathBuf,
    streams: Vec<PathBuf>,
}

fn nginx(name: &str, pools: &[Pool]) -> Nginx {
    let folder = folder(name);
    let at = |file: &str| folder.join(file);
    let socket = |index: usize| at(&format!("stream{index}"));
    let group = |index: usize, pool: &Pool, key: &str| {
        let consistent = if pool.balance == "ketama" { " consistent" } else { "" };
        let server = |(address, weight, down): &(String, usize, bool)| {
            let down = if *down { " down" } else { "" };
            format!("server {address} weight={weight} max_fails=0{down};\n")
        };
        let servers: String = pool.backends.iter().map(server).collect();
        format!("upstream u{index} {{\nhash {key}{consistent};\n{servers}}}\n")
    };
    let mut http = String::new();
    let mut streams = String::new();
    let mut locations = String::new();
    for (index, pool) in pools.iter().enumerate() {
        http += &group(index, pool, "$arg_k");
        locations += &format!("location /{index} {{ proxy_pass http://u{index}; }}\n");
        streams += &group(index, pool, "$proxy_protocol_addr");
        streams += &format!(
            "server {{ listen unix:{} proxy_protocol; proxy_pass u{index}; }}\n",
            socket(index).display()
        );
    }
    let module = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"]
        .iter()
        .map(|folder| format!("{folder}/ngx_stream_module.so"))
        .find(|file| Path::new(file).exists())
        .map_or(String::new(), |file| format!("load_module {file};\n"));
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind).display()))
        .collect();
    let (pid, http_socket) = (at("pid"), at("http"));
    let text = format!(
        "{module}daemon off;\nmaster_process off;\nerror_log stderr error;\npid {};\n\
         events {{ worker_connections 1024; }}\n\
         stream {{\nproxy_next_upstream_tries 0;\n{streams}}}\n\
         http {{\naccess_log off;\n{folders}{http}server {{\nlisten unix:{};\n{locations}}}\n}}\n",
        pid.display(),
        http_socket.display(),
    );
    let file = at("nginx.conf");
    std::fs::write(&file, text).expect("a file");
    let arguments = ["-c", &*file.to_string_lossy(), "-p", &*folder.to_string_lossy()];
    let streams = (0..pools.len()).map(socket).collect();
    let running = start(folder.clone(), "nginx", &arguments, &http_socket);
    Nginx { _running: running, http: http_socket, streams }
}

fn haproxy(name: &str, pools: &[Pool]) -> (Program, Vec<PathBuf>) {
    let folder = folder(name);
    let sockets: Vec<PathBuf> =
        (0..pools.len()).map(|index| folder.join(format!("http{index}"))).collect();
    let mut text = "global\n  maxconn 200\ndefaults\n  mode http\n  timeout connect 5s\n  \
                    timeout client 5s\n  timeout server 5s\n"
        .to_string();
    for (index, (pool, socket)) in pools.iter().zip(&sockets).enumerate() {
        let kind = match pool.balance {
            "haproxy_map" => "map-based crc32",
            _ => "consistent",
        };
        text += &format!(
            "frontend f{index}\n  bind unix@{}\n  default_backend b{index}\n\
             backend b{index}\n  balance hash url_param(k)\n  hash-type {kind}\n",
            socket.display()
        );
        for (number, (address, weight, down)) in pool.backends.iter().enumerate() {
            let disabled = if *down { " disabled" } else { "" };
            text += &format!("  server s{number} {address} weight {weight}{disabled}\n");
        }
    }
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text).expect("a file");
    let last = sockets.last().expect("a pool").clone();
    (start(folder, "haproxy", &["-db", "-f", &file.to_string_lossy()], &last), sockets)
}

/// Asks a program and us where random keys go.
fn compare(pool: &Pool, seed: u64, mut theirs: impl FnMut(&str) -> String, client_ips: bool) {
    let config = pool.config();
    let standing = Standing::of_settings(&config.pools[0]);
    let mut random = Random(seed);
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..KEYS_PER_POOL {
        let key = if client_ips { random.client_ip() } else { random.key() };
        let ours = standing.place(key.as_bytes()).map(|index| standing.address(index).to_string());
        let theirs = theirs(&key);
        assert_eq!(ours.as_ref(), Ok(&theirs), "key {key:?}, seed {seed}, {pool:?}");
        found.insert(theirs);
    }
    let up = pool.backends.iter().filter(|(_, _, down)| !down).count();
    assert!(found.len() > up / 3, "{found:?} of {pool:?}");
}

fn random_pools(kinds: [(&'static str, usize); 2], fleet: &Fleet) -> Vec<Pool> {
    let pool = |seed: u64| {
        let (balance, most) = kinds[seed as usize % 2];
        Pool::random(balance, most, &fleet.live, &mut Random(seed))
    };
    (0..POOLS).map(pool).collect()
}

#[test]
fn nginx_sends_every_key_to_the_same_backend() {
    let fleet = Fleet::start();
    let pools = random_pools([("nginx_hash", 9), ("ketama", 5)], &fleet);
    assert!(pools.iter().any(|pool| pool.backends.iter().any(|(_, _, down)| *down)));
    let nginx = nginx("nginx", &pools);
    for (index, pool) in pools.iter().enumerate() {
        let theirs = |key: &str| ask(&nginx.http, &get(&format!("/{index}"), key));
        compare(pool, index as u64, theirs, false);
        let theirs = |key: &str| {
            let family = if key.contains(':') { "TCP6" } else { "TCP4" };
            let local = if key.contains(':') { "::1" } else { "127.0.0.1" };
            let header = format!("PROXY {family} {key} {local} 1000 2000\r\n");
            ask(&nginx.streams[index], &(header + &get("/", "")))
        };
        compare(pool, index as u64, theirs, true);
    }
}

#[test]
fn haproxy_sends_every_key_to_the_same_backend() {
    let fleet = Fleet::start();
    let pools = random_pools([("haproxy_map", 256), ("haproxy_consistent", 20)], &fleet);
    assert!(pools.iter().any(|pool| pool.backends.iter().any(|(_, _, down)| *down)));
    let (_running, sockets) = haproxy("haproxy", &pools);
    for (index, pool) in pools.iter().enumerate() {
        compare(pool, index as u64, |key| ask(&sockets[index], &get("/", key)), false);
    }
}

/// Backends as a session sees them that was refused by some.
struct Tried<'p> {
    pool: &'p Pool,
    refused: Vec<usize>,
}

impl Candidates for Tried<'_> {
    fn count(&self) -> usize {
        self.pool.backends.len()
    }
    fn weight(&self, index: usize) -> u32 {
        self.pool.backends[index].1 as u32
    }
    fn usable(&self, index: usize) -> bool {
        !self.pool.backends[index].2 && !self.tried(index)
    }
    fn live(&self, _: usize) -> u32 {
        0
    }
    fn tried(&self, index: usize) -> bool {
        self.refused.contains(&index)
    }
}

/// Connections that are refused are retried in nginx's order.
#[test]
fn nginx_retries_in_the_same_order() {
    let fleet = Fleet::start();
    let mut addresses = fleet.live[..4].to_vec();
    addresses.extend(fleet.refusing.iter().cloned());
    let pools: Vec<Pool> = ["nginx_hash", "ketama"]
        .into_iter()
        .zip(40..)
        .map(|(balance, seed)| {
            let mut random = Random(seed);
            let weigh = |address: &String| (address.clone(), 1 + random.below(3), false);
            let mut backends: Vec<_> = addresses.iter().map(weigh).collect();
            backends.rotate_left(3);
            Pool { balance, backends }
        })
        .collect();
    let nginx = nginx("nginx-retries", &pools);
    for (index, pool) in pools.iter().enumerate() {
        let config = pool.config();
        let ids: Vec<String> = pool.backends.iter().map(|(address, ..)| address.clone()).collect();
        let entries: Vec<Entry<'_>> = ids
            .iter()
            .zip(&config.pools[0].backends)
            .map(|(id, b)| Entry { id, weight: b.weight, ready: b.state == BackendState::Ready })
            .collect();
        let balance = Balance::prepare(config.pools[0].balance, &entries, true);
        let mut random = Random(7 + index as u64);
        let mut retried = 0;
        for _ in 0..2 * KEYS_PER_POOL {
            let key = random.key();
            let mut tried = Tried { pool, refused: Vec::new() };
            let mut state = PickState::new(tried.count(), 0);
            let ours = loop {
                let picked = balance.pick(key.as_bytes(), &mut state, &tried);
                let picked = picked.expect("somebody is left");
                if !fleet.refusing.contains(&ids[picked]) {
                    break &ids[picked];
                }
                tried.refused.push(picked);
            };
            retried += usize::from(!tried.refused.is_empty());
            let theirs = ask(&nginx.http, &get(&format!("/{index}"), &key));
            assert_eq!(*ours, theirs, "key {key:?} after {:?} of {pool:?}", tried.refused);
        }
        assert!(retried > KEYS_PER_POOL / 2, "only {retried} keys were retried");
    }
}
