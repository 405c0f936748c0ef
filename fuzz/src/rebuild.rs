//! `doctor --rebuild`: a journal from two run folders with anything in them. Either it says what stands in the way, or what it
//! has written can be opened, recovered from, and examined.
//!
//! Input: parts between bytes 0xff, which no JSON has: name, `run.json`, `exit.json` of one folder and then of the other.

use std::fs;
use std::path::Path;

use batchd::checkup::{self, Places, rebuild};
use batchd::journal::Journal;
use batchd::model::time::Instant;
use batchd::zones::Zones;

pub(crate) fn check(input: &[u8]) {
    let home = tempfile::Builder::new().tempdir_in(memory()).expect("there is room");
    let (runs, state) = (home.path().join("runs"), home.path().join("state"));
    fs::create_dir(&runs).and_then(|()| fs::create_dir(&state)).expect("there is room");
    let parts: Vec<&[u8]> = input.split(|byte| *byte == 0xff).collect();
    for folder in parts.chunks(3).take(2) {
        make(&runs, folder);
    }
    let journal = state.join("journal.db");
    let places = Places { journal: &journal, runs: &runs, state: &state };
    let now = Instant::from_s(1_800_000_000);
    if let Ok(rebuilt) = rebuild::rebuild(&places, &journal, now) {
        drop(Journal::open(&journal).expect("it was just written").recover().expect("it can be recovered from"));
        checkup::examine(&places, &Zones::new(None, None), now).expect("it can be examined");
        assert!(!rebuilt.to_string().is_empty());
    }
}

/// Makes a run folder, if it has a name that a folder can have.
fn make(runs: &Path, parts: &[&[u8]]) {
    let Some(name) = parts.first().and_then(|name| std::str::from_utf8(name).ok()) else { return };
    if name.contains(['/', '\0']) || fs::create_dir(runs.join(name)).is_err() {
        return;
    }
    for (file, bytes) in ["run.json", "exit.json"].iter().zip(&parts[1..]) {
        fs::write(runs.join(name).join(file), bytes).expect("there is room");
    }
}

/// Memory, where there is a file system for it: a journal on a disk takes some milliseconds.
fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}
