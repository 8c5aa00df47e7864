//! Past `max_connections` a connection is refused at once and counted; room made is used again.

mod gateway;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use gateway::backend::Backend;
use gateway::client::{Client, Closed};
use gateway::{Gateway, frame_config};

#[test]
fn the_cap_holds_over_all_shards_and_frees_up() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "")
        .replace("max_connections = 1000", "max_connections = 10")
        .replace("cores = [0]", "cores = \"auto\"");
    let gateway = Gateway::start(&toml);
    let address = gateway.address("devices");
    let mut open: Vec<Client> = (0..10).map(|n| Client::login(address, &format!("{n}"))).collect();
    for client in &mut open {
        assert_eq!(client.receive(5), b"only\n");
    }
    for _ in 0..5 {
        assert_refused(address);
    }
    let rejected =
        "corelane_admission_rejected_total{listener=\"devices\",reason=\"max_connections\"}";
    gateway.wait_metric(rejected, 5.0);
    gateway.wait_metric("corelane_connections_active{listener=\"devices\"}", 10.0);

    open.truncate(5);
    gateway.wait_metric("corelane_connections_active{listener=\"devices\"}", 5.0);
    for n in 0..5 {
        let mut client = Client::login(address, &format!("again-{n}"));
        assert_eq!(client.receive(5), b"only\n");
        open.push(client);
    }
    gateway.wait_metric(rejected, 5.0);
}

/// The reset may arrive before connect(2) has returned.
fn assert_refused(address: SocketAddr) {
    match TcpStream::connect_timeout(&address, gateway::DEADLINE) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        Ok(stream) => {
            stream.set_read_timeout(Some(gateway::DEADLINE)).unwrap();
            let (bytes, closed) = Client { stream }.read_to_end();
            assert_eq!((bytes.len(), closed), (0, Closed::Reset));
        }
    }
}
