//! What scripts write over the definition's own files, and what becomes of it; modes; what earlier versions left.

use super::*;
use crate::store::{modes, upgrade};

const RESTORED: &str = "changed or removed by an earlier run";

#[test]
fn script_executables_and_included_files_are_always_the_definitions() {
    let check = |change: &dyn Fn(&Host), written: usize, restored: &[&str]| {
        let host = Host::new(None);
        let hash = host.put(&[("script.sh", "echo"), ("tool.sh", "tool"), ("_common/a", "a")]);
        host.deploy(hash);
        fs::write(host.path("cache"), "kept").unwrap();
        fs::write(host.path("_common/cache"), "kept").unwrap();
        change(&host);
        let deployed = host.deploy(hash);
        let named: Vec<String> = restored.iter().map(|path| format!("`{path}`")).collect();
        let remarks = (!named.is_empty()).then(|| format!("restored {}: {RESTORED}", named.join(", ")));
        assert_eq!((deployed.written, deployed.remarks), (written, remarks.into_iter().collect()));
        let all = ["script.sh", "tool.sh", "_common/a", "cache", "_common/cache"].map(|path| host.read(path));
        assert_eq!(all, ["echo", "tool", "a", "kept", "kept"]);
        assert_eq!(fs::metadata(host.path("script.sh")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(host.deploy(hash).written, 0);
        assert_eq!(host.list_beside(), [".report.json"]);
    };
    check(&|_| (), 0, &[]);
    check(&|host| fs::write(host.path("script.sh"), "echo changed").unwrap(), 1, &["script.sh"]);
    check(&|host| fs::write(host.path("tool.sh"), "TOOL").unwrap(), 1, &["tool.sh"]);
    check(&|host| fs::write(host.path("_common/a"), "b").unwrap(), 1, &["_common/a"]);
    check(&|host| fs::remove_file(host.path("_common/a")).unwrap(), 1, &["_common/a"]);
    let set_mode = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    check(&|host| set_mode(host.path("script.sh"), 0o644), 1, &["script.sh"]);
    // It gives others rights that the definition does not; the script can still do all that it could.
    check(&|host| set_mode(host.path("script.sh"), 0o755), 1, &[]);
    // The same bytes in another file: compared, found good, and remembered.
    let renamed = |host: &Host| {
        fs::write(host.path("x"), "echo").unwrap();
        set_mode(host.path("x"), 0o700);
        fs::rename(host.path("x"), host.path("script.sh")).unwrap();
    };
    check(&renamed, 0, &[]);
    check(&|host| fs::remove_file(host.state().join("workspaces/.report.json")).unwrap(), 0, &[]);
    check(&|host| fs::write(host.state().join("workspaces/.report.json"), "{").unwrap(), 0, &[]);
}

#[test]
fn a_file_that_a_script_changed_stays_until_the_definition_has_a_new_version() {
    let host = Host::new(None);
    let zero = host.put(&[("script.sh", "1"), ("counter.txt", "0")]);
    host.deploy(zero);
    for counted in ["1", "2", "3"] {
        fs::write(host.path("counter.txt"), counted).unwrap();
        assert_eq!((host.deploy(zero).remarks, host.read("counter.txt")), (vec![], counted.to_owned()));
    }
    // After another boot, and when everything else is new, too.
    assert_eq!(host.try_deploy(zero, "boot-2").unwrap().written, 0);
    let other_script = host.put(&[("script.sh", "2"), ("counter.txt", "0")]);
    assert_eq!(host.deploy(other_script).remarks, Vec::<String>::new());
    assert_eq!(host.read("counter.txt"), "3");
    let ten = host.put(&[("script.sh", "2"), ("counter.txt", "10")]);
    let kept =
        "replaced by the definition's version, the earlier content is kept: `counter.txt` (now `counter.txt.mine`)";
    assert_eq!(host.deploy(ten).remarks, [kept]);
    assert_eq!((host.read("counter.txt"), host.read("counter.txt.mine")), ("10".to_owned(), "3".to_owned()));
    // Untouched, it follows the definition without a word; changed again, it is kept beside what is kept already.
    assert_eq!(host.deploy(zero).remarks, Vec::<String>::new());
    fs::write(host.path("counter.txt"), "7").unwrap();
    assert_eq!(host.deploy(ten).remarks, [kept.replace(".mine", ".mine-2")]);
    let all = ["counter.txt", "counter.txt.mine", "counter.txt.mine-2"];
    assert_eq!(all.map(|path| host.read(path)), ["10", "3", "7"]);
    assert_eq!(host.list(), [&all[..], &["script.sh"]].concat());
    // One that is gone is made again: nothing of the script's is lost by that.
    fs::remove_file(host.path("counter.txt")).unwrap();
    assert_eq!(host.deploy(ten).remarks, [format!("restored `counter.txt`: {RESTORED}")]);
}

/// A name that begins with `_` makes no file an included one.
#[test]
fn a_file_of_the_batch_itself_is_the_scripts_to_change_whatever_its_name() {
    let host = Host::new(None);
    let own = ["_counter", "_state/counter", "_common2/a", "sub/_common/a", "_common.txt"];
    let mut files: Vec<(&str, &str)> = own.iter().map(|path| (*path, "0")).collect();
    files.extend([("script.sh", ""), ("_common/sub/a", "0")]);
    let hash = host.put(&files);
    host.deploy(hash);
    own.iter().chain(&["_common/sub/a"]).for_each(|path| fs::write(host.path(path), "1").unwrap());
    assert_eq!(host.deploy(hash).remarks, [format!("restored `_common/sub/a`: {RESTORED}")]);
    assert_eq!(own.map(|path| host.read(path)), own.map(|_| "1"));
}

#[test]
fn a_file_that_a_script_made_first_is_kept_when_the_definition_gets_one_of_that_name() {
    let host = Host::new(None);
    host.deploy(host.put(&[("script.sh", "")]));
    for path in ["data", "tool.sh"] {
        fs::write(host.path(path), "script's").unwrap();
    }
    let deployed = host.deploy(host.put(&[("script.sh", ""), ("data", "d"), ("tool.sh", "t"), ("data.mine", "m")]));
    assert_eq!(deployed.remarks.len(), 1, "{deployed:?}");
    let all = ["data", "tool.sh", "data.mine", "data.mine-2", "tool.sh.mine"].map(|path| host.read(path));
    assert_eq!(all, ["d", "t", "m", "script's", "script's"]);
}

/// A definition whose file `data` is new each time, after a script has changed the one before.
fn edit(host: &Host, number: usize) -> Vec<String> {
    fs::write(host.path("data"), format!("script's {number}")).unwrap();
    host.deploy(host.put(&[("script.sh", ""), ("data", &format!("edit {number}"))])).remarks
}

/// The names beside `data`, with their content.
fn beside(host: &Host) -> Vec<(String, String)> {
    let names = host.list().into_iter().filter(|name| name.starts_with("data."));
    names.map(|name| (name.clone(), host.read(&name))).collect()
}

#[test]
fn what_is_kept_replaces_nothing_that_a_script_made() {
    let host = Host::new(None);
    host.deploy(host.put(&[("script.sh", ""), ("data", "d")]));
    fs::write(host.path("data.mine"), "the script's own").unwrap();
    symlink("/nowhere", host.path("data.mine-2")).unwrap();
    fs::create_dir(host.path("data.mine-3")).unwrap();
    let remarks = edit(&host, 1);
    assert!(remarks[0].ends_with("`data` (now `data.mine-4`)"), "{remarks:?}");
    assert_eq!((host.read("data.mine"), host.read("data.mine-4")), ("the script's own".into(), "script's 1".into()));
    assert!(host.path("data.mine-2").is_symlink() && host.path("data.mine-3").is_dir());
}

/// After ten edits the oldest version that was kept makes room, and nothing else does.
#[test]
fn the_versions_that_are_kept_have_an_end() {
    let host = Host::new(None);
    host.deploy(host.put(&[("script.sh", ""), ("data", "d")]));
    (1..=10).for_each(|number| drop(edit(&host, number)));
    assert_eq!(beside(&host).len(), 10);
    // It is the script's from now on.
    fs::write(host.path("data.mine"), "changed").unwrap();
    let remarks = edit(&host, 11);
    assert!(remarks[0].ends_with("`data` (now `data.mine-2`)"), "{remarks:?}");
    let found = beside(&host);
    assert_eq!((found.len(), host.read("data.mine").as_str()), (10, "changed"));
    assert!(found.contains(&("data.mine-2".to_owned(), "script's 11".to_owned())), "{found:?}");
    // If all are the script's, nothing is lost, and the run says why it can't start.
    for (name, _) in &found {
        fs::write(host.path(name), "mine").unwrap();
    }
    fs::write(host.path("data"), "script's").unwrap();
    let error = host.try_deploy(host.put(&[("script.sh", ""), ("data", "new")]), BOOT).unwrap_err().to_string();
    assert!(error.starts_with("can't find a free name beside `") && error.contains("/report/data`"), "{error}");
    assert_eq!(host.read("data"), "script's");
}

/// What was data until now is not lost because the definition has made it code.
#[test]
fn data_that_a_script_changed_is_kept_when_it_becomes_code() {
    for (content, include) in [("2", false), ("1", true)] {
        let mut host = Host::new(None);
        host.include.clear();
        host.deploy(host.put(&[("script.sh", ""), ("_lib/data", "1")]));
        fs::write(host.path("_lib/data"), "script's").unwrap();
        let mut files = Files(BTreeMap::from([("script.sh".to_owned(), content_of("new", 0o755))]));
        files.0.insert("_lib/data".to_owned(), content_of(content, if include { 0o644 } else { 0o755 }));
        host.include.extend(include.then(|| "_lib".to_owned()));
        let remarks = host.deploy(put(host.state(), &files).unwrap()).remarks;
        assert!(remarks[0].ends_with("`_lib/data` (now `_lib/data.mine`)"), "{remarks:?}");
        assert_eq!((host.read("_lib/data"), host.read("_lib/data.mine")), (content.to_owned(), "script's".to_owned()));
    }
}

fn content_of(text: &str, mode: u32) -> FileContent {
    FileContent { bytes: text.into(), mode }
}

#[test]
fn a_file_that_leaves_the_definition_goes_unless_a_script_has_changed_it() {
    let host = Host::new(None);
    host.deploy(host.put(&[("script.sh", ""), ("lib/a", "a"), ("lib/b", "b")]));
    fs::write(host.path("lib/b"), "changed").unwrap();
    let without = host.put(&[("script.sh", "")]);
    let expected = "left the definition, but stays because an earlier run had changed it: `lib/b`";
    assert_eq!(host.deploy(without).remarks, [expected]);
    assert_eq!(host.list(), ["lib/", "lib/b", "script.sh"]);
    assert_eq!(host.deploy(without).remarks, Vec::<String>::new());
}

#[test]
fn what_stands_in_the_way_has_one_name_however_often_it_does() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", ""), ("lib/a", "a")]);
    host.deploy(hash);
    for round in 0..5 {
        fs::remove_file(host.path("lib/a")).unwrap();
        fs::create_dir(host.path("lib/a")).unwrap();
        fs::write(host.path("lib/a/round"), round.to_string()).unwrap();
        assert_eq!(host.deploy(hash).remarks.len(), 1);
        assert_eq!(host.read("lib/a.aside/round"), round.to_string());
        assert_eq!(host.list(), ["lib/", "lib/a", "lib/a.aside/", "lib/a.aside/round", "script.sh"]);
    }
    assert_eq!(host.list_beside(), [".report.json"]);
}

#[test]
fn what_is_set_aside_replaces_nothing_that_a_script_made() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", ""), ("data", "d")]);
    host.deploy(hash);
    let stand_in_the_way = |round: &str| {
        fs::remove_file(host.path("data")).unwrap();
        fs::create_dir_all(host.path("data/deep")).unwrap();
        fs::write(host.path("data/deep/round"), round).unwrap();
        let remarks = host.deploy(hash).remarks;
        remarks[0].rsplit_once("(now `").unwrap().1.trim_end_matches("`)").to_owned()
    };
    fs::create_dir_all(host.path("data.aside/deep")).unwrap();
    fs::write(host.path("data.aside/deep/own"), "the script's own").unwrap();
    for round in ["1", "2"] {
        assert_eq!(stand_in_the_way(round), "data.aside-2");
        assert_eq!(
            (host.read("data.aside/deep/own"), host.read("data.aside-2/deep/round")),
            ("the script's own".to_owned(), round.to_owned())
        );
    }
    // The script goes on with what was set aside, if only deep in it.
    fs::write(host.path("data.aside-2/deep/round"), "changed").unwrap();
    for round in ["3", "4"] {
        assert_eq!(stand_in_the_way(round), "data.aside-3");
        assert_eq!(host.read("data.aside-2/deep/round"), "changed");
    }
    // Nobody knows any more who made them.
    fs::remove_file(host.state().join("workspaces/.report.json")).unwrap();
    assert_eq!(stand_in_the_way("5"), "data.aside-4");
    assert_eq!((host.read("data.aside-3/deep/round"), host.read("data.aside-4/deep/round")), ("4".into(), "5".into()));
}

