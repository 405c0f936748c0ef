//! The day on which a disk ate the journal.

use std::fs;

use rustix::process::Signal;

use crate::made::{self, NEVER, found};

#[test]
fn a_journal_from_the_folders_goes_on_and_runs_nothing_twice() {
    let mut world = made::world();
    let ran = |world: &crate::world::World| fs::read_dir(world.path("runs")).unwrap().count();
    let before: Vec<(String, String)> = ends(&world);
    let folders = ran(&world);
    // One whose end nobody knows.
    fs::remove_file(world.run_file("tick.2", "exit.json")).unwrap();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _ = fs::remove_file(world.path("state").join(name));
    }
    world.batchd(&["doctor", "--rebuild", "new.db"]).expect(0);
    world.batchd(&["doctor", "--rebuild", "new.db"]).expect(1);
    fs::rename(world.path("new.db"), world.path("state/journal.db")).unwrap();
    assert_eq!(found(&world), [], "before a daemon has seen it");
    let expected: Vec<(String, String)> = before
        .into_iter()
        .filter(|(id, _)| world.path("runs").join(id).exists())
        .map(|(id, outcome)| if id == "tick.2" { (id, "lost".to_owned()) } else { (id, outcome) })
        .collect();
    assert_eq!(ends(&world), expected);
    assert_eq!(world.run("bad.1")["reason"], "exit code 3");
    let said = world.batchd(&["doctor"]).expect(0).err;
    assert!(said.contains("from before a restore or an upgrade can't be verified"), "{said}");
    world.start();
    assert_eq!(ran(&world), folders, "nothing runs again");
    world.batch("tick", NEVER, "echo again\n");
    world.batchd(&["reload"]).expect(0);
    let next = world.batchd(&["start", "tick"]).expect(0);
    let number: u64 = next.line().strip_prefix("tick.").unwrap().parse().unwrap();
    assert!(number > 1000, "{number}");
    world.end(next.line());
    world.rest();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    assert_eq!(found(&world), []);
}

/// Every run with its outcome, by id.
fn ends(world: &crate::world::World) -> Vec<(String, String)> {
    let text = |run: &serde_json::Value, key: &str| run[key].as_str().unwrap().to_owned();
    let mut all: Vec<_> = world.runs().iter().map(|run| (text(run, "id"), text(run, "outcome"))).collect();
    all.sort();
    all
}
