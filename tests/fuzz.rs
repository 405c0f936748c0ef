//! The corpora of `fuzz/`, replayed with the ordinary compiler: what fuzzing found once stays found. And a short burst of
//! changes of them, by chance from a fixed seed: that is no fuzzing, which goes where the code leads it (`fuzz/run`), but it
//! costs no build of its own.

#[allow(unreachable_pub, reason = "it is a library of its own, which libFuzzer's build takes")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Changed inputs for each target: some seconds for all of them together.
const ROUNDS: usize = 400;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_corpus_holds() {
    for (target, check) in targets::TARGETS {
        let folder = corpus().join(target);
        for name in names(&folder) {
            // Seen if it fails, and only then.
            println!("fuzz/corpus/{target}/{name}");
            check(&fs::read(folder.join(name)).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_no_corpus_is_left_over() {
    let targets: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus()), targets);
    for target in &targets {
        assert!(names(&corpus().join(target)).len() >= 3, "{target} has hardly any");
    }
}

#[test]
fn changed_inputs_hold() {
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for (target, check) in targets::TARGETS {
        let folder = corpus().join(target);
        let inputs: Vec<Vec<u8>> = names(&folder).iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
        for round in 0..ROUNDS {
            let input = changed(&inputs[round % inputs.len()], &inputs[random(inputs.len())], &mut random);
            let shown = ShownIfItFails { target, input: &input };
            check(shown.input);
        }
    }
}

/// `input` with some bytes changed, taken away, put in, or put behind it from another.
fn changed(input: &[u8], other: &[u8], random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random(4) {
        let at = random(bytes.len() + 1);
        match random(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random(256) as u8),
            2 => bytes.extend_from_slice(&other[random(other.len() + 1)..]),
            3 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random(8)),
            _ => drop(bytes.drain(at..(at + random(9)).min(bytes.len()))),
        }
    }
    bytes
}

/// An input that belongs into the corpus if its check panics.
struct ShownIfItFails<'a> {
    target: &'a str,
    input: &'a [u8],
}

impl Drop for ShownIfItFails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("put this into fuzz/corpus/{}: b\"{}\"", self.target, self.input.escape_ascii());
        }
    }
}
