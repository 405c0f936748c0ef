//! Reloading: from hints that something may have changed to a graph that is to be in force (design 3.7).
//!
//! What is true is on the disk: a hint only says where to look, and when nobody says anything everything is looked at every
//! minute. It runs in a thread of its own, since it reads files. It does not know what a swap does to runs.

mod git;
mod open;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::memory;
use crate::api::Reloaded;
use crate::clock::{self, Monotonic};
use crate::folders::{Folders, Look, Looked, Surroundings, suddenly_empty};
use crate::model::definition::Definition;
use crate::model::diagnostic::Diagnostic;
use crate::model::files::Files;
use crate::model::graph::Graph;
use crate::model::id::{BatchName, DefinitionHash};
use crate::model::text::shown;
use crate::store::read::{BatchesDir, Listing};
use crate::store::{definitions, modes};
use crate::supervisor::TrustedOwners;
use crate::watcher::{Hint, Quiet, Watcher};
use open::OpenFiles;
use settings::{AtStart, Read, SettingsOnDisk};

/// Everything is looked at so often even if nobody says that anything changed: network file systems send no events.
const SCAN_EVERY: Duration = Duration::from_secs(60);
/// A batch whose folder is gone is removed after this time: editors and `git checkout` move folders out and in again.
const REMOVED_AFTER: Duration = Duration::from_secs(5);
/// How long a reload by command waits for folders that change while they are read.
const RESTLESS_MAX: Duration = Duration::from_secs(2);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Something may have changed.
    Hint(Hint),
    /// Decide what is on the disk now, and say what is wrong with it.
    Reload(oneshot::Sender<Reloaded>),
}

/// A graph that is to be in force, and what is wrong.
#[derive(Debug)]
pub(super) struct Swap {
    /// It; none if the one in force stays.
    pub(super) graph: Option<Arc<Graph>>,
    /// All that is wrong with what is on the disk.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Who waits for it to be in force.
    pub(super) done: Vec<oneshot::Sender<Reloaded>>,
}

/// What is known of the disk.
pub(super) struct Loader {
    batches: PathBuf,
    state: PathBuf,
    settings: SettingsOnDisk,
    /// Sends the hints; dropped, it would fall silent.
    watcher: Watcher,
    around: Surroundings,
    /// Of `around`, for the runs that start.
    trusted_owners: TrustedOwners,
    /// What of the settings is read once, when the daemon starts.
    at_start: AtStart,
    folders: Folders,
    /// The definitions in force.
    in_force: BTreeMap<BatchName, Arc<Definition>>,
    /// Definitions that are known to be in the store.
    stored: BTreeSet<DefinitionHash>,
    /// Batches whose folder is gone, and since when.
    vanished: BTreeMap<BatchName, Monotonic>,
    /// What they were when they were read last.
    settings_read: Read,
    /// What is wrong with the settings.
    of_settings: Vec<Diagnostic>,
    /// What lies in `batches.d` and is no batch.
    of_listing: Vec<Diagnostic>,
    /// Why `batches.d` as a whole can't be believed: nothing is removed while it is so.
    alarm: Option<Diagnostic>,
    /// What was said last, so that it is said once.
    told: Vec<Diagnostic>,
    /// The settings, or the zones, are not those that the graph in force was made with.
    outdated: bool,
    quiet: Quiet,
    /// Which files are being written, and which batches wait for that.
    open: OpenFiles,
    scan_at: Monotonic,
    /// When the settings have come to rest, if something has happened to them.
    settings_at: Option<Monotonic>,
    git_locked_since: Option<Monotonic>,
    /// Who has asked for what is on the disk now to be decided.
    asked: Vec<oneshot::Sender<Reloaded>>,
    /// Until when files that are being written are waited for on their behalf.
    patient_until: Option<Monotonic>,
    /// Nothing is looked at before: git was at work.
    paused_until: Monotonic,
}

