//! One file of a run's output while it is written: what other programs do to it meanwhile must not corrupt it, and while it
//! can't be written it is not open, so that removing it makes room.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, SeekFrom, fstat, seek};
use rustix::io::Errno;

use crate::rundir::RunDir;
use crate::rundir::access::Access;

/// A file that grows at its end only.
pub(super) struct Log {
    name: &'static str,
    access: Access,
    /// None while it is closed.
    file: Option<OwnedFd>,
    /// Device and inode of the file that was written last.
    id: (u64, u64),
    /// The bytes that were written to it and are still there as far as anybody knows.
    length: u64,
    /// The bytes that other programs removed.
    lost: u64,
    /// What another program did to it.
    harm: Option<Harm>,
}

/// What another program did to a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    Truncated,
    Removed,
}

impl Log {
    /// Makes it, empty.
    pub(super) fn create(run: &RunDir, name: &'static str, access: Access) -> io::Result<Self> {
        let file = run.create_log(name)?;
        access.apply_to_log(&file)?;
        let id = identity(file.as_fd())?.0;
        Ok(Self { name, access, file: Some(file), id, length: 0, lost: 0, harm: None })
    }

    /// The file, at its end. `Errno::NOENT`: its folder is gone, and nothing will ever be written.
    pub(super) fn at_end(&mut self, run: &RunDir) -> rustix::io::Result<BorrowedFd<'_>> {
        let file = match self.file.take() {
            // What nobody can find any more is not worth writing to.
            Some(file) if fstat(&file)?.st_nlink > 0 => file,
            Some(_) | None => self.reopen(run)?,
        };
        let length = length(file.as_fd())?;
        if length < self.length {
            self.harmed(Harm::Truncated, length);
            // Writing on where it was would leave a hole. (With O_APPEND splice(2) does not work.)
            seek(&file, SeekFrom::Start(length))?;
        }
        let file: &OwnedFd = self.file.insert(file);
        Ok(file.as_fd())
    }

    fn reopen(&mut self, run: &RunDir) -> rustix::io::Result<OwnedFd> {
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let file = run.reopen_log(self.name).map_err(errno)?;
        let (id, is_file) = identity(file.as_fd())?;
        if !is_file {
            return Err(Errno::INVAL);
        }
        if id != self.id {
            self.harmed(Harm::Removed, 0);
            self.access.apply_to_log(&file)?;
            self.id = id;
            // Another program may have written to the new one already.
            self.length = length(file.as_fd())?;
        }
        seek(&file, SeekFrom::End(0))?;
        Ok(file)
    }

    /// Only `length` of the bytes that were written are left.
    fn harmed(&mut self, harm: Harm, length: u64) {
        if self.length > length {
            self.harm = Some(harm);
        }
        self.lost += self.length.saturating_sub(length);
        self.length = length;
    }

    /// So many bytes were written.
    pub(super) fn grew(&mut self, count: u64) {
        self.length += count;
    }

    /// Closes it: while something waits for room, it must not be what takes the room.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Looks at the file for the last time.
    pub(super) fn finish(&mut self, run: &RunDir) {
        self.close();
        match run.length(self.name) {
            Some(length) if length < self.length => self.harmed(Harm::Truncated, length),
            Some(_) => {}
            None => {
                self.harmed(Harm::Removed, 0);
                // An empty one, as the record will say. If there is no room for that either, who looks for it finds none.
                let made = run.create_log(self.name);
                let _ = made.map(|file| self.access.apply_to_log(file));
            }
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The bytes in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The bytes that other programs removed from it.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// What an operator should know of it.
    pub(super) fn remark(&self) -> Option<String> {
        let did = match self.harm? {
            Harm::Truncated => "truncated",
            Harm::Removed => "removed",
        };
        Some(format!("{} was {did} by another program while the run wrote to it", self.name))
    }
}

/// Device and inode, and whether it is a regular file.
fn identity(file: BorrowedFd<'_>) -> rustix::io::Result<((u64, u64), bool)> {
    let stat = fstat(file)?;
    Ok(((stat.st_dev, stat.st_ino), FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile))
}

fn length(file: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0))
}
