//! Who may read what a run writes, and a launcher that has nobody to tell its errors to.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use batchd::model::launch::{Launch, Report};
use batchd::rundir::access::Access;

use crate::outputs::Unmount;
use crate::root::is_root;
use crate::world::World;

/// `nogroup`, or whatever has this number.
const GROUP: u32 = 65_534;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The modes of a run's folder and of its three logs.
fn modes(world: &World, launch: &Launch) -> [u32; 4] {
    ["", "stdout.log", "stderr.log", "times"].map(|name| mode(&world.file(launch, name)))
}

#[test]
fn a1_a_run_folder_is_for_its_owner_and_one_group() {
    let mut world = World::new();
    let (launch, _) = world.run("echo secret; echo secret >&2");
    assert_eq!(modes(&world, &launch), [0o750, 0o640, 0o640, 0o640]);
    // Whatever the umask of the daemon takes.
    world.start_with(Access { mode: 0o755, ..Access::default() });
    let (launch, _) = world.run("echo public; echo public >&2");
    assert_eq!(modes(&world, &launch), [0o755, 0o644, 0o644, 0o644]);
}

#[test]
fn a1_the_group_of_the_socket_reads_logs() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    world.start_with(Access { group: Some(GROUP), ..Access::default() });
    let (launch, _) = world.run("echo secret; echo secret >&2");
    assert_eq!(modes(&world, &launch), [0o750, 0o640, 0o640, 0o640]);
    for name in ["", "stdout.log", "stderr.log", "times"] {
        assert_eq!(fs::metadata(world.file(&launch, name)).unwrap().gid(), GROUP, "{name}");
    }
}

#[test]
fn a1_a_script_of_another_user_reads_its_own_log_and_no_other_ones() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let (other, _) = world.run("echo secret");
    let script = format!(
        "set -e; echo mine; until [[ $(cat $BATCHD_RUN_DIR/stdout.log) == mine ]]; do :; done
        ls $BATCHD_RUN_DIR > /dev/null; echo 50 > $BATCHD_PROGRESS; cat $BATCHD_RUN_DIR/run.json > /dev/null
        if echo > $BATCHD_RUN_DIR/stdout.log; then exit 1; fi 2> /dev/null
        if cat {} 2> /dev/null; then exit 2; fi",
        world.file(&other, "stdout.log").display()
    );
    let launch = world.plan("user", &script, |execution, _| execution.user = Some("nobody".to_owned()));
    world.launch(&launch);
    let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
    assert_eq!(exit.exit_code, Some(0), "{} {}", world.text(&launch, "stdout.log"), world.text(&launch, "stderr.log"));
    assert_eq!(modes(&world, &launch)[..3], [0o750, 0o640, 0o640], "others have no right to it");
}

/// On a file system without access control lists, the script's user passes through to `io/`, and nobody else gets a right
/// who can be kept from it.
#[test]
fn a1_without_access_control_lists_only_the_passage_is_open() {
    if !is_root() {
        return;
    }
    let script = "set -e; echo secret; echo 50 > $BATCHD_PROGRESS
        if ls $BATCHD_RUN_DIR 2> /dev/null; then exit 1; fi
        if cat $BATCHD_RUN_DIR/stdout.log 2> /dev/null; then exit 2; fi";
    let gid_of_user = 1;
    // The folder's mode in the settings and its group; then its mode, its group, and whether strangers pass.
    for (access, mode, group, others_pass) in [
        (Access::default(), 0o710, gid_of_user, false),
        (Access { group: Some(GROUP), ..Access::default() }, 0o751, GROUP, true),
        (Access { mode: 0o700, group: Some(GROUP), ..Access::default() }, 0o711, GROUP, true),
        (Access { mode: 0o711, ..Access::default() }, 0o711, 0, true),
    ] {
        let mut world = World::new();
        let runs = world.path("runs");
        fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        let mount = Command::new("mount").args(["-t", "ramfs", "-o", "mode=755", "ramfs"]).arg(&runs).status();
        assert!(mount.unwrap().success());
        let _unmount = Unmount(runs);
        world.start_with(access);
        let launch = world.plan("user", script, |execution, _| execution.user = Some("daemon".to_owned()));
        world.launch(&launch);
        let Report::Exited { exit, .. } = world.end(&launch) else { panic!() };
        assert_eq!(exit.exit_code, Some(0), "{access:?}: {}", world.text(&launch, "stderr.log"));
        let log = access.mode & 0o666;
        assert_eq!(modes(&world, &launch), [mode, log, log, log], "{access:?}");
        assert_eq!(fs::metadata(world.file(&launch, "")).unwrap().gid(), group, "{access:?}");
        let stat = |name: &str| {
            let mut command = Command::new("stat");
            command.arg(world.file(&launch, name)).stdout(Stdio::null()).stderr(Stdio::null());
            command.uid(54_321).gid(54_321).status().unwrap().success()
        };
        assert_eq!(stat("io"), others_pass, "{access:?}");
    }
}

#[test]
fn a4_a_launcher_that_can_tell_nobody_ends_in_good_order() {
    let home = tempfile::tempdir().unwrap();
    for stderr in [Stdio::from(File::options().write(true).open("/dev/full").unwrap()), broken_pipe()] {
        // No daemon asks for a shim with so long an order.
        fs::write(home.path().join("request"), [0xff; 12]).unwrap();
        let request = File::open(home.path().join("request")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_batchd"));
        let command = command.arg("launcher").stdin(request).stdout(Stdio::null()).stderr(stderr);
        assert_eq!(command.status().unwrap().code(), Some(1));
    }
}

/// The end of a pipe that nobody reads.
fn broken_pipe() -> Stdio {
    std::io::pipe().unwrap().1.into()
}
