//! What holds for every algorithm by key, whatever it equals: few keys move when one backend does,
//! weights are followed, retries reach everybody, nothing depends on what went before.

use corelane::balance::{Algorithm, Balance, Candidates, Entry, PickState};

/// Keyed algorithms whose keys stay when another backend comes or goes.
const CONSISTENT: [Algorithm; 5] = [
    Algorithm::Ketama,
    Algorithm::RestyChash,
    Algorithm::HaproxyConsistent,
    Algorithm::Maglev,
    Algorithm::Rendezvous,
];

#[derive(Debug, Clone)]
struct Backend {
    id: String,
    weight: u32,
    ready: bool,
    tried: bool,
}

#[derive(Debug, Clone)]
struct Pool(Vec<Backend>);

impl Candidates for Pool {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn weight(&self, index: usize) -> u32 {
        self.0[index].weight
    }
    fn usable(&self, index: usize) -> bool {
        self.0[index].ready && !self.0[index].tried
    }
    fn live(&self, _: usize) -> u32 {
        0
    }
    fn tried(&self, index: usize) -> bool {
        self.0[index].tried
    }
}

impl Pool {
    fn new(weights: &[u32]) -> Pool {
        let backend = |(index, weight): (usize, &u32)| Backend {
            id: format!("10.0.{}.{}:7000", index / 250, index % 250 + 1),
            weight: *weight,
            ready: true,
            tried: false,
        };
        Pool(weights.iter().enumerate().map(backend).collect())
    }

    fn entries(&self) -> Vec<Entry<'_>> {
        self.0.iter().map(|b| Entry { id: &b.id, weight: b.weight, ready: b.ready }).collect()
    }

    fn prepared(&self, algorithm: Algorithm) -> Balance {
        Balance::prepare(algorithm, &self.entries(), true)
    }

    fn place(&self, balance: &Balance, key: &str) -> Option<usize> {
        balance.pick(key.as_bytes(), &mut PickState::new(self.0.len(), 0), self)
    }
}

fn keyed() -> impl Iterator<Item = (&'static str, Algorithm)> {
    Algorithm::NAMES.iter().copied().filter(|(_, algorithm)| algorithm.is_keyed())
}

fn keys(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("8681202{:08}", number * 7_919))
}

#[test]
fn a_backend_that_is_down_moves_its_own_keys_only() {
    for algorithm in CONSISTENT {
        let pool = Pool::new(&[3, 1, 2, 2, 4, 1, 1, 5]);
        let balance = pool.prepared(algorithm);
        let mut less = pool.clone();
        less.0[4].ready = false;
        let without = balance.with_states(&less.entries(), true);
        let mut strays = 0;
        for key in keys(20_000) {
            let (home, now) = (balance.home(key.as_bytes()), less.place(&without, &key));
            assert_eq!(without.home(key.as_bytes()), home, "a home stays, {algorithm:?} {key}");
            assert_ne!(now, Some(4), "{algorithm:?} {key}");
            strays += usize::from(home != Some(4) && home != now);
        }
        // Maglev's table is filled anew, and a few slots change hands besides.
        let most = if algorithm == Algorithm::Maglev { 1_500 } else { 0 };
        assert!(strays <= most, "{algorithm:?}: {strays} other keys moved");
        assert_eq!(without.moves_others(), algorithm == Algorithm::Maglev);
    }
}

#[test]
fn a_backend_that_joins_takes_its_share_and_moves_nothing_else() {
    for algorithm in CONSISTENT {
        let pool = Pool::new(&[1; 9]);
        let more = Pool::new(&[1; 10]);
        let (before, after) = (pool.prepared(algorithm), more.prepared(algorithm));
        let (mut taken, mut strays) = (0, 0);
        for key in keys(20_000) {
            let (old, new) = (before.home(key.as_bytes()), after.home(key.as_bytes()));
            taken += usize::from(new == Some(9));
            strays += usize::from(new != Some(9) && new != old);
        }
        // Sixteen points of a weight of 1 are few: HAProxy's shares are rough.
        assert!((1_000..4_500).contains(&taken), "{algorithm:?}: took {taken} of 20,000");
        let most = if algorithm == Algorithm::Maglev { 1_500 } else { 0 };
        assert!(strays <= most, "{algorithm:?}: {strays} other keys moved");
    }
}

