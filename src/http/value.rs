//! What a value from a caller may be before it becomes part of something else: a DNS name, a key in
//! Redis, the name of a file, an address.
//!
//! A value that is not valid is never repaired: what is escaped or cut could be somebody else's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// What a value becomes a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A key that a pool balances by: anything but nothing, up to [`KEY_LEN_MAX`] bytes.
    ///
    /// [`KEY_LEN_MAX`]: crate::key::KEY_LEN_MAX
    PoolKey,
    /// Part of one label of a DNS name: letters, digits and "-". Points would add labels.
    DnsLabel,
    /// Part of a key or field in Redis: visible ASCII, or nothing at all.
    RedisKey,
    /// Part of a file's name: letters, digits and "-_.:[]", not beginning with a point.
    FileName,
    /// Part of a field's value: no control bytes.
    FieldValue,
}

/// Longest value that becomes part of a name, bytes.
pub const PART_LEN_MAX: usize = 255;

macro_rules! unfits {
    ($($(#[$doc:meta])* $variant:ident => $label:literal;)*) => {
        /// Why a value, or what was made of it, is not used.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Unfit { $($(#[$doc])* $variant),* }

        impl Unfit {
            /// Every reason, in declaration order; `ALL[u as usize] == u`.
            pub const ALL: &'static [Unfit] = &[$(Unfit::$variant),*];

            /// The stable name in metrics and logs.
            pub fn label(self) -> &'static str {
                match self { $(Unfit::$variant => $label),* }
            }
        }
    };
}

unfits! {
    /// Nothing in it.
    Empty => "empty";
    /// Longer than it may be.
    TooLong => "too_long";
    /// A byte that it may not have.
    ByteNotAllowed => "byte_not_allowed";
    /// There under one name more than once, so that nobody can say which one is meant.
    Several => "several";
    /// A label of a DNS name is empty, over 63 bytes, or has "-" at an end.
    LabelInvalid => "label_invalid";
    /// Not "IP:PORT".
    AddressInvalid => "address_invalid";
    /// An address outside the allowed networks.
    NetworkNotAllowed => "network_not_allowed";
    /// A port outside the allowed ones.
    PortNotAllowed => "port_not_allowed";
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Unfit {}

/// Whether a value may become part of this.
///
/// # Errors
/// Why not.
pub fn check(value: &[u8], purpose: Purpose) -> Result<(), Unfit> {
    let (len_max, may_be_empty) = match purpose {
        Purpose::PoolKey => (crate::key::KEY_LEN_MAX, false),
        Purpose::DnsLabel => (LABEL_LEN_MAX, false),
        Purpose::FileName => (PART_LEN_MAX, false),
        Purpose::RedisKey => (PART_LEN_MAX, true),
        Purpose::FieldValue => (usize::MAX, true),
    };
    if value.is_empty() && !may_be_empty {
        return Err(Unfit::Empty);
    }
    if value.len() > len_max {
        return Err(Unfit::TooLong);
    }
    let allowed = |byte: &u8| match purpose {
        Purpose::PoolKey => true,
        Purpose::DnsLabel => byte.is_ascii_alphanumeric() || *byte == b'-',
        Purpose::RedisKey => byte.is_ascii_graphic(),
        Purpose::FileName => byte.is_ascii_alphanumeric() || b"-_.:[]".contains(byte),
        Purpose::FieldValue => is_field_byte(*byte),
    };
    let hidden = purpose == Purpose::FileName && value.starts_with(b".");
    if hidden || !value.iter().all(allowed) {
        return Err(Unfit::ByteNotAllowed);
    }
    Ok(())
}

/// Whether a byte may stand in a field's value: CR, LF, NUL and every other control byte but the
/// tab would end it, or what reads it.
pub(super) fn is_field_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Longest label of a DNS name, bytes.
const LABEL_LEN_MAX: usize = 63;

/// Longest DNS name as it is written, without the point of the root.
const DNS_NAME_LEN_MAX: usize = 253;

/// Whether a whole text is a host's name in DNS: labels of letters, digits, "-" and "_", none with
/// "-" at an end. One point may stand at the end.
///
/// # Errors
/// Why not.
pub fn dns_name(name: &[u8]) -> Result<(), Unfit> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err(Unfit::Empty);
    }
    if name.len() > DNS_NAME_LEN_MAX {
        return Err(Unfit::TooLong);
    }
    for label in name.split(|byte| *byte == b'.') {
        let good = (1..=LABEL_LEN_MAX).contains(&label.len())
            && !label.starts_with(b"-")
            && !label.ends_with(b"-");
        if !good {
            return Err(Unfit::LabelInvalid);
        }
        if !label.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)) {
            return Err(Unfit::ByteNotAllowed);
        }
    }
    Ok(())
}

/// Whether a whole text is the name of a file, without a folder.
///
/// # Errors
/// Why not.
pub fn file_name(name: &[u8]) -> Result<(), Unfit> {
    check(name, Purpose::FileName)
}

/// Where a lookup may send callers, so that who can write to a store cannot reach everything that
/// we can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Networks; an address has to be in one of them.
    pub networks: Vec<IpNet>,
    /// Ports; a port has to be in one of the ranges.
    pub ports: Vec<RangeInclusive<u16>>,
}

