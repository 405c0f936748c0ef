//! A place of its own for each test: folders, a supervisor with a real launcher, and real bash.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use batchd::model::definition::{CatchUp, Definition, Execution, Overlap, RetryPolicy};
use batchd::model::id::{BatchName, DefinitionHash, JournalId, RunId, Token};
use batchd::model::launch::{Launch, Report, UpstreamEnd};
use batchd::model::run::{Exit, Follow, Given, Outcome, Run, State, Trigger};
use batchd::model::time::Instant;
use batchd::rundir::RunDir;
use batchd::rundir::access::Access;
use batchd::rundir::records::Claim;
use batchd::supervisor::{Local, Place, Surroundings, clean_environment};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

/// No test waits longer for a report: then something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) home: tempfile::TempDir,
    program: PathBuf,
    runtime: Runtime,
    local: Option<Local>,
    reports: UnboundedReceiver<(RunId, Report)>,
}

impl World {
    pub(crate) fn new() -> Self {
        // A name of its own, by which a test knows its launcher.
        Self::with_program(|home| {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_batchd"), home.join("batchd")).unwrap();
            home.join("batchd")
        })
    }

    /// Whose first launcher or shim to come by this crash point dies there.
    pub(crate) fn crashing_once(point: &str) -> Self {
        Self::with_program(|home| {
            let program = home.join("batchd");
            let (once, real) = (home.join("crashed"), env!("CARGO_BIN_EXE_batchd"));
            let text = format!("#!/bin/sh\nBATCHD_CRASH_POINT={point}:{} exec {real} \"$@\"\n", once.display());
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            program
        })
    }

    fn with_program(program: impl Fn(&Path) -> PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        // Other users' scripts pass through.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for folder in ["runs", "state"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        let program = program(home.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = Self { home, program, runtime, local: None, reports: unbounded_channel().1 };
        world.start();
        world
    }

    /// Works on the folders of another world, as a second daemon would that no lock keeps away.
    pub(crate) fn share(&mut self, other: &Self) {
        for folder in ["runs", "state"] {
            fs::remove_dir(self.path(folder)).unwrap();
            std::os::unix::fs::symlink(other.path(folder), self.path(folder)).unwrap();
        }
    }

    /// Starts a supervisor, as a daemon does.
    pub(crate) fn start(&mut self) {
        self.start_with(Access::default());
    }

    /// As [`Self::start`], with settings that say who may read what runs write.
    pub(crate) fn start_with(&mut self, access: Access) {
        let _context = self.runtime.enter();
        let (sender, reports) = unbounded_channel();
        let variable = |name: &str| (name == "PATH").then(|| "/usr/bin:/bin".to_owned());
        let around = Surroundings {
            runs: self.path("runs"),
            state: self.path("state"),
            batches: self.path("batches.d"),
            trusted_owners: Default::default(),
            boot: boot(),
            environment: clean_environment(variable),
            inherited: BTreeMap::new(),
            program: self.program.clone(),
            access,
        };
        self.local = Some(Local::start(around, sender, watch::channel(None).1).unwrap());
        self.reports = reports;
    }

