//! Callers and backends with nginx between them: it keeps what is checked, and is caught when it
//! does not.

mod rig;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rig::{Backends, DEADLINE, counter, list, run};

const IDS: u64 = 30;

/// An nginx in a folder of its own; gone with it when dropped.
struct Nginx {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Nginx {
    /// Starts one that sends device dN, by the header `X-Device`, to the backend that `place` says.
    fn start(name: &str, backends: &[SocketAddr], place: impl Fn(u64) -> usize) -> Nginx {
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"];
        let program = program.iter().find(|path| std::path::Path::new(path).exists());
        let program = program.expect("scripts/install-test-tools installs nginx");
        let folder = format!("loadgen-nginx-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        // Another process may take the port before nginx does; then nginx ends, and the test fails.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let map: String = (0..IDS).map(|n| format!("    d{n} {};\n", backends[place(n)])).collect();
        let path = folder.display();
        let text = format!(
            r#"
daemon off;
pid {path}/nginx.pid;
error_log stderr crit;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {path}/body;
  proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi;
  scgi_temp_path {path}/scgi;
  map $http_x_device $home {{
{map}
  }}
  map $http_upgrade $connection_header {{ default upgrade; "" close; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://$home;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_header;
    }}
  }}
}}
"#
        );
        let config = folder.join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(&config).arg("-p").arg(&folder).args(["-e", "stderr"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let nginx = Nginx { child, folder, address };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect_timeout(&address, DEADLINE).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::yield_now();
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker ends with it upon TERM, and would not upon KILL.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn crc32_place(n: u64) -> usize {
    crc32fast::hash(format!("d{n}").as_bytes()) as usize % 3
}

/// Both ways; through nginx it has to go where crc32 says.
fn load(role: &str, backends: &Backends, nginx: &Nginx, more: &str) -> rig::Outcome {
    let (direct, target) = (list(&backends.addresses), nginx.address);
    run(&format!(
        "{role} --quiet --json - --direct {direct} --target {target} --key d{{}} \
         --header X-Device:d{{}} --path /a/{{:03}} --query q={{}} --duration 500ms {more}"
    ))
}

#[test]
fn requests_arrive_as_they_were_sent_where_they_belong() {
    let backends = Backends::start(3, "--mode http");
    let nginx = Nginx::start("http", &backends.addresses, crc32_place);
    for more in ["--rate 300/s", "--closed --method POST --body 30000 --connections 8"] {
        let outcome = load("http", &backends, &nginx, &format!("--ids {IDS} {more}"));
        let document = outcome.json();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        for arm in document["arms"].as_array().unwrap() {
            assert!(counter(arm, "received") > 50, "{arm}");
            assert_eq!(counter(arm, "route_checked"), counter(arm, "received"));
            assert_eq!(arm["answers_by_backend"].as_object().unwrap().len(), 3);
        }
        assert!(document["difference_ns"]["round_trip"]["p50"].is_i64());
    }
}

#[test]
fn a_map_with_a_mistake_is_noticed() {
    let backends = Backends::start(3, "--mode http");
    let mistaken = |n: u64| if n == 7 { (crc32_place(n) + 1) % 3 } else { crc32_place(n) };
    let nginx = Nginx::start("mistake", &backends.addresses, mistaken);
    let outcome = load("http", &backends, &nginx, &format!("--ids {IDS} --rate 300/s"));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let document = outcome.json();
    let arm = &document["arms"][1];
    let expected = counter(arm, "sent") / IDS;
    assert!((expected..=expected + 1).contains(&counter(arm, "misrouted")), "{arm}");
    assert!(arm["examples"][0].as_str().unwrap().contains("number 7 landed on"), "{arm}");
}

#[test]
fn web_sockets_are_upgraded_through_it() {
    let backends = Backends::start(3, "--mode ws");
    let nginx = Nginx::start("ws", &backends.addresses, crc32_place);
    let more = format!("--count {IDS} --rate 300/s --heartbeat 100ms --payload 5000");
    let outcome = load("ws", &backends, &nginx, &more);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for arm in outcome.json()["arms"].as_array().unwrap() {
        assert_eq!(counter(arm, "close_answered"), IDS);
        assert_eq!(counter(arm, "sent"), counter(arm, "received"));
    }
}