/// The others say so in their documentation: nearly everything moves.
#[test]
fn what_is_not_consistent_moves_nearly_everything() {
    for algorithm in [Algorithm::Crc32Mod, Algorithm::NginxHash, Algorithm::HaproxyMap] {
        let (before, after) =
            (Pool::new(&[1; 9]).prepared(algorithm), Pool::new(&[1; 10]).prepared(algorithm));
        let moved = keys(20_000)
            .filter(|key| before.home(key.as_bytes()) != after.home(key.as_bytes()))
            .count();
        assert!(moved > 15_000, "{algorithm:?}: {moved} of 20,000");
    }
}

#[test]
fn shares_follow_weights() {
    let weights = [40, 10, 20, 30];
    for (name, algorithm) in keyed().filter(|(_, algorithm)| !algorithm.ignores_weights()) {
        let balance = Pool::new(&weights).prepared(algorithm);
        let mut counts = [0_u32; 4];
        keys(100_000).for_each(|key| counts[balance.home(key.as_bytes()).unwrap()] += 1);
        for (count, weight) in counts.iter().zip(weights) {
            let expected = weight * 1_000;
            // HAProxy's ring is the roughest, with 640 points for a weight of 40.
            assert!(count.abs_diff(expected) < expected / 5, "{name}: {counts:?}");
        }
    }
}

#[test]
fn a_weight_that_grows_takes_keys_and_gives_none() {
    for algorithm in [Algorithm::Ketama, Algorithm::RestyChash, Algorithm::HaproxyConsistent] {
        let before = Pool::new(&[4, 4, 4, 4]).prepared(algorithm);
        let after = Pool::new(&[4, 4, 6, 4]).prepared(algorithm);
        let moved = keys(20_000).filter(|key| {
            let (old, new) = (before.home(key.as_bytes()), after.home(key.as_bytes()));
            assert!(old == new || new == Some(2), "{algorithm:?} {key}: {old:?} to {new:?}");
            old != new
        });
        assert!((500..4_000).contains(&moved.count()), "{algorithm:?}");
    }
    let (even, uneven) = (Pool::new(&[4; 4]), Pool::new(&[4, 4, 6, 4]));
    let [even, uneven] = [even, uneven].map(|pool| pool.prepared(Algorithm::Rendezvous));
    for key in keys(20_000) {
        let (old, new) = (even.home(key.as_bytes()), uneven.home(key.as_bytes()));
        assert!(old == new || new == Some(2), "{key}: {old:?} to {new:?}");
    }
}

#[test]
fn retries_reach_every_backend_once_and_in_the_same_order() {
    for (name, algorithm) in Algorithm::NAMES {
        for weights in [&[1; 7][..], &[50, 1, 1, 3], &[7], &[1, 200]] {
            let fresh = Pool::new(weights);
            let balance = fresh.prepared(*algorithm);
            for key in keys(40) {
                let order = || {
                    let mut pool = fresh.clone();
                    let mut state = PickState::new(pool.0.len(), 3);
                    let mut order = Vec::new();
                    while let Some(index) = balance.pick(key.as_bytes(), &mut state, &pool) {
                        assert!(!pool.0[index].tried, "{name} {key}: {index} again");
                        pool.0[index].tried = true;
                        order.push(index);
                    }
                    order
                };
                let first = order();
                assert_eq!(first.len(), weights.len(), "{name} {weights:?} {key}");
                assert_eq!(first, order(), "{name} {weights:?} {key}");
                if algorithm.is_keyed() {
                    assert_eq!(balance.home(key.as_bytes()), Some(first[0]), "{name} {key}");
                }
            }
        }
    }
}

