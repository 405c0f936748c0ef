//! What a script reads: its stdin, and the files of its upstreams in `io/inputs/`.
//!
//! An output is believed only in exactly the length that the journal records, looked at on the descriptor that is read.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fchown, fstat, mkdirat, openat, symlinkat};
use rustix::process::{Gid, Uid};

use super::Refusal;
use super::order::{Order, Stdin};
use super::user::User;
use crate::model::id::RunId;
use crate::model::launch::UpstreamEnd;
use crate::model::run::Outcome;
use crate::model::text::counted;
use crate::rundir::{IO, RunDir, STDERR, STDOUT};

/// The folder of the upstreams' files, in `io/`.
const INPUTS: &str = "inputs";
/// The file in `io/` that outputs are copied into, when stdin can't be one that exists.
const INPUT: &str = "input";

/// What was made ready.
pub(super) struct Inputs {
    /// The script's stdin.
    pub(super) stdin: OwnedFd,
    /// The variables that say where the rest is.
    pub(super) variables: Vec<(String, String)>,
}

/// Makes `io/` and everything in it that the order asks for.
pub(super) fn prepare(run: &RunDir, run_path: &Path, order: &Order, user: Option<&User>) -> Result<Inputs, Refusal> {
    let place = Place { order, user, folder: make_folder(run.as_fd(), IO, user)?, path: run_path.join(IO) };
    let mut variables = Vec::new();
    if !order.upstreams.is_empty() {
        let folder = make_folder(place.folder.as_fd(), INPUTS, user)?;
        for upstream in &order.upstreams {
            place.offer(&folder, upstream)?;
        }
        variables.push(("BATCHD_INPUT_DIR".to_owned(), text(&place.path.join(INPUTS))));
    }
    let (stdin, path) = match &order.stdin {
        Stdin::Empty => (place.open(Path::new("/dev/null"))?, None),
        Stdin::Run(end) => place.whole_output(end, None)?,
        Stdin::Upstreams => match order.upstreams.as_slice() {
            [only] => place.whole_output(only, Some(format!("{INPUTS}/{}.out", only.run.batch)))?,
            several => place.concatenation(several)?,
        },
        Stdin::File(path) => place.file(path)?,
    };
    variables.extend(path.map(|path| ("BATCHD_INPUT".to_owned(), text(&path))));
    Ok(Inputs { stdin, variables })
}

struct Place<'a> {
    order: &'a Order,
    /// Set if the script is another's than the shim's: then nothing of ours is readable for it, and it gets copies.
    user: Option<&'a User>,
    /// `io/`.
    folder: OwnedFd,
    path: PathBuf,
}

