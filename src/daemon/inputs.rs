//! How long the inputs are kept that operators sent along with a `start`.
//!
//! An input is needed as long as a run that was given it has not ended: its retries are runs of that kind, too. After a
//! success it is removed. After any other end it is kept for [`KEPT_FOR`], so that `batchd rerun` can use it again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use super::Daemon;
use crate::api::inputs::{INPUTS_BYTES_MAX, UNFINISHED};
use crate::clock;
use crate::model::input::{INPUTS, InputId};
use crate::model::record::Record;
use crate::model::request::Request;
use crate::model::run::Run;
use crate::model::time::Instant;

/// How long the input of a run that did not succeed is kept: somebody has to see the failure first.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How old a file is that nobody is writing any more: no input takes that long to arrive.
const UNFINISHED_FOR: Duration = Duration::from_secs(60 * 60);
/// Without an input that runs need, the others may take half of the room; so there is always room for a new one.
const KEPT_BYTES_MAX: u64 = INPUTS_BYTES_MAX / 2;

/// An input whose run has ended, and whether the run succeeded.
pub(super) type Ended = (InputId, bool);

/// The inputs of the runs that end with these records.
pub(super) fn of_ended(records: &[Record]) -> Vec<Ended> {
    let ended = |record: &Record| match record {
        Record::Run(run) if run.end().is_some() => Some((run.given.stored_input()?.clone(), run.succeeded())),
        _ => None,
    };
    records.iter().filter_map(ended).collect()
}

/// A file in the folder of inputs.
struct Kept {
    path: PathBuf,
    bytes: u64,
    modified: Instant,
}

impl Daemon {
    /// Which of the stored inputs that a request and the runs it is about name are there.
    pub(super) fn inputs_there(&self, request: &Request, history: &[Run]) -> BTreeSet<InputId> {
        let sent_along = match request {
            Request::Start { given, .. } => given.stored_input(),
            _ => None,
        };
        let named = history.iter().filter_map(|run| run.given.stored_input()).chain(sent_along);
        named.filter(|id| id.path(&self.paths.state).is_file()).cloned().collect()
    }

    /// The runs of these inputs have ended, and the journal knows.
    pub(super) fn release_inputs(&self, ended: &[Ended]) {
        if ended.is_empty() {
            return;
        }
        let needed = self.needed_inputs();
        for (id, succeeded) in ended.iter().filter(|(id, _)| !needed.contains(id)) {
            let path = id.path(&self.paths.state);
            let done = if *succeeded { fs::remove_file(&path) } else { touch(&path) };
            tell(&path, done);
        }
        self.tidy_inputs(None);
    }

    /// Removes what no run needs: `unused`, what was kept long enough, and the oldest where all of it takes too much room.
    pub(super) fn tidy_inputs(&self, unused: Option<&InputId>) {
        let needed = self.needed_inputs();
        let path = |id: &InputId| id.path(&self.paths.state);
        if let Some(id) = unused.filter(|id| !needed.contains(id)) {
            tell(&path(id), fs::remove_file(path(id)));
        }
        let needed: BTreeSet<PathBuf> = needed.iter().map(path).collect();
        let now = clock::now();
        let mut kept = self.kept_inputs();
        kept.retain(|input| !needed.contains(&input.path));
        kept.sort_by_key(|input| input.modified);
        let mut bytes: u64 = kept.iter().map(|input| input.bytes).sum();
        for Kept { path, bytes: its, modified } in kept {
            let is_unfinished = path.to_string_lossy().ends_with(UNFINISHED);
            let age = now.since(modified);
            let is_old = age > if is_unfinished { UNFINISHED_FOR } else { KEPT_FOR };
            // A young one may be of a start that comes next.
            if is_old || (bytes > KEPT_BYTES_MAX && age > UNFINISHED_FOR) {
                tell(&path, fs::remove_file(&path));
                bytes -= its;
            }
        }
    }

    fn needed_inputs(&self) -> BTreeSet<InputId> {
        self.scheduler.live().filter_map(|run| run.given.stored_input()).cloned().collect()
    }

    fn kept_inputs(&self) -> Vec<Kept> {
        // Nobody has sent an input yet.
        let Ok(folder) = fs::read_dir(self.paths.state.join(INPUTS)) else { return Vec::new() };
        let kept = |entry: fs::DirEntry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(Kept { path: entry.path(), bytes: metadata.len(), modified: Instant::from_s(metadata.mtime()) })
        };
        folder.filter_map(Result::ok).filter_map(kept).collect()
    }
}

/// The time for which it is kept begins now.
fn touch(path: &PathBuf) -> io::Result<()> {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
    };
    Ok(rustix::fs::futimens(File::open(path)?, &times)?)
}

/// Logs what could not be done with an input, unless it is gone already.
fn tell(path: &std::path::Path, done: io::Result<()>) {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!("can't tidy the stored input {}: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}
