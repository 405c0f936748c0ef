//! What people are told of acts and of their mistakes: names that are not known, what is turned off, what follows, how it went.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::World;

/// Exits with this, prints nothing, and says all of these words.
#[track_caller]
fn complains(world: &World, arguments: &[&str], code: i32, words: &[&str]) -> String {
    let output = world.batchd(arguments).expect(code);
    assert_eq!(output.out, "", "{arguments:?}");
    says(&output.err, words);
    output.err
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "nothing of {word:?} in: {text}");
    }
}

#[test]
fn names_that_are_not_known() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("nightly", "", "echo up > $W/up\nread -r word < $W/go\n");
    world.start();
    for verb in ["start", "enable", "disable"] {
        complains(&world, &[verb, "nigthly"], 2, &["no batch `nigthly`", "did you mean `nightly`?"]);
    }
    for arguments in
        [&["stop", "nigthly.1"][..], &["rerun", "nigthly.1"], &["show", "nigthly.1"], &["runs", "--chain", "nigthly.1"]]
    {
        complains(&world, arguments, 2, &["no run nigthly.1", "did you mean `nightly`?"]);
    }
    for arguments in
        [&["stop", "nightly.7"][..], &["rerun", "nightly.7"], &["show", "nightly.7"], &["runs", "--chain", "nightly.7"]]
    {
        complains(&world, arguments, 2, &["no run nightly.7", "`batchd runs nightly`"]);
    }
    complains(&world, &["stop", "nigthly"], 2, &["did you mean `nightly`?"]);
    complains(&world, &["stop", "nightly"], 2, &["`nightly` is a batch", "no run of nightly is waiting or running"]);
    world.batchd(&["start", "nightly"]).expect(0);
    up.hear();
    complains(&world, &["stop", "nightly"], 2, &["`batchd stop nightly.1`", "the active runs are nightly.1 ("]);
    go.tell();
    world.end("nightly.1");
    complains(&world, &["stop", "nightly.1"], 1, &["nightly.1 has ended already: succeeded", "batchd show nightly.1"]);
}

#[test]
fn what_its_own_file_turns_off() {
    let mut world = World::new();
    world.batch("off", "enabled = false", "echo ran\n");
    world.start();
    let hint = complains(&world, &["start", "off"], 1, &["`enabled = false` from off/batch.toml", "start off --force"]);
    assert!(!hint.contains("batchd enable"), "{hint}");
    world.batchd(&["start", "off", "--force", "--wait"]).expect(0);
    let hint = complains(&world, &["rerun", "off.1"], 1, &["from off/batch.toml", "rerun off.1 --force"]);
    assert!(!hint.contains("batchd enable"), "{hint}");
    world.batchd(&["rerun", "off.1", "--force", "--wait"]).expect(0);
    assert_eq!(world.stdout("off.2"), "ran\n");
    says(&world.batchd(&["enable", "off"]).expect(0).out, &["still disabled", "off/batch.toml"]);
}

#[test]
fn switches_tell_facts_and_names() {
    let mut world = World::new();
    world.batch("load", "", "true\n");
    world.start();
    let text = world.batchd(&["disable", "load", "--for", "2h", "--reason", "moving"]).expect(0).out;
    let until: Vec<&str> = text.trim_end().strip_prefix("load is disabled until ").unwrap().split(' ').collect();
    let [_weekday, _date, time, offset] = until[..] else { panic!("{text}") };
    assert!(time.len() == "03:00:00".len() && offset.starts_with(['+', '-']), "{text}");
    let facts = world.json(&["disable", "load", "--for", "2h", "--reason", "moving"]);
    let disabled = &facts["disabled"];
    assert_eq!((&facts["batch"], &disabled["reason"]), (&json!("load"), &json!("moving")));
    assert!(disabled["until"].as_str() > disabled["at"].as_str(), "{facts}");
    let name = world.bash("id -un");
    says(&world.batchd(&["list"]).expect(0).out, &[&format!("disabled by {}", name.trim())]);
    let facts = world.json(&["enable", "load"]);
    assert_eq!((&facts["enabled"], &facts["was_disabled"]["reason"]), (&json!(true), &json!("moving")));
    assert_eq!(world.json(&["enable", "load"])["was_disabled"], Value::Null);
}

