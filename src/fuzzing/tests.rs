//! Every target for a moment: on its corpus, on pieces of it put together anew, and on noise. The inputs follow from a
//! seed, so a failure comes back; put the input that is printed into the corpus.
//!
//! `FUZZ_CASES=20` tries twenty times as many, `FUZZ_SEED=7` other ones.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::*;

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The committed inputs, by name. None where the package came without `fuzz/`.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(name);
    if !fuzz().exists() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seed"))
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seed", directory.display());
    seeds
}

/// An input near what the target understands.
fn input(random: &mut Random, seeds: &[(String, Vec<u8>)], words: &[&str]) -> Vec<u8> {
    let mut bytes = match random.below(4) {
        0 if !words.is_empty() => Vec::new(),
        1 => (0..random.below(80)).map(|_| random.next() as u8).collect(),
        _ => seeds.get(random.below(seeds.len())).map(|(_, bytes)| bytes.clone()).unwrap_or_default(),
    };
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 | 1 if !words.is_empty() => {
                let word = words[random.below(words.len())].as_bytes();
                bytes.splice(at..at, word.iter().copied());
            }
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 => drop(bytes.drain(at..(at + random.below(8)).min(bytes.len()))),
            5 if !seeds.is_empty() => {
                let other = &seeds[random.below(seeds.len())].1;
                let from = random.below(other.len() + 1);
                let to = (from + random.below(16)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => bytes.insert(at, random.next() as u8),
        }
    }
    bytes
}

fn holds(target: &Target, what: &str, bytes: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    assert!(outcome.is_ok(), "`{}` fails on {what}, which is {bytes:?}, or\n{}", target.name, bytes.escape_ascii());
}

fn try_out(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = corpus(name);
    for (path, bytes) in &seeds {
        holds(target, path, bytes);
    }
    let seed = from_environment("FUZZ_SEED", 1);
    let cases = u64::from(target.cases) * from_environment("FUZZ_CASES", 1);
    let mut random = Random(seed);
    for case in 0..cases {
        let bytes = input(&mut random, &seeds, target.words);
        holds(target, &format!("input {case} of seed {seed}"), &bytes);
    }
    println!("{name}: {} seeds and {cases} inputs", seeds.len());
}

macro_rules! tests {
    ($($name:ident)+) => {
        const TRIED: &[&str] = &[$(stringify!($name)),+];
        $(#[test] fn $name() { try_out(stringify!($name)) })+
    };
}

tests! {
    config destination_url layout names units selection markers files_from known_hosts ssh_config sftp_replies embedded
    ledger_file summary
}

#[test]
fn every_target_is_tried_and_has_a_binary() {
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TRIED.iter().copied().collect());
    if !fuzz().exists() {
        return;
    }
    let manifest: toml::Table = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap().parse().unwrap();
    let binaries = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap());
    assert_eq!(names, binaries.collect());
    for name in names {
        let program = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("archiver::fuzzing::{name}(data)")), "{name}");
    }
}
