//! Out of file descriptors: clients are told, nothing spins, and service resumes by itself.

mod gateway;

use std::process::Command;
use std::time::Duration;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, Start, frame_config, run_to_end};

#[test]
fn running_out_of_descriptors_is_counted_refused_without_spinning_and_recovers() {
    let backend = Backend::echo("only");
    let gateway = Gateway::start(&frame_config(&[backend], "", ""));
    let address = gateway.address("devices");
    let mut open = Vec::new();
    for n in 0..20 {
        let id = format!("{n}");
        let mut client = Client::login(address, &id);
        assert_eq!(client.receive(5), b"only\n");
        client.receive(login(&id).len());
        open.push(client);
    }
    // Somebody lowers the limit under a running process: the first free number is out of bounds.
    let open_now = format!("/proc/{}/fd", gateway.child.id());
    let used = (0..).find(|fd| !std::path::Path::new(&format!("{open_now}/{fd}")).exists());
    let used: u32 = used.unwrap();
    let status = Command::new("prlimit")
        .arg(format!("--nofile={used}:{used}"))
        .arg(format!("--pid={}", gateway.child.id()))
        .status()
        .unwrap();
    assert!(status.success());

    let before = gateway.cpu();
    let mut refused = 0;
    for _ in 0..5 {
        let mut client = Client::connect(address);
        client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        use std::io::Read;
        let mut byte = [0];
        let read = client.stream.read(&mut byte);
        let left_waiting = read.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        refused += u32::from(!left_waiting);
    }
    assert!(refused >= 4, "clients were left waiting: {refused} of 5 were told");
    std::thread::park_timeout(Duration::from_secs(2));
    let spent = gateway.cpu() - before;
    assert!(spent < Duration::from_millis(300), "{spent:?} of CPU in two seconds");
    for client in &mut open {
        client.echo(b"sessions go on");
    }

    open.truncate(10);
    let give_up = std::time::Instant::now() + gateway::DEADLINE;
    loop {
        assert!(std::time::Instant::now() < give_up, "never recovered");
        let mut client = Client::connect(address);
        use std::io::{Read, Write};
        let mut answer = [0; 5];
        let sent = client.stream.write_all(&login("later"));
        if sent.is_ok() && client.stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"only\n");
            break;
        }
    }
    drop(open);
    let errors = "corelane_accept_errors_total{shard=\"0\",reason=\"process_descriptors\"}";
    assert!(gateway.metric(errors) >= 4.0);
}

#[test]
fn more_connections_than_descriptors_allow_are_refused_at_start() {
    let toml = frame_config(&["127.0.0.1:1".parse().unwrap()], "", "");
    let start = Start { descriptors: Some(500), ..Start::default() };
    let (code, said) = run_to_end(&toml, &start);
    assert_eq!(code, Some(1), "a fault of the file on this machine: {said}");
    assert!(said.contains("max_connections") && said.contains("500"), "{said}");
}
