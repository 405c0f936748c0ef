//! Hints that something may have changed under `batches.d` or in the settings: [`Watcher`], and when a folder has come to
//! rest: [`Quiet`].
//!
//! A hint is never believed, only followed: what is true is on the disk. Whatever is unclear (an overflow, an error, an
//! event without a path) is a hint to look at everything. What a folder means is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// In or below this folder of `batches.d`.
    Folder(String),
    /// Anywhere.
    Everything,
    /// In the settings.
    Settings,
    /// Changes are not noticed any more, or not all of them: why.
    Trouble(String),
}

/// Watches until it is dropped.
pub struct Watcher {
    _watches: Arc<Mutex<Option<RecommendedWatcher>>>,
}

impl Watcher {
    /// Watches the folder `batches`, the folder above it (so that one that is swapped, moved away or back is noticed), and
    /// the folder of the file `settings`. `tell` is called from a thread of its own. What can't be watched is told, too.
    pub fn start(batches: &Path, settings: &Path, tell: impl Fn(Hint) + Send + Sync + 'static) -> Self {
        let watches: Arc<Mutex<Option<RecommendedWatcher>>> = Arc::default();
        let tell = Arc::new(tell);
        let target = Arc::new(Mutex::new(batches.to_owned()));
        let places = Places { batches: batches.to_owned(), settings: settings.to_owned(), target };
        let (inner, told, again) = (places.clone(), tell.clone(), Arc::downgrade(&watches));
        let handler = move |event: notify::Result<Event>| {
            for hint in inner.hints(event) {
                if hint == Hint::Everything
                    && let Some(watches) = again.upgrade()
                {
                    // The root may be another folder now. Not from within the handler: the watcher may hold its lock.
                    let (inner, told) = (inner.clone(), told.clone());
                    let failed = told.clone();
                    let rearm = move || {
                        let mut watches = watches.lock().unwrap_or_else(PoisonError::into_inner);
                        let trouble = watches.as_mut().and_then(|watcher| inner.watch(watcher));
                        trouble.into_iter().for_each(|hint| told(hint));
                        // What was changed between the event and the new watch is found by a look after it.
                        told(Hint::Everything);
                    };
                    if std::thread::Builder::new().name("watch".to_owned()).spawn(rearm).is_err() {
                        failed(Hint::Trouble("a folder that was moved can't be watched again: no thread".to_owned()));
                    }
                } else {
                    told(hint);
                }
            }
        };
        // `notify` follows links by itself, and a link in `batches.d` leads out of it: it is refused, not watched.
        let config = notify::Config::default().with_follow_symlinks(false);
        match RecommendedWatcher::new(handler, config) {
            Ok(mut watcher) => {
                places.watch(&mut watcher).into_iter().for_each(|hint| tell(hint));
                *watches.lock().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
            }
            Err(error) => tell(Hint::Trouble(format!("changes can't be watched: {error}"))),
        }
        Self { _watches: watches }
    }
}

/// What is watched.
#[derive(Clone, Debug)]
struct Places {
    batches: PathBuf,
    settings: PathBuf,
    /// Where `batches` leads to, if it is a link: events speak of that folder.
    target: Arc<Mutex<PathBuf>>,
}

impl Places {
    /// Watches all places, as they are now. What can't be watched.
    fn watch(&self, watcher: &mut RecommendedWatcher) -> Option<Hint> {
        let target = std::fs::canonicalize(&self.batches).unwrap_or_else(|_| self.batches.clone());
        // The lock is let go before the watcher is asked: it answers from the thread that tells events, which takes the lock.
        let before = std::mem::replace(&mut *self.target(), target.clone());
        // The watches of a folder that was swapped stay with the old one; that they are gone is no trouble.
        let _ = watcher.unwatch(&before);
        let mut trouble = None;
        let around = [self.batches.parent(), self.settings.parent()];
        let around: BTreeSet<&Path> = around.into_iter().flatten().filter(|folder| folder.is_dir()).collect();
        let flat = around.into_iter().map(|folder| (folder, RecursiveMode::NonRecursive));
        let all = flat.chain([(target.as_path(), RecursiveMode::Recursive)]);
        for (folder, mode) in all {
            if let Err(error) = watcher.watch(folder, mode) {
                trouble = Some(Hint::Trouble(format!("changes in {} can't be watched: {error}", folder.display())));
            }
        }
        trouble
    }

