//! Runs, workspaces and their adoption with all files on NFS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use batchd::model::files::{FileContent, Files};
use batchd::model::id::BatchName;
use batchd::rundir::RunDir;
use batchd::store::definitions::put;
use batchd::store::workspace::{Target, WorkspaceName, deploy, workspace_path};

use crate::guest;
use crate::world::{World, boot};

#[test]
fn a15_on_nfs_runs_are_started_and_adopted() {
    guest::run(&[
        "adopt::a4_",
        "adopt::a15_",
        "adopt::an_adopted_run",
        "adopt::b4_",
        "adopt::b6_",
        "adopt::b8_",
        "adopt::b9_",
        "adopt::b18_",
        "adopt::h8_",
        "outputs::f5_logs_are",
        "strangers::f6_",
        "strangers::f7_",
        "nfs::in_the_guest",
    ]);
}

/// The same file by the other client.
fn by_other_client(path: &Path) -> PathBuf {
    Path::new("/mnt/b").join(path.strip_prefix("/mnt/a").unwrap())
}

/// As another host finds them. An open log that nobody has synced has no bytes there, for half a minute.
#[test]
#[ignore = "runs in the guest of `a15_on_nfs_runs_are_started_and_adopted`"]
fn in_the_guest_logs_are_whole_for_another_host_when_the_end_is_there() {
    let mut world = World::new();
    let script = "head -c 100000 /dev/zero; head -c 5000 /dev/zero >&2";
    for n in 0..5 {
        let launch = world.plan(&format!("job{n}"), script, |_, _| {});
        let folder = by_other_client(&world.file(&launch, ""));
        let done = AtomicBool::new(false);
        let lengths = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Behind opening the folder, a cached "no such file" does not count.
                    let Ok(run) = RunDir::open(&folder) else {
                        std::thread::yield_now();
                        continue;
                    };
                    if run.length("exit.json").is_some() {
                        return ["stdout.log", "stderr.log"].map(|name| fs::metadata(folder.join(name)).unwrap().len());
                    }
                }
                panic!("the end was not seen");
            });
            world.launch(&launch);
            world.end(&launch);
            let lengths = other.join().unwrap();
            done.store(true, Ordering::Relaxed);
            lengths
        });
        assert_eq!(lengths, [100_000, 5000]);
    }
}

/// What stands in the way of a definition's file and folder is moved aside, and what was moved aside before is kept.
#[test]
#[ignore = "runs in the guest of `a15_on_nfs_runs_are_started_and_adopted`"]
fn in_the_guest_workspaces_are_made_and_brought_up_to_date() {
    let state = tempfile::tempdir().unwrap();
    let name = WorkspaceName::of_batch(&BatchName::new("report").unwrap());
    let workspace = workspace_path(state.path(), &name);
    let deploy = |paths: &[&str]| {
        let files = paths.iter().map(|path| {
            (
                (*path).to_owned(),
                FileContent {
                    bytes: path.as_bytes().to_vec(),
                    mode: if path.ends_with(".sh") { 0o700 } else { 0o600 },
                },
            )
        });
        let hash = put(state.path(), &Files(files.collect())).unwrap();
        let boot_id = boot();
        let target =
            Target { definition: hash, script: "script.sh", include: &[], name: &name, owner: None, boot_id: &boot_id };
        deploy(state.path(), &target).unwrap()
    };
    deploy(&["script.sh"]);
    fs::create_dir_all(workspace.join("data/mine")).unwrap();
    fs::write(workspace.join("lib"), "mine").unwrap();
    let deployed = deploy(&["script.sh", "data", "lib/a"]);
    assert!(!deployed.remarks.is_empty(), "{deployed:?}");
    assert_eq!(fs::read_to_string(workspace.join("data")).unwrap(), "data");
    assert_eq!(fs::read_to_string(workspace.join("lib/a")).unwrap(), "lib/a");
    assert!(fs::symlink_metadata(workspace.join("data.aside")).unwrap().is_dir(), "{deployed:?}");
    assert_eq!(fs::read_to_string(workspace.join("lib.aside")).unwrap(), "mine");
}
