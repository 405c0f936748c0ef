//! Files that somebody is writing: half a definition, half of the settings and half an `env_file` are never used.

use std::fs::{self, File};
use std::io::Write as _;

use rustix::process::Signal;

use crate::hints::{prints, world};
use crate::world::root::is_root;
use crate::world::{World, file};

/// How a diagnostic names this process, which has the file open.
fn named() -> String {
    format!("process {} ", std::process::id())
}

/// The default in force.
fn timezone(world: &World) -> String {
    world.json(&["list"])["batches"][0]["timezone"].to_string()
}

/// Starts the daemon as one that the kernel tells nothing of who writes other users' files.
fn start_without_leases(world: &mut World) -> usize {
    world.start_under(&["setpriv", "--bounding-set", "-lease", "--inh-caps", "-lease"]).mark()
}

/// Waits until the run has its shim.
#[track_caller]
fn begun(world: &World, run: &str) {
    file(&world.path("runs").join(run));
    file(&world.run_file(run, "claim"));
}

/// Half of the settings has valid syntax, and would change every batch.
#[test]
fn a2_settings_that_are_being_written_are_not_in_force() {
    let mut world = world();
    world.settings("[defaults]\ntimezone = 'Asia/Tokyo'");
    let mark = world.start().mark();
    let path = world.path("batchd.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"max_running = 10").unwrap();
    world.daemon().says(mark, &named());
    world.daemon().says(mark, "the settings stay as they were until the file is closed");
    for (verb, code) in [("reload", 1), ("check", 1), ("list", 0)] {
        let said = world.batchd(&[verb]).expect(code);
        assert!(said.out.contains("batchd.toml: ") && said.out.contains(&named()), "{verb}: {said:?}");
    }
    assert_eq!(timezone(&world), "\"Asia/Tokyo\"");
    let mark = world.daemon().mark();
    writer.write_all(format!("0\n{}", whole.replace("Tokyo", "Seoul")).as_bytes()).unwrap();
    drop(writer);
    world.daemon().in_force(mark, "edited");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(timezone(&world), "\"Asia/Seoul\"");
    world.batchd(&["check"]).expect(0);
}

#[test]
fn a2_settings_of_another_owner_that_are_being_written_are_not_in_force() {
    if !is_root() {
        return;
    }
    let mut world = world();
    world.settings("[defaults]\ntimezone = 'Asia/Tokyo'");
    world.bash("chown nobody batchd.toml; touch -d '-1 hour' batchd.toml");
    let mark = start_without_leases(&mut world);
    let mut writer = File::options().write(true).truncate(true).open(world.path("batchd.toml")).unwrap();
    writer.write_all(b"max_running = 10").unwrap();
    world.daemon().says(mark, &named());
    assert_eq!(timezone(&world), "\"Asia/Tokyo\"");
    let mark = world.daemon().mark();
    writer.write_all(b"0\n").unwrap();
    drop(writer);
    world.daemon().in_force(mark, "edited");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(timezone(&world), "null");
}

/// Half of the settings could name another state folder.
#[test]
fn a2_a_daemon_does_not_start_with_settings_that_are_being_written() {
    let mut world = world();
    let mut writer = File::options().append(true).open(world.path("batchd.toml")).unwrap();
    world.spawn(&[], &[]);
    let log = world.daemon_log_at_its_end(1);
    assert!(log.contains(&named()) && log.contains("unfinished settings"), "{log}");
    world.spawn(&[], &[]);
    writer.write_all(b"A = \"1\"\n").unwrap();
    drop(writer);
    assert!(world.daemon().ready_or_ended());
    prints(&world, "one");
}

/// What was silent before the start may still be written, where nobody tells.
#[test]
fn a2_an_edit_that_may_be_unfinished_at_a_start_is_waited_for() {
    if !is_root() {
        return;
    }
    let mut world = world();
    world.settings("trusted_owners = [\"nobody\"]\n");
    world.bash("chown -R nobody batches.d/edited; touch -d '-1 hour' batches.d/edited/*");
    start_without_leases(&mut world);
    prints(&world, "one");
    world.end_daemon(Signal::TERM);
    // Longer ago than a program that writes a file in pieces pauses.
    let mut writer = File::options().write(true).truncate(true).open(world.path("batches.d/edited/script.sh")).unwrap();
    writer.write_all(b"echo ha").unwrap();
    world.bash("touch -d '-10 seconds' batches.d/edited/script.sh");
    let mark = start_without_leases(&mut world);
    prints(&world, "one");
    world.daemon().says(0, &named());
    writer.write_all(b"lf\n").unwrap();
    drop(writer);
    world.daemon().in_force(mark, "edited");
    prints(&world, "half");
    // What is in force already is not waited for.
    world.end_daemon(Signal::TERM);
    world.bash("touch -d '-10 seconds' batches.d/edited/script.sh");
    start_without_leases(&mut world);
    world.batchd(&["reload"]).expect(0);
}

/// A descriptor that the daemon inherits would make it the writer for which it waits.
#[test]
fn a2_the_daemon_keeps_no_descriptor_that_it_inherits() {
    let mut world = world();
    let script = world.path("batches.d/edited/script.sh").display().to_string();
    let open = format!("exec 9>>{script}; exec \"$@\"");
    world.start_under(&["bash", "-c", &open, "bash"]);
    prints(&world, "one");
    let held =
        world.bash("for p in $(pgrep -f batchd.*daemon) $(pgrep batchd-); do ls -l /proc/$p/fd 2>&1 || true; done");
    assert!(!held.contains(&script), "{held}");
    world.batchd(&["reload"]).expect(0);
}

#[test]
fn a2_an_env_file_that_is_being_written_is_waited_for() {
    let mut world = world();
    world.batch("edited", "env_file = 'job.env'\n", "echo $DB_URL\n");
    world.write("batches.d/edited/job.env", "");
    world.start();
    let mut writer = File::create(world.path("batches.d/edited/job.env")).unwrap();
    writer.write_all(b"DB_URL=postgres://pr").unwrap();
    let run = world.batchd(&["start", "edited"]).expect(0).line().to_owned();
    begun(&world, &run);
    let checked = world.batchd(&["check"]).expect(1);
    let place = "edited/job.env: ";
    assert!(checked.out.contains(place) && checked.out.contains(&named()), "{checked:?}");
    writer.write_all(b"od-2\n").unwrap();
    drop(writer);
    assert_eq!(world.end(&run)["outcome"], "succeeded");
    assert_eq!(world.stdout(&run), "postgres://prod-2\n");
    world.batchd(&["check"]).expect(0);
    // One that stays open fails the run; a stop ends the wait.
    let writer = File::options().append(true).open(world.path("batches.d/edited/job.env")).unwrap();
    let failed = world.batchd(&["start", "edited", "--wait"]).expect(125);
    assert!(failed.err.contains("job.env: ") && failed.err.contains(&named()), "{failed:?}");
    let run = world.batchd(&["start", "edited"]).expect(0).line().to_owned();
    begun(&world, &run);
    world.batchd(&["stop", &run]).expect(0);
    assert_eq!(world.end(&run)["outcome"], "cancelled");
    drop(writer);
}

/// Where the kernel doesn't say who writes it, a file that has just changed is waited for.
#[test]
fn a2_an_env_file_of_another_owner_that_has_just_changed_is_waited_for() {
    if !is_root() {
        return;
    }
    let mut world = world();
    let env_file = world.path("job.env");
    world.batch("edited", &format!("env_file = '{}'\nuser = 'nobody'\n", env_file.display()), "echo $DB_URL\n");
    world.write("job.env", "");
    world.bash("chown nobody job.env");
    start_without_leases(&mut world);
    let mut writer = File::create(&env_file).unwrap();
    writer.write_all(b"DB_URL=postgres://pr").unwrap();
    let run = world.batchd(&["start", "edited"]).expect(0).line().to_owned();
    begun(&world, &run);
    writer.write_all(b"od-2\n").unwrap();
    drop(writer);
    assert_eq!(world.end(&run)["outcome"], "succeeded");
    assert_eq!(world.stdout(&run), "postgres://prod-2\n");
}
