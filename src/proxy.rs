//! PROXY protocol versions 1 and 2, in and out (haproxy.org/download/3.0/doc/proxy-protocol.txt).
//!
//! Bounds and the decision to wait are ours; fields are parsed and built by `ppp`. Pure.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// Longest version 1 header, bytes, from its specification.
const V1_LEN_MAX: usize = 107;
/// Longest version 2 header we take, bytes. Addresses need 52; the rest is room for TLVs.
pub const HEADER_LEN_MAX: usize = 2048;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_PREFIX: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// Undecided; at least this many bytes in all are needed.
    NeedMore(usize),
    /// A header of this length, with source and destination unless it says that the proxy speaks
    /// for itself (LOCAL), does not know (UNKNOWN), or names no IP addresses.
    Complete {
        /// Bytes to remove from the front.
        len: usize,
        /// Source and destination.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
    /// Not a header, or one over the bounds.
    Invalid,
}

/// Reads a header at the start of a connection.
pub fn read(bytes: &[u8]) -> Header {
    if starts_alike(bytes, V2_PREFIX) {
        return read_v2(bytes);
    }
    if starts_alike(bytes, V1_PREFIX) {
        return read_v1(bytes);
    }
    Header::Invalid
}

/// Whether these first bytes are, or may become, a header. For peers that may not send one.
pub fn looks_like_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_PREFIX) || bytes.starts_with(V2_PREFIX)
}

fn starts_alike(bytes: &[u8], prefix: &[u8]) -> bool {
    let len = bytes.len().min(prefix.len());
    bytes[..len] == prefix[..len]
}

fn read_v1(bytes: &[u8]) -> Header {
    let window = &bytes[..bytes.len().min(V1_LEN_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_LEN_MAX {
            Header::NeedMore(bytes.len() + 1)
        } else {
            Header::Invalid
        };
    };
    let len = end + 2;
    let Ok(header) = v1::Header::try_from(&bytes[..len]) else {
        return Header::Invalid;
    };
    let addresses = match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        v1::Addresses::Tcp6(ip) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        v1::Addresses::Unknown => None,
    };
    Header::Complete { len, addresses }
}

fn read_v2(bytes: &[u8]) -> Header {
    const FIXED: usize = 16;
    let Some(fixed) = bytes.get(..FIXED) else {
        return Header::NeedMore(FIXED);
    };
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > HEADER_LEN_MAX {
        return Header::Invalid;
    }
    let Some(whole) = bytes.get(..len) else {
        return Header::NeedMore(len);
    };
    let Ok(header) = v2::Header::try_from(whole) else {
        return Header::Invalid;
    };
    // UDP over a TCP connection cannot be.
    if header.protocol == v2::Protocol::Datagram {
        return Header::Invalid;
    }
    let addresses = match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((
            SocketAddr::new(ip.source_address.into(), ip.source_port),
            SocketAddr::new(ip.destination_address.into(), ip.destination_port),
        )),
        _ => None,
    };
    Header::Complete { len, addresses }
}

/// A version 2 header for a backend. Without addresses (UNIX clients) it is LOCAL.
///
/// Addresses of different families are both written as IPv6, the IPv4 one mapped.
pub fn build(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let version_command = |command| v2::Version::Two | command;
    let built = match addresses {
        None => v2::Builder::new(
            version_command(v2::Command::Local),
            v2::AddressFamily::Unspecified | v2::Protocol::Unspecified,
        )
        .build(),
        Some((source, destination)) => v2::Builder::with_addresses(
            version_command(v2::Command::Proxy),
            v2::Protocol::Stream,
            same_family(source, destination),
        )
        .build(),
    };
    // ppp fails only when a payload passes 65,535 bytes; addresses have at most 36.
    built.unwrap_or_default()
}

