//! Logs: exactly the bytes, capped, and timed.

use std::fs;

use batchd::model::launch::Report;
use batchd::rundir::times::{self, Stream};

use crate::root::is_root;
use crate::world::World;

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
    let launch = world.plan("job", "seq 1 100000; echo err >&2", |execution, _| execution.log_bytes_max = 1000);
    world.launch(&launch);
    let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
    let whole: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(world.text(&launch, "stdout.log"), whole[..1000]);
    assert_eq!((exit.stdout_bytes, exit.stdout_dropped_bytes), (1000, whole.len() as u64 - 1000));
    assert_eq!((exit.stderr_bytes, exit.stderr_dropped_bytes), (4, 0));
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
    let mount = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk).status();
    assert!(mount.unwrap().success());
    let _unmount = Unmount(disk.clone());
    fs::write(disk.join("ballast"), vec![0; 600_000]).unwrap();
    let launch = world.plan("job", "head -c 700000 /dev/zero | tr '\\0' x; echo; echo done", |_, _| {});
    world.launch(&launch);
    // The log has come as far as it can: the rest waits in the pipe, and the script behind it.
    let full = |world: &World| fs::metadata(world.file(&launch, "stdout.log")).is_ok_and(|log| log.len() > 300_000);
    while !full(&world) {
        assert!(matches!(world.tick(), None | Some(Report::Started { .. })));
    }
    fs::remove_file(disk.join("ballast")).unwrap();
    let Report::Exited { exit, success, .. } = world.end(&launch) else { panic!() };
    assert!(success && exit.stdout_bytes == 700_006 && exit.stdout_dropped_bytes == 0);
    assert!(world.text(&launch, "stdout.log").ends_with("xxx\ndone\n"));
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}
