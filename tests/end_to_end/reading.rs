//! What the commands that read show: of which run, in whose zone, from which folder, and what is gone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::world::root::is_root;
use crate::world::{Output, World};

const BATCHD: &str = env!("CARGO_BIN_EXE_batchd");

/// `batchd` with a variable.
#[track_caller]
fn with(world: &World, variable: (&str, &str), arguments: &[&str]) -> Output {
    let mut command = world.command(BATCHD);
    command.args(arguments).env(variable.0, variable.1);
    world.output(command)
}

/// `batchd` in a folder of the world.
#[track_caller]
fn within(world: &World, folder: &str, arguments: &[&str]) -> Output {
    let mut command = world.command(BATCHD);
    command.args(arguments).current_dir(world.path(folder));
    world.output(command)
}

#[track_caller]
fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
}

/// The line of a table that begins with this.
#[track_caller]
fn line<'t>(text: &'t str, begin: &str) -> &'t str {
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin:?} in:\n{text}"))
}

/// Waits until the journal has a run as running: its script may be a moment ahead.
fn running(world: &World, run: &str) {
    while world.run(run)["state"] != "running" {
        assert_ne!(world.run(run)["state"], "ended", "{run}");
    }
}

#[test]
fn a5_schedules_are_computed_in_the_daemons_zone() {
    let mut world = World::new();
    world.batch("daily", "cron = '10 15 * * *'", "true");
    world.batch("tokyo", "cron = '10 15 * * *'\ntimezone = 'Asia/Tokyo'", "true");
    world.start_with(&[], &[("TZ", "Europe/Berlin")]);
    let starts = |zone: &str| {
        let next = with(&world, ("TZ", zone), &["next", "daily", "-n", "1", "--json"]).expect(0).json();
        let list = with(&world, ("TZ", zone), &["list", "--json"]).expect(0).json();
        assert_eq!(list["batches"][0]["next_due_at"], next["starts"][0]["due_at"]);
        assert_eq!(list["batches"][0]["zone"], "Europe/Berlin");
        next["starts"][0].clone()
    };
    let here = starts("UTC");
    assert!(here["start_at_local"].as_str().unwrap().contains("T15:10:00+0"), "{here}");
    assert_eq!(here["timezone"], "Europe/Berlin");
    assert_eq!(starts("America/New_York"), here);
    let shown = with(&world, ("TZ", "America/New_York"), &["list"]).expect(0).out;
    has(line(&shown, "daily"), &["Europe/Berlin"]);
    has(line(&shown, "tokyo"), &["Asia/Tokyo"]);
    let shown = with(&world, ("TZ", "America/New_York"), &["next"]).expect(0).out;
    assert_eq!(shown.lines().count(), 3, "one line for each batch: {shown}");
    has(&shown, &["Europe/Berlin", "Asia/Tokyo", "15:10:00"]);
}

#[test]
fn a9_show_and_logs_do_not_hide_the_newest_run() {
    let mut world = World::new();
    world.batch("job", "", "echo done");
    world.batch("first", "", "exit 3");
    world.batch("second", "after = 'first'", "echo second");
    world.start();
    world.batchd(&["start", "job", "--wait"]).expect(0);
    world.batchd(&["start", "second", "--only", "--wait"]).expect(0);
    // A run that is aborted after one that succeeded.
    world.batchd(&["start", "first", "--wait"]).expect(3);
    world.rest();
    has(&world.batchd(&["show", "second"]).expect(0).out, &["second.2", "aborted", "first.1"]);
    assert_eq!(world.json(&["show", "second"])["id"], "second.2");
    let logs = world.batchd(&["logs", "second"]).expect(0);
    assert_eq!(logs.out, "second\n");
    has(&logs.err, &["this is the log of second.1", "second.2 aborted"]);
    assert_eq!(world.batchd(&["logs", "job"]).expect(0).err, "");
}

