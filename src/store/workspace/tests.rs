//! Deployments over what scripts leave behind, with real links, owners and races.
//!
//! What scripts change in the definition's own files stands in `changes`, how a workspace changes hands in `handover`.
//! Tests of owners need root, as the daemon does for `user`; without it they say so and end.

mod changes;
mod handover;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::RenameFlags;

use super::*;
use crate::model::files::FileContent;
use crate::root::is_root;
use crate::store::definitions::{definition_path, put};

/// A user who owns nothing on the host.
const USER: Owner = Owner { uid: 54_321, gid: 54_322 };
const BOOT: &str = "boot-1";

struct Host {
    folder: tempfile::TempDir,
    owner: Option<Owner>,
    /// The folders that definitions include.
    include: Vec<String>,
}

impl Host {
    fn new(owner: Option<Owner>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // As `state/` is: others come through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        Self { folder, owner, include: vec!["_common".to_owned()] }
    }

    fn state(&self) -> &Path {
        self.folder.path()
    }

    fn put(&self, entries: &[(&str, &str)]) -> DefinitionHash {
        let file = |(path, bytes): &(&str, &str)| {
            (
                (*path).to_owned(),
                FileContent { bytes: (*bytes).into(), mode: if path.ends_with(".sh") { 0o755 } else { 0o644 } },
            )
        };
        put(self.state(), &Files(entries.iter().map(file).collect())).unwrap()
    }

    fn target<'t>(&'t self, definition: DefinitionHash, name: &'t WorkspaceName, boot_id: &'t str) -> Target<'t> {
        Target { definition, script: "script.sh", include: &self.include, name, owner: self.owner, boot_id }
    }

    fn try_deploy(&self, definition: DefinitionHash, boot_id: &str) -> Result<Deployed, WorkspaceError> {
        deploy(self.state(), &self.target(definition, &name(), boot_id))
    }

    fn deploy(&self, definition: DefinitionHash) -> Deployed {
        self.try_deploy(definition, BOOT).unwrap()
    }

    fn path(&self, below: &str) -> PathBuf {
        workspace_path(self.state(), &name()).join(below)
    }

    fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap()
    }

    /// All that is in the workspace, folders with a `/` behind them.
    fn list(&self) -> Vec<String> {
        fn list(folder: &Path, below: &str, names: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let name = format!("{below}{}", entry.file_name().to_str().unwrap());
                if entry.file_type().unwrap().is_dir() {
                    names.push(format!("{name}/"));
                    list(&entry.path(), &format!("{name}/"), names);
                } else {
                    names.push(name);
                }
            }
        }
        let mut names = Vec::new();
        list(&self.path(""), "", &mut names);
        names.sort();
        names
    }

    /// What the daemon keeps beside the workspace.
    fn list_beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state().join(WORKSPACES)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|n| n != "report").collect();
        names.sort();
        names
    }
}

