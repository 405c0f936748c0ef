//! The reserve, `state/reserve`: room on the journal's disk that nothing else can take.
//!
//! It is given up when a commit finds the disk full, so that what happens can still be recorded, and made again when there
//! is room. It does not know what starts or waits; it knows whether there is room.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use rustix::io::Errno;

use crate::shim::shortage::said;

/// A commit writes some eight pages of 4 KiB. So this is room for about 250 of them: the ends of all runs that are under
/// way at a time (`max_running` is 100), and hours of what falls due meanwhile.
pub(super) const RESERVE_BYTES: u64 = 8 * MIB;
/// So much is free beside it when it is made: if it took all that there is, the next start would find the disk full again.
const BESIDE_BYTES: u64 = MIB;

const MIB: u64 = 1024 * 1024;
/// In such blocks stat(2) counts what a file takes.
const STAT_BLOCK_BYTES: u64 = 512;

/// The file in `state/`.
const RESERVE: &str = "reserve";

/// The reserve of one journal.
pub(super) struct Reserve {
    path: PathBuf,
    /// What gets its room.
    wal: PathBuf,
}

impl Reserve {
    /// Of the journal in this state folder. Makes nothing yet.
    pub(super) fn of(state: &Path, journal: &Path) -> Self {
        let mut wal = journal.as_os_str().to_owned();
        wal.push("-wal");
        Self { path: state.join(RESERVE), wal: wal.into() }
    }

    /// Makes it, if it is not there whole, out of what is free and what was handed over to the journal. A file system that
    /// can't set room aside has no reserve, and goes without one.
    pub(super) fn make(&self) -> Result<(), Short> {
        let is_there = fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() >= RESERVE_BYTES);
        if is_there && self.allocate().is_ok() {
            return Ok(());
        }
        let short = self.look();
        if short.error.is_some() || !short.is_enough(0) {
            return Err(short);
        }
        let made = self.take_back().and_then(|()| self.allocate());
        made.map_err(|error| {
            // If somebody was faster, the journal keeps what it had.
            let _ = self.hand_over();
            Short { error: Some(error), ..short }
        })
    }

    /// How much room there is for it.
    pub(super) fn look(&self) -> Short {
        let state = self.path.parent().unwrap_or(Path::new("."));
        let stat = rustix::fs::statvfs(state);
        let free = stat.as_ref().map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let (held, frames) = self.held();
        Short { state: state.to_owned(), free, held, frames, error: stat.err().map(Into::into) }
    }

    fn allocate(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600))
            .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES));
        let Err(error) = made else { return Ok(()) };
        // A part of it would be room that nobody has.
        let _ = fs::remove_file(&self.path);
        match error {
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS => Err(error.into()),
            error => {
                tracing::info!("can't reserve space for the journal in {}: {error}", self.path.display());
                Ok(())
            }
        }
    }

    /// Gives it up to whoever comes first: to open the journal, SQLite needs room beside its `-wal` file too. False: there was
    /// none.
    pub(super) fn release(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// Gives it up to the journal. False: there was none.
    pub(super) fn give_up(&self) -> bool {
        let given_up = self.release();
        if given_up {
            // Scripts that wait for room to write would have taken it within a second. Where it can't be handed over, it is
            // there for whoever comes first.
            let _ = self.hand_over();
        }
        given_up
    }

    /// Sets the room aside behind what is in the journal's `-wal` file. (SQLite holds no lock on that file, so that to open
    /// and close it here loses none; and the one thread that writes to it is the caller's.)
    fn hand_over(&self) -> io::Result<()> {
        let wal = File::options().append(true).open(&self.wal)?;
        let length = wal.metadata()?.len();
        Ok(fallocate(&wal, FallocateFlags::KEEP_SIZE, length, RESERVE_BYTES)?)
    }

    /// What is still set aside behind the journal's `-wal` file, and the length of that. Without the file: nothing.
    fn held(&self) -> (u64, u64) {
        fs::metadata(&self.wal).map_or((0, 0), |metadata| {
            let length = metadata.len();
            ((metadata.blocks() * STAT_BLOCK_BYTES).saturating_sub(length), length)
        })
    }

    /// Ends that: to cut a file off where it ends frees what is behind it.
    fn take_back(&self) -> io::Result<()> {
        match File::options().append(true).open(&self.wal) {
            Ok(wal) => wal.set_len(wal.metadata()?.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Why there is no reserve: for people, why nothing starts.
#[derive(Debug)]
pub(super) struct Short {
    state: PathBuf,
    /// What df(1) shows.
    free: u64,
    /// What the journal holds of a reserve that was given up.
    held: u64,
    /// What is in its `-wal` file.
    frames: u64,
    /// Another reason than these numbers.
    error: Option<io::Error>,
}

impl Short {
    /// Whether there would be enough if the journal emptied its `-wal` file.
    pub(super) fn is_enough_with_frames(&self) -> bool {
        self.error.is_none() && self.is_enough(self.frames)
    }

    fn is_enough(&self, more: u64) -> bool {
        self.free.saturating_add(more) >= self.needed()
    }

    /// How much has to be free, as df(1) shows it.
    fn needed(&self) -> u64 {
        (RESERVE_BYTES + BESIDE_BYTES).saturating_sub(self.held)
    }
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, free, error, .. } = self;
        let state = state.display();
        match error {
            None => {
                // Half a MiB more: the sentence stays the same while the first commits take from what is held.
                let needed = (self.needed() + MIB / 2).div_ceil(MIB);
                write!(
                    f,
                    "the disk of {state} is full ({} MiB free): nothing starts until {needed} MiB are free",
                    free / MIB
                )
            }
            Some(error) => write!(
                f,
                "can't reserve {} MiB in {state} for the journal, and nothing starts until then: {}",
                RESERVE_BYTES / MIB,
                said(error)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file takes on the disk.
    fn room(path: &Path) -> u64 {
        fs::metadata(path).map_or(0, |metadata| metadata.blocks() * STAT_BLOCK_BYTES)
    }

    #[test]
    fn its_room_goes_to_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let (file, wal) = (folder.path().join("reserve"), folder.path().join("journal.db-wal"));
        let reserve = Reserve::of(folder.path(), &folder.path().join("journal.db"));
        fs::write(&wal, "frames").unwrap();
        assert!(!reserve.give_up());
        for _ in 0..2 {
            reserve.make().unwrap();
            assert_eq!(fs::metadata(&file).unwrap().len(), RESERVE_BYTES);
            assert!(room(&file) >= RESERVE_BYTES);
        }
        assert!(reserve.give_up());
        assert!(!file.exists());
        assert!(room(&wal) >= RESERVE_BYTES, "{}", room(&wal));
        assert_eq!(fs::read(&wal).unwrap(), b"frames", "it is as long as it was");
        reserve.make().unwrap();
        assert!(room(&file) >= RESERVE_BYTES);
        assert!(room(&wal) < RESERVE_BYTES, "{}", room(&wal));
        assert_eq!(fs::read(&wal).unwrap(), b"frames");
    }
}
