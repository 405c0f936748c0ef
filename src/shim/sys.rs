//! The calls of the C library that no safe crate offers, each behind a safe function. Only for single-threaded
//! processes: the launcher, the shims, and the scripts' processes before exec.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a [`fork`] one is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's pid.
    Parent(i32),
}

/// fork(2).
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the callers are single-threaded, so the child may use everything that the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// The bytes of a stack of [`clone_sharing`]: several times what a few calls of the system need. Only what is touched
/// is there.
const STACK_BYTES: usize = 64 * 1024;

/// A new process that runs `child` in the memory of this one, on a stack of its own, until it becomes another program
/// or ends; descriptors, dispositions of signals, folder and rights are its own from the start. As clone(2) with
/// `CLONE_VM`.
///
/// What [`fork`] costs (page tables, then a copy of every page that either side touches, and all of it taken down again
/// at exec) is more than what the rest of the start of a program does; see docs/benchmark.md.
///
/// Both processes run at once. So `child` has only what is never dropped and has nothing to drop itself, and it is for
/// its writer to see that it makes calls of the system alone: it must not allocate, give anything back, or panic.
pub fn clone_sharing<F: FnOnce() -> i32 + Copy + 'static>(child: F) -> io::Result<i32> {
    extern "C" fn enter<F: FnOnce() -> i32 + Copy>(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the leaked box below, and what is in it can be copied.
        let child = unsafe { *child.cast::<F>() };
        child()
    }
    let flags = rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::STACK;
    let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
    // SAFETY: new memory, wherever the system wants it. It is never given back: the process has one child of this kind.
    let stack = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), STACK_BYTES, access, flags) }?;
    let child = Box::into_raw(Box::new(child)).cast();
    // SAFETY: the stack is nobody else's, and grows down from its end. `child` lives for ever, and keeps to the calls
    // above.
    check(unsafe { libc::clone(enter::<F>, stack.byte_add(STACK_BYTES), libc::CLONE_VM | libc::SIGCHLD, child) })
}

/// Ends the process at once: no destructor, no buffer, of the process that it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(code) }
}

/// The descriptor `number` of a process that was just forked, and keeps it open until it becomes another program or
/// ends.
pub fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: callers have the number from an owner in the process that forked this one, and nobody owns it here.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Closes the descriptor `number` of a process that was just forked.
pub fn close(number: RawFd) {
    // SAFETY: as for `borrow`; the number is not used again.
    unsafe { rustix::io::close(number) };
}

/// Makes `to` a copy of `from`, without close-on-exec.
pub fn duplicate_onto(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: `from` is open; `to` is one of the standard descriptors, which no owner in these processes holds.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// `/dev/null`, which the launcher and all that it forks have for their standard input and output.
pub fn null() -> BorrowedFd<'static> {
    // SAFETY: the launcher makes its descriptor 1 /dev/null before it forks anything, and nobody closes it.
    unsafe { BorrowedFd::borrow_raw(1) }
}

/// Closes every descriptor from `first` to `last`.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: called first thing after an exec or a fork, when nothing of this process owns any of these descriptors.
    check(unsafe { libc::close_range(first, last, 0) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC as i32;
    // SAFETY: sets a flag; no descriptor is closed while the process has this program.
    check(unsafe { libc::close_range(first, u32::MAX, flags) }).map(drop)
}

/// Sets the name that ps(1) and top(1) show; at most 15 bytes count.
pub fn set_process_name(name: &std::ffi::CStr) {
    // SAFETY: PR_SET_NAME reads a string that ends in a zero byte. It can't fail.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Blocks every signal in this thread, so that none acts before it is read from a [`signal_descriptor`].
pub fn block_all_signals() {
    // SAFETY: `set` is filled before it is read; the call can't fail with these arguments.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Blocks no signal.
pub fn unblock_all_signals() {
    // SAFETY: as in `block_all_signals`.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Gives every signal its default disposition, whatever the process was started with (nohup(1) ignores SIGHUP).
pub fn reset_all_dispositions() {
    // The kernel's own structure, larger on no architecture; zeroes are SIG_DFL, no flags, no mask.
    let default = [0u64; 8];
    // The bytes of the kernel's signal set: 64 signals.
    let set_bytes: usize = 8;
    for signal in 1..=libc::SIGRTMAX() {
        // Past the C library, which keeps 32 and 33 to itself and would pass them on as they were inherited. SAFETY:
        // `default` outlives the call, is large enough, and installs no handler. SIGKILL and SIGSTOP give an error.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, set_bytes)
        };
    }
}

/// `SIG_DFL` or `SIG_IGN` for one signal. Signals that can't be set are left alone.
pub fn set_disposition(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: both dispositions run no code of ours.
    unsafe { libc::signal(signal, disposition) };
}

/// A descriptor from which blocked SIGCHLD and SIGTERM are read, without waiting.
pub fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised before use; the new descriptor has no other owner.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Reads what a [`signal_descriptor`] has. True: SIGTERM was among it.
pub fn take_signals(descriptor: BorrowedFd<'_>) -> bool {
    let mut terminated = false;
    let mut one = [0u8; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(descriptor, &mut one).is_ok_and(|count| count == one.len()) {
        // The number is the first field: signalfd(2).
        terminated |= u32::from_ne_bytes([one[0], one[1], one[2], one[3]]) == libc::SIGTERM as u32;
    }
    terminated
}

/// A child that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// Its pid, which may be given to another process from now on.
    pub pid: i32,
    /// As wait(2) gives it.
    pub status: i32,
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug)]
pub enum Children {
    /// One has ended.
    Ended(Reaped),
    /// There are some, all alive.
    Alive,
    /// There are none.
    None,
}

/// Takes one child that has ended, without waiting.
pub fn reap() -> Children {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Children::Alive,
        -1 => Children::None,
        pid => Children::Ended(Reaped { pid, status }),
    }
}

/// What all children that have been reaped used together; the memory is that of the largest process.
pub fn children_usage() -> libc::rusage {
    // SAFETY: `usage` is valid for the call, which can't fail with these arguments; zeroes are a valid value.
    unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    }
}

/// Makes the process one of `user`, for good, and makes sure of it.
pub fn become_user(user: u32, group: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is valid for its length. The process is single-threaded, so these hold for all of it.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(group, group, group))?;
        check(libc::setresuid(user, user, user))?;
        // If root could be had back, the calls above lied.
        if user != 0 && libc::setuid(0) == 0 {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}

/// Pointers to C strings with a null behind them, as execve(2) wants them.
pub struct CStrings {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// Of `strings`.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// execve(2). Returns only if it failed.
pub fn exec(program: &CString, arguments: &CStrings, environment: &CStrings) -> io::Error {
    // SAFETY: both arrays end in a null, and their strings live as long as they do.
    unsafe { libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    io::Error::last_os_error()
}

fn check(result: i32) -> io::Result<i32> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
