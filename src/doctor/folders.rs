//! What has to hold between the row of a run and its folder.

use super::chains::took_next_number;
use super::{Row, Violation};
use crate::model::run::{Exit, Outcome, Run};
use crate::rundir::records::{Claim, Damage, Ending, ExitRecord, Record, RunRecord, Started};

/// A run folder as it was read.
pub struct Folder {
    /// All names in it.
    pub names: Vec<String>,
    /// Those of `aside.*` with a `started.json` in them.
    pub started_aside: Vec<String>,
    /// The records, if they are there and can be believed.
    pub run: Result<Option<RunRecord>, Damage>,
    /// See above.
    pub claim: Result<Option<Claim>, Damage>,
    /// See above.
    pub started: Result<Option<Started>, Damage>,
    /// See above.
    pub exit: Result<Option<ExitRecord>, Damage>,
    /// The lengths of stdout.log and stderr.log.
    pub lengths: [Option<u64>; 2],
}

/// The bit of a wait status that says that a core was dumped.
const CORE_DUMPED: i32 = 0x80;

/// What stays in the folder of a run that is over.
const STAYS: [&str; 6] = ["run.json", "exit.json", "stdout.log", "stderr.log", "times", "io"];
/// What stays as evidence where nobody knows how it ended.
const EVIDENCE: [&str; 2] = ["claim", "started.json"];

const DAMAGED: &str = "the host may have gone down soon after the run ended; the journal is right";
const TIDY: &str = "start the daemon, which tidies the folders of the newest runs; for an older run, remove the file";

/// Checks a run whose folder is there. With `moving`, a daemon may be at work on it.
pub fn check(row: &Row, folder: &Folder, moving: bool) -> Vec<Violation> {
    let run = &row.run;
    if took_next_number(run) {
        return Vec::new();
    }
    let mut all: Vec<Violation> = Vec::new();
    let records = [state_of(&folder.run), state_of(&folder.claim), state_of(&folder.started), state_of(&folder.exit)];
    for (name, file, what) in records.into_iter().flatten() {
        all.push(violation(run, name, file, what, DAMAGED));
    }
    if let Ok(Some(record)) = &folder.run {
        all.extend(run_record(run, record));
    }
    if run.end().is_some() {
        all.extend(exit_record(run, folder));
        all.extend(log_size(run, folder));
        if !moving {
            all.extend(left_behind(run, folder));
        }
    }
    if let Some(aside) = folder.started_aside.first().filter(|_| run.outcome() != Some(Outcome::Lost)) {
        let what = "the script was started twice".to_owned();
        all.push(violation(run, "started-twice", aside, what, super::RESTORE));
    }
    all
}

/// Whether a run without a folder had one. That is no violation: who wants room removes folders of what has ended, and the
/// journal can't tell that from a disk that lost them.
pub fn is_gone(run: &Run) -> bool {
    run.end().is_some_and(|end| end.exit.is_some())
}

/// Checks that a folder may be there at all: `row` is that of its name, if there is one.
pub fn known(name: &str, row: Option<&Row>) -> Option<Violation> {
    let hint = "move it away: batchd never starts a run in a foreign folder";
    let what = match row {
        None => format!("runs/{name} belongs to no run"),
        Some(row) if row.started_in.is_none() && row.run.starting_at.is_none() => {
            format!("{name} was never started, but has a folder")
        }
        Some(_) => return None,
    };
    let violation = Violation::new("folder-unknown", what, hint).file(format!("runs/{name}"));
    Some(row.map_or(violation.clone(), |row| violation.of(&row.run.id)))
}

fn violation(run: &Run, name: &'static str, file: &str, what: String, hint: &str) -> Violation {
    Violation::new(name, format!("{}: {what}", run.id), hint).of(&run.id).file(format!("runs/{}/{file}", run.id))
}

/// What is wrong with a record by itself: the invariant, the file, and what.
fn state_of<R: Record>(record: &Result<Option<R>, Damage>) -> Option<(&'static str, &'static str, String)> {
    match record {
        Ok(_) => None,
        Err(damage @ Damage::Token { .. }) => Some(("token", R::FILE, damage.to_string())),
        Err(damage) => {
            let name = if R::FILE == ExitRecord::FILE { "exit-record" } else { "run-record" };
            Some((name, R::FILE, damage.to_string()))
        }
    }
}

fn run_record(run: &Run, record: &RunRecord) -> Option<Violation> {
    let upstreams: Vec<_> = record.upstreams.iter().map(|upstream| upstream.run.clone()).collect();
    let differs = [
        ("definition", Some(record.definition) != run.definition),
        ("chain", record.chain != run.chain),
        ("trigger", record.trigger != run.trigger),
        ("attempt", record.attempt != run.attempt),
        ("due_at", record.due_at != run.due_at),
        ("upstreams", upstreams != run.upstreams),
    ];
    let (key, _) = differs.into_iter().find(|(_, differs)| *differs)?;
    Some(violation(
        run,
        "run-record",
        RunRecord::FILE,
        format!("run.json and the journal have different values of {key}"),
        super::RESTORE,
    ))
}

