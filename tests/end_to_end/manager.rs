//! The service manager's side: a socket that listens as systemd's does, and the unit that is shipped.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lifecycle::Slow;
use crate::world::{PATIENCE, World};

/// What the unit's `WatchdogSec` is in a test.
const WATCHDOG: Duration = Duration::from_millis(400);

/// A manager that has started a daemon.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn start(world: &mut World) -> Self {
        let path = world.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let micros = WATCHDOG.as_micros().to_string();
        let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", &micros)];
        world.spawn(&[], &variables);
        Self { socket }
    }

    /// The next message within this time.
    fn next_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).unwrap())
    }

    #[track_caller]
    fn next(&self) -> String {
        self.next_within(PATIENCE).expect("the manager is told something")
    }

    /// The next message that is not the watchdog's.
    #[track_caller]
    fn next_word(&self) -> String {
        loop {
            match self.next() {
                message if message == "WATCHDOG=1" => {}
                message => return message,
            }
        }
    }
}

#[test]
fn a_manager_is_told_what_a_daemon_does() {
    let mut slow = Slow::new();
    slow.world.batch("env", "", "env | grep -E 'NOTIFY|WATCHDOG' || echo none\n");
    let manager = Manager::start(&mut slow.world);
    assert_eq!(manager.next(), "READY=1");
    // It is what it says: the very next thing works.
    slow.world.batchd(&["start", "env", "--wait"]).expect(0);
    assert_eq!(slow.world.stdout("env.1"), "none\n", "what belongs to the daemon is not for scripts");
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    let mark = slow.world.daemon().mark();
    slow.world.batch("new", "", "echo new\n");
    slow.world.daemon().signal(Signal::HUP);
    let reloading = manager.next_word();
    let (word, time) = reloading.split_once('\n').unwrap();
    assert_eq!(word, "RELOADING=1");
    let time: u64 = time.strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!(time > 0 && time as f64 / 1e6 < uptime + 1.0, "{time} and {uptime}");
    assert_eq!(manager.next_word(), "READY=1");
    slow.world.daemon().in_force(mark, "new");
    slow.world.daemon().signal(Signal::TERM);
    assert_eq!(manager.next_word(), "STOPPING=1");
    assert_eq!(slow.world.daemon_ends(), 0);
}

/// E9: somebody holds the journal. The daemon waits for it, and is not ended for that.
#[test]
fn e9_a_journal_that_is_locked_is_no_reason_to_end_a_daemon() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    let manager = Manager::start(&mut world);
    world.daemon().says(0, "is ready");
    let journal = rusqlite::Connection::open(world.path("state/journal.db")).unwrap();
    journal.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mark = world.daemon().mark();
    world.write("batches.d/one/script.sh", "echo two\n");
    world.daemon().says(mark, "the journal can't be written (");
    while manager.next_within(Duration::from_millis(1)).is_some() {}
    for _ in 0..3 {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    journal.execute_batch("ROLLBACK").unwrap();
    world.daemon().says(mark, "the journal is writable again");
}

/// The thread of the daemon that writes the journal.
fn writer(world: &World) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", world.daemon().pid())).unwrap();
    let is_writer = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "journal\n");
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let task = tasks.find(|path| is_writer(path)).expect("there is a thread `journal`");
    task.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Has every fsync of a thread take longer than any test, until this is ended.
fn hang(world: &World, thread: i32) -> Child {
    let mut strace = world.command("strace");
    strace.args(["-qq", "-o", "trace", "-e", "trace=fsync,fdatasync"]);
    strace.args(["-e", "inject=fsync,fdatasync:delay_enter=60000000", "-p", &thread.to_string()]);
    let child = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let traced =
        || fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|text| !text.contains("TracerPid:\t0\n"));
    while !traced() {
        assert!(begun.elapsed() < PATIENCE, "strace does not get hold of the thread");
        std::thread::yield_now();
    }
    child
}