impl Loader {
    /// A loader that has looked at nothing yet. `in_force` are the definitions of the journal, the last good ones.
    pub(super) fn new(
        (batches, state): (PathBuf, PathBuf),
        around: Surroundings,
        settings: SettingsOnDisk,
        watcher: Watcher,
        in_force: BTreeMap<BatchName, Arc<Definition>>,
    ) -> Self {
        Self {
            batches,
            state,
            settings,
            watcher,
            at_start: AtStart::of(&around.settings),
            // Until `begin` tells what is wrong with them.
            trusted_owners: Arc::new(Mutex::new(around.trusted_owners())),
            settings_read: Ok((around.settings.clone(), Vec::new())),
            around,
            folders: Folders::default(),
            in_force,
            stored: BTreeSet::new(),
            vanished: BTreeMap::new(),
            of_settings: Vec::new(),
            of_listing: Vec::new(),
            alarm: None,
            told: Vec::new(),
            outdated: false,
            quiet: Quiet::default(),
            open: OpenFiles::new(clock::now()),
            scan_at: clock::monotonic(),
            settings_at: None,
            git_locked_since: None,
            asked: Vec::new(),
            patient_until: None,
            paused_until: clock::monotonic(),
        }
    }

    /// Who may own files in `batches.d`, as the settings say it at any time.
    pub(super) fn trusted_owners(&self) -> TrustedOwners {
        self.trusted_owners.clone()
    }

    /// The graph of all that is on the disk, for a daemon that begins, and what is wrong with it. If `batches.d` can't be
    /// believed, or git is at work in it, it is `before`, what the journal has: nobody waits, the disk is looked at later.
    pub(super) fn begin(&mut self, before: Arc<Graph>) -> (Arc<Graph>, Vec<Diagnostic>) {
        // What the journal has and the disk has not, vanished when it was first missed: now.
        self.in_force.keys().for_each(|name| self.folders.remember(name));
        if self.git_is_at_work(clock::monotonic()) {
            info!("git is writing to batches.d; the batches stay as they were until it is done");
            return (before, Vec::new());
        }
        self.scan(Absent::RemovedLater);
        let swap = self.swap();
        (swap.graph.unwrap_or(before), swap.diagnostics)
    }

    /// Serves until nobody can send a message any more.
    pub(super) fn serve(mut self, messages: &Receiver<Message>, swaps: &mpsc::UnboundedSender<Swap>) {
        // All of `batches.d` has just been read; later it is some of it, as a rule.
        memory::give_back();
        loop {
            let wait = self.next_look().saturating_duration_since(clock::monotonic());
            let message = match messages.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let swap = match message {
                Some(Message::Reload(done)) => {
                    self.asked.push(done);
                    None
                }
                Some(Message::Hint(hint)) => {
                    self.note(hint);
                    None
                }
                None if self.asked.is_empty() => self.look(),
                None => self.reload(),
            };
            if let Some(swap) = swap
                && swaps.send(swap).is_err()
            {
                return;
            }
        }
    }

    /// When there is something to look at next.
    fn next_look(&self) -> Monotonic {
        let vanished = self.vanished.values().map(|since| *since + REMOVED_AFTER);
        let hinted = self.quiet.next().into_iter().chain(self.settings_at).chain(self.open.next());
        let asked = self.asked.first().map(|_| clock::monotonic());
        vanished.chain(hinted).chain(asked).fold(self.scan_at, Monotonic::min).max(self.paused_until)
    }

    /// Takes a hint: its folder is looked at when it has come to rest.
    fn note(&mut self, hint: Hint) {
        let now = clock::monotonic();
        match hint {
            Hint::Folder(name) => self.quiet.hint(&name, now),
            Hint::Written(file) => self.open.written(file, now),
            Hint::Closed(file) => self.open.closed(&file),
            Hint::Everything => {
                self.open.events_were_lost(clock::now());
                // The root may be another folder now, and what happens in it is worth hints from now on.
                self.watcher.renew();
                // After the quiet period: a swapped symlink is often followed by more.
                self.scan_at = self.scan_at.min(now + Quiet::PERIOD);
            }
            Hint::Settings => {
                self.watcher.check();
                self.settings_at = Some(now + Quiet::PERIOD);
            }
            Hint::Trouble(what) => {
                self.open.events_are_missing();
                warn!("{what}; until that works again, changes are found once a minute");
                self.scan_at = self.scan_at.min(now + Quiet::PERIOD);
            }
        }
    }

