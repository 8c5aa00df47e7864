//! USR1 opens the session log anew after a rename; HUP says that nothing is reloaded. Neither ends
//! the process or a session.

mod gateway;

use std::path::Path;
use std::time::{Duration, Instant};

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, frame_config};

fn wait_for_line(path: &Path, key: &str) {
    let wanted = format!("\"key\":\"{key}\"");
    let give_up = Instant::now() + gateway::DEADLINE;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(&wanted) {
            assert_eq!(text.lines().count(), 1, "{text}");
            return;
        }
        assert!(Instant::now() < give_up, "no {key} in {}: {text}", path.display());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn visit(gateway: &Gateway, id: &str) {
    let mut client = Client::login(gateway.address("devices"), id);
    client.receive(5);
    client.fin();
    client.read_to_end();
}

fn wait_said(gateway: &Gateway, text: &str) {
    gateway
        .operational
        .wait(text, |lines| lines.iter().any(|line| line.contains(text)).then_some(()));
}

#[test]
fn a_renamed_session_log_goes_on_in_a_new_file() {
    let directory = gateway::directory();
    let (path, old) = (directory.join("sessions.log"), directory.join("sessions.log.1"));
    let log = format!("[log]\nsessions = \"{}\"\n", path.display());
    let gateway =
        Gateway::start(&format!("{}{log}", frame_config(&[Backend::echo("only")], "", "")));
    let mut stays = Client::login(gateway.address("devices"), "stays");
    stays.receive(5);
    visit(&gateway, "before");
    wait_for_line(&path, "before");
    std::fs::rename(&path, &old).unwrap();
    gateway.signal("USR1");
    wait_said(&gateway, "log reopened");
    visit(&gateway, "after");
    wait_for_line(&path, "after");
    wait_for_line(&old, "before");
    stays.receive(gateway::client::login("stays").len());
    stays.echo("still here".as_bytes());
}

#[test]
fn a_stream_is_not_reopened() {
    let gateway = Gateway::start(&frame_config(&[Backend::echo("only")], "", ""));
    gateway.signal("USR1");
    wait_said(&gateway, "nothing to reopen");
    visit(&gateway, "after");
    gateway.assert_end("client_fin");
}
