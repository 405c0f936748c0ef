//! The daemon beside its runs: its zone, its lock, its log, its folders.

use batchd::journal::query::Reader;
use rustix::process::Signal;

use super::world::World;

/// The name of the daemon's zone as another process reads it.
fn zone(world: &World) -> Option<String> {
    Reader::open(&world.path("state/journal.db")).unwrap().daemon_zone().unwrap()
}

#[test]
fn a5_the_journal_has_the_zone_of_the_daemon() {
    let mut world = World::new();
    world.start_with(&[], &[("TZ", "America/New_York")]);
    assert_eq!(zone(&world).as_deref(), Some("America/New_York"));
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(zone(&world).as_deref(), Some("America/New_York"), "also when no daemon runs");
    world.start_with(&[], &[("TZ", "Asia/Kolkata")]);
    assert_eq!(zone(&world).as_deref(), Some("Asia/Kolkata"));
}

#[test]
fn a5_a_zone_that_changes_under_the_daemon_is_in_the_journal_at_once() {
    let mut world = World::new();
    world.bash("mkdir etc && cp /etc/passwd /etc/group etc && ln -s /usr/share/zoneinfo/Europe/Berlin etc/localtime");
    let namespace = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let bind = "mount --bind \"$W/etc\" /etc && exec \"$0\" \"$@\"";
    world.start_under(&["unshare", namespace, "bash", "-ec", bind]);
    assert_eq!(zone(&world).as_deref(), Some("Europe/Berlin"));
    world.bash("ln -sfn /usr/share/zoneinfo/Asia/Tokyo etc/localtime");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(zone(&world).as_deref(), Some("Asia/Tokyo"));
}
