//! The folder of one run, `runs/<id>`: its layout, its lock, and how its files come and go.
//!
//! A file appears in it whole or not at all: it is written beside and renamed. Nothing in it holds an absolute path, so
//! the folders may be moved. It does not know who starts what, or when; it knows only what the files mean.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};

use crate::model::id::{RunId, Token};
use crate::os;

pub mod access;
pub mod crash;
pub mod records;
pub mod room;
pub mod times;

use records::{Claim, Damage, ExitRecord, Record, RunRecord, Started};

/// The lock file: held by the shim, and by a script's process that has not been let go. Never replaced while the run
/// lives.
pub const LOCK: &str = "lock";
/// Exactly the bytes that the script wrote to stdout.
pub const STDOUT: &str = "stdout.log";
/// Exactly the bytes that the script wrote to stderr.
pub const STDERR: &str = "stderr.log";
/// When which stream grew, as [`times`] describes it.
pub const TIMES: &str = "times";
/// The folder of what belongs to the script's user.
pub const IO: &str = "io";
/// Why a shim could not start the script although another attempt may: one sentence for people.
pub const TROUBLE: &str = "trouble";
/// `aside.<n>`: what was found in the folder when it had to be begun anew.
pub const ASIDE: &str = "aside.";

/// What there may be of a run whose script was never let go, beside what [`is_unfinished`].
const OF_AN_ATTEMPT: [&str; 7] = [RunRecord::FILE, Claim::FILE, TROUBLE, STDOUT, STDERR, TIMES, LOCK];

/// How NFS names a file that was removed while a process has it open; it goes when the process closes it.
const REMOVED_BUT_OPEN: &str = ".nfs";

/// How often a run folder may be begun anew before that is given up: with a wait of a minute each, that is most of a
/// week.
pub const ASIDE_MAX: u32 = 9999;

/// The bytes of [`TROUBLE`] that are read: a sentence.
const TROUBLE_BYTES_MAX: usize = 4096;

/// An open run folder. Everything is done below its descriptor: it may be renamed or moved meanwhile.
#[derive(Debug)]
pub struct RunDir {
    folder: OwnedFd,
}

/// The lock of a run, held until this is dropped and no process has inherited it.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// Whose a run folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It carries the token asked for, or nothing of a run yet.
    Ours,
    /// It is of another journal or another run, or nobody can tell.
    Foreign,
}

impl RunDir {
    /// Makes the folder, closed to all others until a shim gives it its [`access::Access`]. An error of the kind
    /// `AlreadyExists` if anything of that name is there.
    pub fn create(path: &Path) -> io::Result<Self> {
        mkdirat(CWD, path, Mode::from_raw_mode(0o700))?;
        Self::open(path)
    }

