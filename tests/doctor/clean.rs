//! What is as it should be.

use rusqlite::Connection;
use rustix::process::Signal;

use crate::made::{self, NEVER, found};
use crate::world::World;

#[test]
fn a_world_at_rest_is_clean_and_its_occurrences_are_counted() {
    let world = made::world();
    assert_eq!(found(&world), []);
    let report = world.batchd(&["doctor", "--json"]).expect(0).json();
    assert!(report["rows"].as_u64().unwrap() >= 3 * 4 + 3, "{report}");
    assert!(report["periods_proven"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(report["periods_unproven"], 0);
    assert_eq!(report["daemon"], false);
}

#[test]
fn what_is_under_way_is_no_violation() {
    let mut world = World::new();
    world.batch("tick", "cron = '* * * * * *'\noverlap = 'allow'\n", "true\n");
    world.batch("long", "", "read -r < $W/end\n");
    let end = world.pipe("end");
    world.start();
    let run = world.batchd(&["start", "long"]).expect(0);
    for _ in 0..10 {
        let output = world.batchd(&["doctor"]).expect(0);
        assert!(output.err.contains("the daemon is running, so runs under way were not checked"), "{output:#?}");
    }
    end.tell();
    world.end(run.line());
    world.batch("tick", NEVER, "true\n");
    world.batchd(&["reload"]).expect(0);
    world.rest();
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    world.start();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(found(&world), []);
}

#[test]
fn a_folder_that_somebody_removed_is_told_and_no_violation() {
    let world = made::world();
    std::fs::remove_dir_all(world.path("runs/tick.2")).unwrap();
    assert_eq!(found(&world), []);
    assert_eq!(world.batchd(&["doctor", "--json"]).expect(0).json()["folders_gone"], 1);
    let output = world.batchd(&["doctor"]).expect(0);
    assert!(output.err.contains("(1 more was removed)"), "{output:#?}");
}

#[test]
fn a_hand_that_changes_history_is_refused() {
    let world = made::world();
    let journal = Connection::open(world.path("state/journal.db")).unwrap();
    for sql in ["UPDATE run SET outcome = 'failed'", "UPDATE run SET due_at = 1", "DELETE FROM run"] {
        let refused = journal.execute(sql, []).unwrap_err().to_string();
        assert!(refused.contains("changes") || refused.contains("stays"), "{refused}");
    }
}
