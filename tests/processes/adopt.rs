//! A daemon that is gone, and what the next one finds: living, ended, never begun, lost.

use std::fs;

use batchd::model::launch::{ExitCause, Launch, Report};
use batchd::model::run::{State, StopRequest};
use batchd::rundir::RunDir;
use batchd::rundir::records::{ExitRecord, Started, VERSION, VERSION_READ_MIN};

use crate::world::{World, boot, is_alive, kill};

const WAITS: &str = "cd \"$BATCHD_RUN_DIR/io\"; echo $$ > pid; until [[ -e go ]]; do sleep 0.01; done; echo went";

fn as_row(launch: &Launch, state: State) -> Launch {
    let mut launch = launch.clone();
    launch.run.state = state;
    launch
}

/// A run whose script is running and waits for `io/go`, with the script's pid.
fn running(world: &mut World) -> (Launch, i32) {
    let launch = world.plan("job", WAITS, |_, _| {});
    world.launch(&launch);
    let pid = world.wait_for(&world.file(&launch, "io/pid")).trim().parse().unwrap();
    assert!(matches!(world.report(&launch), Report::Started { .. }));
    (launch, pid)
}

fn assert_lost(report: Report, why: &str) {
    match report {
        Report::Lost { reason, .. } => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a15_a_living_run_is_adopted() {
    for state in [State::Starting, State::Running] {
        let mut world = World::new();
        let (launch, pid) = running(&mut world);
        world.drop_supervisor();
        assert!(is_alive(pid));
        world.start();
        world.find(&as_row(&launch, state.clone()));
        // Whatever the row says: so the daemon knows that it has been found.
        assert!(matches!(world.report(&launch), Report::Started { .. }));
        fs::write(world.file(&launch, "io/go"), "").unwrap();
        assert!(matches!(world.report(&launch), Report::Exited { success: true, .. }));
        assert_eq!(world.text(&launch, "stdout.log"), "went\n");
    }
}

#[test]
fn an_adopted_run_can_be_stopped() {
    let mut world = World::new();
    let (launch, pid) = running(&mut world);
    world.drop_supervisor();
    world.start();
    world.find(&as_row(&launch, State::Running));
    world.stop(&launch);
    assert!(matches!(world.report(&launch), Report::Started { .. }));
    assert!(matches!(world.report(&launch), Report::Exited { exit, .. } if exit.signal == Some(15)));
    assert!(!is_alive(pid));
}

#[test]
fn b9_a_run_that_ended_meanwhile_is_imported() {
    let mut world = World::new();
    let (launch, _) = running(&mut world);
    world.drop_supervisor();
    fs::write(world.file(&launch, "io/go"), "").unwrap();
    while world.folder(&launch).is_locked().unwrap() {
        std::thread::yield_now();
    }
    world.start();
    world.find(&as_row(&launch, State::Running));
    assert!(matches!(world.report(&launch), Report::Exited { success: true, .. }));
    // Found once more, as after a commit that did not happen: the same again.
    world.collect(&launch);
    world.find(&as_row(&launch, State::Running));
    assert!(matches!(world.report(&launch), Report::Exited { success: true, .. }));
}

#[test]
fn a4_a_run_of_which_nothing_began_is_begun() {
    let mut world = World::new();
    let states: [&dyn Fn(&std::path::Path); 4] = [
        &|_| {},
        &|folder| fs::create_dir(folder).unwrap(),
        &|folder| {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("run.json.new"), "{").unwrap();
        },
        &|folder| {
            fs::create_dir(folder).unwrap();
            fs::create_dir(folder.join("aside.1")).unwrap();
            fs::write(folder.join("lock"), "").unwrap();
        },
    ];
    for (n, state) in states.iter().enumerate() {
        let launch = world.plan(&format!("job{n}"), "echo ran", |_, _| {});
        state(&world.file(&launch, ""));
        world.find(&launch);
        assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
        world.collect(&launch);
        assert_eq!(world.names(&launch), ["exit.json", "io", "run.json", "stderr.log", "stdout.log", "times"]);
    }
}

#[test]
fn b8_a_folder_of_another_journal_is_never_touched() {
    let mut world = World::new();
    let (launch, _) = world.run("echo theirs");
    let mut ours = world.plan("job", "echo ours", |_, _| {});
    ours.token.journal.0 = "another".to_owned();
    world.launch(&ours);
    assert_eq!(world.end(&ours), Report::FolderTaken);
    world.find(&ours);
    assert_eq!(world.end(&ours), Report::FolderTaken);
    world.find(&as_row(&ours, State::Running));
    assert_lost(world.end(&ours), "another run or another journal");
    assert_eq!(world.text(&launch, "stdout.log"), "theirs\n");
}

#[test]
fn b4_a_killed_shim_means_lost_and_nothing_left() {
    let mut world = World::new();
    let launch = world.plan(
        "job",
        "cd \"$BATCHD_RUN_DIR/io\"; trap '' TERM; setsid sleep 600 & echo $! > other
            sleep 600 & echo $! > third; echo $$ > pid; wait",
        |_, _| {},
    );
    world.launch(&launch);
    let files = ["io/pid", "io/other", "io/third"];
    let pids = files.map(|name| world.wait_for(&world.file(&launch, name)).trim().parse::<i32>().unwrap());
    assert!(matches!(world.report(&launch), Report::Started { .. }));
    kill(world.shim(&launch));
    assert_lost(world.report(&launch), "shim was killed");
    pids.iter().for_each(|pid| assert!(!is_alive(*pid), "{pid} is left"));
    world.collect(&launch);
    assert!(world.names(&launch).contains(&"claim".to_owned()), "nothing may begin here again");
}

#[test]
fn b6_a_shim_killed_while_no_daemon_looked_means_lost() {
    let mut world = World::new();
    let (launch, pid) = running(&mut world);
    world.drop_supervisor();
    kill(world.shim(&launch));
    world.start();
    world.find(&as_row(&launch, State::Starting));
    assert_lost(world.end(&launch), "shim was killed");
    assert!(!is_alive(pid));
}

#[test]
fn b18_another_boot_means_lost_unless_the_end_is_whole() {
    let mut world = World::new();
    let (launch, _) = world.run("echo out");
    let mut found = as_row(&launch, State::Running);
    found.run.boot = Some("another".to_owned());
    world.find(&found);
    assert!(matches!(world.end(&launch), Report::Exited { .. }));
    fs::write(world.file(&launch, "stdout.log"), "ou").unwrap();
    world.find(&found);
    assert_lost(world.end(&launch), "the host went down");
    assert_ne!(boot(), "another");
}

#[test]
fn a19_a_folder_removed_under_a_run_means_lost_when_the_script_has_ended() {
    let mut world = World::new();
    let home = world.home.path().to_owned();
    let script = format!("cd {}; echo $$ > pid; until [[ -e go ]]; do sleep 0.01; done; echo > went", home.display());
    let launch = world.plan("job", &script, |_, _| {});
    world.launch(&launch);
    let pid: i32 = world.wait_for(&home.join("pid")).trim().parse().unwrap();
    fs::remove_dir_all(world.file(&launch, "")).unwrap();
    fs::write(home.join("go"), "").unwrap();
    assert_lost(world.end(&launch), "folder was removed");
    assert!(!is_alive(pid) && home.join("went").exists());
}

#[test]
fn b8_damaged_files_are_kept_and_the_run_is_lost() {
    for name in ["exit.json", "started.json"] {
        let mut world = World::new();
        let (launch, _) = world.run("echo out");
        // As after a kill between the records, with one of them broken.
        let folder = world.folder(&launch);
        assert!(folder.read::<Started>(&launch.token).unwrap().is_some());
        if name != "exit.json" {
            fs::remove_file(world.file(&launch, "exit.json")).unwrap();
        }
        fs::write(world.file(&launch, name), "{\"version\":1,").unwrap();
        world.find(&as_row(&launch, State::Running));
        assert_lost(world.end(&launch), name);
        assert!(fs::exists(world.file(&launch, "aside.1").join(name)).unwrap());
    }
}

/// Rewrites the version of a record, as another batchd would have written it.
fn of_version(world: &World, launch: &Launch, name: &str, version: u32) {
    let path = world.file(launch, name);
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["version"] = version.into();
    fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
}

/// K3: after a step back to an older batchd, which can't read what the newer one's shims write.
#[test]
fn k3_a_living_run_of_a_newer_batchd_is_left_alone_and_waited_for() {
    let mut world = World::new();
    let (launch, _) = running(&mut world);
    world.drop_supervisor();
    for name in ["run.json", "claim", "started.json"] {
        of_version(&world, &launch, name, VERSION + 1);
    }
    world.start();
    for state in [State::Starting, State::Running] {
        world.find(&as_row(&launch, state));
        // Waits, whatever it is asked for: nothing that this batchd does reaches it.
        let report = world.tick();
        assert!(report.is_none(), "{report:?}");
    }
    fs::write(world.file(&launch, "io/go"), "").unwrap();
    // Its end is in a version that can be read.
    assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
    assert_eq!(world.text(&launch, "stdout.log"), "went\n");
}

#[test]
fn k3_the_end_of_a_run_by_a_batchd_of_another_version() {
    for (version, known) in [(VERSION_READ_MIN, true), (VERSION, true), (VERSION + 1, false), (u32::MAX, false)] {
        let mut world = World::new();
        let (launch, _) = world.run("echo out");
        for name in ["run.json", "exit.json"] {
            of_version(&world, &launch, name, version);
        }
        world.find(&as_row(&launch, State::Running));
        match world.end(&launch) {
            Report::Exited { success: true, .. } => assert!(known, "{version}"),
            Report::Lost { reason, .. } => {
                assert!(
                    !known && reason.contains("another batchd") && reason.contains(&version.to_string()),
                    "{reason}"
                );
                assert!(fs::exists(world.file(&launch, "aside.1/exit.json")).unwrap(), "the evidence is kept");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn h8_a_stop_before_the_claim_leaves_nothing_to_run() {
    let mut world = World::new();
    let launch = world.plan("job", "echo ran", |_, _| {});
    // Found in a state in which an earlier daemon's shim may still be on its way.
    fs::create_dir(world.file(&launch, "")).unwrap();
    let held = world.folder(&launch).lock().unwrap();
    world.find(&launch);
    world.stop(&launch);
    assert!(matches!(world.end(&launch), Report::StoppedBeforeStart { .. }));
    drop(held);
    world.collect(&launch);
    // The next daemon finds the same, and no order can run it.
    world.find(&launch);
    assert!(matches!(world.end(&launch), Report::StoppedBeforeStart { .. }));
    assert!(world.folder(&launch).read::<ExitRecord>(&launch.token).unwrap().is_none());
    assert!(!world.names(&launch).contains(&"run.json".to_owned()));
}

#[test]
fn h8_a_stop_in_the_journal_is_honoured_by_the_next_daemon() {
    let mut world = World::new();
    let asked = |launch: &Launch| {
        let mut launch = launch.clone();
        launch.run.stop =
            Some(StopRequest { by: "uid 0".to_owned(), reason: "test".to_owned(), at: launch.run.due_at });
        launch
    };
    let launch = asked(&world.plan("unbegun", "echo ran", |_, _| {}));
    world.find(&launch);
    assert!(matches!(world.end(&launch), Report::StoppedBeforeStart { .. }));
    let (launch, pid) = running(&mut world);
    world.drop_supervisor();
    world.start();
    world.find(&asked(&as_row(&launch, State::Running)));
    assert!(matches!(world.end(&launch), Report::Exited { cause: ExitCause::Stop, .. }));
    assert!(!is_alive(pid));
}

#[test]
fn b2_a_launcher_that_is_killed_is_replaced_and_its_runs_go_on() {
    let mut world = World::new();
    let (launch, _) = running(&mut world);
    kill(world.launcher());
    let others: Vec<Launch> = (0..20).map(|n| world.plan(&format!("other{n}"), "echo ran", |_, _| {})).collect();
    others.iter().for_each(|other| world.launch(other));
    let mut ended = 0;
    while ended < others.len() {
        match world.any() {
            (_, Report::Exited { success: true, .. }) => ended += 1,
            (_, Report::Started { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    fs::write(world.file(&launch, "io/go"), "").unwrap();
    assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
}

/// Its own program: the daemon can't start a launcher, says so, and goes on when there is one.
#[test]
fn k4_a_program_that_is_missing_or_no_program_is_waited_for() {
    let mut world = World::new();
    let program = world.path("batchd");
    let real = fs::read_link(&program).unwrap();
    fs::remove_file(&program).unwrap();
    let launch = world.plan("job", "echo ran", |_, _| {});
    world.launch(&launch);
    let wait = |world: &mut World, why: &str| match world.report(&launch) {
        Report::Waiting { reason } => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    };
    wait(&mut world, "No such file");
    fs::write(&program, "not yet").unwrap();
    wait(&mut world, "Permission denied");
    fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink(real, &program).unwrap();
    assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
    assert_eq!(world.text(&launch, "stdout.log"), "ran\n");
}

#[test]
fn a6_a_shim_that_is_killed_before_it_has_an_order_costs_no_run() {
    let mut world = World::new();
    let (first, _) = running(&mut world);
    kill(world.shim_ahead(&first));
    let second = world.plan("second", "echo ran", |_, _| {});
    world.launch(&second);
    assert!(matches!(world.end(&second), Report::Exited { success: true, .. }));
    // Without a launcher it will never have one.
    let ahead = world.shim_ahead(&first);
    world.drop_supervisor();
    while is_alive(ahead) {
        std::thread::yield_now();
    }
    // The first one goes on, and is let go before its folder is.
    fs::write(world.file(&first, "io/go"), "").unwrap();
    while world.folder(&first).is_locked().unwrap() {
        std::thread::yield_now();
    }
}

#[test]
fn e2_a_place_without_room_is_waited_for() {
    let mut world = World::new();
    let runs = world.path("runs");
    fs::rename(&runs, world.path("elsewhere")).unwrap();
    // A folder that is only missing would be made again.
    fs::write(&runs, "in the way").unwrap();
    let launch = world.plan("job", "echo ran", |_, _| {});
    world.launch(&launch);
    let Report::Waiting { reason } = world.report(&launch) else { panic!() };
    assert!(reason.contains("/runs is a file, not a folder; move it away"), "{reason}");
    fs::remove_file(&runs).unwrap();
    fs::rename(world.path("elsewhere"), &runs).unwrap();
    assert!(matches!(world.end(&launch), Report::Exited { .. }));
    assert!(RunDir::open(&world.file(&launch, "")).is_ok());
}

/// Nobody knows any more what it runs: it can't be begun, and its row says so.
#[test]
fn a_run_without_a_definition_that_was_never_begun() {
    let mut world = World::new();
    let launch = world.plan("job", "echo never\n", |_, launch| launch.definition = None);
    world.find(&launch);
    match world.end(&launch) {
        Report::CouldNotRun { reason, .. } => assert!(reason.contains("definition"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