    /// Ends the supervisor and its launcher, as a daemon that is gone does; what it would still have reported is lost.
    pub(crate) fn drop_supervisor(&mut self) {
        self.local = None;
        // The channel closes when the serving task has ended.
        while self.runtime.block_on(self.reports.recv()).is_some() {}
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn file(&self, run: &Launch, name: &str) -> PathBuf {
        self.path("runs").join(run.run.id.to_string()).join(name)
    }

    pub(crate) fn folder(&self, run: &Launch) -> RunDir {
        RunDir::open(&self.file(run, "")).unwrap()
    }

    pub(crate) fn text(&self, run: &Launch, name: &str) -> String {
        String::from_utf8(fs::read(self.file(run, name)).unwrap()).unwrap()
    }

    pub(crate) fn names(&self, run: &Launch) -> Vec<String> {
        let entries = fs::read_dir(self.file(run, "")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        // On NFS, a file that was removed has such a name for as long as a process has it open.
        names.retain(|name| !name.starts_with(".nfs"));
        names.sort();
        names
    }

    /// A run of a batch `name` with this script, as it is launched; `tweak` changes it first.
    pub(crate) fn plan(&self, name: &str, script: &str, tweak: impl FnOnce(&mut Execution, &mut Launch)) -> Launch {
        let batch = BatchName::new(name).unwrap();
        let files = batchd::model::files::Files(BTreeMap::from([(
            "script.sh".to_owned(),
            batchd::model::files::FileContent { bytes: script.as_bytes().to_vec(), mode: 0o755 },
        )]));
        let hash = batchd::store::definitions::put(&self.path("state"), &files).unwrap();
        let definition = definition(&batch, hash);
        let mut execution = definition.execution.clone();
        let run = run(batch.run(1), hash);
        // Of its own: processes are known by their token across the whole host.
        let journal = JournalId(self.home.path().file_name().unwrap().to_string_lossy().into_owned());
        let token = Token { journal, run: run.id.clone(), queued_at: run.queued_at };
        let due_at_local = "2026-11-23T01:00:00+01:00".to_owned();
        let (upstreams, given_input) = (Vec::new(), None);
        let mut launch = Launch {
            token,
            run,
            definition: Some(Arc::new(definition)),
            due_at_local,
            upstreams,
            given_input,
            alert: None,
        };
        tweak(&mut execution, &mut launch);
        if let Some(definition) = &mut launch.definition {
            Arc::make_mut(definition).execution = execution;
        }
        launch
    }

    pub(crate) fn launch(&self, launch: &Launch) {
        self.local.as_ref().unwrap().launch(launch.clone());
    }

    pub(crate) fn find(&self, launch: &Launch) {
        self.local.as_ref().unwrap().find(launch.clone());
    }

    pub(crate) fn stop(&self, launch: &Launch) {
        self.local.as_ref().unwrap().stop(launch.run.id.clone());
    }

    /// Collects a run, and returns when that is done: requests are taken in order.
    pub(crate) fn collect(&mut self, launch: &Launch) {
        self.ask_to_collect(launch);
        let marker = self.plan("marker", "", |_, launch| launch.run.definition = None);
        self.launch(&marker);
        self.end(&marker);
    }

    pub(crate) fn ask_to_collect(&self, launch: &Launch) {
        self.local.as_ref().unwrap().collect(launch.run.id.clone());
    }

    /// The next report of any run.
    pub(crate) fn any(&mut self) -> (RunId, Report) {
        let next = async { tokio::time::timeout(PATIENCE, self.reports.recv()).await };
        self.runtime.block_on(next).expect("no report came").expect("the supervisor serves")
    }

    /// The next report of this run.
    pub(crate) fn report(&mut self, launch: &Launch) -> Report {
        loop {
            let (run, report) = self.any();
            if run == launch.run.id {
                return report;
            }
        }
    }

    /// The report that ends this run.
    pub(crate) fn end(&mut self, launch: &Launch) -> Report {
        loop {
            match self.report(launch) {
                Report::Started { .. } | Report::Waiting { .. } => {}
                end => return end,
            }
        }
    }

    /// Lets the supervisor go on for a moment: the next report, if there is one by then.
    pub(crate) fn tick(&mut self) -> Option<Report> {
        let next = async { tokio::time::timeout(Duration::from_millis(2), self.reports.recv()).await };
        self.runtime.block_on(next).ok().flatten().map(|(_, report)| report)
    }

    /// Removes the folder of a run, so that its id can be used again.
    pub(crate) fn forget(&self, launch: &Launch) {
        fs::remove_dir_all(self.file(launch, "")).unwrap();
    }

    /// Runs a script to its end under the name `job`, whose folder may be there from the run before.
    pub(crate) fn run(&mut self, script: &str) -> (Launch, Exit) {
        let launch = self.plan("job", script, |_, _| {});
        if self.file(&launch, "").exists() {
            self.forget(&launch);
        }
        self.launch(&launch);
        match self.end(&launch) {
            Report::Exited { exit, .. } => (launch, exit),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the file is there and not empty, as a script says that it has come so far, and returns its text.
    pub(crate) fn wait_for(&mut self, path: &Path) -> String {
        let mut text = String::new();
        self.until(|_| {
            text = fs::read_to_string(path).unwrap_or_default();
            text.ends_with('\n')
        });
        text
    }

    /// Lets the supervisor go on until something holds.
    pub(crate) fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "it never came");
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        }
    }

    /// Holds the shim that waits for the next order, and returns its pid: it does nothing before it is let [`go_on`]. There
    /// is one after a first run, which has this name.
    pub(crate) fn hold_shim(&mut self, first: &str) -> i32 {
        let first = self.plan(first, "true", |_, _| {});
        self.launch(&first);
        assert!(matches!(self.end(&first), Report::Exited { success: true, .. }));
        let taken = self.shim(&first);
        self.until(|_| !is_alive(taken));
        let shim = self.shim_ahead(&first);
        signal(shim, Signal::STOP);
        shim
    }

    /// The pid of the shim that has claimed this run.
    pub(crate) fn shim(&self, launch: &Launch) -> i32 {
        let claim: Claim = self.folder(launch).read(&launch.token).unwrap().unwrap();
        claim.shim.unwrap().pid
    }

    /// The shim that the launcher has forked ahead, and that waits for an order: it is not that of this run.
    pub(crate) fn shim_ahead(&self, run: &Launch) -> i32 {
        let taken = self.shim(run);
        loop {
            if let Some(ahead) = shims(self.launcher()).into_iter().find(|pid| *pid != taken) {
                return ahead;
            }
            std::thread::yield_now();
        }
    }

    /// Waits until the held shim has its order: the launcher has forked the next one by then.
    pub(crate) fn order_is_given(&mut self) {
        let launcher = self.launcher();
        self.until(|_| shims(launcher).len() == 2);
    }

    /// The pid of the launcher.
    pub(crate) fn launcher(&self) -> i32 {
        let own = std::process::id() as i32;
        let children = batchd::shim::tree::descendants(own);
        let is_launcher = |pid: &i32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let program = self.program.to_string_lossy().into_owned();
            command == format!("{program}\0launcher\0").as_bytes() && name == "batchd-launcher\n"
        };
        children.into_iter().find(is_launcher).expect("there is a launcher")
    }
}

