//! Edits as people and tools make them, while the daemon watches.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::root::is_root;
use crate::world::{Daemon, World};

/// A world with one batch, `edited`, in force; its script prints `one`.
fn world() -> World {
    let mut world = World::new();
    world.batch("edited", "", "echo one\n");
    world.start();
    world
}

/// Does something to the files, waits until a new definition of `edited` is in force, and runs that.
#[track_caller]
fn check(world: &World, act: &str, expected: &str) {
    let mark = world.daemon().mark();
    world.bash(act);
    world.daemon().in_force(mark, "edited");
    let run = world.batchd(&["start", "edited"]).expect(0);
    world.end(run.line());
    assert_eq!(world.stdout(run.line()), format!("{expected}\n"), "{act}");
}

/// nano is driven by keys (cut the line, type another, write, exit) once it has drawn its screen, on a terminal that
/// script(1) makes.
const NANO: &str = r#"mkfifo keys screen
TERM=xterm script -qec 'stty rows 24 cols 80; nano -I batches.d/edited/script.sh' /dev/null <keys >screen &
exec 3>keys 4<screen
until [[ $drawn == *Exit* ]]; do IFS= read -r -N 1 character <&4; drawn+=$character; done
printf '\x0becho nano\x0f\r\x18' >&3
cat <&4 >/dev/null
wait"#;

#[test]
fn d2_editors_and_tools() {
    let world = world();
    check(&world, "cd batches.d/edited; echo 'echo cut' > script.sh", "cut");
    check(&world, "cd batches.d/edited; sed -i s/cut/sed/ script.sh", "sed");
    check(&world, "cd batches.d/edited; echo 'echo renamed' > .script.sh.tmp; mv .script.sh.tmp script.sh", "renamed");
    check(&world, "vim -es -u NONE -i NONE -c '%s/renamed/vim/' -c wq batches.d/edited/script.sh", "vim");
    check(
        &world,
        "vim -es -u NONE -i NONE -c 'set backup backupcopy=no writebackup' -c '%s/vim/backup/' -c wq batches.d/edited/script.sh",
        "backup",
    );
    check(
        &world,
        "mkdir -p new/edited; cp batches.d/edited/* new/edited; echo 'echo rsync' > new/edited/script.sh; rsync -a --delete new/ batches.d",
        "rsync",
    );
    check(&world, NANO, "nano");
    // As VS Code does it: the file itself, cut to nothing, written, and brought to the disk.
    check(&world, "echo 'echo code' | dd of=batches.d/edited/script.sh conv=fsync status=none", "code");
    check(&world, "cd batches.d/edited; rm script.sh; echo 'echo anew' > script.sh", "anew");
}

/// The kernel keeps no more events for who does not read them than this by default: more are lost, the last one among them.
#[test]
fn d7_d8_events_that_overflow_are_made_up_for_by_a_look_at_everything() {
    let world = world();
    let lost: u32 = world.bash("cat /proc/sys/fs/inotify/max_queued_events").trim().parse().unwrap();
    world.daemon().signal(Signal::STOP);
    // What editors leave behind is no part of a definition.
    world.bash(&format!("cd batches.d/edited; seq -f '%.0f~' {lost} | xargs touch; seq -f '%.0f~' {lost} | xargs rm"));
    let mark = world.daemon().mark();
    world.bash("echo 'echo late' > batches.d/edited/script.sh; mkdir batches.d/new; echo > batches.d/new/batch.toml; echo : > batches.d/new/script.sh");
    world.daemon().signal(Signal::CONT);
    world.daemon().in_force(mark, "edited");
    world.daemon().in_force(mark, "new");
}

#[test]
fn d14_what_is_saved_again_as_it_was_changes_nothing() {
    let world = world();
    world.batch("other", "", "echo other\n");
    world.daemon().in_force(0, "other");
    let mark = world.daemon().mark();
    world.bash("for n in {1..200}; do cp batches.d/edited/script.sh x; cat x > batches.d/edited/script.sh; mv x batches.d/edited/script.sh; done");
    world.batchd(&["reload"]).expect(0);
    world.write("batches.d/other/script.sh", "echo changed\n");
    world.daemon().in_force(mark, "other");
    let again = |line: &str| line.contains("in force") && line.contains("\"edited\"");
    assert_eq!(world.daemon().log_text().lines().filter(|line| again(line)).count(), 1, "its first time");
}