#[test]
fn a10_list_shows_the_last_run_that_began() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("busy", "cron = '0 0 29 2 *'", "echo up > $W/up\nread -r word < $W/go\nexit 4");
    world.batch("off", "cron = '@daily'", "true");
    world.batch("late", "after = 'busy'", "true");
    world.start();
    world.batchd(&["start", "busy"]).expect(0);
    up.hear();
    running(&world, "busy.1");
    world.batchd(&["start", "busy", "--queue"]).expect(0);
    let list = world.batchd(&["list"]).expect(0);
    has(line(&list.out, "busy"), &["1 running, 1 queued", "busy.1 since "]);
    go.tell();
    world.end("busy.1");
    up.hear();
    running(&world, "busy.2");
    // The failure shows while the next run is under way; so does the wish to stop that.
    has(line(&world.batchd(&["list"]).expect(0).out, "busy"), &["running", "failed", "busy.2 since "]);
    assert_eq!(
        line(&world.batchd(&["list", "--failed"]).expect(0).out, "busy").split_whitespace().nth(1),
        Some("running")
    );
    go.tell();
    world.end("busy.2");
    world.rest();
    let list = world.batchd(&["list"]).expect(0);
    has(line(&list.out, "late"), &["2 aborted"]);
    has(&list.err, &["1 failed"]);
    world.batchd(&["disable", "off"]).expect(0);
    let list = world.batchd(&["list"]).expect(0);
    has(&list.err, &["1 failed, 1 disabled"]);
    assert!(world.json(&["list"])["batches"][2]["next_due_at"].is_null());
    assert!(!line(&list.out, "off").contains(":00:00"), "{}", list.out);
    assert_eq!(world.batchd(&["list", "--failed"]).expect(0).out.lines().count(), 2);
    world.batchd(&["runs", "--failed"]).expect(0);
    assert_eq!(world.json(&["runs", "--failed"])["runs"].as_array().unwrap().len(), 2);
}

#[test]
fn a10_a_batch_that_was_removed_stays_until_its_run_has_ended() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("gone", "", "trap '' TERM\necho up > $W/up\nread -r word < $W/go");
    world.batch("other", "", "true");
    world.start();
    world.batchd(&["start", "gone"]).expect(0);
    up.hear();
    world.bash("rm -r batches.d/gone");
    world.batchd(&["reload"]).expect(0);
    has(
        line(&world.batchd(&["list"]).expect(0).out, "gone"),
        &["running", "removed; its run continues", "gone.1 since"],
    );
    world.batchd(&["stop", "gone.1"]).expect(0);
    has(line(&world.batchd(&["list"]).expect(0).out, "gone"), &["stopping", "stopped by"]);
    go.tell();
    world.end("gone.1");
    assert!(!world.batchd(&["list"]).expect(0).out.contains("gone"));
}

#[test]
fn a11_a_journal_that_is_gone_is_told() {
    let mut world = World::new();
    world.batch("ok", "", "true");
    world.start();
    world.batchd(&["start", "ok", "--wait"]).expect(0);
    world.end_daemon(rustix::process::Signal::TERM);
    world.bash("rm -f state/journal.db*");
    let journal = world.path("state/journal.db").display().to_string();
    for command in [
        &["runs"][..],
        &["runs", "--json"],
        &["logs", "ok"],
        &["show", "ok"],
        &["path", "ok"],
        &["list"],
        &["next"],
        &["graph"],
        &["doctor"],
    ] {
        let output = world.batchd(command).expect(1);
        assert_eq!(output.out, "", "{command:?}");
        has(&output.err, &[&journal, "missing", "1 run folder", "batchd restore", "doctor --rebuild"]);
    }
}

#[test]
fn a11_in_a_folder_without_batchds_files_the_folders_above_are_searched() {
    let mut world = World::new();
    world.batch("ok", "", "echo out");
    world.start();
    world.batchd(&["start", "ok", "--wait"]).expect(0);
    world.bash("mkdir -p below/deep");
    for command in [&["list"][..], &["runs"], &["show", "ok"], &["next"], &["graph"], &["doctor"], &["check"]] {
        let output = within(&world, "below/deep", command).expect(0);
        has(&output.err, &[&format!("using {}", world.path("").display().to_string().trim_end_matches('/'))]);
    }
    assert_eq!(within(&world, "below/deep", &["logs", "ok"]).expect(0).out, "out\n");
    // A daemon makes its own folders where it is started, and finds no definitions there.
    let daemon = within(&world, "below/deep", &["daemon"]).expect(1);
    assert!(!daemon.err.contains("using"), "{}", daemon.err);
    // Nothing is above: what is missing, and where it was looked for.
    let mut command = world.command(BATCHD);
    command.arg("runs").current_dir("/proc");
    let nothing = world.output(command).expect(1);
    has(&nothing.err, &["there is no journal at /proc/state/journal.db", "no folder above /proc", "--state"]);
}

