//! `[listener.tls]` and `[pool.NAME.tls]` as they are written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::fault::Problem;
use crate::config::limits;
use crate::config::quantity::Count;
use crate::config::shape::{Shape, Slot, table_shapes};
use crate::config::value::{Flag, Named, OneOf};
use crate::tls::{ClientCertificates, NameFrom, UnknownName, Version};

table_shapes!(ListenerTls, Certificate, PoolTls);

/// TLS of a listener; without this table clients connect in plain.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["certificate"]))]
pub struct ListenerTls {
    /// Whom the listener says it is. The client's name decides which is shown; the first is shown
    /// to clients without a name.
    pub certificate: Slot<Vec<Slot<Certificate>>>,
    /// Lowest version that is spoken: "1.2" or "1.3".
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Slot<OneOf<Version>>,
    /// Protocols that clients may agree on (ALPN), the best first; empty: none is agreed on.
    /// Default: none, and "http/1.1" where the listener's protocol is "http".
    pub alpn: Slot<Vec<Slot<String>>>,
    /// Deadline for the handshake, from accept.
    #[schemars(transform = limits::HANDSHAKE_TIMEOUT.describe())]
    pub handshake_timeout: Slot<Duration>,
    /// Handshakes under way at once, per core; further ones wait their turn.
    #[schemars(transform = limits::MAX_HANDSHAKES.describe())]
    pub max_handshakes: Slot<Count>,
    /// Whether clients that come back may resume their session by a ticket.
    #[schemars(extend("default" = true))]
    pub resumption: Slot<Flag>,
    /// What clients get whose name no certificate has: "default" is the first certificate,
    /// "reject" none, also without a name.
    #[schemars(extend("default" = "default"))]
    pub unknown_name: Slot<OneOf<UnknownName>>,
    /// Whether clients show certificates: "off", "optional" or "required".
    #[schemars(extend("default" = "off"))]
    pub client_certificates: Slot<OneOf<ClientCertificates>>,
    /// PEM file of the authorities that sign clients' certificates.
    pub client_ca_file: Slot<String>,
}

/// A certificate chain and its key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields, extend("required" = ["cert_file", "key_file"]))]
pub struct Certificate {
    /// PEM file of the certificate, then of those that signed it.
    pub cert_file: Slot<String>,
    /// PEM file of its private key.
    pub key_file: Slot<String>,
}

/// TLS to the backends; without this table they are connected to in plain.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct PoolTls {
    /// The name that a backend's certificate must have: a DNS name or an IP address.
    pub server_name: Slot<String>,
    /// Takes the name from the session instead: "sni" is the one the client asked our listener
    /// for, "host" the host of its request. server_name stands in where there is none.
    pub server_name_from: Slot<OneOf<NameFrom>>,
    /// PEM file of the authorities to believe, instead of the public ones.
    pub ca_file: Slot<String>,
    /// PEM file of our own certificate, if backends ask for one.
    pub cert_file: Slot<String>,
    /// PEM file of its private key.
    pub key_file: Slot<String>,
    /// Lowest version that is spoken: "1.2" or "1.3".
    #[schemars(extend("default" = "1.2"))]
    pub min_version: Slot<OneOf<Version>>,
    /// Protocols to ask for (ALPN), the best first; empty: none.
    #[schemars(extend("default" = []))]
    pub alpn: Slot<Vec<Slot<String>>>,
    /// Whether any certificate will do, so that anybody in between can read and change what is
    /// sent.
    #[schemars(extend("default" = false))]
    pub insecure: Slot<Flag>,
}

impl Named for Version {
    const WHAT: &'static str = "version";
    const NAMES: &'static [(&'static str, Self)] =
        &[("1.2", Version::Tls12), ("1.3", Version::Tls13)];

    fn reserved(name: &str) -> Option<&'static str> {
        matches!(name, "1.0" | "1.1").then_some("too old to be safe (RFC 8996)")
    }
}

impl Named for UnknownName {
    const WHAT: &'static str = "policy";
    const NAMES: &'static [(&'static str, Self)] =
        &[("default", UnknownName::Default), ("reject", UnknownName::Reject)];
}

impl Named for ClientCertificates {
    const WHAT: &'static str = "policy";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("off", ClientCertificates::Off),
        ("optional", ClientCertificates::Optional),
        ("required", ClientCertificates::Required),
    ];
}

impl Named for NameFrom {
    const WHAT: &'static str = "source of a name";
    const NAMES: &'static [(&'static str, Self)] =
        &[("sni", NameFrom::Sni), ("host", NameFrom::Host)];
}
