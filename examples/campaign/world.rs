//! The folders of a campaign, and its daemon, which somebody starts again whenever it has ended.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use batchd::shim::tree;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::disk::Disk;
use crate::load::Batch;

/// What a daemon says when scheduling has begun.
const READY: &str = "is ready";
/// Nothing that is waited for takes longer, on a machine that does other things, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// The exit code of a program that panicked.
const PANICKED: i32 = 101;
/// Between two looks at what is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// Says that what can't be done here is an error, and no reason to do without.
const SKIP_NOTHING: &str = "BATCHD_TESTS_SKIP_NOTHING";

/// What becomes of a daemon.
struct Daemon {
    process: Child,
    /// Where its log begins in the file of all logs.
    log_from: u64,
}

/// Everything that a campaign has on the disk, and its daemon.
pub(crate) struct World {
    root: PathBuf,
    program: PathBuf,
    /// None where this user or this host can't mount one.
    pub(crate) disk: Option<Disk>,
    daemon: Option<Daemon>,
    /// What operators have begun, and nobody has seen the end of.
    verbs: Vec<(String, Child)>,
    /// What went wrong under way, one line each.
    pub(crate) violations: Vec<String>,
    /// How often a daemon was started.
    pub(crate) starts: u32,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let own = std::env::current_exe()?;
        let profile = own.ancestors().nth(2).context("this program is not below cargo's target folder")?;
        let program = profile.join("batchd");
        if !program.exists() {
            bail!("there is no {}: `cargo build --release` makes it", program.display());
        }
        let root = profile.parent().context("no folder above")?.join("campaign").join(std::process::id().to_string());
        fs::create_dir_all(root.join("batches.d"))?;
        let disk = match Disk::mount(root.join("disk.img"), root.join("disk")) {
            Ok(disk) => Some(disk),
            Err(error) if std::env::var_os(SKIP_NOTHING).is_some() => return Err(error),
            Err(error) => {
                println!("the disk will not fill up, since none of its own can be mounted ({error:#}); run it as root");
                None
            }
        };
        fs::write(root.join("witness"), "")?;
        Ok(Self { root, program, disk, daemon: None, verbs: Vec::new(), violations: Vec::new(), starts: 0 })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn batch_folder(&self, name: &str) -> PathBuf {
        self.root.join("batches.d").join(name)
    }

    pub(crate) fn run_folder(&self, run: &str) -> PathBuf {
        self.root.join("disk/runs").join(run)
    }

    pub(crate) fn write_settings(&self, lines: &str) -> Result<()> {
        let text = format!(
            "runs = 'disk/runs'\nstate = 'disk/state'\n{lines}\n[defaults.env]\nW = '{}'\n",
            self.root.display()
        );
        Ok(fs::write(self.root.join("batchd.toml"), text)?)
    }

    pub(crate) fn write_batch(&self, batch: &Batch) -> Result<()> {
        let folder = self.batch_folder(&batch.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("script.sh"), &batch.script)?;
        Ok(fs::write(folder.join("batch.toml"), &batch.toml)?)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn batchd(&mut self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.look_at_verb(arguments.join(" "), output.status, &said);
        Ok(output)
    }

    /// Begins a verb, whose end is seen by [`Self::see_verbs`]: a daemon that is stopped does not answer.
    pub(crate) fn begin(&mut self, arguments: &[&str]) -> Result<()> {
        let process = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        self.verbs.push((arguments.join(" "), process));
        Ok(())
    }

    /// Looks at the verbs that have ended. Whether all have.
    pub(crate) fn see_verbs(&mut self) -> Result<bool> {
        for (verb, mut process) in std::mem::take(&mut self.verbs) {
            match process.try_wait()? {
                Some(status) => self.look_at_verb(verb, status, ""),
                None => self.verbs.push((verb, process)),
            }
        }
        Ok(self.verbs.is_empty())
    }

    /// One that panics, or is killed, is a violation.
    fn look_at_verb(&mut self, verb: String, status: ExitStatus, said: &str) {
        if status.code().is_none_or(|code| code == PANICKED) {
            self.violations.push(format!("batchd {verb} ended with {status}: {said}"));
        }
    }

    /// Starts a daemon if there is none, or the last one has ended; what it ended with is looked at.
    pub(crate) fn keep_daemon(&mut self) -> Result<()> {
        if let Some(daemon) = &mut self.daemon {
            let Some(status) = daemon.process.try_wait()? else { return Ok(()) };
            // A SIGTERM may come before anybody heeds it: that ends it, too.
            let killed = matches!(status.signal(), Some(libc::SIGKILL | libc::SIGTERM));
            let full = self.disk.as_ref().is_some_and(Disk::is_full);
            let from = daemon.log_from;
            if !status.success() && !killed && !full {
                let text = self.log(from)?;
                self.violations.push(format!("a daemon ended by itself with {status}; its log:\n{text}"));
            }
        }
        let log = OpenOptions::new().append(true).create(true).open(self.root.join("daemon.log"))?;
        let log_from = log.metadata()?.len();
        let process = self.command(&["daemon"]).stderr(log).stdout(File::create("/dev/null")?).spawn()?;
        self.daemon = Some(Daemon { process, log_from });
        self.starts += 1;
        Ok(())
    }

    /// Waits until the daemon schedules, and starts it again if it ends before.
    pub(crate) fn daemon_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.keep_daemon()?;
            let from = self.daemon.as_ref().map_or(0, |daemon| daemon.log_from);
            if self.log(from)?.contains(READY) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no daemon became ready; its log is {}", self.root.join("daemon.log").display());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn log(&self, from: u64) -> Result<String> {
        let all = fs::read(self.root.join("daemon.log"))?;
        Ok(String::from_utf8_lossy(&all[from as usize..]).into_owned())
    }

    /// The daemon's pid, as long as nobody has seen its end.
    pub(crate) fn daemon_pid(&self) -> Option<i32> {
        self.daemon.as_ref().and_then(|daemon| i32::try_from(daemon.process.id()).ok())
    }

    /// Asks the daemon to end, and waits for that.
    pub(crate) fn end_daemon(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        signal(i32::try_from(daemon.process.id())?, Signal::TERM);
        let status = daemon.process.wait()?;
        if !status.success() {
            self.violations.push(format!("the last daemon ended with {status}"));
        }
        Ok(())
    }

    /// Processes of this campaign of which the kernel shows this name.
    pub(crate) fn named(&self, name: &str) -> Vec<i32> {
        let is_it =
            |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
        self.processes().into_iter().filter(is_it).collect()
    }

    /// All processes that are at work somewhere below the root, but for this one's own.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let own = std::process::id() as i32;
        let here = |pid: &i32| {
            *pid != own && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.root))
        };
        tree::all().into_iter().filter(here).collect()
    }

    /// The journal, for reading.
    pub(crate) fn journal(&self) -> Result<Connection> {
        let path = self.root.join("disk/state/journal.db");
        Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?)
    }

    /// Leaves no mount behind; and nothing at all, if all went well.
    pub(crate) fn leave(&self, all_well: bool) -> Result<()> {
        if !all_well {
            println!("all is left for you to look at, in {}", self.root.display());
            return Ok(());
        }
        if let Some(disk) = &self.disk {
            disk.leave(true)?;
        }
        Ok(fs::remove_dir_all(&self.root)?)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // It may have ended.
            let _ = daemon.process.kill();
            let _ = daemon.process.wait();
        }
    }
}

/// Sends a signal to a process that may have ended; whether it was there.
pub(crate) fn signal(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}
