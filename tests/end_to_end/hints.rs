//! Edits of which no event tells, or not the whole truth: the disk is what counts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Write as _};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::world::root::is_root;
use crate::world::{PATIENCE, World, exits};

/// Everything is looked at once a minute; the rest is for a host that is busy.
const A_LOOK: Duration = Duration::from_secs(90);

/// A world with one batch, `edited`, whose script prints `one`.
pub(crate) fn world() -> World {
    let world = World::new();
    world.batch("edited", "", "echo one\n");
    world
}

/// Runs `edited`, which prints this.
#[track_caller]
pub(crate) fn prints(world: &World, expected: &str) {
    let run = world.batchd(&["start", "edited", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), format!("{expected}\n"));
}

/// A daemon whose calls fail as `injections` say, until [`calls_succeed`].
fn start_with_failing_calls(world: &mut World, injections: &[&str]) {
    // `-D`: strace is nobody's parent, and the process started is the daemon itself. `-I1`: a signal ends it.
    let mut strace: Vec<String> = ["-D", "-I1", "-f", "-qq", "-o", "/dev/null"].map(str::to_owned).to_vec();
    strace.extend(injections.iter().map(|option| (*option).to_owned()));
    world.spawn_under("strace", &strace);
    assert!(world.daemon().ready_or_ended(), "strace is installed: {}", world.daemon().log_text());
}

/// Calls fail no more: strace lets go of all that it traces.
fn calls_succeed(world: &World) {
    let status = format!("/proc/{}/status", world.daemon().pid());
    let tracer = || {
        let status = fs::read_to_string(&status).unwrap();
        status.lines().find_map(|line| line.strip_prefix("TracerPid:\t")?.parse().ok()).and_then(Pid::from_raw)
    };
    kill_process(tracer().expect("it is traced"), Signal::TERM).unwrap();
    let until = Instant::now() + PATIENCE;
    while tracer().is_some() {
        assert!(Instant::now() < until, "strace does not let go");
        std::thread::yield_now();
    }
}

/// What has become of `edited` since `mark`.
fn news(world: &World, mark: usize) -> Vec<String> {
    let log = world.daemon().log_text();
    let lines = log.lines().skip(mark).map(|line| line.parse::<serde_json::Value>().unwrap());
    let of_edited =
        lines.filter(|line| line["batch"] == "edited").map(|line| line["message"].as_str().unwrap().to_owned());
    of_edited.filter(|message| message == "in force" || message == "removed").collect()
}

/// Half a script that runs removes the wrong folder: a file that is open for writing is no definition, however long it is
/// quiet. What is in force stays, a diagnostic names the file and the process, and the whole edit comes into force.
#[test]
fn d1_a_writer_that_stops_halfway_is_waited_for() {
    let mut world = world();
    let mark = world.start().mark();
    let mut writer = File::create(world.path("batches.d/edited/script.sh")).unwrap();
    writer.write_all(b"echo ha").unwrap();
    let named = format!("process {} ", std::process::id());
    world.daemon().says(mark, &named);
    world.daemon().says(mark, "edited/script.sh");
    prints(&world, "one");
    let reloaded = world.batchd(&["reload"]).expect(1);
    assert!(reloaded.out.contains("edited/script.sh: ") && reloaded.out.contains(&named), "{reloaded:?}");
    let checked = world.batchd(&["check"]).expect(1);
    assert!(checked.out.contains("edited/script.sh: ") && checked.out.contains(&named), "{checked:?}");
    prints(&world, "one");
    assert_eq!(news(&world, mark), [""; 0], "half a file is in force");
    let mark = world.daemon().mark();
    writer.write_all(b"lf\n").unwrap();
    drop(writer);
    world.daemon().in_force(mark, "edited");
    world.batchd(&["reload"]).expect(0);
    prints(&world, "half");
}

/// A batch that is new waits as well, for what it includes too; a log that somebody keeps open is nobody's definition.
#[test]
fn d1_only_files_of_the_definition_are_waited_for() {
    let mut world = world();
    let mark = world.start().mark();
    let _logs = ["batches.d/app.log", "batches.d/edited/app.log~", "batches.d/_logs/app.log"].map(|name| {
        world.write(name, "");
        let mut log = File::create(world.path(name)).unwrap();
        log.write_all(b"a line\n").unwrap();
        log
    });
    world.write("batches.d/_lib/lib.sh", "");
    let mut library = File::create(world.path("batches.d/_lib/lib.sh")).unwrap();
    library.write_all(b"say() { echo ha").unwrap();
    world.batch("new", "include = [\"_lib\"]\n", "source _lib/lib.sh; say\n");
    world.write("batches.d/edited/script.sh", "echo two\n");
    world.daemon().in_force(mark, "edited");
    prints(&world, "two");
    world.daemon().says(mark, "_lib/lib.sh");
    world.batchd(&["start", "new"]).expect(2);
    let mark = world.daemon().mark();
    library.write_all(b"lf; }\n").unwrap();
    drop(library);
    world.daemon().in_force(mark, "new");
    world.batchd(&["reload"]).expect(0);
}

