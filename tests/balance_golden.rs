//! Where keys and sessions land: golden vectors, the order of nginx, shares, and a naive model.

use corelane::balance::{Algorithm, Balance, Candidates, Entry, PickState};

/// Backends of a pool: weight, whether usable, live sessions.
#[derive(Debug, Clone)]
struct Backends(Vec<(u32, bool, u32)>);

impl Candidates for Backends {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn weight(&self, index: usize) -> u32 {
        self.0[index].0
    }
    fn usable(&self, index: usize) -> bool {
        self.0[index].1
    }
    fn live(&self, index: usize) -> u32 {
        self.0[index].2
    }
}

/// An algorithm prepared for these backends, on ports from 1985.
fn prepared(algorithm: Algorithm, among: &Backends) -> Balance {
    let ids: Vec<String> =
        (0..among.count()).map(|index| format!("127.0.0.1:{}", 1_985 + index)).collect();
    let entry = |index: usize| Entry {
        id: &ids[index],
        weight: among.weight(index),
        ready: among.usable(index),
    };
    let entries: Vec<Entry<'_>> = (0..among.count()).map(entry).collect();
    Balance::prepare(algorithm, &entries, true)
}

/// One that needs to know nothing about backends.
fn bare(algorithm: Algorithm) -> Balance {
    Balance::prepare(algorithm, &[], true)
}

fn crc32_mod(count: usize) -> Balance {
    prepared(Algorithm::Crc32Mod, &weighted(&vec![1; count]))
}

fn weighted(weights: &[u32]) -> Backends {
    Backends(weights.iter().map(|weight| (*weight, true, 0)).collect())
}

/// Homes of the golden keys, one digit each, for weights 1, 1, 1 and for 5, 1, 2.
const EVEN: &str = "10001222202101210020221000110220001121221102022111112211202220212112\
    1201220020220202120111122011122020102000121101122200101000010012201";
const UNEVEN: &str = "00001202000001200000222000100020001120221000020111020200000020202102\
    0202220000220200020101022020022020102000220201222200100000010002200";

/// SplitMix64, for the tests' own choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 32) as u32) % limit
    }
}

/// The names of `count` picks: 'a' for the first backend.
fn turns(balance: &Balance, state: &mut PickState, among: &Backends, count: usize) -> String {
    (0..count)
        .map(|_| match balance.pick(b"", state, among) {
            Some(index) => char::from(b'a' + u8::try_from(index).unwrap()),
            None => '-',
        })
        .collect()
}

#[test]
fn crc32_mod_equals_the_golden_vectors() {
    let vectors = include_str!("hash_vectors.tsv");
    let mut count = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let key = columns[0].as_bytes();
        let number = |column: usize| columns[column].parse::<usize>().unwrap();
        assert_eq!(crc32fast::hash(key) as usize, number(1), "{line}");
        for (pool_len, column) in [(2, 2), (3, 3)] {
            let among = weighted(&vec![1; pool_len]);
            let mut state = PickState::new(pool_len, 0);
            // The vectors count from 1, as Lua does.
            let expected = Some(number(column) - 1);
            assert_eq!(crc32_mod(pool_len).home(key), expected, "{line}");
            assert_eq!(crc32_mod(pool_len).pick(key, &mut state, &among), expected, "{line}");
        }
        count += 1;
    }
    assert_eq!(count, 135);
    for (key, crc32) in [
        ("hello, world", 4_289_425_978_u32),
        ("", 0),
        ("123456789", 0xCBF4_3926),
        ("dev-0001", 1_459_567_867),
        ("868120212345678", 3_002_054_893),
    ] {
        let home = crc32_mod(3_000).home(key.as_bytes());
        assert_eq!(home, Some(crc32 as usize % 3_000), "{key}");
    }
}

/// A row of the vectors: the key, and the other columns.
fn vectors() -> Vec<(&'static [u8], Vec<&'static str>)> {
    let lines = include_str!("hash_vectors.tsv").lines().filter(|line| !line.starts_with('#'));
    let row = |line: &'static str| {
        let columns: Vec<&str> = line.split('\t').collect();
        (columns[0].as_bytes(), columns)
    };
    lines.map(row).collect()
}

