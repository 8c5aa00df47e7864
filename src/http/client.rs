//! What rules, templates and forwarding fields know of a request: its head, and who sent it.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Version;
use super::request::RequestHead;

/// A request and where it came from.
#[derive(Debug, Clone)]
pub struct Request<'b> {
    /// The buffer that the head was read from.
    pub bytes: &'b [u8],
    /// Its head.
    pub head: &'b RequestHead,
    /// The path that rules compare, see [`super::target::path`].
    pub path: Cow<'b, [u8]>,
    /// Who sent it.
    pub client: Client,
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's address, which a PROXY header may have told; `None` on a UNIX socket without.
    pub address: Option<SocketAddr>,
    /// Whether it spoke TLS with us.
    pub tls: bool,
    /// Whether what it says about others is believed, see [`is_trusted`].
    pub trusted: bool,
}

impl<'b> Request<'b> {
    /// A request that was read from `bytes`.
    pub fn new(bytes: &'b [u8], head: &'b RequestHead, client: Client) -> Request<'b> {
        Request { bytes, head, path: head.path(bytes), client }
    }

    /// The method.
    pub fn method(&self) -> &'b [u8] {
        self.head.method.of(self.bytes)
    }

    /// What is behind the "?"; empty without one.
    pub fn query(&self) -> &'b [u8] {
        self.head.query.map(|query| query.of(self.bytes)).unwrap_or_default()
    }

    /// The values of a field, in their order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.head.fields.all(self.bytes, name)
    }

    /// "http" or "https".
    pub fn scheme(&self) -> &'static str {
        if self.client.tls { "https" } else { "http" }
    }

    /// Whether a request that may have reached a backend may be sent to another (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE")
            && self.head.version >= Version::Http10
    }
}

/// Whether a peer is in one of the networks whose forwarding fields are believed. A peer without an
/// address is on a UNIX socket, and believed if `unix` is.
pub fn is_trusted(peer: Option<IpAddr>, networks: &[IpNet], unix: bool) -> bool {
    peer.map_or(unix, |ip| {
        let ip = ip.to_canonical();
        networks.iter().any(|network| network.contains(&ip))
    })
}

/// The client's address behind trusted proxies: the last address of the X-Forwarded-For fields that
/// is not trusted itself, or the first if all are. `None` if the fields hold something else on the
/// way, which makes everything before it worthless.
pub fn behind_proxies<'b>(
    fields: impl Iterator<Item = &'b [u8]>,
    networks: &[IpNet],
) -> Option<IpAddr> {
    let members: Vec<&[u8]> = fields.flat_map(super::list_members).collect();
    let mut farthest = None;
    for member in members.into_iter().rev() {
        let text = std::str::from_utf8(member).ok()?;
        let with_port = text.parse::<SocketAddr>().ok().map(|address| address.ip());
        let ip = text.parse::<IpAddr>().ok().or(with_port)?.to_canonical();
        farthest = Some(ip);
        if !is_trusted(Some(ip), networks, false) {
            break;
        }
    }
    farthest
}