/// What rsync -t, cp -p and a wrong clock leave behind: times say nothing, content does.
#[test]
fn d15_d16_times_of_files_do_not_matter() {
    let world = world();
    check(
        &world,
        "cd batches.d/edited; cp -p script.sh old; echo 'echo two' > script.sh; touch -r old script.sh; rm old",
        "two",
    );
    check(&world, "cd batches.d/edited; echo 'echo six' > script.sh; touch -d 2098-01-01 script.sh", "six");
    check(&world, "cd batches.d/edited; echo 'echo ten' > script.sh; touch -d 1970-01-02 script.sh", "ten");
}

#[test]
fn d17_what_is_no_file_is_refused_and_keeps_nobody() {
    let world = world();
    for make in [
        "mkfifo",
        "mkdir",
        "ln -s /dev/zero",
        "python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])'",
    ] {
        let mark = world.daemon().mark();
        world.bash(&format!("mkdir batches.d/odd; echo : > batches.d/odd/script.sh; {make} batches.d/odd/batch.toml"));
        let reloaded = world.batchd(&["reload"]).expect(1);
        assert!((reloaded.out + &reloaded.err).contains("odd/batch.toml"), "{make}");
        check(
            &world,
            "echo \"echo $RANDOM$RANDOM\" > x; mv x batches.d/edited/script.sh; echo echo still >> batches.d/edited/script.sh; sed -i 1d batches.d/edited/script.sh; echo \"# $RANDOM$RANDOM\" >> batches.d/edited/script.sh",
            "still",
        );
        world.bash("rm -r batches.d/odd");
        world.batchd(&["reload"]).expect(0);
        assert!(!world.daemon().log_text()[mark..].contains("panicked"));
    }
}

#[test]
fn d18_ten_thousand_folders_change_at_once() {
    let mut world = World::in_memory();
    world.start();
    let hashes = |world: &World, word: &str| {
        world.bash("mkdir -p batches.d made; cd made; seq -f 'b%.0f' 10000 | xargs mkdir -p");
        world.bash(&format!(
            "cd made; for n in {{1..10000}}; do : > b$n/batch.toml; echo \"echo {word} $n\" > b$n/script.sh; done"
        ));
        world.bash("cp -r made/. batches.d/");
        world.batchd(&["reload"]).expect(0);
        let list = world.json(&["list"]);
        let hash = |batch: &Value| batch["definition"].as_str().unwrap().to_owned();
        list["batches"].as_array().unwrap().iter().map(hash).collect::<BTreeSet<String>>()
    };
    let (before, after) = (hashes(&world, "one"), hashes(&world, "two"));
    assert_eq!((before.len(), after.len()), (10_000, 10_000));
    assert!(before.is_disjoint(&after));
    world.batchd(&["start", "b9999", "--wait"]).expect(0);
    assert_eq!(world.stdout("b9999.1"), "two 9999\n");
}

#[test]
fn d12_git() {
    let world = world();
    let git = "git() { command git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main \"$@\" >/dev/null 2>&1; }; cd batches.d;";
    world.bash(&format!("{git} git init && git add . && git commit -m one"));
    check(
        &world,
        &format!("{git} git checkout -b other && echo 'echo other' > edited/script.sh && git commit -am other"),
        "other",
    );
    check(&world, &format!("{git} git checkout main"), "one");
    check(&world, &format!("{git} git merge other"), "other");
    // As long as git has its lock, what is half checked out is not looked at.
    let mark = world.daemon().mark();
    world.bash("touch batches.d/.git/index.lock; echo 'echo half' > batches.d/edited/script.sh; mkdir batches.d/late; echo 'echo late' > batches.d/late/script.sh");
    check(
        &world,
        "echo > batches.d/late/batch.toml; echo 'echo whole' > batches.d/edited/script.sh; rm batches.d/.git/index.lock",
        "whole",
    );
    world.daemon().in_force(mark, "late");
    assert!(!world.daemon().log_text().contains("late/"), "a half-made folder was complained about");
}

#[test]
fn d4_folders_come_and_go() {
    let world = world();
    let daemon = world.daemon();
    let mark = daemon.mark();
    world.bash(
        "mkdir -p out/new; echo > out/new/batch.toml; echo 'echo new' > out/new/script.sh; mv out/new batches.d/new",
    );
    daemon.in_force(mark, "new");
    world.batchd(&["start", "new", "--wait"]).expect(0);
    world.bash("mv batches.d/new out/new");
    daemon.line_after(mark, "new removed", |line| line["message"] == "removed" && line["batch"] == "new");
    let refused = world.batchd(&["start", "new"]).expect(2);
    assert!(refused.err.contains("the batch `new` was removed"), "{refused:?}");
}

