//! What a script below an upstream reads.

use std::fs;
use std::sync::Arc;

use batchd::model::launch::{Launch, Report, UpstreamEnd};
use batchd::model::run::{Exit, Input, Outcome};

use crate::world::{World, upstream};

const SHOW: &str = "cat; echo \"[$(cat \"$BATCHD_INPUT\")]\"; cd \"$BATCHD_INPUT_DIR\"
    for f in *; do echo \"$f: $(cat $f)\"; done; echo $BATCHD_UPSTREAM_RUN $BATCHD_UPSTREAM_OUTCOME $BATCHD_UPSTREAM_EXIT_CODE";

/// Runs `load` and `clean`, and returns how they ended.
fn upstreams(world: &mut World) -> [UpstreamEnd; 2] {
    [("load", "echo loaded; echo warning >&2"), ("clean", "echo cleaned")].map(|(name, script)| {
        let launch = world.plan(name, script, |_, _| {});
        world.launch(&launch);
        let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
        world.collect(&launch);
        upstream(&launch, Some(exit))
    })
}

fn below(world: &World, upstreams: &[UpstreamEnd], user: Option<&str>) -> Launch {
    let mut launch = world.plan("report", SHOW, |execution, launch| {
        execution.user = user.map(str::to_owned);
        launch.upstreams = upstreams.to_vec();
    });
    Arc::make_mut(launch.definition.as_mut().unwrap()).use_previous_output = true;
    launch
}

const ONE: &str =
    "loaded\n[loaded]\nload.err: warning\nload.out: loaded\nload.outcome: succeeded\nload.1 succeeded 0\n";
const TWO: &str = "loaded\ncleaned\n[loaded\ncleaned]\nclean.err: \nclean.out: cleaned\nclean.outcome: succeeded\n\
    load.err: warning\nload.out: loaded\nload.outcome: succeeded\nload.1 succeeded 0\n";

#[test]
fn the_output_of_upstreams_is_the_input() {
    let users: &[Option<&str>] = if rustix::process::geteuid().is_root() { &[None, Some("nobody")] } else { &[None] };
    for user in users {
        let mut world = World::new();
        let ends = upstreams(&mut world);
        for (ends, expected) in [(&ends[..1], ONE), (&ends[..], TWO)] {
            let launch = below(&world, ends, *user);
            world.launch(&launch);
            assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
            assert_eq!(world.text(&launch, "stdout.log"), expected, "{user:?} {}", world.text(&launch, "stderr.log"));
            world.forget(&launch);
        }
    }
}

#[test]
fn f10_an_input_that_is_not_whole_is_not_used() {
    let mut world = World::new();
    let [load, _] = upstreams(&mut world);
    let exit = load.exit.clone().unwrap();
    let mut check = |end: UpstreamEnd, expected: &str| {
        let launch = below(&world, &[end], None);
        world.launch(&launch);
        match world.end(&launch) {
            Report::InputIncomplete { reason, .. } => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
        world.forget(&launch);
    };
    let with = |exit: Exit| UpstreamEnd { exit: Some(exit), ..load.clone() };
    check(with(Exit { stdout_bytes: 8, ..exit.clone() }), "has 7 bytes instead of 8");
    check(with(Exit { stdout_dropped_bytes: 2, ..exit.clone() }), "lacks 2 bytes");
    check(UpstreamEnd { exit: None, ..load.clone() }, "never recorded");
    check(UpstreamEnd { output_of: "load.9".parse().unwrap(), ..load.clone() }, "can't be opened");
}

#[test]
fn the_output_of_what_never_ran_is_empty() {
    let mut world = World::new();
    let [load, clean] = upstreams(&mut world);
    let never = "stock.1".parse().unwrap();
    let skipped =
        UpstreamEnd { run: never, output_of: "stock.1".parse().unwrap(), outcome: Outcome::Skipped, exit: None };
    let mut check = |ends: &[UpstreamEnd], expected: &str| {
        let launch = below(&world, ends, None);
        world.launch(&launch);
        assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
        let stdout = world.text(&launch, "stdout.log");
        assert!(stdout.starts_with(expected) && stdout.contains("stock.out: \n"), "{stdout}");
        world.forget(&launch);
    };
    check(&[load, skipped.clone(), clean], "loaded\ncleaned\n[loaded\ncleaned]");
    check(std::slice::from_ref(&skipped), "[]");
    let launch = below(&world, &[UpstreamEnd { outcome: Outcome::Lost, ..skipped }], None);
    world.launch(&launch);
    assert!(matches!(world.end(&launch), Report::InputIncomplete { .. }));
}

#[test]
fn an_input_can_be_given_by_hand() {
    let mut world = World::new();
    let [load, clean] = upstreams(&mut world);
    fs::write(world.path("given"), "from a file\n").unwrap();
    let file = world.path("given").to_string_lossy().into_owned();
    let mut check = |tweak: &dyn Fn(&mut Launch), expected: &str| {
        let launch = world.plan("report", "cat; cat \"$BATCHD_INPUT\"", |_, launch| tweak(launch));
        world.launch(&launch);
        assert!(matches!(world.end(&launch), Report::Exited { .. }));
        assert_eq!(world.text(&launch, "stdout.log"), expected);
        world.forget(&launch);
    };
    check(
        &|launch| {
            launch.run.given.input = Some(Input::Run(clean.run.clone()));
            launch.given_input = Some(clean.clone());
            launch.upstreams = vec![load.clone()];
        },
        "cleaned\ncleaned\n",
    );
    check(&|launch| launch.run.given.input = Some(Input::File(file.clone())), "from a file\nfrom a file\n");
}

#[test]
fn without_use_previous_output_stdin_is_empty_but_the_files_are_there() {
    let mut world = World::new();
    let [mut load, _] = upstreams(&mut world);
    load.outcome = Outcome::Failed;
    let script =
        "cat; echo ${BATCHD_INPUT-none}; cat \"$BATCHD_INPUT_DIR/load.outcome\" \"$BATCHD_INPUT_DIR/load.err\"";
    let launch = world.plan("handler", script, |_, launch| launch.upstreams = vec![load]);
    world.launch(&launch);
    assert!(matches!(world.end(&launch), Report::Exited { .. }));
    assert_eq!(world.text(&launch, "stdout.log"), "none\nfailed\nwarning\n");
}