    /// What an event hints at.
    fn hints(&self, event: notify::Result<Event>) -> Vec<Hint> {
        let event = match event {
            Ok(event) => event,
            Err(_) => return vec![Hint::Everything],
        };
        if event.need_rescan() || (event.paths.is_empty() && !is_reading(event.kind)) {
            return vec![Hint::Everything];
        }
        if is_reading(event.kind) {
            return Vec::new();
        }
        let mut hints: Vec<Hint> = event.paths.iter().filter_map(|path| self.hint(path)).collect();
        hints.dedup();
        hints
    }

    fn hint(&self, path: &Path) -> Option<Hint> {
        if path == self.settings {
            return Some(Hint::Settings);
        }
        if path == self.batches {
            return Some(Hint::Everything);
        }
        let below = path.strip_prefix(&*self.target()).ok()?;
        match below.components().next() {
            None => Some(Hint::Everything),
            Some(Component::Normal(name)) => Some(folder_hint(name)),
            Some(_) => Some(Hint::Everything),
        }
    }

    fn target(&self) -> MutexGuard<'_, PathBuf> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder_hint(name: &OsStr) -> Hint {
    name.to_str().map_or(Hint::Everything, |name| Hint::Folder(name.to_owned()))
}

/// Events of reading: batchd reads these folders itself, and would never come to rest.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}

/// When folders have come to rest: nothing happens to them for [`Quiet::PERIOD`].
#[derive(Debug, Default)]
pub struct Quiet {
    /// Since when, and until when last, something has been happening to a folder.
    restless: BTreeMap<String, (Instant, Instant)>,
}

/// A folder that is to be looked at, or given up for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its name.
    pub folder: String,
    /// It did not come to rest in time.
    pub unrest: bool,
}

impl Quiet {
    /// Nothing must happen to a folder for so long: an editor's save is several steps, and `git` writes many files.
    pub const PERIOD: Duration = Duration::from_millis(200);
    /// A folder to which something happens for so long is given up: a log in it, perhaps.
    pub const UNREST: Duration = Duration::from_secs(2);

    /// Something happens to `folder`.
    pub fn hint(&mut self, folder: &str, now: Instant) {
        match self.restless.get_mut(folder) {
            Some((_, last)) => *last = now,
            None => drop(self.restless.insert(folder.to_owned(), (now, now))),
        }
    }

    /// Takes the folders that have come to rest at `now`, or do not.
    pub fn ready(&mut self, now: Instant) -> Vec<Ready> {
        let due = |(first, last): &(Instant, Instant)| now >= *last + Self::PERIOD || now >= *first + Self::UNREST;
        let names: Vec<String> =
            self.restless.iter().filter(|(_, times)| due(times)).map(|(name, _)| name.clone()).collect();
        let mut ready = Vec::with_capacity(names.len());
        for folder in names {
            let times = self.restless.remove(&folder);
            let unrest = times.is_some_and(|(_, last)| now < last + Self::PERIOD);
            ready.push(Ready { folder, unrest });
        }
        ready
    }