#[test]
fn d11_a_swapped_link_at_the_root() {
    let mut world = World::new();
    world.bash("rmdir batches.d; for r in one two; do mkdir -p release-$r/edited; echo > release-$r/edited/batch.toml; echo echo $r > release-$r/edited/script.sh; done; ln -s release-one batches.d");
    world.start();
    check(&world, "ln -s release-two next; mv -T next batches.d", "two");
    check(&world, "echo 'echo three' > release-two/edited/script.sh", "three");
}

/// Releases as deploying tools lay them out, each with a root of its own, and the link `current` to the one that counts.
const RELEASES: &str = "rmdir batches.d
for release in one two three; do
  mkdir -p releases/$release/batches.d/edited
  echo > releases/$release/batches.d/edited/batch.toml
  echo echo $release > releases/$release/batches.d/edited/script.sh
done
ln -s releases/one current";

#[track_caller]
fn check_swaps_of_current(world: &World) {
    check(world, "ln -s releases/two next; mv -T next current", "two");
    check(world, "echo 'echo edited' > releases/two/batches.d/edited/script.sh", "edited");
    check(world, "ln -s releases/three next; mv -T next current", "three");
}

#[test]
fn d11_a_swapped_link_above_the_root() {
    let mut world = World::new();
    world.bash(RELEASES);
    world.start_with(&["--batches", "current/batches.d"], &[]);
    check_swaps_of_current(&world);
}

#[test]
fn d11_a_swapped_link_behind_another_at_the_root() {
    let mut world = World::new();
    world.bash(&format!("{RELEASES}\nln -s current/batches.d batches.d"));
    world.start();
    check_swaps_of_current(&world);
}

/// At a start as at any other time: what is gone may come back.
#[test]
fn d4_a_folder_that_is_absent_when_the_daemon_starts() {
    let mut world = world();
    world.batch("other", "", "echo other\n");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.bash("mv batches.d/edited away");
    let daemon = world.start();
    assert!(!daemon.log_text().contains("\"removed\""), "{}", daemon.log_text());
    world.batchd(&["start", "edited", "--wait"]).expect(0);
    world.daemon().line("edited removed", |line| line["message"] == "removed" && line["batch"] == "edited");
    world.batchd(&["start", "edited"]).expect(2);
}

#[test]
fn d12_a_checkout_that_is_half_done_when_the_daemon_starts() {
    let mut world = world();
    world.batch("other", "", "echo other\n");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.bash("mkdir batches.d/.git; touch batches.d/.git/index.lock; mv batches.d/edited away; echo 'echo half' > batches.d/other/script.sh");
    world.start();
    world.batchd(&["start", "edited", "--wait"]).expect(0);
    world.batchd(&["start", "other", "--wait"]).expect(0);
    assert_eq!(world.stdout("other.1"), "other\n");
    check(
        &world,
        "mv away batches.d/edited; echo 'echo whole' > batches.d/edited/script.sh; rm batches.d/.git/index.lock",
        "whole",
    );
    let log = world.daemon().log_text();
    assert!(!log.contains("\"removed\""), "{log}");
}

#[test]
fn d11_a_root_that_is_gone_removes_nothing() {
    let world = world();
    let mark = world.daemon().mark();
    world.bash("mv batches.d away");
    world.daemon().says(mark, "batches.d");
    world.batchd(&["start", "edited", "--wait"]).expect(0);
    check(&world, "mv away batches.d; echo 'echo back' > batches.d/edited/script.sh", "back");
}

/// The kernel drops the watches of what is unmounted; mounted again, it looks as it did.
#[test]
fn d11_a_root_that_is_mounted_again_is_watched_again() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.batch("edited", "", "echo one\n");
    world.bash("mv batches.d kept; mkdir batches.d; mount --bind kept batches.d");
    world.start();
    world.bash("umount --lazy batches.d");
    let reloaded = world.batchd(&["reload"]).expect(1);
    assert!((reloaded.out + &reloaded.err).contains("file system is mounted"));
    world.batchd(&["start", "edited", "--wait"]).expect(0);
    world.bash("mount --bind kept batches.d");
    world.batchd(&["reload"]).expect(0);
    check(&world, "echo 'echo again' > batches.d/edited/script.sh", "again");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.bash("umount batches.d");
}

