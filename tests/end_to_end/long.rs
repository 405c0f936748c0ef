//! Texts of any length, which others or a mistake have made: messages show their beginnings.

use crate::world::{Output, World};

/// Longer than any message, its hint included; the system takes no longer argument.
const LENGTH: usize = 100_000;

/// The most characters of a line that anybody should have to read.
const LINE_MAX: usize = 1100;

#[track_caller]
fn is_short(output: Output) -> Output {
    let longest = output.out.lines().chain(output.err.lines()).map(|line| line.chars().count()).max().unwrap_or(0);
    let said = (output.out.clone() + &output.err).chars().take(2000).collect::<String>();
    assert!(longest <= LINE_MAX, "a line of {longest} characters: {said}");
    output
}

#[test]
fn a16_messages_quote_long_texts_briefly() {
    let mut world = World::new();
    let long = "k".repeat(1_000_000);
    world.batch("good", "", "echo good\n");
    for (name, toml) in [
        ("zone", format!("timezone = \"{long}\"")),
        ("env", format!("env_file = \"{long}\"")),
        ("absolute", format!("env_file = \"/{long}\"")),
        ("include", format!("include = [\"_{long}\"]")),
        ("script", format!("script = \"{long}\"")),
        ("folder", format!("working_dir = \"/{long}\"")),
        ("far", format!("description = \"{long}\"; retires = 3")),
    ] {
        world.batch(name, &toml, "echo\n");
    }
    world.start();
    for line in world.daemon().log_text().lines() {
        assert!(line.chars().count() <= 3 * LINE_MAX, "{line:.300}");
    }
    for (verb, code) in [("check", 1), ("reload", 1), ("list", 0)] {
        let said = is_short(world.batchd(&[verb]).expect(code));
        assert!(said.out.lines().count() < 100, "{verb}: {}", said.out);
        let json = world.batchd(&[verb, "--json"]).expect(code).out;
        assert!(json.len() < 20 * LINE_MAX, "{verb} --json: {} bytes", json.len());
    }
    for settings in
        [format!("trusted_owners = ['{long}']"), format!("max_runing = '{long}'"), format!("batches = '{long}'")]
    {
        world.settings(&settings);
        is_short(world.batchd(&["list", "--state", "state", "--batches", "batches.d", "--runs", "runs"]));
        is_short(world.batchd(&["check", "batches.d"]));
    }
}

#[test]
fn a16_reasons_are_short() {
    let mut world = World::new();
    let long = "k".repeat(LENGTH);
    world.batch("line", "", &format!("#!/{long}\n"));
    world.batch("program", &format!("interpreter = [\"{long}\"]\nenv = {{ PATH = \"/{long}\" }}\n"), "echo\n");
    world.batch("wait", "", "read < $W/pipe\n");
    let _pipe = world.pipe("pipe");
    world.start();
    for batch in ["line", "program"] {
        let failed = is_short(world.batchd(&["start", batch, "--wait"]).expect(125));
        assert!(failed.err.contains("interpreter `"), "{failed:?}");
        is_short(world.batchd(&["show", batch]).expect(0));
        assert!(world.json(&["show", batch])["reason"].as_str().unwrap().chars().count() <= LINE_MAX);
    }
    let run = world.batchd(&["start", "wait"]).expect(0).line().to_owned();
    for arguments in [["disable", "line"], ["stop", &run], ["stop", "--all"]] {
        let arguments = [&arguments[..], &["--reason", &long]].concat();
        let refused = is_short(world.batchd(&arguments).expect(2));
        assert!(refused.err.contains("the reason has 100000 characters, more than the 1000 allowed"), "{refused:?}");
    }
    world.batchd(&["disable", "line", "--reason", &long[..1000]]).expect(0);
    let listed = world.batchd(&["list"]).expect(0);
    assert!(listed.out.contains(&long[..1000]), "{listed:?}");
    world.batchd(&["stop", &run, "--reason", "enough"]).expect(0);
    assert_eq!(world.end(&run)["outcome"], "cancelled");
}

#[test]
fn a16_arguments_are_quoted_briefly() {
    let mut world = World::new();
    world.batch("good", "", "echo good\n");
    world.start();
    let (long, option) = ("k".repeat(LENGTH), format!("--{}", "k".repeat(LENGTH)));
    let lists = "1,".repeat(LENGTH / 2);
    let file = format!("/{long}");
    let lines: [&[&str]; 22] = [
        &["runs", "--since", &long],
        &["next", "--cron", "0 2 * * *", "--from", &long],
        &["next", "--cron", &long],
        &["next", "--cron", &lists],
        &["next", "--cron", "0 2 * * *", "--timezone", &long],
        &["list", "--state", &file],
        &["list", "--settings", &file],
        &["daemon", "--batches", &file],
        &["check", &file],
        &["check", "--batches", &file],
        &["backup", &file],
        &["restore", &file],
        &["doctor", "--rebuild", &file],
        &["start", &long],
        &["start", "good", "--env", &long],
        &["start", "good", "--input", &long],
        &["start", "good", "--input", &file],
        &["show", &long],
        &["runs", "--outcome", &long],
        &["runs", "-n", &long],
        &[&long],
        &["list", &option],
    ];
    for arguments in lines {
        let output = world.batchd(arguments);
        assert_ne!(output.code, 0, "{:.60}", arguments.join(" "));
        let output = is_short(output);
        assert!(output.err.chars().count() < 4 * LINE_MAX, "{:.60}: {:.3000}", arguments.join(" "), output.err);
    }
}