#[test]
fn a13_logs_says_what_is_gone() {
    let mut world = World::new();
    world.batch("job", "", "echo one; echo two; echo err >&2");
    world.start();
    world.batchd(&["start", "job", "--wait"]).expect(0);
    world.bash("gzip runs/job.1/stdout.log");
    let packed = world.batchd(&["logs", "job.1"]).expect(1);
    assert_eq!(packed.out, "err\n");
    has(&packed.err, &["stdout.log was packed or moved", "zcat "]);
    // The command works where it is pasted.
    let command = packed.err.split('`').nth(1).unwrap();
    assert_eq!(world.bash(command), "one\ntwo\n");
    world.batchd(&["logs", "job.1", "--stderr"]).expect(0);
    world.bash("gunzip runs/job.1/stdout.log.gz; truncate -s 4 runs/job.1/stdout.log");
    let cut = world.batchd(&["logs", "job.1"]).expect(1);
    has(&cut.out, &["one\n", "err\n"]);
    has(&cut.err, &["stdout.log was truncated: it has 4 B of 8 B"]);
    world.bash("rm runs/job.1/stdout.log");
    has(&world.batchd(&["logs", "job.1"]).expect(1).err, &["stdout.log was removed; it had 8 B"]);
    world.bash("rm -r runs/job.1");
    has(&world.batchd(&["logs", "job.1"]).expect(1).err, &["runs/job.1 was removed"]);
}

#[test]
fn b_logs_that_were_too_long_and_last_lines() {
    let mut world = World::new();
    world.batch("long", "log_bytes_max = '1KiB'", "head -c 3000000 /dev/zero | tr '\\0' x");
    world.batch("lines", "", "for i in {1..200}; do echo $i; done");
    world.start();
    world.batchd(&["start", "long", "--wait"]).expect(0);
    has(&world.batchd(&["logs", "long"]).expect(0).err, &["MiB of stdout are not in the log", "log_bytes_max"]);
    world.batchd(&["start", "lines", "--wait"]).expect(0);
    assert_eq!(world.batchd(&["logs", "-n", "2", "lines"]).expect(0).out, "199\n200\n");
    let followed = world.batchd(&["logs", "-f", "-n", "1", "lines"]).expect(0);
    assert_eq!(followed.out, "200\n");
    has(&followed.err, &["lines.1 succeeded after "]);
}

#[test]
fn b_ctrl_c_says_that_the_run_goes_on() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "", "echo hello\necho up > $W/up\nread -r word < $W/go");
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    // As in a terminal: SIGINT once the log has been shown.
    let script = format!(
        "set -m; mkfifo out; {BATCHD} logs -f slow > out 2> err & read -r line < out; kill -INT $!; wait $!; echo $? $line"
    );
    assert_eq!(world.bash(&format!("{{ {script}; }} || true")).trim(), "130 hello");
    has(&world.read("err"), &["slow.1 continues", "batchd stop slow.1"]);
    go.tell();
    assert_eq!(world.end("slow.1")["outcome"], "succeeded");
}

#[test]
fn b_hints_name_the_next_command() {
    let mut world = World::new();
    world.batch("extract", "", "true");
    world.start();
    world.batchd(&["start", "extract", "--wait"]).expect(0);
    for command in ["runs", "next", "graph"] {
        let wrong = world.batchd(&[command, "extract.1"]).expect(2);
        has(&wrong.err, &[&format!("`batchd {command} extract`"), "`batchd show extract.1`"]);
    }
    has(&world.batchd(&["logs", "extract.9"]).expect(2).err, &["no run extract.9", "the latest run is extract.1"]);
    has(&world.batchd(&["runs", "-n", "1001"]).expect(2).err, &["1000", "--json"]);
    assert_eq!(world.json(&["runs", "-n", "1000000"])["runs"].as_array().unwrap().len(), 1);
    assert_eq!(world.json(&["runs", "--failed", "-n", "5"])["runs"].as_array().unwrap().len(), 0);
}

#[test]
fn b_who_started_a_run_with_which_arguments() {
    let mut world = World::new();
    world.batch("job", "", "true");
    world.start();
    world.batchd(&["start", "job", "--wait", "--", "a b", "c"]).expect(0);
    let user = world.bash("id -un").trim().to_owned();
    let shown = world.batchd(&["show", "job"]).expect(0).out;
    has(line(&shown, "arguments"), &["'a b' c"]);
    has(line(&shown, "started by"), &[&user]);
}