#[test]
fn what_will_follow_and_what_will_not() {
    let mut world = World::new();
    world.batch("load", "", "true\n");
    world.batch("sums", "after = 'load'", "true\n");
    world.batch("report", "after = 'sums'\nenabled = false", "true\n");
    world.batch("mail", "after = 'report'", "true\n");
    world.batch("other", "", "true\n");
    world.batch("both", "after = ['load', 'other']", "true\n");
    world.start();
    let not = ["report will not follow: it is disabled", "mail will not follow: its upstream report will not run"];
    let start = world.batchd(&["start", "load", "--wait"]).expect(0).err;
    says(&start, &["will follow if load.1 succeeds: sums\n", "both will not follow", "--downstream"]);
    says(&start, &not);
    world.rest();
    let start = world.batchd(&["start", "load", "--downstream", "--wait"]).expect(0).err;
    says(&start, &["will follow if load.2 succeeds: sums\n", "both will follow after the next end of other"]);
    world.rest();
    let start = world.batchd(&["start", "other", "--downstream", "--wait"]).expect(0).err;
    says(&start, &["will follow if other.1 succeeds: both\n"]);
    world.rest();
    assert_eq!(world.run("both.1")["outcome"], "succeeded");
    let rerun = world.batchd(&["rerun", "load.1", "--wait"]).expect(0).err;
    says(&rerun, &["sums will not follow: sums.1 already succeeded in this chain", "both will not follow"]);
    says(&rerun, &not);
}

#[test]
fn a_wait_never_exits_with_0_unless_it_succeeded() {
    let mut world = World::new();
    world.batch("picky", "success_exit_codes = [3]", "exit \"$1\"\n");
    world.start();
    world.batchd(&["start", "picky", "--wait", "--", "0"]).expect(125);
    world.batchd(&["start", "picky", "--wait", "--", "3"]).expect(3);
    world.batchd(&["start", "picky", "--wait", "--", "4"]).expect(4);
    world.batchd(&["rerun", "picky.1", "--mark-succeeded", "--wait"]).expect(0);
}

#[test]
fn a_run_that_could_not_be_run_is_shown() {
    let mut world = World::new();
    world.batch("bad", "interpreter = ['/no/such/program']", "echo\n");
    world.start();
    world.batchd(&["start", "bad", "--wait"]).expect(125);
    says(&world.batchd(&["show", "bad"]).expect(0).out, &["bad.1", "failed", "/no/such/program"]);
    for arguments in [&["logs", "bad"][..], &["logs", "bad.1"], &["logs", "-f", "bad"]] {
        complains(&world, arguments, 1, &["bad.1 failed", "/no/such/program"]);
    }
}

#[test]
fn logs_are_followed_to_the_last_attempt() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch(
        "tries",
        "retries = 1\nretry_delay = '0s'",
        "echo $BATCHD_ATTEMPT\necho up > $W/up\nread -r code < $W/go\nexit 7\n",
    );
    world.start();
    world.batchd(&["start", "tries"]).expect(0);
    up.hear();
    let mut follow = world.command(env!("CARGO_BIN_EXE_batchd"));
    let mut follow = follow.args(["logs", "-f", "tries"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("1"));
    go.tell();
    up.hear();
    go.tell();
    assert_eq!(lines.collect::<Vec<_>>(), ["2"]);
    assert!(follow.wait().unwrap().success());
}

#[test]
fn a_batch_without_a_schedule_says_when_its_chain_begins() {
    let mut world = World::new();
    world.batch("load", "cron = '@daily'\non_error = 'alert'", "true\n");
    world.batch("sums", "after = 'load'", "true\n");
    world.batch("report", "after = ['sums', 'other']", "true\n");
    world.batch("other", "", "true\n");
    world.batch("alert", "", "true\n");
    world.start();
    let next = |batch: &str| world.batchd(&["next", batch]).expect(0).out;
    says(&next("sums"), &["sums starts after load\n", "begins with load, next at ", "(in "]);
    says(
        &next("report"),
        &["after sums, other\n", "begins with load, next at ", "begins with other, which has no schedule"],
    );
    says(&next("alert"), &["alert starts when load has failed\n", "begins with load, next at "]);
    says(&next("other"), &["other has no schedule; to start it: `batchd start other`\n"]);
    let facts = world.json(&["next", "report"]);
    assert_eq!(facts["after"], json!(["sums", "other"]));
    assert_eq!(facts["begins_with"][0]["batch"], "load");
    assert!(facts["begins_with"][0]["next"]["start_at"].is_string(), "{facts}");
    assert_eq!(facts["begins_with"][1], json!({ "batch": "other", "next": null, "reboot": false }));
}

