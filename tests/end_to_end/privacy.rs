//! What is private stays private, and what a script leaves stays its own: workspaces, modes, `env_file`, users.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use batchd::model::files::{FileContent, Files};
use batchd::store::definitions;
use rustix::process::Signal;

use crate::world::World;
use crate::world::root::is_root;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The hash of the only batch's definition in force.
fn definition(world: &World) -> String {
    world.json(&["list"])["batches"][0]["definition"].as_str().unwrap().to_owned()
}

/// The remarks of a run.
fn remarks(world: &World, run: &str) -> Vec<String> {
    let remarks = world.run(run)["exit"]["remarks"].as_array().cloned().unwrap_or_default();
    remarks.iter().map(|remark| remark.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a1_a_copy_gives_nobody_a_right_that_its_source_does_not() {
    let mut world = World::new();
    world.batch("report", "", "stat -c %a key tool .\n");
    let source = |name: &str| world.path("batches.d/report").join(name);
    for name in ["key", "tool"] {
        fs::write(source(name), "secret").unwrap();
    }
    set_mode(&source("key"), 0o600);
    set_mode(&source("tool"), 0o4755);
    set_mode(&source(""), 0o700);
    world.start();
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "600\n755\n700\n");
    for entry in fs::read_dir(world.path("state/definitions")).unwrap() {
        let folder = entry.unwrap().path();
        assert_eq!([mode(&folder), mode(&folder.join("key")), mode(&folder.join("tool"))], [0o700, 0o600, 0o700]);
    }
    // A mere chmod is no new definition, and is in force at the next run.
    let before = definition(&world);
    set_mode(&world.path("batches.d/report/key"), 0o640);
    world.batchd(&["reload"]).expect(0);
    assert_eq!(definition(&world), before);
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "640\n755\n700\n");
    assert_eq!(remarks(&world, run.line()), Vec::<String>::new());
    world.batchd(&["doctor"]).expect(0);
}

/// A definition that does not come into force takes no mode from the one that stays.
#[test]
fn a1_an_edit_that_does_not_fit_changes_no_mode_of_what_runs() {
    let mut world = World::new();
    world.batch("report", "", "stat -c %a data\n");
    world.write("batches.d/report/data", "");
    set_mode(&world.path("batches.d/report/data"), 0o644);
    world.start();
    let run = || {
        let run = world.batchd(&["start", "report", "--wait"]).expect(0);
        world.stdout(run.line())
    };
    assert_eq!(run(), "644\n");
    world.write("batches.d/report/batch.toml", "after = ['nosuch']\n");
    set_mode(&world.path("batches.d/report/data"), 0o600);
    world.batchd(&["reload"]).expect(1);
    assert_eq!(run(), "644\n");
    // As well when all of the workspace is made again.
    world.bash("rm -rf state/workspaces/report");
    assert_eq!(run(), "644\n");
    world.write("batches.d/report/batch.toml", "");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(run(), "600\n");
}

/// What is in a zip that only its owner can read is readable for nobody else either.
#[test]
fn a1_b_a_zip_of_one_folder_keeps_its_modes() {
    let mut world = World::new();
    world.write("report-main/script.sh", "stat -c %a key open\n");
    world.write("report-main/key", "");
    world.write("report-main/open", "");
    world.write("batches.d/report/batch.toml", "");
    world.bash("chmod 600 report-main/key; chmod 644 report-main/open; mkdir __MACOSX; echo > __MACOSX/._report-main");
    world.bash("zip -qr batches.d/report/report.zip report-main __MACOSX");
    world.start();
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "600\n644\n");
    world.bash("chmod 600 batches.d/report/report.zip");
    world.batchd(&["reload"]).expect(0);
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "600\n600\n");
}