    /// Looks at what has come to rest, at everything if it is time, and gives what came of it.
    fn look(&mut self) -> Option<Swap> {
        let now = clock::monotonic();
        if self.git_is_at_work(now) {
            return None;
        }
        let settings_changed = self.settings_at.is_some_and(|at| at <= now) || self.open.settings_are_due(now);
        if settings_changed {
            self.read_settings();
        }
        let mut changed = false;
        if now >= self.scan_at || settings_changed {
            if self.around.zones.changed() {
                self.read_settings();
            } else if !settings_changed {
                // Where no event tells of a change.
                self.read_settings_if_changed();
            }
            changed = self.scan(Absent::RemovedLater);
        }
        let mut names = BTreeSet::new();
        for ready in self.quiet.ready(now) {
            if ready.unrest {
                changed |= self.complain_of_unrest(&ready.folder);
                // Its last change may have been just now, and no other hint come.
                self.quiet.hint(&ready.folder, now);
            } else {
                names.extend(self.folders.including(&ready.folder).cloned());
                names.extend(self.open.waiting_for(&ready.folder).cloned());
                names.extend(BatchName::new(&ready.folder));
            }
        }
        names.extend(self.open.due(now));
        if !names.is_empty() {
            changed |= self.look_at(Some(&names), Absent::RemovedLater);
        }
        changed |= self.complain_of_open_files(now);
        changed |= self.remove_vanished(now);
        (changed || self.outdated).then(|| self.swap())
    }

    /// Decides what is on the disk now, for those who asked; a checkout that is half done is waited for.
    fn reload(&mut self) -> Option<Swap> {
        if self.git_is_at_work(clock::monotonic()) {
            return None;
        }
        self.read_settings();
        let until = clock::monotonic() + RESTLESS_MAX;
        self.scan(Absent::RemovedAtOnce);
        while self.quiet.next().is_some() && clock::monotonic() < until {
            let names: BTreeSet<BatchName> =
                self.quiet.take().iter().filter_map(|name| BatchName::new(name).ok()).collect();
            self.look_at(Some(&names), Absent::RemovedAtOnce);
        }
        if self.open.is_news() && clock::monotonic() < *self.patient_until.get_or_insert(until) {
            self.paused_until = clock::monotonic() + Quiet::PERIOD;
            return None;
        }
        self.patient_until = None;
        self.complain_of_open_files(clock::monotonic() + Quiet::UNREST);
        let done = std::mem::take(&mut self.asked);
        Some(Swap { done, ..self.swap() })
    }

    /// Looks at everything. Whether anything changed.
    fn scan(&mut self, absent: Absent) -> bool {
        self.scan_at = clock::monotonic() + SCAN_EVERY;
        self.open.forget_old(clock::monotonic(), &self.batches);
        // Watch first, look second.
        self.watcher.check();
        self.look_at(None, absent)
    }

