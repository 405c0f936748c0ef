//! A world with a past: each second a run, a chain, a join, a failure with its branch, a retry, a join across chains, and a
//! batch that is skipped.

use std::path::PathBuf;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::world::World;

/// Never, as far as a test is concerned.
pub(crate) const NEVER: &str = "cron = '0 0 29 2 *'\n";

/// A world at rest, without a daemon, in which all of this has happened.
pub(crate) fn world() -> World {
    let mut world = World::new();
    world.batch("tick", "cron = '* * * * * *'\noverlap = 'queue'\n", "echo $BATCHD_RUN\n");
    world.batch("left", "after = 'tick'\nuse_previous_output = true\n", "cat\necho complaint >&2\n");
    world.batch("right", "after = 'tick'\n", "true\n");
    world.batch("join", "after = ['left', 'right']\n", "true\n");
    world.batch("bad", "on_error = 'mend'\nretries = 1\nretry_delay = '10ms'\n", "exit 3\n");
    world.batch("mend", "", "true\n");
    world.batch("off", "cron = '* * * * * *'\nenabled = false\n", "true\n");
    world.batch("one", "", "true\n");
    world.batch("two", "", "true\n");
    world.batch("both", "after = ['one', 'two']\n", "true\n");
    world.start();
    for upstream in ["one", "two"] {
        world.batchd(&["start", upstream, "--downstream"]).expect(0);
    }
    let failed = world.batchd(&["start", "bad"]).expect(0);
    world.end(failed.line());
    // Three occurrences: enough to take one out of the middle.
    let third = world.daemon().run_line(0, "tick", "succeeded");
    for _ in 0..2 {
        let mark = world.daemon().mark();
        world.daemon().run_line(mark, "tick", "succeeded");
    }
    assert!(third.starts_with("tick."));
    world.batch("tick", NEVER, "echo $BATCHD_RUN\n");
    world.batchd(&["reload"]).expect(0);
    world.rest();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    world
}

/// The violations that doctor finds: each its invariant and the run that it is about.
#[track_caller]
pub(crate) fn found(world: &World) -> Vec<(String, Option<String>)> {
    let output = world.batchd(&["doctor", "--json"]);
    let report: Value = output.json();
    let violations = report["violations"].as_array().unwrap();
    assert_eq!(output.code, i32::from(!violations.is_empty()), "{output:#?}");
    assert_eq!(report["holds"], violations.is_empty());
    for violation in violations {
        let named = |key: &str| !violation[key].as_array().unwrap().is_empty();
        assert!(named("rows") || named("files"), "it names nothing: {violation}");
        assert!(!violation["hint"].as_str().unwrap().is_empty(), "{violation}");
    }
    let name = |violation: &Value| {
        let run = violation["run"].as_str().map(str::to_owned);
        (violation["invariant"].as_str().unwrap().to_owned(), run)
    };
    violations.iter().map(name).collect()
}

/// Changes the journal by hand, around its guards, and puts them back.
pub(crate) fn by_hand(world: &World, sql: &str) {
    let path: PathBuf = world.path("state/journal.db");
    let connection = Connection::open(path).unwrap();
    let guards = "SELECT sql || ';' FROM sqlite_schema WHERE type = 'trigger'";
    let guards: Vec<String> =
        connection.prepare(guards).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let drop = "DROP TRIGGER run_ended_stays; DROP TRIGGER run_born_stays; DROP TRIGGER run_row_stays;";
    connection.execute_batch(drop).unwrap();
    connection.execute_batch(sql).unwrap();
    connection.execute_batch(&guards.concat()).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}
