//! The command line against a living daemon and without one: exit codes, what is printed where, and JSON.

use serde_json::Value;

use crate::world::World;

/// What every object of a run has.
const FIELDS: [&str; 17] = [
    "id",
    "batch",
    "number",
    "chain",
    "trigger",
    "attempt",
    "state",
    "outcome",
    "reason",
    "due_at",
    "queued_at",
    "started_at",
    "ended_at",
    "exit_code",
    "signal",
    "upstreams",
    "definition",
];

/// A world in which everything can be asked for; its daemon is not started.
fn world() -> World {
    let world = World::new();
    world.batch("ok", "", "echo out\necho err >&2\necho \"$1-$X\"\n");
    world.batch("fails", "retries = 1\nretry_delay = '0s'", "exit 7\n");
    world.batch("dies", "", "kill -USR1 $$\n");
    world.batch("takes", "after = 'ok'\nuse_previous_output = true", "cat\n");
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\n");
    world
}

#[track_caller]
fn complains(world: &World, arguments: &[&str], code: i32, words: &[&str]) {
    let output = world.batchd(arguments).expect(code);
    assert_eq!(output.out, "", "{arguments:?}");
    for word in words {
        assert!(output.err.contains(word), "{arguments:?} says nothing of {word:?}: {}", output.err);
    }
}

#[test]
fn a_wait_exits_as_the_script_does() {
    let mut world = world();
    world.start();
    world.batchd(&["start", "ok", "--wait"]).expect(0);
    // It follows to the last attempt.
    let output = world.batchd(&["start", "fails", "--wait"]).expect(7);
    assert!(output.err.contains("fails.2 failed"), "{output:?}");
    world.batchd(&["start", "dies", "--wait"]).expect(128 + 10);
    world.batchd(&["rerun", "fails.2", "--wait"]).expect(7);
    world.batch("gone", "interpreter = ['/no/such/program']", "echo\n");
    world.batchd(&["reload"]).expect(0);
    world.batchd(&["start", "gone", "--wait"]).expect(125);
}

#[test]
fn a_start_is_given_arguments_variables_and_input() {
    let mut world = world();
    world.start();
    world.batchd(&["start", "ok", "--wait", "--only", "--env", "X=5", "--", "arg"]).expect(0);
    assert_eq!(world.stdout("ok.1"), "out\narg-5\n");
    let run = world.read(world.run_file("ok.1", "run.json"));
    assert!(run.contains("\"X\"") && !run.contains("\"5\""), "{run}");
    world.rest();
    assert_eq!(world.runs().len(), 1, "--only");
    world.batchd(&["start", "takes", "--wait", "--input", "ok.1"]).expect(0);
    assert_eq!(world.stdout("takes.1"), "out\narg-5\n");
    world.write("file", "from a file\n");
    world.batchd(&["start", "takes", "--wait", "--input", "file"]).expect(0);
    assert_eq!(world.stdout("takes.2"), "from a file\n");
    complains(&world, &["start", "takes"], 2, &["--input"]);
    complains(&world, &["start", "takes", "--input", "nowhere"], 2, &["nowhere", "file"]);
}

#[test]
fn busy_and_disabled() {
    let mut world = world();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    up.hear();
    complains(&world, &["start", "slow"], 1, &["busy", "slow.1", "--queue"]);
    assert_eq!(world.batchd(&["start", "slow", "--queue"]).expect(0).line(), "slow.2");
    assert_eq!(world.run("slow.2")["state"], "queued");
    assert_eq!(world.run("slow.2")["waits_for"], serde_json::json!({ "what": "batch", "run": "slow.1" }));
    for verb in [&["list"][..], &["show", "slow.2"], &["runs", "slow"]] {
        let shown = world.batchd(verb).expect(0).out;
        assert!(shown.contains("slow.1, which has not ended"), "{verb:?}: {shown}");
    }
    go.tell();
    world.end("slow.1");
    up.hear();
    go.tell();
    assert_eq!(world.end("slow.2")["outcome"], "succeeded");

    world.batchd(&["disable", "ok", "--for", "2h", "--reason", "moving"]).expect(0);
    complains(&world, &["start", "ok"], 1, &["disabled", "moving", "--force"]);
    world.batchd(&["start", "ok", "--force", "--only", "--wait"]).expect(0);
    world.batchd(&["enable", "ok"]).expect(0);
    world.batchd(&["start", "ok", "--only", "--wait"]).expect(0);
}