#[test]
fn a1_a8_the_first_start_tightens_what_an_earlier_version_left() {
    let mut world = World::new();
    world.batch("report", "env_file = 'job.env'\n", "echo \"$A\"\n");
    world.write("batches.d/report/job.env", "A=tiger-7f3a\n");
    world.start();
    world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.bash("rm -rf state/modes state/made-private; chmod 755 state/workspaces/report");
    let file = |text: &str| FileContent { bytes: text.as_bytes().to_vec(), mode: 0o644 };
    let old = [("batch.toml", file("env_file = 'job.env'\n")), ("job.env", file("A=tiger-7f3a\n"))];
    let old = Files(old.map(|(path, file)| (path.to_owned(), file)).into());
    let hash = definitions::put(&world.path("state"), &old).unwrap();
    // The first time it fails: what the daemon writes then must not keep the next start from trying again.
    let obstacle = world.path(format!("state/definitions/{hash}.json"));
    fs::create_dir(&obstacle).unwrap();
    world.start();
    assert_eq!(mode(&world.path("state/workspaces/report")), 0o700);
    world.daemon().says(0, "made 1 workspace private");
    world.daemon().says(0, "can't make private what an earlier version left");
    world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    fs::remove_dir(obstacle).unwrap();
    world.start();
    assert!(!definitions::definition_path(&world.path("state"), hash).join("job.env").exists());
    definitions::verify(&world.path("state"), hash).unwrap();
    world.daemon().says(0, "removed 1 copy of an `env_file`");
    world.batchd(&["doctor"]).expect(0);
    assert_eq!(world.bash("grep -rl tiger-7f3a state || true"), "");
}

#[test]
fn a7_what_a_script_writes_over_its_own_files_stays() {
    let mut world = World::new();
    let script = "read -r n < counter.txt; echo $((n + 1)) | tee counter.txt; echo '# mine' >> tool\n";
    world.batch("count", "", script);
    world.write("batches.d/count/counter.txt", "0\n");
    world.write("batches.d/count/tool", "#!/bin/sh\n");
    set_mode(&world.path("batches.d/count/tool"), 0o755);
    world.start();
    let run = || world.batchd(&["start", "count", "--wait"]).expect(0).line().to_owned();
    let restored = "restored `tool`: changed or removed by an earlier run".to_owned();
    assert_eq!((world.stdout(&run()), remarks(&world, "count.1")), ("1\n".to_owned(), vec![]));
    assert_eq!((world.stdout(&run()), remarks(&world, "count.2")), ("2\n".to_owned(), vec![restored.clone()]));
    assert_eq!(world.stdout(&run()), "3\n");
    world.write("batches.d/count/counter.txt", "40\n");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(world.stdout(&run()), "41\n");
    let kept =
        "replaced by the definition's version, the earlier content is kept: `counter.txt` (now `counter.txt.mine`)";
    assert_eq!(remarks(&world, "count.4"), [restored, kept.to_owned()]);
    assert_eq!(world.read("state/workspaces/count/counter.txt.mine"), "3\n");
    // Another edit, while the script has a file of the next name itself.
    world.write("state/workspaces/count/counter.txt.mine-2", "own\n");
    world.write("batches.d/count/counter.txt", "50\n");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(world.stdout(&run()), "51\n");
    let beside = ["", "-2", "-3"].map(|number| world.read(format!("state/workspaces/count/counter.txt.mine{number}")));
    assert_eq!(beside, ["3\n", "own\n", "41\n"]);
}

/// What is included is code; a file of the batch itself whose name begins like that of an included folder is data.
#[test]
fn a7_only_included_folders_are_always_the_definitions() {
    let mut world = World::new();
    let script = "for file in _n _own/n _lib/n; do echo $(($(cat $file) + 1)) > $file; cat $file; done\n";
    world.batch("count", "include = ['_lib/']\n", script);
    for file in ["count/_n", "count/_own/n", "_lib/n"] {
        world.write(&format!("batches.d/{file}"), "0\n");
    }
    world.start();
    let run = || world.batchd(&["start", "count", "--wait"]).expect(0).line().to_owned();
    assert_eq!(world.stdout(&run()), "1\n1\n1\n");
    assert_eq!(world.stdout(&run()), "2\n2\n1\n");
    assert_eq!(remarks(&world, "count.2"), ["restored `_lib/n`: changed or removed by an earlier run"]);
}

