//! The output of scripts where it is read while it grows: `log_output`, `logs`, `logs -f`; and what others do to it.

use std::fs::File;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{PATIENCE, Pipe, World, exits};

/// What a run's stdout has in the daemon's log.
fn lines(log: &str, run: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = lines.filter(|line| line["run"] == run && line["stream"] == "stdout");
    own.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

/// Ends the daemon of a world; what its log has then.
#[track_caller]
fn log_at_the_end(world: &mut World) -> String {
    world.daemon().signal(Signal::TERM);
    // Its last line.
    world.daemon().says(0, "the daemon stopped");
    let log = world.daemon().log_text();
    assert_eq!(world.daemon_ends(), 0);
    log
}

#[test]
fn log_output_has_the_last_lines_of_runs_that_end_with_the_daemon() {
    let mut world = World::new();
    world.settings("log_output = true");
    let up = world.pipe("up");
    let script = "trap 'seq 1 2000; echo LASTLINE; exit 3' TERM\necho up > $W/up\nwhile :; do sleep 0.1; done";
    world.batch("last", "", script);
    world.start_with(&["--stop-runs"], &[]);
    world.batchd(&["start", "last"]).expect(0);
    up.hear();
    let log = log_at_the_end(&mut world);
    let expected: Vec<String> = (1..=2000).map(|n| n.to_string()).chain(["LASTLINE".to_owned()]).collect();
    assert!(lines(&log, "last.1") == expected, "{log}");
}

#[test]
fn log_output_has_what_a_run_has_written_that_goes_on_without_the_daemon() {
    let mut world = World::new();
    world.settings("log_output = true");
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    let written = "until grep -q begun $BATCHD_RUN_DIR/stdout.log; do :; done";
    world.batch("goes", "", &format!("seq 1 2000; printf begun\n{written}\necho up > $W/up\nread -r word < $W/go\n"));
    world.start();
    world.batchd(&["start", "goes"]).expect(0);
    up.hear();
    world.daemon().run_line(0, "goes", "running");
    let log = log_at_the_end(&mut world);
    let expected: Vec<String> = (1..=2000).map(|n| n.to_string()).chain(["begun".to_owned()]).collect();
    assert!(lines(&log, "goes.1") == expected, "{log}");
    go.tell();
}

#[test]
fn log_output_goes_on_after_a_log_was_truncated_or_removed() {
    let mut world = World::new();
    world.settings("log_output = true");
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    let step = "echo up > $W/up; read -r word < $W/go\n";
    let script =
        format!("echo before the truncation\n{step}echo after\n{step}echo third\n{step}printf '\\u202e\\u2066gpj'");
    world.batch("cut", "", &script);
    world.start();
    world.batchd(&["start", "cut"]).expect(0);
    let said = |text: &str| {
        world.daemon().line(text, |line| line["target"] == "batchd::output" && line["message"] == text);
    };
    up.hear();
    said("before the truncation");
    // As copytruncate of logrotate(8) does it.
    File::options().write(true).open(world.run_file("cut.1", "stdout.log")).unwrap().set_len(0).unwrap();
    go.tell();
    up.hear();
    said("after");
    std::fs::remove_file(world.run_file("cut.1", "stdout.log")).unwrap();
    go.tell();
    up.hear();
    said("third");
    go.tell();
    assert_eq!(world.end("cut.1")["outcome"], "succeeded");
    // What would turn the direction of the text is written out.
    said("\\u{202e}\\u{2066}gpj");
}

/// A script that puts FIFOs in the place of its logs harms nobody else, and no command waits for it.
#[test]
fn a_fifo_in_the_place_of_a_log_keeps_nobody_waiting() {
    let mut world = World::new();
    world.settings("log_output = true");
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    let fifos = "cd $BATCHD_RUN_DIR; mkfifo times a b; mv a stdout.log; mv b stderr.log";
    world.batch("fifo", "", &format!("{fifos}\necho up > $W/up\nread -r word < $W/go\nexit 3"));
    world.batch("talks", "", "echo hello");
    world.start();
    world.batchd(&["start", "fifo"]).expect(0);
    up.hear();
    let mark = world.daemon().mark();
    world.batchd(&["start", "talks", "--wait"]).expect(0);
    world.daemon().line_after(mark, "hello", |line| line["message"] == "hello");
    let gone = world.batchd(&["logs", "fifo.1"]).expect(1);
    assert!(gone.err.contains("can't read") && gone.err.contains("not a regular file"), "{gone:?}");
    go.tell();
    assert_eq!(world.end("fifo.1")["exit_code"], 3);
    world.batchd(&["logs", "fifo.1"]).expect(1);
    world.batchd(&["logs", "-f", "fifo.1"]).expect(1);
    // The same run, waited for.
    let waiting = world.command(env!("CARGO_BIN_EXE_batchd"));
    let waited = spawn(waiting, &["start", "fifo", "--wait"]);
    up.hear();
    go.tell();
    assert_eq!(code(waited), 3);
}

fn spawn(mut command: std::process::Command, arguments: &[&str]) -> Child {
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[track_caller]
fn code(mut child: Child) -> i32 {
    let ended = exits(&child, PATIENCE);
    if !ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(ended, "it did not end");
    status.code().unwrap()
}

/// Follows the log of a run into a named pipe.
fn follow(world: &World, run: &str) -> (Child, Pipe) {
    let out = world.pipe("out");
    let write = |name: &str| File::options().write(true).create(true).truncate(false).open(world.path(name)).unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
    command.args(["logs", "-f", run]).stdin(Stdio::null()).stdout(write("out")).stderr(write("err"));
    (command.spawn().unwrap(), out)
}

#[test]
fn a13_a_log_that_is_truncated_is_followed_and_the_cause_is_told() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    let step = "echo up > $W/up; read -r word < $W/go\n";
    world.batch("cut", "", &format!("echo before the truncation\n{step}echo after\n{step}echo end; echo err >&2"));
    world.start();
    world.batchd(&["start", "cut"]).expect(0);
    up.hear();
    let (follower, out) = follow(&world, "cut.1");
    assert_eq!(out.hear(), "before the truncation");
    File::options().write(true).open(world.run_file("cut.1", "stdout.log")).unwrap().set_len(0).unwrap();
    go.tell();
    up.hear();
    assert_eq!(out.hear(), "after", "while the run goes on");
    let live = world.batchd(&["logs", "cut.1"]).expect(1);
    assert_eq!(live.out, "after\n");
    go.tell();
    assert_eq!(out.hear(), "end");
    assert_eq!(out.hear(), "err");
    assert_eq!(code(follower), 1);
    let told = "22 bytes of stdout.log are missing: another program truncated the file while the run wrote to it\n";
    let err = world.read("err");
    assert!(err.starts_with(told) && err.contains("cut.1 succeeded") && !err.contains("log_bytes_max"), "{err}");
    let plain = world.batchd(&["logs", "cut.1"]).expect(1);
    assert_eq!((plain.out.as_str(), plain.err.as_str()), ("after\nend\nerr\n", told));
    assert_eq!(world.batchd(&["logs", "-n", "1", "--stdout", "cut.1"]).expect(1).out, "end\n");
    let show = world.batchd(&["show", "cut.1"]).expect(0).out;
    assert!(show.contains(told.trim_end()) && !show.contains("log_bytes_max"), "{show}");
    let timed = world.batchd(&["logs", "--timestamps", "cut.1"]).expect(1).out;
    assert!(timed.lines().all(|line| line.starts_with("20")), "the times fit again: {timed}");
}
