//! Hints that something may have changed under `batches.d` or in the settings: [`Watcher`], and when a folder has come to
//! rest: [`Quiet`].
//!
//! A hint is never believed, only followed: what is true is on the disk. Whatever is unclear (an overflow, an error, an
//! event without a path) is a hint to look at everything. What a folder means is not known here.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

mod quiet;

pub use quiet::{Quiet, Ready};

/// Something may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// In or below this folder of `batches.d`.
    Folder(String),
    /// This file, a path below `batches.d` or that of the settings, has been written to, and whoever did it may go on.
    Written(String),
    /// Whoever wrote this file, named in the same way, has closed it, or it has been replaced or removed.
    Closed(String),
    /// Anywhere.
    Everything,
    /// In the settings.
    Settings,
    /// Changes are not noticed any more, or not all of them: why.
    Trouble(String),
}

/// Watches until it is dropped.
pub struct Watcher {
    /// None: the system gives none, at the moment.
    watches: Option<RecommendedWatcher>,
    places: Places,
    /// What has been asked to be watched.
    watched: BTreeSet<PathBuf>,
    tell: Arc<dyn Fn(Hint) + Send + Sync>,
    /// What can't be watched, in words.
    trouble: Option<String>,
}

impl Watcher {
    /// Watches the folder `batches`, the file `settings`, and on the way to them every link and the last folder, so that one
    /// that is swapped, moved away or back is noticed. `tell` is called from a thread of its own.
    pub fn start(batches: &Path, settings: &Path, tell: impl Fn(Hint) + Send + Sync + 'static) -> Self {
        let places = Places { batches: batches.to_owned(), settings: settings.to_owned(), ways: Arc::default() };
        let (watches, watched, trouble) = (None, BTreeSet::new(), None);
        let mut watcher = Self { watches, places, watched, tell: Arc::new(tell), trouble };
        watcher.renew();
        watcher
    }

    /// Watches everything as it lies now: to be called after [`Hint::Everything`], and before what is there is looked at.
    /// What can't be watched is told, once.
    pub fn renew(&mut self) {
        let (ways, before) = (self.places.find(), self.trouble.take());
        // The lock is let go before the watcher is asked: it answers from the thread that tells events, which takes the lock.
        *self.places.ways() = ways.clone();
        self.trouble = self.watch(&ways).err();
        if let Some(trouble) = self.trouble.clone().filter(|trouble| before.as_ref() != Some(trouble)) {
            (self.tell)(Hint::Trouble(trouble));
        }
    }

    /// Watches everything anew if it lies elsewhere now and nobody told, or could not be watched.
    pub fn check(&mut self) {
        if self.trouble.is_some() || *self.places.ways() != self.places.find() {
            self.renew();
        }
    }

    fn watch(&mut self, ways: &Ways) -> Result<(), String> {
        if self.watches.is_none() {
            self.watches = Some(self.begin().map_err(|error| format!("changes can't be watched: {error}"))?);
        }
        for folder in std::mem::take(&mut self.watched) {
            // The watches of a folder that was swapped stay with the old one; that they are gone is no trouble.
            let _ = self.ask(|watches| watches.unwatch(&folder));
        }
        let around = ways.batches.steps.iter().chain(&ways.settings.steps).filter_map(|step| step.parent());
        let around: BTreeSet<&Path> = around.collect();
        let flat = around.into_iter().map(|folder| (folder, RecursiveMode::NonRecursive));
        // One that is not there has its parent watched, or what is missing on the way to it.
        let root = ways.batches.target().map(|target| (target, RecursiveMode::Recursive));
        let mut result = Ok(());
        for (folder, mode) in flat.chain(root) {
            self.watched.insert(folder.to_owned());
            if let Err(error) = self.ask(|watches| watches.watch(folder, mode)) {
                result = Err(format!("changes in {} can't be watched: {error}", folder.display()));
            }
        }
        result
    }

    /// Asks the watcher for something. `notify` panics where its thread could not be started or has died, and again where it
    /// is dropped: then it is left to itself, and the next time a new one is begun.
    fn ask(&mut self, ask: impl FnOnce(&mut RecommendedWatcher) -> notify::Result<()>) -> Result<(), String> {
        let Some(watches) = self.watches.take() else { return Err("there is no watcher now".to_owned()) };
        let mut watches = ManuallyDrop::new(watches);
        match panic::catch_unwind(AssertUnwindSafe(|| ask(&mut watches))) {
            Ok(result) => {
                self.watches = Some(ManuallyDrop::into_inner(watches));
                result.map_err(|error| error.to_string())
            }
            // Left to itself.
            Err(_) => Err("the watcher thread couldn't be started, or crashed".to_owned()),
        }
    }

