//! Damaged files: whatever is in them, a check ends with a configuration or with faults that have a
//! place, and never without a reason.

use corelane::config::{Environment, parse};

const ROUNDS: u64 = 3_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }
}

/// What replaces a value, a key, or any stretch of the text.
const SCRAPS: &[&str] = &[
    "",
    "0",
    "-1",
    "1.5",
    "nan",
    "true",
    "\"\"",
    "\"5s\"",
    "\"${X}\"",
    "\"${\"",
    "[]",
    "{}",
    "[[",
    "]]",
    "=",
    "\n",
    "#",
    "'",
    "\"\"\"",
    "\\",
    "é",
    "\u{0}",
    "1979-05-27",
    "99999999999999999999",
    "1e999",
    "0xffff_ffff_ffff_ffff",
    "[[listener]]",
    "[pool.c2s]",
    "[pool.x.y]",
    "a.b.c = 1",
    "{ a = { b = [1] } }",
    "unix:/",
    "\"pool:x\"",
    "..=",
];

fn damage(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(characters.len());
        let end = (at + random.below(12)).min(characters.len());
        let scrap = SCRAPS[random.below(SCRAPS.len())];
        characters.splice(at..end, scrap.chars());
    }
    characters.into_iter().collect()
}

#[test]
fn damaged_files_are_refused_with_reasons() {
    let reference = include_str!("../config/reference.toml");
    // Without comments every change hits something.
    let lines: Vec<&str> =
        reference.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let reference = lines.join("\n");
    let check = |text: &str| {
        let environment =
            Environment { variable: &|_| None, cores: vec![0, 1], descriptors_max: 20_000 };
        parse(text, "f.toml", &environment)
    };
    let mut refused = 0;
    for seed in 0..ROUNDS {
        let text = damage(&reference, &mut Random(seed));
        let checked = std::panic::catch_unwind(|| check(&text));
        let result = checked.unwrap_or_else(|_| panic!("seed {seed} panics on\n{text}"));
        let Err(faults) = result else { continue };
        refused += 1;
        let lines = text.lines().count() + 1;
        for fault in &faults.faults {
            let placed = (1..=lines).contains(&fault.line) && fault.column >= 1;
            assert!(placed, "seed {seed}: {fault:?} in\n{text}");
        }
        let printed = faults.to_string();
        assert!(!printed.contains("without a reason"), "seed {seed}: {printed}\n{text}");
        assert_eq!(printed.lines().count(), faults.faults.len(), "seed {seed}: {printed}");
    }
    assert!(refused > ROUNDS / 2, "only {refused} of {ROUNDS} damaged files were refused");
}