#[test]
fn a8_an_env_file_beside_the_script_is_read_and_never_kept() {
    let mut world = World::new();
    let (secret, newer) = ("tiger-7f3a", "leopard-19b2");
    world.batch("report", "env_file = 'job.env'\n", "echo ${#PASSWORD}; ls\n");
    world.write("batches.d/report/job.env", format!("PASSWORD={secret}\n"));
    world.start();
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "10\nbatch.toml\nscript.sh\n");
    let before = definition(&world);
    world.write("batches.d/report/job.env", format!("PASSWORD={newer}\n"));
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "12\nbatch.toml\nscript.sh\n");
    world.batchd(&["reload"]).expect(0);
    assert_eq!(definition(&world), before);
    world.batchd(&["check"]).expect(0);
    // An error names the file and the line, and shows nothing of it.
    world.write("batches.d/report/job.env", format!("A=1\n{secret}\n"));
    let run = world.batchd(&["start", "report", "--wait"]).expect(125);
    let place = format!("env_file {}, line 2: ", world.path("batches.d/report/job.env").display());
    assert!(run.err.contains(&place) && !run.err.contains(secret), "{run:?}");
    let checked = world.batchd(&["check"]).expect(1);
    assert!(
        checked.out.contains("report/job.env:2: the line has no `=`") && !checked.out.contains(secret),
        "{checked:?}"
    );
    world.write("batches.d/report/job.env", format!("\u{feff}A={secret}\n"));
    let checked = world.batchd(&["check"]).expect(1);
    assert!(checked.out.contains("report/job.env:1: the file begins with a byte order mark"), "{checked:?}");
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(world.bash(&format!("grep -rlE '{secret}|{newer}' runs state || true")), "");
}

/// Under another name: an absolute path, or a link to a file beside it.
#[test]
fn a8_an_env_file_of_the_folder_is_not_kept_whatever_its_path() {
    let mut world = World::new();
    let absolute = world.path("batches.d/absolute/job.env");
    world.batch("absolute", &format!("env_file = '{}'\n", absolute.display()), "echo $A; ls\n");
    world.batch("link", "env_file = 'job.env'\n", "echo $A; ls\n");
    world.write("batches.d/absolute/job.env", "A=tiger\n");
    world.write("batches.d/link/real.env", "A=tiger\n");
    world.bash("ln -s real.env batches.d/link/job.env");
    world.start();
    for batch in ["absolute", "link"] {
        let run = world.batchd(&["start", batch, "--wait"]).expect(0);
        assert_eq!(world.stdout(run.line()), "tiger\nbatch.toml\nscript.sh\n");
    }
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(world.bash("grep -rl tiger state || true"), "");
}

#[test]
fn a8_an_env_file_may_lie_in_an_included_folder() {
    let mut world = World::new();
    world.batch("report", "env_file = '_common/job.env'\ninclude = ['_common']\n", "echo $A; ls _common\n");
    world.write("batches.d/_common/job.env", "A=1\n");
    world.write("batches.d/_common/lib.sh", "");
    world.start();
    let run = world.batchd(&["start", "report", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "1\nlib.sh\n");
}

#[test]
fn a8_who_may_write_an_env_file_is_checked() {
    let mut world = World::new();
    let absolute = world.path("job.env");
    fs::write(&absolute, "A=1\n").unwrap();
    set_mode(&absolute, 0o666);
    world.batch("absolute", &format!("env_file = '{}'\n", absolute.display()), "echo $A\n");
    world.batch("relative", "env_file = 'job.env'\n", "echo $A\n");
    world.write("batches.d/relative/job.env", "A=1\n");
    world.start();
    let run = world.batchd(&["start", "absolute", "--wait"]).expect(125);
    let chmod = format!("chmod go-w {}", absolute.display());
    assert!(run.err.contains(&chmod), "{run:?}");
    assert!(world.batchd(&["check"]).expect(1).out.contains(&chmod));
    world.bash(&chmod);
    world.batchd(&["start", "absolute", "--wait"]).expect(0);
    // At the start of the run, whenever the folder was last looked at.
    world.bash("chmod o+w batches.d/relative/job.env");
    let run = world.batchd(&["start", "relative", "--wait"]).expect(125);
    assert!(run.err.contains("chmod o-w"), "{run:?}");
    if is_root() {
        world.bash("chmod o-w batches.d/relative/job.env; chown nobody job.env batches.d/relative/job.env");
        world.batchd(&["start", "absolute", "--wait"]).expect(125);
        world.batch("absolute", &format!("user = 'nobody'\nenv_file = '{}'\n", absolute.display()), "echo $A\n");
        world.settings("trusted_owners = ['nobody']");
        world.batchd(&["reload"]).expect(0);
        world.batchd(&["start", "absolute", "--wait"]).expect(0);
        world.batchd(&["start", "relative", "--wait"]).expect(0);
    }
}

/// Root opens the file: a link of the batch's user must not make it open one that this user can't read.
#[test]
fn a8_the_user_of_a_batch_gets_no_file_of_root_for_its_env_file() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let file = world.path("home/app.env");
    world.write("root.env", "A=tiger-7f3a\n");
    set_mode(&world.path("root.env"), 0o600);
    world.bash("mkdir home; ln -s $W/root.env home/app.env; chown -h nobody home home/app.env");
    world.batch("app", &format!("user = 'nobody'\nenv_file = '{}'\n", file.display()), "echo \"$A\"\n");
    world.start();
    let run = world.batchd(&["start", "app", "--wait"]).expect(125);
    let what = "the file belongs to `root`, but `nobody` can change where the path leads";
    assert!(run.err.contains(what) && run.err.contains("move the file to a folder"), "{run:?}");
    assert!(world.batchd(&["check"]).expect(1).out.contains(what));
    world.bash("rm home/app.env; echo A=mine > home/app.env; chown nobody home/app.env");
    let run = world.batchd(&["start", "app", "--wait"]).expect(0);
    assert_eq!(world.stdout(run.line()), "mine\n");
    world.batchd(&["check"]).expect(0);
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    assert_eq!(world.bash("grep -rl tiger-7f3a runs state || true"), "");
}

