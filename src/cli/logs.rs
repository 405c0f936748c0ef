//! `batchd logs`.

mod interleave;
mod print;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result};
use clap::Args;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use self::interleave::{Piece, pieces};
use self::print::Printer;
use super::args::Target;
use super::exit::{Complaint, Exit};
use super::{Context, facts, show};
use crate::api::RunView;
use crate::checkup;
use crate::journal::query::Reader;
use crate::model::id::RunId;
use crate::model::run::{Run, StateWord, Trigger};
use crate::rundir::times::{self, TIMES_BYTES_MAX};
use crate::rundir::{STDERR, STDOUT, TIMES, records::ExitRecord, records::Record as _};

/// How much of a log is in memory at once.
const CHUNK_BYTES: usize = 64 * 1024;

const WATCH_ENDED: &str = "the watch on the logs has ended";

/// Print the log of a run
///
/// On a terminal control characters are written out; files and pipes get every byte as it is. The files themselves lie in the folder that
/// `batchd path` prints.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = "\
Examples:
  batchd logs report.42
  batchd logs report                   its latest run that was begun
  batchd logs -f report                follow it to the end of its last attempt
  batchd logs report.42 --stderr --timestamps")]
pub struct LogsArgs {
    /// A run, or a batch for its latest run that was begun
    #[arg(value_name = "RUN|BATCH")]
    pub target: Target,
    /// Go on as it comes, and end with the run; of a batch, with its last attempt
    #[arg(short, long)]
    pub follow: bool,
    /// Only stdout
    #[arg(long, conflicts_with = "stderr")]
    pub stdout: bool,
    /// Only stderr
    #[arg(long)]
    pub stderr: bool,
    /// Put before each line when it came, in your zone, and in which stream
    #[arg(long)]
    pub timestamps: bool,
}

/// Carries it out.
pub(super) fn run(args: &LogsArgs, context: &mut Context) -> Result<Exit> {
    let run = facts::target(context, &args.target)?;
    let folder = facts::folder(context, &run)?;
    let zone = args.timestamps.then(|| context.zones.system().zone.clone());
    let printer = Printer::new(context.screen.is_terminal(), zone);
    let wanted = [!args.stderr, !args.stdout];
    let mut tail = Tail { folder, wanted, shown: [0; 2], printer };
    if args.follow {
        let of_batch = matches!(args.target, Target::Batch(_));
        return follow(run, &mut tail, of_batch, context);
    }
    if facts::is_there(&tail.folder)? {
        tail.show(true, &mut context.screen)?;
        if tail.has_shown() || run.started_at.is_some() || run.end().is_none() {
            return Ok(Exit::Success);
        }
    }
    Err(nothing_there(&run, &tail.folder))
}

/// Prints the log of a run as it comes, until its last attempt has ended.
pub(super) fn follow_run(id: &RunId, context: &mut Context) -> Result<()> {
    let run = facts::run(context, id)?;
    let folder = facts::folder(context, &run)?;
    let printer = Printer::new(context.screen.is_terminal(), None);
    let mut tail = Tail { folder, wanted: [true; 2], shown: [0; 2], printer };
    follow(run, &mut tail, true, context).map(drop)
}

fn nothing_there(run: &Run, folder: &Path) -> anyhow::Error {
    let hint = format!("`batchd show {}` says more", run.id);
    let what = match (run.state.word(), run.started_at, run.outcome()) {
        (StateWord::Ended, Some(_), _) => format!("the folder {} has been removed", folder.display()),
        (StateWord::Ended, None, Some(_)) => {
            format!("there is no output, since no script ran: {}", show::ending(&RunView::from(run)))
        }
        (state, _, _) => format!("{} has written nothing yet: it is {state}", run.id),
    };
    Complaint::failure(what, hint)
}

/// Shows what comes until the run has ended; with `to_last`, until its last attempt has.
fn follow(mut run: Run, tail: &mut Tail, to_last: bool, context: &mut Context) -> Result<Exit> {
    let Some(journal) = facts::open_journal(context)? else { return Err(nothing_there(&run, &tail.folder)) };
    let (mut watcher, events) = watch()?;
    // The journal tells the end of a run that leaves no exit record. Who may not watch its folder does without.
    let sees_journal = watcher.watch(&context.paths.state, RecursiveMode::NonRecursive).is_ok();
    loop {
        follow_attempt(&run, tail, &journal, (&mut watcher, &events), context)?;
        // Nobody tells of the next attempt where no daemon commits it, or nobody sees that it does.
        let waits = to_last && sees_journal && checkup::daemon_lives(&context.paths.state);
        while waits && journal.run(&run.id)?.is_some_and(|row| row.end().is_none()) {
            events.recv().context(WATCH_ENDED)?;
        }
        let ended = journal.run(&run.id)?.unwrap_or(run);
        let is_next = |next: &Run| next.trigger == Trigger::Retry && next.previous.as_ref() == Some(&ended.id);
        let Some(next) = journal.chain(&ended.id)?.into_iter().find(|next| to_last && is_next(next)) else {
            if ended.started_at.is_none() && ended.end().is_some() && !tail.has_shown() {
                return Err(nothing_there(&ended, &tail.folder));
            }
            return Ok(Exit::Success);
        };
        writeln!(io::stderr(), "{}; {} is its next attempt", show::ending(&RunView::from(&ended)), next.id)?;
        tail.turn_to(facts::folder(context, &next)?);
        run = next;
    }
}

