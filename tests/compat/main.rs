//! What earlier versions have left opens for ever after: `tests/compat/README.md` says what lies here.

#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use world::World;

/// What an earlier version has left.
struct Left {
    folder: &'static str,
    /// The version of its journal.
    journal: u32,
    /// Periods whose occurrences the journal proves as it was left; none: it proves nothing.
    proven: Option<u64>,
}

const ALL: &[Left] = &[
    Left { folder: "journal-1", journal: 1, proven: None },
    Left { folder: "journal-2", journal: 2, proven: Some(2) },
    Left { folder: "journal-3", journal: 3, proven: Some(2) },
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat")
}

#[test]
fn every_folder_is_opened() {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap());
    let mut folders: Vec<String> = entries
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, ALL.iter().map(|left| left.folder).collect::<Vec<_>>());
}

#[test]
fn what_was_left_opens() {
    for left in ALL {
        println!("{}", left.folder);
        let mut world = World::new();
        let from = folder().join(left.folder);
        // As it was on the disk: git keeps no modes.
        world.bash(&format!("cp -R {0}/batches.d {0}/runs {0}/state . && chmod -R go-w .", from.display()));
        world.bash("chmod 711 state state/workspaces && chmod 700 state/definitions");
        let before: Vec<Value> =
            serde_json::from_slice::<Value>(&fs::read(from.join("runs.json")).unwrap()).unwrap()["runs"]
                .as_array()
                .unwrap()
                .clone();
        reads_before_the_upgrade(&world, left, before.len());
        world.start();
        assert!(world.path(format!("state/journal.db.version-{}", left.journal)).exists(), "a copy is kept");
        all_rows_are_kept(&world, &before);
        goes_on(&world);
        assert_eq!(world.end_daemon(Signal::TERM), 0);
        world.all_gone();
        proves(&world, left, before.len());
    }
}

/// A verb that reads finds the journal too old, says what to do, and changes nothing.
#[track_caller]
fn reads_before_the_upgrade(world: &World, left: &Left, rows: usize) {
    assert!(rows > 10, "{rows}");
    let journal = || fs::read(world.path("state/journal.db")).unwrap();
    let was = journal();
    for verb in [&["runs"][..], &["show", "tick.1"], &["logs", "tick.1"], &["doctor"]] {
        let output = world.batchd(verb).expect(1);
        let said = format!("journal version {}", left.journal);
        assert!(output.err.contains(&said) && output.err.contains("start the daemon once"), "{output:#?}");
    }
    assert!(journal() == was);
}

/// All that has ended is told as the version told it that wrote it; what was under way is lost.
#[track_caller]
fn all_rows_are_kept(world: &World, before: &[Value]) {
    let now = world.runs();
    for was in before {
        let is = now.iter().find(|run| run["id"] == was["id"]).unwrap_or_else(|| panic!("{was} is gone"));
        if was["state"] == "ended" {
            // Later versions may tell more of a run.
            let differs = was.as_object().unwrap().iter().find(|(key, value)| is[key.as_str()] != **value);
            assert_eq!(differs, None, "{is}");
        } else {
            assert_eq!((&is["id"], &is["outcome"]), (&was["id"], &Value::from("lost")), "{is}");
        }
    }
    assert!(before.iter().any(|run| run["state"] != "ended"), "a run was under way");
    assert_eq!(world.batchd(&["logs", "tick.1"]).expect(0).out, "tick.1\n");
    assert_eq!(world.batchd(&["show", "left.1"]).expect(0).err, "");
}

/// Chains go on, numbers go on, and what the operator said still holds.
#[track_caller]
fn goes_on(world: &World) {
    let next = world.batchd(&["start", "tick"]).expect(0);
    world.end(next.line());
    world.rest();
    let chain = world.json(&["runs", "--chain", next.line()]);
    let outcome = |batch: &str| {
        let runs = chain["runs"].as_array().unwrap();
        runs.iter().find(|run| run["batch"] == batch).map(|run| run["outcome"].as_str().unwrap())
    };
    let outcomes = [outcome("tick"), outcome("left"), outcome("right"), outcome("join")];
    assert_eq!(outcomes, ["succeeded", "succeeded", "skipped", "aborted"].map(Some));
}

/// The doctor finds nothing, and says how much it has proven.
#[track_caller]
fn proves(world: &World, left: &Left, before: usize) {
    let report = world.batchd(&["doctor", "--json"]).expect(0).json();
    assert!(report["rows"].as_u64().unwrap() >= before as u64 + 4, "{report}");
    // More, once the next February with 29 days is over.
    assert!(report["periods_proven"].as_u64().unwrap() >= left.proven.unwrap_or(0), "{report}");
    assert_eq!(report["rows_unproven"], if left.proven.is_some() { 0 } else { before as u64 }, "{report}");
}