/// What nginx, HAProxy and Envoy answered. The empty key takes its turn in nginx ("rr").
#[test]
fn keyed_algorithms_equal_the_golden_vectors() {
    for (algorithm, weights, column) in [
        (Algorithm::NginxHash, &[1, 1, 1][..], 4),
        (Algorithm::NginxHash, &[5, 1, 2], 5),
        (Algorithm::Ketama, &[2, 2, 1], 7),
        (Algorithm::HaproxyMap, &[1, 1, 1], 9),
        (Algorithm::HaproxyConsistent, &[2, 1, 3], 11),
        (Algorithm::Maglev, &[1, 1, 1], 12),
    ] {
        let among = weighted(weights);
        let balance = prepared(algorithm, &among);
        let rows = vectors();
        assert_eq!(rows.len(), 135);
        for (key, columns) in rows {
            let home = balance.home(key);
            let found = home.map_or("rr".to_string(), |index| index.to_string());
            assert_eq!(found, columns[column], "{algorithm:?} {columns:?}");
            let picked = balance.pick(key, &mut PickState::new(3, 0), &among);
            assert!(home.is_none() || picked == home, "{algorithm:?} {columns:?}");
            if algorithm == Algorithm::Ketama && home.is_some() {
                let point = balance.trace(key).unwrap().place.unwrap().0;
                assert_eq!(point.to_string(), columns[8], "{columns:?}");
            }
        }
    }
}

#[test]
fn a_backend_that_is_down_is_hashed_past_as_in_nginx() {
    let mut among = weighted(&[1, 1, 1]);
    among.0[1].1 = false;
    let balance = prepared(Algorithm::NginxHash, &among);
    for (key, columns) in vectors().into_iter().filter(|(key, _)| !key.is_empty()) {
        let picked = balance.pick(key, &mut PickState::new(3, 0), &among).unwrap();
        assert_eq!(picked.to_string(), columns[6], "{columns:?}");
        // The home does not change with states.
        assert_eq!(balance.home(key).unwrap().to_string(), columns[4], "{columns:?}");
    }
}

/// lua-resty-balancer's ring is nginx's for IPv4, ties aside.
#[test]
fn resty_chash_equals_ketama_for_ipv4() {
    let among = weighted(&[2, 2, 1]);
    let [resty, nginx] =
        [Algorithm::RestyChash, Algorithm::Ketama].map(|algorithm| prepared(algorithm, &among));
    for (key, columns) in vectors().into_iter().filter(|(key, _)| !key.is_empty()) {
        assert_eq!(resty.home(key), nginx.home(key), "{columns:?}");
    }
    assert!(resty.home(b"").is_some() && nginx.home(b"").is_none());
}

/// Computed with the reference implementation of xxHash and Python's own logarithm.
#[test]
fn rendezvous_equals_its_vectors() {
    for (weights, expected) in [(&[1, 1, 1][..], EVEN), (&[5, 1, 2], UNEVEN)] {
        let balance = prepared(Algorithm::Rendezvous, &weighted(weights));
        let found: String =
            vectors().iter().map(|(key, _)| balance.home(key).unwrap().to_string()).collect();
        assert_eq!(found, expected, "{weights:?}");
    }
}

/// Counts of the library's own tests, for 100,000 turns of weights 6, 3 and 1.
#[test]
fn resty_round_robins_share_as_there() {
    for algorithm in [Algorithm::RestyRoundrobin, Algorithm::RestySwrr] {
        let among = weighted(&[6, 3, 1]);
        let balance = prepared(algorithm, &among);
        for seed in 0..5 {
            let mut state = PickState::new(3, seed);
            let turns = turns(&balance, &mut state, &among, 100_000);
            let counts = ['a', 'b', 'c'].map(|name| turns.matches(name).count());
            assert_eq!(counts, [60_000, 30_000, 10_000], "{algorithm:?} seed {seed}");
        }
    }
}

/// The order of `resty.roundrobin` is that of Linux Virtual Server: the bar sinks round by round.
#[test]
fn resty_roundrobin_interleaves() {
    let among = weighted(&[4, 3, 2]);
    let balance = prepared(Algorithm::RestyRoundrobin, &among);
    let starts: std::collections::BTreeSet<String> =
        (0..50).map(|seed| turns(&balance, &mut PickState::new(3, seed), &among, 9)).collect();
    // It starts behind a random one, and so behind the first, the only one to reach a bar of 4.
    assert_eq!(starts.into_iter().collect::<Vec<_>>(), ["ababcabca"]);
}