impl Allowed {
    /// Whether callers may be sent there. IPv4 addresses that are written as IPv6 count as IPv4.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: SocketAddr) -> Result<(), Unfit> {
        let ip: IpAddr = address.ip().to_canonical();
        if ip.is_unspecified()
            || ip.is_multicast()
            || !self.networks.iter().any(|network| network.contains(&ip))
        {
            return Err(Unfit::NetworkNotAllowed);
        }
        if address.port() == 0 || !self.ports.iter().any(|ports| ports.contains(&address.port())) {
            return Err(Unfit::PortNotAllowed);
        }
        Ok(())
    }

    /// The address that a store holds: `IP:PORT` or `[IPv6]:PORT` and nothing else, if callers may
    /// be sent there.
    ///
    /// # Errors
    /// Why not.
    pub fn address(&self, text: &[u8]) -> Result<SocketAddr, Unfit> {
        let text = std::str::from_utf8(text).ok().ok_or(Unfit::AddressInvalid)?;
        let address: SocketAddr = text.parse().ok().ok_or(Unfit::AddressInvalid)?;
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.check(address).map(|()| address)
    }
}

/// What a store says for nothing: no value, an empty one, or a null that somebody wrote as text.
pub fn means_nothing(value: &[u8]) -> bool {
    matches!(value, b"" | b"null" | b"NULL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_the_bytes_of_their_purpose() {
        let long = [b'a'; 256];
        let cases: &[(Purpose, &[u8], Result<(), Unfit>)] = &[
            (Purpose::DnsLabel, b"12-a", Ok(())),
            (Purpose::DnsLabel, b"", Err(Unfit::Empty)),
            (Purpose::DnsLabel, b"1.evil", Err(Unfit::ByteNotAllowed)),
            (Purpose::DnsLabel, b"1_a", Err(Unfit::ByteNotAllowed)),
            (Purpose::DnsLabel, b"1\0", Err(Unfit::ByteNotAllowed)),
            (Purpose::DnsLabel, &long[..63], Ok(())),
            (Purpose::DnsLabel, &long[..64], Err(Unfit::TooLong)),
            (Purpose::RedisKey, b"", Ok(())),
            (Purpose::RedisKey, b"a:b{c}", Ok(())),
            (Purpose::RedisKey, b"a b", Err(Unfit::ByteNotAllowed)),
            (Purpose::RedisKey, b"a\r\nDEL x", Err(Unfit::ByteNotAllowed)),
            (Purpose::RedisKey, "é".as_bytes(), Err(Unfit::ByteNotAllowed)),
            (Purpose::FileName, b"10.0.0.1:80", Ok(())),
            (Purpose::FileName, b"[::1]:80", Ok(())),
            (Purpose::FileName, b"../x", Err(Unfit::ByteNotAllowed)),
            (Purpose::FileName, b"a/b", Err(Unfit::ByteNotAllowed)),
            (Purpose::FileName, b"..", Err(Unfit::ByteNotAllowed)),
            (Purpose::PoolKey, b"\0\n", Ok(())),
            (Purpose::PoolKey, &long, Ok(())),
            (Purpose::FieldValue, b"a\tb \xff", Ok(())),
            (Purpose::FieldValue, b"a\r\nX: y", Err(Unfit::ByteNotAllowed)),
            (Purpose::FieldValue, b"a\x7f", Err(Unfit::ByteNotAllowed)),
        ];
        for (purpose, value, expected) in cases {
            let value = (*value, *purpose);
            assert_eq!(check(value.0, value.1), *expected, "{value:?}");
        }
    }

    #[test]
    fn names_in_dns() {
        for name in ["zone12-mail.svc.cluster.local", "a", "a.b.", "_sip._tcp.x", "3.x"] {
            assert_eq!(dns_name(name.as_bytes()), Ok(()), "{name}");
        }
        let label = "a".repeat(64);
        let long = "a.".repeat(128);
        for name in ["", ".", "a..b", ".a", "-a.b", "a-.b", "a b", "a/b", &label, &long] {
            assert!(dns_name(name.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn only_allowed_addresses_are_used() {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|n| n.parse().expect("a network"));
        let allowed = Allowed { networks: networks.to_vec(), ports: vec![80..=80, 8000..=8999] };
        let read = |text: &str| allowed.address(text.as_bytes()).map(|a| a.to_string());
        assert_eq!(read("10.1.2.3:8080"), Ok("10.1.2.3:8080".to_string()));
        assert_eq!(read("[::ffff:10.1.2.3]:80"), Ok("10.1.2.3:80".to_string()));
        assert_eq!(read("[fd00::1]:80"), Ok("[fd00::1]:80".to_string()));
        for text in ["127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(read(text), Err(Unfit::NetworkNotAllowed), "{text}");
        }
        for text in ["10.0.0.1:22", "10.0.0.1:0", "10.0.0.1:9000"] {
            assert_eq!(read(text), Err(Unfit::PortNotAllowed), "{text}");
        }
        for text in
            ["", "10.0.0.1", "10.0.0.1:80 ", "h:80", "10.0.0.1:80\n", "unix:/x", "0x7f.1:80"]
        {
            assert_eq!(read(text), Err(Unfit::AddressInvalid), "{text}");
        }
    }
}
