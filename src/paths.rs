//! Where everything is: the four paths of the design's 3.1, each from its flag, else the environment, else the settings,
//! else its default. Commands other than `daemon` also look in the folders above the current one.
//!
//! Reads nothing but the settings' own keys for the paths. In the folders above it looks who owns what.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The environment variables, also given to scripts.
pub const BATCHES_VARIABLE: &str = "BATCHD_BATCHES";
/// See [`BATCHES_VARIABLE`].
pub const RUNS_VARIABLE: &str = "BATCHD_RUNS";
/// See [`BATCHES_VARIABLE`].
pub const STATE_VARIABLE: &str = "BATCHD_STATE";
/// See [`BATCHES_VARIABLE`].
pub const SETTINGS_VARIABLE: &str = "BATCHD_SETTINGS";

/// The settings of a folder.
const SETTINGS: &str = "batchd.toml";

/// The settings of the host, for a folder without its own.
const SETTINGS_OF_HOST: &str = "/etc/batchd/batchd.toml";

/// The journal, in a folder without settings.
const JOURNAL: &str = "state/journal.db";

/// If the current folder has one of these, the folders above are none of its business. The lock is there although somebody
/// has removed the journal.
const SIGNS: [&str; 4] = [SETTINGS, "batches.d", JOURNAL, "state/daemon.lock"];

/// The most bytes of a settings file that are read: more is a mistaken path, and not worth the memory.
const SETTINGS_BYTES_MAX: u64 = 1024 * 1024;

/// Where everything is. All absolute; links in them are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The definitions.
    pub batches: PathBuf,
    /// One folder per run.
    pub runs: PathBuf,
    /// The daemon's own.
    pub state: PathBuf,
    /// The settings file: where it is, or where it would be if there were one.
    pub settings: PathBuf,
}

/// The paths, and how they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The paths.
    pub paths: Paths,
    /// The folder above the current one that they were found in.
    pub above: Option<PathBuf>,
    /// The current folder, if the folders above it were searched in vain.
    pub searched_above: Option<PathBuf>,
}

/// The path options.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Paths")]
pub struct PathFlags {
    /// Folder of the batch definitions [env: BATCHD_BATCHES] [default: ./batches.d]
    #[arg(long, global = true, value_name = "DIR")]
    pub batches: Option<PathBuf>,
    /// Folder of the runs and their logs [env: BATCHD_RUNS] [default: ./runs]
    #[arg(long, global = true, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Folder of the daemon's own files [env: BATCHD_STATE] [default: ./state]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Settings file [env: BATCHD_SETTINGS] [default: ./batchd.toml, else /etc/batchd/batchd.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub settings: Option<PathBuf>,
}

/// The keys of the settings that name paths.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// `batches`, as written.
    pub batches: Option<PathBuf>,
    /// `runs`, as written.
    pub runs: Option<PathBuf>,
    /// `state`, as written.
    pub state: Option<PathBuf>,
}

impl Paths {
    /// The paths for the daemon of this process's flags, environment and current folder.
    ///
    /// Fails if the settings that a flag names don't exist, can't be read, or are not TOML.
    pub fn resolve(flags: &PathFlags) -> Result<Self> {
        Self::resolve_in(flags, &current_folder()?, None, |name| std::env::var_os(name))
    }

    /// As [`Self::resolve`], for all other commands: if neither flags nor environment name a path, and the current folder
    /// has none of batchd's files, the nearest folder above that has them is used instead, before the settings of the host.
    pub fn locate(flags: &PathFlags) -> Result<Located> {
        let variable = |name: &str| std::env::var_os(name);
        Self::locate_in(flags, &current_folder()?, variable, rustix::process::geteuid().as_raw())
    }

    /// As [`Self::locate`], with the current folder, the environment and the user as arguments.
    fn locate_in(
        flags: &PathFlags,
        folder: &Path,
        variable: impl Fn(&str) -> Option<OsString>,
        user: u32,
    ) -> Result<Located> {
        let named = [&flags.batches, &flags.runs, &flags.state, &flags.settings].iter().any(|flag| flag.is_some())
            || [BATCHES_VARIABLE, RUNS_VARIABLE, STATE_VARIABLE, SETTINGS_VARIABLE]
                .iter()
                .any(|name| variable(name).is_some_and(|value| !value.is_empty()));
        let looks_up = !named && !SIGNS.iter().any(|sign| folder.join(sign).exists());
        let above = if looks_up { folder_above(folder, user) } else { None };
        let searched_above = (looks_up && above.is_none()).then(|| folder.to_owned());
        // A folder with a journal stands for itself, as it does for the folders below.
        let is_own = !named && is_trusted(folder, JOURNAL, user);
        let used = if is_own { Some(folder) } else { above.as_deref() };
        let paths = Self::resolve_in(flags, folder, used, variable)?;
        Ok(Located { paths, above, searched_above })
    }

