//! How far a workspace that changes hands goes: not onto what is mounted there, and not deeper than any tool nests folders.

use super::super::handover::DEPTH_MAX;
use super::*;

const NEW: Owner = Owner { uid: 54_400, gid: 54_400 };

/// A workspace that was [`USER`]'s, with what `plant` puts there, is [`NEW`]'s. What the deployment remarks.
fn hand_over(plant: &dyn Fn(&Host)) -> (Host, Vec<String>) {
    let mut host = Host::new(Some(USER));
    let hash = host.put(&[("script.sh", "echo")]);
    host.deploy(hash);
    plant(&host);
    host.owner = Some(NEW);
    let remarks = host.deploy(hash).remarks;
    assert_eq!(owner(&host, ""), NEW.uid);
    (host, remarks)
}

fn owner(host: &Host, path: &str) -> u32 {
    fs::symlink_metadata(host.path(path)).unwrap().uid()
}

fn give(host: &Host, path: &str) {
    chown(host.path(path), Some(USER.uid), Some(USER.gid)).unwrap();
}

const CHANGED: &str = "the batch's user changed from uid 54321 to uid 54400: the workspace now belongs to uid 54400";

#[test]
fn what_is_mounted_in_a_workspace_stays_its_owners() {
    if !is_root() {
        return;
    }
    let mounted = std::cell::RefCell::new(None);
    let (host, remarks) = hand_over(&|host| {
        for path in ["cache", "cache/mount", "cache/beside"] {
            fs::create_dir(host.path(path)).unwrap();
            give(host, path);
        }
        *mounted.borrow_mut() = Some(Mounted::tmpfs(&host.path("cache/mount")));
        fs::create_dir(host.path("cache/mount/deep")).unwrap();
        fs::write(host.path("cache/mount/deep/file"), "").unwrap();
        ["cache/mount", "cache/mount/deep", "cache/mount/deep/file"].iter().for_each(|path| give(host, path));
    });
    assert_eq!(remarks, [CHANGED]);
    assert_eq!(["cache", "cache/beside"].map(|path| owner(&host, path)), [NEW.uid; 2]);
    let on_mount = ["cache/mount", "cache/mount/deep", "cache/mount/deep/file"];
    assert_eq!(on_mount.map(|path| owner(&host, path)), [USER.uid; 3]);
    // The folder below the mount is the workspace's, and is out of reach as long as the mount is there.
    mounted.take();
    assert_eq!(owner(&host, "cache/mount"), USER.uid);
}

#[test]
fn folders_that_are_nested_too_deeply_stay_and_are_counted() {
    if !is_root() {
        return;
    }
    let nested = |levels: usize| vec!["d"; levels].join("/");
    let (host, remarks) = hand_over(&|host| {
        fs::create_dir_all(host.path(&nested(DEPTH_MAX + 2))).unwrap();
        (1..=DEPTH_MAX + 2).for_each(|levels| give(host, &nested(levels)));
        for levels in [DEPTH_MAX, DEPTH_MAX + 1] {
            let file = nested(levels) + "/file";
            fs::write(host.path(&file), "").unwrap();
            give(host, &file);
        }
    });
    let left = "; uid 54321 still owns 1 file with several names or in too deeply nested folders";
    assert_eq!(remarks, [format!("{CHANGED}{left}")]);
    for (path, expected) in [
        (nested(1), NEW),
        (nested(DEPTH_MAX), NEW),
        (nested(DEPTH_MAX) + "/file", NEW),
        (nested(DEPTH_MAX + 1), USER),
        (nested(DEPTH_MAX + 1) + "/file", USER),
        (nested(DEPTH_MAX + 2), USER),
    ] {
        assert_eq!(owner(&host, &path), expected.uid, "{path}");
    }
}
