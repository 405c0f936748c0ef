//! What runs while things die: a chain with everything that a crash could break in two.

use crate::world::World;

/// Never, as far as a test is concerned.
const NEVER: &str = "cron = '0 0 29 2 *'\noverlap = 'queue'";
/// Each second, and whatever is late runs all the same: so every occurrence has a run.
const EACH_SECOND: &str = "cron = '* * * * * *'\noverlap = 'queue'";

/// The batches of the chain, each after those that it follows. Its last one is a join.
pub(crate) const CHAIN: [(&str, &[&str]); 6] = [
    ("tick", &[]),
    ("one", &["tick"]),
    ("two", &["one"]),
    ("flaky", &["two"]),
    ("side", &["tick"]),
    ("join", &["flaky", "side"]),
];

/// The batch that fails at its first attempt and succeeds at its second.
pub(crate) const FLAKY: &str = "flaky";

/// Every script tells the witness when it begins and when it ends, and passes on what it was given.
const SCRIPT: &str = r#"echo "start $BATCHD_RUN $BATCHD_ATTEMPT" >> "$W/witness"
input=$(cat)
echo "$input $BATCHD_RUN"
echo "complaint of $BATCHD_RUN" >&2
echo "end $BATCHD_RUN $BATCHD_ATTEMPT" >> "$W/witness"
"#;

pub(crate) fn write(world: &World) {
    world.write("witness", "");
    for (batch, after) in CHAIN {
        let (toml, script) = match batch {
            "tick" => (NEVER.to_owned(), SCRIPT.to_owned()),
            FLAKY => {
                (follows(after) + "retries = 1\nretry_delay = '1s'\n", format!("{SCRIPT}((BATCHD_ATTEMPT == 2))\n"))
            }
            _ => (follows(after), SCRIPT.to_owned()),
        };
        world.batch(batch, &toml, &script);
    }
}

fn follows(after: &[&str]) -> String {
    format!("after = {after:?}\nuse_previous_output = true\n")
}

/// Lets the chain begin each second, or not any more. Not in force before a daemon has seen it.
pub(crate) fn tick(world: &World, each_second: bool) {
    world.write("batches.d/tick/batch.toml", if each_second { EACH_SECOND } else { NEVER });
}
