//! Logs: exactly the bytes, capped, and timed.

use std::fs;
use std::sync::Arc;

use batchd::model::launch::{Report, UpstreamEnd};
use batchd::rundir::times::{self, Stream};

use crate::root::is_root;
use crate::world::{World, upstream};

#[test]
fn f5_logs_are_the_bytes_that_were_written() {
    let mut world = World::new();
    let (launch, exit) = world.run("printf 'a\\0\\xff\\xfe\\r\\nno line end'; printf '\\0\\0' >&2");
    assert_eq!(fs::read(world.file(&launch, "stdout.log")).unwrap(), b"a\0\xff\xfe\r\nno line end");
    assert_eq!(fs::read(world.file(&launch, "stderr.log")).unwrap(), b"\0\0");
    assert_eq!((exit.stdout_bytes, exit.stderr_bytes), (17, 2));
}

#[test]
fn f5_a_line_of_20_mb_is_a_line() {
    let mut world = World::new();
    let length = 20_000_000;
    let (launch, exit) = world.run(&format!("head -c {length} /dev/zero | tr '\\0' x; echo; echo end >&2"));
    assert_eq!(exit.stdout_bytes, length + 1);
    let bytes = fs::read(world.file(&launch, "stdout.log")).unwrap();
    assert!(bytes.len() as u64 == length + 1 && bytes[..bytes.len() - 1].iter().all(|byte| *byte == b'x'));
}

#[test]
fn f4_what_is_beyond_the_limit_is_read_and_counted() {
    let mut world = World::new();
    let mut check = |kept_max: u64, last: usize, expected: &dyn Fn(&str) -> (String, usize)| {
        let script = format!("seq 1 {last}; echo err >&2");
        let launch = world.plan("job", &script, |execution, _| execution.log_bytes_max = kept_max);
        world.launch(&launch);
        let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
        let whole: String = (1..=last).map(|n| format!("{n}\n")).collect();
        let (text, missing) = expected(&whole);
        assert!(world.text(&launch, "stdout.log") == text, "{kept_max} {last}");
        assert_eq!((exit.stdout_bytes, exit.stdout_dropped_bytes), (text.len() as u64, missing as u64));
        assert_eq!(exit.stderr_dropped_bytes, if kept_max == 0 { 4 } else { 0 });
        world.forget(&launch);
    };
    // The end is held in memory: 1 MiB of it.
    check(1000, 1_000_000, &|whole| {
        let missing = whole.len() - 1000 - TAIL;
        let line = format!("\n[batchd: {missing} bytes are missing here, beyond log_bytes_max = 1000]\n");
        (format!("{}{line}{}", &whole[..1000], &whole[whole.len() - TAIL..]), missing)
    });
    // Nothing is missing between the two.
    check(1000, 100_000, &|whole| (whole.to_owned(), 0));
    check(0, 100_000, &|whole| (String::new(), whole.len()));
}

/// The bytes of the end that are kept beyond the limit.
const TAIL: usize = 1024 * 1024;

#[test]
fn b_a_log_whose_middle_is_missing_is_no_input() {
    let mut world = World::new();
    let launch = world.plan("job", "seq 1 1000000", |execution, _| execution.log_bytes_max = 1000);
    world.launch(&launch);
    let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
    assert_incomplete(&mut world, upstream(&launch, Some(exit)), "lacks 5839320 bytes; `batchd show job.1` says why");
}

