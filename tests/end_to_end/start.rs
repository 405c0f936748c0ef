//! Starting a run and staying with it: the log, what it waits for, its end, Ctrl-C. And what people are
//! told who write a command, a name or a word almost right.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Output, PATIENCE, World, exits};

const BATCHD: &str = env!("CARGO_BIN_EXE_batchd");

/// A line in bash, in which `batchd` is the real one; whatever its exit code.
pub(crate) fn typed(world: &World, line: &str) -> Output {
    let mut command = world.command("bash");
    command.args(["-c", &format!("set -o pipefail\nbatchd() {{ '{BATCHD}' \"$@\"; }}\n{line}")]);
    world.output(command)
}

#[track_caller]
pub(crate) fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "nothing of {word:?} in: {text}");
    }
}

/// A command that goes on, and the lines that it writes to stderr.
fn spawned(world: &World, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut command = world.command(BATCHD);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    (child, lines)
}

#[test]
fn whoever_waits_sees_the_last_lines_of_a_failure() {
    let mut world = World::new();
    world.batch("load", "", "echo on stdout\nfor n in {1..30}; do echo line $n >&2; done\nexit 7\n");
    world.batch("quiet", "", "echo all is well >&2\n");
    world.start();
    let failed = world.batchd(&["start", "load", "--wait"]).expect(7);
    assert_eq!(failed.out, "load.1\n");
    says(&failed.err, &["load.1 failed", "Last lines of stderr:\n  line 21\n", "  line 30\nTo see the whole log"]);
    says(&failed.err, &["`batchd logs load.1`"]);
    assert!(!failed.err.contains("line 20"), "{}", failed.err);
    assert!(!world.batchd(&["start", "quiet", "--wait"]).expect(0).err.contains("all is well"));
    let json = world.batchd(&["start", "load", "--wait", "--json"]).expect(7);
    assert_eq!(json.json()["end"]["exit_code"], 7);
    assert_eq!(json.err, "");
}

#[test]
fn a_start_follows_the_log() {
    let mut world = World::new();
    world.batch("load", "retries = 1\nretry_delay = '0s'", "echo attempt $BATCHD_ATTEMPT\necho oops >&2\nexit 4\n");
    world.start();
    let followed = world.batchd(&["start", "load", "-f"]).expect(4);
    says(&followed.out, &["attempt 1\n", "attempt 2\n", "oops\n"]);
    assert!(!followed.out.contains("load.1"), "{followed:?}");
    says(&followed.err, &["load.1\n", "load.2 failed"]);
    assert!(!followed.err.contains("Last lines"), "they were printed already: {followed:?}");
    let followed = world.batchd(&["rerun", "load.1", "-f"]).expect(4);
    says(&followed.out, &["attempt 1\n", "attempt 2\n"]);
}

#[test]
fn whoever_waits_is_told_what_the_run_waits_for_and_that_there_is_no_daemon() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\n");
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    let (mut waiting, mut lines) = spawned(&world, &["start", "slow", "--queue", "--wait"]);
    assert_eq!(lines.next().unwrap().unwrap(), "slow.2 waits, because slow is busy");
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("slow.2 waits for ") && line.contains("slow.1"), "{line}");
    world.end_daemon(Signal::TERM);
    assert_eq!(lines.next().unwrap().unwrap(), "the daemon is not running; waiting for it to be started again");
    world.start();
    go.tell();
    up.hear();
    go.tell();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(rest.len() == 1 && rest[0].starts_with("slow.2 succeeded"), "each is said once: {rest:?}");
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn ctrl_c_ends_the_waiting_and_says_that_the_run_goes_on() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\n");
    world.start();
    for (run, option) in [("slow.1", "--wait"), ("slow.2", "-f")] {
        let (mut waiting, lines) = spawned(&world, &["start", "slow", option]);
        up.hear();
        let pid = Pid::from_raw(i32::try_from(waiting.id()).unwrap()).unwrap();
        let until = Instant::now() + PATIENCE;
        while !catches_interrupt(pid) {
            assert!(Instant::now() < until, "it never waits for Ctrl-C");
            std::thread::yield_now();
        }
        kill_process(pid, Signal::INT).unwrap();
        assert!(exits(&waiting, PATIENCE));
        let status = waiting.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "{option}");
        let told: String = lines.map(|line| line.unwrap() + "\n").collect();
        says(
            &told,
            &[&format!("{run} continues"), &format!("`batchd logs -f {run}`"), &format!("`batchd stop {run}`")],
        );
        go.tell();
        assert_eq!(world.end(run)["outcome"], "succeeded");
    }
}

