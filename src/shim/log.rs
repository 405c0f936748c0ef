//! One file of a run's output while it is written: what other programs do to it meanwhile must not corrupt it, and
//! while it can't be written it is not open, so that removing it makes room.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

use crate::model::missing::{Cause, Missing};
use crate::rundir::access::Access;
use crate::rundir::{RunDir, sync_on_network};

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
    harm: Option<Cause>,
    /// Why a file server did not take all of it.
    refused: Option<Errno>,
}

impl Log {
    /// Makes it, empty.
    pub(super) fn create(run: &RunDir, name: &'static str, access: Access) -> io::Result<Self> {
        let file = run.create_log(name)?;
        access.apply_to_log(&file)?;
        let id = identity(file.as_fd())?;
        Ok(Self { name, access, file: Some(file), id, length: 0, lost: 0, harm: None, refused: None })
    }

    /// The file, at its end. `Errno::NOENT`: its folder is gone or something else is in its place, so that waiting is
    /// in vain.
    pub(super) fn at_end(&mut self, run: &RunDir) -> rustix::io::Result<BorrowedFd<'_>> {
        let file = match self.file.take() {
            Some(file) => self.replaced(run, file)?,
            None => self.reopen(run)?,
        };
        let length = length(file.as_fd())?;
        if length < self.length {
            self.harmed(Cause::Truncated, length);
            // Writing on where it was would leave a hole. (With O_APPEND splice(2) does not work.)
            seek(&file, SeekFrom::Start(length))?;
        }
        let file: &OwnedFd = self.file.insert(file);
        Ok(file.as_fd())
    }

    /// The open file; a new one if it was removed, since nobody would find what is written to it.
    fn replaced(&mut self, run: &RunDir, file: OwnedFd) -> rustix::io::Result<OwnedFd> {
        if fstat(&file)?.st_nlink > 0 {
            return Ok(file);
        }
        // Without one, for whatever reason, the old one is as good as it was.
        Ok(self.reopen(run).unwrap_or(file))
    }

    fn reopen(&mut self, run: &RunDir) -> rustix::io::Result<OwnedFd> {
        let file = run.reopen_log(self.name).map_err(|error| match Errno::from_io_error(&error) {
            // What is no regular file is the one error without a number.
            None | Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Errno::NOENT,
            Some(errno) => errno,
        })?;
        let id = identity(file.as_fd())?;
        if id != self.id {
            self.access.apply_to_log(&file)?;
            self.harmed(Cause::Removed, 0);
            self.id = id;
            // Another program may have written to the new one already.
            self.length = length(file.as_fd())?;
        }
        seek(&file, SeekFrom::End(0))?;
        Ok(file)
    }

    /// Only `length` of the bytes that were written are left.
    fn harmed(&mut self, harm: Cause, length: u64) {
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
        let is_closed = self.file.is_none();
        match self.at_end(run) {
            Ok(file) => {
                let is_removed = fstat(file).is_ok_and(|stat| stat.st_nlink == 0);
                let synced = sync_on_network(file);
                self.refused = synced.err().map(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
                // The last bytes went to a file that was removed, and that nothing could replace.
                if is_removed {
                    self.harmed(Cause::Removed, 0);
                }
            }
            // It is not there, and there is no room for an empty one in its place.
            Err(Errno::NOENT | Errno::NOSPC | Errno::DQUOT) if is_closed => self.harmed(Cause::Removed, 0),
            Err(_) => {}
        }
        self.close();
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
    pub(super) fn remarks(&self) -> impl Iterator<Item = String> {
        let missing = |cause| Missing { log: self.name.to_owned(), cause, bytes: self.lost }.to_string();
        let refused = self.refused.map(|error| {
            let error = io::Error::from(error);
            format!("{} may be incomplete: the file server refused a part of it: {error}", self.name)
        });
        self.harm.map(missing).into_iter().chain(refused)
    }
}

/// Device and inode.
fn identity(file: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    let stat = fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn length(file: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0))
}
