//! Waiting for what happens outside the daemon: the end of a process, a file, a word of a script.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, inotify, mknodat, openat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::PATIENCE;

/// Whether the descriptor has something within `patience`.
fn readable(descriptor: &impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// Whether the process ends within `patience`.
pub fn exits(child: &Child, patience: Duration) -> bool {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    readable(&handle, patience)
}

/// Whether this process, not a child of the test, ends in time.
pub fn gone(pid: i32) -> bool {
    // An error: it has ended already.
    pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).map_or(true, |handle| readable(&handle, PATIENCE))
}

/// Waits until there is a file at `path`.
#[track_caller]
pub fn file(path: &Path) {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let changes = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, path.parent().unwrap(), changes).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(readable(&watch, left), "{} never came", path.display());
        rustix::io::read(&watch, &mut [const { MaybeUninit::<u8>::uninit() }; 4096]).unwrap();
    }
}

/// A named pipe that the test has open at both ends, so that nobody waits for anybody to open it.
pub struct Pipe {
    path: PathBuf,
    file: File,
}

impl Pipe {
    pub fn new(path: &Path) -> Self {
        let everybody = Mode::from_raw_mode(0o666);
        mknodat(CWD, path, FileType::Fifo, everybody, 0).unwrap();
        rustix::fs::chmodat(CWD, path, everybody, rustix::fs::AtFlags::empty()).unwrap();
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self { path: path.to_owned(), file: File::from(openat(CWD, path, flags, Mode::empty()).unwrap()) }
    }

    /// Waits for a line that a script writes, and gives it.
    #[track_caller]
    pub fn hear(&self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            assert!(readable(&self.file, PATIENCE), "nothing came through {}", self.path.display());
            let mut byte = [0];
            (&self.file).read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        line.pop();
        String::from_utf8(line).unwrap()
    }

    /// Writes a line, for which a script waits with `read`.
    pub fn tell(&self) {
        (&self.file).write_all(b"go\n").unwrap();
    }
}
