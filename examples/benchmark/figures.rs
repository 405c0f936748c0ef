//! The figures: each makes its worlds, measures the raw limit and batchd in turns, and gives lines of the table.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono::DateTime;
use rusqlite::Connection;

use crate::Line;
use crate::measure::{median, now, quantile, sleep_until};
use crate::raw;
use crate::world::{World, instants, wait_until};

/// Repetitions of what takes seconds.
const REPETITIONS: usize = 3;
/// The script of nearly all figures: when its first and its last line are run.
const SCRIPT: &str = "begin=$EPOCHREALTIME\nprintf '%s %s\\n' \"$begin\" \"$EPOCHREALTIME\"\n";
/// A schedule that is not due while this runs.
const NOT_DUE: &str = "cron = \"0 0 29 2 *\"\n";
/// How many trivial batches make the throughput.
const THROUGHPUT_BATCHES: usize = 2000;
/// How many batches are due in one second.
const BURST_BATCHES: usize = 1000;
/// The batches of the chain.
const CHAIN_BATCHES: usize = 100;
/// Starts, one each second, whose lateness is measured.
const STARTS: usize = 60;
/// The bytes that a script prints.
const OUTPUT_BYTES: usize = 256 * 1024 * 1024;
/// The past runs of the journal with a history.
const PAST_RUNS: usize = 1_000_000;

/// Runs per second.
pub(crate) fn throughput() -> Result<Vec<Line>> {
    let (mut rates, mut raw_rates) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let (seconds, raw_seconds) = due_together(THROUGHPUT_BATCHES)?;
        rates.push(THROUGHPUT_BATCHES as f64 / seconds);
        raw_rates.push(THROUGHPUT_BATCHES as f64 / raw_seconds);
    }
    let (rate, raw, ratio) = (median(&rates), median(&raw_rates), ratio_of(&rates, &raw_rates));
    Ok(vec![Line {
        what: format!("runs per second, {THROUGHPUT_BATCHES} trivial batches"),
        batchd: format!("{rate:.0}/s"),
        raw: format!("{raw:.0}/s"),
        ratio: format!("{ratio:.2}"),
        target: "≥ 0.5",
        reached: ratio >= 0.5,
    }])
}

/// Many batches due in one second.
pub(crate) fn burst() -> Result<Vec<Line>> {
    let (mut all, mut raw_all) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let (seconds, raw_seconds) = due_together(BURST_BATCHES)?;
        all.push(seconds);
        raw_all.push(raw_seconds);
    }
    let (seconds, raw, ratio) = (median(&all), median(&raw_all), ratio_of(&all, &raw_all));
    Ok(vec![Line {
        what: format!("{BURST_BATCHES} batches due in one second, all ended, none missed"),
        batchd: format!("{seconds:.2} s"),
        raw: format!("{raw:.2} s"),
        ratio: format!("{ratio:.2}"),
        target: "≤ 2",
        reached: ratio <= 2.0,
    }])
}

/// Seconds from the instant at which `count` batches are due until the journal has the last end; and those of the raw loop.
fn due_together(count: usize) -> Result<(f64, f64)> {
    let world = World::new()?;
    // Time to write the folders, to let them rest and to start the daemon.
    let due = (now() + 8.0 + count as f64 / 250.0).ceil();
    let at = DateTime::from_timestamp(due as i64, 0).unwrap_or_default().format("%-S %-M %-H %-d %-m *");
    let scripts = world.batches(count, &format!("cron = \"{at}\"\ntimezone = \"UTC\"\n"), SCRIPT)?;
    let daemon = world.settled_daemon()?;
    ensure!(
        now() < due,
        "the daemon was not ready when the batches were due: this machine is too slow for this figure"
    );
    let seconds = world.wait_for_ends(count)? - due;
    let otherwise = world.ended_otherwise()?;
    ensure!(otherwise == 0, "{otherwise} of {count} runs did not succeed: look into {}", world.root.display());
    daemon.end()?;
    let raw_seconds = raw::two_at_a_time(&scripts, &world.root.join("raw"))?;
    Ok((seconds, raw_seconds))
}

