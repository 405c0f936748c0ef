//! `batchd logs`.

mod follow;
mod gone;
mod interleave;
mod last;
mod print;
mod tail;

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use clap::Args;

use self::print::Printer;
use self::tail::Tail;
use super::args::Target;
use super::exit::{Complaint, Exit};
use super::{Context, facts, interrupt, show};
use crate::api::RunView;
use crate::model::id::RunId;
use crate::model::run::{Run, StateWord};

/// How much of a log is in memory at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The most newer runs without logs that are named.
const NEWER_SHOWN_MAX: u32 = 3;

/// Print the log of a run
///
/// stdout and stderr are printed in the order in which they came. On a terminal, control characters are escaped; files and pipes get every
/// byte unchanged. `batchd path` prints the folder of the files. If a log was removed, packed or truncated, a message on stderr says so, and
/// the exit code is 1.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd logs report.42
  batchd logs report                   its newest run that has logs
  batchd logs -n 50 report             the last 50 lines
  batchd logs -f report                follow it until its last attempt ends
  batchd logs report.42 --stderr --timestamps")]
pub struct LogsArgs {
    /// A run, or a batch for its newest run that has logs
    #[arg(value_name = "RUN|BATCH")]
    pub target: Target,
    /// Follow the log until the run has ended (for a batch: until its last attempt has)
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines
    #[arg(short = 'n', long = "number", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=LINES_MAX))]
    pub number: Option<u32>,
    /// Only stdout
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only stderr
    #[arg(long)]
    pub stderr: bool,
    /// Begin each line with its time, in your time zone, and its stream
    #[arg(long)]
    pub timestamps: bool,
}

/// The most lines that `-n` keeps in memory.
const LINES_MAX: i64 = 100_000;

/// Carries it out.
pub(super) fn run(args: &LogsArgs, context: &mut Context) -> Result<Exit> {
    let run = facts::with_logs(context, &args.target)?;
    let of_batch = matches!(args.target, Target::Batch(_));
    if of_batch {
        tell_of_newer(&run, context)?;
    }
    let folder = facts::folder(context, &run)?;
    let zone = args.timestamps.then(|| context.zones.system().zone.clone());
    let printer = Printer::new(context.screen.is_terminal(), zone);
    let last = args.number.map(|number| number as usize);
    let mut tail = Tail::new(folder, [!args.stderr, !args.stdout], last, printer);
    if args.follow {
        if run.end().is_none() {
            interrupt::announce(&run.id);
            facts::tell_of_daemon(context, true)?;
        }
        let ended = follow::follow(run, &mut tail, of_batch, context)?;
        let exit = tell_of_losses(&ended, &tail, context)?;
        match ended.end() {
            Some(_) => writeln!(io::stderr(), "{}", show::ending(&RunView::from(&ended)))?,
            None => writeln!(io::stderr(), "the script of {} has ended; the next daemon records how", ended.id)?,
        }
        return Ok(exit);
    }
    if facts::is_there(&tail.folder)? {
        tail.show(true, &mut context.screen)?;
        if tail.has_shown() || run.started_at.is_some() || run.end().is_none() {
            return tell_of_losses(&run, &tail, context);
        }
    }
    Err(nothing_there(&run, &tail.folder))
}

/// Prints the log of a run as it comes, until its last attempt has ended.
pub(super) fn follow_run(id: &RunId, context: &mut Context) -> Result<()> {
    let run = facts::run(context, id)?;
    let folder = facts::folder(context, &run)?;
    let printer = Printer::new(context.screen.is_terminal(), None);
    let mut tail = Tail::new(folder, [true; 2], None, printer);
    let ended = follow::follow(run, &mut tail, true, context)?;
    tell_of_losses(&ended, &tail, context).map(drop)
}

/// Says what of the logs could not be shown.
fn tell_of_losses(run: &Run, tail: &Tail, context: &mut Context) -> Result<Exit> {
    context.screen.flush()?;
    let losses = gone::losses(run, &tail.folder, tail.wanted);
    losses.iter().try_for_each(|loss| writeln!(io::stderr(), "{}", loss.what))?;
    Ok(if losses.iter().any(|loss| loss.is_damage) { Exit::Failure } else { Exit::Success })
}

/// Says which runs of the batch are newer than the one that is shown, and why they have no logs.
fn tell_of_newer(shown: &Run, context: &Context) -> Result<()> {
    let journal = facts::journal(context)?;
    let newer = journal.runs_after(&shown.id.batch, shown.id.number, NEWER_SHOWN_MAX + 1)?;
    if newer.is_empty() {
        return Ok(());
    }
    let mut err = io::stderr();
    writeln!(err, "this is the log of {}; newer runs have none:", shown.id)?;
    for run in newer.iter().take(NEWER_SHOWN_MAX as usize) {
        let why = if run.end().is_some() {
            show::ending(&RunView::from(run))
        } else {
            format!("{} is {}", run.id, run.state.word())
        };
        writeln!(err, "  {why}")?;
    }
    if newer.len() > NEWER_SHOWN_MAX as usize {
        writeln!(err, "  and more: `batchd runs {}`", shown.id.batch)?;
    }
    Ok(())
}

fn nothing_there(run: &Run, folder: &Path) -> anyhow::Error {
    let hint = format!("`batchd show {}` shows the run", run.id);
    let what = match (run.state.word(), run.started_at, run.outcome()) {
        (StateWord::Ended, Some(_), _) => format!("the run folder {} was removed", folder.display()),
        (StateWord::Ended, None, Some(_)) => {
            format!("there is no log, because no script ran: {}", show::ending(&RunView::from(run)))
        }
        (state, _, _) => format!("{} has written nothing yet; it is {state}", run.id),
    };
    Complaint::failure(what, hint)
}
