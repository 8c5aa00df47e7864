//! `cores = "auto"` means the cores this process may use; connections that one shard gets too many
//! of are handed to another.

mod gateway;

use std::process::Command;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};

/// Cores that this process may use. Not the parallelism that the standard library advises: a
/// container's share of time lowers that one.
fn cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap().into_iter().map(|core| core.id).collect()
}

fn threads(gateway: &Gateway) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.child.id())).unwrap();
    let mut threads: Vec<_> = tasks
        .map(|task| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_once('\t').unwrap().1.to_owned()
            };
            (field("Name:"), field("Cpus_allowed_list:"))
        })
        .filter(|(name, _)| name.starts_with("shard-"))
        .collect();
    threads.sort_by_key(|(name, _)| name["shard-".len()..].parse::<usize>().ok());
    threads
}

#[test]
fn auto_is_one_pinned_shard_per_allowed_core() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "").replace("cores = [0]", "cores = \"auto\"");
    let gateway = Gateway::start(&toml);
    let threads = threads(&gateway);
    let pinned: Vec<_> = threads.iter().map(|(_, cores)| cores.parse().ok()).collect();
    assert_eq!(pinned, cores().into_iter().map(Some).collect::<Vec<_>>(), "{threads:?}");
}

#[test]
fn auto_respects_the_affinity_mask() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "").replace("cores = [0]", "cores = \"auto\"");
    let last = cores().pop().unwrap();
    let directory = gateway::directory();
    let file = directory.join("corelane.toml");
    std::fs::write(&file, toml).unwrap();
    let run = |cores: &str| {
        let output = Command::new("taskset")
            .args(["-c", &last.to_string(), env!("CARGO_BIN_EXE_corelane"), "check", "-c"])
            .arg(&file)
            .env("CORES", cores)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = run("auto");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 shard"), "{said}");
}

#[test]
fn an_uneven_spread_is_evened_out_by_handing_connections_over() {
    if cores().len() < 2 {
        return;
    }
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "").replace("cores = [0]", "cores = [0, 1]");
    let gateway = Gateway::start(&toml);
    // 400 connections, then those of one shard leave: only new ones can fill the gap.
    let mut open: Vec<Client> = (0..400)
        .map(|n| {
            let mut client = Client::login(gateway.address("devices"), &format!("{n}"));
            assert_eq!(client.receive(5), b"only\n");
            client
        })
        .collect();
    let sessions: serde_json::Value =
        serde_json::from_str(&gateway.get("/sessions?limit=1000").1).unwrap();
    let of_shard_0: Vec<String> = sessions["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|session| session["shard"] == 0)
        .map(|session| session["key"].as_str().unwrap().to_owned())
        .collect();
    assert!(of_shard_0.len() > 100, "{}", of_shard_0.len());
    let mut kept = Vec::new();
    for (n, client) in open.drain(..).enumerate() {
        if !of_shard_0.contains(&n.to_string()) {
            kept.push(client);
        }
    }
    let left = kept.len() as f64;
    gateway.wait_metric("corelane_connections_active{listener=\"devices\"}", left);
    for n in 0..100 {
        let id = format!("new-{n}");
        let mut client = Client::login(gateway.address("devices"), &id);
        assert_eq!(client.receive(5), b"only\n");
        assert_eq!(client.receive(login(&id).len()), login(&id));
        client.echo(b"after a handover");
        kept.push(client);
    }
    let handed = gateway.metric("corelane_handovers_total{shard=\"1\"}");
    assert!(handed > 10.0, "{handed} of 100 were handed over");
}