/// With the heaviest backend gone, thousands of rounds would find nobody.
#[test]
fn resty_roundrobin_skips_rounds_nobody_would_win() {
    let mut among = weighted(&[65_535, 2, 1]);
    let balance = prepared(Algorithm::RestyRoundrobin, &among);
    let mut state = PickState::new(3, 1);
    assert_eq!(turns(&balance, &mut state, &among, 3), "aaa");
    among.0[0].1 = false;
    // The bar falls to 2: b; to 1: b and c.
    assert_eq!(turns(&balance, &mut state, &among, 9), "bbcbbcbbc");
}

/// The model is the library's loop, step by step.
#[test]
fn resty_roundrobin_equals_the_librarys_loop() {
    for seed in 0..300_u64 {
        let mut random = Random(seed);
        let count = 1 + random.below(6) as usize;
        let scale = 1 + random.below(3);
        let weights: Vec<u32> = (0..count).map(|_| (1 + random.below(9)) * scale).collect();
        let among = weighted(&weights);
        let balance = prepared(Algorithm::RestyRoundrobin, &among);
        let mut state = PickState::new(count, seed);
        let most = *weights.iter().max().unwrap();
        let divides = |by: &u32| weights.iter().all(|weight| weight % by == 0);
        let divisor = (1..=most).rev().find(divides).unwrap();
        let model = |start: usize| -> Vec<usize> {
            let (mut bar, mut from) = (most, start + 1);
            let mut next = || loop {
                if let Some(next) = (from..count).find(|index| weights[*index] >= bar) {
                    from = next + 1;
                    return next;
                }
                from = 0;
                bar = if bar == divisor { most } else { bar - divisor };
            };
            (0..200).map(|_| next()).collect()
        };
        let found: Vec<usize> =
            (0..200).map(|_| balance.pick(b"", &mut state, &among).unwrap()).collect();
        // Behind which node the library starts is random.
        assert!((0..count).any(|start| model(start) == found), "seed {seed}, {weights:?}");
    }
}

#[test]
fn crc32_mod_moves_only_the_keys_of_backends_that_are_down() {
    let all = weighted(&[1; 5]);
    let mut state = PickState::new(5, 0);
    for down in 0_usize..1 << 5 {
        let mut some = all.clone();
        some.0.iter_mut().enumerate().for_each(|(index, b)| b.1 = (down >> index) & 1 == 0);
        for number in 0..200 {
            let key = format!("dev-{number:04}");
            let home = crc32_mod(5).home(key.as_bytes()).unwrap();
            let expected = (0..5).map(|step| (home + step) % 5).find(|index| some.usable(*index));
            let picked = crc32_mod(5).pick(key.as_bytes(), &mut state, &some);
            assert_eq!(picked, expected, "{key}, down {down:#07b}");
        }
    }
}

