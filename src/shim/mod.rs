//! The shim: one small process per run. It owns the script's process tree, keeps its output, and writes down how it
//! ended.
//!
//! It is forked from the launcher, waits for its [`Order`], outlives launcher and daemon, and knows neither: it has a
//! run folder, and a pipe for hints. No async runtime, one thread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::model::files::Files;
use crate::model::time::Instant;
use crate::rundir::access::{Access, Reader};
use crate::rundir::crash::{CrashPoint, crash_point};
use crate::rundir::records::{Claim, Ending, ExitRecord, Record, Started, VERSION};
use crate::rundir::room::Room;
use crate::rundir::{Lock, RunDir};
use crate::store::definitions::DefinitionError;
use crate::store::workspace::{self, Deployed, Owner, Target, WorkspaceError, WorkspaceName};

mod channel;
pub mod clock;
pub mod environment;
mod input;
mod log;
pub mod order;
mod pump;
mod script;
pub mod shortage;
pub mod sys;
pub mod tree;
pub mod user;
mod watch;

use clock::Monotonic;
use order::{News, Notice, Order};
use pump::Pump;
use script::{Failure, Script};
use shortage::{is_shortage, said};
use user::User;
use watch::{Event, Watch, Watched};

/// Signals that launcher and shims ignore, and scripts get back: a reader that is gone, a child that ended (the
/// launcher wants no zombies), a file size limit. The last two would end a shim; it has the error instead.
pub const IGNORED_SIGNALS: [i32; 3] = [libc::SIGPIPE, libc::SIGCHLD, libc::SIGXFSZ];

/// How long to wait before a record is written again that could not be (the disk is full).
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// How long a run waits for an `env_file` that is being written: longer than for one of which the kernel doesn't say who writes
/// it ([`writers::RECENT`](crate::store::writers::RECENT)). A failed run names the writer, and can be retried.
const WRITER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at it.
const WRITER_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Why a shim does not run its script.
enum Refusal {
    /// Somebody else runs it, or it has ended: not our affair.
    NotOurs,
    /// Not now: the system is short of something. Another shim may be asked for later.
    Trouble(Trouble),
    /// It ends like this, without the script.
    End(Ending),
}

/// What the system is short of.
struct Trouble {
    /// In words.
    reason: String,
    /// As a number, for a notice.
    error: Option<i32>,
}

impl Trouble {
    fn new(reason: String, error: &io::Error) -> Self {
        Self { reason, error: error.raw_os_error() }
    }
}

impl Refusal {
    fn could_not_run(reason: String) -> Self {
        Self::End(Ending::CouldNotRun { reason })
    }

    fn input(reason: String) -> Self {
        Self::End(Ending::InputIncomplete { reason })
    }

    fn of_deploy(error: WorkspaceError) -> Self {
        let reason = format!("can't update the workspace: {error}");
        match &error {
            WorkspaceError::Io(error) | WorkspaceError::Definition(DefinitionError::Io(error))
                if is_shortage(&error.source) =>
            {
                Self::Trouble(Trouble::new(reason, &error.source))
            }
            _ => Self::could_not_run(reason),
        }
    }

    /// An error of the system: a shortage passes, anything else is there the next time too.
    fn io(doing: &str, error: io::Error) -> Self {
        let reason = format!("can't {doing}: {}", said(&error));
        if is_shortage(&error) { Self::Trouble(Trouble::new(reason, &error)) } else { Self::could_not_run(reason) }
    }
}

/// How and when a run ended.
struct Ended {
    started_at: Option<Instant>,
    at: Instant,
    end: Ending,
}

impl Ended {
    fn now(started_at: Option<Instant>, end: Ending) -> Self {
        Self { started_at, at: clock::now(), end }
    }
}

