//! Every key of TLS means what it says.

mod gateway;
mod tls;

use std::time::Duration;

use corelane::config::{Config, Environment, MissingKey, Protocol, TcpKey, parse};
use corelane::tls::{ClientCertificates, NameFrom, UnknownName, Version};
use tls::{Authority, tls_table};

fn parsed(text: &str) -> (Config, Vec<String>) {
    let environment = Environment { variable: &|_| None, cores: vec![0], descriptors_max: 20_000 };
    let loaded = parse(text, "tls.toml", &environment).unwrap_or_else(|faults| panic!("{faults}"));
    (loaded.config, loaded.warnings.into_iter().map(|warning| warning.path).collect())
}

fn config(authority: &Authority, tls: &str, tcp: &str, pool: &str) -> (Config, Vec<String>) {
    let files = authority.sign("a", &["a.test", "*.A.test"]);
    parsed(&format!(
        "[[listener]]\nname = \"a\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"tcp\"\npool = \"p\"\n{}\n\
         {tcp}\n[pool.p]\nbalance = \"random\"\nbackends = [\"127.0.0.1:2\"]\n{pool}\n\
         [pool.q]\nbalance = \"random\"\nbackends = [\"127.0.0.1:3\"]\n",
        tls_table(tls, &[&files])
    ))
}

#[test]
fn of_a_listener() {
    let authority = Authority::new("test");
    let keys = format!(
        "min_version = \"1.3\"\nalpn = [\"mqtt\", \"http/1.1\"]\nhandshake_timeout = \"3s\"\n\
         max_handshakes = 7\nresumption = false\nunknown_name = \"reject\"\n\
         client_certificates = \"optional\"\nclient_ca_file = \"{}\"",
        authority.ca_file()
    );
    let (config, _) = config(&authority, &keys, "", "");
    let tls = config.listeners[0].tls.as_ref().expect("TLS");
    let settings = &tls.settings;
    assert_eq!(settings.min_version, Version::Tls13);
    assert_eq!(settings.alpn, [b"mqtt".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(settings.handshake_timeout, Duration::from_secs(3));
    assert_eq!(settings.max_handshakes, 7);
    assert!(!settings.resumption);
    assert_eq!(settings.unknown_name, UnknownName::Reject);
    assert_eq!(settings.clients, ClientCertificates::Optional);
    assert_eq!(tls.identities[0].names, ["a.test", "*.a.test"]);
    assert!(config.pools[0].tls.is_none());
}

#[test]
fn of_a_key_by_name() {
    let authority = Authority::new("test");
    let tcp = "[listener.tcp]\nkey = \"sni\"\nmissing_key = \"pool:q\"\ntimeout = \"9s\"\n\
               names = { \"A.test\" = \"q\", \"*.b.test\" = \"p\" }";
    let (config, _) = config(&authority, "", tcp, "");
    let Protocol::Tcp { key: Some(TcpKey::Sni(sni)) } = &config.listeners[0].protocol else {
        panic!("not by name")
    };
    assert_eq!((sni.missing_key, sni.timeout), (MissingKey::Pool(1), Duration::from_secs(9)));
    for (name, pool) in
        [("a.test", Some(1)), ("x.b.test", Some(0)), ("b.test", None), ("x.y.b.test", None)]
    {
        assert_eq!(sni.pool(name), pool, "{name}");
    }
}

#[test]
fn of_a_pool() {
    let authority = Authority::new("test");
    let own = authority.sign("own", &["own.test"]);
    let pool = format!(
        "[pool.p.tls]\nserver_name = \"b.test\"\nserver_name_from = \"host\"\nca_file = \"{}\"\n\
         cert_file = \"{}\"\nkey_file = \"{}\"\nmin_version = \"1.3\"\nalpn = [\"http/1.1\"]\n",
        authority.ca_file(),
        own.cert.display(),
        own.key.display()
    );
    let (with, warnings) = config(&authority, "", "", &pool);
    assert_eq!(warnings, ["pool.q"], "nobody uses it");
    let tls = with.pools[0].tls.as_ref().expect("TLS");
    assert_eq!(
        tls.settings.name.as_ref().map(|name| name.to_str().into_owned()).as_deref(),
        Some("b.test")
    );
    assert_eq!(tls.settings.name_from, Some(NameFrom::Host));
    assert_eq!(tls.settings.min_version, Version::Tls13);
    assert_eq!(tls.settings.alpn, [b"http/1.1".to_vec()]);
    assert!(!tls.settings.insecure);
    assert!(tls.config.client_auth_cert_resolver.has_certs());
    let (again, _) = config(&authority, "", "", &pool);
    assert_eq!(with.pools[0], again.pools[0], "the same files are the same");
    assert_ne!(with.listeners[0], again.listeners[0], "a certificate made anew is not");
    let insecure = "[pool.p.tls]\nserver_name = \"127.0.0.1\"\ninsecure = true\n";
    let (with, warnings) = config(&authority, "", "", insecure);
    assert_eq!(warnings, ["pool.p.tls.insecure", "pool.q"]);
    assert!(with.pools[0].tls.as_ref().is_some_and(|tls| tls.settings.insecure));
}
