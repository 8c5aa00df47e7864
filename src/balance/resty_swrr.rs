//! lua-resty-balancer's `resty.swrr` (`lib/resty/swrr.lua`): nginx's smooth weighted round robin,
//! begun after a random number of turns, so that gateways that start together do not all begin with
//! the heaviest backend.
//!
//! The library keeps nodes in a Lua table, whose order is unspecified; here it is the list's.

use super::{Candidates, random, round_robin};

/// The library takes 1 to as many turns as there are nodes; more than this scatter nothing further,
/// and are time a shard does not have.
const TURNS_MAX: u64 = 64;

/// The next backend in turn. `begun` is false for the first pick of a shard.
pub(super) fn pick(
    current: &mut [i64],
    (begun, seed): (&mut bool, &mut u64),
    among: &impl Candidates,
) -> Option<usize> {
    if !*begun {
        *begun = true;
        let turns = (among.count() as u64).min(TURNS_MAX);
        for _ in 0..random::below(random::next(seed), turns) + 1 {
            round_robin::pick(current, among);
        }
    }
    round_robin::pick(current, among)
}