/// Whatever is down, a key finds somebody, always the same, and never asks round robin.
#[test]
fn a_key_finds_the_same_backend_whatever_happened_before() {
    for (name, algorithm) in keyed() {
        for down in 0..1_u32 << 6 {
            let mut pool = Pool::new(&[1, 60, 2, 1, 9, 1]);
            pool.0.iter_mut().enumerate().for_each(|(index, b)| b.ready = down >> index & 1 == 0);
            let balance = pool.prepared(algorithm);
            let mut busy = PickState::new(6, 0);
            for key in keys(30) {
                let fresh = pool.place(&balance, &key);
                let later = balance.pick(key.as_bytes(), &mut busy, &pool);
                assert_eq!(fresh, later, "{name} {key} down {down:#b}");
                assert_eq!(fresh.is_some(), down != (1 << 6) - 1, "{name} {key} down {down:#b}");
                assert!(fresh.is_none_or(|index| pool.0[index].ready));
            }
            assert!(busy.current.iter().all(|turn| *turn == 0), "{name} took turns");
        }
    }
}

/// A rejected key moves nobody: without `moves_on` states change no answer for backends that are
/// ready.
#[test]
fn without_moving_on_everybody_else_stays() {
    for (name, algorithm) in keyed() {
        let mut pool = Pool::new(&[1, 2, 3, 4]);
        pool.0[2].ready = false;
        let balance = Balance::prepare(algorithm, &pool.entries(), false);
        for key in keys(2_000) {
            let home = balance.home(key.as_bytes()).unwrap();
            if home != 2 {
                assert_eq!(pool.place(&balance, &key), Some(home), "{name} {key}");
            }
        }
        assert!(!balance.moves_others());
    }
}

/// What a store may hold: thousands of backends, the largest weights.
#[test]
fn large_pools_are_prepared_within_bounds() {
    for (name, algorithm) in Algorithm::NAMES {
        let largest = match algorithm {
            // Millions of points take a debug build seconds: the other ring is built alike.
            Algorithm::RestyChash => vec![400, 1],
            _ => vec![65_535, 1],
        };
        for weights in [largest, vec![1; 2_000]] {
            let pool = Pool::new(&weights);
            let balance = pool.prepared(*algorithm);
            assert!(pool.place(&balance, "868120212345678").is_some(), "{name}");
            let fits = algorithm.excess(&weights).is_none();
            assert_eq!(balance.lowered(), !fits, "{name} {} backends", weights.len());
            let place = balance.trace(b"868120212345678").and_then(|trace| trace.place);
            assert!(place.is_none_or(|(at, of)| at < of && of <= 1 << 22), "{name} {place:?}");
        }
    }
}

/// Two draws, the one with fewer sessions per weight.
#[test]
fn p2c_prefers_the_emptier_of_two() {
    struct Loaded([u32; 3]);
    impl Candidates for Loaded {
        fn count(&self) -> usize {
            3
        }
        fn weight(&self, _: usize) -> u32 {
            1
        }
        fn usable(&self, _: usize) -> bool {
            true
        }
        fn live(&self, index: usize) -> u32 {
            self.0[index]
        }
    }
    let balance = Pool::new(&[1, 1, 1]).prepared(Algorithm::P2c);
    let mut state = PickState::new(3, 11);
    let mut counts = [0; 3];
    for _ in 0..9_000 {
        counts[balance.pick(b"", &mut state, &Loaded([5, 90, 9])).unwrap()] += 1;
    }
    // The fullest is never the better one; the emptiest is in two of three pairs.
    assert_eq!(counts[1], 0);
    assert!((5_800..6_200).contains(&counts[0]), "{counts:?}");

    // Filled by its own choices, it stays level.
    let mut live = Loaded([0; 3]);
    for _ in 0..3_000 {
        let index = balance.pick(b"", &mut state, &live).unwrap();
        live.0[index] += 1;
    }
    assert!(live.0.iter().all(|live| live.abs_diff(1_000) < 20), "{:?}", live.0);
}
