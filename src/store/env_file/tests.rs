//! Whose files are believed, on real folders. Tests of owners need root; without it they say so and end.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{RenameFlags, renameat_with};

use super::*;
use crate::model::definition::VARIABLE_NAME_BYTES_MAX;
use crate::root::is_root;

/// The user of a batch.
const USER: &str = "nobody";

/// A folder of root's with `batches.d/report` and `batches.d/_common`, `secret.env` for root alone, and `home/` of [`USER`].
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["batches.d/report/sub", "batches.d/_common", "safe", "home", "shared"] {
            fs::create_dir_all(host.path(folder)).unwrap();
        }
        host.write("secret.env", 0o600);
        if is_root() {
            host.give("home");
        }
        host.mode("shared", 0o1777);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, mode: u32) {
        fs::write(self.path(name), format!("NAME={name}\n")).unwrap();
        self.mode(name, mode);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn link(&self, target: &str, name: &str) {
        symlink(target.replace("HOST", self.folder.path().to_str().unwrap()), self.path(name)).unwrap();
    }

    /// Makes it the user's own; of a link, the link.
    fn give(&self, name: &str) {
        lchown(self.path(name), Some(user_id()), Some(user_id())).unwrap();
    }

    /// Reads it; the value of `NAME`, or the error. `HOST` stands for the folder.
    fn read_for(&self, user: Option<&str>, file: &str) -> Result<String, String> {
        let file = file.replace("HOST", self.folder.path().to_str().unwrap());
        let (batches, batch) = (self.path("batches.d"), BatchName::new("report").unwrap());
        let (daemon_uid, trusted_owners) = (users::own_uid(), Some([].as_slice()));
        let file =
            EnvFile { batches: &batches, batch: &batch, file: &file, daemon_uid, user, now: None, trusted_owners };
        let variables = read(&file).map_err(|error| error.to_string())?;
        Ok(variables.into_iter().find(|(name, _)| name == "NAME").unwrap().1)
    }

    fn read(&self, file: &str) -> Result<String, String> {
        self.read_for(None, file)
    }
}

fn user_id() -> u32 {
    users::uid_of(USER).unwrap().unwrap()
}

#[test]
fn a_user_leads_batchd_to_no_file_that_only_root_reads() {
    if !is_root() {
        return;
    }
    let check = |file: &str, plant: &dyn Fn(&Host)| {
        let host = Host::new();
        plant(&host);
        let error = host.read_for(Some(USER), &format!("HOST/{file}")).expect_err(file);
        assert!(error.contains("the file belongs to `root`, but `nobody` can change where the path leads"), "{error}");
        assert!(error.contains("; move the file to a folder that only root can write to"), "{error}");
        // Also if root's file happens to be readable for all: it may be another one the next moment.
        host.mode("secret.env", 0o644);
        host.read_for(Some(USER), &format!("HOST/{file}")).expect_err(file);
    };
    let given_link = |target: &'static str, name: &'static str| {
        move |host: &Host| {
            host.link(target, name);
            host.give(name);
        }
    };
    check("home/app.env", &given_link("HOST/secret.env", "home/app.env"));
    check("home/app.env", &given_link("../secret.env", "home/app.env"));
    check("home/conf/secret.env", &given_link("..", "home/conf"));
    check("home/conf/../secret.env", &given_link("../safe", "home/conf"));
    // Also through a link that root made, or to a file that root put there: the user can put another one there.
    check("home/app.env", &|host| host.link("../secret.env", "home/app.env"));
    check("home/app.env", &|host| host.write("home/app.env", 0o600));
    check("home/app.env", &|host| fs::hard_link(host.path("secret.env"), host.path("home/app.env")).unwrap());
    check("app.env", &|host| {
        host.link("home/app.env", "app.env");
        given_link("../secret.env", "home/app.env")(host);
    });
    check("home/safe/app.env", &|host| {
        fs::create_dir(host.path("home/safe")).unwrap();
        host.write("home/safe/app.env", 0o600);
    });
    // In a folder in which everybody may make entries.
    check("shared/app.env", &given_link("../secret.env", "shared/app.env"));
    check("shared/app.env", &|host| fs::hard_link(host.path("secret.env"), host.path("shared/app.env")).unwrap());
    check("shared/app.env", &|host| {
        host.link("../secret.env", "link");
        fs::hard_link(host.path("link"), host.path("shared/app.env")).unwrap();
    });
}

