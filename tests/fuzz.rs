//! The corpora of `fuzz/`, replayed with the ordinary compiler: what fuzzing found once stays found.

#[allow(unreachable_pub, reason = "it is a library of its own, which libFuzzer's build takes")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
