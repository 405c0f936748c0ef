//! `batchd doctor`: checks that journal, run folders and state agree, and rebuilds a journal from run folders.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::args::Json;
use super::exit::Exit;
use super::{Context, facts};
use crate::checkup::{self, Places, Report};
use crate::doctor::Violation;
use crate::model::text::counted;

/// Check that the journal and the files of batchd agree
///
/// Counts all occurrences again, and checks that nothing ran twice or too early, that chains are complete, and that the files are those
/// that were recorded. Changes nothing, and works while the daemon is running; runs that are under way are then not checked. Each violation
/// comes with its runs, rows and files, and a remedy. The exit code is 0 if there is no violation, else 1.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd doctor
  batchd doctor --json
  batchd doctor --rebuild /tmp/journal.db

docs/backup.md has all steps of a rebuild.")]
pub struct DoctorArgs {
    /// Write a new journal to FILE from the run folders, if there is no backup to restore; FILE must not exist
    #[arg(long, value_name = "FILE")]
    rebuild: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Examined<'a> {
    holds: bool,
    daemon: bool,
    rows: u64,
    rows_unproven: u64,
    folders: u64,
    folders_gone: u64,
    periods_proven: u64,
    periods_unproven: u64,
    violations: &'a [Violation],
}

/// Carries it out.
pub(super) fn run(args: &DoctorArgs, context: &mut Context) -> Result<Exit> {
    let journal = context.paths.journal();
    let places = Places { journal: &journal, runs: &context.paths.runs, state: &context.paths.state };
    if let Some(file) = &args.rebuild {
        let rebuilt = checkup::rebuild::rebuild(&places, file, context.now).map_err(facts::explained)?;
        writeln!(context.screen, "{rebuilt}")?;
        return Ok(Exit::Success);
    }
    if !journal.exists() && facts::is_there(&context.paths.state).is_ok() {
        return Err(facts::no_journal(context));
    }
    let state = &context.paths.state;
    if fs::read_dir(state).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        return Err(facts::unreadable(state));
    }
    let report = checkup::examine(&places, &context.zones, context.now).map_err(facts::explained)?;
    let holds = report.violations.is_empty();
    if args.json.json {
        let Report { violations, .. } = &report;
        context.screen.json(&Examined {
            holds,
            daemon: report.daemon,
            rows: report.rows,
            rows_unproven: report.rows_unproven,
            folders: report.folders,
            folders_gone: report.folders_gone,
            periods_proven: report.periods_proven,
            periods_unproven: report.periods_unproven,
            violations,
        })?;
    } else {
        for violation in &report.violations {
            context.screen.text(&show(violation))?;
        }
        context.screen.flush()?;
        writeln!(io::stderr(), "{}", summary(&report))?;
    }
    Ok(if holds { Exit::Success } else { Exit::Failure })
}

fn show(violation: &Violation) -> String {
    let mut text = format!("{}: {}\n", violation.invariant, violation.what);
    for (name, all) in [("rows", &violation.rows), ("files", &violation.files)] {
        if !all.is_empty() {
            text.push_str(&format!("  {name}: {}\n", all.join(", ")));
        }
    }
    text.push_str(&format!("  hint: {}\n\n", violation.hint));
    text
}

fn summary(report: &Report) -> String {
    let Report { violations, daemon, rows, rows_unproven, folders, folders_gone, periods_proven, periods_unproven } =
        report;
    let found = match violations.len() {
        0 => "no violations".to_owned(),
        1 => "1 violation".to_owned(),
        more => format!("{more} violations"),
    };
    let live = if *daemon { "; the daemon is running, so runs under way were not checked" } else { "" };
    let old = match rows_unproven {
        0 => String::new(),
        count => {
            let rows = counted(*count, "row", "rows");
            format!(" ({rows} from before a restore or an upgrade can't be verified)")
        }
    };
    let gone = match folders_gone {
        0 => String::new(),
        1 => " (1 more was removed)".to_owned(),
        count => format!(" ({count} more were removed)"),
    };
    let unproven = match periods_unproven {
        0 => String::new(),
        count => format!(", not in {count}, because time-zone data has changed"),
    };
    let (rows, folders) = (counted(*rows, "row", "rows"), counted(*folders, "run folder", "run folders"));
    let periods = counted(*periods_proven, "period", "periods");
    format!("{found}: {rows}{old}, {folders}{gone}; occurrences checked in {periods}{unproven}{live}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let report = |rows, folders, periods_proven| Report { rows, folders, periods_proven, ..Report::default() };
        let one = "no violations: 1 row, 1 run folder; occurrences checked in 1 period";
        assert_eq!(summary(&report(1, 1, 1)), one);
        let more = "no violations: 2 rows, 0 run folders; occurrences checked in 3 periods";
        assert_eq!(summary(&report(2, 0, 3)), more);
        let restored = Report { rows_unproven: 1, ..report(2, 0, 0) };
        let expected = "no violations: 2 rows (1 row from before a restore or an upgrade can't be verified), \
            0 run folders; occurrences checked in 0 periods";
        assert_eq!(summary(&restored), expected);
    }
}