/// Shows what comes until this run has ended.
fn follow_attempt(
    run: &Run,
    tail: &mut Tail,
    journal: &Reader,
    (watcher, events): (&mut RecommendedWatcher, &Receiver<()>),
    context: &mut Context,
) -> Result<()> {
    let mut is_watched = false;
    loop {
        if !is_watched {
            is_watched = watch_folder(watcher, &tail.folder)?;
        }
        // Asked before the look at the logs: what an ended run wrote is all there.
        let row = journal.run(&run.id)?;
        let has_ended = row.as_ref().is_none_or(|row| row.end().is_some());
        let is_over = has_ended || tail.folder.join(ExitRecord::FILE).exists();
        if facts::is_there(&tail.folder)? {
            tail.show(is_over, &mut context.screen)?;
            context.screen.flush()?;
        } else if let Some(row) = row.filter(|row| row.end().is_some() && row.started_at.is_some()) {
            return Err(nothing_there(&row, &tail.folder));
        }
        if is_over {
            return Ok(());
        }
        // The watcher lives, so its end of the channel does.
        events.recv().context(WATCH_ENDED)?;
    }
}

/// A watcher, and where it says that something has changed: never what, and no more than once until that is heard.
fn watch() -> Result<(RecommendedWatcher, Receiver<()>)> {
    let (changed, events) = sync_channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too, and would wake us for ever.
        if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
            let _ = changed.try_send(());
        }
    });
    Ok((watcher.context("the logs can't be watched; without -f they can be read")?, events))
}

/// Watches a run's folder, or the folder of all runs until it is there. True: it is watched.
fn watch_folder(watcher: &mut RecommendedWatcher, folder: &Path) -> Result<bool> {
    let is_there = folder.is_dir();
    let watched = if is_there { Some(folder) } else { folder.parent() };
    if let Some(watched) = watched {
        let describe = || format!("{} can't be watched; without -f logs can be read", watched.display());
        watcher.watch(watched, RecursiveMode::NonRecursive).with_context(describe)?;
    }
    Ok(is_there)
}

/// The logs of a run and how much of them has been shown.
struct Tail {
    folder: PathBuf,
    /// Of stdout and stderr.
    wanted: [bool; 2],
    /// Bytes of stdout and stderr.
    shown: [u64; 2],
    printer: Printer,
}

impl Tail {
    /// Whether there was anything to show.
    fn has_shown(&self) -> bool {
        self.shown != [0; 2]
    }

    /// Goes on with the logs in another folder.
    fn turn_to(&mut self, folder: PathBuf) {
        self.folder = folder;
        self.shown = [0; 2];
    }

    /// Shows what is new, in the order in which it came. While the run goes on, what the times do not tell yet is left for later;
    /// they are at most a tenth of a second behind.
    fn show(&mut self, is_over: bool, out: &mut impl std::io::Write) -> Result<()> {
        // The lengths first: the times then cover them, or soon will.
        let open = |name: &str| File::open(self.folder.join(name)).ok();
        let logs = [open(STDOUT), open(STDERR)];
        let length = |log: &Option<File>| log.as_ref().and_then(|log| log.metadata().ok()).map_or(0, |data| data.len());
        let lengths = [length(&logs[0]), length(&logs[1])];
        let times = std::fs::read(self.folder.join(TIMES)).unwrap_or_default();
        let times_end = is_over || times.len() as u64 >= TIMES_BYTES_MAX;
        for Piece { stream, at, from, to } in pieces(times::read(&times), &mut self.shown, lengths, times_end) {
            let (true, Some(log)) = (self.wanted[stream as usize], &logs[stream as usize]) else { continue };
            let mut chunk = [0; CHUNK_BYTES];
            let mut from = from;
            while from < to {
                let most = CHUNK_BYTES.min(usize::try_from(to - from).unwrap_or(CHUNK_BYTES));
                let count = log.read_at(&mut chunk[..most], from)?;
                // Somebody has made the log shorter: there is no more of it.
                if count == 0 {
                    break;
                }
                self.printer.feed(stream, at, &chunk[..count], out)?;
                from += count as u64;
            }
        }
        if is_over {
            self.printer.finish(out)?;
        }
        Ok(())
    }
}
