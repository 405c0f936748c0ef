//! `batchd logs -f`: [`follow`].

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::nothing_there;
use super::tail::Tail;
use crate::api::RunView;
use crate::checkup;
use crate::cli::{Context, facts, show};
use crate::journal::query::Reader;
use crate::model::run::{Run, Trigger};
use crate::rundir::records::{ExitRecord, Record as _};

const WATCH_ENDED: &str = "the watch on the logs has ended";

/// Shows the log as it comes until the run has ended; with `to_last`, until its last attempt has. The last run shown.
pub(super) fn follow(mut run: Run, tail: &mut Tail, to_last: bool, context: &mut Context) -> Result<Run> {
    let journal = facts::journal(context)?;
    let (mut watcher, events) = watch()?;
    // The journal tells the end of a run that leaves no exit record. Who may not watch its folder does without.
    let sees_journal = watcher.watch(&context.paths.state, RecursiveMode::NonRecursive).is_ok();
    loop {
        follow_attempt(&run, tail, &journal, (&mut watcher, &events), context)?;
        // Without a daemon nobody records the end, and without a watch nobody sees that it is recorded.
        let waits = sees_journal && checkup::daemon_lives(&context.paths.state);
        while waits && journal.run(&run.id)?.is_some_and(|row| row.end().is_none()) {
            events.recv().context(WATCH_ENDED)?;
        }
        let ended = journal.run(&run.id)?.unwrap_or(run);
        let is_next = |next: &Run| next.trigger == Trigger::Retry && next.previous.as_ref() == Some(&ended.id);
        let Some(next) = journal.chain(&ended.id)?.into_iter().find(|next| to_last && is_next(next)) else {
            if ended.started_at.is_none() && ended.end().is_some() && !tail.has_shown() {
                return Err(nothing_there(&ended, &tail.folder));
            }
            return Ok(ended);
        };
        writeln!(io::stderr(), "{}; the next attempt is {}", show::ending(&RunView::from(&ended)), next.id)?;
        tail.turn_to(facts::folder(context, &next)?);
        run = next;
    }
}

/// Shows the log as it comes until this run has ended.
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

/// A watcher, and a channel that has one message as long as there are changes that nobody has looked at.
fn watch() -> Result<(RecommendedWatcher, Receiver<()>)> {
    let (changed, events) = sync_channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too, and would wake us for ever.
        if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
            let _ = changed.try_send(());
        }
    });
    Ok((watcher.context("can't watch the logs; try without -f")?, events))
}

/// Watches a run's folder, or the folder of all runs until it is there. True: it is watched.
fn watch_folder(watcher: &mut RecommendedWatcher, folder: &Path) -> Result<bool> {
    let is_there = folder.is_dir();
    let watched = if is_there { Some(folder) } else { folder.parent() };
    if let Some(watched) = watched {
        let describe = || format!("can't watch {}; try without -f", watched.display());
        watcher.watch(watched, RecursiveMode::NonRecursive).with_context(describe)?;
    }
    Ok(is_there)
}
