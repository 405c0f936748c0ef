//! Daemons that end, are killed, and begin again, while scripts go on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use batchd::rundir::RunDir;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Pipe, World};

/// Says that it is there, waits for a word, and prints what it was told.
pub(crate) const WAITS: &str = "echo $BATCHD_RUN > $W/up\nread -r word < $W/go\necho $word\n";

/// A world with the batch `slow`, which waits for a word, and `next`, which follows it.
pub(crate) struct Slow {
    pub(crate) world: World,
    pub(crate) up: Pipe,
    pub(crate) go: Pipe,
}

impl Slow {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let (up, go) = (world.pipe("up"), world.pipe("go"));
        world.batch("slow", "", WAITS);
        world.batch("next", "after = 'slow'\nuse_previous_output = true", "tr a-z A-Z");
        Self { world, up, go }
    }

    /// Starts the daemon and the run `slow.1`, which then waits.
    pub(crate) fn begin(&mut self) {
        self.world.start();
        assert_eq!(self.world.batchd(&["start", "slow"]).expect(0).line(), "slow.1");
        assert_eq!(self.up.hear(), "slow.1");
    }

    /// Both runs have succeeded, and the second has the first one's output.
    #[track_caller]
    pub(crate) fn check_end(&self) {
        self.world.rest();
        let runs = self.world.runs();
        let ends: Vec<(&str, &str)> =
            runs.iter().map(|run| (run["id"].as_str().unwrap(), run["outcome"].as_str().unwrap())).collect();
        assert_eq!(ends, [("slow.1", "succeeded"), ("next.1", "succeeded")]);
        assert_eq!(self.world.stdout("next.1"), "GO\n");
    }
}

#[test]
fn a15_a_killed_daemon_is_followed_by_one_that_adopts() {
    let mut slow = Slow::new();
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::KILL), -9);
    slow.world.start();
    assert_ne!(slow.world.run("slow.1")["state"], "ended");
    slow.go.tell();
    slow.check_end();
}

#[test]
fn b9_what_ends_while_no_daemon_is_there_is_imported() {
    let mut slow = Slow::new();
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.go.tell();
    slow.world.all_gone();
    assert_ne!(slow.world.run("slow.1")["state"], "ended");
    slow.world.start();
    slow.check_end();
}

#[test]
fn b_a_log_is_followed_to_its_end_without_a_daemon() {
    let mut slow = Slow::new();
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.go.tell();
    slow.world.all_gone();
    let followed = slow.world.batchd(&["logs", "-f", "slow.1"]).expect(0);
    assert_eq!(followed.out, "go\n");
    for expected in ["the daemon is not running", "the script of slow.1 has ended; the next daemon records how"] {
        assert!(followed.err.contains(expected), "{followed:?}");
    }
}

/// How many runs end while no daemon is there.
const MANY: usize = 100;