/// The kernel doesn't tell a daemon without the right to it who writes another owner's file: events do.
#[test]
fn d1_a_writer_of_another_owners_file_is_waited_for() {
    if !is_root() {
        return;
    }
    let mut world = world();
    world.settings("trusted_owners = [\"nobody\"]\n");
    world.bash("chown -R nobody batches.d/edited; touch -d '-1 hour' batches.d/edited/*");
    let mark = world.start_under(&["setpriv", "--bounding-set", "-lease"]).mark();
    let mut writer = File::options().write(true).truncate(true).open(world.path("batches.d/edited/script.sh")).unwrap();
    writer.write_all(b"echo ha").unwrap();
    world.daemon().says(mark, &format!("process {} ", std::process::id()));
    prints(&world, "one");
    assert_eq!(news(&world, mark), [""; 0], "half a file is in force");
    let mark = world.daemon().mark();
    writer.write_all(b"lf\n").unwrap();
    drop(writer);
    world.daemon().in_force(mark, "edited");
    prints(&world, "half");
}

/// A daemon that starts while a file is being written looks at the end of it.
#[test]
fn d1_a_start_waits_for_writers() {
    let mut world = World::new();
    world.batch("edited", "", "echo whole\n");
    let writer = File::options().append(true).open(world.path("batches.d/edited/script.sh")).unwrap();
    let mark = world.start().mark();
    world.batchd(&["start", "edited"]).expect(2);
    drop(writer);
    world.daemon().in_force(mark, "edited");
    prints(&world, "whole");
}

/// Each way of saving is one edit, and not two.
#[test]
fn d2_a_file_that_is_saved_comes_into_force_once() {
    let mut world = world();
    world.start();
    let check = |save: &str, printed: &str| {
        let mark = world.daemon().mark();
        world.bash(&format!("cd batches.d/edited; {save}"));
        world.daemon().in_force(mark, "edited");
        world.batchd(&["reload"]).expect(0);
        assert_eq!(news(&world, mark), ["in force"], "{save}");
        prints(&world, printed);
    };
    // As VS Code does it: cut to nothing and written; and, where it is told to be careful, beside and renamed.
    check("echo echo cut > script.sh", "cut");
    check("echo echo atomic > .script.sh.tmp-1f3a; mv .script.sh.tmp-1f3a script.sh", "atomic");
    check("echo echo beside > script.sh.new; mv script.sh script.sh~; mv script.sh.new script.sh", "beside");
    check("rm script.sh; echo echo anew > script.sh", "anew");
    check("rm -r ../edited; mkdir ../edited; cd ../edited; echo > batch.toml; echo echo folder > script.sh", "folder");
}

/// The kernel gives no watch: what changes is found by looks, and watched again when it can be.
fn without_watches(injection: &str, complaint: &str) {
    let mut world = world();
    start_with_failing_calls(&mut world, &["-e", injection]);
    world.daemon().says(0, complaint);
    world.daemon().says(0, "changes are found once a minute");
    world.write("batches.d/edited/script.sh", "echo two\n");
    world.batchd(&["reload"]).expect(0);
    prints(&world, "two");
    calls_succeed(&world);
    world.batchd(&["reload"]).expect(0);
    let mark = world.daemon().mark();
    // Sooner than the next look.
    world.write("batches.d/edited/script.sh", "echo three\n");
    world.daemon().in_force(mark, "edited");
    prints(&world, "three");
}

#[test]
fn d9_no_watches_are_left() {
    without_watches("inject=inotify_add_watch:error=ENOSPC", "can't be watched: ");
}

#[test]
fn d10_no_watcher_can_be_had() {
    without_watches("inject=inotify_init1,inotify_init:error=EMFILE", "changes can't be watched: ");
}

