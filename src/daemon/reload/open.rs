//! Files that are being written, and the batches that wait until they are closed.
//!
//! For files of its own user the kernel says whether there is a writer (`store::writers`), and an event tells when the last
//! one has gone. For the others there are only the events: written, and not closed since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::{Loader, SCAN_EVERY};
use crate::clock::Monotonic;
use crate::folders::{settings_still_open, still_open};
use crate::model::id::BatchName;
use crate::model::time::Instant;
use crate::store::writers::{self, RECENT};
use crate::watcher::Quiet;

/// A file that was modified within this time before events began to tell may still be written, if its batch has other content
/// in force: as long as events would have kept the edit waiting. Without a last good definition, [`RECENT`] counts.
const UNTOLD_MAX: Duration = SCAN_EVERY;

/// See above.
pub(super) struct OpenFiles {
    /// Files that were written to and not closed since, as events told, and when that was last.
    written: BTreeMap<String, Monotonic>,
    /// Events tell of all that happened since; none: they don't.
    events_since: Option<Instant>,
    /// Batches that wait for a file.
    waiting: BTreeMap<BatchName, Waiting>,
    /// The settings wait until they are closed.
    settings: Option<Waiting>,
}

struct Waiting {
    /// A path below `batches.d`, or that of the settings.
    file: String,
    since: Monotonic,
    /// There is a diagnostic about it.
    told: bool,
}

impl Waiting {
    fn is_due(&self, now: Monotonic) -> bool {
        !self.told && self.since + Quiet::UNREST <= now
    }
}

impl OpenFiles {
    pub(super) fn new(now: Instant) -> Self {
        Self { written: BTreeMap::new(), events_since: Some(now), waiting: BTreeMap::new(), settings: None }
    }

    pub(super) fn written(&mut self, file: String, now: Monotonic) {
        self.written.insert(file, now);
    }

    pub(super) fn closed(&mut self, file: &str) {
        self.written.remove(file);
    }

    pub(super) fn events_were_lost(&mut self, now: Instant) {
        self.written.clear();
        self.events_since = Some(now);
    }

    pub(super) fn events_are_missing(&mut self) {
        self.events_since = None;
    }

    /// Forgets what was written long ago if no process shows that writes it: not every write is followed by the event that
    /// it is over (truncate(2) opens no file).
    pub(super) fn forget_old(&mut self, now: Monotonic, batches: &Path) {
        self.written.retain(|file, at| *at + SCAN_EVERY > now || writers::writer_of(&batches.join(file)).is_some());
    }

    /// Whether a file of which the kernel doesn't say it may still be written. `is_edit`: something else is in force.
    pub(super) fn may_be_open(&self, file: &str, modified_at: Instant, is_edit: bool, now: Instant) -> bool {
        let recent = match self.events_since {
            Some(since) if modified_at >= since => Duration::ZERO,
            Some(_) if is_edit => UNTOLD_MAX,
            Some(_) | None => RECENT,
        };
        self.written.contains_key(file) || (modified_at <= now && now < modified_at + recent)
    }

    /// Takes what a look at the settings, the file `settings`, has found.
    pub(super) fn settings_looked(&mut self, settings: &str, is_open: bool, now: Monotonic) {
        let begins = || Waiting { file: settings.to_owned(), since: now, told: false };
        self.settings = is_open.then(|| self.settings.take().unwrap_or_else(begins));
    }

    /// Whether the settings wait to be closed.
    pub(super) fn settings_wait(&self) -> bool {
        self.settings.is_some()
    }

    /// Whether they have waited for so long that they are looked at again, and complained about.
    pub(super) fn settings_are_due(&self, now: Monotonic) -> bool {
        self.settings.as_ref().is_some_and(|waiting| waiting.is_due(now))
    }

    /// Takes what a look at these batches, or at all, has found.
    pub(super) fn looked(
        &mut self,
        only: Option<&BTreeSet<BatchName>>,
        open: &BTreeMap<BatchName, String>,
        now: Monotonic,
    ) {
        self.waiting.retain(|name, _| only.is_some_and(|only| !only.contains(name)) || open.contains_key(name));
        for (name, file) in open {
            if self.waiting.get(name).is_none_or(|waiting| waiting.file != *file) {
                self.waiting.insert(name.clone(), Waiting { file: file.clone(), since: now, told: false });
            }
        }
    }