#[test]
fn b9_what_ends_while_no_daemon_is_there_is_imported_once_however_much_it_is() {
    let mut world = World::new();
    world.settings(&format!("max_running = {MANY}\n"));
    let up = world.pipe("up");
    let gate = fs::File::create(world.path("gate")).unwrap();
    gate.lock().unwrap();
    for number in 1..=MANY {
        let waits = "echo $BATCHD_RUN > $W/up\nflock --shared $W/gate true\necho $BATCHD_RUN >> $W/witness\n";
        world.batch(&format!("slow-{number}"), "", waits);
        let after = format!("after = 'slow-{number}'\n");
        world.batch(&format!("next-{number}"), &after, "echo $BATCHD_UPSTREAM_RUN >> $W/witness\n");
    }
    world.start();
    for number in 1..=MANY {
        world.batchd(&["start", &format!("slow-{number}")]).expect(0);
    }
    for _ in 0..MANY {
        up.hear();
    }
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    gate.unlock().unwrap();
    world.all_gone();
    world.start();
    world.rest();
    let runs = world.runs();
    assert!(runs.iter().all(|run| run["outcome"] == "succeeded"), "{runs:?}");
    assert_eq!(runs.len(), 2 * MANY);
    // Each once by itself, and once by what follows it.
    let witness = world.read("witness");
    let mut lines: Vec<&str> = witness.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> = (1..=MANY).flat_map(|number| vec![format!("slow-{number}.1"); 2]).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[test]
fn a_daemon_that_is_told_to_stops_what_runs() {
    let mut slow = Slow::new();
    slow.world.start_with(&["--stop-runs"], &[]);
    slow.world.batchd(&["start", "slow"]).expect(0);
    slow.up.hear();
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.all_gone();
    let run = slow.world.run("slow.1");
    assert_eq!((run["outcome"].as_str(), run["exit"]["left_running"].as_u64()), (Some("failed"), Some(0)), "{run}");
}

/// Nobody asked for the end of the run, so its retry and what follows are owed.
#[test]
fn what_was_stopped_with_the_daemon_is_tried_again_by_the_next() {
    let mut slow = Slow::new();
    slow.world.batch("slow", "retries = 1\nretry_delay = '10ms'", WAITS);
    slow.world.start_with(&["--stop-runs"], &[]);
    slow.world.batchd(&["start", "slow"]).expect(0);
    slow.up.hear();
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.all_gone();
    let run = slow.world.run("slow.1");
    assert_eq!(run["reason"], "stopped together with the daemon or the host", "{run}");
    slow.world.start();
    assert_eq!(slow.up.hear(), "slow.2");
    slow.go.tell();
    slow.world.rest();
    assert_eq!(slow.world.run("slow.2")["trigger"], "retry");
    assert_eq!(slow.world.run("next.1")["outcome"], "succeeded");
    slow.world.batchd(&["doctor"]).expect(0);
}

/// What waits is for the next daemon, whatever the one before was told of what runs.
#[test]
fn a_daemon_that_stops_what_runs_leaves_what_waits() {
    let mut slow = Slow::new();
    slow.world.settings("max_running = 1\n");
    slow.world.batch("waits", "", "echo waited\n");
    slow.world.start_with(&["--stop-runs"], &[]);
    slow.world.batchd(&["start", "slow"]).expect(0);
    slow.up.hear();
    slow.world.batchd(&["start", "waits"]).expect(0);
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    assert_ne!(slow.world.run("waits.1")["state"], "ended");
    slow.world.start();
    assert_eq!(slow.world.end("waits.1")["outcome"], "succeeded");
}

/// Half of its settings could let scripts run as another user.
#[test]
fn a_daemon_does_not_start_with_settings_that_have_errors() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    world.settings("[defaults]\nuser = 'nobody '\n");
    world.spawn(&[], &[]);
    let said = world.daemon().says(0, "the settings have errors").to_string();
    assert!(said.contains("fix them to start the daemon"), "{said}");
    assert_eq!(world.daemon_ends(), 1);
    world.settings("");
    world.spawn(&[], &[("BATCHD_SETTINGS", "/nowhere/batchd.toml")]);
    world.daemon().says(0, "correct BATCHD_SETTINGS");
    assert_eq!(world.daemon_ends(), 1);
    // One that runs keeps what was good.
    world.start();
    world.settings("[defaults]\nuser = 'nobody '\n");
    world.batchd(&["reload"]).expect(1);
    world.batchd(&["start", "one", "--wait"]).expect(0);
}

/// Arguments and variables of runs stand in it.
#[test]
fn nobody_else_reads_the_journal() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    let mode = |world: &World, name: &str| fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777;
    world.start();
    world.batchd(&["start", "one", "--wait"]).expect(0);
    for name in ["state/journal.db", "state/journal.db-wal", "state/journal.db-shm"] {
        assert_eq!(mode(&world, name), 0o600, "{name}");
    }
}

#[test]
fn one_interrupt_leaves_scripts_running() {
    let mut slow = Slow::new();
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::INT), 0);
    slow.go.tell();
    slow.world.all_gone();
    slow.world.start();
    slow.check_end();
}

/// A daemon on a terminal that script(1) makes is interrupted there twice, as by Ctrl-C.
const INTERRUPTED_TWICE: &str = r#"mkfifo keys screen
script -qec 'exec batchd daemon' /dev/null <keys >screen &
exec 3>keys 4<screen
says() { until [[ $said == *"$1"* ]]; do IFS= read -r -N 1 character <&4; said+=$character; done; }
says 'is ready'
batchd start slow >/dev/null 2>&1
read -r run <up
printf '\x03' >&3
says 'press Ctrl-C again'
printf '\x03' >&3
cat <&4 >/dev/null
wait"#;

#[test]
fn two_interrupts_at_a_terminal_stop_what_runs() {
    let slow = Slow::new();
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_batchd")).parent().unwrap();
    slow.world.bash(&format!("PATH={}:$PATH\n{INTERRUPTED_TWICE}", folder.display()));
    slow.world.all_gone();
    assert_eq!(slow.world.run("slow.1")["outcome"], "failed");
}

