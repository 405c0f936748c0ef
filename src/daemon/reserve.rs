//! The reserve, `state/reserve`: room on the journal's disk that nothing else can take.
//!
//! It is given up when a commit finds the disk full, so that what happens can still be recorded, and made again when there
//! is room. It does not know what starts or waits; it knows whether there is room.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use rustix::io::Errno;

/// A commit writes some eight pages of 4 KiB. So this is room for about 250 of them: the ends of all runs that are under
/// way at a time (`max_running` is 100), and hours of what falls due meanwhile.
pub(super) const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// It is made again when so much is free: if it took all that there is, the next start would find the disk full again.
pub(super) const FREE_BYTES_MIN: u64 = 2 * RESERVE_BYTES;

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

    /// Makes it, if it is not there whole. An error means that there is no room for it now. A file system that can't set room
    /// aside has no reserve, and goes without one.
    pub(super) fn make(&self) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600))
            .and_then(|file| fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES));
        match made {
            Ok(()) => Ok(()),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS)) => {
                // A part of it would be room that nobody has.
                let _ = fs::remove_file(&self.path);
                Err(error.into())
            }
            Err(error) => {
                let _ = fs::remove_file(&self.path);
                tracing::info!("can't reserve space for the journal in {}: {error}", self.path.display());
                Ok(())
            }
        }
    }

    /// As [`Self::make`], when it has been given up: only if enough stays free beside it.
    pub(super) fn make_again(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let stat = rustix::fs::statvfs(folder)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free.saturating_add(self.handed_over()?) < FREE_BYTES_MIN {
            return Err(Errno::NOSPC.into());
        }
        self.take_back()?;
        // If somebody was faster, the journal keeps what it had.
        self.make().inspect_err(|_| drop(self.hand_over()))
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

    /// What is still set aside there.
    fn handed_over(&self) -> io::Result<u64> {
        let metadata = fs::metadata(&self.wal)?;
        Ok((metadata.blocks() * STAT_BLOCK_BYTES).saturating_sub(metadata.len()))
    }

    /// Ends that: to cut a file off where it ends frees what is behind it.
    fn take_back(&self) -> io::Result<()> {
        let wal = File::options().append(true).open(&self.wal)?;
        wal.set_len(wal.metadata()?.len())
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
        reserve.make_again().unwrap();
        assert!(room(&file) >= RESERVE_BYTES);
        assert!(room(&wal) < RESERVE_BYTES, "{}", room(&wal));
        assert_eq!(fs::read(&wal).unwrap(), b"frames");
    }
}
