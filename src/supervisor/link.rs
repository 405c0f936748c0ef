//! The daemon's end of a launcher: starting one, handing it requests, reading its answers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::launcher::{self, Answer};
use super::order::Surroundings;
use crate::rundir::crash::CRASH_POINT;

/// A living launcher.
pub(super) struct Link {
    process: Child,
    socket: AsyncFd<OwnedFd>,
    unsent: VecDeque<u8>,
}

impl Link {
    /// Starts a launcher; `notices` is the pipe for the shims' notices.
    pub(super) fn start(around: &Surroundings, notices: &OwnedFd) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let mut command = Command::new(&around.program);
        command.arg(launcher::VERB).env_clear().stdin(theirs).stdout(Stdio::from(notices.try_clone()?));
        // Tests name a point; nothing else of our environment is for a launcher.
        command.envs(std::env::var_os(CRASH_POINT).map(|value| (CRASH_POINT, value)));
        // Before there is a process: one that nobody has a link to would stay behind as a zombie.
        let socket = super::watched(ours, Interest::READABLE | Interest::WRITABLE)?;
        let process = command.spawn()?;
        Ok(Self { process, socket, unsent: VecDeque::new() })
    }

    /// Hands over an order. What does not fit into the socket is sent by [`Self::next`].
    pub(super) fn send(&mut self, serial: u64, order: &[u8]) {
        self.unsent.extend(launcher::request_head(serial, order.len() as u32));
        self.unsent.extend(order);
        self.flush();
    }

    /// The next answer; sends what is unsent meanwhile. `None`: the launcher is gone. May be dropped and called anew.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        loop {
            let interest =
                if self.unsent.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let ready = self.socket.ready(interest).await.ok()?.ready();
            if ready.is_writable() {
                self.flush();
            }
            match self.socket.try_io(Interest::READABLE, |socket| launcher::read_answer(socket.as_fd())) {
                Ok(answer) => return answer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Writes what the socket takes.
    fn flush(&mut self) {
        while !self.unsent.is_empty() {
            let (first, _) = self.unsent.as_slices();
            match self.socket.try_io(Interest::WRITABLE, |socket| Ok(send(socket, first, SendFlags::NOSIGNAL)?)) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The launcher is gone: nothing can be sent any more. What it answered before is read, and then the
                // end.
                Err(_) => self.unsent.clear(),
            }
        }
    }
}

/// A launcher does not outlive its link: closing the socket ends it; one that has gone mad is killed.
impl Drop for Link {
    fn drop(&mut self) {
        // Neither can fail for a child that has not been waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
