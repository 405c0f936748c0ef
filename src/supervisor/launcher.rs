//! The launcher: a small single-threaded process that forks a shim for each request.
//!
//! It pays once for what exec and the dynamic linker would cost twice a run. It reads no request: it hands it to a
//! shim, answers with the shim's pid and a handle on it, and forgets. One shim is forked ahead and waits for its order,
//! so that no run waits for a fork. When the daemon's end of its socket closes, the launcher ends, and the shim without
//! an order too.

use std::io::{self, BufReader, IoSlice, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::rundir::crash::{CrashPoint, crash_point};
use crate::shim::sys::{self, Forked};

/// The verb, in place of one of the command line's, with which this program becomes a launcher.
pub const VERB: &str = "launcher";

/// What the system shows as its name.
pub const PROCESS_NAME: &str = "batchd-launcher";

/// The most bytes of an order: execve(2) takes far less, so nothing that could run is longer.
pub const ORDER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A request: the serial of an order, its length, and then the order itself.
pub(super) const REQUEST_HEAD_BYTES: usize = 12;
/// An answer: the serial of the order, and an error number or 0.
const ANSWER_BYTES: usize = 12;

/// The launcher's answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
    /// Of the order.
    pub(super) serial: u64,
    /// A handle on the shim that has it, none if there was no descriptor for one; or why there is no shim.
    pub(super) shim: io::Result<Option<OwnedFd>>,
}

/// The head of a request, to be followed by `length` bytes.
pub(super) fn request_head(serial: u64, length: u32) -> [u8; REQUEST_HEAD_BYTES] {
    let mut head = [0; REQUEST_HEAD_BYTES];
    head[..8].copy_from_slice(&serial.to_le_bytes());
    head[8..].copy_from_slice(&length.to_le_bytes());
    head
}

/// The life of a launcher. Its stdin is one end of a socket pair, its stdout the pipe for the shims' notices.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads the daemon's errors may be gone, or its disk full: that must not be another fault.
            let _ = writeln!(io::stderr(), "batchd launcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    sys::set_process_name(c"batchd-launcher");
    // Fails only for the leader of a process group, who was not started by a daemon.
    rustix::process::setsid()?;
    sys::block_all_signals();
    sys::reset_all_dispositions();
    for signal in crate::shim::IGNORED_SIGNALS {
        sys::set_disposition(signal, libc::SIG_IGN);
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let notices = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::duplicate_onto(null.as_fd(), 0)?;
    sys::duplicate_onto(null.as_fd(), 1)?;
    drop(null);
    crate::shim::warm_up();
    // A clone of the descriptor to read from: what is read ahead is a request not yet forked, and dropped at the end.
    let mut requests = BufReader::new(std::fs::File::from(socket.try_clone()?));
    // If none can be forked now, the next request says so.
    let mut ahead = Waiting::fork(notices.as_fd()).ok();
    while let Some((serial, order)) = next_request(&mut requests)? {
        crash_point(CrashPoint::LauncherRequestRead);
        if is_deserted(&socket)? {
            return Ok(());
        }
        match give_order(ahead.take(), &order, notices.as_fd()) {
            Ok(handle) => {
                crash_point(CrashPoint::LauncherForked);
                answer(&socket, serial, handle.as_ref(), 0)?;
            }
            Err(error) => answer(&socket, serial, None, error.raw_os_error().unwrap_or(libc::EAGAIN))?,
        }
        ahead = Waiting::fork(notices.as_fd()).ok();
    }
    Ok(())
}

/// A shim that waits for its order.
struct Waiting {
    /// The way for the order; closed without one, the shim ends.
    orders: OwnedFd,
    /// None if no descriptor could be had.
    handle: Option<OwnedFd>,
}

impl Waiting {
    fn fork(notices: BorrowedFd<'_>) -> io::Result<Self> {
        let (orders, orders_in) = pipe_with(PipeFlags::CLOEXEC)?;
        match sys::fork()? {
            Forked::Child => {
                close_inherited(notices, orders.as_fd());
                crate::shim::await_order(orders, notices)
            }
            Forked::Parent(pid) => {
                let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                Ok(Self { orders: orders_in, handle })
            }
        }
    }

    /// Gives it its order. An error means that it has been killed meanwhile.
    fn give(self, mut order: &[u8]) -> io::Result<Option<OwnedFd>> {
        while !order.is_empty() {
            let count = rustix::io::write(&self.orders, order)?;
            order = &order[count..];
        }
        Ok(self.handle)
    }
}

/// Gives an order to the shim that was forked ahead; if there is none, or somebody has killed it, to a new one.
fn give_order(ahead: Option<Waiting>, order: &[u8], notices: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match ahead.map(|ahead| ahead.give(order)) {
        Some(Ok(handle)) => Ok(handle),
        // It has not had the whole order, so it does nothing with it.
        Some(Err(_)) | None => Waiting::fork(notices)?.give(order),
    }
}

/// The next order with its serial; none when the daemon is gone, be it in the middle of one.
fn next_request(requests: &mut impl Read) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut head = [0; REQUEST_HEAD_BYTES];
    let mut read = |bytes: &mut [u8]| match requests.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error),
    };
    if !read(&mut head)? {
        return Ok(None);
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    if length > ORDER_BYTES_MAX {
        return Err(io::Error::other(format!("a request of {length} bytes is not a daemon's")));
    }
    let mut order = vec![0; length];
    let serial = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    Ok(read(&mut order)?.then_some((serial, order)))
}

/// Whether the daemon is gone. What it asked for before is for the next daemon to ask for again.
fn is_deserted(socket: &OwnedFd) -> io::Result<bool> {
    let mut descriptors = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(descriptors[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

/// A shim keeps nothing that the launcher has but the pipe for notices and that for its order: not the socket, whose
/// end must be the daemon's to see, and not the terminal or file to which the daemon's errors go.
fn close_inherited(notices: BorrowedFd<'_>, orders: BorrowedFd<'_>) {
    let mut kept = [notices.as_raw_fd() as u32, orders.as_raw_fd() as u32];
    kept.sort_unstable();
    let [first, second] = kept;
    // They can fail only if the arguments are wrong, or if there is nothing between two neighbours.
    let _ = sys::duplicate_onto(sys::null(), 2);
    let _ = sys::close_range(3, first - 1);
    let _ = sys::close_range(first + 1, second - 1);
    let _ = sys::close_range(second + 1, u32::MAX);
}

/// Tells the daemon what became of a request. An error means that it is gone.
fn answer(socket: &OwnedFd, serial: u64, handle: Option<&OwnedFd>, errno: i32) -> io::Result<()> {
    let mut bytes = [0; ANSWER_BYTES];
    bytes[..8].copy_from_slice(&serial.to_le_bytes());
    bytes[8..].copy_from_slice(&errno.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let handles = handle.map(|handle| [handle.as_fd()]);
    if let Some(handles) = &handles {
        ancillary.push(SendAncillaryMessage::ScmRights(handles));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads one answer, without waiting. `None`: the launcher is gone.
pub(super) fn read_answer(socket: BorrowedFd<'_>) -> io::Result<Option<Answer>> {
    let mut bytes = [0; ANSWER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    // It is written in one piece, and a socket gives it back in one: less is the end.
    if received.bytes < ANSWER_BYTES {
        return Ok(None);
    }
    let mut handle = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut handles) = message {
            handle = handles.next();
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7, errno @ ..] = bytes;
    let shim = match i32::from_le_bytes(errno) {
        0 => Ok(handle),
        errno => Err(io::Error::from_raw_os_error(errno)),
    };
    Ok(Some(Answer { serial: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), shim }))
}
