//! A chain of two, of which one call fails.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use batchd::shim::tree;
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};

use crate::Case;
use crate::calls::{self, Call, Fault, Struck, Target};
use crate::world::{PATIENCE, World, exits, file};

/// Every script says that it begins and that it ends.
const SCRIPT: &str =
    "echo start $BATCHD_RUN >> $W/witness\ncat\necho said by $BATCHD_RUN\necho end $BATCHD_RUN >> $W/witness\n";
/// An exit code of a daemon or a verb that panicked.
const PANICKED: i32 = 101;

/// A world, and who is traced in it.
pub(crate) struct Scenario {
    world: World,
    trace: PathBuf,
    /// None where the daemon was started under strace, which then looks after itself.
    tracer: Option<Child>,
}

impl Scenario {
    /// Which calls the target makes, and how often.
    pub(crate) fn count(target: Target) -> Vec<Call> {
        let mut scenario = Self::begin(target, &[&format!("trace={}", calls::names())]);
        scenario.play();
        scenario.end_tracer();
        assert_eq!(scenario.world.end_daemon(Signal::TERM), 0);
        calls::count(&fs::read_to_string(&scenario.trace).unwrap())
    }

    /// Runs a case. Whether its call was made: not every run makes as many.
    pub(crate) fn run(case: &Case) -> bool {
        // By an exec a shim's child becomes a script.
        let call = format!("trace=execve,{}", case.call.name);
        let mut scenario = Self::begin(case.target, &[&call, &case.fault.injection(&case.call)]);
        scenario.play();
        scenario.end_tracer();
        let code = scenario.world.end_daemon(Signal::TERM);
        let killed = case.fault == Fault::Kill && case.target != Target::Shims;
        let struck = calls::struck(&fs::read_to_string(&scenario.trace).unwrap());
        // It made other calls this time. What was met is a script, or can't fail like this: that proves nothing.
        let in_vain = struck == Struck::Script || (struck == Struck::NoFile && case.fault != Fault::Kill);
        if in_vain {
            return false;
        }
        assert!(code == 0 || code == 1 || (killed && code == -9), "{case}: the daemon ended with {code}");
        scenario.go_on(case);
        struck != Struck::Nothing
    }

    /// A daemon on a chain of two, and strace where it belongs.
    fn begin(target: Target, options: &[&str]) -> Self {
        let mut world = World::new();
        world.write("witness", "");
        world.batch("first", "", SCRIPT);
        world.batch("second", "after = 'first'\nuse_previous_output = true\n", SCRIPT);
        world.batch("warm", "", SCRIPT);
        let trace = world.path("trace");
        // `-y`: what each descriptor is.
        let mut strace = vec!["-y".to_owned(), "-o".to_owned(), trace.display().to_string()];
        strace.extend(options.iter().flat_map(|option| ["-e".to_owned(), (*option).to_owned()]));
        let tracer = match target {
            Target::Daemon => {
                // `-D`: strace is nobody's parent, and the process started is the daemon itself.
                strace.push("-D".to_owned());
                world.spawn_under("strace", &strace);
                None
            }
            Target::Journal => {
                let daemon = world.start().pid();
                Some(attach(&world, &trace, &strace, thread(daemon, "journal"), false))
            }
            Target::Shims => {
                let daemon = world.start().pid();
                // What has run has had a launcher.
                world.batchd(&["start", "warm", "--wait"]).expect(0);
                // The daemon's only child, and first of all below it.
                let launcher = *tree::descendants(daemon).first().expect("there is a launcher");
                Some(attach(&world, &trace, &strace, launcher, true))
            }
        };
        Self { world, trace, tracer }
    }

    /// Starts the chain, and waits until it has come to rest or the daemon to its end.
    fn play(&self) {
        if !self.world.daemon().ready_or_ended() {
            return;
        }
        let start = self.world.batchd(&["start", "first"]);
        assert_ne!(start.code, PANICKED, "{start:?}");
        self.world.rest_or_end();
    }

    fn end_tracer(&mut self) {
        let Some(mut tracer) = self.tracer.take() else { return };
        // It lets go of all that it traces.
        let _ = kill_process(Pid::from_child(&tracer), Signal::TERM);
        assert!(exits(&tracer, PATIENCE), "strace did not end");
        tracer.wait().unwrap();
    }

    /// The next daemon, to which nothing happens, brings all to its end.
    fn go_on(&mut self, case: &Case) {
        let world = &mut self.world;
        world.start();
        if world.runs().iter().all(|run| run["batch"] != "first") {
            world.batchd(&["start", "first"]).expect(0);
        }
        world.rest();
        assert_eq!(world.end_daemon(Signal::TERM), 0, "{case}");
        world.all_gone();
        let doctor = world.batchd(&["doctor"]);
        assert_eq!(doctor.code, 0, "{case}: {doctor:#?}");
        let witness = world.read("witness");
        let mut said: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for line in witness.lines() {
            let (word, run) = line.split_once(' ').unwrap();
            let counts = said.entry(run).or_default();
            if word == "start" { counts.0 += 1 } else { counts.1 += 1 }
        }
        for run in world.runs() {
            let id = run["id"].as_str().unwrap();
            let said = said.remove(id).unwrap_or_default();
            match run["outcome"].as_str().unwrap() {
                "succeeded" => assert_eq!(said, (1, 1), "{case}: {run}"),
                "lost" | "failed" => assert!(said.0 <= 1 && said.1 <= said.0, "{case}: {said:?} {run}"),
                _ => assert_eq!(said, (0, 0), "{case}: {run}"),
            }
        }
        assert!(said.is_empty(), "{case}: the journal does not know {said:?}");
    }
}

/// Has strace trace a thread or, with `forks`, a process and all that it forks; returns when it does.
fn attach(world: &World, trace: &Path, options: &[String], pid: i32, forks: bool) -> Child {
    let mut command = Command::new("strace");
    command.args(options).args(["-p", &pid.to_string()]).args(forks.then_some("-f"));
    let tracer = command.stdin(Stdio::null()).stderr(Stdio::null()).current_dir(world.path("")).spawn();
    let tracer = tracer.expect("strace is installed");
    // It makes its file before it attaches; that it has, the kernel says.
    file(trace);
    let status = format!("/proc/{pid}/status");
    let is_traced = || fs::read_to_string(&status).unwrap().contains(&format!("TracerPid:\t{}", tracer.id()));
    while !is_traced() {
        std::thread::yield_now();
    }
    if forks {
        let (trace, strace) = (trace.to_owned(), Pid::from_child(&tracer));
        std::thread::spawn(move || let_go_when_struck(&trace, strace));
    }
    tracer
}

/// Each process has its own count: without this every shim would be struck, and none come through.
fn let_go_when_struck(trace: &Path, strace: Pid) {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&watch, trace, changes).unwrap();
    loop {
        let text = fs::read_to_string(trace).unwrap_or_default();
        if calls::struck(&text) != Struck::Nothing {
            // It may be ending already.
            let _ = kill_process(strace, Signal::TERM);
            return;
        }
        let mut space = [const { MaybeUninit::<u8>::uninit() }; 4096];
        let mut events = inotify::Reader::new(&watch, &mut space);
        if events.next().unwrap().events().contains(inotify::ReadFlags::CLOSE_WRITE) {
            return;
        }
    }
}

/// The thread of that name.
fn thread(pid: i32, wanted: &str) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let task = tasks.find(|task| name(&task.join("comm").display().to_string()) == wanted);
    task.expect("there is such a thread").file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn name(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}
