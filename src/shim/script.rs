//! The script's first process: everything that is decided before it is forked, and what it does until it is the script.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchown};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};

use super::sys::{self, CStrings, Forked};
use super::user::User;
use super::{Refusal, order::Order};
use crate::model::text::quoted;

/// What a process exits with that did not become its interpreter, as shells have it for a command that is not found.
const NOT_EXECUTED: i32 = 127;

/// A script that is ready to be forked.
pub(super) struct Script {
    order: &'static Order,
    user: Option<User>,
    /// Where it begins.
    folder: CString,
    /// What exec is tried with, in order: the interpreter in each folder of its `PATH`.
    programs: Vec<CString>,
    /// That `PATH`.
    search: String,
    arguments: CStrings,
    environment: CStrings,
}

/// A forked script that waits to be let go.
pub(super) struct Waiting {
    /// Its pid.
    pub(super) pid: i32,
    /// One byte lets it go; it closes its side when it has become the interpreter, or writes why it could not.
    pub(super) control: OwnedFd,
    /// What it writes to stdout comes out here.
    pub(super) stdout: OwnedFd,
    /// The same for stderr; none if it comes out there too.
    pub(super) stderr: Option<OwnedFd>,
}

/// What the new process has: copies of the numbers of its descriptors, which are its own, and what no process ever
/// drops. It may share the shim's memory: nothing that it calls allocates, waits for a lock, or leaves anything to be
/// cleaned up. (The C library's `errno` is shared too, so the shim, which has let it go, waits in poll(2) while it
/// tries to exec.)
#[derive(Clone, Copy)]
struct Child {
    script: &'static Script,
    /// The shim's side, to be closed: it would hide the shim's end.
    shims_control: RawFd,
    /// Its own side.
    control: RawFd,
    /// To become stdin, stdout and stderr.
    standard: [RawFd; 3],
}

/// What the new process was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Prepare,
    User,
    Folder,
    Exec,
}

/// Why a process did not become its script, as it tells it: a step and an error number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Failure([u8; Failure::BYTES]);

impl Failure {
    /// On the way from the process to the shim.
    pub(super) const BYTES: usize = 5;

    fn new(step: Step, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        let mut bytes = [step as u8; Self::BYTES];
        bytes[1..].copy_from_slice(&errno.to_le_bytes());
        Self(bytes)
    }

    /// Of what was received.
    pub(super) fn received(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    fn step(self) -> Step {
        let later = [Step::User, Step::Folder, Step::Exec];
        later.into_iter().find(|step| *step as u8 == self.0[0]).unwrap_or(Step::Prepare)
    }

    /// What the system said.
    pub(super) fn error(self) -> io::Error {
        let [_, errno @ ..] = self.0;
        io::Error::from_raw_os_error(i32::from_le_bytes(errno))
    }
}

impl Script {
    /// Puts together what exec needs.
    pub(super) fn new(
        order: &'static Order,
        user: Option<User>,
        workspace: &Path,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, Refusal> {
        let execution = &order.execution;
        let (interpreter, options) = execution.interpreter.split_first().ok_or_else(|| {
            Refusal::could_not_run("`interpreter` is empty; name a program: `interpreter = \"bash\"`".to_owned())
        })?;
        let script = workspace.join(&execution.script).to_string_lossy().into_owned();
        let arguments = [interpreter].into_iter().chain(options).chain([&script]);
        let arguments = arguments.chain(&execution.args).chain(&order.given.args).cloned();
        let search = variables.get("PATH").map_or("", String::as_str);
        let folder = execution.working_dir.as_ref().map_or_else(|| workspace.to_owned(), PathBuf::from);
        Ok(Self {
            order,
            user,
            folder: c_string(folder.to_string_lossy().into_owned())?,
            search: search.to_owned(),
            programs: candidates(interpreter, search).into_iter().map(c_string).collect::<Result<_, _>>()?,
            arguments: c_strings(arguments)?,
            environment: c_strings(variables.iter().map(|(key, value)| format!("{key}={value}")))?,
        })
    }

    /// Forks it. It prepares itself, and then waits to be let go: if the shim dies before that, it leaves.
    pub(super) fn fork(&'static self, stdin: &OwnedFd) -> Result<Waiting, Refusal> {
        let (stdout, stdout_in) = self.pipe()?;
        let (stderr, stderr_in) = match self.order.execution.merge_output {
            true => (None, None),
            false => self.pipe().map(|(read, write)| (Some(read), Some(write)))?,
        };
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let (control, its_control) = pair.map_err(|e| Refusal::io("create a socket pair", e.into()))?;
        let child = Child {
            script: self,
            shims_control: control.as_raw_fd(),
            control: its_control.as_raw_fd(),
            standard: [stdin, &stdout_in, stderr_in.as_ref().unwrap_or(&stdout_in)].map(AsRawFd::as_raw_fd),
        };
        let pid = match &self.user {
            None => sys::clone_sharing(move || child.live()),
            // Somebody else's process has no business in the memory of the shim, be it for a moment.
            Some(_) => sys::fork().map(|forked| match forked {
                Forked::Parent(pid) => pid,
                Forked::Child => sys::exit_now(child.live()),
            }),
        };
        Ok(Waiting { pid: pid.map_err(|e| Refusal::io("fork the script's process", e))?, control, stdout, stderr })
    }

    /// Says what a failure means, and what to do.
    pub(super) fn explain(&self, failure: Failure) -> String {
        let error = failure.error();
        match failure.step() {
            Step::Prepare => format!("can't prepare the script's process: {error}"),
            Step::User => format!("can't switch to `user`: {error}; run the daemon as root"),
            Step::Folder => format!(
                "can't enter folder {}: {error}; create the folder, or change `working_dir`",
                self.folder.to_string_lossy()
            ),
            Step::Exec => self.explain_exec(&error),
        }
    }

    fn explain_exec(&self, error: &io::Error) -> String {
        let interpreter = quoted(&self.order.execution.interpreter[0]);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {
                let place = if interpreter.contains('/') {
                    String::new()
                } else if self.search.is_empty() {
                    " because PATH is empty".to_owned()
                } else {
                    format!(" in PATH={}", self.search)
                };
                format!(
                    "interpreter `{interpreter}` not found{place}; \
                     install it, or change `interpreter`, the `#!` line or `PATH`"
                )
            }
            Some(libc::EACCES | libc::EPERM) => {
                format!(
                    "can't execute interpreter `{interpreter}`: {error}; \
                     check whether the script's user may execute the file"
                )
            }
            Some(libc::ENOEXEC) => {
                format!(
                    "interpreter `{interpreter}` is not a program for this system: {error}; \
                     change `interpreter` or the `#!` line"
                )
            }
            Some(libc::E2BIG) => {
                "arguments and variables are too long for the system; put large values into files".to_owned()
            }
            Some(_) | None => format!("can't execute interpreter `{interpreter}`: {error}"),
        }
    }

