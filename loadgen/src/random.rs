//! Seeded pseudo-random numbers and bytes: a run with the same seed sends the same bytes.

/// SplitMix64 (Steele, Lea, Flood 2014): one addition and a finaliser per number.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// The finaliser of SplitMix64: every input bit reaches every output bit.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Random {
    /// A generator; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 0 to `bound` − 1 (multiply-shift; its bias is below bound / 2⁶⁴).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Fills a buffer.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Bytes from which payloads are cut: a copy per message instead of a generator's run, and a
/// comparison to check one.
#[derive(Debug)]
pub struct PayloadPool {
    bytes: Vec<u8>,
    starts: u64,
    seed: u64,
}

/// How many different starts a payload can have.
const POOL_STARTS: usize = 256 * 1024;

impl PayloadPool {
    /// A pool for payloads of `payload_len` bytes.
    pub fn new(seed: u64, payload_len: usize) -> PayloadPool {
        let mut bytes = vec![0; POOL_STARTS + payload_len];
        Random::new(seed).fill(&mut bytes);
        PayloadPool { bytes, starts: POOL_STARTS as u64, seed }
    }

    /// The payload of a device's message.
    pub fn payload(&self, device: u64, sequence: u64, payload_len: usize) -> &[u8] {
        let place = mix(self.seed ^ mix(device.wrapping_add(1)) ^ sequence);
        let start = (place % self.starts) as usize;
        &self.bytes[start..start + payload_len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        // The vector published with the reference implementation for seed 1234567.
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut random = Random::new(1);
        let mut seen = [0; 7];
        for _ in 0..7_000 {
            seen[random.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|times| (800..1_200).contains(times)), "{seen:?}");
    }

    #[test]
    fn payloads_differ_by_device_and_sequence_and_repeat_with_the_seed() {
        let pool = PayloadPool::new(9, 64);
        let again = PayloadPool::new(9, 64);
        assert_eq!(pool.payload(3, 4, 64), again.payload(3, 4, 64));
        assert_ne!(pool.payload(3, 4, 64), pool.payload(3, 5, 64));
        assert_ne!(pool.payload(3, 4, 64), pool.payload(4, 4, 64));
    }
}