fn same_family(source: SocketAddr, destination: SocketAddr) -> v2::Addresses {
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            v2::IPv4::new(from, to, source.port(), destination.port()).into()
        }
        (from, to) => {
            let mapped = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            v2::IPv6::new(mapped(from), mapped(to), source.port(), destination.port()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_we_build_is_what_we_read_at_every_split() {
        for (source, destination) in
            [("192.0.2.1:1234", "198.51.100.2:9000"), ("[2001:db8::1]:1", "[2001:db8::2]:2")]
        {
            let built = build(Some((addr(source), addr(destination))));
            for len in 0..built.len() {
                let Header::NeedMore(need) = read(&built[..len]) else {
                    panic!("decided after {len} bytes");
                };
                assert!(need > len && need <= built.len());
            }
            let addresses = Some((addr(source), addr(destination)));
            let expected = Header::Complete { len: built.len(), addresses };
            assert_eq!(read(&built), expected);
            let mut followed = built.clone();
            followed.extend_from_slice(b"payload");
            assert_eq!(read(&followed), expected);
        }
    }

    #[test]
    fn without_addresses_the_header_is_local() {
        let built = build(None);
        assert_eq!(built.len(), 16);
        assert_eq!(read(&built), Header::Complete { len: 16, addresses: None });
    }

    #[test]
    fn version_1_is_read_at_every_split() {
        let text = b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 9000\r\n";
        for len in 0..text.len() {
            assert!(matches!(read(&text[..len]), Header::NeedMore(_)), "{len}");
        }
        let addresses = Some((addr("192.0.2.1:1234"), addr("198.51.100.2:9000")));
        assert_eq!(read(text), Header::Complete { len: text.len(), addresses });
        assert_eq!(read(b"PROXY UNKNOWN\r\nrest"), Header::Complete { len: 15, addresses: None });
    }

    #[test]
    fn what_is_not_a_header_is_invalid_at_once() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"\x01\x01\x00", b"PROXX", b"\r\n\r\nX"] {
            assert_eq!(read(bytes), Header::Invalid, "{bytes:?}");
        }
        let mut long = b"PROXY TCP4 ".to_vec();
        long.resize(V1_LEN_MAX, b'1');
        assert_eq!(read(&long), Header::Invalid);
        assert_eq!(read(b"PROXY TCP4 a b c d\r\n"), Header::Invalid);
        let mut lying = build(None);
        lying[14] = 0xff;
        assert_eq!(read(&lying), Header::Invalid, "announces 65,280 bytes");
        let mut version = build(None);
        version[12] = 0x31;
        assert_eq!(read(&version), Header::Invalid, "version 3");
        let mut datagram = build(Some((addr("192.0.2.1:1"), addr("192.0.2.2:2"))));
        datagram[13] = 0x12;
        assert_eq!(read(&datagram), Header::Invalid, "UDP");
    }

    #[test]
    fn unix_addresses_and_tlvs_are_read_past() {
        let mut unix = build(None);
        unix[12] = 0x21;
        unix[13] = 0x31;
        unix[14..16].copy_from_slice(&216u16.to_be_bytes());
        unix.resize(16 + 216, 0);
        assert_eq!(read(&unix), Header::Complete { len: 232, addresses: None });
        let mut tlv = build(Some((addr("192.0.2.1:1"), addr("192.0.2.2:2"))));
        tlv.extend_from_slice(&[0xea, 0, 3, 1, 2, 3]);
        tlv[15] += 6;
        let addresses = Some((addr("192.0.2.1:1"), addr("192.0.2.2:2")));
        assert_eq!(read(&tlv), Header::Complete { len: tlv.len(), addresses });
    }

    #[test]
    fn random_bytes_never_panic() {
        let seed = 0x5eed_u64;
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        for round in 0..50_000 {
            let mut bytes = if round % 2 == 0 { V2_PREFIX.to_vec() } else { V1_PREFIX.to_vec() };
            let len = usize::from(next()) % 64;
            bytes.extend((0..len).map(|_| next()));
            match read(&bytes) {
                Header::Complete { len, .. } => assert!(len <= bytes.len(), "seed {seed:#x}"),
                Header::NeedMore(need) => assert!(need > bytes.len(), "seed {seed:#x}"),
                Header::Invalid => {}
            }
        }
    }
}
