//! Every device reaches the backend that `crc32(devid) % N` names, on every shard, with its first
//! frame intact.

mod gateway;

use gateway::backend::Backend;
use gateway::client::{Client, login};
use gateway::{Gateway, frame_config};

#[test]
fn every_device_lands_on_the_backend_its_id_names() {
    let names = ["c2s-1", "c2s-2", "c2s-3"];
    let backends: Vec<_> = names.iter().map(|name| Backend::echo(name)).collect();
    let toml = frame_config(&backends, "", "").replace("cores = [0]", "cores = \"auto\"");
    let gateway = Gateway::start(&toml);
    let mut landed = [0; 3];
    let mut open = Vec::new();
    for n in 0..300 {
        let id = format!("86812021{n:07}");
        let mut client = Client::login(gateway.address("devices"), &id);
        let home = crc32fast::hash(id.as_bytes()) as usize % 3;
        let expected = [format!("{}\n", names[home]).into_bytes(), login(&id)].concat();
        assert_eq!(client.receive(expected.len()), expected, "device {id}");
        client.echo(b"more bytes, not framed at all");
        landed[home] += 1;
        open.push(client);
    }
    assert!(landed.iter().all(|n| *n > 50), "{landed:?}");
    let placed = gateway.metric("corelane_placements_total{pool=\"c2s\",reason=\"home\"}");
    assert!((placed - 300.0).abs() < 0.1, "{placed}");
    drop(open);
    let lines = gateway.session_lines(300);
    for line in lines {
        let key = line["key"].as_str().unwrap();
        let home = crc32fast::hash(key.as_bytes()) as usize % 3;
        assert_eq!(line["backend"], backends[home].to_string(), "{line}");
        assert_eq!(line["end"], "client_fin", "{line}");
    }
}

#[test]
fn numeric_ids_of_fifteen_digits_do_not_collide() {
    let backends: Vec<_> = (0..7).map(|n| Backend::echo(&format!("b{n}"))).collect();
    let gateway = Gateway::start(&frame_config(&backends, "", ""));
    for id in 868_120_212_345_670u64..868_120_212_345_680 {
        let body = format!("{{\"time\":1,\"devid\":{id},\"x\":[]}}");
        let mut client = Client::connect(gateway.address("devices"));
        client.send(&gateway::client::frame(1, body.as_bytes()));
        let home = crc32fast::hash(id.to_string().as_bytes()) as usize % 7;
        assert_eq!(client.receive(3), format!("b{home}\n").as_bytes());
    }
}

#[test]
fn what_was_pipelined_behind_the_first_frame_arrives_too() {
    let backend = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[backend.address], "", ""));
    let mut client = Client::connect(gateway.address("devices"));
    let mut bytes = login("a");
    bytes.extend_from_slice(&[0x5a; 9000]);
    client.send(&bytes);
    let mut accepted = backend.accept();
    assert_eq!(accepted.receive(bytes.len()), bytes);
}

#[test]
fn a_frame_followed_by_fin_gets_its_reply() {
    let backend = Backend::manual();
    let gateway = Gateway::start(&frame_config(&[backend.address], "", ""));
    let mut client = Client::login(gateway.address("devices"), "a");
    client.fin();
    let mut accepted = backend.accept();
    let (bytes, _) = accepted.read_to_end();
    assert_eq!(bytes, login("a"));
    accepted.send(b"the whole reply");
    accepted.fin();
    assert_eq!(client.read_to_end().0, b"the whole reply");
}