/// A file that is written by another name of it: to who watches its folder, the kernel says nothing. With it comes a new
/// release of the time-zone data, which nobody watches.
#[test]
fn c9_d13_what_no_event_tells_is_found_within_a_minute() {
    let mut world = world();
    world.write("zoneinfo/tzdata.zi", "# version 2031a\n");
    fs::hard_link(world.path("batches.d/edited/script.sh"), world.path("script.sh")).unwrap();
    let zoneinfo = world.path("zoneinfo").display().to_string();
    let daemon = world.start_with(&[], &[("TZDIR", &zoneinfo)]);
    daemon.says(0, "zone data 2031a");
    let mark = daemon.mark();
    world.write("script.sh", "echo other\n");
    world.write("zoneinfo/tzdata.zi", "# version 2031b\n");
    let is_it = |line: &serde_json::Value| line["message"] == "in force" && line["batch"] == "edited";
    world.daemon().line_within(A_LOOK, mark, "edited in force", is_it);
    world.daemon().says(mark, "zone data 2031b");
    prints(&world, "other");
}

/// The file that is broken is new: what was in force before has none.
fn unreadable(injection: &str, complaint: &str) {
    let mut world = world();
    let lib = world.path("batches.d/edited/lib.sh").display().to_string();
    // It is opened by its name alone, beneath its folder.
    start_with_failing_calls(&mut world, &["-P", &lib, "-P", "lib.sh", "-e", injection]);
    let mark = world.daemon().mark();
    world.write("batches.d/edited/lib.sh", "hello() { echo hello; }\n");
    world.write("batches.d/edited/script.sh", "source ./lib.sh; hello\n");
    let said = world.daemon().says(mark, "lib.sh");
    assert!(said.to_string().contains(complaint), "{said}");
    world.batchd(&["reload"]).expect(1);
    prints(&world, "one");
    calls_succeed(&world);
    world.batchd(&["reload"]).expect(0);
    prints(&world, "hello");
}

#[test]
fn d20_a_file_that_can_not_be_opened() {
    unreadable("inject=openat,openat2:error=EACCES", "Permission denied");
}

#[test]
fn d20_a_file_on_a_broken_disk() {
    unreadable("inject=read,pread64:error=EIO", "Input/output error");
}

/// An archive whose script prints this, long enough to be met while it is read.
fn archive(word: &str) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("script.sh", SimpleFileOptions::default()).unwrap();
    writeln!(writer, "echo {word}").unwrap();
    writer.start_file("data", SimpleFileOptions::default()).unwrap();
    (0..100_000_u32).for_each(|number| writeln!(writer, "{word} {}", number.wrapping_mul(2_654_435_761)).unwrap());
    writer.finish().unwrap().into_inner()
}

#[test]
fn d22_an_archive_that_is_replaced_while_it_is_read_is_one_or_the_other() {
    let mut world = World::new();
    world.write("a.zip", archive("a"));
    world.write("b.zip", archive("b"));
    world.write("batches.d/edited/batch.toml", "");
    world.bash("cp b.zip batches.d/edited/edited.zip");
    let mut whole = BTreeSet::from([world.start().in_force(0, "edited")]);
    let mark = world.daemon().mark();
    world.bash("cp a.zip batches.d/edited/edited.zip");
    whole.insert(world.daemon().in_force(mark, "edited"));
    assert_eq!(whole.len(), 2);
    let mark = world.daemon().mark();
    let mut swaps = world.command("bash");
    // Half of the time beside and renamed, half of the time in place.
    swaps.args(["-ec", "until [[ -e stop ]]; do for z in a b; do cp $z.zip next; mv next batches.d/edited/edited.zip; cp a.zip batches.d/edited/edited.zip; done; done"]);
    let mut swaps = swaps.spawn().unwrap();
    for _ in 0..10 {
        // What it finds may be half an archive.
        world.batchd(&["reload"]);
        prints_one_of(&world, ["a", "b"]);
    }
    world.write("stop", "");
    assert!(exits(&swaps, PATIENCE));
    assert!(swaps.wait().unwrap().success());
    world.bash("cp b.zip batches.d/edited/edited.zip");
    world.batchd(&["reload"]).expect(0);
    prints(&world, "b");
    for line in world.daemon().log_text().lines().skip(mark) {
        let line: serde_json::Value = line.parse().unwrap();
        let is_new = line["message"] == "in force";
        assert!(!is_new || whole.contains(line["definition"].as_str().unwrap()), "neither of the two: {line}");
    }
}

#[track_caller]
fn prints_one_of(world: &World, expected: [&str; 2]) {
    let run = world.batchd(&["start", "edited", "--wait"]).expect(0);
    let printed = world.stdout(run.line());
    assert!(expected.contains(&printed.trim_end()), "{printed}");
}