    /// As [`Self::resolve`], with the current folder and the environment as arguments, and the folder above that is used
    /// in the current folder's place.
    fn resolve_in(
        flags: &PathFlags,
        folder: &Path,
        above: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        // An empty variable counts as unset, as everywhere in a shell.
        let said = |flag: &Option<PathBuf>, name: &str| {
            let variable = || variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            flag.clone().or_else(variable).map(|path| tidy(folder, &path))
        };
        let (settings, text) = match (said(&flags.settings, SETTINGS_VARIABLE), &flags.settings) {
            (Some(path), asked_for) => {
                let text = read_settings(&path)?;
                if text.is_none() && asked_for.is_some() {
                    bail!(
                        "the settings file {} does not exist; correct --settings, or create the file",
                        path.display()
                    );
                }
                // A daemon without settings gives its scripts the path at which it would find some: that is no mistake.
                (path, text.unwrap_or_default())
            }
            (None, _) => find_settings(folder, above)?,
        };
        let are_said = [
            said(&flags.batches, BATCHES_VARIABLE),
            said(&flags.runs, RUNS_VARIABLE),
            said(&flags.state, STATE_VARIABLE),
        ];
        // If all folders are named, the settings need not be readable.
        let keys = match are_said.iter().all(Option::is_some) {
            true => Keys::default(),
            false => parse_keys(&settings, &text)?,
        };
        let resolved = |flag, name, key: Option<PathBuf>, default| {
            let key = key.map(|path| tidy(settings.parent().unwrap_or(Path::new("/")), &path));
            said(flag, name).or(key).unwrap_or_else(|| above.unwrap_or(folder).join(default))
        };
        Ok(Self {
            batches: resolved(&flags.batches, BATCHES_VARIABLE, keys.batches, "batches.d"),
            runs: resolved(&flags.runs, RUNS_VARIABLE, keys.runs, "runs"),
            state: resolved(&flags.state, STATE_VARIABLE, keys.state, "state"),
            settings,
        })
    }

    /// Fails if the environment names settings that don't exist: the daemon would ignore what they say of users and limits.
    pub fn check_settings_exist(&self) -> Result<()> {
        let named = std::env::var_os(SETTINGS_VARIABLE).is_some_and(|value| !value.is_empty());
        if named && !self.settings.exists() {
            bail!(
                "the settings file {} does not exist; correct {SETTINGS_VARIABLE}, or create the file",
                self.settings.display()
            );
        }
        Ok(())
    }