    /// Looks at these folders, or at all. Whether anything changed.
    fn look_at(&mut self, only: Option<&BTreeSet<BatchName>>, absent: Absent) -> bool {
        let (dir, listing) = match self.open() {
            Ok(opened) => opened,
            Err(diagnostic) => return self.raise(*diagnostic),
        };
        let is_empty = listing.batches.is_empty() && !self.in_force.is_empty();
        // Nothing at all, not even a `.git`, is more likely a mount that is missing than anybody's wish.
        if is_empty && (listing.is_bare || absent == Absent::RemovedLater) {
            return self.raise(suddenly_empty(&self.batches, &listing));
        }
        let was_alarm = self.alarm.take().is_some();
        if was_alarm {
            info!("{}: the folder has batches again; its definitions are in force", self.batches.display());
        }
        let mut changed = was_alarm;
        // Hints that came while nothing could be looked at led nowhere.
        let only = only.filter(|_| !was_alarm).cloned().or_else(|| self.at_rest(&listing, absent));
        let may_be_open = |file: &str, at, is_edit| self.open.may_be_open(file, at, is_edit, clock::now());
        let (only, in_force) = (only.as_ref(), &self.in_force);
        let look = Look { only, in_force, now: clock::now(), may_be_open: &may_be_open };
        let looked = self.folders.look(&self.around, &dir, &listing.batches, &look);
        let now = clock::monotonic();
        self.open.looked(only, &looked.open, now);
        changed |= looked.changed;
        let present: BTreeSet<&BatchName> = listing.batches.iter().collect();
        let missing: Vec<BatchName> = self.folders.names().filter(|name| !present.contains(name)).cloned().collect();
        self.vanished.retain(|name, _| missing.contains(name));
        for name in missing {
            match absent {
                Absent::RemovedAtOnce => {
                    self.folders.forget(&name);
                    changed = true;
                }
                Absent::RemovedLater => drop(self.vanished.entry(name).or_insert(now)),
            }
        }
        looked.restless.iter().for_each(|name| self.quiet.hint(name.as_str(), now));
        changed |= self.of_listing != listing.diagnostics;
        self.of_listing = listing.diagnostics;
        self.store(looked);
        changed
    }

    /// Of all batches those to which nothing is happening right now: an edit that is half done is not read in passing. None:
    /// that counts for nobody, since what is on the disk now was asked for.
    fn at_rest(&self, listing: &Listing, absent: Absent) -> Option<BTreeSet<BatchName>> {
        if absent == Absent::RemovedAtOnce {
            return None;
        }
        let mut restless: BTreeSet<&str> = BTreeSet::new();
        for folder in self.quiet.folders() {
            restless.insert(folder);
            restless.extend(self.folders.including(folder).map(BatchName::as_str));
        }
        Some(listing.batches.iter().filter(|name| !restless.contains(name.as_str())).cloned().collect())
    }

    /// Opens and lists `batches.d`, if who may write it can be trusted.
    fn open(&self) -> Result<(BatchesDir, Listing), Box<Diagnostic>> {
        let label = self.batches.display().to_string();
        let failed = |what: String| Box::new(Diagnostic::of_file(None, label.clone(), what));
        let dir = BatchesDir::open(&self.batches).map_err(|error| failed(error.to_string()))?;
        let parents = dir.check_parents(&self.around.trust).map_err(|error| failed(error.to_string()))?;
        if let Some(diagnostic) = parents.into_iter().next() {
            return Err(Box::new(diagnostic));
        }
        let listing = dir.list().map_err(|error| failed(error.to_string()))?;
        Ok((dir, listing))
    }

    /// Something is wrong with `batches.d` as a whole: nothing is removed. Whether that is news.
    fn raise(&mut self, diagnostic: Diagnostic) -> bool {
        let news = self.alarm.as_ref() != Some(&diagnostic);
        self.alarm = Some(diagnostic);
        news
    }

    /// Puts what was read into the store. What can't be stored can't run: what is in force stays.
    fn store(&mut self, looked: Looked) {
        let hashed: Vec<_> = looked.contents.iter().map(|(name, files)| (name, files.hash(), files)).collect();
        let new: Vec<(&BatchName, DefinitionHash, &Files)> =
            hashed.iter().filter(|(_, hash, _)| !self.stored.contains(hash)).copied().collect();
        let contents: Vec<(DefinitionHash, &Files)> = new.iter().map(|(_, hash, files)| (*hash, *files)).collect();
        let complaint = |name: &BatchName, problem: &dyn std::fmt::Display| {
            let what = format!("can't copy the folder into the state folder: {problem}");
            Diagnostic::of_file(Some(name.clone()), name.to_string(), what)
        };
        match definitions::put_all(&self.state, &contents) {
            Ok(()) => self.stored.extend(new.iter().map(|(_, hash, _)| *hash)),
            Err(problem) => {
                for (name, _, _) in new {
                    self.folders.complain(name, complaint(name, &problem));
                }
            }
        }
        // Modes are no part of the hash: they may be new where all else is known.
        for (name, hash, files) in hashed {
            if let Err(problem) = modes::note(&self.state, name.as_str(), hash, files) {
                self.folders.complain(name, complaint(name, &problem));
            }
        }
    }