    /// The folders that have not come to rest.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.restless.keys().map(String::as_str)
    }

    /// When there is a folder to be taken next.
    pub fn next(&self) -> Option<Instant> {
        self.restless.values().map(|(first, last)| (*last + Self::PERIOD).min(*first + Self::UNREST)).min()
    }

    /// Lets all folders wait for another period: something greater is going on.
    pub fn postpone(&mut self, now: Instant) {
        self.restless.values_mut().for_each(|times| *times = (now, now));
    }

    /// Takes all folders, at rest or not.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.restless).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_folder_comes_to_rest() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut quiet = Quiet::default();
        quiet.hint("a", at(0));
        quiet.hint("a", at(150));
        assert_eq!(quiet.ready(at(349)), []);
        assert_eq!(quiet.next(), Some(at(350)));
        assert_eq!(quiet.ready(at(350)), [Ready { folder: "a".to_owned(), unrest: false }]);
        assert_eq!(quiet.next(), None);
    }

    #[test]
    fn a_folder_that_does_not_is_given_up() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut quiet = Quiet::default();
        (0..=20).for_each(|step| quiet.hint("a", at(step * 100)));
        assert_eq!(quiet.next(), Some(at(2000)));
        assert_eq!(quiet.ready(at(2000)), [Ready { folder: "a".to_owned(), unrest: true }]);
    }

    /// No test waits longer for a hint: then none comes.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A `batches.d` that is watched, and what is told of it.
    struct Watched {
        folder: tempfile::TempDir,
        hints: mpsc::Receiver<Hint>,
        _watcher: Watcher,
    }

    impl Watched {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let batches = folder.path().join("batches.d");
            fs::create_dir_all(batches.join("a")).unwrap();
            fs::write(batches.join("a/script.sh"), "echo one\n").unwrap();
            let (sender, hints) = mpsc::channel();
            let watcher =
                Watcher::start(&batches, &folder.path().join("batchd.toml"), move |hint| drop(sender.send(hint)));
            Self { folder, hints, _watcher: watcher }
        }

        /// Does something in a shell, and waits until `expected` is told.
        fn check(&self, act: &str, expected: &Hint) {
            let mut told = vec![self.told_of(act)];
            while told.last() != Some(expected) {
                match self.hints.recv_timeout(PATIENCE) {
                    Ok(hint) => told.push(hint),
                    Err(error) => panic!("{act}: {error}, told {told:?}"),
                }
            }
        }

        /// Does something in a shell, and waits for the next hint.
        fn told_of(&self, act: &str) -> Hint {
            let status = Command::new("bash").args(["-ec", act]).current_dir(self.folder.path()).status().unwrap();
            assert!(status.success(), "{act}");
            self.hints.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{act}: {error}"))
        }
    }

    fn folder(name: &str) -> Hint {
        Hint::Folder(name.to_owned())
    }

    #[test]
    fn changes_of_all_kinds_are_told() {
        let watched = Watched::new();
        watched.check("echo two > batches.d/a/script.sh", &folder("a"));
        watched.check("sed -i s/two/three/ batches.d/a/script.sh", &folder("a"));
        watched.check("chmod +x batches.d/a/script.sh", &folder("a"));
        watched.check("mkdir batches.d/b && echo x > batches.d/b/batch.toml", &folder("b"));
        watched.check("mkdir -p batches.d/b/deep/er && echo x > batches.d/b/deep/er/file", &folder("b"));
        watched.check("mv batches.d/b batches.d/c", &folder("c"));
        watched.check("echo y >> batches.d/c/deep/er/file", &folder("c"));
        watched.check("rm -r batches.d/c", &folder("c"));
        watched.check("touch batchd.toml", &Hint::Settings);
    }

    #[test]
    fn a_root_that_is_moved_away_and_back_is_watched_again() {
        let watched = Watched::new();
        watched.check("mv batches.d elsewhere", &Hint::Everything);
        watched.check("mv elsewhere batches.d", &Hint::Everything);
        // A change before the new watch is in place is told as everything, once it is: the next one may be told by its folder.
        while watched.told_of("echo two > batches.d/a/script.sh") != folder("a") {}
    }

    #[test]
    fn a_swapped_link_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for release in ["one", "two"] {
            fs::create_dir_all(folder.path().join(release).join("a")).unwrap();
        }
        let batches = folder.path().join("batches.d");
        symlink("one", &batches).unwrap();
        let (sender, hints) = mpsc::channel();
        let _watcher =
            Watcher::start(&batches, &folder.path().join("batchd.toml"), move |hint| drop(sender.send(hint)));
        symlink("two", folder.path().join("next")).unwrap();
        fs::rename(folder.path().join("next"), &batches).unwrap();
        while hints.recv_timeout(PATIENCE).unwrap() != Hint::Everything {}
    }
}