#[test]
fn d5_a_broken_edit_stops_nothing() {
    let world = world();
    let daemon = world.daemon();
    let mark = daemon.mark();
    world.write("batches.d/edited/batch.toml", "timeuot = '1m'\n");
    daemon.says(mark, "did you mean `timeout`?");
    world.batchd(&["start", "edited", "--wait"]).expect(0);
    let list = world.batchd(&["list"]).expect(0);
    assert!(list.out.contains("timeuot") || list.err.contains("timeuot"), "{list:?}");
    let reloaded = world.batchd(&["reload"]).expect(1);
    assert!((reloaded.out + &reloaded.err).contains("edited/batch.toml:1:1: unknown key `timeuot`"));
    check(&world, "echo \"timeout = '1m'\" > batches.d/edited/batch.toml", "one");
    world.batchd(&["reload"]).expect(0);
}

#[test]
fn settings_that_take_a_restart_say_so() {
    let world = world();
    let mark = world.daemon().mark();
    world.settings("state = 'elsewhere'");
    world.daemon().says(mark, "restart the daemon");
    // It is no mistake: the definitions are in force.
    for (settings, remark) in [
        ("log_output = true", "remark: `log_output` has changed since the daemon started"),
        (
            "runs_mode = '0755'\nlog_output = true",
            "remark: `runs_mode` and `log_output` have changed since the daemon started",
        ),
    ] {
        world.settings(settings);
        let reload = world.batchd(&["reload"]).expect(0);
        assert!(reload.out.contains(remark), "{reload:?}");
    }
    assert!(!world.daemon().log_text().contains("WARN"), "a remark is no warning");
    // What was in force when the daemon started still is.
    world.settings("");
    world.batchd(&["reload"]).expect(0);
}

#[test]
fn a_reload_is_asked_for_by_signal() {
    let world = world();
    let daemon: &Daemon = world.daemon();
    let mark = daemon.mark();
    world.write("batches.d/edited/script.sh", "echo two\n");
    daemon.signal(Signal::HUP);
    daemon.in_force(mark, "edited");
}

/// bash reads a script while it runs it: what was begun is finished as it was.
#[test]
fn d3_an_edit_does_not_reach_what_has_begun() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("edited", "", "echo up > $W/up\nread -r word < $W/go\necho one\n");
    world.start();
    world.batchd(&["start", "edited"]).expect(0);
    up.hear();
    let mark = world.daemon().mark();
    world.write("batches.d/edited/script.sh", "echo two\necho two\necho two\necho two\necho two\n");
    world.daemon().in_force(mark, "edited");
    go.tell();
    world.end("edited.1");
    assert_eq!(world.stdout("edited.1"), "one\n");
    world.batchd(&["start", "edited", "--wait"]).expect(0);
    assert!(world.stdout("edited.2").starts_with("two\n"));
}

/// A remark keeps nothing out of force, and `check` and `reload` succeed with it.
#[test]
fn remarks_are_shown_and_harm_nothing() {
    let mut world = World::new();
    world.batch("edited", "env = { BIN = \"~/bin\" }\n", "echo \"$BIN\"\n");
    let checked = world.batchd(&["check"]).expect(0);
    assert!(checked.out.contains("edited/batch.toml:1:15: remark: `~` in `env.BIN` is not expanded"), "{checked:?}");
    assert!(checked.err.contains("1 remark; 1 batch is valid"), "{checked:?}");
    let mark = world.start().mark();
    world.write("batches.d/edited/script.sh", "echo \"new $BIN\"\n");
    world.daemon().in_force(mark, "edited");
    assert!(world.batchd(&["reload"]).expect(0).out.contains("remark: "));
    assert!(!world.daemon().log_text().contains("WARN"), "a remark is no warning");
    let run = world.batchd(&["start", "edited", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "new ~/bin\n");
}

/// The warning about a broken edit is not the last word of the log.
#[test]
fn an_edit_that_is_taken_back_is_said_to_be_valid_again() {
    let world = world();
    let mark = world.daemon().mark();
    world.write("batches.d/edited/batch.toml", "retires = 3\n");
    world.daemon().says(mark, "unknown key `retires`");
    let mark = world.daemon().mark();
    world.write("batches.d/edited/batch.toml", "");
    world.daemon().says(mark, "edited is valid again");
    let mark = world.daemon().mark();
    world.write("batches.d/edited/batch.toml", "retires = 3\n");
    world.daemon().says(mark, "unknown key `retires`");
    world.bash("rm -r batches.d/edited; touch batches.d/README");
    let reloaded = world.batchd(&["reload"]).expect(0);
    assert_eq!(reloaded.out, "");
    let log = world.daemon().log_text();
    assert!(!log.lines().skip(mark).any(|line| line.contains("valid again")), "the batch is gone");
}
