//! How scripts begin and end: what they are given, statuses, and what can't be run.

use std::fs;
use std::os::unix::fs::MetadataExt;

use batchd::model::launch::{ExitCause, Report};
use batchd::rundir::records::{Ending, ExitRecord};

use crate::root::is_root;
use crate::world::World;

#[test]
fn a_script_runs_and_its_folder_is_tidy_afterwards() {
    let mut world = World::new();
    let launch = world.plan("job", "echo out; echo err >&2; exit 3", |_, _| {});
    world.launch(&launch);
    let Report::Exited { started_at, ended_at, exit, success, cause } = world.end(&launch) else { panic!() };
    assert!(started_at <= ended_at && !success && cause == ExitCause::Itself);
    assert_eq!((exit.exit_code, exit.signal), (Some(3), None));
    assert_eq!((exit.stdout_bytes, exit.stderr_bytes, exit.left_running), (4, 4, 0));
    assert!(exit.memory_bytes_max > 100_000);
    world.collect(&launch);
    assert_eq!(world.names(&launch), ["exit.json", "io", "run.json", "stderr.log", "stdout.log", "times"]);
    assert_eq!(
        (world.text(&launch, "stdout.log"), world.text(&launch, "stderr.log")),
        ("out\n".into(), "err\n".into())
    );
    let record: ExitRecord = world.folder(&launch).read(&launch.token).unwrap().unwrap();
    assert!(matches!(record.end, Ending::Exited { wait_status: 768, .. }));
    let home = world.home.path().to_string_lossy().into_owned();
    for name in ["run.json", "exit.json"] {
        assert!(!world.text(&launch, name).contains(&home), "{name} holds an absolute path");
    }
}

#[test]
fn b17_every_exit_code_and_signal_is_told_as_it_was() {
    let mut world = World::new();
    let codes = (0..=255u8).map(|code| (format!("exit {code}"), Some(code), None));
    // Without SIGQUIT, which bash ignores.
    let signals = [1, 2, 6, 9, 11, 13, 15, 34, 64];
    let signals = signals.map(|signal| (format!("kill -{signal} $$; exec sleep 60"), None, Some(signal)));
    let plans: Vec<_> = codes
        .chain(signals)
        .enumerate()
        .map(|(n, (script, code, signal))| (world.plan(&format!("job{n}"), &script, |_, _| {}), code, signal))
        .collect();
    plans.iter().for_each(|(launch, ..)| world.launch(launch));
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < plans.len() {
        let (run, report) = world.any();
        if let Report::Exited { exit, success, .. } = report {
            ends.insert(run, (exit.exit_code, exit.signal, success));
        }
    }
    for (launch, code, signal) in plans {
        assert_eq!(ends[&launch.run.id], (code, signal, code == Some(0)));
    }
}

