//! From the sets of several sources to the one list of a pool, in an order that every gateway
//! agrees on: it decides where a key goes.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use super::Member;
use crate::config::{Address, Backend};

/// The backends of a pool: first what the file pins, in its order; then the members of its sources,
/// those with an `order` by it and the others behind them, each by address.
///
/// An address that is pinned is as the file says. Of the sources the first that has an address
/// decides about it; `sets` are in file order. No set's own order counts.
pub fn merge<'m>(pinned: &[Backend], sets: impl IntoIterator<Item = &'m [Member]>) -> Vec<Backend> {
    let mut taken: HashSet<&Address> = pinned.iter().map(|backend| &backend.address).collect();
    let mut members: Vec<&Member> = Vec::new();
    for set in sets {
        // Only behind a set its addresses are taken: within one none is there twice.
        let first = members.len();
        members.extend(set.iter().filter(|member| !taken.contains(&member.address)));
        taken.extend(members.iter().skip(first).map(|member| &member.address));
    }
    members.sort_by(|a, b| compare(a, b));
    let backend = |member: &&Member| Backend {
        address: member.address.clone(),
        weight: member.weight,
        state: member.state,
    };
    pinned.iter().cloned().chain(members.iter().map(backend)).collect()
}

/// The order of members: by `order` number, those without one last, then by address.
pub fn compare(a: &Member, b: &Member) -> Ordering {
    let numbers = match (a.order, b.order) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    numbers.then_with(|| compare_addresses(&a.address, &b.address))
}

/// The order of addresses: IPv4, then IPv6, each by number, then by port; paths last, by bytes.
pub fn compare_addresses(a: &Address, b: &Address) -> Ordering {
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => a.cmp(b),
        (Address::Tcp(_), Address::Unix(_)) => Ordering::Less,
        (Address::Unix(_), Address::Tcp(_)) => Ordering::Greater,
        // `Path` has an order of its own, by components.
        (Address::Unix(a), Address::Unix(b)) => {
            a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendState;

    fn member(address: &str, order: Option<i64>) -> Member {
        let address = address.parse().expect(address);
        Member { address, weight: 1, state: BackendState::Ready, order }
    }

    fn pin(address: &str) -> Backend {
        let address = address.parse().expect(address);
        Backend { address, weight: 9, state: BackendState::Drain }
    }

    fn listed(backends: &[Backend]) -> Vec<String> {
        let show = |b: &Backend| match b.weight {
            1 => b.address.to_string(),
            weight => format!("{} ×{weight}", b.address),
        };
        backends.iter().map(show).collect()
    }

    #[test]
    fn the_order_is_by_number_then_by_address() {
        let set = [
            member("unix:/a/b", None),
            member("[::1]:1", None),
            member("10.0.0.10:1", None),
            member("unix:/a-b", None),
            member("10.0.0.9:10", None),
            member("10.0.0.9:9", None),
            member("10.0.0.1:1", Some(3)),
            member("unix:/z", Some(-1)),
            member("10.0.0.0:1", Some(3)),
        ];
        let expected = [
            "unix:/z",
            "10.0.0.0:1",
            "10.0.0.1:1",
            "10.0.0.9:9",
            "10.0.0.9:10",
            "10.0.0.10:1",
            "[::1]:1",
            "unix:/a-b",
            "unix:/a/b",
        ];
        assert_eq!(listed(&merge(&[], [&set[..]])), expected);
    }

    #[test]
    fn pins_win_and_the_first_source_decides() {
        let pins = [pin("10.0.0.3:1"), pin("10.0.0.1:1")];
        let first = [member("10.0.0.1:1", Some(1)), member("10.0.0.2:1", None)];
        let mut second = [member("10.0.0.2:1", Some(1)), member("10.0.0.0:1", None)];
        second[0].weight = 7;
        let merged = merge(&pins, [&first[..], &second[..]]);
        let expected = ["10.0.0.3:1 ×9", "10.0.0.1:1 ×9", "10.0.0.0:1", "10.0.0.2:1"];
        assert_eq!(listed(&merged), expected);
        assert_eq!(merged[0].state, BackendState::Drain);
        let other = merge(&pins, [&second[..], &first[..]]);
        assert_eq!(listed(&other)[2..], ["10.0.0.2:1 ×7".to_string(), "10.0.0.0:1".to_string()]);
    }

    /// SplitMix64.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn any_order_of_arrival_gives_the_same_list() {
        for seed in 0..500 {
            let mut random = seed;
            let mut set = |base: u64| -> Vec<Member> {
                let mut used = HashSet::new();
                let count = next(&mut random) % 12;
                let one = |_| {
                    let draw = next(&mut random);
                    let address = match draw % 4 {
                        0 => {
                            format!("unix:/{}", "ab/-".as_bytes()[(draw >> 8) as usize % 4] as char)
                                .replace("//", "/s")
                        }
                        1 => format!("[::{}]:{}", base, 1 + (draw >> 8) % 9),
                        _ => format!("10.0.{}.{}:7", base, (draw >> 8) % 9),
                    };
                    let order = draw.is_multiple_of(3).then_some((draw >> 16) as i64 % 3);
                    Member { weight: (draw >> 32) as u32 % 5 + 1, ..member(&address, order) }
                };
                (0..count).map(one).filter(|m| used.insert(m.address.clone())).collect()
            };
            let mut sets = [set(1), set(1), set(2)];
            let pins = [pin("10.0.1.3:7")];
            let merge_all = |sets: &[Vec<Member>; 3]| merge(&pins, sets.iter().map(Vec::as_slice));
            let expected = merge_all(&sets);
            let unique: HashSet<&Address> = expected.iter().map(|b| &b.address).collect();
            assert_eq!(unique.len(), expected.len(), "seed {seed}");
            let all: HashSet<&Address> =
                sets.iter().flatten().map(|m| &m.address).chain([&pins[0].address]).collect();
            assert_eq!(unique, all, "seed {seed}");
            for set in &mut sets {
                for index in (1..set.len()).rev() {
                    set.swap(index, next(&mut random) as usize % (index + 1));
                }
            }
            let again = merge_all(&sets);
            assert_eq!(format!("{again:?}"), format!("{expected:?}"), "seed {seed}");
        }
    }
}