fn exit_record(run: &Run, folder: &Folder) -> Option<Violation> {
    let end = run.end()?;
    let wrong = |what: String| Some(violation(run, "exit-record", ExitRecord::FILE, what, DAMAGED));
    let record = match (&folder.exit, &end.exit) {
        (Ok(Some(record)), _) => record,
        (Ok(None), Some(_)) => {
            return wrong("the journal has the end of its script, but exit.json is missing".to_owned());
        }
        (Ok(None), None) | (Err(_), _) => return None,
    };
    // After a power cut, a record whose logs did not survive is not believed.
    if end.outcome == Outcome::Lost {
        return None;
    }
    let Ending::Exited { wait_status, exit, .. } = &record.end else {
        return end.exit.as_ref().and_then(|_| {
            wrong("exit.json records that no script ran, but the journal records that one did".to_owned())
        });
    };
    let Some(of_row) = &end.exit else {
        return wrong("exit.json has the end of its script, but the journal does not".to_owned());
    };
    let key = differs(of_row, exit)
        .or((record.ended_at != end.at).then_some("ended_at"))
        .or((record.started_at.is_some() && record.started_at != run.started_at).then_some("started_at"))
        .or((status_of(exit) != Some(*wait_status & !CORE_DUMPED)).then_some("wait_status"))?;
    wrong(format!("exit.json and the journal have different values of {key}"))
}

/// The first thing in which two measurements differ.
fn differs(row: &Exit, record: &Exit) -> Option<&'static str> {
    let all = [
        ("exit_code", row.exit_code == record.exit_code),
        ("signal", row.signal == record.signal),
        ("stdout_bytes", row.stdout_bytes == record.stdout_bytes),
        ("stdout_dropped_bytes", row.stdout_dropped_bytes == record.stdout_dropped_bytes),
        ("stderr_bytes", row.stderr_bytes == record.stderr_bytes),
        ("stderr_dropped_bytes", row.stderr_dropped_bytes == record.stderr_dropped_bytes),
        ("measurement", row == record),
    ];
    all.into_iter().find(|(_, same)| !same).map(|(key, _)| key)
}

/// The status that wait(2) gives for this end, without the bit for a core that was dumped.
fn status_of(exit: &Exit) -> Option<i32> {
    match (exit.exit_code, exit.signal) {
        (Some(code), None) => Some(i32::from(code) << 8),
        (None, Some(signal)) => Some(signal),
        _ => None,
    }
}

fn log_size(run: &Run, folder: &Folder) -> Vec<Violation> {
    let Some(exit) = run.end().and_then(|end| end.exit.as_ref()) else { return Vec::new() };
    let recorded = [("stdout.log", exit.stdout_bytes), ("stderr.log", exit.stderr_bytes)];
    let wrong = recorded.into_iter().zip(folder.lengths).filter(|((_, recorded), length)| *length != Some(*recorded));
    let violation = |((file, recorded), length): ((&str, u64), Option<u64>)| {
        let (found, hint) = match length {
            None => ("there is none".to_owned(), DAMAGED.to_owned()),
            Some(length) if length > recorded => {
                let hint =
                    format!("something was added after the run had ended: its script wrote the first {recorded} bytes");
                (format!("it has {length}"), hint)
            }
            Some(length) => (format!("it has {length}"), DAMAGED.to_owned()),
        };
        violation(run, "log-size", file, format!("{file} was written with {recorded} bytes, and {found}"), &hint)
    };
    wrong.map(violation).collect()
}

fn left_behind(run: &Run, folder: &Folder) -> Vec<Violation> {
    let ended = folder.names.iter().any(|name| name == ExitRecord::FILE);
    let stays = |name: &str| {
        STAYS.contains(&name) || (!ended && (EVIDENCE.contains(&name) || name.starts_with(crate::rundir::ASIDE)))
    };
    let living = |name: &str| {
        name == "lock"
            || name == "trouble"
            || EVIDENCE.contains(&name)
            || name.starts_with("claim.")
            || name.ends_with(".new")
            || name.starts_with(crate::rundir::ASIDE)
    };
    let wrong = folder.names.iter().filter(|name| !stays(name)).map(|name| match living(name) {
        true => violation(run, "leftover", name, format!("the run has ended, but still has {name}"), TIDY),
        false => violation(run, "stray-file", name, format!("{name} does not belong to batchd"), "move it elsewhere"),
    });
    wrong.collect()
}