    /// A pipe that belongs to the script's user: `/dev/stdout` can be opened again.
    fn pipe(&self) -> Result<(OwnedFd, OwnedFd), Refusal> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Refusal::io("create a pipe", e.into()))?;
        if let Some(user) = &self.user {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            fchown(&read, Some(uid), Some(gid))
                .map_err(|e| Refusal::io("give a pipe to the script's user", e.into()))?;
        }
        Ok((read, write))
    }
}

impl Child {
    /// Returns, with the code to exit with, only if the process did not become its interpreter.
    fn live(self) -> i32 {
        sys::close(self.shims_control);
        let (step, error) = match self.prepare() {
            // The shim is gone: no user code may run.
            Ok(()) if !self.is_let_go() => return NOT_EXECUTED,
            Ok(()) => (Step::Exec, self.exec()),
            Err(failed) => failed,
        };
        // If the shim is gone, nobody is left to tell.
        let _ = rustix::io::write(self.control(), &Failure::new(step, &error).0);
        NOT_EXECUTED
    }

    fn control(&self) -> BorrowedFd<'static> {
        sys::borrow(self.control)
    }

    /// Waits for the word of the shim, or its end.
    fn is_let_go(&self) -> bool {
        let mut go = [0u8];
        rustix::io::retry_on_intr(|| rustix::io::read(self.control(), &mut go)) == Ok(1)
    }

    fn prepare(&self) -> Result<(), (Step, io::Error)> {
        let at = |step| move |error: io::Error| (step, error);
        for (descriptor, number) in self.standard.into_iter().zip(0..) {
            sys::duplicate_onto(sys::borrow(descriptor), number).map_err(at(Step::Prepare))?;
        }
        sys::close_on_exec_from(3).map_err(at(Step::Prepare))?;
        rustix::process::setpgid(None, None).map_err(|e| (Step::Prepare, e.into()))?;
        for signal in super::IGNORED_SIGNALS {
            sys::set_disposition(signal, libc::SIG_DFL);
        }
        if let Some(user) = &self.script.user {
            sys::become_user(user.uid, user.gid, &user.groups).map_err(at(Step::User))?;
        }
        rustix::process::umask(Mode::from_raw_mode(self.script.order.execution.umask));
        if self.script.order.execution.no_new_privs {
            rustix::thread::set_no_new_privs(true).map_err(|e| (Step::Prepare, e.into()))?;
        }
        // With the user's rights: what it may not enter, its script does not begin in.
        rustix::process::chdir(self.script.folder.as_c_str()).map_err(|e| (Step::Folder, e.into()))?;
        sys::unblock_all_signals();
        Ok(())
    }

    /// As execvp(3): a program that is not there, or not ours to execute, is looked for further on.
    fn exec(&self) -> io::Error {
        let mut denied = None;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for program in &self.script.programs {
            last = sys::exec(program, &self.script.arguments, &self.script.environment);
            match last.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(io::Error::from_raw_os_error(libc::EACCES)),
                Some(_) | None => return last,
            }
        }
        denied.unwrap_or(last)
    }
}

/// The paths to try for `program`: itself if it has a `/`, else it in each folder of `search`.
fn candidates(program: &str, search: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    // An empty part would mean the current folder: a script in a workspace must not become an interpreter by accident.
    search.split(':').filter(|folder| !folder.is_empty()).map(|folder| format!("{folder}/{program}")).collect()
}

fn c_strings(texts: impl Iterator<Item = String>) -> Result<CStrings, Refusal> {
    texts.map(c_string).collect::<Result<Vec<_>, _>>().map(CStrings::new)
}

fn c_string(text: String) -> Result<CString, Refusal> {
    CString::new(text).map_err(|_| {
        Refusal::could_not_run("an argument, a variable or a path contains a NUL byte; remove the NUL byte".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_looked_for_in_path() {
        assert_eq!(candidates("bash", "/usr/bin::/bin"), ["/usr/bin/bash", "/bin/bash"]);
        assert_eq!(candidates("./bash", "/bin"), ["./bash"]);
        assert!(candidates("bash", "").is_empty());
    }
}