#[test]
fn b_equal_rows_fold() {
    let mut world = World::new();
    world.batch("m", "cron = '* * * * * *'", "true");
    world.start();
    world.batchd(&["disable", "m"]).expect(0);
    let mark = world.daemon().mark();
    for _ in 0..4 {
        let seen = world.daemon().mark();
        world.daemon().run_line(seen.max(mark), "m", "skipped");
    }
    world.end_daemon(rustix::process::Signal::TERM);
    let folded = world.batchd(&["runs", "m", "-n", "1"]).expect(0).out;
    let row = folded.lines().nth(1).unwrap();
    has(row, &["–m.", "skipped ×", "–"]);
    let count: usize = row.split('×').nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(count >= 4, "{folded}");
    assert!(world.batchd(&["runs", "m", "--all"]).expect(0).out.lines().count() > count);
}

/// In a real terminal: a screen of so many columns, as tmux has it.
fn screen(world: &World, columns: u32, arguments: &str) -> String {
    // A server for each screen: the one before may not have ended yet.
    let name = format!("tmux-{columns}-{}", arguments.replace(' ', "-"));
    let tmux = format!("tmux -f /dev/null -S {}", world.path(name).display());
    let command = format!("{BATCHD} {arguments} 2>&1; echo END; exec cat");
    world.bash(&format!(
        "{tmux} new-session -d -s s -x {columns} -y 50 \"{command}\"; \
         until {tmux} capture-pane -p -t s | grep -q END; do :; done; \
         {tmux} capture-pane -p -t s; {tmux} kill-server"
    ))
}

#[test]
fn b_ids_and_times_are_whole_at_every_width() {
    let mut world = World::new();
    if world.bash("command -v tmux || true").is_empty() {
        eprintln!("skipped: install tmux");
        return;
    }
    let long = "nightly-warehouse-export";
    world.batch(long, "cron = '0 0 29 2 *'", "echo oops >&2; exit 3");
    world.start();
    world.batchd(&["start", long, "--wait"]).expect(3);
    let started = world.batchd(&["runs"]).expect(0).out;
    let words: Vec<&str> = started.lines().nth(1).unwrap().split_whitespace().collect();
    let at = words.iter().position(|word| word.contains(':')).unwrap();
    let (today, started) = (words[at - 1].to_owned(), words[at].to_owned());
    for columns in [60, 80, 100, 120] {
        let runs = screen(&world, columns, "runs");
        has(&runs, &[&format!("{long}.1"), &started, "failed", "exit code 3"]);
        // Neither the date nor when it was due says anything new.
        assert!(!runs.contains(&today) && !runs.contains("DUE"), "{runs}");
        has(&screen(&world, columns, &format!("show {long}")), &[&format!("{long}.1"), &started, "exit code 3"]);
        has(&screen(&world, columns, "list"), &[long, "failed", "1 failed"]);
        has(&screen(&world, columns, "next"), &[long, "02-29 00:00:00"]);
    }
}

#[test]
fn b_what_may_not_be_read_is_not_missing() {
    if !is_root() {
        eprintln!("skipped: it needs root");
        return;
    }
    let mut world = World::new();
    world.batch("job", "", "echo secret");
    world.start();
    world.batchd(&["start", "job", "--wait"]).expect(0);
    world.end_daemon(rustix::process::Signal::TERM);
    fs::set_permissions(world.path("runs/job.1"), fs::Permissions::from_mode(0o700)).unwrap();
    world.bash(
        "chmod 755 . state; chmod 644 state/journal.db*; cp $0 batchd; chmod 755 batchd".replace("$0", BATCHD).as_str(),
    );
    let as_other = |arguments: &[&str]| {
        let mut command = world.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(world.path("batchd")).args(arguments);
        world.output(command).expect(1).err
    };
    has(&as_other(&["logs", "job"]), &["runs/job.1/stdout.log is not readable for you"]);
    let remedy = "hint: run the command as root or as the daemon's user";
    world.bash("chmod 711 state; cp state/journal.db copy.db; chmod 644 copy.db");
    has(&as_other(&["doctor"]), &["/state is not readable for you", remedy]);
    world.bash("mkdir lost; mv state/journal.db* lost/");
    has(&as_other(&["restore", "copy.db"]), &["Permission denied", remedy]);
    has(&as_other(&["doctor", "--rebuild", "new.db"]), &["Permission denied", remedy]);
}
