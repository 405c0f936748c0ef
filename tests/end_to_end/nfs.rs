//! A user's day with `batches.d` and `runs` on NFS, and with `state` there, too.

use std::fs;

use crate::guest;
use crate::world::World;

#[test]
fn a15_on_nfs_a_daemon_works_as_on_a_local_disk() {
    guest::run(&[
        "chains::a_schedule_starts_a_chain_that_passes_output",
        "lifecycle::a15_",
        "lifecycle::b9_what_ends_while_no_daemon_is_there_is_imported",
        "--skip=however_much",
        "nfs::in_the_guest",
    ]);
}

#[test]
#[ignore = "runs in the guest of `a15_on_nfs_a_daemon_works_as_on_a_local_disk`"]
fn in_the_guest_state_on_nfs_is_refused_and_the_message_gives_the_way_out() {
    let mut world = World::new();
    world.batch("job", "", "echo ran");
    // Where the state would be in somebody's home folder.
    fs::remove_file(world.path("state")).unwrap();
    world.spawn(&[], &[]);
    let log = world.daemon_log_at_its_end(1);
    let state = "/var/lib/batchd";
    let help = format!("batchd daemon --state {state}");
    assert!(log.contains("is on a network file system (NFS)") && log.contains(&help), "{log}");
    assert!(log.contains("`batches.d` and `runs` may stay"), "{log}");
    // Nobody's state is at that place in the guest, or on the host whose files it has.
    world.bash("mkdir $W/local; mount -t tmpfs tmpfs $W/local");
    let local = world.path("local/state");
    world.start_with(&["--state", local.to_str().unwrap()], &[]);
    world.batchd(&["start", "job", "--wait", "--state", local.to_str().unwrap()]).expect(0);
    assert_eq!(world.stdout("job.1"), "ran\n");
    assert!(world.end_daemon(rustix::process::Signal::TERM) == 0);
    world.all_gone();
    world.bash("umount $W/local");
}