    /// The folder has been written to for so long that it stays as it is in force. Whether that is news.
    fn complain_of_unrest(&mut self, folder: &str) -> bool {
        let what = "this folder has been changing for two seconds; the batch stays as it was until the changes stop";
        // Of a `_folder` those batches that include it.
        let mut batches: BTreeSet<BatchName> = self.folders.including(folder).cloned().collect();
        batches.extend(BatchName::new(folder));
        let complain = |name| self.folders.complain(&name, Diagnostic::of_file(Some(name.clone()), folder, what));
        batches.into_iter().map(complain).fold(false, |news, one| news | one)
    }

    /// Removes what has been gone for long enough. Whether there was any.
    fn remove_vanished(&mut self, now: Monotonic) -> bool {
        let due: Vec<BatchName> = self
            .vanished
            .iter()
            .filter(|(_, since)| **since + REMOVED_AFTER <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &due {
            self.vanished.remove(name);
            self.folders.forget(name);
        }
        !due.is_empty()
    }

    /// Fits everything together, and says what is wrong that was not said before.
    fn swap(&mut self) -> Swap {
        let mut diagnostics: Vec<Diagnostic> =
            self.alarm.iter().chain(&self.of_settings).chain(&self.of_listing).cloned().collect();
        let mut graph = None;
        self.outdated = false;
        if self.alarm.is_none() {
            let fitted = self.folders.fit(&self.around, &self.in_force);
            diagnostics.extend(fitted.diagnostics);
            self.accept(&fitted.graph);
            graph = Some(Arc::new(fitted.graph));
        }
        for diagnostic in diagnostics.iter().filter(|diagnostic| !self.told.contains(diagnostic)) {
            // One line an event, whatever is named in it; the excerpt is what `batchd reload` and `batchd check` show.
            let hint = diagnostic.hint.iter().map(|hint| format!("; {hint}")).collect::<String>();
            let line = shown(&(diagnostic.headline() + &hint));
            if diagnostic.is_error() { warn!("{line}") } else { info!("{line}") }
        }
        self.tell_what_is_valid_again(&diagnostics);
        self.told.clone_from(&diagnostics);
        Swap { graph, diagnostics, done: Vec::new() }
    }

    /// Without this, the warning about an edit that was taken back would be the last word of the log.
    fn tell_what_is_valid_again(&self, diagnostics: &[Diagnostic]) {
        let subjects = |diagnostics: &[Diagnostic]| -> BTreeSet<(Option<BatchName>, String)> {
            let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
            // A batch is one subject, whichever of its files has the error.
            let subject = |one: &Diagnostic| match &one.batch {
                Some(batch) => (one.batch.clone(), batch.to_string()),
                None => (None, one.file.clone()),
            };
            errors.map(subject).collect()
        };
        let now = subjects(diagnostics);
        for (batch, name) in subjects(&self.told).difference(&now) {
            // A batch that was removed is no longer valid or invalid.
            if batch.as_ref().is_none_or(|batch| self.in_force.contains_key(batch)) {
                info!("{} is valid again", shown(name));
            }
        }
    }

    /// Remembers what is in force now.
    fn accept(&mut self, graph: &Graph) {
        self.in_force = graph.iter().map(|(name, node)| (name.clone(), node.definition().clone())).collect();
    }
}

/// What happens to a batch whose folder is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    /// It may come back: it is removed after a while.
    RemovedLater,
    /// Somebody said that what is on the disk now counts.
    RemovedAtOnce,
}
