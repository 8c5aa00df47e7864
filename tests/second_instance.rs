//! A second gateway on the same port is refused with a clear message, not silently shared; a
//! restart right after the first one ended is not refused.

mod gateway;

use gateway::backend::Backend;
use gateway::client::Client;
use gateway::{Gateway, Start, frame_config, run_to_end};

#[test]
fn a_second_instance_is_refused_and_the_first_goes_on() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "");
    let first = Gateway::start(&toml);
    let address = first.address("devices");
    let fixed = toml.replace("127.0.0.1:0", &address.to_string());
    let (code, said) = run_to_end(&fixed, &Start::default());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(said.contains("another process listens there"), "{said}");
    let mut client = Client::login(address, "a");
    assert_eq!(client.receive(5), b"only\n");
}

#[test]
fn a_restart_takes_the_port_over() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "");
    let mut first = Gateway::start(&toml);
    let address = first.address("devices");
    let fixed = toml.replace("127.0.0.1:0", &address.to_string());
    let mut client = Client::login(address, "a");
    assert_eq!(client.receive(5), b"only\n");
    first.signal("TERM");
    client.fin();
    assert!(first.wait().success());
    let second = Gateway::start(&fixed);
    let mut client = Client::login(second.address("devices"), "a");
    assert_eq!(client.receive(5), b"only\n");
}

#[test]
fn of_many_that_start_in_the_same_moment_one_runs() {
    let backend = Backend::echo("only");
    for _ in 0..5 {
        let port = gateway::backend::refusing_address();
        let toml = frame_config(&[backend], "", "").replace("127.0.0.1:0", &port.to_string());
        let starts: Vec<_> = (0..4)
            .map(|_| {
                let toml = toml.clone();
                std::thread::spawn(move || Gateway::try_start(&toml))
            })
            .collect();
        // Kept until all have decided: one that ends makes room for the next.
        let running: Vec<Gateway> =
            starts.into_iter().filter_map(|start| start.join().unwrap()).collect();
        assert_eq!(running.len(), 1);
    }
}

#[test]
fn a_successor_may_start_while_the_first_still_drains() {
    let backend = Backend::echo("only");
    let toml = frame_config(&[backend], "", "");
    let mut first = Gateway::start(&toml);
    let address = first.address("devices");
    let fixed = toml.replace("127.0.0.1:0", &address.to_string());
    let mut old = Client::login(address, "a");
    assert_eq!(old.receive(5), b"only\n");
    old.receive(gateway::client::login("a").len());
    first.signal("TERM");
    let second = Gateway::start(&fixed);
    let mut new = Client::login(second.address("devices"), "b");
    assert_eq!(new.receive(5), b"only\n");
    old.echo(b"the old session lives on");
    old.fin();
    assert!(first.wait().success());
    new.receive(gateway::client::login("b").len());
    new.echo(b"and so does the new one");
}