/// The life of a shim, from the fork to the end of the process. `orders` is where its one order comes from, an
/// [`Order`] as JSON and then the end of the file; `notices` the pipe for hints, not blocking. These are the only
/// descriptors beside the standard ones that are open.
pub fn await_order(orders: OwnedFd, notices: BorrowedFd<'_>) -> ! {
    become_shim();
    let mut order = Vec::new();
    // A launcher that has ended without an order for it, or in the middle of one, leaves nothing to be done.
    let read = File::from(orders).read_to_end(&mut order);
    if read.is_err() || order.is_empty() {
        sys::exit_now(0)
    }
    run(&order, notices)
}

/// Lets a launcher find out once what every shim would have to: the kernel's fast path to the clock, what the processor can
/// do for a hash (an instruction that leaves a virtual machine), and the host's name for temporary files.
pub fn warm_up() {
    let _ = clock::now();
    let _ = Files::default().hash();
    let _ = crate::os::process_name();
}

fn run(order: &[u8], notices: BorrowedFd<'_>) -> ! {
    // One that was cut off, or else the daemon's own mistake; without its token there is no folder to say so in.
    let Ok(order) = serde_json::from_slice::<Order>(order) else { sys::exit_now(1) };
    // For the script's process too, which may share this memory longer than this process lives.
    let order: &'static Order = Box::leak(Box::new(order));
    crash_point(CrashPoint::ShimForked);
    let path = order.runs.join(order.token.run.to_string());
    // Without its folder a run is lost or begun anew; that is for the daemon to see.
    let Ok(run) = RunDir::open(&path) else { sys::exit_now(1) };
    let shim = Shim { order, run: &run, path: &path, notices };
    // The lock is held to the end of the process, whatever comes.
    match shim.claim() {
        Ok(_lock) => {
            shim.conduct();
            sys::exit_now(0)
        }
        Err(Refusal::Trouble(trouble)) => shim.leave_word(&trouble),
        // Without the lock and the claim it is not for this process to say how the run ends.
        Err(Refusal::NotOurs | Refusal::End(_)) => {}
    }
    sys::exit_now(1)
}

/// Own session, so that no terminal and no signal to the daemon's group reaches it; parent of all orphans below it.
fn become_shim() {
    sys::set_process_name(c"batchd-shim");
    // Neither can fail: a forked process leads no group, and the pid asked for is any at all.
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    // The launcher ignores it; a shim wants to be told.
    sys::set_disposition(libc::SIGCHLD, libc::SIG_DFL);
}

struct Shim<'a> {
    order: &'static Order,
    run: &'a RunDir,
    path: &'a Path,
    notices: BorrowedFd<'a>,
}