#[test]
fn a8_an_env_file_in_a_zip_is_a_mistake() {
    let world = World::new();
    world.write("packed/script.sh", "echo\n");
    world.write("packed/job.env", "A=tiger-7f3a\n");
    world.write("batches.d/report/batch.toml", "env_file = 'job.env'\n");
    world.bash("cd packed && zip -qr ../batches.d/report/report.zip .");
    let checked = world.batchd(&["check"]).expect(1);
    let expected = "report/report.zip: the `env_file` `job.env` is inside the zip";
    assert!(checked.out.contains(expected) && !checked.out.contains("tiger"), "{checked:?}");
}

#[test]
fn a8_a_waiting_run_whose_folder_has_gone_fails_and_names_the_file() {
    let mut world = World::new();
    world.settings("max_running = 1");
    let pipe = world.pipe("pipe");
    world.batch("blocks", "", "read -r < $W/pipe\n");
    world.batch("report", "env_file = 'job.env'\n", "echo $A\n");
    world.write("batches.d/report/job.env", "A=1\n");
    world.start();
    let blocks = world.batchd(&["start", "blocks"]).expect(0);
    let run = world.batchd(&["start", "report"]).expect(0);
    world.bash("mv batches.d/report gone");
    pipe.tell();
    world.end(blocks.line());
    let run = world.end(run.line());
    let file = world.path("batches.d/report/job.env");
    assert_eq!(run["outcome"], "failed", "{run}");
    assert!(run["reason"].as_str().unwrap().contains(file.to_str().unwrap()), "{run}");
}

#[test]
fn a14_a_workspace_changes_hands_with_all_that_is_in_it() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let script =
        "echo $(($(cat count 2>/dev/null) + 1)) > count && chmod 600 count && cat count && stat -c %U count .\n";
    world.batch("count", "", script);
    world.start();
    let run = |toml: &str| {
        world.batch("count", toml, script);
        world.batchd(&["reload"]).expect(0);
        let run = world.batchd(&["start", "count", "--wait"]).expect(0);
        (world.stdout(run.line()), remarks(&world, run.line()))
    };
    let changed = |old: &str, new: &str| {
        vec![format!("the batch's user changed from `{old}` to `{new}`: the workspace now belongs to `{new}`")]
    };
    assert_eq!(run(""), ("1\nroot\nroot\n".to_owned(), vec![]));
    assert_eq!(run("user = 'nobody'\n"), ("2\nnobody\nnobody\n".to_owned(), changed("root", "nobody")));
    assert_eq!(run("user = 'nobody'\n"), ("3\nnobody\nnobody\n".to_owned(), vec![]));
    assert_eq!(run("user = 'daemon'\n"), ("4\ndaemon\ndaemon\n".to_owned(), changed("nobody", "daemon")));
    assert_eq!(run(""), ("5\nroot\nroot\n".to_owned(), changed("daemon", "root")));
}