#[test]
fn logs_and_paths() {
    let mut world = world();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("talks", "", "printf 'raw \\033[31m\\0 bytes\\n'\necho up > $W/up\nread -r word < $W/go\necho more\n");
    world.start();
    world.batchd(&["start", "ok", "--only", "--wait", "--env", "X=1"]).expect(0);
    assert_eq!(world.batchd(&["logs", "ok", "--stdout"]).expect(0).out, "out\n-1\n");
    assert_eq!(world.batchd(&["logs", "ok.1", "--stderr"]).expect(0).out, "err\n");
    let stamped = world.batchd(&["logs", "ok", "--stderr", "--timestamps"]).expect(0).out;
    assert!(stamped.starts_with("20") && stamped.ends_with(" err err\n"), "{stamped:?}");

    world.batchd(&["start", "talks"]).expect(0);
    up.hear();
    let mut follow = world.command(env!("CARGO_BIN_EXE_batchd"));
    let follow = follow.args(["logs", "-f", "talks"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    go.tell();
    // It ends with the run.
    let output = follow.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"raw \x1b[31m\0 bytes\nmore\n");
    // On a terminal no escape sequence of the script gets through.
    let shown = world.bash(&format!("script -qec '{} logs talks' /dev/null", env!("CARGO_BIN_EXE_batchd")));
    assert!(shown.contains("raw ") && !shown.contains("\x1b[31m") && !shown.contains('\0'), "{shown:?}");

    let path = world.batchd(&["path", "ok"]).expect(0);
    assert_eq!(path.line(), world.path("runs/ok.1").to_str().unwrap());
    world.bash(&format!(
        "cp -r \"$({0} path ok.1)\" copy && cmp copy/stdout.log runs/ok.1/stdout.log",
        env!("CARGO_BIN_EXE_batchd")
    ));
    world.bash(&format!("diff -r \"$({} path --definition ok)\" batches.d/ok", env!("CARGO_BIN_EXE_batchd")));
    world.bash(&format!("test -f \"$({} path --workspace ok)/script.sh\"", env!("CARGO_BIN_EXE_batchd")));
}

#[test]
fn facts_as_json() {
    let mut world = world();
    world.start();
    world.batchd(&["start", "ok", "--wait"]).expect(0);
    world.rest();
    let run = world.run("ok.1");
    for field in FIELDS {
        assert!(run.get(field).is_some(), "no {field} in {run}");
    }
    assert_eq!((run["signal"].clone(), run["exit_code"].as_i64()), (Value::Null, Some(0)));
    assert!(run["started_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(world.run("takes.1")["upstreams"], serde_json::json!(["ok.1"]));
    let check = |arguments: &[&str], pointer: &str| {
        let facts = world.json(arguments);
        assert!(facts.pointer(pointer).is_some(), "{arguments:?} has no {pointer}: {facts}");
    };
    check(&["list"], "/batches/0/batch");
    check(&["graph"], "");
    check(&["next"], "");
    check(&["next", "--cron", "0 3 * * *", "-n", "2"], "");
    check(&["path", "ok"], "/path");
    check(&["runs", "ok"], "/runs/0/id");
    check(&["check"], "");
}

#[test]
fn runs_are_filtered_and_paged() {
    let mut world = world();
    world.start();
    for _ in 0..3 {
        world.batchd(&["start", "ok", "--only", "--wait"]).expect(0);
    }
    world.batchd(&["start", "fails", "--wait"]).expect(7);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let page = world.json(&[&["runs"], arguments].concat());
        page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--outcome", "failed"]), ["fails.2", "fails.1"]);
    assert_eq!(ids(&["--trigger", "retry"]), ["fails.2"]);
    assert_eq!(ids(&["ok", "-n", "2"]), ["ok.3", "ok.2"]);
    let mark = world.json(&["runs", "ok", "-n", "2"])["next"].as_str().unwrap().to_owned();
    assert_eq!(ids(&["ok", "-n", "2", "--after", &mark]), ["ok.1"]);
    assert_eq!(ids(&["--until", "2020-01-01"]), Vec::<String>::new());
    assert_eq!(ids(&["--since", "1h"]).len(), 5);
    assert_eq!(ids(&["--run-state", "ended"]).len(), 5);
    assert_eq!(ids(&["--run-state", "running"]), Vec::<String>::new());
    // The path keeps its name beside the filters.
    let state = world.path("state");
    assert_eq!(ids(&["ok", "--state", state.to_str().unwrap()]).len(), 3);
    assert_eq!(ids(&["ok", "--outcome", "failed"]), Vec::<String>::new());
    complains(&world, &["runs", "okk"], 2, &["okk", "did you mean `ok`"]);
}

#[test]
fn next_begins_at_the_instant_that_is_named_in_the_zone_that_is_named() {
    let world = world();
    let midnight = ["next", "--cron", "0 0 * * *", "--timezone", "Europe/Berlin", "--from", "2026-03-28", "-n", "1"];
    assert_eq!(world.json(&midnight)["starts"][0]["start_at_local"], "2026-03-28T00:00:00+01:00");
}

#[test]
fn without_a_daemon() {
    let mut world = world();
    for act in [
        &["start", "ok"][..],
        &["stop", "ok.1"],
        &["rerun", "ok.1"],
        &["disable", "ok"],
        &["enable", "ok"],
        &["reload"],
    ] {
        complains(&world, act, 3, &["no daemon", "batchd daemon"]);
    }
    // Reading verbs read the disk where there is no journal yet, and the journal afterwards.
    for verb in [&["list"][..], &["next"], &["graph"], &["runs"], &["check"]] {
        world.batchd(verb).expect(0);
    }
    world.start();
    world.batchd(&["start", "ok", "--only", "--wait"]).expect(0);
    world.end_daemon(rustix::process::Signal::TERM);
    assert_eq!(world.run("ok.1")["outcome"], "succeeded");
    world.batchd(&["logs", "ok"]).expect(0);
    assert!(world.batchd(&["list"]).expect(0).out.contains("succeeded"));
}

#[test]
fn mistakes_are_explained() {
    let mut world = world();
    world.start();
    complains(&world, &["start", "okk"], 2, &["no batch `okk`", "did you mean `ok`?"]);
    complains(&world, &["show", "ok.99"], 2, &["no run ok.99", "batchd runs ok"]);
    complains(&world, &["logs", "nope"], 2, &["no batch `nope`"]);
    complains(&world, &["next", "--cron", "0 0 30 2 *"], 2, &["never"]);
    complains(&world, &["start", "ok", "--env", "novalue"], 2, &["novalue"]);
    complains(&world, &["start", "ok", "--env", "BATCHD_RUN=x"], 2, &["reserved"]);
    complains(&world, &["frobnicate"], 2, &["frobnicate"]);
    world.batchd(&["help", "exit-codes"]).expect(0);
}

/// Typical mistakes in definitions, all told at once.
#[test]
fn a_check_says_all_that_is_wrong() {
    let world = world();
    world.batch("typo", "crno = '@daily'", "echo\n");
    world.batch("both", "cron = '@daily'\nafter = 'ok'", "echo\n");
    world.batch("never", "cron = '0 0 30 2 *'", "echo\n");
    world.batch("lost", "after = 'okk'", "echo\n");
    world.batch("ring-a", "after = 'ring-b'", "echo\n");
    world.batch("ring-b", "after = 'ring-a'", "echo\n");
    world.batch("windows", "", "echo one\r\necho two\r\n");
    world.bash("mkdir batches.d/empty");
    complains(&world, &["check", "batches.d/typo"], 2, &["is one batch"]);
    let output = world.batchd(&["check"]).expect(1);
    let said = output.out + &output.err;
    for words in [
        "typo/batch.toml:1:1",
        "did you mean `cron`?",
        "both/batch.toml",
        "never/batch.toml:1:",
        "did you mean `ok`?",
        "ring-a",
        "ring-b",
        "windows/script.sh",
        "empty",
    ] {
        assert!(said.contains(words), "nothing of {words:?} in:\n{said}");
    }
}

#[test]
fn a_zone_that_cannot_be_followed_is_told_beside_the_times() {
    let world = world();
    let list = |zone: &str| {
        let mut command = world.command(env!("CARGO_BIN_EXE_batchd"));
        command.arg("list").env("TZ", zone);
        world.output(command).expect(0)
    };
    let good = list("Europe/Berlin");
    assert!(!good.err.contains("TZ"), "{good:?}");
    let warned = list("Europe/Berln");
    assert!(warned.err.contains("warning: TZ: unknown time zone `Europe/Berln`; using the time zone "), "{warned:?}");
    assert_eq!(warned.out, list("UTC").out);
}
