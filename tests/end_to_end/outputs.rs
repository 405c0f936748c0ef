//! What a run writes, and who is told what about it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::world::World;
use crate::world::root::is_root;

#[test]
fn b_a_process_left_in_the_background_is_a_warning_and_a_remark() {
    let mut world = World::new();
    world.batch("restart", "", "nohup sleep 600 > /dev/null 2>&1 &");
    world.start();
    world.batchd(&["start", "restart"]).expect(0);
    let end = world.end("restart.1");
    let remark = "1 process was still running when the script ended and was killed";
    assert!(end["exit"]["remarks"][0].as_str().is_some_and(|text| text.starts_with(remark)), "{end}");
    assert_eq!(end["outcome"], "succeeded");
    world.daemon().line("a warning", |line| {
        line["level"] == "WARN" && line["run"] == "restart.1" && line["message"].as_str().unwrap().starts_with(remark)
    });
}

#[test]
fn a1_the_settings_say_who_reads_logs() {
    let mut world = World::new();
    world.batch("report", "", "echo secret");
    let group = if is_root() { "socket_group = 'nogroup'\n" } else { "" };
    for (settings, run, modes) in
        [("", "report.1", [0o750, 0o640]), ("runs_mode = '0755'\n", "report.2", [0o755, 0o644])]
    {
        world.settings(&format!("{settings}{group}"));
        world.start();
        world.batchd(&["start", "report"]).expect(0);
        assert_eq!(world.end(run)["outcome"], "succeeded");
        for (name, mode) in ["", "stdout.log"].into_iter().zip(modes) {
            let found = fs::metadata(world.run_file(run, name)).unwrap();
            assert_eq!(found.mode() & 0o7777, mode, "{run} {name}");
            if !group.is_empty() {
                assert_eq!(found.gid(), 65_534, "{run} {name}");
            }
        }
        assert_eq!(world.end_daemon(rustix::process::Signal::TERM), 0);
    }
}

#[test]
fn b_merge_output_is_a_key_of_batch_toml() {
    let mut world = World::new();
    world.batch("both", "merge_output = true", "echo out; echo err >&2; echo out");
    world.start();
    world.batchd(&["start", "both"]).expect(0);
    assert_eq!(world.end("both.1")["outcome"], "succeeded");
    assert_eq!(world.stdout("both.1"), "out\nerr\nout\n");
    assert_eq!(world.batchd(&["logs", "both.1"]).expect(0).out, "out\nerr\nout\n");
}