/// The pids of the shims below a launcher.
fn shims(launcher: i32) -> Vec<i32> {
    let is_shim = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "batchd-shim\n");
    batchd::shim::tree::descendants(launcher).into_iter().filter(is_shim).collect()
}

pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// Whether the process with this pid is alive.
pub(crate) fn is_alive(pid: i32) -> bool {
    batchd::shim::tree::stat(pid).is_some_and(|stat| stat.state != b'Z')
}

pub(crate) fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

/// Lets a process that was stopped go on.
pub(crate) fn go_on(pid: i32) {
    signal(pid, Signal::CONT);
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn upstream(of: &Launch, exit: Option<Exit>) -> UpstreamEnd {
    UpstreamEnd { run: of.run.id.clone(), output_of: of.run.id.clone(), outcome: Outcome::Succeeded, exit }
}

pub(crate) fn run(id: RunId, hash: DefinitionHash) -> Run {
    let now = Instant::parse("2026-11-23T00:00:00Z").unwrap();
    Run {
        chain: id.clone(),
        id,
        pass: 1,
        follow: Follow::Everything,
        trigger: Trigger::Schedule,
        attempt: 1,
        previous: None,
        state: State::Starting,
        due_at: now,
        start_at: None,
        queued_at: now,
        queue_position: 1,
        joining: false,
        caught_up: false,
        priority: 0,
        pool: None,
        upstreams: Vec::new(),
        definition: Some(hash),
        boot: Some(boot()),
        starting_at: Some(now),
        started_at: None,
        started_by: None,
        remark: None,
        stop: None,
        given: Given::default(),
        range: None,
    }
}

pub(crate) fn definition(name: &BatchName, hash: DefinitionHash) -> Definition {
    let retry =
        RetryPolicy { retries: 0, delay: Duration::ZERO, backoff: 1.0, delay_max: Duration::ZERO, on_lost: false };
    let execution = Execution {
        script: "script.sh".to_owned(),
        include: Vec::new(),
        interpreter: vec!["bash".to_owned()],
        args: Vec::new(),
        env: BTreeMap::new(),
        pass_env: Vec::new(),
        env_file: None,
        working_dir: None,
        user: None,
        umask: 0o022,
        no_new_privs: false,
        timeout: None,
        stop_grace: Duration::from_secs(10),
        success_exit_codes: vec![0],
        log_bytes_max: 100 * 1024 * 1024,
        merge_output: false,
    };
    Definition {
        name: name.clone(),
        hash,
        description: String::new(),
        tags: Vec::new(),
        cron: Vec::new(),
        timezone: None,
        after: Vec::new(),
        independent: false,
        use_previous_output: false,
        on_error: Vec::new(),
        enabled: true,
        hosts: Vec::new(),
        execution,
        retry,
        overlap: Overlap::Skip,
        catch_up: CatchUp::Last,
        catch_up_within: Duration::ZERO,
        jitter: Duration::ZERO,
        priority: 0,
        pool: None,
    }
}
