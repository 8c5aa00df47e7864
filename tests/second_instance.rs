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
