//! A gateway that publishes a new table all the time: its version rises, sessions go on, and what
//! is counted per backend carries on.

mod rig;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rig::{DEADLINE, frame, gateway_config, list, read_frame, server};
use serde_json::Value;

const SESSIONS: usize = 8;
const SWAPPING: Duration = Duration::from_secs(2);

/// `corelane-bench gateway`, killed when dropped.
struct Gateway {
    child: Child,
    devices: SocketAddr,
    admin: SocketAddr,
    _config: rig::File,
}

impl Gateway {
    fn start(backends: &[SocketAddr], swap_every: &str) -> Gateway {
        let quoted = format!("\"{}\"", list(backends).replace(',', "\", \""));
        let pool = format!(
            "balance = \"round_robin\"\nbackends = [{quoted}]\n[admin]\n\
             listen = \"127.0.0.1:0\"\n[runtime]\nmax_connections = 100\n"
        );
        let config = gateway_config("swaps.toml", "127.0.0.1:0".parse().unwrap(), &pool);
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane-bench"));
        command.arg("gateway").arg("-c").arg(&config.0).args(["--swap-every", swap_every]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut devices, mut admin) = (None, None);
        for line in lines.by_ref().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<Value>(&line) else { panic!("{line}") };
            let address = || line["address"].as_str().and_then(|text| text.parse().ok());
            match line["message"].as_str() {
                Some("listening") => devices = address(),
                Some("admin interface listening") => admin = address(),
                Some("ready") => break,
                _ => {}
            }
        }
        // Read on: a gateway that cannot log waits.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let (devices, admin) = (devices.expect("a listener"), admin.expect("an admin interface"));
        Gateway { child, devices, admin, _config: config }
    }

    /// The sum over all series of a metric.
    fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect_timeout(&self.admin, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let of_it =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let series: Vec<u64> = page
            .lines()
            .filter(of_it)
            .map(|line| line.rsplit(' ').next().unwrap().parse().expect(line))
            .collect();
        assert!(!series.is_empty(), "no {name} in {page}");
        series.iter().sum()
    }

    fn wait_for(&self, name: &str, value: u64) {
        let give_up = Instant::now() + DEADLINE;
        while self.metric(name) != value {
            assert!(Instant::now() < give_up, "{name} is {}, not {value}", self.metric(name));
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A device that has logged in.
fn device(gateway: &Gateway, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&gateway.devices, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&frame(1, format!("{{\"devid\":\"device-{number}\"}}").as_bytes())).unwrap();
    assert_eq!(read_frame(&mut stream).expect("an acknowledgement").kind, 2);
    stream
}

fn echo(stream: &mut TcpStream, text: &str) {
    let sent = frame(5, text.as_bytes());
    stream.write_all(&sent).unwrap();
    assert_eq!(read_frame(stream).expect("the session was cut").bytes, sent, "{text}");
}

#[test]
fn versions_rise_and_no_session_is_cut() {
    let backends = [(); 3].map(|()| server(|frame, _| frame.bytes.clone()));
    let gateway = Gateway::start(&backends, "100ms");
    let mut sessions: Vec<_> = (0..SESSIONS).map(|number| device(&gateway, number)).collect();
    let first = gateway.metric("corelane_table_version");
    let (until, mut last, mut later) = (Instant::now() + SWAPPING, first, 0);
    let mut number = 0;
    while Instant::now() < until {
        for session in &mut sessions {
            number += 1;
            echo(session, &format!("message {number}"));
        }
        let version = gateway.metric("corelane_table_version");
        assert!(version >= last, "from {last} back to {version}");
        if version > last {
            // Placed by the version that has just come, or the one before.
            let mut passing = device(&gateway, SESSIONS + later);
            echo(&mut passing, "passing by");
            later += 1;
        }
        last = version;
    }
    // A loaded machine may be late, but not never.
    let give_up = Instant::now() + DEADLINE;
    while gateway.metric("corelane_table_version") < first + 5 {
        assert!(Instant::now() < give_up, "from {first} to {last} only");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(later > 0);
    for session in &mut sessions {
        echo(session, "still here");
    }
    // Versions later, the backends are the same ones: nothing is forgotten, nothing counted twice.
    gateway.wait_for("corelane_backend_connections_active", SESSIONS as u64);
    gateway.wait_for("corelane_backend_connections_total", (SESSIONS + later) as u64);
    drop(sessions);
    gateway.wait_for("corelane_backend_connections_active", 0);
    assert_eq!(gateway.metric("corelane_bugs_total"), 0);
}

#[test]
fn without_swaps_the_version_stays() {
    let backends = [server(|frame, _| frame.bytes.clone())];
    // The first swap would come in an hour.
    let gateway = Gateway::start(&backends, "3600s");
    echo(&mut device(&gateway, 0), "hello");
    assert_eq!(gateway.metric("corelane_table_version"), 1);
}
