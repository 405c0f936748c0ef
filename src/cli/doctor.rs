//! `batchd doctor`: whether journal, run folders and state agree; and a new journal from the folders when the old one is gone.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Context;
use super::args::Json;
use super::exit::Exit;
use crate::checkup::{self, Places, Report};
use crate::doctor::Violation;

/// Check that the journal and the files of batchd agree
///
/// Works beside a living daemon, and without one. Counts again what was due, looks whether anything ran twice, too early or
/// beside what it must not, whether chains are complete, and whether what is on the disk is what was recorded. Each
/// violation names the run, the rows, the files and what to do. Beside a living daemon it can't see everything: what is
/// under way is passed over. Exits 0 only if all holds, and 1 if anything does not.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd doctor
  batchd doctor --json
  batchd doctor --rebuild /tmp/journal.db    a new journal from the run folders; docs/operating.md says what then")]
pub struct DoctorArgs {
    /// Write a new journal at FILE from the run folders, for when there is no copy of it to restore; FILE must not be there
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
        let rebuilt = checkup::rebuild::rebuild(&places, file, context.now)?;
        writeln!(context.screen, "{rebuilt}")?;
        return Ok(Exit::Success);
    }
    let report = checkup::examine(&places, &context.zones, context.now)?;
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
        0 => "all holds".to_owned(),
        1 => "1 violation".to_owned(),
        more => format!("{more} violations"),
    };
    let live = if *daemon {
        "; a daemon is at work, so what is under way was passed over: a check without it sees more"
    } else {
        ""
    };
    let old = match rows_unproven {
        0 => String::new(),
        count => format!(" ({count} of a journal that did not yet say what led to what)"),
    };
    let gone = match folders_gone {
        0 => String::new(),
        count => format!(" ({count} more are gone: removed by somebody, or lost)"),
    };
    let unproven = match periods_unproven {
        0 => String::new(),
        count => format!(", {count} not, as their time-zone data has changed since"),
    };
    let (rows, folders) = (counted(*rows, "row"), counted(*folders, "run folder"));
    let periods = counted(*periods_proven, "period");
    format!("{found}: {rows}{old}, {folders}{gone}; occurrences counted again in {periods}{unproven}{live}")
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let report = |rows, folders, periods_proven| Report { rows, folders, periods_proven, ..Report::default() };
        let one = "all holds: 1 row, 1 run folder; occurrences counted again in 1 period";
        assert_eq!(summary(&report(1, 1, 1)), one);
        let more = "all holds: 2 rows, 0 run folders; occurrences counted again in 3 periods";
        assert_eq!(summary(&report(2, 0, 3)), more);
    }
}