#[test]
fn files_of_the_user_and_those_that_root_leads_to_are_read() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.write("home/own.env", 0o600);
    host.give("home/own.env");
    host.link("own.env", "home/link");
    host.give("home/link");
    host.link("home/own.env", "to-home");
    host.link("HOST/secret.env", "safe/link");
    fs::create_dir(host.path("shared/safe")).unwrap();
    host.write("shared/safe/app.env", 0o600);
    for file in ["home/own.env", "home/link", "to-home"] {
        assert_eq!(host.read_for(Some(USER), &format!("HOST/{file}")).as_deref(), Ok("home/own.env"));
        let error = host.read(&format!("HOST/{file}")).expect_err("nobody is the user of no batch");
        assert!(error.contains("belongs to `nobody`, who is not trusted"), "{error}");
    }
    for (file, name) in
        [("secret.env", "secret.env"), ("safe/link", "secret.env"), ("shared/safe/app.env", "shared/safe/app.env")]
    {
        assert_eq!(host.read_for(Some(USER), &format!("HOST/{file}")).as_deref(), Ok(name));
        assert_eq!(host.read(&format!("HOST/{file}")).as_deref(), Ok(name));
    }
}

/// The user swaps a file of its own for a link to one of root's, and back, all the time.
#[test]
fn a_link_that_comes_and_goes_leads_nowhere() {
    if !is_root() {
        return;
    }
    let host = Host::new();
    host.write("home/app.env", 0o600);
    host.link("../secret.env", "home/other");
    host.mode("home", 0o755);
    host.give("home/app.env");
    host.give("home/other");
    let done = AtomicBool::new(false);
    let (own, other) = (host.path("home/app.env"), host.path("home/other"));
    let read = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &own, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let all: Vec<_> = (0..5000).map(|_| host.read_for(Some(USER), "HOST/home/app.env")).collect();
        done.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        all
    });
    let found: std::collections::BTreeSet<&str> = read.iter().flatten().map(String::as_str).collect();
    assert_eq!(found, ["home/app.env"].into());
    assert!(read.iter().any(Result::is_err), "the link was never there");
}

/// Every folder on the way is checked: who writes there decides what the path leads to.
#[test]
fn every_folder_on_the_way_is_checked() {
    let check = |file: &str, open: &str, plant: &dyn Fn(&Host)| {
        let host = Host::new();
        for file in
            ["safe/app.env", "batches.d/report/app.env", "batches.d/report/sub/app.env", "batches.d/_common/app.env"]
        {
            host.write(file, 0o600);
        }
        plant(&host);
        host.read(file).unwrap_or_else(|error| panic!("{file} before: {error}"));
        host.mode(open, 0o777);
        let error = host.read(file).expect_err(file);
        let place = host.path(open).display().to_string();
        assert!(error.contains(&format!("{place}: this is writable by its group and everybody")), "{file}: {error}");
        let recursive = if open == "batches.d" { "-R " } else { "" };
        assert!(error.ends_with(&format!("; run `chmod {recursive}go-w {place}`")), "{file}: {error}");
        host.mode(open, 0o755);
        host.read(file).unwrap_or_else(|error| panic!("{file} afterwards: {error}"));
    };
    check("HOST/safe/app.env", "safe", &|_| ());
    check("HOST/link/app.env", "safe", &|host| host.link("safe", "link"));
    check("HOST/home2/link", "home2", &|host| {
        fs::create_dir(host.path("home2")).unwrap();
        host.link("../safe/app.env", "home2/link");
    });
    check("HOST/home2/../safe/app.env", "home2", &|host| fs::create_dir(host.path("home2")).unwrap());
    check("app.env", "batches.d", &|_| ());
    check("app.env", "batches.d/report", &|_| ());
    check("sub/app.env", "batches.d/report", &|_| ());
    check("sub/app.env", "batches.d/report/sub", &|_| ());
    check("_common/app.env", "batches.d/_common", &|_| ());
    // Through links, too: each folder that they lead through.
    check("link", "batches.d/report/sub", &|host| host.link("sub/app.env", "batches.d/report/link"));
    check("link", "batches.d/report/sub", &|host| {
        fs::create_dir(host.path("batches.d/report/sub/deep")).unwrap();
        host.write("batches.d/report/sub/deep/app.env", 0o600);
        host.link("sub/deep/app.env", "batches.d/report/link");
    });
    check("link/app.env", "batches.d/report/sub", &|host| {
        fs::create_dir_all(host.path("batches.d/report/sub/deep")).unwrap();
        host.write("batches.d/report/sub/deep/app.env", 0o600);
        host.link("sub/deep", "batches.d/report/link");
    });
}