#[track_caller]
fn assert_incomplete(world: &mut World, upstream: UpstreamEnd, expected: &str) {
    let mut below = world.plan("below", "cat", |_, launch| launch.upstreams = vec![upstream]);
    Arc::make_mut(below.definition.as_mut().unwrap()).use_previous_output = true;
    world.launch(&below);
    let Report::InputIncomplete { reason, .. } = world.end(&below) else { panic!() };
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn a13_a_log_that_is_truncated_goes_on_at_its_end_and_is_no_input() {
    let mut world = World::new();
    // As `copytruncate` of logrotate(8) does it.
    let script = "log=$BATCHD_RUN_DIR/stdout.log
        echo before; until [[ $(wc -c < $log) == 7 ]]; do :; done
        echo > $BATCHD_RUN_DIR/io/up; until [[ $(wc -c < $log) == 0 ]]; do :; done
        echo after";
    let launch = world.plan("job", script, |_, _| {});
    world.launch(&launch);
    world.wait_for(&world.file(&launch, "io/up"));
    fs::File::options().write(true).open(world.file(&launch, "stdout.log")).unwrap().set_len(0).unwrap();
    let Report::Exited { exit, success: true, .. } = world.end(&launch) else { panic!() };
    assert_eq!(world.text(&launch, "stdout.log"), "after\n");
    assert_eq!((exit.stdout_bytes, exit.stdout_dropped_bytes), (6, 7));
    let truncated = "7 bytes of stdout.log are missing: another program truncated the file while the run wrote to it";
    assert_eq!(exit.remarks, [truncated]);
    assert_incomplete(&mut world, upstream(&launch, Some(exit)), "lacks 7 bytes");
}

#[test]
fn a13_a_log_that_is_removed_is_made_again() {
    let mut world = World::new();
    let script = "log=$BATCHD_RUN_DIR/stdout.log
        echo before; until [[ $(wc -c < $log) == 7 ]]; do :; done
        echo > $BATCHD_RUN_DIR/io/up; until [[ ! -e $log ]]; do :; done
        echo after";
    let launch = world.plan("job", script, |_, _| {});
    world.launch(&launch);
    world.wait_for(&world.file(&launch, "io/up"));
    fs::remove_file(world.file(&launch, "stdout.log")).unwrap();
    let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
    assert_eq!(world.text(&launch, "stdout.log"), "after\n");
    assert_eq!((exit.stdout_bytes, exit.stdout_dropped_bytes), (6, 7));
    let removed = "7 bytes of stdout.log are missing: another program removed the file while the run wrote to it";
    assert_eq!(exit.remarks, [removed]);
}

#[test]
fn b_merged_output_keeps_the_order_of_both_streams() {
    let mut world = World::new();
    let script = "for ((n = 0; n < 1000; n++)); do echo out $n; echo err $n >&2; done";
    let launch = world.plan("job", script, |execution, _| execution.merge_output = true);
    world.launch(&launch);
    let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
    let expected: String = (0..1000).map(|n| format!("out {n}\nerr {n}\n")).collect();
    assert_eq!(world.text(&launch, "stdout.log"), expected);
    assert_eq!((world.text(&launch, "stderr.log").as_str(), exit.stderr_bytes), ("", 0));
}

#[test]
fn the_order_of_both_streams_is_kept() {
    let mut world = World::new();
    // A reader that waits for the other end's file makes sure that each line is seen before the next is written.
    let script = "log=$BATCHD_RUN_DIR
        for n in 1 2 3; do
            echo out $n; until [[ $(wc -l < $log/stdout.log) == $n ]]; do :; done
            echo err $n >&2; until [[ $(wc -l < $log/stderr.log) == $n ]]; do :; done
        done";
    let (launch, _) = world.run(script);
    let file = fs::read(world.file(&launch, "times")).unwrap();
    let found: Vec<(Stream, u64)> = times::read(&file).map(|growth| (growth.stream, growth.from_offset)).collect();
    let expected = [0, 6, 12].map(|offset| [(Stream::Stdout, offset), (Stream::Stderr, offset)]);
    assert_eq!(found, expected.concat());
}

#[test]
fn b14_a_script_that_closes_its_outputs_runs_to_its_end() {
    let mut world = World::new();
    let (launch, exit) = world.run("echo a; exec >&- 2>&-; sleep 0.1; echo b > \"$BATCHD_RUN_DIR/io/b\"; exit 5");
    assert_eq!((exit.exit_code, world.text(&launch, "io/b").as_str()), (Some(5), "b\n"));
}

#[test]
fn f2_a_full_disk_stops_the_script_and_not_the_log() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let disk = world.path("runs");
    let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&disk).status();
    assert!(mount.unwrap().success());
    let _unmount = Unmount(disk.clone());
    // It is there when the supervisor begins.
    world.drop_supervisor();
    world.start();
    fs::write(disk.join("ballast"), vec![0; 3_600_000]).unwrap();
    // More than the room that is left and the largest pipe together: the script has to wait.
    let launch = world.plan("job", "head -c 2000000 /dev/zero | tr '\\0' x; echo; echo done", |_, _| {});
    world.launch(&launch);
    assert!(matches!(world.report(&launch), Report::Started { .. }));
    // The log has come as far as it can: the rest waits in the pipe, and the script behind it.
    let Report::Waiting { reason } = world.report(&launch) else { panic!() };
    assert!(reason.starts_with("the script waits for disk space: can't write stdout.log"), "{reason}");
    assert!(fs::metadata(world.file(&launch, "stdout.log")).unwrap().len() > 300_000);
    fs::remove_file(disk.join("ballast")).unwrap();
    let Report::Exited { exit, success, .. } = world.end(&launch) else { panic!() };
    assert!(success && exit.stdout_bytes == 2_000_006 && exit.stdout_dropped_bytes == 0);
    assert!(world.text(&launch, "stdout.log").ends_with("xxx\ndone\n"));
}

pub(crate) struct Unmount(pub(crate) std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}