#[test]
fn a_script_gets_a_clean_environment_and_nothing_else() {
    let mut world = World::new();
    let script = "env -0 > \"$BATCHD_RUN_DIR/io/env\"; ls -l /proc/self/fd > \"$BATCHD_RUN_DIR/io/fds\"
        umask; cat; pwd; echo \"$0\" \"$@\"; trap > \"$BATCHD_RUN_DIR/io/traps\"; grep Sig /proc/self/status >&2
        [[ $0 == \"$BASH_SOURCE\" ]] && echo progress > \"$BATCHD_PROGRESS\"";
    let launch = world.plan("job", script, |execution, launch| {
        fs::write(world.path("secrets"), "# no\nSECRET='x y'\nOWN=file\n").unwrap();
        execution.env_file = Some(world.path("secrets").to_string_lossy().into_owned());
        execution.env = [("OWN", "table"), ("LANG", "C"), ("BATCHD_RUN", "forged")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        execution.umask = 0o027;
        execution.args = vec!["a b".to_owned()];
        launch.run.given.args = vec!["c".to_owned()];
        launch.run.given.env = [("GIVEN".to_owned(), "1".to_owned())].into();
    });
    world.launch(&launch);
    assert!(matches!(world.end(&launch), Report::Exited { success: true, .. }));
    let env = world.text(&launch, "io/env");
    let mut names: Vec<&str> = env.split_terminator('\0').map(|pair| pair.split_once('=').unwrap().0).collect();
    names.sort_unstable();
    // The last three are bash's own.
    let expected = "BATCHD_ATTEMPT BATCHD_BATCH BATCHD_CHAIN BATCHD_DUE_AT BATCHD_PROGRESS BATCHD_RUN BATCHD_RUN_DIR \
        BATCHD_TOKEN BATCHD_TRIGGER GIVEN HOME LANG LOGNAME OWN PATH PWD SECRET SHELL SHLVL USER _";
    assert_eq!(names.join(" "), expected);
    for pair in ["OWN=file", "SECRET=x y", "LANG=C", "BATCHD_RUN=job.1", "BATCHD_DUE_AT=2026-11-23T01:00:00+01:00"] {
        assert!(env.split('\0').any(|one| one == pair), "{pair} in {env}");
    }
    let workspace = world.path("state/workspaces/job").to_string_lossy().into_owned();
    let expected = format!("0027\n{workspace}\n{workspace}/script.sh a b c\n");
    assert_eq!(world.text(&launch, "stdout.log"), expected);
    let signals = world.text(&launch, "stderr.log");
    assert!(
        signals.contains("SigBlk:\t0000000000000000") && signals.contains("SigIgn:\t0000000000000000"),
        "{signals}"
    );
    // stdin, stdout (the file), stderr, and the folder that ls reads.
    assert_eq!(world.text(&launch, "io/fds").lines().filter(|line| line.contains(" -> ")).count(), 4);
    assert!(!world.text(&launch, "run.json").contains("x y"));
    assert_eq!(world.text(&launch, "io/progress"), "progress\n");
}

#[test]
fn a14_what_can_not_be_run_says_what_to_do() {
    let mut world = World::new();
    let mut check = |name: &str, tweak: &dyn Fn(&mut batchd::model::definition::Execution), expected: &str| {
        let launch = world.plan(name, "echo ran", |execution, _| tweak(execution));
        world.launch(&launch);
        match world.end(&launch) {
            Report::CouldNotRun { reason, .. } => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{name}: {other:?}"),
        }
        let printed = fs::read(world.file(&launch, "stdout.log")).unwrap_or_default();
        assert!(printed.is_empty());
    };
    check(
        "interpreter",
        &|e| e.interpreter = vec!["no-such".to_owned()],
        "`no-such` not found in PATH=/usr/bin:/bin; install it",
    );
    check("path", &|e| e.interpreter = vec!["/no/such".to_owned()], "`/no/such` not found; install it");
    check("permission", &|e| e.interpreter = vec!["/etc/passwd".to_owned()], "can't execute interpreter `/etc/passwd`");
    check("folder", &|e| e.working_dir = Some("/no/such".to_owned()), "can't enter folder /no/such");
    check("user", &|e| e.user = Some("no-such".to_owned()), "user `no-such` doesn't exist");
    check("env-file", &|e| e.env_file = Some("/no/such".to_owned()), "env_file /no/such: can't read the file");
    check("long", &|e| e.args = vec!["x".repeat(200_000)], "too long for the system");
    check("zero", &|e| e.args = vec!["a\0b".to_owned()], "NUL byte");
    check("empty", &|e| e.interpreter = Vec::new(), "`interpreter` is empty");
}

#[test]
fn a14_a_program_of_another_kind_is_named() {
    let mut world = World::new();
    let program = world.path("text");
    fs::write(&program, "no magic number").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let launch = world.plan("job", "", |e, _| e.interpreter = vec![program.to_string_lossy().into_owned()]);
    world.launch(&launch);
    assert!(
        matches!(world.end(&launch), Report::CouldNotRun { reason, .. } if reason.contains("not a program for this system"))
    );
}

#[test]
fn another_user_has_only_its_own_rights() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let script = "id -u; id -G; echo > \"$BATCHD_PROGRESS\"; echo again > /dev/stdout; touch left; echo $HOME $USER
        cat \"$BATCHD_RUN_DIR/run.json\" > /dev/null && touch \"$BATCHD_RUN_DIR/x\" || echo no; grep NoNewPrivs /proc/self/status";
    let launch = world.plan("job", script, |execution, _| {
        execution.user = Some("nobody".to_owned());
        execution.no_new_privs = true;
    });
    world.launch(&launch);
    assert!(matches!(world.end(&launch), Report::Exited { .. }));
    let printed = world.text(&launch, "stdout.log");
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "65534", "{printed} {}", world.text(&launch, "stderr.log"));
    assert!(!lines[1].split(' ').any(|group| group == "0"));
    assert_eq!(lines[2], "again");
    assert!(lines[3].ends_with(" nobody"));
    assert_eq!(&lines[4..], ["no", "NoNewPrivs:\t1"]);
    assert_eq!(fs::metadata(world.path("state/workspaces/job/left")).unwrap().uid(), 65534);
    assert_eq!(fs::metadata(world.file(&launch, "io/progress")).unwrap().uid(), 65534);
    assert_eq!(fs::metadata(world.file(&launch, "stdout.log")).unwrap().uid(), 0);
}
