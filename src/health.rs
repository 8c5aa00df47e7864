//! How backends are, and how fast they are given sessions.
//!
//! Three machines without sockets or clocks: [`check`] makes verdicts of checks, [`ejection`] makes
//! verdicts of what sessions met, [`admission`] lets sessions in at the pace a backend bears.
//! [`checker`] asks the backends, on the control plane; [`verdicts`] puts everything that is known
//! of a pool's backends together for the next table; [`watch`] is what the control plane holds.
//! Sessions are never moved by any of it: a verdict decides about new ones only.

pub mod admission;
pub mod check;
pub mod checker;
pub mod ejection;
mod probe;
pub mod room;
pub mod verdicts;
pub mod watch;

pub use self::probe::Outcome;

/// The next word of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014): one word of state, and any seed is a good one.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