#[test]
fn a20_a_second_daemon_says_so_and_ends() {
    let mut world = World::new();
    world.start();
    let second = world.batchd(&["daemon"]).expect(1);
    assert!(second.err.contains("another daemon") || second.err.contains("a daemon"), "{second:?}");
    assert!(second.err.contains("state"), "{second:?}");
    // The first one goes on.
    world.batch("one", "", "echo one\n");
    world.batchd(&["reload"]).expect(0);
    world.batchd(&["start", "one", "--wait"]).expect(0);
}

#[test]
fn a_wait_goes_on_across_a_restart() {
    let mut slow = Slow::new();
    slow.world.start();
    let mut command = slow.world.command(env!("CARGO_BIN_EXE_batchd"));
    let waiting = command.args(["start", "slow", "--wait"]).spawn().unwrap();
    assert_eq!(slow.up.hear(), "slow.1");
    assert_eq!(slow.world.end_daemon(Signal::KILL), -9);
    slow.world.start();
    slow.go.tell();
    let status = { waiting }.wait().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Somebody holds the journal, as a full disk would.
#[test]
fn e2_a_daemon_that_cannot_write_its_journal_ends_when_it_is_told_to() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    world.start();
    let journal = rusqlite::Connection::open(world.path("state/journal.db")).unwrap();
    journal.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mark = world.daemon().mark();
    world.write("batches.d/one/script.sh", "echo two\n");
    world.daemon().says(mark, "the journal can't be written (");
    world.daemon().signal(Signal::TERM);
    world.daemon().says(mark, "the daemon ends without committing its last records");
    assert_eq!(world.daemon_ends(), 0);
    drop(journal);
    world.start();
    world.batchd(&["start", "one", "--wait"]).expect(0);
    assert_eq!(world.stdout("one.1"), "two\n");
}

/// Its batch was removed, and what it runs from the state, too: it is found, and can be stopped.
#[test]
fn a_run_without_a_definition_is_found() {
    let mut slow = Slow::new();
    slow.begin();
    slow.world.bash("touch batches.d/README; rm -r batches.d/slow batches.d/next");
    slow.world.batchd(&["reload"]).expect(0);
    assert_eq!(slow.world.end_daemon(Signal::TERM), 0);
    slow.world.bash("rm -r state/definitions");
    slow.world.start();
    slow.world.batchd(&["stop", "slow.1"]).expect(0);
    assert_eq!(slow.world.end("slow.1")["outcome"], "cancelled");
}

/// Its shim was killed, and something still holds its lock: the others do not wait for it for ever.
#[test]
fn a_run_that_cannot_be_adopted_yet_does_not_keep_the_others() {
    let mut slow = Slow::new();
    slow.world.batch("other", "", "echo other\n");
    slow.begin();
    assert_eq!(slow.world.end_daemon(Signal::KILL), -9);
    for pid in slow.world.processes() {
        // One may have ended with another.
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    slow.world.all_gone();
    let lock = RunDir::open(&slow.world.run_file("slow.1", "")).unwrap().lock().unwrap().expect("nobody else has it");
    let daemon = slow.world.start();
    assert!(
        daemon.log_text().contains("can't read 1 run of an earlier daemon yet; scheduling starts without them"),
        "{}",
        daemon.log_text()
    );
    slow.world.batchd(&["start", "other", "--wait"]).expect(0);
    drop(lock);
    assert_eq!(slow.world.end("slow.1")["outcome"], "lost");
}

#[test]
fn b14_a_stop_leaves_no_descendant() {
    let mut world = World::new();
    let up = world.pipe("up");
    let script = "trap '' TERM\nsetsid bash -c 'trap \"\" TERM; echo child > $W/up; while :; do sleep 100; done' &\n\
                  (sleep 1000 &) \nwhile :; do sleep 100; done\n";
    world.batch("stubborn", "stop_grace = '100ms'", script);
    world.start();
    world.batchd(&["start", "stubborn"]).expect(0);
    up.hear();
    world.batchd(&["stop", "stubborn.1", "--reason", "enough"]).expect(0);
    let end = world.end("stubborn.1");
    assert_eq!(end["outcome"], "cancelled");
    assert!(end["reason"].as_str().unwrap().contains("enough"), "{end}");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
}

#[test]
fn a_timeout_ends_the_tree() {
    let mut world = World::new();
    world.batch(
        "late",
        "timeout = '200ms'\nstop_grace = '100ms'",
        "trap '' TERM\necho begun\nwhile :; do sleep 100; done\n",
    );
    world.start();
    world.batchd(&["start", "late", "--wait"]).expect(124);
    assert_eq!(world.run("late.1")["outcome"], "timed_out");
    assert_eq!(world.stdout("late.1"), "begun\n");
}