    fn begin(&self) -> notify::Result<RecommendedWatcher> {
        let (places, tell) = (self.places.clone(), self.tell.clone());
        let handler = move |event| places.hints(event).into_iter().for_each(|hint| tell(hint));
        // `notify` follows links by itself, and a link in `batches.d` leads out of it: it is refused, not watched.
        RecommendedWatcher::new(handler, notify::Config::default().with_follow_symlinks(false))
    }
}

/// The most links on a way: as the kernel has it (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// How a path is resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Way {
    /// Every link on the way, and last where it ends, or what is missing there; each in a folder without links.
    steps: Vec<PathBuf>,
    /// Which folder or file is at the end.
    end: Option<End>,
}

/// Which folder or file: with its mount, since the kernel drops all watches of a file system that is unmounted, and the same
/// folder, mounted again, has the same device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

/// Asks for a number of the mount that never comes back (statx(2), since Linux 6.8; older ones give one that may).
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

impl End {
    fn of(path: &Path) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID | MOUNT_ID_UNIQUE;
        let found = statx(CWD, path, AtFlags::empty(), wanted).ok()?;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        Some(Self { mount: found.stx_mnt_id, device, inode: found.stx_ino })
    }
}

impl Way {
    fn of(path: &Path) -> Self {
        let mut way = Self::default();
        // What is still to be walked, the next one last.
        let mut ahead: Vec<OsString> = reversed(path);
        let mut at = PathBuf::new();
        while let Some(name) = ahead.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let Ok(found) = std::fs::symlink_metadata(&next) else {
                way.steps.push(next);
                return way;
            };
            if !found.is_symlink() {
                at = next;
                continue;
            }
            way.steps.push(next.clone());
            match std::fs::read_link(&next) {
                Ok(target) if way.steps.len() <= LINKS_MAX => ahead.extend(reversed(&target)),
                Ok(_) | Err(_) => return way,
            }
        }
        way.end = End::of(&at);
        way.steps.push(at);
        way
    }

    /// Where it ends, if there is something.
    fn target(&self) -> Option<&Path> {
        self.end.and(self.steps.last()).map(PathBuf::as_path)
    }

    fn has(&self, path: &Path) -> bool {
        self.steps.iter().any(|step| step == path)
    }
}

/// The names of a path, the first one last; `/` leads back to the root wherever it is joined.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().filter(|name| *name != Component::CurDir);
    let mut names: Vec<OsString> = names.map(|name| name.as_os_str().to_owned()).collect();
    names.reverse();
    names
}

/// The ways to all that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ways {
    batches: Way,
    settings: Way,
}

/// What is watched.
#[derive(Clone, Debug)]
struct Places {
    batches: PathBuf,
    settings: PathBuf,
    /// As they were when the watches were made: events speak of the folders behind links.
    ways: Arc<Mutex<Ways>>,
}

impl Places {
    /// The ways as they are now.
    fn find(&self) -> Ways {
        // The settings are told of whenever they are written, and by their name: which file it is does not matter.
        let settings = Way { end: None, ..Way::of(&self.settings) };
        Ways { batches: Way::of(&self.batches), settings }
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
        let ways = self.ways().clone();
        let settings = self.settings.display().to_string();
        let file = |path| if ways.settings.has(path) { Some(settings.as_str()) } else { ways.below(path)?.to_str() };
        let of_writer = event.paths.iter().filter_map(|path| writer_hint(event.kind, file(path)?));
        let mut hints: Vec<Hint> = of_writer.collect();
        hints.extend(event.paths.iter().flat_map(|path| ways.hints(path)));
        hints.dedup();
        hints
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ways {
    /// A path below `batches.d`, from there.
    fn below<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        self.batches.target().and_then(|target| path.strip_prefix(target).ok())
    }

    fn hints(&self, path: &Path) -> Vec<Hint> {
        let mut hints = Vec::new();
        if self.settings.has(path) {
            hints.push(Hint::Settings);
        }
        if self.batches.has(path) {
            hints.push(Hint::Everything);
        } else if let Some(below) = self.below(path) {
            hints.push(match below.components().next() {
                Some(Component::Normal(name)) => folder_hint(name),
                Some(_) | None => Hint::Everything,
            });
        }
        hints
    }
}

fn folder_hint(name: &OsStr) -> Hint {
    name.to_str().map_or(Hint::Everything, |name| Hint::Folder(name.to_owned()))
}

/// What an event says about who writes the file `path`.
fn writer_hint(kind: EventKind, path: &str) -> Option<Hint> {
    match kind {
        EventKind::Modify(ModifyKind::Data(_)) => Some(Hint::Written(path.to_owned())),
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => Some(Hint::Closed(path.to_owned())),
        EventKind::Any
        | EventKind::Access(_)
        | EventKind::Create(_)
        | EventKind::Modify(ModifyKind::Any | ModifyKind::Metadata(_) | ModifyKind::Other)
        | EventKind::Other => None,
    }
}

/// Events of reading: batchd reads these folders itself, and would never come to rest.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// No test waits longer for a hint: then none comes.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A `batches.d` that is watched, and what is told of it.
    struct Watched {
        folder: tempfile::TempDir,
        hints: mpsc::Receiver<Hint>,
        watcher: Watcher,
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
            Self { folder, hints, watcher }
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
    fn d11_a_root_that_is_moved_away_and_back_is_watched_again() {
        let mut watched = Watched::new();
        watched.check("mv batches.d elsewhere", &Hint::Everything);
        watched.watcher.renew();
        watched.check("mv elsewhere batches.d", &Hint::Everything);
        watched.watcher.renew();
        watched.check("echo two > batches.d/a/script.sh", &folder("a"));
    }

