//! What runs while everything happens: groups of four batches, each a chain or a few.

use anyhow::Result;

use crate::world::World;

/// Each of four batches: "hundreds" in all, and not more runs than two cores can do beside the faults.
const GROUPS: u64 = 60;
/// A source is due each so many seconds, and up to twice as many.
const PERIOD_SECONDS_MIN: u64 = 12;
/// The exit code of a script that fails because it is meant to.
pub(crate) const MEANT_TO_FAIL: i64 = 7;
/// How many lines each script prints.
const LINES: u32 = 40;

/// A batch as it is meant to be, whatever has been done to its folder.
pub(crate) struct Batch {
    pub(crate) name: String,
    pub(crate) toml: String,
    pub(crate) script: String,
}

impl Batch {
    /// A source begins chains by itself.
    pub(crate) fn is_source(&self) -> bool {
        self.toml.contains("cron = ")
    }
}

/// What a run prints at the end of its stdout.
pub(crate) fn own_lines(run: &str) -> String {
    (1..=LINES).map(|line| format!("{line} {run}\n")).collect()
}

/// Writes settings and batches, and says what was written.
pub(crate) fn write(world: &World) -> Result<Vec<Batch>> {
    world.write_settings("max_running = 20\n[pools]\nnarrow = 2\n")?;
    let batches: Vec<Batch> = (0..GROUPS).flat_map(group).collect();
    for batch in &batches {
        world.write_batch(batch)?;
    }
    Ok(batches)
}

/// The batches of one group.
fn group(index: u64) -> Vec<Batch> {
    let name = |letter: &str| format!("g{index:02}-{letter}");
    let batch = |letter: &str, toml: String, body: &str| Batch { name: name(letter), toml, script: script(body) };
    let period = PERIOD_SECONDS_MIN + index % PERIOD_SECONDS_MIN;
    let source = |more: &str| format!("cron = '*/{period} * * * * *'\n{more}\n");
    let after = |letters: &[&str], more: &str| {
        let names: Vec<String> = letters.iter().map(|letter| name(letter)).collect();
        format!("after = {names:?}\n{more}\n")
    };
    let input = "use_previous_output = true";
    let fails = format!("((BATCHD_RUN_NUMBER % 3)) || exit {MEANT_TO_FAIL}");
    match index % 6 {
        // A line whose end may fail, and somebody who is told.
        0 => vec![
            batch("a", source("catch_up = 'last'"), ""),
            batch("b", after(&["a"], input), ""),
            batch("c", after(&["b"], &format!("{input}\non_error = '{}'", name("d"))), &fails),
            batch("d", String::new(), ""),
        ],
        // A diamond.
        1 => vec![
            batch("a", source("overlap = 'queue'\ncatch_up = 'all'"), ""),
            batch("b", after(&["a"], input), ""),
            batch("c", after(&["a"], ""), "sleep 0.3"),
            batch("d", after(&["b", "c"], input), ""),
        ],
        // Retries before anything follows, and one that follows whatever the outcome.
        2 => vec![
            batch("a", source(""), ""),
            batch(
                "b",
                after(&["a"], "retries = 2\nretry_delay = '1s'"),
                &format!("((BATCHD_ATTEMPT > 1)) || {{ {fails}; }}"),
            ),
            batch(
                "c",
                after(&["b"], "retries = 1\nretry_delay = '1s'\nretry_on_lost = true"),
                &format!("((BATCHD_ATTEMPT == 2)) || exit {MEANT_TO_FAIL}"),
            ),
            batch("d", after(&["c"], "independent = true"), ""),
        ],
        // Long ones that meet themselves, and leave something running.
        3 => {
            let overlap = ["skip", "queue", "allow", "replace"][(index / 6 % 4) as usize];
            let long = format!("setsid sleep 60 &\nsleep $((BATCHD_RUN_NUMBER % {period} + 1))");
            vec![
                batch("a", source(&format!("overlap = '{overlap}'\ntimeout = '10s'\nstop_grace = '1s'")), &long),
                batch("b", after(&["a"], "independent = true"), ""),
                batch("c", after(&["a"], ""), "sleep 1"),
                batch("d", after(&["b", "c"], ""), ""),
            ]
        }
        // A join of two schedules.
        4 => vec![
            batch("a", source("jitter = '3s'"), ""),
            batch("b", format!("cron = '*/{} * * * * *'\n", period + 3), &fails),
            batch("c", after(&["a", "b"], "independent = true"), ""),
            batch("d", after(&["c"], input), ""),
        ],
        // Who waits for a slot.
        _ => vec![
            batch("a", source("pool = 'narrow'\npriority = 5\noverlap = 'queue'"), "sleep 0.2"),
            batch("b", after(&["a"], "pool = 'narrow'"), "sleep 0.1"),
            batch("c", after(&["a"], "pool = 'narrow'\npriority = -1"), "trap '' TERM; sleep 0.1"),
            batch("d", after(&["b", "c"], "pool = 'narrow'"), ""),
        ],
    }
}

/// Every script tells the witness that it begins and that it comes to its end; in between it passes on its input, does what
/// it is there for, and prints lines that can be counted.
fn script(body: &str) -> String {
    format!(
        r#"echo "start $BATCHD_RUN $BATCHD_TRIGGER $BATCHD_ATTEMPT $BATCHD_DUE_AT" >> "$W/witness"
BATCHD_RUN_NUMBER=${{BATCHD_RUN##*.}}
cat
finish() {{
    status=$?
    for ((line = 1; line <= {LINES}; line++)); do echo "$line $BATCHD_RUN"; done
    echo "end $BATCHD_RUN" >> "$W/witness"
    exit $status
}}
trap finish EXIT
{body}
"#
    )
}