fn catches_interrupt(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
}

#[test]
fn a_batch_is_taken_for_a_run_and_a_run_for_a_batch() {
    let mut world = World::new();
    world.batch("extract", "", "true\n");
    world.batch("idle", "", "true\n");
    world.start();
    (0..3).for_each(|_| drop(world.batchd(&["start", "extract", "--wait"]).expect(0)));
    let told = |line: &str| typed(&world, line).expect(2).err;
    says(
        &told("batchd rerun extract"),
        &["`extract` is a batch", "the latest run is extract.3: `batchd rerun extract.3`"],
    );
    says(&told("batchd rerun idle"), &["no runs yet", "`batchd start idle`"]);
    says(&told("batchd rerun extrakt"), &["no batch `extrakt`", "did you mean `extract`?"]);
    says(&told("batchd start extract.1"), &["is a run", "`batchd start extract`", "`batchd rerun extract.1`"]);
    says(&told("batchd start Extract"), &["did you mean `extract`?"]);
    says(&told("batchd runs --outcome fail"), &["did you mean `failed`?", "succeeded, failed"]);
    says(&told("batchd status"), &["no command `status`", "use `batchd list`"]);
    says(&told("batchd kill extract.3"), &["use `batchd stop extract.3`"]);
    assert!(!told("batchd show extract --full").contains("-- --full"));
    says(&told("batchd start extract --full"), &["'-- --full'"]);
    assert_eq!(world.runs().len(), 3);
    world.batchd(&["rerun", "extract.1", "--mark-succeeded"]).expect(0);
    world.batchd(&["rerun", "extract.2", "--only-downstream"]).expect(0);
    says(&world.run("extract.5")["reason"].to_string(), &["marked as succeeded by uid", "replaces extract.2"]);
    let help = world.batchd(&["rerun", "--help"]).expect(0).out;
    assert!(help.contains("--mark-succeeded") && !help.contains("only-downstream"), "{help}");
}

#[test]
fn a_disable_says_what_it_replaces() {
    let mut world = World::new();
    world.batch("load", "", "true\n");
    world.start();
    let disable = |arguments: &[&str]| world.batchd(&[&["disable", "load"], arguments].concat()).expect(0).out;
    assert_eq!(disable(&["--reason", "moving"]), "load is disabled\n");
    let name = world.bash("id -un");
    let text = disable(&["--for", "1h"]);
    says(
        &text,
        &["load is disabled until ", &format!("\nthis replaces an earlier disable by {} (since ", name.trim())],
    );
    says(&text, &[", until it is enabled): moving"]);
    let facts = world.json(&["disable", "load"]);
    assert!(facts["replaces"]["until"].is_string(), "{facts}");
    world.batchd(&["enable", "load"]).expect(0);
    assert_eq!(disable(&[]), "load is disabled\n");
}

#[test]
fn help_describes_shared_options_once() {
    let world = World::new();
    let options = world.batchd(&["help", "options"]).expect(0).out;
    says(&options, &["--batches <DIR>", "BATCHD_STATE", "./batchd.toml"]);
    assert_eq!(world.batchd(&["options"]).expect(0).out, options);
    for arguments in [&["--help"][..], &["start", "--help"], &["list", "-h"]] {
        let help = world.batchd(arguments).expect(0).out;
        assert!(!help.contains("BATCHD_STATE"), "{arguments:?}: {help}");
    }
    says(&world.batchd(&["--help"]).expect(0).out, &["`batchd help options`", "`batchd help exit-codes`"]);
    says(&world.batchd(&["help", "exit-codes"]).expect(0).out, &["128+N"]);
    // They still stand before or after a command.
    for line in ["batchd --batches batches.d check", "batchd check --batches batches.d"] {
        typed(&world, line).expect(0);
    }
}