impl Place<'_> {
    /// `<batch>.out`, `<batch>.err` and `<batch>.outcome` of one upstream. What it has no log of is empty.
    fn offer(&self, folder: &OwnedFd, upstream: &UpstreamEnd) -> Result<(), Refusal> {
        let batch = &upstream.run.batch;
        for (ending, log) in [("out", STDOUT), ("err", STDERR)] {
            let source = self.log(&upstream.output_of, log);
            let name = format!("{batch}.{ending}");
            match (self.user, open_file(&source)) {
                (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => drop(self.create(folder, &name)?),
                (_, Err(error)) => return Err(Refusal::io(&format!("open {}", source.display()), error)),
                (None, Ok(_)) => {
                    let target = format!("../../../{}/{log}", upstream.output_of);
                    symlinkat(&target, folder, &name).map_err(|e| Refusal::io("link an input", e.into()))?;
                }
                (Some(_), Ok(file)) => {
                    let mut copy = self.create(folder, &name)?;
                    copy_all(&mut File::from(file), &mut copy)?;
                }
            }
        }
        let mut file = self.create(folder, &format!("{batch}.outcome"))?;
        writeln!(file, "{}", upstream.outcome).map_err(|e| Refusal::io("write the outcome of an input", e))
    }

    /// One run's stdout as it is; `link` is where in `io/` the script already finds it.
    fn whole_output(&self, end: &UpstreamEnd, link: Option<String>) -> Result<(OwnedFd, Option<PathBuf>), Refusal> {
        if never_ran(end) {
            return self.copied(Vec::new());
        }
        let stdin = self.verified(end)?;
        let path = match (link, self.user) {
            (Some(link), _) => self.path.join(link),
            (None, None) => self.log(&end.output_of, STDOUT),
            (None, Some(_)) => return self.copied(vec![stdin]),
        };
        Ok((stdin, Some(path)))
    }

    /// The outputs of several runs, one after the other, in a file of their own.
    fn concatenation(&self, ends: &[UpstreamEnd]) -> Result<(OwnedFd, Option<PathBuf>), Refusal> {
        let outputs: Result<Vec<OwnedFd>, Refusal> =
            ends.iter().filter(|end| !never_ran(end)).map(|end| self.verified(end)).collect();
        self.copied(outputs?)
    }

    /// A file that an operator named.
    fn file(&self, path: &Path) -> Result<(OwnedFd, Option<PathBuf>), Refusal> {
        let opened = openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.map_err(io::Error::from).and_then(regular);
        let file = opened.map_err(|e| Refusal::input(format!("input {} can't be read: {e}", path.display())))?;
        if self.user.is_some() { self.copied(vec![file]) } else { Ok((file, Some(path.to_owned()))) }
    }

    fn copied(&self, sources: Vec<OwnedFd>) -> Result<(OwnedFd, Option<PathBuf>), Refusal> {
        let mut copy = self.create(&self.folder, INPUT)?;
        for source in sources {
            copy_all(&mut File::from(source), &mut copy)?;
        }
        // Through its descriptor: the folder is the script's user's, who may have put a link in the file's place by
        // now.
        let stdin = self.open(Path::new(&format!("/proc/self/fd/{}", copy.as_raw_fd())))?;
        Ok((stdin, Some(self.path.join(INPUT))))
    }

    /// A run's stdout, if it is what the journal says of it.
    fn verified(&self, end: &UpstreamEnd) -> Result<OwnedFd, Refusal> {
        let run = &end.output_of;
        let incomplete = |what: String| Refusal::input(format!("output of {run} {what}"));
        let exit = end
            .exit
            .as_ref()
            .ok_or_else(|| incomplete("is unknown, because the end of the run was never recorded".to_owned()))?;
        if exit.stdout_dropped_bytes > 0 {
            let dropped = counted(exit.stdout_dropped_bytes, "byte", "bytes");
            return Err(incomplete(format!("lacks {dropped}; `batchd show {run}` says why")));
        }
        let file = open_file(&self.log(run, STDOUT)).map_err(|e| incomplete(format!("can't be opened: {e}")))?;
        let length = fstat(&file).map_err(|e| Refusal::io("examine an input", e.into()))?.st_size;
        if u64::try_from(length) != Ok(exit.stdout_bytes) {
            return Err(incomplete(format!("has {length} bytes instead of {}", exit.stdout_bytes)));
        }
        Ok(file)
    }

    fn log(&self, run: &RunId, name: &str) -> PathBuf {
        self.order.runs.join(run.to_string()).join(name)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Refusal> {
        let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        file.map_err(|e| Refusal::io(&format!("open {}", path.display()), e.into()))
    }

    /// A new file that belongs to the script's user.
    fn create(&self, folder: &OwnedFd, name: &str) -> Result<File, Refusal> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::from_raw_mode(0o600));
        let file = file.map_err(|e| Refusal::io("create an input file", e.into()))?;
        give(file.as_fd(), self.user)?;
        Ok(File::from(file))
    }
}

/// Whether nothing of it has run: then its output is empty, and known to be. An `independent` batch goes on with what
/// the others have written. Only of a run that is lost nobody knows.
fn never_ran(end: &UpstreamEnd) -> bool {
    match end.outcome {
        Outcome::Aborted | Outcome::Skipped | Outcome::Missed => true,
        Outcome::Failed | Outcome::Cancelled => end.exit.is_none(),
        Outcome::Succeeded | Outcome::TimedOut | Outcome::Lost => false,
    }
}

fn make_folder(parent: BorrowedFd<'_>, name: &str, user: Option<&User>) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    mkdirat(parent, name, Mode::from_raw_mode(0o777)).map_err(|e| Refusal::io("create io/", e.into()))?;
    let folder = openat(parent, name, flags, Mode::empty()).map_err(|e| Refusal::io("open io/", e.into()))?;
    give(folder.as_fd(), user)?;
    Ok(folder)
}

fn give(file: BorrowedFd<'_>, user: Option<&User>) -> Result<(), Refusal> {
    let Some(user) = user else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    fchown(file, Some(uid), Some(gid)).map_err(|e| Refusal::io("give a file to the script's user", e.into()))
}

/// Opens a log of a run: a regular file, no link, never blocking.
fn open_file(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    regular(openat(CWD, path, flags, Mode::empty())?)
}

fn regular(file: OwnedFd) -> io::Result<OwnedFd> {
    let regular = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
    if regular { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")) }
}

fn copy_all(from: &mut File, to: &mut File) -> Result<(), Refusal> {
    io::copy(from, to).map(drop).map_err(|error| {
        // Half an input is of no use to anybody, and a disk that it has filled is in everybody's way.
        let _ = to.set_len(0);
        Refusal::io("copy an input", error)
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
