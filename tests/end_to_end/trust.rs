//! Whose definitions are trusted: that depends on the daemon's user, and not on who asks.

use std::os::unix::process::CommandExt as _;

use crate::world::root::is_root;
use crate::world::{Output, World};

/// The users `daemon` and `nobody`, with the groups of the same numbers.
const DAEMON: u32 = 1;
const NOBODY: u32 = 65_534;

/// A world of `daemon`'s, with its daemon; members of `socket_group` are those of the group `daemon`.
fn of_daemon() -> World {
    let mut world = World::new();
    world.settings("socket_group = 'daemon'");
    world.batch("private", "env_file = 'job.env'\n", "echo private\n");
    world.write("batches.d/private/job.env", "A=1\n");
    world.batch("report", "after = ['private']\n", "echo report\n");
    world.batch("absolute", &format!("env_file = '{}'\n", world.path("all.env").display()), "echo absolute\n");
    world.write("all.env", "A=1\n");
    std::fs::copy(env!("CARGO_BIN_EXE_batchd"), world.path("batchd")).unwrap();
    world.bash(&format!("chmod 700 batches.d/private; chown -R {DAEMON}:{DAEMON} ."));
    world.spawn_as(DAEMON);
    world.daemon().says(0, "is ready");
    world
}

/// `batchd` of a user in this group.
#[track_caller]
fn by(world: &World, uid: u32, gid: u32, arguments: &[&str]) -> Output {
    let mut command = world.command(world.path("batchd"));
    command.args(arguments).uid(uid).gid(gid);
    world.output(command)
}

#[test]
fn a5_root_and_the_daemons_user_find_nothing_wrong_with_the_daemons_files() {
    if !is_root() {
        return;
    }
    let world = of_daemon();
    for uid in [0, DAEMON] {
        let listed = by(&world, uid, uid, &["list"]).expect(0);
        assert!(!listed.out.contains("definitions"), "{listed:?}");
        let checked = by(&world, uid, uid, &["check"]).expect(0);
        assert_eq!((checked.out.as_str(), checked.err.trim_end()), ("", "3 batches are valid"));
    }
    // A stranger's file is one for all who ask, and the command gives it to the daemon's user.
    world.bash("chown nobody batches.d/report/script.sh");
    for uid in [0, DAEMON, NOBODY] {
        let checked = by(&world, uid, DAEMON, &["check"]).expect(1);
        let command = format!("`chown daemon {}`", world.path("batches.d/report/script.sh").display());
        assert!(checked.out.contains("belongs to `nobody`") && checked.out.contains(&command), "{checked:?}");
    }
}

#[test]
fn a5_a_member_is_told_what_is_not_readable_and_gets_no_command_for_it() {
    if !is_root() {
        return;
    }
    let world = of_daemon();
    let listed = by(&world, NOBODY, DAEMON, &["list"]).expect(0);
    let row = listed.out.lines().find(|line| line.starts_with("private ")).unwrap();
    assert!(row.contains("the definition on the disk is not readable for you"), "{}", listed.out);
    assert!(listed.out.contains("Remarks on definitions:"), "{}", listed.out);
    let remark = "private: remark: this is not readable for you, so the batch was not checked\n";
    assert!(listed.out.ends_with(remark), "{}", listed.out);
    // `report`, which follows a batch that the member can't read, is none the worse for it.
    let checked = by(&world, NOBODY, DAEMON, &["check"]).expect(0);
    assert_eq!(checked.out, remark);
    assert_eq!(checked.err.trim(), "1 remark; 2 batches are valid");
    world.bash("chmod 700 batches.d");
    let listed = by(&world, NOBODY, DAEMON, &["list"]).expect(0);
    let remark = format!("{}: remark: this is not readable for you, so", world.path("batches.d").display());
    assert!(listed.out.contains(&remark) && !listed.out.contains("hint"), "{listed:?}");
}

/// In a user namespace that shows nobody's files as theirs, no owner can be judged.
#[test]
fn a5_a_user_namespace_hides_owners() {
    if !is_root() {
        return;
    }
    let world = of_daemon();
    for how in ["unshare -U", "unshare -Ur"] {
        for verb in ["list", "check"] {
            let as_daemon = "setpriv --reuid daemon --regid daemon --clear-groups";
            let shown = world.bash(&format!("{as_daemon} {how} ./batchd {verb} 2>&1"));
            assert!(shown.contains("remark: this user namespace hides the owners of files, so it was not"), "{shown}");
            assert!(!shown.contains("hint") && !shown.contains("error"), "{shown}");
        }
    }
}

/// As long as no daemon has run, and for a folder that is not the daemon's, whoever asks will be the daemon's user.
#[test]
fn a5_the_future_daemon_is_whoever_asks() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let check = |world: &World, folders: [&str; 2]| {
        for folder in folders {
            let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
            command.args(["check", world.path(folder).to_str().unwrap()]).uid(NOBODY).gid(NOBODY);
            world.output(command).expect(0);
            let by_root = world.batchd(&["check", folder]).expect(1);
            assert!(by_root.out.contains("belongs to `nobody`"), "{folder}: {by_root:?}");
        }
    };
    world.batch("report", "", "echo\n");
    world.bash("cp -r batches.d mine; cp -r batches.d others; chown -R nobody batches.d mine others");
    check(&world, ["batches.d", "mine"]);
    world.bash("chown -R root batches.d");
    world.start();
    check(&world, ["mine", "others"]);
}