/// A host that lost its power may have lost what was written, and kept when.
#[test]
fn a_file_that_was_cut_without_being_touched_is_damaged_and_not_changed() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", ""), ("data", "content")]);
    host.deploy(hash);
    let manifest = host.state().join("workspaces/.report.json");
    fs::write(host.path("data"), "").unwrap();
    let stat = rustix::fs::stat(host.path("data")).unwrap();
    let mut edited: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let trace = &mut edited["files"]["data"];
    trace["changed_s"] = stat.st_ctime.into();
    trace["changed_ns"] = stat.st_ctime_nsec.into();
    fs::write(&manifest, edited.to_string()).unwrap();
    let deployed = host.try_deploy(hash, "boot-2").unwrap();
    assert_eq!((deployed.written, deployed.remarks, host.read("data")), (1, vec![], "content".to_owned()));
}

fn note(host: &Host, hash: DefinitionHash, mode: u32) {
    let mut files = definitions::read_back(host.state(), hash).unwrap();
    files.0.values_mut().for_each(|file| file.mode = mode);
    modes::note(host.state(), "report", hash, &files).unwrap();
}

#[test]
fn a_mere_chmod_of_the_source_is_in_force_at_the_next_deployment() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", ""), ("key", "k"), ("changed", "c")]);
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().mode() & 0o7777;
    note(&host, hash, 0o644);
    host.deploy(hash);
    assert_eq!([mode("script.sh"), mode("key")], [0o744, 0o644]);
    fs::write(host.path("changed"), "by the script").unwrap();
    note(&host, hash, 0o4600);
    let deployed = host.deploy(hash);
    assert_eq!(deployed.remarks, Vec::<String>::new());
    assert_eq!([mode("script.sh"), mode("key"), mode("changed"), mode("")], [0o700, 0o600, 0o600, 0o700]);
    assert_eq!(host.read("changed"), "by the script");
    assert_eq!(host.deploy(hash).written, 0);
}