#[test]
fn readers_say_that_no_daemon_lives_and_acts_that_its_socket_is_gone() {
    let mut world = World::new();
    let (up, go) = (world.pipe("up"), world.pipe("go"));
    world.batch("slow", "", "echo up > $W/up\nread -r word < $W/go\n");
    world.batch("ok", "", "true\n");
    world.start();
    world.batchd(&["start", "slow"]).expect(0);
    world.batchd(&["start", "ok", "--wait"]).expect(0);
    up.hear();
    assert_eq!(world.batchd(&["list"]).expect(0).err, "");
    assert_eq!(world.json(&["list"])["daemon"], true);
    world.bash("rm state/socket/batchd.sock");
    complains(&world, &["start", "ok"], 1, &["is running, but its socket is missing", "restart the daemon"]);
    world.end_daemon(Signal::TERM);
    complains(&world, &["start", "ok"], 3, &["no daemon is running on"]);
    for arguments in [&["list"][..], &["runs"], &["show", "slow"]] {
        says(
            &world.batchd(arguments).expect(0).err,
            &["the daemon is not running on", "may have ended", "`batchd daemon`"],
        );
    }
    assert_eq!(world.json(&["list"])["daemon"], false);
    for arguments in [&["runs", "ok"][..], &["show", "ok"]] {
        assert_eq!(world.batchd(arguments).expect(0).err, "", "{arguments:?}");
    }
    go.tell();
}

#[test]
fn what_comes_into_force_is_told() {
    let mut world = World::new();
    for number in 0..21 {
        world.batch(&format!("many{number}"), "", "true\n");
    }
    world.start();
    let daemon = world.daemon();
    daemon.says(0, "new or changed: many0, many1, many10 and 18 more");
    let of_many7 = |line: &Value| line["message"] == "in force" && line["level"] == "DEBUG" && line["batch"] == "many7";
    daemon.line("many7 is in force with the others", of_many7);
    let mark = daemon.mark();
    world.batch("many7", "", "echo edited\n");
    let alone = |line: &Value| line["message"] == "new or changed: many7" && line["level"] == "INFO";
    daemon.line_after(mark, "many7 is in force, alone", alone);
    daemon.line_after(mark, "and its definition for those who look closer", of_many7);
}

#[test]
fn an_alarm_and_its_end_are_told() {
    let mut world = World::new();
    world.batch("load", "", "true\n");
    world.start();
    let mark = world.daemon().mark();
    world.bash("mv batches.d away; mkdir batches.d");
    world.daemon().says(mark, "suddenly empty");
    let listed = world.batchd(&["list"]).expect(0).out;
    says(&listed, &["load", "this folder is suddenly empty; its batches stay in force"]);
    world.bash("rmdir batches.d; mv away batches.d");
    world.daemon().says(mark, "the folder has batches again");
}

#[test]
fn the_folder_above_is_no_folder_of_batches() {
    let world = World::new();
    world.batch("ok", "", "true\n");
    complains(&world, &["check", "."], 2, &["is not a folder of batches", "`batchd check ./batches.d`"]);
    world.batchd(&["check", "./batches.d"]).expect(0);
    world.bash(&format!("cd batches.d && {} check .", env!("CARGO_BIN_EXE_batchd")));
}

/// A client that sends an act, and is cut off before it has read the answer: no later daemon does it again.
#[test]
fn h7_an_act_whose_answer_nobody_reads_is_done_once() {
    let mut world = World::new();
    world.batch("job", "", "echo ran >> $W/witness\n");
    world.start();
    let body = r#"{"act":"start","batch":"job","follow":"everything"}"#;
    let head = "POST /v1/acts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    let mut client = UnixStream::connect(world.path("state/socket/batchd.sock")).unwrap();
    write!(client, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let run = world.daemon().run_line(0, "job", "succeeded");
    drop(client);
    assert_eq!(world.end_daemon(Signal::KILL), -9);
    world.start();
    world.rest();
    let runs: Vec<String> = world.runs().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(runs, [run]);
    assert_eq!(world.read("witness"), "ran\n");
}