    #[test]
    fn d11_every_swapped_link_on_the_way_is_told() {
        let mut watched = Watched::new();
        let act =
            "mkdir -p releases/{1,2}/b.d/a; ln -s releases/1 current; rm -r batches.d; ln -s current/b.d batches.d";
        watched.check(act, &Hint::Everything);
        watched.watcher.renew();
        for release in [2, 1] {
            watched.check(&format!("ln -s releases/{release} next; mv -T next current"), &Hint::Everything);
            watched.watcher.renew();
            watched.check(&format!("touch releases/{release}/b.d/a/script.sh"), &folder("a"));
        }
        watched.check("ln -sfn releases/2/b.d batches.d", &Hint::Everything);
    }

    #[test]
    fn d13_what_nobody_told_is_found_by_a_check() {
        let mut watched = Watched::new();
        let parent = watched.folder.path().to_owned();
        let (moved, sibling) = (parent.with_extension("moved"), parent.with_extension("copy"));
        let act =
            format!("cp -r {0} {2}; mv {0} {1}; mv {2} {0}", parent.display(), moved.display(), sibling.display());
        assert!(Command::new("bash").args(["-ec", &act]).status().unwrap().success());
        watched.watcher.check();
        while watched.told_of("touch batches.d/a/script.sh") != folder("a") {}
        fs::remove_dir_all(moved).unwrap();
    }

    #[test]
    fn d9_d10_what_could_not_be_watched_is_watched_when_it_can_be() {
        let mut watched = Watched::new();
        watched.watcher.watches = None;
        watched.watcher.trouble = Some("there were too many".to_owned());
        watched.watcher.check();
        assert_eq!(watched.watcher.trouble, None);
        watched.check("touch batches.d/a/script.sh", &folder("a"));
    }

    #[test]
    fn k8_a_watcher_that_panics_is_begun_anew() {
        let mut watched = Watched::new();
        let said = watched.watcher.ask(|_| panic!("as notify does without its thread")).unwrap_err();
        assert!(said.contains("crashed"), "{said}");
        watched.watcher.renew();
        assert_eq!(watched.watcher.trouble, None);
        watched.check("touch batches.d/a/script.sh", &folder("a"));
    }

    #[test]
    fn a_way_is_walked_link_by_link() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("releases/1/b.d")).unwrap();
        symlink("releases/1", home.join("current")).unwrap();
        symlink("../releases/../current/b.d", home.join("releases/root")).unwrap();
        symlink(&home, home.join("home")).unwrap();
        symlink("loop", home.join("loop")).unwrap();
        let check = |path: &str, steps: &[&str], is_there: bool| {
            let way = Way::of(&home.join(path));
            let steps: Vec<PathBuf> = steps.iter().map(|step| home.join(step)).collect();
            assert_eq!((way.steps.as_slice(), way.end.is_some()), (steps.as_slice(), is_there), "{path}");
        };
        check("releases/1/b.d", &["releases/1/b.d"], true);
        check("releases/root", &["releases/root", "current", "releases/1/b.d"], true);
        check("home/current", &["home", "current", "releases/1"], true);
        check("current/no/b.d", &["current", "releases/1/no"], false);
        assert_eq!(Way::of(&home.join("loop")).end, None);
    }
}