/// As an earlier version left it: everybody may read the workspace, and the manifest knows no content.
fn make_old(host: &Host, manifest_of: DefinitionHash) {
    let path = host.state().join("workspaces/.report.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["version"] = 1.into();
    manifest["definition"] = manifest_of.to_string().into();
    for trace in manifest["files"].as_object_mut().unwrap().values_mut() {
        let _ = ["mode", "digest", "fixed"].map(|key| trace.as_object_mut().unwrap().remove(key));
    }
    fs::write(path, manifest.to_string()).unwrap();
    fs::set_permissions(host.path(""), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes private what an earlier version left, while runs of these batches are under way.
fn upgrade(host: &Host, busy: &[&str]) -> Option<upgrade::Upgraded> {
    let busy = busy.iter().map(|name| BatchName::new(name).unwrap()).collect();
    let env_file_of = |index: &[u8]| (index == b"env").then(|| "own.env".to_owned());
    upgrade::upgrade(host.state(), &busy, "batch.toml", &env_file_of)
}

/// How many workspaces were closed, how many copies removed, how many workspaces left, and how many acts failed.
fn counts(upgraded: &upgrade::Upgraded) -> [usize; 4] {
    [upgraded.closed, upgraded.env_files_removed, upgraded.left, upgraded.problems.len()]
}

#[test]
fn what_an_earlier_version_left_is_made_private_once() {
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", ""), ("batch.toml", "env"), ("own.env", "A=1"), ("data", "d")]);
    host.deploy(hash);
    make_old(&host, hash);
    fs::write(host.path("data"), "by the script").unwrap();
    assert_eq!(counts(&upgrade(&host, &["other"]).unwrap()), [1, 2, 0, 0]);
    assert!(upgrade(&host, &[]).is_none());
    assert_eq!(fs::metadata(host.path("")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(host.list(), ["batch.toml", "data", "script.sh"]);
    // The old definition is still whole, and still checked.
    let stored = definition_path(host.state(), hash);
    assert!(!stored.join("own.env").exists());
    definitions::verify(host.state(), hash).unwrap();
    assert_eq!(host.deploy(hash).remarks, Vec::<String>::new());
    assert_eq!(host.read("data"), "by the script");
    fs::write(stored.join("data"), "damaged").unwrap();
    assert!(matches!(definitions::verify(host.state(), hash), Err(DefinitionError::Damaged(_))));
}

/// The workspace of a batch that runs is not touched: its next deployment does the rest, or the next start.
#[test]
fn a_busy_workspace_keeps_its_env_file_until_its_next_deployment() {
    let check = |deployed: bool| {
        let host = Host::new(None);
        let hash = host.put(&[("script.sh", ""), ("batch.toml", "env"), ("own.env", "A=1")]);
        host.deploy(hash);
        make_old(&host, hash);
        assert_eq!(counts(&upgrade(&host, &["report"]).unwrap()), [1, 1, 1, 0]);
        assert!(host.path("own.env").exists());
        if deployed {
            host.deploy(host.put(&[("script.sh", ""), ("batch.toml", "env")]));
        }
        assert_eq!(counts(&upgrade(&host, &[]).unwrap()), [0, usize::from(!deployed), 0, 0]);
        assert_eq!(host.list(), ["batch.toml", "script.sh"]);
        assert!(upgrade(&host, &[]).is_none());
    };
    check(true);
    check(false);
}

/// What can't be changed keeps nothing else from it, and is tried again, whatever a daemon writes in between.
#[test]
fn what_could_not_be_made_private_is_tried_again() {
    let host = Host::new(None);
    // The first, the last, and one in between, in the order of any folder.
    let all = ["1", "2", "3"].map(|n| host.put(&[("script.sh", n), ("batch.toml", "env"), ("own.env", n)]));
    let stored = |hash: DefinitionHash| definition_path(host.state(), hash);
    host.deploy(all[0]);
    make_old(&host, all[0]);
    for broken in all {
        // The note of what is removed can't be written there.
        let obstacle = PathBuf::from(format!("{}.json", stored(broken).display()));
        for (hash, n) in all.into_iter().zip(["1", "2", "3"]) {
            let _ = fs::remove_file(format!("{}.json", stored(hash).display()));
            fs::write(stored(hash).join("own.env"), n).unwrap();
        }
        fs::create_dir(&obstacle).unwrap();
        let upgraded = upgrade(&host, &[]).expect("it is not done");
        assert_eq!((upgraded.problems.len(), &upgraded.problems[0].path), (1, &obstacle));
        assert_eq!(all.map(|hash| stored(hash).join("own.env").exists()), all.map(|hash| hash == broken));
        note(&host, all[0], 0o600);
        fs::remove_dir(&obstacle).unwrap();
    }
    assert_eq!(counts(&upgrade(&host, &[]).expect("it is not done")), [0, 1, 0, 0]);
    assert!(upgrade(&host, &[]).is_none());
    assert_eq!(host.list(), ["batch.toml", "script.sh"]);
}

#[test]
fn a_copy_in_a_workspace_that_can_not_be_removed_is_tried_again() {
    if !is_root() {
        return;
    }
    let host = Host::new(None);
    let hash = host.put(&[("script.sh", ""), ("batch.toml", "env"), ("own.env", "A=1")]);
    host.deploy(hash);
    make_old(&host, hash);
    let copy = host.path("own.env");
    let mounted = Mounted::bind(&copy);
    assert_eq!(counts(&upgrade(&host, &[]).unwrap()), [1, 1, 0, 1]);
    assert!(copy.exists());
    drop(mounted);
    assert_eq!(counts(&upgrade(&host, &[]).unwrap()), [0, 1, 0, 0]);
    assert!(!copy.exists() && upgrade(&host, &[]).is_none());
}
