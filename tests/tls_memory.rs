//! What an idle session costs the gateway, in plain and inside TLS: no buffer is held for silence.

mod gateway;
mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;

use gateway::Gateway;
use gateway::backend::Backend;
use tls::{Authority, ClientSettings, SecureBackend, client, echo, tcp_config, tls_table};
use tokio_rustls::rustls::version::{TLS12, TLS13};

/// Sessions of each kind. More, by this variable, make a better measurement.
fn sessions() -> usize {
    std::env::var("SESSIONS").map_or(200, |text| text.parse().expect("a number"))
}

/// Resident bytes that each of some idle sessions adds, after some that warm everything up.
fn bytes_each<T>(gateway: &Gateway, mut connect: impl FnMut() -> T) -> u64 {
    let warm: Vec<T> = (0..20).map(|_| connect()).collect();
    let before = gateway.resident_bytes();
    let idle: Vec<T> = (0..sessions()).map(|_| connect()).collect();
    let each = gateway.resident_bytes().saturating_sub(before) / idle.len() as u64;
    drop((warm, idle));
    each
}

#[test]
fn an_idle_session_holds_its_keys_and_no_buffers() {
    let authority = Authority::new("test");
    let files = authority.sign("a", &["a.test"]);
    let backend = Backend::echo("");
    let start = |toml: String| {
        Gateway::start(&toml.replace("max_connections = 1000", "max_connections = 6000"))
    };
    let plain = start(tcp_config(&[backend], "", ""));
    let address = plain.address("secure");
    let in_plain = bytes_each(&plain, || {
        let mut socket: TcpStream = tls::connect(address);
        echo(&mut socket, &[7; 4000]);
        socket
    });
    println!("plain: {in_plain} bytes");
    let table = tls_table("", &[&files]);
    for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let secured = start(tcp_config(&[backend], &table, ""));
        let settings = ClientSettings { versions: &[version], ..ClientSettings::default() };
        let config = authority.client(&settings);
        let address = secured.address("secure");
        let each = bytes_each(&secured, || {
            let mut client = client(address, "a.test", &config);
            echo(&mut client, &[7; 4000]);
            client
        });
        println!("TLS {name}: {each} bytes");
        assert!(each < in_plain + 12_000, "TLS {name}: {each} bytes, in plain {in_plain}");
    }
    let inner = authority.server(&authority.sign("b", &["b.test"]), false);
    let backend = SecureBackend::start(&inner);
    let pool =
        format!("[pool.p.tls]\nserver_name = \"b.test\"\nca_file = \"{}\"\n", authority.ca_file());
    let both = start(tcp_config(&[backend.address], &table, &pool));
    let config = authority.client(&ClientSettings::default());
    let each = bytes_each(&both, || {
        let mut client = client(both.address("secure"), "a.test", &config);
        let mut served = backend.accept().unwrap();
        client.write_all(&[7; 4000]).unwrap();
        let mut bytes = [0; 4000];
        served.read_exact(&mut bytes).unwrap();
        (client, served)
    });
    println!("TLS 1.3 on both sides: {each} bytes");
    assert!(each < in_plain + 24_000, "{each} bytes");
}