    /// The four variables with their values: what a script needs so that `batchd` works inside it.
    pub fn variables(&self) -> [(&'static str, &Path); 4] {
        [
            (BATCHES_VARIABLE, &self.batches),
            (RUNS_VARIABLE, &self.runs),
            (STATE_VARIABLE, &self.state),
            (SETTINGS_VARIABLE, &self.settings),
        ]
    }

    /// The database of runs.
    pub fn journal(&self) -> PathBuf {
        self.state.join("journal.db")
    }
}

/// `path` as seen from `folder`, without `.` and doubled slashes. `..` stays: behind a link it is not what it looks like.
fn tidy(folder: &Path, path: &Path) -> PathBuf {
    folder.join(path).components().collect()
}

fn current_folder() -> Result<PathBuf> {
    std::env::current_dir().context("can't find the current folder; change to a folder that exists")
}

/// The nearest folder above `folder`, on the same file system, with settings or a journal of `user` or root.
fn folder_above(folder: &Path, user: u32) -> Option<PathBuf> {
    let device = folder.metadata().ok()?.dev();
    let same_device = |above: &&Path| above.metadata().is_ok_and(|found| found.dev() == device);
    let is_it = |above: &&Path| is_trusted(above, SETTINGS, user) || is_trusted(above, JOURNAL, user);
    folder.ancestors().skip(1).take_while(same_device).find(is_it).map(Path::to_owned)
}

/// Whether this file exists and only `user` or root decide what it is: they own it, each folder on the way to it, and what
/// its links lead to.
fn is_trusted(folder: &Path, file: &str, user: u32) -> bool {
    let is_ours = |found: io::Result<std::fs::Metadata>| found.is_ok_and(|found| [user, 0].contains(&found.uid()));
    let path = folder.join(file);
    let links = path.ancestors().take_while(|part| *part != folder);
    path.is_file() && is_ours(path.metadata()) && links.into_iter().all(|part| is_ours(part.symlink_metadata()))
}

/// The first default that exists with its text, else the first default with none. A folder that was found by its files
/// stands for itself: what the host's settings name is elsewhere.
fn find_settings(folder: &Path, above: Option<&Path>) -> Result<(PathBuf, String)> {
    let own = above.unwrap_or(folder).join(SETTINGS);
    if let Some(text) = read_settings(&own)? {
        return Ok((own, text));
    }
    let of_host = PathBuf::from(SETTINGS_OF_HOST);
    match if above.is_none() { read_settings(&of_host)? } else { None } {
        Some(text) => Ok((of_host, text)),
        None => Ok((own, String::new())),
    }
}

/// The settings' text; none if there is no such file.
fn read_settings(path: &Path) -> Result<Option<String>> {
    let describe = || format!("can't read the settings file {}", path.display());
    // A device or a pipe at this path would be read without end: its length, asked first, is 0 and it is no file.
    let length = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => bail!("{} is not a file; the settings must be a TOML file", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(describe),
    };
    if length > SETTINGS_BYTES_MAX {
        bail!(
            "{} has {length} bytes, and settings have at most {SETTINGS_BYTES_MAX}; is it the right file?",
            path.display()
        );
    }
    std::fs::read_to_string(path).map(Some).with_context(describe)
}

/// Reads the keys that name paths from the text of the settings at `path`. The loader reads the other keys.
pub fn parse_keys(path: &Path, text: &str) -> Result<Keys> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let (line, column) = error.span().map_or((1, 1), |span| place_of(text, span.start));
        let excerpt = text.lines().nth(line - 1).unwrap_or_default();
        anyhow::anyhow!(
            "{}:{line}:{column}: {}\n  {excerpt}\nfix the file, or name the folders with --batches, --runs and --state",
            path.display(),
            error.message()
        )
    })?;
    let key = |name: &str| match table.get(name) {
        None => Ok(None),
        Some(toml::Value::String(text)) if !text.is_empty() => Ok(Some(PathBuf::from(text))),
        Some(_) => {
            Err(anyhow::anyhow!("{}: `{name}` is not a path; write `{name} = \"/some/folder\"`", path.display()))
        }
    };
    Ok(Keys { batches: key("batches")?, runs: key("runs")?, state: key("state")? })
}

