//! A world of its own for each test: a folder with batches, and the real binary on it, as daemon and as command line.
//!
//! Nothing here sleeps. What a test waits for is an event: a line of the daemon's log, the end of a process, a file that
//! appears, a word that a script says through a pipe. Each wait has an end, and then says what did not come.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary has this module whole, and uses what it needs"
)]

mod daemon;
pub mod root;
mod wait;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use batchd::api::client::Client;
use batchd::model::id::RunId;
use batchd::shim::tree;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use daemon::Daemon;
pub use wait::{Pipe, exits, file};

/// No test waits longer for one thing: then something hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a command line came to.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    /// Fails the test unless the exit code is this.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// What was printed, without the last line's end.
    pub fn line(&self) -> &str {
        self.out.trim_end()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Folders, and perhaps a daemon. When it goes, everything that runs in it is killed.
pub struct World {
    home: tempfile::TempDir,
    daemon: Option<Daemon>,
}

impl World {
    /// Without batches, and without a daemon. Every script finds the world's folder in `$W`.
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In memory: where a disk would only make a test of very many files slow.
    pub fn in_memory() -> Self {
        Self::below(Path::new("/dev/shm"))
    }

    fn below(folder: &Path) -> Self {
        let home = tempfile::Builder::new().prefix("batchd-world-").tempdir_in(folder).unwrap();
        // Other users' scripts pass through.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let world = Self { home, daemon: None };
        fs::create_dir(world.path("batches.d")).unwrap();
        // Where the worlds are on a network file system, the daemon's own files have to be elsewhere.
        if let Some(local) = std::env::var_os("BATCHD_TESTS_STATE_IN") {
            let state = Path::new(&local).join(world.home.path().file_name().unwrap());
            fs::create_dir(&state).unwrap();
            std::os::unix::fs::symlink(state, world.path("state")).unwrap();
        }
        world.settings("");
        world
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes `batchd.toml`: these lines, and what every world needs.
    pub fn settings(&self, lines: &str) {
        let text = format!("{lines}\n[defaults.env]\nW = \"{}\"\n", self.home.path().display());
        fs::write(self.path("batchd.toml"), text).unwrap();
    }

    /// Writes a file below the world, and the folders that it needs.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Writes a batch: its `batch.toml`, and its script, run by bash.
    pub fn batch(&self, name: &str, toml: &str, script: &str) {
        self.write(&format!("batches.d/{name}/script.sh"), script);
        self.write(&format!("batches.d/{name}/batch.toml"), toml);
    }

    pub fn read(&self, name: impl AsRef<Path>) -> String {
        let path = self.path(name);
        String::from_utf8(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
    }

    /// A file of a run's folder.
    pub fn run_file(&self, run: &str, name: &str) -> PathBuf {
        self.path("runs").join(run).join(name)
    }

    pub fn stdout(&self, run: &str) -> String {
        self.read(self.run_file(run, "stdout.log"))
    }

    /// A pipe in the world's folder, through which a script and the test tell each other how far they are.
    pub fn pipe(&self, name: &str) -> Pipe {
        Pipe::new(&self.path(name))
    }

    /// A command with a cleared environment, in the world's folder.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.home.path());
        command.env("W", self.home.path()).current_dir(self.home.path());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn output(&self, mut command: Command) -> Output {
        // Files, not pipes: a command that leaves something behind would hold a pipe open.
        let files = [tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap()];
        let open = |index: usize| Stdio::from(files[index].reopen().unwrap());
        let mut child = command.stdin(Stdio::null()).stdout(open(0)).stderr(open(1)).spawn().unwrap();
        let ended = exits(&child, PATIENCE);
        if !ended {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        let text = |index: usize| String::from_utf8_lossy(&fs::read(files[index].path()).unwrap()).into_owned();
        let output = Output { code: status.code().unwrap_or(-1), out: text(0), err: text(1) };
        assert!(ended, "{command:?} did not end: {output:#?}");
        output
    }

    /// A command line of batchd.
    #[track_caller]
    pub fn batchd(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_batchd"));
        command.args(arguments);
        self.output(command)
    }

    /// What a reading verb prints with `--json`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.batchd(&arguments).expect(0).json()
    }

    /// Runs a line in bash, which has to succeed.
    #[track_caller]
    pub fn bash(&self, line: &str) -> String {
        let mut command = self.command("bash");
        command.args(["-ec", line]);
        self.output(command).expect(0).out
    }

    /// Every run in the journal, the oldest first.
    pub fn runs(&self) -> Vec<Value> {
        let mut runs = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut arguments = vec!["runs", "-n", "1000"];
            arguments.extend(after.iter().flat_map(|mark| ["--after", mark.as_str()]));
            let page = self.json(&arguments);
            runs.extend(page["runs"].as_array().unwrap().iter().cloned());
            match page["next"].as_str() {
                Some(mark) => after = Some(mark.to_owned()),
                None => break,
            }
        }
        runs.reverse();
        runs
    }

    pub fn run(&self, id: &str) -> Value {
        self.json(&["show", id])
    }

    /// Waits for the end of a run's last attempt.
    #[track_caller]
    pub fn end(&self, id: &str) -> Value {
        let ended = self.end_or(id, std::future::pending());
        ended.unwrap_or_else(|| panic!("{id} did not end"))
    }

    /// As [`Self::end`], unless `other` comes first.
    #[track_caller]
    fn end_or(&self, id: &str, other: impl Future<Output = ()>) -> Option<Value> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let id: RunId = id.parse().unwrap();
        let view = runtime.block_on(async {
            let wait = async { Client::connect(&self.path("state")).await?.wait(&id).await };
            tokio::pin!(other);
            tokio::select! {
                () = &mut other => None,
                view = tokio::time::timeout(PATIENCE, wait) => match view.unwrap_or_else(|_| panic!("{id} did not end")) {
                    Ok(view) => Some(view),
                    // It is ending, and its end is on its way.
                    Err(error) => {
                        let ended = tokio::time::timeout(PATIENCE, other).await;
                        ended.unwrap_or_else(|_| panic!("{id}: {error}"));
                        None
                    }
                },
            }
        });
        view.map(|view| serde_json::to_value(view).unwrap())
    }

    /// Waits until no run is under way or waits, also of those that follow meanwhile.
    #[track_caller]
    pub fn rest(&self) {
        loop {
            let runs = self.runs();
            let live: Vec<&str> =
                runs.iter().filter(|run| run["state"] != "ended").map(|run| run["id"].as_str().unwrap()).collect();
            if live.is_empty() {
                return;
            }
            live.iter().for_each(|id| drop(self.end(id)));
        }
    }

    /// As [`Self::rest`], also if the daemon ends before.
    #[track_caller]
    pub fn rest_or_end(&self) {
        loop {
            let runs = self.runs();
            let live = runs.iter().filter(|run| run["state"] != "ended").map(|run| run["id"].as_str().unwrap());
            let live: Vec<&str> = live.collect();
            if live.is_empty() || self.daemon().has_ended() {
                return;
            }
            let daemon = self.daemon();
            live.iter().for_each(|id| drop(self.end_or(id, daemon.end())));
        }
    }

    /// Starts a daemon, and waits until it is ready.
    pub fn start(&mut self) -> &Daemon {
        self.start_with(&[], &[])
    }

    /// As [`Self::start`], with arguments and variables.
    pub fn start_with(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> &Daemon {
        self.spawn(arguments, variables);
        self.daemon().ready();
        if std::env::var_os("BATCHD_TESTS_STATE_IN").is_some() {
            // The batches are on a network file system, where a file that was just written may still be open elsewhere.
            self.batchd(&[&["reload"], arguments].concat()).expect(0);
        }
        self.daemon()
    }

    /// Starts a daemon that may not come far.
    pub fn spawn(&mut self, arguments: &[&str], variables: &[(&str, &str)]) {
        let mut command = self.command(env!("CARGO_BIN_EXE_batchd"));
        command.envs(variables.iter().copied());
        self.spawn_by(command, arguments);
    }

    /// As [`Self::start`], another file of the same program.
    pub fn start_program(&mut self, program: &Path) -> &Daemon {
        self.spawn_by(self.command(program), &[]);
        self.daemon().ready();
        self.daemon()
    }

    /// As [`Self::start`], on a host that has another boot: for the daemon and all that it starts.
    pub fn start_in_boot(&mut self, boot: &str) -> &Daemon {
        self.write("boot_id", format!("{boot}\n"));
        let mut command = self.command("unshare");
        // Who is not root may have a name space for mounts only in one for users.
        command.args(if rustix::process::geteuid().is_root() { &["-m"][..] } else { &["-rm"] });
        let exec = "mount --bind \"$W/boot_id\" /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"";
        command.args(["bash", "-ec", exec, env!("CARGO_BIN_EXE_batchd")]);
        self.spawn_by(command, &[]);
        self.daemon().ready();
        self.daemon()
    }

    /// Starts what becomes a daemon with these arguments behind its own.
    fn spawn_by(&mut self, mut command: Command, arguments: &[&str]) {
        command.args(["daemon", "--log-format", "json"]).args(arguments).env("RUST_LOG", "batchd=debug");
        self.daemon = Some(Daemon::spawn(command));
    }

    /// Starts a daemon with the rights of another user, who has a copy of the program in the world's folder.
    pub fn spawn_as(&mut self, uid: u32) {
        use std::os::unix::process::CommandExt as _;
        let mut command = self.command(self.path("batchd"));
        command.args(["daemon", "--log-format", "json"]).env("RUST_LOG", "batchd=debug").uid(uid).gid(uid);
        self.daemon = Some(Daemon::spawn(command));
    }

    /// Starts a daemon by another program, which is to become it: `program ARGUMENTS… batchd daemon …`.
    pub fn spawn_under(&mut self, program: &str, arguments: &[String]) {
        let mut command = self.command(program);
        command.args(arguments).arg(env!("CARGO_BIN_EXE_batchd")).args(["daemon", "--log-format", "json"]);
        command.env("RUST_LOG", "batchd=debug");
        self.daemon = Some(Daemon::spawn(command));
    }

    /// Starts a daemon by another program, such as strace, that becomes it or lets it go on as its own child's parent would.
    pub fn start_under(&mut self, wrapper: &[&str]) -> &Daemon {
        let mut command = self.command(wrapper[0]);
        command.args(&wrapper[1..]).args([env!("CARGO_BIN_EXE_batchd"), "daemon", "--log-format", "json"]);
        command.env("RUST_LOG", "batchd=debug");
        self.daemon = Some(Daemon::spawn(command));
        self.daemon().ready();
        self.daemon()
    }

    #[track_caller]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("there is a daemon")
    }

    /// Ends the daemon with this signal, and gives its exit code, or minus the signal that ended it.
    #[track_caller]
    pub fn end_daemon(&mut self, signal: Signal) -> i32 {
        let daemon = self.daemon.take().expect("there is a daemon");
        daemon.signal(signal);
        daemon.wait()
    }

    /// Waits for the end of a daemon that ends by itself.
    #[track_caller]
    pub fn daemon_ends(&mut self) -> i32 {
        self.daemon.take().expect("there is a daemon").wait()
    }

    /// Waits for the end of a daemon that does not come far, with this exit code; all that it said.
    #[track_caller]
    pub fn daemon_log_at_its_end(&mut self, code: i32) -> String {
        assert!(!self.daemon().ready_or_ended(), "it works: {}", self.daemon().log_text());
        let log = self.daemon().log_text();
        assert_eq!(self.daemon_ends(), code, "{log}");
        log
    }

    /// Waits until no process of this world is left: without a daemon, and with nothing that runs, all end by themselves.
    #[track_caller]
    pub fn all_gone(&self) {
        for pid in self.processes() {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(wait::gone(pid), "process {pid} still lives: {command:?}");
        }
    }

    /// Every process of this world but a daemon that the test still has: by its working directory, and what descends from it.
    pub fn processes(&self) -> Vec<i32> {
        let home = self.home.path().canonicalize().unwrap();
        let here = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&home));
        let mut found: Vec<i32> = tree::all().into_iter().filter(here).collect();
        let below: Vec<i32> = found.iter().flat_map(|pid| tree::descendants(*pid)).collect();
        found.extend(below);
        found.retain(|pid| tree::stat(*pid).is_some_and(|stat| stat.state != b'Z'));
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            if std::thread::panicking() {
                eprintln!("the daemon's log:\n{}", daemon.log_text());
            }
            daemon.signal(Signal::KILL);
            daemon.reap();
        }
        // Again, as long as there are any: what is forked meanwhile is found the next time.
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for pid in left {
                // It may have ended.
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
    }
}
