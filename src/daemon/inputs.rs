//! How long the inputs are kept that operators send along with a `start`, and which of them make room for others.
//!
//! An input is awaited from its admission to its start: if its connection ends before, it goes. From then on it is needed as
//! long as a run that was given it has not ended: its retries are runs of that kind, too. After a success it is removed.
//! After any other end it is kept for [`KEPT_FOR`], so that `batchd rerun` can use it again, unless there is no other room
//! for a new one: then the oldest of these go. What nobody has started when the daemon is killed is kept like them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tracing::{info, warn};

use super::Daemon;
use crate::clock;
use crate::model::input::{INPUT_BYTES_MAX, INPUTS, INPUTS_BYTES_MAX, INPUTS_MAX, InputId, UNFINISHED};
use crate::model::record::Record;
use crate::model::request::Request;
use crate::model::run::Run;
use crate::model::text::counted;
use crate::model::time::Instant;

/// How long the input of a run that did not succeed is kept: somebody has to see the failure first.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// So much of what inputs take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    bytes: u64,
    inputs: usize,
}

impl Room {
    /// For all inputs together.
    const ALL: Self = Self { bytes: INPUTS_BYTES_MAX, inputs: INPUTS_MAX };
    /// For what is there already.
    const ENDLESS: Self = Self { bytes: u64::MAX, inputs: usize::MAX };

    fn of(inputs: &[Kept]) -> Self {
        Self { bytes: inputs.iter().map(|input| input.bytes).sum(), inputs: inputs.len() }
    }

    /// What is left beside `inputs` and so many that are still to come, each as long as it may be. None: they don't fit.
    fn beside(self, inputs: &[Kept], to_come: usize) -> Option<Self> {
        let taken = Self::of(inputs);
        let bytes = self.bytes.checked_sub(taken.bytes)?.checked_sub(INPUT_BYTES_MAX * to_come as u64)?;
        Some(Self { bytes, inputs: self.inputs.checked_sub(taken.inputs)?.checked_sub(to_come)? })
    }
}

/// An input in the folder.
#[derive(Clone, Debug)]
struct Kept {
    id: InputId,
    bytes: u64,
    /// When it came, or when its last run ended.
    since: Instant,
}

/// Which of the inputs that no run needs go: those that were kept long enough, and the oldest until the others have room.
fn superfluous(mut idle: Vec<Kept>, now: Instant, room: Room) -> Vec<InputId> {
    idle.sort_by(|one, other| one.since.cmp(&other.since).then_with(|| one.id.cmp(&other.id)));
    let mut left = Room::of(&idle);
    idle.retain(|input| {
        let goes = now.since(input.since) > KEPT_FOR || left.bytes > room.bytes || left.inputs > room.inputs;
        if goes {
            left = Room { bytes: left.bytes - input.bytes, inputs: left.inputs - 1 };
        }
        goes
    });
    idle.into_iter().map(|input| input.id).collect()
}

/// An input that a run has, and whether the run succeeded if it has ended.
pub(super) type OfRun = (InputId, Option<bool>);

/// The inputs of the runs in these records.
pub(super) fn of_runs(records: &[Record]) -> Vec<OfRun> {
    let of_run = |record: &Record| match record {
        Record::Run(run) => Some((run.given.stored_input()?.clone(), run.end().map(|_| run.succeeded()))),
        _ => None,
    };
    records.iter().filter_map(of_run).collect()
}

impl Daemon {
    /// Which of the stored inputs that a request and the runs it is about name are there. A start has only one that nobody
    /// has started yet: the names of others are in the journal, and who reads them there may not read the inputs.
    pub(super) fn inputs_there(&self, request: &Request, history: &[Run]) -> BTreeSet<InputId> {
        let sent_along = match request {
            Request::Start { given, .. } => given.stored_input().filter(|id| self.awaited_inputs.contains(*id)),
            _ => None,
        };
        let named = history.iter().filter_map(|run| run.given.stored_input()).chain(sent_along);
        named.filter(|id| id.path(&self.paths.state).is_file()).cloned().collect()
    }

    /// Makes room for one more input. False: runs need all that there is.
    pub(super) fn admit_input(&mut self, input: InputId) -> bool {
        let (needed, idle) = self.kept_inputs();
        let has_come = |id: &InputId| needed.iter().any(|input| input.id == *id);
        let to_come = self.awaited_inputs.iter().filter(|id| !has_come(id)).count() + 1;
        let Some(room) = Room::ALL.beside(&needed, to_come) else { return false };
        let gone = superfluous(idle, clock::now(), room);
        if !gone.is_empty() {
            let inputs = counted(gone.len(), "stored input", "stored inputs");
            info!("removed {inputs} of runs that have ended, to make room for another");
        }
        self.remove_inputs(gone);
        self.awaited_inputs.insert(input);
        true
    }

    /// No start follows any more. One that has followed has taken the input over.
    pub(super) fn give_up_input(&mut self, input: InputId) {
        if self.awaited_inputs.remove(&input) {
            // In this order: who writes it renames it in the same.
            let path = input.unfinished_path(&self.paths.state);
            tell(&path, fs::remove_file(&path));
            self.remove_inputs([input]);
        }
    }

    /// The journal knows these runs.
    pub(super) fn note_inputs(&mut self, of_runs: &[OfRun]) {
        for (id, succeeded) in of_runs {
            self.awaited_inputs.remove(id);
            let Some(succeeded) = succeeded else { continue };
            if self.scheduler.live().any(|run| run.given.stored_input() == Some(id)) {
                continue;
            }
            let path = id.path(&self.paths.state);
            tell(&path, if *succeeded { fs::remove_file(&path) } else { touch(&path) });
        }
    }