    /// Opens the folder; a symbolic link in its place is an error.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { folder: openat(CWD, path, flags, Mode::empty())? })
    }

    /// Reads a record; `None` if it is not there.
    pub fn read<R: Record>(&self, token: &Token) -> Result<Option<R>, Damage> {
        records::read(self.folder.as_fd(), token)
    }

    /// `run.json` of the folder `path`; see [`Self::told_of`].
    pub fn run_record(path: &Path, run: &RunId) -> Option<RunRecord> {
        Self::open(path).ok()?.told_of(run)
    }

    /// `run.json`, if it says itself that it is of this run: for one who knows nothing but the folder's name.
    pub fn told_of(&self, run: &RunId) -> Option<RunRecord> {
        records::read_of(self.folder.as_fd(), run).ok().flatten()
    }

    /// Puts a record in place, whole, over an older one.
    pub fn write<R: Record>(&self, record: &R) -> io::Result<()> {
        self.write_beside(R::FILE, &records::encode(record))
    }

    /// Puts the claim in place if none is there. False: another was first.
    pub fn claim(&self, claim: &Claim) -> io::Result<bool> {
        let beside = format!("{}.{}", Claim::FILE, os::process_name());
        let linked = self
            .write_file(&beside, &records::encode(claim))
            .and_then(|()| Ok(os::link_to_free(&self.folder, &beside, &self.folder, Claim::FILE)?));
        let removed = unlinkat(&self.folder, &beside, AtFlags::empty());
        match linked {
            Ok(()) => removed.map(|()| true).map_err(Into::into),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // There was no room for it, most likely: what is half written takes none, and this is what there is to say.
            Err(error) => Err(error),
        }
    }

    /// Takes back that the script was let go: it never became its interpreter, and another attempt is to be made.
    pub fn take_back_start(&self) -> io::Result<()> {
        Ok(unlinkat(&self.folder, Started::FILE, AtFlags::empty())?)
    }

    /// Whose this folder is, by `run.json`, else by the claim. One with neither is ours only if it holds no trace of a
    /// run: a daemon was killed between making it and writing into it.
    pub fn owner(&self, token: &Token) -> io::Result<Owner> {
        if let Some(owner) = owner_by(self.read::<RunRecord>(token))? {
            return Ok(owner);
        }
        if let Some(owner) = owner_by(self.read::<Claim>(token))? {
            return Ok(owner);
        }
        let trace = [Started::FILE, ExitRecord::FILE, STDOUT];
        let found = self.names()?.iter().any(|name| trace.contains(&name.as_str()));
        Ok(if found { Owner::Foreign } else { Owner::Ours })
    }

    /// Why the last shim could not start the script, if it left word.
    pub fn trouble(&self) -> Option<String> {
        let file = open_at(self.folder.as_fd(), TROUBLE).ok()?;
        let mut bytes = vec![0; TROUBLE_BYTES_MAX];
        let count = rustix::io::read(&file, &mut bytes[..]).ok()?;
        Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
    }

    /// Leaves word why the script could not be started this time.
    pub fn write_trouble(&self, reason: &str) -> io::Result<()> {
        self.write_beside(TROUBLE, reason.as_bytes())
    }

    /// Takes the lock, without waiting. `None`: somebody holds it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, LOCK, flags, Mode::from_raw_mode(0o600))?;
        Ok(set_lock(file.as_fd())?.then_some(Lock { _file: file }))
    }

    /// Whether somebody holds the lock. Only looks: it never disturbs one who is taking it.
    pub fn is_locked(&self) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.folder, LOCK, flags, Mode::empty()) {
            Ok(file) => probe_lock(file.as_fd()),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves everything but the lock into a new `aside.<n>`. The caller holds the lock.
    ///
    /// An older one goes if no script had been let go in it: a run that waits for room would take more with each
    /// attempt.
    pub fn set_aside(&self, _held: &Lock) -> io::Result<()> {
        let started = self.started_aside()?;
        for name in self.names()?.iter().filter(|name| name.starts_with(ASIDE) && !started.contains(name)) {
            remove_aside(self.folder.as_fd(), name)?;
        }
        let names = self.names()?;
        let aside = (1..=ASIDE_MAX).map(|n| format!("{ASIDE}{n}")).find(|name| !names.contains(name));
        let aside =
            aside.ok_or_else(|| io::Error::other(format!("reused {ASIDE_MAX} times already; remove the folder")))?;
        mkdirat(&self.folder, &aside, Mode::from_raw_mode(0o700))?;
        // The claim goes last: as long as it is there, no shim begins in a half-emptied folder.
        let (claims, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| *name == Claim::FILE);
        for name in others.into_iter().chain(claims).filter(|name| *name != LOCK && !name.starts_with(ASIDE)) {
            renameat(&self.folder, name, &self.folder, format!("{aside}/{name}"))?;
        }
        Ok(())
    }

    /// Removes what an attempt has left in which nothing of the script ran, and the folder `path`, which is this one. Stays
    /// if it holds anything else. The caller holds the lock.
    pub fn remove_attempt(&self, path: &Path, _held: &Lock) -> io::Result<()> {
        let mut names = self.names()?;
        // While the lock is there, no shim begins here.
        names.sort_by_key(|name| name == LOCK);
        let started = self.started_aside()?;
        for name in names {
            if name == IO || (name.starts_with(ASIDE) && !started.contains(&name)) {
                remove_aside(self.folder.as_fd(), &name)?;
            } else if OF_AN_ATTEMPT.contains(&name.as_str()) || is_unfinished(&name) {
                unlinkat(&self.folder, &name, AtFlags::empty())?;
            }
        }
        Self::remove_empty(path)
    }

    /// Removes the folder `path` if nothing is in it.
    pub fn remove_empty(path: &Path) -> io::Result<()> {
        Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
    }

    /// Removes what only a run under way needs: after it, the log files with their [`TIMES`], `run.json`, `exit.json`
    /// and `io/` stay, and whatever is not batchd's. Without an `exit.json` the claim, `started.json` and what was set
    /// aside stay too: nothing may ever begin here again. The lock goes last: while it is there, this is not done.
    pub fn settle(&self) -> io::Result<()> {
        let mut names = self.names()?;
        names.sort_by_key(|name| name == LOCK);
        let ended = names.iter().any(|name| name == ExitRecord::FILE);
        for name in &names {
            let evidence = name == Claim::FILE || name == Started::FILE;
            let transient = name == LOCK || name == TROUBLE || is_unfinished(name);
            if transient || (evidence && ended) {
                unlinkat(&self.folder, name, AtFlags::empty())?;
            } else if name.starts_with(ASIDE) && ended {
                remove_aside(self.folder.as_fd(), name)?;
            }
        }
        Ok(())
    }

    /// Opens a file for the script's output; what is in it is cut off, since no script has run in this folder yet.
    pub fn create_log(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_to_write(name, OFlags::TRUNC)
    }

    /// Opens a log again that was closed meanwhile, and makes it if it was removed.
    pub fn reopen_log(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_to_write(name, OFlags::empty())
    }

    fn open_to_write(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::WRONLY | OFlags::CREATE | HARMLESS;
        regular(openat(&self.folder, name, flags, Mode::from_raw_mode(0o666))?)
    }

    /// The length of a file in the folder, if it is there.
    pub fn length(&self, name: &str) -> Option<u64> {
        let stat = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        u64::try_from(stat.st_size).ok()
    }

    /// Those `aside.<n>` in which a script had been let go.
    pub fn started_aside(&self) -> io::Result<Vec<String>> {
        let has_started = |name: &String| {
            let started = format!("{name}/{}", Started::FILE);
            rustix::fs::statat(&self.folder, started, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        };
        Ok(self.names()?.into_iter().filter(|name| name.starts_with(ASIDE)).filter(has_started).collect())
    }

    /// The names in the folder, without `.`, `..`, and files that were removed and are still open on NFS.
    pub fn names(&self) -> io::Result<Vec<String>> {
        names(self.folder.as_fd())
    }

    fn write_beside(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = format!("{name}.{}.new", os::process_name());
        let written = self.write_file(&beside, bytes);
        let put = written.and_then(|()| Ok(renameat(&self.folder, &beside, &self.folder, name)?));
        put.inspect_err(|_| {
            // It would take what there is too little of.
            let _ = unlinkat(&self.folder, &beside, AtFlags::empty());
        })
    }

    fn write_file(&self, name: &str, mut bytes: &[u8]) -> io::Result<()> {
        // What is there was left by one that was killed, or put there by a script: a FIFO would keep us.
        match unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let file = self.create_log(name)?;
        while !bytes.is_empty() {
            let count = rustix::io::write(&file, bytes)?;
            bytes = &bytes[count..];
        }
        sync_on_network(file.as_fd())
    }
}

/// How files of a run folder are opened: a script may have put a link or a FIFO in their place, and opening a FIFO waits
/// for its other end.
const HARMLESS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Opens a file of a run folder for reading. What is no regular file is an error, and nothing waits.
pub fn open_file(path: &Path) -> io::Result<File> {
    Ok(File::from(regular(openat(CWD, path, OFlags::RDONLY | HARMLESS, Mode::empty())?)?))
}

/// As [`open_file`], below an open folder.
fn open_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    regular(openat(folder, name, OFlags::RDONLY | HARMLESS, Mode::empty())?)
}

