//! Room for the exit record, set aside when a run starts, so that its end can be written down on a full disk.
//!
//! The file becomes `exit.json`. Until then its second half can hold one line: what keeps the run from ending.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, fallocate, fstat, ftruncate, openat, renameat, statat, unlinkat,
};
use rustix::io::{Errno, pread, pwrite};

use super::RunDir;
use super::records::{self, ExitRecord, Record};

/// The file. Its ending makes it one of those that do not outlive the run.
const ROOM: &str = "exit.room.new";
/// An exit record takes less than 1 KiB, and a few more for the sentences in it with the paths that they name.
const ROOM_BYTES: u64 = 16 * 1024;
/// Where the line begins: in blocks of its own, since a file system that never writes a block twice needs new room
/// then.
const LINE_AT: u64 = ROOM_BYTES / 2;
/// The most bytes of the line.
const LINE_BYTES_MAX: usize = 4096;

/// The room of one run.
#[derive(Debug)]
pub struct Room {
    file: OwnedFd,
}

impl RunDir {
    /// Sets room aside for the exit record. On a file system that can't, there is none, and the file is there all the
    /// same.
    pub fn set_room_aside(&self) -> io::Result<Room> {
        match unlinkat(self, ROOM, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self, ROOM, flags, Mode::from_raw_mode(0o666))?;
        match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, ROOM_BYTES) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Room { file }),
            Err(error) => Err(error.into()),
        }
    }

    /// What keeps a living run from going on, if its shim says so.
    pub fn waits(&self) -> Option<String> {
        let file = super::open_at(self.as_fd(), ROOM).ok()?;
        let mut bytes = vec![0; LINE_BYTES_MAX];
        let count = pread(&file, &mut bytes[..], LINE_AT).ok()?;
        let line = bytes[..count].split(|byte| *byte == b'\n').next()?;
        (!line.is_empty()).then(|| String::from_utf8_lossy(line).into_owned())
    }

    /// Puts the exit record in place, in the room that was set aside for it.
    pub fn write_exit(&self, room: &Room, record: &ExitRecord) -> io::Result<()> {
        if !self.has(room)? {
            // Somebody removed the file or put another in its place.
            return self.write(record);
        }
        let bytes = records::encode(record);
        write_all_at(room, &bytes, 0)?;
        super::sync_on_network(room.file.as_fd())?;
        // Only now: what is cut off is room that others take at once.
        ftruncate(&room.file, bytes.len() as u64)?;
        Ok(renameat(self, ROOM, self, ExitRecord::FILE)?)
    }

    /// Whether the room is still in the folder under its name.
    fn has(&self, room: &Room) -> io::Result<bool> {
        let own = fstat(&room.file)?;
        match statat(self, ROOM, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Room {
    /// Says what keeps the run from going on; none: nothing any more.
    pub fn say(&self, line: Option<&str>) -> io::Result<()> {
        let mut bytes = line.unwrap_or_default().replace('\n', " ").into_bytes();
        bytes.truncate(LINE_BYTES_MAX - 1);
        bytes.push(b'\n');
        write_all_at(self, &bytes, LINE_AT)
    }
}

fn write_all_at(room: &Room, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = pwrite(&room.file, bytes, at)?;
        bytes = &bytes[count..];
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::{exit_record, token};
    use super::*;

    #[test]
    fn the_room_says_what_a_run_waits_for_and_becomes_its_end() {
        let home = tempfile::tempdir().unwrap();
        let run = RunDir::create(&home.path().join("report.42")).unwrap();
        let room = run.set_room_aside().unwrap();
        assert_eq!(run.waits(), None);
        room.say(Some("no\nspace")).unwrap();
        assert_eq!(run.waits().as_deref(), Some("no space"));
        room.say(None).unwrap();
        assert_eq!(run.waits(), None);
        room.say(Some("no space")).unwrap();
        run.write_exit(&room, &exit_record()).unwrap();
        assert_eq!(run.read::<ExitRecord>(&token(1)).unwrap(), Some(exit_record()));
        assert_eq!((run.waits(), run.names().unwrap()), (None, vec!["exit.json".to_owned()]));
    }

    #[test]
    fn an_end_is_written_down_without_the_room_too() {
        let home = tempfile::tempdir().unwrap();
        let run = RunDir::create(&home.path().join("report.42")).unwrap();
        let room = run.set_room_aside().unwrap();
        std::fs::remove_file(home.path().join("report.42/exit.room.new")).unwrap();
        run.write_exit(&room, &exit_record()).unwrap();
        assert_eq!(run.read::<ExitRecord>(&token(1)).unwrap(), Some(exit_record()));
    }
}