#[test]
fn a_relative_file_is_in_its_batch_and_belongs_to_someone_trusted() {
    let host = Host::new();
    let outside = ["../../secret.env", "HOST/secret.env", "sub/../../report/app.env"];
    host.write("batches.d/report/app.env", 0o600);
    for (number, target) in outside.into_iter().enumerate() {
        host.link(target, &format!("batches.d/report/link{number}"));
        let error = host.read(&format!("link{number}")).expect_err(target);
        assert!(error.contains("a link leads out of the batch's folder"), "{error}");
    }
    host.link("loop", "batches.d/report/loop");
    host.read("loop").expect_err("it leads nowhere");
    for folder in ["sub", "sub/", "sub/.."] {
        let error = host.read(folder).expect_err(folder);
        assert!(error.contains(NOT_A_FILE), "{error}");
    }
    host.read("app.env/x").expect_err("it is no folder");
    if !is_root() {
        return;
    }
    // A link, a folder, the file itself: of the batch's own user, too.
    host.link("app.env", "batches.d/report/link");
    host.write("batches.d/report/sub/app.env", 0o600);
    for (file, given) in [("link", "link"), ("sub/app.env", "sub"), ("app.env", "app.env")] {
        host.read_for(Some(USER), file).unwrap();
        let given = format!("batches.d/report/{given}");
        host.give(&given);
        let error = host.read_for(Some(USER), file).expect_err(file);
        assert!(error.contains("belongs to `nobody`, who is not trusted"), "{error}");
        let flag = if given.ends_with("link") { "-h " } else { "" };
        assert!(error.contains(&format!("run `chown {flag}root {}`", host.path(&given).display())), "{error}");
        lchown(host.path(&given), Some(0), Some(0)).unwrap();
    }
    chown(host.path("batches.d"), Some(user_id()), None).unwrap();
    host.read("app.env").expect_err("its folder is a stranger's");
}

#[test]
fn env_files() {
    let check = |text: &str, expected: Result<&[(&str, &str)], usize>| {
        let expected = expected.map(|pairs| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        assert_eq!(parse(text).map_err(|wrong| wrong[0].0), expected, "{text:?}");
    };
    check("", Ok(&[]));
    check("# a comment\n\n  A=1\r\nexport B = x \n", Err(4));
    check("A=1\r\nexport B= x y # z \n", Ok(&[("A", "1"), ("B", "x y # z")]));
    check("A='a \"b\" $c \\n'", Ok(&[("A", "a \"b\" $c \\n")]));
    check(r#"A="a \"b\" \$c \\ \n \t""#, Ok(&[("A", "a \"b\" $c \\ \n \\t")]));
    check("A=\nB=''\nC=\"\"", Ok(&[("A", ""), ("B", ""), ("C", "")]));
    check("A=b=c", Ok(&[("A", "b=c")]));
    check("A", Err(1));
    check("\n1A=b", Err(2));
    check("=b", Err(1));
    check("A='b", Err(1));
    check("A='b'c'", Err(1));
    check("A=\"b\" c", Err(1));
    check("A=\"b\\", Err(1));
    check("A=a\0b", Err(1));
    check("\u{feff}A=b", Err(1));
    let lines = |wrong: Vec<(usize, &str)>| wrong.into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    assert_eq!(parse("A=1\nnope\nB C=3\nD=4\nQ=\"x\n").map_err(lines), Err(vec![2, 3, 5]));
    assert_eq!(parse(&"nope\n".repeat(1000)).map_err(lines).unwrap_err().len(), MISTAKES_MAX);
    check(&format!("{}=b", "\0".repeat(VARIABLE_NAME_BYTES_MAX + 1)), Err(1));
    check(&format!("{}=b", "A".repeat(VARIABLE_NAME_BYTES_MAX + 1)), Err(1));
}