/// The open file, if it is a regular one.
pub fn regular(file: OwnedFd) -> io::Result<OwnedFd> {
    let is_regular = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
    if is_regular { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_REGULAR)) }
}

const NOT_REGULAR: &str = "it is not a regular file";

/// Brings a file to its server. On another host it is seen only then, and only this says that there was no room for it.
pub fn sync_on_network(file: BorrowedFd<'_>) -> io::Result<()> {
    if os::is_on_network(file) {
        rustix::fs::fsync(file)?;
    }
    Ok(())
}

impl AsFd for RunDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Whether a file of this name was being written, or was to become another.
fn is_unfinished(name: &str) -> bool {
    name.ends_with(".new") || name.starts_with("claim.")
}

/// What a record says of its folder's owner; `None` if it is not there.
fn owner_by<R>(record: Result<Option<R>, Damage>) -> io::Result<Option<Owner>> {
    match record {
        Ok(record) => Ok(record.map(|_| Owner::Ours)),
        Err(Damage::Unreadable { error, .. }) => Err(error),
        // One that this program can't read is ours, too: its shim may live, and has to be waited for.
        Err(Damage::Version { .. }) => Ok(Some(Owner::Ours)),
        Err(Damage::Token { .. } | Damage::Content { .. }) => Ok(Some(Owner::Foreign)),
    }
}

fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." && !name.starts_with(REMOVED_BUT_OPEN) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes an `aside.<n>` with what is in it, `io/` included: links are unlinked, never followed.
fn remove_aside(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(parent, name, flags, Mode::empty())?;
    for inner in names(folder.as_fd())? {
        match unlinkat(&folder, &inner, AtFlags::empty()) {
            Ok(()) => {}
            Err(rustix::io::Errno::ISDIR) => remove_aside(folder.as_fd(), &inner)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Takes the lock of an open file for writing, as long as the file is open. False: somebody else has it.
///
/// An OFD lock, fcntl_locking(2): [`probe_lock`] sees it from another pid namespace, where flock(2) has no such question.
pub fn set_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    // SAFETY: the descriptor is open while it is borrowed, and `lock` is a valid `flock` for the duration of the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        Some(_) | None => Err(error),
    }
}

/// Whether somebody has the lock that [`set_lock`] takes. Asked without taking it.
pub fn probe_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut lock = whole_file_lock();
    // SAFETY: as in `set_lock`; the kernel writes the answer into `lock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(i32::from(lock.l_type) != libc::F_UNLCK) }
}

fn whole_file_lock() -> libc::flock {
    // SAFETY: `flock` is a plain C structure for which all zeroes is a valid value: the whole file, no process.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

#[cfg(test)]
mod tests {
    use super::records::tests::{claim, exit_record, run_record, token};
    use super::*;

    fn folder() -> (tempfile::TempDir, RunDir) {
        let home = tempfile::tempdir().unwrap();
        let run = RunDir::create(&home.path().join("report.42")).unwrap();
        (home, run)
    }

    fn names(run: &RunDir) -> Vec<String> {
        let mut names = run.names().unwrap();
        names.sort();
        names
    }

    #[test]
    fn one_of_two_claims_wins() {
        let (_home, run) = folder();
        assert!(run.claim(&claim(1)).unwrap());
        assert!(!run.claim(&claim(2)).unwrap());
        assert_eq!(run.read::<Claim>(&token(1)).unwrap(), Some(claim(1)));
        assert_eq!(names(&run), ["claim"]);
    }

    #[test]
    fn a15_what_a_process_with_the_same_pid_elsewhere_writes_is_left_alone() {
        let (home, run) = folder();
        let theirs = [format!("claim.{}", std::process::id()), "exit.json.new".to_owned()];
        let path = |name: &String| home.path().join("report.42").join(name);
        theirs.iter().for_each(|name| std::fs::write(path(name), "theirs").unwrap());
        assert!(run.claim(&claim(1)).unwrap());
        run.write(&exit_record()).unwrap();
        theirs.iter().for_each(|name| assert_eq!(std::fs::read_to_string(path(name)).unwrap(), "theirs"));
        run.settle().unwrap();
        assert_eq!(names(&run), ["exit.json"]);
    }

    #[test]
    fn the_lock_is_seen_by_a_probe_and_goes_with_its_holder() {
        let (_home, run) = folder();
        assert!(!run.is_locked().unwrap());
        let lock = run.lock().unwrap().unwrap();
        assert!(run.is_locked().unwrap());
        assert!(run.lock().unwrap().is_none());
        drop(lock);
        assert!(!run.is_locked().unwrap());
    }

    #[test]
    fn a_folder_is_ours_by_its_token_alone() {
        let (_home, run) = folder();
        assert_eq!(run.owner(&token(1)).unwrap(), Owner::Ours);
        run.write(&run_record()).unwrap();
        assert_eq!(run.owner(&token(1)).unwrap(), Owner::Ours);
        assert_eq!(run.owner(&token(2)).unwrap(), Owner::Foreign);
        let (_home, other) = folder();
        other.create_log(STDOUT).unwrap();
        assert_eq!(other.owner(&token(1)).unwrap(), Owner::Foreign);
    }

    #[test]
    fn aside_takes_all_but_the_lock_and_a_settled_folder_has_none() {
        let (_home, run) = folder();
        run.write(&run_record()).unwrap();
        run.claim(&claim(1)).unwrap();
        run.set_aside(&run.lock().unwrap().unwrap()).unwrap();
        assert_eq!(names(&run), ["aside.1", "lock"]);
        run.create_log(Started::FILE).unwrap();
        run.set_aside(&run.lock().unwrap().unwrap()).unwrap();
        assert_eq!(names(&run), ["aside.1", "lock"], "nothing had begun in the one before");
        run.write(&run_record()).unwrap();
        run.set_aside(&run.lock().unwrap().unwrap()).unwrap();
        assert_eq!(names(&run), ["aside.1", "aside.2", "lock"], "something may have begun in this one");
        run.write(&run_record()).unwrap();
        run.claim(&claim(1)).unwrap();
        run.settle().unwrap();
        assert_eq!(names(&run), ["aside.1", "aside.2", "claim", "run.json"]);
        run.write(&exit_record()).unwrap();
        run.create_log(STDOUT).unwrap();
        run.settle().unwrap();
        assert_eq!(names(&run), ["exit.json", "run.json", "stdout.log"]);
    }
}