/// Something that is mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], on: &Path) -> Self {
        let mount = std::process::Command::new("mount").args(arguments).arg(on).status();
        assert!(mount.unwrap().success(), "mount {arguments:?}");
        Self(on.to_owned())
    }

    /// A file on itself: nobody can remove it.
    fn bind(file: &Path) -> Self {
        Self::new(&["--bind", file.to_str().unwrap()], file)
    }

    /// Another file system.
    fn tmpfs(on: &Path) -> Self {
        Self::new(&["-t", "tmpfs", "tmpfs"], on)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn name() -> WorkspaceName {
    WorkspaceName::of_batch(&BatchName::new("report").unwrap())
}

#[test]
fn the_second_deployment_writes_nothing() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", "echo"), ("lib/a", "a")]);
    let first = host.deploy(hash);
    assert_eq!((first.written, &first.path), (2, &host.path("").components().as_path().to_owned()));
    assert_eq!(host.list(), ["lib/", "lib/a", "script.sh"]);
    assert_eq!(fs::metadata(host.path("script.sh")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(host.path("lib/a")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(host.path("lib")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(host.path("")).unwrap().mode() & 0o7777, 0o700);
    let manifest = host.state().join("workspaces/.report.json");
    assert_eq!(fs::metadata(manifest).unwrap().mode() & 0o7777, 0o600);
    // It does not even look at the definition.
    fs::remove_dir_all(definition_path(host.state(), hash)).unwrap();
    assert_eq!(host.deploy(hash).written, 0);
    assert_eq!(host.list_beside(), [".report.json"]);
}

#[test]
fn another_definition_replaces_exactly_the_files_of_the_last() {
    let host = Host::new(None);
    let one = host.put(&[("script.sh", "1"), ("same", "s"), ("old/deep/a", "a"), ("shared/a", "a"), ("turns/b", "b")]);
    let two =
        host.put(&[("script.sh", "2"), ("same", "s"), ("shared/new", "n"), ("turns", "file"), ("new/deep/c", "c")]);
    host.deploy(one);
    fs::write(host.path("mine"), "").unwrap();
    let inode = fs::metadata(host.path("same")).unwrap().ino();
    let running = fs::File::open(host.path("script.sh")).unwrap();
    let deployed = host.deploy(two);
    assert_eq!((deployed.written, deployed.remarks.len()), (4, 0));
    let expected = ["mine", "new/", "new/deep/", "new/deep/c", "same", "script.sh", "shared/", "shared/new", "turns"];
    assert_eq!(host.list(), expected);
    assert_eq!(fs::metadata(host.path("same")).unwrap().ino(), inode);
    // A bash that reads the old script goes on with the old one.
    assert_eq!(io::read_to_string(running).unwrap(), "1");
    host.deploy(one);
    let expected =
        ["mine", "old/", "old/deep/", "old/deep/a", "same", "script.sh", "shared/", "shared/a", "turns/", "turns/b"];
    assert_eq!(host.list(), expected);
}

#[test]
fn a_deployment_that_died_half_way_leaves_nothing_behind_in_the_end() {
    let host = Host::new(None);
    let one = host.put(&[("script.sh", "1")]);
    let two = host.put(&[("script.sh", "2"), ("only-in-two", "")]);
    host.deploy(one);
    // A shim that died right after its first file: the manifest of both, and some of the files.
    let files = definitions::read_back(host.state(), two).unwrap();
    let name = name();
    let target = host.target(two, &name, BOOT);
    let wanted = files.0.iter().map(|(path, file)| (path.as_str(), Wanted::new(path, file, &target))).collect();
    let workspaces = host.state().join(WORKSPACES);
    let last = Manifest::read(&workspaces, &name).unwrap();
    Manifest::unfinished(&last, &wanted).unwrap().write(&workspaces, &name).unwrap();
    fs::write(host.path("only-in-two"), "").unwrap();
    let deployed = host.deploy(one);
    assert_eq!((deployed.written, deployed.remarks), (0, Vec::new()));
    assert_eq!(host.list(), ["script.sh"]);
    let deployed = host.deploy(two);
    assert_eq!((deployed.written, deployed.remarks), (2, Vec::new()));
}

#[test]
fn what_is_not_of_this_boot_is_compared() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", "echo")]);
    host.deploy(hash);
    assert_eq!(host.try_deploy(hash, "boot-2").unwrap().written, 0);
    fs::write(definition_path(host.state(), hash).join("script.sh"), "damaged").unwrap();
    assert_eq!(host.try_deploy(hash, "boot-2").unwrap().written, 0);
    let error = host.try_deploy(hash, "boot-3").unwrap_err();
    assert!(matches!(error, WorkspaceError::Definition(DefinitionError::Damaged(_))), "{error}");
}

/// Plants `plant` in a workspace, deploys, and gives the remarks. Outside, nothing may have changed.
fn plant(owner: Option<Owner>, plant: &dyn Fn(&Host, &Path)) -> (Host, Vec<String>) {
    let host = Host::new(owner);
    let hash = host.put(&[("script.sh", "echo"), ("lib/deep/a", "a")]);
    host.deploy(hash);
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("deep")).unwrap();
    for path in ["secret", "deep/a"] {
        fs::write(outside.path().join(path), "secret").unwrap();
    }
    let look = || {
        let stat =
            |path: &str| fs::metadata(outside.path().join(path)).map(|m| (m.ino(), m.uid(), m.mode(), m.ctime_nsec()));
        let names = fs::read_dir(outside.path().join("deep")).unwrap().count();
        (names, stat("").unwrap(), stat("deep").unwrap(), stat("deep/a").unwrap(), stat("secret").unwrap())
    };
    let before = look();
    plant(&host, outside.path());
    let remarks = host.deploy(hash).remarks;
    assert_eq!(look(), before);
    assert_eq!((host.read("script.sh"), host.read("lib/deep/a")), ("echo".to_owned(), "a".to_owned()));
    for path in ["script.sh", "lib/deep/a", "lib/deep", "lib"] {
        let found = host.path(path).symlink_metadata().unwrap();
        assert!(!found.is_symlink(), "{path}");
        assert_eq!(found.uid(), owner.unwrap_or_else(this_user).uid, "{path}");
    }
    assert_eq!(
        host.deploy(hash),
        Deployed { path: workspace_path(host.state(), &name()), written: 0, remarks: vec![] }
    );
    (host, remarks)
}

#[test]
fn planted_links_and_folders_are_never_followed() {
    let owners = if is_root() { vec![None, Some(USER)] } else { vec![None] };
    for owner in owners {
        let replace = |path: PathBuf, target: &Path| {
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            symlink(target, path).unwrap();
        };
        let reason = "set aside, because a file of the definition belongs there";
        let aside = |path: &str| vec![format!("{reason}: `{path}` (now `{path}.aside`)")];
        // A link where a file should be goes aside, as it is.
        let (host, moved) = plant(owner, &|host, outside| replace(host.path("script.sh"), &outside.join("secret")));
        assert_eq!(moved, aside("script.sh"));
        assert!(host.path("script.sh.aside").symlink_metadata().unwrap().is_symlink());
        // So does a link where a folder should be.
        let (host, moved) = plant(owner, &|host, outside| replace(host.path("lib"), outside));
        assert_eq!(moved, aside("lib"));
        assert!(host.path("lib.aside").symlink_metadata().unwrap().is_symlink());
        let (_, moved) = plant(owner, &|host, outside| replace(host.path("lib/deep"), &outside.join("deep")));
        assert_eq!(moved, aside("lib/deep"));
        let (_, moved) = plant(owner, &|host, _| replace(host.path("lib"), Path::new("lib")));
        assert_eq!(moved, aside("lib"));
        // So does a folder where a file should be, with what the script has in it.
        let (host, moved) = plant(owner, &|host, _| {
            fs::remove_file(host.path("script.sh")).unwrap();
            fs::create_dir(host.path("script.sh")).unwrap();
            fs::write(host.path("script.sh/mine"), "kept").unwrap();
        });
        assert_eq!((moved, host.read("script.sh.aside/mine")), (aside("script.sh"), "kept".to_owned()));
        // And a file where a folder should be.
        let (host, moved) = plant(owner, &|host, _| {
            fs::remove_dir_all(host.path("lib")).unwrap();
            fs::write(host.path("lib"), "kept").unwrap();
        });
        assert_eq!((moved, host.read("lib.aside")), (aside("lib"), "kept".to_owned()));
        // A FIFO blocks nobody.
        let (_, moved) = plant(owner, &|host, _| {
            fs::remove_file(host.path("script.sh")).unwrap();
            rustix::fs::mknodat(CWD, host.path("script.sh"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        });
        assert_eq!(moved, aside("script.sh"));
    }
}

#[test]
fn stale_files_are_not_removed_through_links() {
    let host = Host::new(None);
    let one = host.put(&[("script.sh", ""), ("lib/a", "a"), ("b", "b")]);
    let two = host.put(&[("script.sh", "")]);
    host.deploy(one);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), "").unwrap();
    fs::remove_dir_all(host.path("lib")).unwrap();
    symlink(outside.path(), host.path("lib")).unwrap();
    fs::remove_file(host.path("b")).unwrap();
    fs::create_dir(host.path("b")).unwrap();
    host.deploy(two);
    assert!(outside.path().join("a").exists());
    assert_eq!(host.list(), ["b/", "lib", "script.sh"]);
}

#[test]
fn a_workspace_belongs_to_its_user() {
    if !is_root() {
        return;
    }
    let mut host = Host::new(Some(USER));
    let hash = host.put(&[("script.sh", "echo"), ("lib/a", "a")]);
    host.deploy(hash);
    let owner_of = |path: PathBuf| fs::metadata(path).map(|m| Owner { uid: m.uid(), gid: m.gid() }).unwrap();
    for path in ["", "script.sh", "lib", "lib/a"] {
        assert_eq!(owner_of(host.path(path)), USER, "{path}");
    }
    assert_eq!(fs::metadata(host.path("")).unwrap().mode() & 0o7777, 0o700);
    fs::create_dir_all(host.path("cache/deep")).unwrap();
    fs::write(host.path("cache/deep/mine"), "").unwrap();
    fs::write(host.path("roots"), "").unwrap();
    let outside = tempfile::tempdir_in(host.state()).unwrap();
    fs::write(outside.path().join("other"), "").unwrap();
    fs::hard_link(outside.path().join("other"), host.path("twice")).unwrap();
    symlink(outside.path(), host.path("link")).unwrap();
    for path in ["cache", "cache/deep", "cache/deep/mine", "twice"] {
        chown(host.path(path), Some(USER.uid), Some(USER.gid)).unwrap();
    }
    // Another user: all that was the old one's changes hands, but for what has a name elsewhere.
    host.owner = Some(Owner { uid: 54_400, gid: 54_400 });
    let deployed = host.deploy(hash);
    let expected = "the batch's user changed from uid 54321 to uid 54400: the workspace now belongs to uid 54400; uid 54321 \
        still owns 1 file with several names or in too deeply nested folders";
    assert_eq!((deployed.written, deployed.remarks), (0, vec![expected.to_owned()]));
    for path in ["", "script.sh", "lib/a", "cache", "cache/deep", "cache/deep/mine"] {
        assert_eq!(owner_of(host.path(path)), host.owner.unwrap(), "{path}");
    }
    assert_eq!(owner_of(host.path("twice")), USER);
    assert_eq!(owner_of(host.path("roots")), this_user());
    assert_eq!(owner_of(outside.path().to_owned()), this_user());
    assert_eq!(host.deploy(hash).written, 0);
}

/// A user's process swaps the folder of a definition for a link and back while deployments go on.
#[test]
fn a_folder_swapped_during_deployments_leads_nowhere() {
    let host = Host::new(is_root().then_some(USER));
    let definitions = [host.put(&[("lib/a", "one")]), host.put(&[("lib/a", "two")])];
    host.deploy(definitions[0]);
    let outside = tempfile::tempdir().unwrap();
    let done = AtomicBool::new(false);
    symlink(outside.path(), host.path("link")).unwrap();
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let exchange = RenameFlags::EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                // Fails while `lib` is moved aside: then the next one does it.
                let _ = rustix::fs::renameat_with(CWD, host.path("lib"), CWD, host.path("link"), exchange);
            }
        });
        // A deployment may give up when things are taken away again and again; what counts is where it wrote.
        for round in 0..200 {
            let _ = host.try_deploy(definitions[round % 2], BOOT);
            if swapper.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn two_shims_may_make_the_same_workspace() {
    let host = Host::new(None);
    let files = Files([("script.sh".to_owned(), FileContent { bytes: b"echo".to_vec(), mode: 0o700 })].into());
    let hash = put(host.state(), &files).unwrap();
    let name = name();
    let target = host.target(hash, &name, BOOT);
    let deployment = || Deployment {
        workspaces: host.state().join(WORKSPACES),
        path: workspace_path(host.state(), &name),
        target: &target,
        manifest: Manifest::new(&target, None),
    };
    make_workspaces(&host.state().join(WORKSPACES)).unwrap();
    assert!(deployment().open().unwrap().is_none());
    // Both have seen that there is none.
    assert_eq!(deployment().make(&files, None).unwrap().written, 1);
    assert_eq!(deployment().make(&files, None).unwrap().written, 0);
    assert_eq!(host.list(), ["script.sh"]);
    assert_eq!(host.list_beside(), [".report.json"]);
}

#[test]
fn what_dead_shims_left_is_cleared() {
    let host = Host::new(None);
    host.deploy(host.put(&[("script.sh", "echo")]));
    let workspaces = host.state().join(WORKSPACES);
    let own = os::process_name();
    // Beyond the largest number of a process.
    let dead = format!("{}-4194305", own.rsplit_once('-').unwrap().0);
    let [elsewhere, forgotten] = ["0-1-4194305", "0-1-4194306"].map(str::to_owned);
    for process in [&dead, &own, &elsewhere, &forgotten] {
        fs::create_dir(workspaces.join(format!(".report.new-{process}"))).unwrap();
    }
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 60 * 60);
    fs::write(workspaces.join(format!(".report.json.new-{dead}")), "").unwrap();
    let old = workspaces.join(format!(".report.new-{forgotten}"));
    fs::File::open(old).unwrap().set_modified(two_days_ago).unwrap();
    clear_unfinished(host.state()).unwrap();
    let mut left = vec![".report.json".to_owned(), format!(".report.new-{elsewhere}"), format!(".report.new-{own}")];
    left.sort();
    assert_eq!(host.list_beside(), left);
    clear_unfinished(&host.state().join("none")).unwrap();
}

#[test]
fn names_of_workspaces() {
    let batch = BatchName::new("report").unwrap();
    let hash = DefinitionHash([0xab; 32]);
    assert_eq!(WorkspaceName::of_batch(&batch).0, "report");
    assert_eq!(WorkspaceName::of_definition(&batch, hash).0, format!("report@{}", "ab".repeat(32)));
}