#[test]
fn crc32_mod_ignores_weights_and_spreads_evenly() {
    let among = weighted(&[100, 1, 1]);
    let mut state = PickState::new(3, 0);
    let mut counts = [0; 3];
    for number in 0..30_000_u64 {
        let key = (868_120_212_300_000 + number).to_string();
        counts[crc32_mod(3).pick(key.as_bytes(), &mut state, &among).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
}

#[test]
fn crc32_mod_looks_at_the_home_only() {
    struct OnlyHome(usize, std::cell::Cell<u32>);
    impl Candidates for OnlyHome {
        fn count(&self) -> usize {
            3_000
        }
        fn weight(&self, index: usize) -> u32 {
            panic!("weight of {index}")
        }
        fn usable(&self, index: usize) -> bool {
            self.1.set(self.1.get() + 1);
            index == self.0
        }
        fn live(&self, index: usize) -> u32 {
            panic!("live of {index}")
        }
    }
    let home = crc32_mod(3_000).home(b"868120212345678").unwrap();
    let among = OnlyHome(home, 0.into());
    let mut state = PickState::new(3_000, 0);
    assert_eq!(crc32_mod(3_000).pick(b"868120212345678", &mut state, &among), Some(home));
    assert_eq!(among.1.get(), 1);
}

#[test]
fn no_usable_backend_is_no_pick() {
    for (name, algorithm) in Algorithm::NAMES {
        for count in 0..4 {
            let among = Backends(vec![(3, false, 0); count]);
            let balance = prepared(*algorithm, &among);
            let mut state = PickState::new(count, 7);
            assert_eq!(balance.pick(b"key", &mut state, &among), None, "{name} of {count}");
        }
        let three = prepared(*algorithm, &weighted(&[1, 2, 3]));
        assert_eq!(bare(*algorithm).home(b"key"), None, "{name}");
        assert_eq!(three.home(b"key").is_some(), algorithm.is_keyed(), "{name}");
        assert_eq!(three.trace(b"key").is_some(), algorithm.is_keyed(), "{name}");
    }
}

#[test]
fn round_robin_is_smooth() {
    for (weights, expected) in [
        (&[5, 1, 1][..], "aabacaaaabacaa"),
        (&[1, 1, 1], "abcabc"),
        (&[1, 2], "babbab"),
        (&[4, 2, 1], "abacabaabacaba"),
        (&[7], "aaaa"),
    ] {
        let mut state = PickState::new(weights.len(), 0);
        let found =
            turns(&bare(Algorithm::RoundRobin), &mut state, &weighted(weights), expected.len());
        assert_eq!(found, expected, "{weights:?}");
    }
}

#[test]
fn round_robin_gives_exact_shares_in_every_round() {
    let weights = [6, 3, 1, 10];
    let among = weighted(&weights);
    let mut state = PickState::new(4, 0);
    for _ in 0..50 {
        let round = turns(&bare(Algorithm::RoundRobin), &mut state, &among, 20);
        let shares = ['a', 'b', 'c', 'd'].map(|name| round.matches(name).count() as u32);
        assert_eq!(shares, weights);
    }
}

#[test]
fn round_robin_resumes_a_backend_where_it_was() {
    let mut among = weighted(&[5, 1, 1]);
    let mut state = PickState::new(3, 0);
    assert_eq!(turns(&bare(Algorithm::RoundRobin), &mut state, &among, 2), "aa");
    let before = state.current.clone();
    among.0[0].1 = false;
    assert_eq!(turns(&bare(Algorithm::RoundRobin), &mut state, &among, 4), "bcbc");
    assert_eq!(state.current, before, "after whole rounds of the others");
    among.0[0].1 = true;
    assert_eq!(turns(&bare(Algorithm::RoundRobin), &mut state, &among, 5), "bacaa");
}

#[test]
fn a_changed_number_of_backends_keeps_the_shares() {
    let mut state = PickState::new(3, 0);
    turns(&bare(Algorithm::RoundRobin), &mut state, &weighted(&[5, 1, 1]), 3);
    for count in [5, 1, 2, 8, 3, 0, 4] {
        let among = weighted(&vec![1; count]);
        // What the old weights left evens out, and the shares are exact from then on.
        turns(&bare(Algorithm::RoundRobin), &mut state, &among, (20 * count).max(1));
        assert_eq!(state.current.len(), count);
        let mut round: Vec<char> =
            turns(&bare(Algorithm::RoundRobin), &mut state, &among, count).chars().collect();
        round.sort_unstable();
        assert_eq!(round, ('a'..).take(count).collect::<Vec<_>>());
    }
    for (name, algorithm) in Algorithm::NAMES {
        let mut state = PickState::new(3, 0);
        for count in [5, 1, 300, 2] {
            let among = weighted(&vec![1; count]);
            let picked = prepared(*algorithm, &among).pick(b"key", &mut state, &among);
            assert!(picked.is_some_and(|index| index < count), "{name} of {count}");
        }
    }
}

#[test]
fn least_conn_compares_sessions_per_weight() {
    for (backends, expected) in [
        (vec![(1, true, 3), (1, true, 2), (1, true, 4)], 1),
        (vec![(2, true, 3), (1, true, 2)], 0),
        (vec![(2, true, 5), (1, true, 2)], 1),
        (vec![(1, false, 0), (1, true, 9)], 1),
        (vec![(65_535, true, u32::MAX), (1, true, u32::MAX)], 0),
        (vec![(u32::MAX, true, u32::MAX), (u32::MAX, true, u32::MAX - 1)], 1),
        // 10/3 is less than 7/2, though both are 3 when cut to integers.
        (vec![(2, true, 7), (3, true, 10)], 1),
    ] {
        let mut state = PickState::new(backends.len(), 0);
        let among = Backends(backends);
        assert_eq!(
            bare(Algorithm::LeastConn).pick(b"", &mut state, &among),
            Some(expected),
            "{among:?}"
        );
        assert!(state.current.iter().all(|current| *current == 0), "no tie, no turn");
    }
}

#[test]
fn least_conn_takes_turns_among_the_tied() {
    let mut state = PickState::new(3, 0);
    assert_eq!(turns(&bare(Algorithm::LeastConn), &mut state, &weighted(&[5, 1, 1]), 7), "aabacaa");
    let mut state = PickState::new(4, 0);
    let among = Backends(vec![(1, true, 2), (1, true, 1), (1, true, 1), (1, false, 0)]);
    assert_eq!(turns(&bare(Algorithm::LeastConn), &mut state, &among, 4), "bcbc");
}

#[test]
fn least_conn_fills_in_proportion_to_weight() {
    let mut among = weighted(&[1, 2, 4]);
    let mut state = PickState::new(3, 0);
    for _ in 0..700 {
        let index = bare(Algorithm::LeastConn).pick(b"", &mut state, &among).unwrap();
        among.0[index].2 += 1;
    }
    assert_eq!(among.0.iter().map(|backend| backend.2).collect::<Vec<_>>(), [100, 200, 400]);
}

/// Counts of other shards may move while we look.
#[test]
fn least_conn_picks_even_if_counts_move() {
    struct Moving(std::cell::Cell<u32>);
    impl Candidates for Moving {
        fn count(&self) -> usize {
            3
        }
        fn weight(&self, _: usize) -> u32 {
            1
        }
        fn usable(&self, index: usize) -> bool {
            index != 1
        }
        fn live(&self, _: usize) -> u32 {
            // Tied in the first look, gone in the second.
            self.0.set(self.0.get() + 1);
            if self.0.get() <= 2 { 5 } else { 100 + self.0.get() }
        }
    }
    let mut state = PickState::new(3, 0);
    assert_eq!(bare(Algorithm::LeastConn).pick(b"", &mut state, &Moving(0.into())), Some(0));
}

#[test]
fn random_follows_weights_and_its_seed() {
    let mut among = weighted(&[1, 2, 0, 5, 2]);
    among.0[4].1 = false;
    let mut counts = [0; 5];
    let mut state = PickState::new(5, 42);
    for _ in 0..80_000 {
        counts[bare(Algorithm::Random).pick(b"", &mut state, &among).unwrap()] += 1;
    }
    assert!((9_500..10_500).contains(&counts[0]), "{counts:?}");
    assert!((19_300..20_700).contains(&counts[1]), "{counts:?}");
    assert!((49_300..50_700).contains(&counts[3]), "{counts:?}");
    assert_eq!((counts[2], counts[4]), (0, 0));

    let run = |seed| turns(&bare(Algorithm::Random), &mut PickState::new(5, seed), &among, 64);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Random pools whose members come, go and fill up: every pick equals that of a model that spells
/// the rule out over fractions and sorted lists.
#[test]
fn picks_equal_a_naive_model() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let count = 1 + random.below(7) as usize;
        let mut among =
            Backends((0..count).map(|_| (1 + random.below(4), true, random.below(3))).collect());
        let mut round = (PickState::new(count, 0), vec![0_i64; count]);
        let mut least = (PickState::new(count, 0), vec![0_i64; count]);
        for step in 0..200 {
            let changed = random.below(count as u32) as usize;
            among.0[changed].1 = random.below(3) > 0;
            let usable: Vec<usize> = (0..count).filter(|index| among.usable(*index)).collect();

            let picked = bare(Algorithm::RoundRobin).pick(b"", &mut round.0, &among);
            assert_eq!(picked, smooth(&mut round.1, &among, &usable), "seed {seed}, step {step}");

            let picked = bare(Algorithm::LeastConn).pick(b"", &mut least.0, &among);
            let load = |index: &usize| {
                // Weights are 1 to 4: in twelfths every load is a whole number.
                u64::from(among.live(*index)) * 12 / u64::from(among.weight(*index))
            };
            let lowest = usable.iter().map(load).min();
            let tied: Vec<usize> =
                usable.iter().copied().filter(|index| Some(load(index)) == lowest).collect();
            let expected = match tied[..] {
                [only] => Some(only),
                _ => smooth(&mut least.1, &among, &tied),
            };
            assert_eq!(picked, expected, "seed {seed}, step {step}");
            if let Some(index) = picked {
                among.0[index].2 += 1;
            }
            let ended = random.below(count as u32) as usize;
            among.0[ended].2 = among.0[ended].2.saturating_sub(1);
        }
    }
}

/// Smooth weighted round robin, step by step as nginx describes it.
fn smooth(current: &mut [i64], among: &Backends, members: &[usize]) -> Option<usize> {
    members.iter().for_each(|index| current[*index] += i64::from(among.weight(*index)));
    let richest = members.iter().map(|index| current[*index]).max()?;
    let chosen = *members.iter().find(|index| current[**index] == richest)?;
    current[chosen] -= members.iter().map(|index| i64::from(among.weight(*index))).sum::<i64>();
    Some(chosen)
}