/// From the last line of one script to the first line of the next.
pub(crate) fn hop() -> Result<Vec<Line>> {
    let (mut medians, mut raw_medians) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let world = World::new()?;
        let name = |index: usize| format!("b{index:04}");
        let toml = |index: usize| match index {
            0 => String::new(),
            _ => format!("after = \"{}\"\n", name(index - 1)),
        };
        let scripts: Vec<PathBuf> =
            (0..CHAIN_BATCHES).map(|index| world.batch(&name(index), &toml(index), SCRIPT)).collect::<Result<_>>()?;
        let daemon = world.settled_daemon()?;
        world.batchd(&["start", &name(0)])?;
        world.wait_for_ends(CHAIN_BATCHES)?;
        let printed = (0..CHAIN_BATCHES).map(|index| world.printed(&format!("{}.1", name(index))));
        medians.push(median(&hops(&printed.collect::<Result<Vec<_>>>()?)));
        daemon.end()?;
        let log = |index: usize| world.root.join(format!("raw.{index}"));
        scripts.iter().enumerate().try_for_each(|(index, script)| raw::run(script, &log(index)))?;
        let printed = (0..CHAIN_BATCHES).map(|index| instants(&log(index)));
        raw_medians.push(median(&hops(&printed.collect::<Result<Vec<_>>>()?)));
    }
    let (hop, raw, ratio) = (median(&medians), median(&raw_medians), ratio_of(&medians, &raw_medians));
    Ok(vec![Line {
        what: format!("chain hop, median of {}", CHAIN_BATCHES - 1),
        batchd: milliseconds(hop),
        raw: milliseconds(raw),
        ratio: format!("{ratio:.2}"),
        target: "≤ 2.5",
        reached: ratio <= 2.5,
    }])
}

/// From the end of each script to the beginning of the next, in seconds.
fn hops(printed: &[Vec<f64>]) -> Vec<f64> {
    printed.windows(2).map(|pair| pair[1][0] - pair[0][1]).collect()
}

