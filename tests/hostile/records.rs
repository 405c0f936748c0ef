//! I20: files of run folders that somebody has made, where a journal is written anew from them. What one parser does with one
//! file is in `fuzz/`.

use std::fs;

use rustix::process::Signal;

use crate::world::World;

#[test]
fn i20_a_rebuild_from_folders_that_were_made() {
    let mut world = World::new();
    world.batch("report", "", "echo\n");
    world.start();
    world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.bash("rm -f state/journal.db*");
    // Another's number, no id at all, nothing in it, and what is no file.
    world.bash(
        "cd runs; cp -r report.1 report.2; cp -r report.1 $'\\033[31m.1'; mkdir report.3 report.03 report.4; ln -s /etc report.5
         mkfifo report.4/run.json; head -c 3000000 /dev/zero > report.3/run.json; touch report.6",
    );
    let rebuilt = world.batchd(&["doctor", "--rebuild", "new.db"]).expect(0);
    assert!(rebuilt.out.contains("1 run with an outcome, 0 lost"), "{rebuilt:?}");
    fs::remove_file(world.path("new.db")).unwrap();
    // A number behind which there is none would let numbers come back.
    world.bash("mkdir runs/report.9223372036854775807");
    let refused = world.batchd(&["doctor", "--rebuild", "new.db"]).expect(1);
    assert!(
        refused.err.contains("report.9223372036854775807") && refused.err.contains("move the folder away"),
        "{refused:?}"
    );
    // No id at all: it is left out.
    world.bash("mv runs/report.9223372036854775807 runs/report.18446744073709551615; rm -f new.db");
    world.batchd(&["doctor", "--rebuild", "new.db"]).expect(0);
    fs::rename(world.path("new.db"), world.path("state/journal.db")).unwrap();
    world.start();
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "\n");
    assert_eq!(run.line(), "report.1007");
}
