//! What batchd does while something else has the machine or the journal: a stop among spinning processes, commits beside a
//! backup.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use rusqlite::Connection;

use crate::Line;
use crate::figures::{fill_history, milliseconds};
use crate::measure::{median, quantile};
use crate::world::World;

/// Processes that do nothing but use the processor, beside a stop.
const SPINNING: usize = 200;
/// Stops that are measured.
const STOPS: usize = 11;
/// The grace of what is stopped, which ignores the request to end: the stop takes at least so long.
const GRACE_S: f64 = 1.0;
/// Acts that are timed, beside a backup and before it.
const ACTS: usize = 200;

/// Ended when it is dropped.
struct Spinning(Vec<Child>);

impl Drop for Spinning {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended needs neither.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// From the request to the row that says that nothing is left, beyond `stop_grace`, with 200 spinning processes beside it.
pub(crate) fn stop() -> Result<Vec<Line>> {
    let world = World::new()?;
    let stubborn = "trap '' TERM\n(trap '' TERM; setsid sleep 600) &\necho up >> \"$BATCHD_STATE/../up\"\nwhile :; do sleep 600; done\n";
    world.batch("stubborn", &format!("stop_grace = '{GRACE_S}s'\n"), stubborn)?;
    let daemon = world.settled_daemon()?;
    let spin = |_| Ok(Command::new("bash").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn()?);
    let spinning = Spinning((0..SPINNING).map(spin).collect::<Result<_>>()?);
    let mut all = Vec::new();
    for number in 1..=STOPS {
        world.batchd(&["start", "stubborn"])?;
        world.wait_for_lines("up", number)?;
        let begin = Instant::now();
        world.batchd(&["stop", &format!("stubborn.{number}")])?;
        world.wait_for_ends(number)?;
        all.push(begin.elapsed().as_secs_f64() - GRACE_S);
    }
    drop(spinning);
    daemon.end()?;
    let most = quantile(&all, 1.0);
    ensure!(quantile(&all, 0.0) >= 0.0, "a stop came before its grace was over");
    Ok(vec![Line {
        what: format!(
            "a stop beyond `stop_grace`, {SPINNING} processes spinning beside it, median and most of {STOPS}"
        ),
        batchd: format!("{}, {}", milliseconds(median(&all)), milliseconds(most)),
        raw: String::new(),
        ratio: String::new(),
        target: "≤ 1 s",
        reached: most <= 1.0,
    }])
}

/// How long an act takes, each of which is committed before it is answered, beside a backup of a journal with 1,000,000 runs.
pub(crate) fn backup() -> Result<Vec<Line>> {
    let world = World::new()?;
    world.batch("b0000", "", "true\n")?;
    world.settled_daemon()?.end()?;
    fill_history(&Connection::open(world.journal_path())?)?;
    let daemon = world.daemon()?;
    let alone = acts(&world, || Ok(true))?;
    let begin = Instant::now();
    let mut copy = world.spawn(&["backup", "copy.db"])?;
    let mut took = None;
    let beside = acts(&world, || {
        if took.is_none() && copy.try_wait()?.is_some() {
            took = Some(begin.elapsed().as_secs_f64());
        }
        Ok(took.is_none())
    })?;
    ensure!(copy.wait()?.success(), "there is no backup");
    let took = took.unwrap_or_else(|| begin.elapsed().as_secs_f64());
    daemon.end()?;
    let line = |what: &str, share: f64| {
        let (batchd, raw) = (quantile(&beside, share), quantile(&alone, share));
        Line {
            what: format!("an act that is committed, {what} of {} beside a backup; raw: without one", beside.len()),
            batchd: milliseconds(batchd),
            raw: milliseconds(raw),
            ratio: format!("{:.2}", batchd / raw),
            target: "",
            reached: true,
        }
    };
    let whole = Line {
        what: "a backup of 1,000,000 runs".to_owned(),
        batchd: format!("{took:.1} s"),
        raw: String::new(),
        ratio: String::new(),
        target: "",
        reached: true,
    };
    Ok(vec![whole, line("median", 0.5), line("p99", 0.99), line("most", 1.0)])
}

/// Times acts for as long as this holds, at most [`ACTS`].
fn acts(world: &World, mut goes_on: impl FnMut() -> Result<bool>) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    while all.len() < ACTS && goes_on()? {
        let begin = Instant::now();
        world.batchd(&["disable", "b0000"])?;
        all.push(begin.elapsed().as_secs_f64());
    }
    Ok(all)
}