/// How late a single script starts: batchd's at each whole second, the raw one at each half between.
pub(crate) fn lateness() -> Result<Vec<Line>> {
    let world = World::new()?;
    let script = world.batch("tick", "cron = \"* * * * * *\"\n", SCRIPT)?;
    let daemon = world.settled_daemon()?;
    let first = now().ceil() + 0.5;
    let mut raw = Vec::with_capacity(STARTS);
    for index in 0..STARTS {
        let due = first + index as f64;
        let log = world.root.join(format!("raw.{index}"));
        sleep_until(due);
        raw::run(&script, &log)?;
        raw.push(instants(&log)?[0] - due);
    }
    let sql = "SELECT number, due_at / 1000.0 FROM run WHERE state = 'ended' ORDER BY number LIMIT ?";
    let journal = world.journal()?;
    let runs = journal
        .prepare(sql)?
        .query_map([STARTS], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<(u64, f64)>>>()?;
    let late = runs.iter().map(|(number, due)| Ok(world.printed(&format!("tick.{number}"))?[0] - due));
    let late = late.collect::<Result<Vec<f64>>>()?;
    daemon.end()?;
    let line = |what, share, target, limit| {
        let (late, raw) = (quantile(&late, share), quantile(&raw, share));
        Line {
            what: format!("lateness of a single start, {what} of {STARTS}"),
            batchd: milliseconds(late),
            raw: milliseconds(raw),
            ratio: format!("+{}", milliseconds(late - raw)),
            target,
            reached: late - raw <= limit,
        }
    };
    Ok(vec![line("median", 0.5, "≤ +3 ms", 0.003), line("p99", 0.99, "", f64::INFINITY)])
}

/// The CPU that a daemon uses when nothing is due.
pub(crate) fn idle() -> Result<Vec<Line>> {
    let world = World::new()?;
    world.batches(5000, NOT_DUE, SCRIPT)?;
    let daemon = world.settled_daemon()?;
    start_one(&world)?;
    // The start itself is no idling.
    thread::sleep(Duration::from_secs(5));
    let before = daemon.cpu_seconds()?;
    thread::sleep(Duration::from_secs(60));
    let used = daemon.cpu_seconds()? - before;
    Ok(vec![Line {
        what: "CPU of the idle daemon with 5000 batches, a minute".to_owned(),
        batchd: format!("{used:.3} s"),
        raw: "0".to_owned(),
        ratio: String::new(),
        target: "< 0.05 s",
        reached: used < 0.05,
    }])
}

/// The memory of daemon and launcher, after a run.
pub(crate) fn memory() -> Result<Vec<Line>> {
    let measure = |(count, target, limit): (usize, &'static str, f64)| {
        let world = World::new()?;
        world.batches(count, NOT_DUE, SCRIPT)?;
        let daemon = world.settled_daemon()?;
        start_one(&world)?;
        let used = daemon.pss_megabytes()?;
        Ok(Line {
            what: format!("memory (PSS) of daemon and launcher with {count} batches"),
            batchd: format!("{used:.1} MB"),
            raw: String::new(),
            ratio: String::new(),
            target,
            reached: used < limit,
        })
    };
    [(1000, "< 15 MB", 15.0), (5000, "< 30 MB", 30.0)].into_iter().map(measure).collect()
}

/// Starts one batch by hand, so that there is a launcher, and waits for its end.
fn start_one(world: &World) -> Result<()> {
    world.batchd(&["start", "b0000"])?;
    world.wait_for_ends(1)?;
    Ok(())
}

/// From an edit to its being in force.
pub(crate) fn edit() -> Result<Vec<Line>> {
    let world = World::new()?;
    world.batches(5000, NOT_DUE, SCRIPT)?;
    let daemon = world.settled_daemon()?;
    let journal = world.journal()?;
    let mut all = Vec::new();
    for index in 0..7 {
        let batch = format!("b{:04}", index * 700);
        let sql = "SELECT json ->> '$.description' IS 'edited' FROM definition WHERE batch = ?";
        let mut edited = journal.prepare(sql)?;
        let begin = Instant::now();
        fs::write(
            world.root.join("batches.d").join(&batch).join("batch.toml"),
            format!("{NOT_DUE}description = \"edited\"\n"),
        )?;
        wait_until("the edit is in force", || Ok(edited.query_row([&batch], |row| row.get(0))?))?;
        all.push(begin.elapsed().as_secs_f64());
    }
    daemon.end()?;
    let (seconds, quiet) = (median(&all), 0.2);
    Ok(vec![Line {
        what: "one edited batch among 5000, from the write to in force".to_owned(),
        batchd: milliseconds(seconds),
        raw: milliseconds(quiet),
        ratio: format!("+{}", milliseconds(seconds - quiet)),
        target: "≤ +100 ms",
        reached: seconds - quiet <= 0.1,
    }])
}

/// From the fork of a daemon to its being ready.
pub(crate) fn start() -> Result<Vec<Line>> {
    let line = |what: &str, seconds: f64| Line {
        what: format!("start of the daemon {what}"),
        batchd: format!("{seconds:.2} s"),
        raw: String::new(),
        ratio: String::new(),
        target: "< 2 s",
        reached: seconds < 2.0,
    };
    let world = World::new()?;
    world.batches(5000, NOT_DUE, SCRIPT)?;
    let daemon = world.settled_daemon()?;
    let first = daemon.start_seconds;
    daemon.end()?;
    let again = median(&starts(&world)?);

    let world = World::new()?;
    world.batches(10, NOT_DUE, SCRIPT)?;
    world.settled_daemon()?.end()?;
    let without = median(&starts(&world)?);
    fill_history(&Connection::open(world.journal_path())?)?;
    let with = median(&starts(&world)?);
    Ok(vec![
        line("with 5000 batches, all of them new", first),
        line("with 5000 batches", again),
        line("with 10 batches", without),
        line("with 10 batches and 1,000,000 past runs", with),
    ])
}

fn starts(world: &World) -> Result<Vec<f64>> {
    let start = |_| {
        let daemon = world.daemon()?;
        let seconds = daemon.start_seconds;
        daemon.end()?;
        Ok(seconds)
    };
    (0..REPETITIONS).map(start).collect()
}

/// Puts runs that ended long ago into a journal.
pub(crate) fn fill_history(journal: &Connection) -> Result<()> {
    let sql = "WITH RECURSIVE past (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < ?1)
        INSERT INTO run (batch, number, chain, trigger, attempt, due_at, queued_at, pass, follow, state, outcome,
            ended_at, exit_code, stdout_bytes, stdout_dropped_bytes, stderr_bytes, stderr_dropped_bytes, cpu_user_ms,
            cpu_system_ms, memory_bytes_max, left_running, joining, starting_at, started_at, queue_position, caught_up,
            priority)
        SELECT printf('b%04d', n % 10), n, printf('b%04d.%d', n % 10, n), 'schedule', 1, n * 1000, n * 1000, 0, 'everything',
            'ended', 'succeeded', n * 1000 + 20, 0, 30, 0, 0, 0, 2, 1, 4000000, 0, 0, n * 1000, n * 1000 + 3, n, 0, 0
        FROM past";
    journal.execute(sql, [PAST_RUNS])?;
    let next = "UPDATE batch SET next_number = ?1 + 1";
    journal.execute(next, [PAST_RUNS])?;
    Ok(())
}

/// How fast what a script prints reaches its log.
pub(crate) fn output() -> Result<Vec<Line>> {
    let megabytes = OUTPUT_BYTES as f64 / 1e6;
    let (mut rates, mut raw_rates) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let world = World::new()?;
        let file = world.root.join("bytes");
        fs::write(&file, vec![b'x'; OUTPUT_BYTES])?;
        world.batch("print", "log_bytes_max = \"1GiB\"\n", &format!("exec cat '{}'\n", file.display()))?;
        let daemon = world.settled_daemon()?;
        world.batchd(&["start", "print"])?;
        world.wait_for_ends(1)?;
        let took = "SELECT (ended_at - started_at) / 1000.0 FROM run";
        let seconds: f64 = world.journal()?.query_row(took, [], |row| row.get(0))?;
        let kept = fs::metadata(world.root.join("runs/print.1/stdout.log"))?.len();
        ensure!(kept == OUTPUT_BYTES as u64, "{kept} bytes were kept, and not {OUTPUT_BYTES}");
        rates.push(megabytes / seconds);
        daemon.end()?;
        raw_rates.push(megabytes / raw::cat_through_a_pipe(&file, &world.root.join("raw"))?);
    }
    let (rate, raw, ratio) = (median(&rates), median(&raw_rates), ratio_of(&rates, &raw_rates));
    Ok(vec![Line {
        what: "script output captured".to_owned(),
        batchd: format!("{rate:.0} MB/s"),
        raw: format!("{raw:.0} MB/s"),
        ratio: format!("{ratio:.2}"),
        target: "≥ 0.7",
        reached: ratio >= 0.7,
    }])
}

/// The median of the ratios within each repetition: a machine's absolute figures change from hour to hour.
fn ratio_of(values: &[f64], raw: &[f64]) -> f64 {
    let ratios: Vec<f64> = values.iter().zip(raw).map(|(value, raw)| value / raw).collect();
    median(&ratios)
}

pub(crate) fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}