/// The line and the column, in characters, of a byte of the text; both count from 1.
fn place_of(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..byte];
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resolves in a new folder that holds `settings` as its batchd.toml, and shows the folders relative to it.
    fn resolve(flags: &PathFlags, variables: &[(&str, &str)], settings: Option<&str>) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = settings {
            std::fs::write(folder.path().join("batchd.toml"), text).unwrap();
        }
        let variable = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| value.into());
        let paths = Paths::resolve_in(flags, folder.path(), None, variable).map_err(|error| format!("{error:#}"))?;
        let show = |path: &PathBuf| path.strip_prefix(folder.path()).unwrap_or(path).display().to_string();
        Ok([&paths.batches, &paths.runs, &paths.state, &paths.settings].map(show).to_vec())
    }

    #[test]
    fn flag_then_environment_then_settings_then_default() {
        let none = PathFlags::default();
        let check = |flags: &PathFlags, variables: &[(&str, &str)], settings: Option<&str>, expected: [&str; 4]| {
            assert_eq!(resolve(flags, variables, settings).unwrap(), expected, "{flags:?} {variables:?} {settings:?}");
        };
        check(&none, &[], Some(""), ["batches.d", "runs", "state", "batchd.toml"]);
        check(&none, &[], Some("runs = 'r'\nstate = '/s'"), ["batches.d", "r", "/s", "batchd.toml"]);
        let variables = [("BATCHD_RUNS", "/e/r"), ("BATCHD_STATE", "./e//s"), ("BATCHD_BATCHES", "")];
        check(&none, &variables, Some("runs = 'r'\nbatches = 'b'"), ["b", "/e/r", "e/s", "batchd.toml"]);
        let flags = PathFlags { runs: Some("f".into()), ..none };
        check(&flags, &variables, Some("runs = 'r'"), ["batches.d", "f", "e/s", "batchd.toml"]);
    }

    #[test]
    fn paths_in_settings_are_meant_from_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("elsewhere.toml");
        std::fs::write(&settings, "batches = 'b'").unwrap();
        let flags = PathFlags { settings: Some(settings), ..PathFlags::default() };
        let paths = Paths::resolve_in(&flags, Path::new("/work"), None, |_| None).unwrap();
        assert_eq!(paths.batches, folder.path().join("b"));
        assert_eq!(paths.runs, Path::new("/work/runs"));
    }

    #[test]
    fn what_is_wrong_with_settings_is_said() {
        let check = |settings: &str, expected: &str| {
            let error = resolve(&PathFlags::default(), &[], Some(settings)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("runs = 1", "`runs` is not a path");
        check("x = 1\nruns = ", "batchd.toml:2:8: ");
        let flags = PathFlags { settings: Some("/nowhere/batchd.toml".into()), ..PathFlags::default() };
        assert!(resolve(&flags, &[], None).unwrap_err().contains("/nowhere/batchd.toml does not exist"));
    }

    /// What is found from `below` in a folder with these files, and whether anything was looked for above.
    fn located(files: &[&str], flags: &PathFlags, variables: &[(&str, &str)], user: u32) -> (Option<String>, bool) {
        let home = tempfile::tempdir().unwrap();
        let below = home.path().join("above/a/below");
        std::fs::create_dir_all(&below).unwrap();
        for file in files {
            let file = home.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let variable = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| value.into());
        let located = Paths::locate_in(flags, &below, variable, user).unwrap();
        if let Some(above) = &located.above {
            assert_eq!(located.paths.state, above.join("state"));
            assert_eq!(located.paths.settings, above.join("batchd.toml"));
        }
        let above = located.above.map(|above| above.strip_prefix(home.path()).unwrap().display().to_string());
        (above, located.searched_above.is_some())
    }

    #[test]
    fn a11_the_folders_above_are_searched() {
        let (none, user) = (PathFlags::default(), rustix::process::geteuid().as_raw());
        let found = |files: &[&str]| located(files, &none, &[], user);
        assert_eq!(found(&[]), (None, true));
        assert_eq!(found(&["above/batchd.toml"]), (Some("above".to_owned()), false));
        assert_eq!(found(&["above/state/journal.db"]), (Some("above".to_owned()), false));
        let nearest = found(&["above/batchd.toml", "above/a/state/journal.db"]);
        assert_eq!(nearest, (Some("above/a".to_owned()), false));
        // A folder of that name alone is no sign in a folder above.
        assert_eq!(found(&["above/batches.d/x"]), (None, true));
        for sign in SIGNS {
            let sign = format!("above/a/below/{sign}");
            assert_eq!(found(&["above/batchd.toml", &sign]), (None, false), "{sign}");
        }
        let flags = PathFlags { runs: Some("r".into()), ..none.clone() };
        assert_eq!(located(&["above/batchd.toml"], &flags, &[], user), (None, false));
        let variables = [("BATCHD_STATE", "s")];
        assert_eq!(located(&["above/batchd.toml"], &none, &variables, user), (None, false));
    }

    #[test]
    fn a11_only_files_of_the_caller_or_root_count() {
        let user = rustix::process::geteuid();
        let found = located(&["above/batchd.toml"], &PathFlags::default(), &[], user.as_raw() + 1);
        // What root has made is trusted by everybody.
        assert_eq!(found.0.is_some(), user.is_root());
        if user.is_root() {
            let home = tempfile::tempdir().unwrap();
            let settings = home.path().join("batchd.toml");
            std::fs::write(&settings, "").unwrap();
            std::os::unix::fs::chown(&settings, Some(65_534), None).unwrap();
            assert!(!is_trusted(home.path(), SETTINGS, 0), "the file of another");
            std::fs::rename(&settings, home.path().join("real")).unwrap();
            std::os::unix::fs::symlink("real", &settings).unwrap();
            assert!(!is_trusted(home.path(), SETTINGS, 0), "a link of ours to the file of another");
        }
    }
}
