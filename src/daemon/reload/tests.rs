//! Reloading on real folders, with time passed by the test.

use std::fs;

use super::git::GIT_LOCK_MAX;
use super::*;

/// A `batches.d` with one batch in it, settings, and the loader that has looked at them.
struct World {
    folder: tempfile::TempDir,
    loader: Loader,
    graph: Arc<Graph>,
}

impl World {
    fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("batches.d/report")).unwrap();
        fs::create_dir_all(path("state/definitions")).unwrap();
        fs::write(path("batches.d/report/batch.toml"), "cron = \"0 2 * * *\"\n").unwrap();
        fs::write(path("batches.d/report/script.sh"), "echo report\n").unwrap();
        fs::write(path("batchd.toml"), settings).unwrap();
        let settings = path("batchd.toml");
        let (around, wrong) = Surroundings::read(&settings, None).unwrap();
        assert_eq!(wrong, []);
        let watcher = Watcher::start(&path("batches.d"), &settings, |_| {});
        let again = Box::new(move || Surroundings::read(&settings, None));
        let mut loader = Loader::new((path("batches.d"), path("state")), around, again, watcher, BTreeMap::new());
        let (graph, _) = loader.begin(Arc::new(Graph::default()));
        Self { folder, loader, graph }
    }

    fn timezone(&self) -> Option<String> {
        let report = BatchName::new("report").unwrap();
        self.graph.get(&report).expect("it stays in force").definition().timezone.clone()
    }

    /// Writes the settings, and has them looked at when they have come to rest. What is wrong.
    fn settings(&mut self, text: &str) -> Vec<Diagnostic> {
        fs::write(self.folder.path().join("batchd.toml"), text).unwrap();
        self.loader.note(Hint::Settings);
        assert!(self.loader.next_look() > clock::monotonic(), "they may still be written to");
        self.loader.settings_at = Some(clock::monotonic());
        let swap = self.loader.look().expect("settings have changed");
        self.graph = swap.graph.expect("nothing is wrong with batches.d");
        swap.diagnostics
    }
}

#[test]
fn broken_settings_change_no_batch() {
    let mut world = World::new("[defaults]\ntimezone = \"Asia/Tokyo\"\n");
    assert_eq!(world.timezone().as_deref(), Some("Asia/Tokyo"));
    for broken in ["[defaults]\ntimezone = \"Asia/", "[defaults]\ntimezone = \"Asia/Tokio\"\n", "max_runing = 3\n"] {
        assert_eq!(world.settings(broken).len(), 1, "{broken}");
        assert_eq!(world.timezone().as_deref(), Some("Asia/Tokyo"), "{broken}");
    }
    assert_eq!(world.settings("[defaults]\ntimezone = \"Asia/Seoul\"\n"), []);
    assert_eq!(world.timezone().as_deref(), Some("Asia/Seoul"));
}

#[test]
fn d12_while_git_is_at_work_nothing_is_looked_at_and_nobody_waits_busily() {
    let mut world = World::new("");
    fs::create_dir_all(world.folder.path().join(".git")).unwrap();
    fs::write(world.folder.path().join(".git/index.lock"), "").unwrap();
    let report = BatchName::new("report").unwrap();
    world.loader.vanished.insert(report, clock::monotonic() - REMOVED_AFTER * 2);
    assert!(world.loader.look().is_none());
    assert!(world.loader.next_look() > clock::monotonic());
    // One that was left behind by a crash holds nothing up for ever.
    world.loader.git_locked_since = Some(clock::monotonic() - GIT_LOCK_MAX);
    assert!(world.loader.look().is_some());
}

#[test]
fn d1_unrest_is_complained_of_once_and_looked_at_again() {
    let mut world = World::new("");
    assert!(world.loader.complain_of_unrest("report"));
    assert!(!world.loader.complain_of_unrest("report"), "it is known");
    let swap = world.loader.swap();
    assert_eq!(swap.diagnostics.len(), 1, "{:?}", swap.diagnostics);
    assert_eq!(swap.graph.unwrap().len(), 1, "what is in force stays");
    let start = clock::monotonic() - Quiet::UNREST * 2;
    world.loader.quiet.hint("report", start);
    world.loader.quiet.hint("report", clock::monotonic());
    assert!(world.loader.look().is_none(), "no news");
    assert!(world.loader.quiet.next().is_some(), "its last change may be the last");
}

impl World {
    fn script(&self, batch: &str, text: &str) {
        fs::write(self.folder.path().join("batches.d").join(batch).join("script.sh"), text).unwrap();
    }

    /// What comes of a look at everything.
    fn scan(&mut self) -> Option<Swap> {
        self.loader.scan_at = clock::monotonic();
        self.loader.look()
    }
}

#[test]
fn settings_that_cannot_be_read_are_complained_of() {
    let mut world = World::new("");
    let settings = world.folder.path().join("batchd.toml");
    fs::remove_file(&settings).unwrap();
    fs::create_dir(&settings).unwrap();
    let swap = world.loader.reload().expect("it was asked for");
    assert_eq!(swap.diagnostics.len(), 1, "{:?}", swap.diagnostics);
    fs::remove_dir(&settings).unwrap();
    assert_eq!(world.loader.reload().expect("it was asked for").diagnostics, []);
}