    /// Removes what was kept long enough, and what was never finished.
    pub(super) fn tidy_inputs(&self) {
        let (_, idle) = self.kept_inputs();
        self.remove_inputs(superfluous(idle, clock::now(), Room::ENDLESS));
        for path in self.files_in_inputs().map(|entry| entry.path()) {
            let of = path.file_name().and_then(|name| name.to_str()?.strip_suffix(UNFINISHED)?.parse().ok());
            if of.is_some_and(|id| !self.awaited_inputs.contains(&id)) {
                tell(&path, fs::remove_file(&path));
            }
        }
    }

    fn remove_inputs(&self, inputs: impl IntoIterator<Item = InputId>) {
        for path in inputs.into_iter().map(|id| id.path(&self.paths.state)) {
            tell(&path, fs::remove_file(&path));
        }
    }

    /// The inputs that somebody needs or awaits, and the others.
    fn kept_inputs(&self) -> (Vec<Kept>, Vec<Kept>) {
        let of_runs = self.scheduler.live().filter_map(|run| run.given.stored_input());
        let needed: BTreeSet<&InputId> = of_runs.chain(&self.awaited_inputs).collect();
        let kept = |entry: fs::DirEntry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let since = Instant::from_ms(
                metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000),
            );
            Some(Kept { id, bytes: metadata.len(), since })
        };
        self.files_in_inputs().filter_map(kept).partition(|input| needed.contains(&input.id))
    }

    fn files_in_inputs(&self) -> impl Iterator<Item = fs::DirEntry> {
        // Without a folder, nobody has sent an input yet.
        fs::read_dir(self.paths.state.join(INPUTS)).into_iter().flatten().filter_map(Result::ok)
    }
}

/// The time for which it is kept begins now.
fn touch(path: &Path) -> io::Result<()> {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
    };
    Ok(rustix::fs::futimens(File::open(path)?, &times)?)
}

/// Logs what could not be done with an input, unless it is gone already.
fn tell(path: &Path, done: io::Result<()>) {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!("can't tidy the stored input {}: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_s(1_800_000_000);

    /// An input that is numbered, so long and kept for so long.
    fn kept(number: u128, bytes: u64, minutes: i64) -> Kept {
        Kept { id: InputId::of_random(number), bytes, since: Instant::from_ms(NOW.as_ms() - minutes * 60_000) }
    }

    fn check(idle: &[Kept], room: Room, expected: &[u128]) {
        let gone = superfluous(idle.to_vec(), NOW, room);
        assert_eq!(gone, expected.iter().map(|number| InputId::of_random(*number)).collect::<Vec<_>>(), "{room:?}");
    }

    #[test]
    fn the_oldest_go_until_the_rest_has_room() {
        let idle = [kept(1, 100, 20), kept(2, 50, 30), kept(3, 200, 0), kept(4, 7, 10)];
        let bytes = |bytes| Room { bytes, ..Room::ENDLESS };
        check(&idle, bytes(357), &[]);
        check(&idle, bytes(356), &[2]);
        check(&idle, bytes(307), &[2]);
        check(&idle, bytes(306), &[2, 1]);
        check(&idle, bytes(206), &[2, 1, 4]);
        check(&idle, bytes(0), &[2, 1, 4, 3]);
        let inputs = |inputs| Room { inputs, ..Room::ENDLESS };
        check(&idle, inputs(4), &[]);
        check(&idle, inputs(2), &[2, 1]);
        check(&idle, inputs(0), &[2, 1, 4, 3]);
        // Empty ones need no bytes, and go only in their turn.
        check(&[kept(1, 0, 9), kept(2, 0, 8), kept(3, 1, 7)], bytes(0), &[1, 2, 3]);
        check(&[kept(1, 1, 9), kept(2, 0, 8)], bytes(0), &[1]);
        check(&[], bytes(0), &[]);
    }

    #[test]
    fn what_was_kept_long_enough_goes_wherever_there_is_room() {
        let week = 7 * 24 * 60;
        check(&[kept(1, 1, week + 1), kept(2, 1, week), kept(3, 1, 9 * week), kept(4, 1, 0)], Room::ENDLESS, &[3, 1]);
        // A clock that was set back: it came later than now.
        check(&[kept(1, 1, -week), kept(2, 1, -9 * week)], Room::ENDLESS, &[]);
        check(&[kept(1, 1, -week), kept(2, 1, -9 * week)], Room { bytes: 1, inputs: 2 }, &[1]);
        // What is too old counts as gone.
        check(&[kept(1, 9, week + 1), kept(2, 1, 1)], Room { bytes: 1, inputs: 1 }, &[1]);
    }

    #[test]
    fn the_room_for_others_is_what_those_leave_that_are_needed_or_still_to_come() {
        let most = Kept { bytes: INPUT_BYTES_MAX, ..kept(1, 0, 0) };
        let beside = |needed: usize, to_come| Room::ALL.beside(&vec![most.clone(); needed], to_come);
        let left = |bytes: u64, inputs| Some(Room { bytes: bytes * INPUT_BYTES_MAX, inputs });
        assert_eq!(beside(0, 1), left(15, 999));
        assert_eq!(beside(10, 4), left(2, 986));
        assert_eq!(beside(15, 1), left(0, 984));
        assert_eq!(beside(16, 1), None);
        assert_eq!(beside(13, 4), None);
        let empty = vec![kept(1, 0, 0); 999];
        assert_eq!(Room::ALL.beside(&empty, 1), left(15, 0));
        assert_eq!(Room::ALL.beside(&empty, 2), None);
    }
}