/// G9: a disk that does not answer. The manager is told nothing, and told again when it does.
#[test]
fn g9_a_writer_that_hangs_at_its_disk_does_not_feed_the_watchdog() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    let manager = Manager::start(&mut world);
    world.daemon().says(0, "is ready");
    let thread = writer(&world);
    let mut strace = hang(&world, thread);
    world.write("batches.d/one/script.sh", "echo two\n");
    let begun = Instant::now();
    // Held by the tracer, in the middle of a commit; at every other call it stops for a moment only.
    let hangs = || {
        let call = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap();
        let is_sync =
            [libc::SYS_fsync, libc::SYS_fdatasync].iter().any(|number| call.starts_with(&format!("{number} ")));
        is_sync && batchd::shim::tree::stat(thread).is_some_and(|stat| stat.state == b't')
    };
    while !hangs() {
        assert!(begun.elapsed() < PATIENCE, "nothing is committed");
        std::thread::yield_now();
    }
    while manager.next_within(Duration::from_millis(1)).is_some() {}
    // One may still be due for the answers before.
    let late = manager.next_within(WATCHDOG);
    assert!(late.is_none_or(|message| message == "WATCHDOG=1"));
    assert_eq!(manager.next_within(4 * WATCHDOG), None, "it hangs");
    strace.kill().unwrap();
    strace.wait().unwrap();
    assert_eq!(manager.next(), "WATCHDOG=1", "it answers again");
    world.daemon().signal(Signal::TERM);
    assert_eq!(world.daemon_ends(), 0);
}

/// Every `key=value` of the unit's `[Service]`.
fn unit() -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/batchd.service")).unwrap();
    let service = text.split("[Service]").nth(1).unwrap().split("[Install]").next().unwrap();
    let lines = service.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_unit_keeps_what_scripts_rely_on() {
    let unit = unit();
    let value = |key: &str| unit.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    for (key, expected) in [
        ("Type", "notify"),
        ("KillMode", "process"),
        ("OOMPolicy", "continue"),
        ("PrivateTmp", "no"),
        ("TasksMax", "infinity"),
        ("Delegate", "yes"),
        ("DelegateSubgroup", "daemon"),
        ("Restart", "always"),
    ] {
        assert_eq!(value(key), Some(expected), "{key}");
    }
    // What would confine every script with the daemon.
    let confines = |key: &str| {
        let prefixes = [
            "Protect",
            "Private",
            "Restrict",
            "SystemCall",
            "Capability",
            "NoNew",
            "MemoryDeny",
            "ReadOnly",
            "Inaccessible",
        ];
        prefixes.iter().any(|prefix| key.starts_with(prefix))
    };
    let confined: Vec<_> = unit.iter().filter(|(key, value)| confines(key) && value != "no").collect();
    assert!(confined.is_empty(), "{confined:?}");
}

#[test]
fn systemd_understands_the_unit() {
    let world = World::new();
    if world.bash("command -v systemd-analyze || true").is_empty() {
        assert!(std::env::var_os("BATCHD_TESTS_SKIP_NOTHING").is_none(), "install systemd for `systemd-analyze`");
        println!("skipped: there is no systemd-analyze; install systemd");
        return;
    }
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/batchd.service")).unwrap();
    // It looks whether the programs are there.
    let mut text = text.replace("/usr/bin/batchd", env!("CARGO_BIN_EXE_batchd"));
    let version = world.bash("systemd-analyze --version");
    let version: u32 = version.split_whitespace().nth(1).unwrap().split('.').next().unwrap().parse().unwrap();
    if version < 254 {
        // It passes over what it does not know, and puts daemon and shims where they were without it.
        text = text.replace("DelegateSubgroup=daemon\n", "");
    }
    world.write("batchd.service", text);
    let mut command = world.command("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no", "./batchd.service"]);
    let output = world.output(command).expect(0);
    assert_eq!(output.err, "");
}

/// The settings of a package lead to the folders that its unit makes.
#[test]
fn the_packaged_settings_are_sound() {
    let text = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/batchd.toml")).unwrap();
    let (_, diagnostics) = batchd::load::settings("batchd.toml", &text, &|_| Ok(()));
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    let text = String::from_utf8(text).unwrap();
    for folder in ["/etc/batchd/batches.d", "/var/log/batchd", "/var/lib/batchd"] {
        assert!(text.contains(&format!("\"{folder}\"")), "{folder}");
    }
}
