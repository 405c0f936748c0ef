//! The daemon beside its runs: its zone, its lock, its log, its folders.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Stdio};

use batchd::journal::query::Reader;
use batchd::shim::tree;
use rustix::process::{Pid, Signal, kill_process};

use super::world::{PATIENCE, Pipe, World, exits};

/// A world with a batch that says `up` when the daemon has started, and one that does nothing.
fn world_that_says_up() -> (World, Pipe) {
    let world = World::new();
    let up = world.pipe("up");
    world.batch("first", "cron = '@reboot'", "echo up > $W/up");
    world.batch("quick", "", "echo quick");
    (world, up)
}

/// Starts a daemon whose log goes to `stderr`.
fn daemon_with_log(world: &World, stderr: Stdio) -> Child {
    let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
    command.arg("daemon").env("RUST_LOG", "batchd=debug");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

/// The daemon works, and ends well when it is told to.
#[track_caller]
fn assert_works(world: &World, mut daemon: Child) {
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(exits(&daemon, PATIENCE), "the daemon does not end");
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

#[test]
fn reboot_runs_at_the_first_start_with_a_fresh_state_folder_and_not_at_the_second() {
    let (mut world, up) = world_that_says_up();
    world.start();
    assert_eq!(up.hear(), "up");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.start();
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    let runs = world.runs();
    let ids: Vec<&str> = runs.iter().map(|run| run["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["first.1", "quick.1"]);
}

#[test]
fn a4_a_daemon_whose_log_is_full_lives() {
    let (world, up) = world_that_says_up();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let daemon = daemon_with_log(&world, full.into());
    assert_eq!(up.hear(), "up");
    assert_works(&world, daemon);
}

/// `batchd daemon 2>&1 | head -3`, and somebody who looks at the log again later.
#[test]
fn a4_a_daemon_whose_reader_goes_lives_and_counts_what_was_lost() {
    let (world, up) = world_that_says_up();
    let path = world.path("log");
    world.bash("mkfifo log");
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    let reader = open();
    let mut daemon = daemon_with_log(&world, OpenOptions::new().write(true).open(&path).unwrap().into());
    drop(reader);
    assert_eq!(up.hear(), "up");
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    let reader = open();
    rustix::io::ioctl_fionbio(&reader, false).unwrap();
    let reader = BufReader::new(reader);
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    let said = reader.lines().map_while(Result::ok).find(|line| line.contains("lost because the log could not"));
    assert!(said.is_some_and(|line| line.contains("log lines were lost") && line.contains("Broken pipe")));
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert!(exits(&daemon, PATIENCE));
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}

/// A pipe that nobody empties, a terminal that was stopped with Ctrl-S.
#[test]
fn a4_a_daemon_whose_log_nobody_reads_lives() {
    let (world, up) = world_that_says_up();
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let daemon = daemon_with_log(&world, writer.into());
    assert_eq!(up.hear(), "up");
    for _ in 0..20 {
        world.batchd(&["start", "quick", "--wait"]).expect(0);
    }
    assert_works(&world, daemon);
}

#[test]
fn a4_a_daemon_whose_terminal_is_closed_lives() {
    let (world, up) = world_that_says_up();
    // SAFETY: the descriptors are written by the call, which takes no other memory.
    let (terminal, screen) = unsafe {
        let (mut terminal, mut screen) = (0, 0);
        let none = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut terminal, &mut screen, none, none.cast(), none.cast()), 0);
        use std::os::fd::FromRawFd as _;
        (File::from_raw_fd(terminal), File::from_raw_fd(screen))
    };
    let daemon = daemon_with_log(&world, screen.into());
    drop(terminal);
    assert_eq!(up.hear(), "up");
    assert_works(&world, daemon);
}

/// A log, or a journal, that may not grow is an error of one write.
#[test]
fn a4_a_daemon_whose_log_has_reached_its_size_limit_lives() {
    let (world, up) = world_that_says_up();
    fs::write(world.path("log"), vec![b'x'; 64 << 20]).unwrap();
    let log = OpenOptions::new().append(true).open(world.path("log")).unwrap();
    let mut command = world.command("bash");
    // In KiB: far more than the journal needs, and less than the log has.
    command.args(["-c", "ulimit -f 32768; exec \"$0\" daemon", env!("CARGO_BIN_EXE_batchd")]);
    let daemon = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    assert_eq!(up.hear(), "up");
    assert_works(&world, daemon);
}

#[test]
fn a6_a_daemon_in_another_pid_namespace_is_seen() {
    let (mut world, up) = world_that_says_up();
    world.start();
    assert_eq!(up.hear(), "up");
    world.batchd(&["backup", "copy.db"]).expect(0);
    let elsewhere = |arguments: &[&str]| {
        let mut command = world.command("unshare");
        let namespaces = if rustix::process::geteuid().is_root() { "-p" } else { "-rp" };
        command.args([namespaces, "--fork", "--mount-proc", env!("CARGO_BIN_EXE_batchd")]).args(arguments);
        world.output(command)
    };
    let list = elsewhere(&["list"]).expect(0);
    assert_eq!(list.err, "", "not a word of a daemon that is not running");
    let rebuilt = elsewhere(&["doctor", "--rebuild", "new.db"]).expect(1);
    assert!(rebuilt.err.contains("a daemon is running on"), "{rebuilt:?}");
    assert!(!world.path("new.db").exists());
    let restored = elsewhere(&["restore", "copy.db"]).expect(1);
    assert!(restored.err.contains("a daemon is running on"), "{restored:?}");
    let second = elsewhere(&["daemon"]).expect(1);
    assert!(second.err.contains("another daemon is running on"), "{second:?}");
}

#[test]
fn a12_runs_that_were_removed_are_made_again() {
    let (mut world, up) = world_that_says_up();
    let daemon = world.start();
    assert_eq!(up.hear(), "up");
    daemon.run_line(0, "first", "succeeded");
    world.bash("rm -rf runs");
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    assert_eq!(world.stdout("quick.1"), "quick\n");
    world.daemon().says(0, "was removed and is made again");
}

#[test]
fn a12_where_that_is_not_safe_the_path_and_the_command_are_named() {
    let (mut world, up) = world_that_says_up();
    world.bash("mkdir -p disk/runs");
    world.start_with(&["--runs", "disk/runs"], &[]);
    assert_eq!(up.hear(), "up");
    world.daemon().run_line(0, "first", "succeeded");
    let mark = world.daemon().mark();
    world.bash("rm -rf disk");
    world.batchd(&["start", "quick"]).expect(0);
    let owner = world.bash("id -un").trim().to_owned();
    let command = format!("install -d -o {owner} -m 0755 {}", world.path("disk/runs").display());
    world.daemon().line_after(mark, &command, |line| line["reason"].to_string().contains(&command));
    // The daemon says it a moment before it is recorded; an act is recorded behind it.
    world.batchd(&["enable", "first"]).expect(0);
    let remark = world.run("quick.1")["remark"].clone();
    assert!(remark.as_str().is_some_and(|remark| remark.contains(&command)), "{remark}");
    world.bash(&command);
    assert_eq!(world.end("quick.1")["outcome"], "succeeded");
}

/// The daemon as the first process of a pid namespace, as in a container.
fn start_as_pid_1(world: &mut World) -> i32 {
    let namespaces = if rustix::process::geteuid().is_root() { "-p" } else { "-rp" };
    world.spawn_under("unshare", &[namespaces, "--fork", "--kill-child", "--mount-proc"].map(str::to_owned));
    assert!(world.daemon().ready_or_ended());
    tree::descendants(world.daemon().pid())[0]
}

#[test]
fn as_pid_1_the_daemon_stops_its_runs_with_term_and_reaps_orphans() {
    let (mut world, up) = world_that_says_up();
    let said = world.pipe("said");
    world.batch("slow", "", "trap 'echo term > $W/said; exit 0' TERM\necho up > $W/up\nsleep 1000 & wait");
    let daemon = start_as_pid_1(&mut world);
    assert_eq!(up.hear(), "up");
    world.batchd(&["start", "slow"]).expect(0);
    assert_eq!(up.hear(), "up");
    // Without its launcher, the shim is an orphan, and a child of the first process.
    let comm = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let launcher = tree::descendants(daemon).into_iter().find(|pid| comm(*pid).trim() == "batchd-launcher").unwrap();
    kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
    let mark = world.daemon().mark();
    world.batchd(&["stop", "slow.1"]).expect(0);
    assert_eq!(said.hear(), "term");
    world.end("slow.1");
    world.daemon().says(mark, "an orphan has ended");

    world.batchd(&["start", "slow"]).expect(0);
    assert_eq!(up.hear(), "up");
    kill_process(Pid::from_raw(daemon).unwrap(), Signal::TERM).unwrap();
    assert_eq!(said.hear(), "term");
    assert_eq!(world.daemon_ends(), 0);
    assert_eq!(world.run("slow.2")["outcome"], "failed");
}

#[test]
fn each_start_of_a_container_counts_as_a_boot() {
    let (mut world, up) = world_that_says_up();
    for _ in 0..2 {
        let daemon = start_as_pid_1(&mut world);
        assert_eq!(up.hear(), "up");
        kill_process(Pid::from_raw(daemon).unwrap(), Signal::TERM).unwrap();
        assert_eq!(world.daemon_ends(), 0);
    }
}

/// The name of the daemon's zone as another process reads it.
fn zone(world: &World) -> Option<String> {
    Reader::open(&world.path("state/journal.db")).unwrap().daemon_zone().unwrap()
}

#[test]
fn a5_the_journal_has_the_zone_of_the_daemon() {
    let mut world = World::new();
    world.start_with(&[], &[("TZ", "America/New_York")]);
    assert_eq!(zone(&world).as_deref(), Some("America/New_York"));
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(zone(&world).as_deref(), Some("America/New_York"), "also when no daemon runs");
    world.start_with(&[], &[("TZ", "Asia/Kolkata")]);
    assert_eq!(zone(&world).as_deref(), Some("Asia/Kolkata"));
}

#[test]
fn a5_a_zone_that_changes_under_the_daemon_is_in_the_journal_at_once() {
    let mut world = World::new();
    world.bash("mkdir etc && cp /etc/passwd /etc/group etc && ln -s /usr/share/zoneinfo/Europe/Berlin etc/localtime");
    let namespace = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let bind = "mount --bind \"$W/etc\" /etc && exec \"$0\" \"$@\"";
    world.start_under(&["unshare", namespace, "bash", "-ec", bind]);
    assert_eq!(zone(&world).as_deref(), Some("Europe/Berlin"));
    world.bash("ln -sfn /usr/share/zoneinfo/Asia/Tokyo etc/localtime");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(zone(&world).as_deref(), Some("Asia/Tokyo"));
}

#[test]
fn pass_env_gives_scripts_variables_of_the_daemon() {
    let mut world = World::new();
    world.write("batchd.toml", "[defaults]\npass_env = ['DB_HOST']\n");
    world.batch("default", "", "echo ${DB_HOST-none} ${SECRET-none}\n");
    world.batch("own", "pass_env = ['SECRET', 'ABSENT']", "echo ${DB_HOST-none} ${SECRET-none} ${ABSENT-none}\n");
    world.batch("set", "env = { DB_HOST = 'written' }", "echo $DB_HOST\n");
    world.start_with(&[], &[("DB_HOST", "db1"), ("SECRET", "s3")]);
    for (batch, expected) in [("default", "db1 none\n"), ("own", "none s3 none\n"), ("set", "written\n")] {
        world.batchd(&["start", batch, "--wait"]).expect(0);
        assert_eq!(world.stdout(&format!("{batch}.1")), expected);
    }
    world.batch("wrong", "pass_env = ['BATCHD_RUN', 'A-B']", "true\n");
    let check = world.batchd(&["check"]).expect(1);
    assert!(check.out.contains("BATCHD_RUN") && check.out.contains("A-B"), "{check:?}");
}

#[test]
fn log_output_has_the_lines_of_scripts_in_the_log() {
    let mut world = World::new();
    world.settings("log_output = true");
    let [up, go] = [world.pipe("up"), world.pipe("go")];
    let script = "echo first line\nprintf 'and \\033[31mred' >&2\necho up > $W/up\nread -r word < $W/go\necho last";
    world.batch("talks", "", script);
    world.start();
    world.batchd(&["start", "talks"]).expect(0);
    assert_eq!(up.hear(), "up");
    let line = world.daemon().says(0, "first line");
    assert_eq!(
        (&line["run"], &line["stream"], &line["message"]),
        (&"talks.1".into(), &"stdout".into(), &"first line".into())
    );
    let mark = world.daemon().mark();
    go.tell();
    world.daemon().line_after(mark, "the last line", |line| line["message"] == "last");
    let red = |line: &serde_json::Value| line["message"] == "and \\u{1b}[31mred" && line["stream"] == "stderr";
    world.daemon().line("the line without an end, harmless", red);
    assert_eq!(world.end("talks.1")["outcome"], "succeeded");
}

#[test]
fn an_alert_is_told_how_often_the_batch_has_failed_and_when_it_succeeded_last() {
    let mut world = World::new();
    world.batch("load", "on_error = 'alert'\nretries = 1\nretry_delay = '0s'", "[ -e $W/good ]");
    let script = "echo $BATCHD_FAILURES_IN_A_ROW [$BATCHD_LAST_SUCCESS_AT] >> $W/alerts";
    world.batch("alert", "timezone = 'Asia/Tokyo'", script);
    world.start();
    let run = || {
        world.batchd(&["start", "load"]).expect(0);
        world.rest();
    };
    run();
    run();
    world.bash("touch good");
    run();
    world.bash("rm good");
    run();
    let alerts = world.read("alerts");
    let lines: Vec<&str> = alerts.lines().collect();
    assert_eq!(&lines[..2], ["1 []", "2 []"], "attempts of one run count once");
    assert!(lines[2].starts_with("1 [20") && lines[2].ends_with("+09:00]"), "{}", lines[2]);
}

/// Under a service manager that has its journal on stderr.
#[test]
fn for_a_journal_the_log_has_priorities_and_no_time() {
    use std::os::unix::fs::MetadataExt as _;
    let (world, up) = world_that_says_up();
    world.batch("fails", "", "exit 1");
    let log = File::create(world.path("log")).unwrap();
    let metadata = log.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
    command.arg("daemon").env("JOURNAL_STREAM", stream).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let daemon = command.spawn().unwrap();
    assert_eq!(up.hear(), "up");
    world.batchd(&["start", "fails", "--wait"]).expect(1);
    assert_works(&world, daemon);
    let text = world.read("log");
    assert!(text.lines().any(|line| line.starts_with("<6>batchd ") && line.ends_with(" is ready")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("<4>failed run=fails.1")), "{text}");
    assert!(text.lines().all(|line| line.starts_with("<4>") || line.starts_with("<6>")), "{text}");
}

#[test]
fn the_greeting_is_ten_lines_at_80_columns_and_its_commands_work() {
    let (world, up) = world_that_says_up();
    world.batch("broken", "cron = 'soon'", "true");
    let log = File::create(world.path("log")).unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
    command.arg("daemon").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut daemon = command.spawn().unwrap();
    assert_eq!(up.hear(), "up");
    world.batchd(&["start", "quick", "--wait"]).expect(0);
    let text = world.read("log");
    let mut block: Vec<&str> = text.lines().collect();
    assert!(block[0].contains("batches   "), "where everything is comes first: {block:#?}");
    block.truncate(block.iter().position(|line| line.ends_with("is ready")).unwrap() + 1);
    // What is broken, and what is new, has lines of its own between the two halves.
    block.retain(|line| !line.contains("broken") && !line.contains("new or changed"));
    assert!(block.len() <= 10, "{block:#?}");
    assert!(block.iter().all(|line| line.len() <= 80), "{block:#?}");
    assert!(block.iter().any(|line| line.ends_with("errors    1; to list them: `batchd check`")), "{block:#?}");
    let look = block.iter().find(|line| line.contains(" try ")).unwrap();
    let look = &look[look.find("cd ").unwrap()..];
    for (typed, code, expected) in [(look.replace("list", "check"), 1, "soon"), (look.to_owned(), 0, "quick")] {
        let mut shell = world.command("bash");
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_batchd")).parent().unwrap();
        let path = format!("{}:/usr/bin:/bin", program.display());
        shell.args(["-c", &typed]).env("PATH", path).current_dir("/");
        let output = world.output(shell).expect(code);
        assert!(output.out.contains(expected), "{output:?}");
    }
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}