    /// Whether something waits that nothing has been said about.
    pub(super) fn is_news(&self) -> bool {
        self.waiting.values().chain(&self.settings).any(|waiting| !waiting.told)
    }

    /// When something has waited for so long that it is looked at again.
    pub(super) fn next(&self) -> Option<Monotonic> {
        self.waiting
            .values()
            .chain(&self.settings)
            .filter(|waiting| !waiting.told)
            .map(|waiting| waiting.since + Quiet::UNREST)
            .min()
    }

    /// The batches that wait for a file in `folder`: one of their own, or one that they include.
    pub(super) fn waiting_for(&self, folder: &str) -> impl Iterator<Item = &BatchName> {
        let is_in = move |file: &str| file.split('/').next() == Some(folder);
        self.waiting.iter().filter(move |(_, waiting)| is_in(&waiting.file)).map(|(name, _)| name)
    }

    /// The batches that have.
    pub(super) fn due(&self, now: Monotonic) -> Vec<BatchName> {
        self.waiting.iter().filter(|(_, waiting)| waiting.is_due(now)).map(|(name, _)| name.clone()).collect()
    }
}

impl Loader {
    /// Complains about the files that have been open for too long at `now`. Whether there was any.
    pub(super) fn complain_of_open_files(&mut self, now: Monotonic) -> bool {
        let due = self.open.due(now);
        for name in &due {
            let Some(waiting) = self.open.waiting.get_mut(name) else { continue };
            waiting.told = true;
            self.folders.complain(name, still_open(&self.batches, name, &waiting.file));
        }
        if !self.open.settings_are_due(now) {
            return !due.is_empty();
        }
        if let Some(waiting) = &mut self.open.settings {
            waiting.told = true;
            self.of_settings = vec![settings_still_open(&waiting.file)];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Where the kernel doesn't say who writes: another owner's files, network file systems.
    #[test]
    fn events_tell_of_writers_and_what_is_older_than_they_waits() {
        let at = |ms: i64| Instant::from_ms(1_000_000 + ms);
        let mut open = OpenFiles::new(at(0));
        let may_be_open = |open: &OpenFiles, file: &str, modified_at, now| {
            let [new, edit] = [false, true].map(|is_edit| open.may_be_open(file, modified_at, is_edit, now));
            (new, edit)
        };
        let script = "a/script.sh";
        assert_eq!(may_be_open(&open, script, at(-500), at(100)), (true, true), "modified just before the start");
        assert_eq!(may_be_open(&open, script, at(-500), at(1500)), (false, true), "two seconds ago");
        assert_eq!(may_be_open(&open, script, at(-500), at(59_500)), (false, false), "a minute ago");
        let told = "its events came, and the last was that it is closed";
        assert_eq!(may_be_open(&open, script, at(50), at(100)), (false, false), "{told}");
        assert_eq!(may_be_open(&open, script, at(1_000_000), at(100)), (false, false), "its time is nobody's");
        open.written(script.to_owned(), clock::monotonic());
        assert_eq!(may_be_open(&open, script, at(50), at(5000)), (true, true), "written, and not closed");
        assert_eq!(may_be_open(&open, "a/other", at(50), at(5000)), (false, false));
        open.closed(script);
        assert_eq!(may_be_open(&open, script, at(50), at(5000)), (false, false));
        open.events_are_missing();
        assert_eq!(may_be_open(&open, script, at(5000), at(5100)), (true, true));
        assert_eq!(may_be_open(&open, script, at(5000), at(7000)), (false, false));
    }

    #[test]
    fn a_mark_that_no_process_confirms_does_not_stay_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("script.sh"), "").unwrap();
        let mut open = OpenFiles::new(Instant::from_ms(0));
        open.written("script.sh".to_owned(), clock::monotonic());
        open.forget_old(clock::monotonic(), folder.path());
        assert!(open.may_be_open("script.sh", Instant::from_ms(0), true, Instant::from_ms(90_000)));
        let writer = std::fs::File::create(folder.path().join("script.sh")).unwrap();
        open.forget_old(clock::monotonic() + SCAN_EVERY * 2, folder.path());
        assert!(open.may_be_open("script.sh", Instant::from_ms(0), true, Instant::from_ms(90_000)), "it has a writer");
        drop(writer);
        open.forget_old(clock::monotonic() + SCAN_EVERY * 2, folder.path());
        assert!(!open.may_be_open("script.sh", Instant::from_ms(0), true, Instant::from_ms(90_000)));
    }
}