#[test]
fn d1_a_look_at_everything_leaves_alone_what_is_being_written() {
    let mut world = World::new("");
    world.script("report", "echo half");
    world.loader.note(Hint::Folder("report".to_owned()));
    assert!(world.scan().is_none(), "half an edit");
    // Nothing has happened to it for a while.
    world.loader.quiet.take();
    world.loader.quiet.hint("report", clock::monotonic() - Quiet::PERIOD);
    assert!(world.loader.look().is_some());
}

#[test]
fn d11_what_changed_while_the_root_was_gone_is_seen_when_it_is_back() {
    let mut world = World::new("");
    let path = |name: &str| world.folder.path().join(name);
    fs::create_dir(path("batches.d/other")).unwrap();
    fs::write(path("batches.d/other/batch.toml"), "").unwrap();
    fs::write(path("batches.d/other/script.sh"), "echo other\n").unwrap();
    fs::rename(path("batches.d"), path("elsewhere")).unwrap();
    let (_, alarm) = world.loader.begin(Arc::new(Graph::default()));
    assert_eq!(alarm.len(), 1, "{alarm:?}");
    fs::rename(world.folder.path().join("elsewhere"), world.folder.path().join("batches.d")).unwrap();
    world.loader.quiet.hint("report", clock::monotonic() - Quiet::PERIOD);
    let swap = world.loader.look().expect("the alarm is over");
    assert_eq!(swap.graph.expect("nothing is wrong").len(), 2, "the other one, too");
}

#[test]
fn d12_who_asks_during_a_checkout_waits_for_it() {
    let mut world = World::new("");
    // `batches.d` is a link into the working tree.
    let path = |name: &str| world.folder.path().join(name);
    fs::create_dir_all(path("tree/.git")).unwrap();
    fs::rename(path("batches.d"), path("tree/batches.d")).unwrap();
    std::os::unix::fs::symlink("tree/batches.d", path("batches.d")).unwrap();
    fs::write(path("tree/.git/index.lock"), "").unwrap();
    let lock = path("tree/.git/index.lock");
    let (done, _reloaded) = oneshot::channel();
    world.loader.asked.push(done);
    assert!(world.loader.reload().is_none());
    assert!(world.loader.next_look() > clock::monotonic(), "nobody waits busily");
    fs::remove_file(lock).unwrap();
    assert_eq!(world.loader.reload().expect("the checkout is over").done.len(), 1);
    assert!(world.loader.asked.is_empty());
}

#[test]
fn d11_a_root_without_anything_in_it_removes_nothing_even_if_asked() {
    let mut world = World::new("");
    let (ask, _answer) = tokio::sync::oneshot::channel();
    world.loader.asked.push(ask);
    fs::remove_dir_all(world.folder.path().join("batches.d/report")).unwrap();
    let swap = world.loader.reload().expect("somebody asked");
    assert!(swap.graph.is_none(), "what was in force stays");
    assert!(swap.diagnostics[0].what.contains("suddenly empty"), "{:?}", swap.diagnostics);
    // With anything in it, it is what somebody wants.
    fs::write(world.folder.path().join("batches.d/README"), "").unwrap();
    let swap = world.loader.reload().expect("somebody asked");
    assert_eq!(swap.graph.map(|graph| graph.len()), Some(0));
}

#[test]
fn d13_the_scan_finds_settings_that_changed_without_a_hint() {
    let mut world = World::new("[defaults]\ntimezone = \"Asia/Tokyo\"\n");
    let settings = world.folder.path().join("batchd.toml");
    assert!(world.scan().is_none(), "nothing is new");
    fs::write(&settings, "[defaults]\ntimezone = \"Asia/Seoul\"\n").unwrap();
    world.graph = world.scan().expect("the settings have changed").graph.unwrap();
    assert_eq!(world.timezone().as_deref(), Some("Asia/Seoul"));
    fs::write(&settings, "max_runing = 3\n").unwrap();
    assert_eq!(world.scan().expect("they are broken").diagnostics.len(), 1);
    assert!(world.scan().is_none(), "that is known");
}

#[test]
fn unrest_in_what_is_included_is_told_of_those_who_include_it() {
    let mut world = World::new("");
    let batches = world.folder.path().join("batches.d");
    fs::create_dir(batches.join("_lib")).unwrap();
    fs::write(batches.join("_lib/lib.sh"), "true\n").unwrap();
    fs::write(batches.join("report/batch.toml"), "include = [\"_lib\"]\n").unwrap();
    assert_eq!(world.scan().expect("the batch has changed").diagnostics, []);
    assert!(world.loader.complain_of_unrest("_lib"));
    assert!(!world.loader.complain_of_unrest("_lib"), "it is known");
    assert!(!world.loader.complain_of_unrest("_other"), "nobody includes it");
    let diagnostics = world.loader.swap().diagnostics;
    let told: Vec<_> =
        diagnostics.iter().map(|one| (one.batch.as_ref().unwrap().as_str(), one.file.as_str())).collect();
    assert_eq!(told, [("report", "_lib")]);
}