impl Shim<'_> {
    /// Makes this run ours: of all shims that are ever asked for it, one gets past here.
    fn claim(&self) -> Result<Lock, Refusal> {
        let lock = self.run.lock().map_err(|e| Refusal::io("lock the run folder", e))?.ok_or(Refusal::NotOurs)?;
        crash_point(CrashPoint::ShimLocked);
        if self.run.length(ExitRecord::FILE).is_some() {
            return Err(Refusal::NotOurs);
        }
        let shim =
            tree::identity(std::process::id() as i32, &self.order.boot).map_err(|e| Refusal::io("read /proc", e))?;
        let claim = Claim { version: VERSION, token: self.order.token.clone(), shim: Some(shim) };
        match self.run.claim(&claim) {
            Ok(true) => {
                crash_point(CrashPoint::ShimClaimed);
                Ok(lock)
            }
            Ok(false) => Err(Refusal::NotOurs),
            // Nothing is lost yet: whatever it was, another shim can try.
            Err(error) => {
                let reason = format!("can't write the claim: {}", said(&error));
                Err(Refusal::Trouble(Trouble::new(reason, &error)))
            }
        }
    }

    /// Runs the script, and writes down how it ended.
    fn conduct(&self) {
        // Before anything else: however the run ends, that can be written down.
        let room = match self.run.set_room_aside() {
            Ok(room) => room,
            Err(error) => {
                let reason = format!("can't reserve room for exit.json: {}", said(&error));
                return self.leave_word(&Trouble::new(reason, &error));
            }
        };
        match self.attempt(&room) {
            Ok(ended) => self.write_exit(&room, ended),
            Err(Refusal::End(end)) => self.write_exit(&room, Ended::now(None, end)),
            Err(Refusal::Trouble(trouble)) => self.leave_word(&trouble),
            Err(Refusal::NotOurs) => {}
        }
    }

    /// From the claim to the end of the script's whole tree.
    fn attempt(&self, room: &Room) -> Result<Ended, Refusal> {
        let execution = &self.order.execution;
        let signals = sys::signal_descriptor().map_err(|e| Refusal::io("create a signal descriptor", e))?;
        let user = self.user()?;
        let reader = user.as_ref().map(|user| Reader { uid: user.uid, gid: user.gid });
        let access = Access { reader, ..self.order.access };
        access.apply_to_folder(self.run).map_err(|e| Refusal::io("set the mode of the run folder", e.into()))?;
        let Deployed { path: workspace, remarks, .. } = self.deploy(user.as_ref())?;
        crash_point(CrashPoint::ShimDeployed);
        let inputs = input::prepare(self.run, self.path, self.order, user.as_ref())?;
        let Some(variables) = self.variables(user.as_ref(), &inputs.variables, signals.as_fd())? else {
            return Ok(Ended::now(None, Ending::StoppedBeforeStart));
        };
        // Never dropped: see `Order`'s.
        let script: &'static Script = Box::leak(Box::new(Script::new(self.order, user, &workspace, &variables)?));
        let waiting = script.fork(&inputs.stdin)?;
        drop(inputs.stdin);
        crash_point(CrashPoint::ShimScriptForked);
        let pump = Pump::new(self.run, access, waiting.stdout, waiting.stderr, execution.log_bytes_max);
        let pump = pump.map_err(|e| Refusal::io("create the logs", e))?;
        if sys::take_signals(signals.as_fd()) {
            // Nobody lets the script's process go: it sees the end of its pipe and leaves.
            return Ok(Ended::now(None, Ending::StoppedBeforeStart));
        }
        let started_at = self.release(waiting.pid, &waiting.control)?;
        let watch = Watch::new(self.run, execution, remarks, signals, pump, waiting.pid, waiting.control);
        let ended = match watch.until_gone(|event| self.tell(room, event)) {
            Watched::Exited(end, at) => Ended { started_at: Some(started_at), at, end },
            Watched::NotExecuted(failure) => Ended::now(None, self.not_executed(script, failure)?),
        };
        crash_point(CrashPoint::ShimTreeGone);
        Ok(ended)
    }

    /// The script's variables, as soon as nobody is writing its `env_file`; none if the run is stopped meanwhile.
    fn variables(
        &self,
        user: Option<&User>,
        inputs: &[(String, String)],
        signals: BorrowedFd<'_>,
    ) -> Result<Option<BTreeMap<String, String>>, Refusal> {
        let until = Monotonic::now().after(WRITER_PATIENCE);
        loop {
            let error = match environment::variables(self.order, user, inputs.to_vec()) {
                Ok(variables) => return Ok(Some(variables)),
                Err(error) => error,
            };
            if !error.is_unfinished || Monotonic::now() >= until {
                return Err(Refusal::could_not_run(error.to_string()));
            }
            let mut descriptors = [PollFd::new(&signals, PollFlags::IN)];
            // An error only means that the next look comes sooner.
            let _ = poll(&mut descriptors, Some(&WRITER_LOOK));
            if sys::take_signals(signals) {
                return Ok(None);
            }
        }
    }

    /// The script's process never became its interpreter. If the system was short of something, it was never let go
    /// either.
    fn not_executed(&self, script: &Script, failure: Failure) -> Result<Ending, Refusal> {
        let reason = script.explain(failure);
        // A daemon that has looked in between, and has seen it start, will take it for lost: the safe side.
        let error = failure.error();
        if is_shortage(&error) && self.run.take_back_start().is_ok() {
            return Err(Refusal::Trouble(Trouble::new(reason, &error)));
        }
        Ok(Ending::CouldNotRun { reason })
    }

    /// The user whose rights the script is to have. None: the shim's own.
    fn user(&self) -> Result<Option<User>, Refusal> {
        let Some(name) = &self.order.execution.user else { return Ok(None) };
        let user = User::by_name(name).map_err(|e| Refusal::io(&format!("look up user `{name}`"), e))?;
        let user = user.ok_or_else(|| {
            Refusal::could_not_run(format!(
                "user `{name}` doesn't exist on this host; create the user, or change `user`"
            ))
        })?;
        let own = rustix::process::geteuid();
        if own.as_raw() == user.uid {
            return Ok(None);
        }
        if !own.is_root() {
            let what = format!(
                "`user = \"{name}\"` requires a daemon that runs as root; run the daemon as root, or remove `user`"
            );
            return Err(Refusal::could_not_run(what));
        }
        Ok(Some(user))
    }

    fn deploy(&self, user: Option<&User>) -> Result<Deployed, Refusal> {
        let owner = user.map(|user| Owner { uid: user.uid, gid: user.gid });
        let order = self.order;
        let batch = &order.token.run.batch;
        let workspace = match order.own_workspace {
            true => WorkspaceName::of_definition(batch, order.definition),
            false => WorkspaceName::of_batch(batch),
        };
        let target = Target {
            definition: order.definition,
            script: &order.execution.script,
            include: &order.execution.include,
            name: &workspace,
            owner,
            boot_id: &order.boot,
        };
        workspace::deploy(&order.state, &target).map_err(Refusal::of_deploy)
    }

    /// Says that the script is about to begin, and lets it.
    fn release(&self, pid: i32, control: &OwnedFd) -> Result<Instant, Refusal> {
        let script = tree::identity(pid, &self.order.boot).map_err(|e| Refusal::io("read /proc", e))?;
        let at = clock::now();
        let started = Started { version: VERSION, token: self.order.token.clone(), script, at };
        self.run.write(&started).map_err(|e| Refusal::io("write started.json", e))?;
        crash_point(CrashPoint::ShimStartedWritten);
        // An error means that the process has died at its pipe; its status will say how.
        let _ = rustix::io::write(control, b"g");
        crash_point(CrashPoint::ShimReleased);
        Ok(at)
    }

    /// Puts `exit.json` in place, however long that takes: until then nobody else may say how the run ended.
    fn write_exit(&self, room: &Room, ended: Ended) {
        let (token, Ended { started_at, at, end }) = (self.order.token.clone(), ended);
        let record = ExitRecord { version: VERSION, token, started_at, ended_at: at, end };
        while let Err(error) = self.run.write_exit(room, &record) {
            // Somebody removed the folder: there is nowhere to write it, ever.
            if error.kind() == io::ErrorKind::NotFound {
                return;
            }
            pause(RECORD_RETRY);
        }
        crash_point(CrashPoint::ShimExitWritten);
        self.notify(News::Ended);
    }

    fn tell(&self, room: &Room, event: Event) {
        match event {
            Event::Executed => self.notify(News::Started),
            Event::Waits(reason) => {
                // Without the word nobody knows why the run goes on, and it does all the same.
                let _ = room.say(reason.as_deref());
                self.notify(News::Waits);
            }
        }
    }

    /// Tells a daemon that looks. If it does not, or the pipe is full, it will see the files.
    fn notify(&self, news: News) {
        let notice = Notice { serial: self.order.serial, news };
        let _ = rustix::io::write(self.notices, &notice.encode());
    }

    /// Leaves word for the daemon why this attempt came to nothing. If that can't be written either, there is the error
    /// alone.
    fn leave_word(&self, trouble: &Trouble) {
        let _ = self.run.write_trouble(&trouble.reason);
        if let Some(error) = trouble.error.and_then(|error| error.try_into().ok()) {
            self.notify(News::Failed(error));
        }
    }
}

/// Waits, in the one place where nothing else is to be done meanwhile.
fn pause(wait: Duration) {
    std::thread::sleep(wait);
}
