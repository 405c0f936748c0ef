//! Every folder of `examples` in one `batches.d`, with nothing to complain about, and each run to its end by the real binary.

mod world;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use world::World;

/// What is no batch.
const NO_BATCHES: [&str; 4] = ["README.md", "_common", "benchmark", "campaign"];

/// A world with all examples, and with a daemon.
fn examples() -> World {
    let mut world = World::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    world.bash(&format!("cp -r '{}'/* batches.d && rm -r batches.d/benchmark batches.d/campaign", from.display()));
    world.batchd(&["check"]).expect(0);
    world.start();
    world
}

/// Starts a batch, waits for its end, and checks how it ended and what it wrote.
#[track_caller]
fn check(world: &World, arguments: &[&str], outcome: &str, stdout: &str) -> Value {
    let started = world.batchd(&[&["start"], arguments].concat()).expect(0);
    let end = world.end(started.line());
    assert_eq!(end["outcome"], outcome, "{end}");
    let written = world.stdout(end["id"].as_str().unwrap());
    assert!(written.contains(stdout), "{written:?} has no {stdout:?}");
    end
}

/// The latest run of a batch, once all is at rest.
#[track_caller]
fn latest(world: &World, batch: &str) -> Value {
    world.rest();
    world.runs().into_iter().rfind(|run| run["batch"] == batch).unwrap_or_else(|| panic!("no run of {batch}"))
}

#[test]
fn all_of_them_run() {
    let world = examples();
    check(&world, &["heartbeat"], "succeeded", " lives, load ");
    check(&world, &["backup"], "succeeded", ".tar.gz has ");
    check(&world, &["disk-space"], "succeeded", " % used");
    check(&world, &["disk-space", "--env", "PERCENT_MAX=-1"], "succeeded", " % used");
    check(&world, &["packed"], "succeeded", "apple\npear\n");
    check(&world, &["steps"], "succeeded", "step 1\nstep 2\nstep 3\nstep 4\nstep 5\n");
    let run = check(&world, &["with-library"], "succeeded", "done\n");
    let stderr = world.read(world.run_file(run["id"].as_str().unwrap(), "stderr.log"));
    assert_eq!(stderr, "[with-library] the function comes from _common/lib.sh\n");
    world.write("orders.txt", "one\ntwo\n");
    check(&world, &["import", "--input", "orders.txt"], "succeeded", "imported 2 lines\n");
    let run = check(&world, &["import", "--", "--strict"], "failed", "");
    assert_eq!(run["exit_code"], 2);
}

#[test]
fn a_report_joins_two_loads() {
    let world = examples();
    check(&world, &["load-orders", "--downstream"], "succeeded", "1001;ann;12.50\n");
    check(&world, &["load-customers", "--downstream"], "succeeded", "ann;Hamburg\n");
    let totals = latest(&world, "totals");
    assert_eq!(world.stdout(totals["id"].as_str().unwrap()), "3 orders, 22.75 in all\n");
    let report = latest(&world, "daily-report");
    assert_eq!(world.stdout(report["id"].as_str().unwrap()), "Hamburg       15.75\nLeeds          7.00\n");
}

#[test]
fn a_fetch_fails_for_good_and_then_succeeds() {
    let world = examples();
    let run = check(&world, &["fetch"], "failed", "");
    assert_eq!((run["attempt"].as_u64(), run["exit_code"].as_u64()), (Some(3), Some(7)));
    let told = latest(&world, "tell-operator");
    let expected = format!("{} has failed with exit code 7\n", run["id"].as_str().unwrap());
    assert!(world.stdout(told["id"].as_str().unwrap()).starts_with(&expected));
    world.bash(&format!("echo 42 > $({} path --workspace fetch)/answer", env!("CARGO_BIN_EXE_batchd")));
    check(&world, &["fetch"], "succeeded", "42\n");
}

/// Those above are all that there are, and the table in the README names each.
#[test]
fn none_is_forgotten() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    let tested = fs::read_to_string(root.join("tests/examples.rs")).unwrap();
    let readme = fs::read_to_string(root.join("examples/README.md")).unwrap();
    for name in names.iter().filter(|name| !NO_BATCHES.contains(&name.as_str())) {
        assert!(tested.contains(&format!("\"{name}\"")), "{name} is not tested");
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in examples/README.md");
    }
}
