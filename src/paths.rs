//! Where everything is: the four paths of the design's 3.1, each from its flag, else the environment, else the settings,
//! else its default.
//!
//! Knows the names of the paths and nothing of what lies at them, the settings' own keys for the paths excepted.

use std::ffi::OsString;
use std::io;
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

/// Where the settings are looked for, in this order, when nobody says where they are.
const SETTINGS_DEFAULTS: [&str; 2] = ["batchd.toml", "/etc/batchd/batchd.toml"];

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

/// What the command line says of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Paths")]
pub struct PathFlags {
    /// The folder of the definitions [env: BATCHD_BATCHES] [default: ./batches.d]
    #[arg(long, global = true, value_name = "DIR")]
    pub batches: Option<PathBuf>,
    /// The folder of the runs' logs [env: BATCHD_RUNS] [default: ./runs]
    #[arg(long, global = true, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// The folder of the daemon's own files [env: BATCHD_STATE] [default: ./state]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The settings [env: BATCHD_SETTINGS] [default: ./batchd.toml, else /etc/batchd/batchd.toml]
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
    /// The paths for this process: its flags, its environment, the settings that these lead to.
    ///
    /// Fails when settings that a flag asked for are not there, when they can't be read, or are no TOML.
    pub fn resolve(flags: &PathFlags) -> Result<Self> {
        let folder = std::env::current_dir()
            .context("the current folder can't be found; change to one that exists, and try again")?;
        Self::resolve_in(flags, &folder, |name| std::env::var_os(name))
    }

    /// As [`Self::resolve`], with the current folder and the environment as arguments.
    fn resolve_in(flags: &PathFlags, folder: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        // A variable that is set to nothing says nothing, as everywhere in a shell.
        let said = |flag: &Option<PathBuf>, name: &str| {
            let variable = || variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            flag.clone().or_else(variable).map(|path| tidy(folder, &path))
        };
        let (settings, text) = match (said(&flags.settings, SETTINGS_VARIABLE), &flags.settings) {
            (Some(path), asked_for) => {
                let text = read_settings(&path)?;
                if text.is_none() && asked_for.is_some() {
                    bail!(
                        "there are no settings at {}; mend --settings, or make the file (it may be empty)",
                        path.display()
                    );
                }
                // A daemon without settings gives its scripts the path at which it would find some: that is no mistake.
                (path, text.unwrap_or_default())
            }
            (None, _) => find_settings(folder)?,
        };
        let are_said = [
            said(&flags.batches, BATCHES_VARIABLE),
            said(&flags.runs, RUNS_VARIABLE),
            said(&flags.state, STATE_VARIABLE),
        ];
        // Whoever says where everything is does not need settings that can be read.
        let keys = match are_said.iter().all(Option::is_some) {
            true => Keys::default(),
            false => parse_keys(&settings, &text)?,
        };
        let resolved = |flag, name, key: Option<PathBuf>, default| {
            let key = key.map(|path| tidy(settings.parent().unwrap_or(Path::new("/")), &path));
            said(flag, name).or(key).unwrap_or_else(|| folder.join(default))
        };
        Ok(Self {
            batches: resolved(&flags.batches, BATCHES_VARIABLE, keys.batches, "batches.d"),
            runs: resolved(&flags.runs, RUNS_VARIABLE, keys.runs, "runs"),
            state: resolved(&flags.state, STATE_VARIABLE, keys.state, "state"),
            settings,
        })
    }

    /// Fails if the environment names settings that are not there: a daemon would do without what they say of users and limits.
    pub fn check_settings_exist(&self) -> Result<()> {
        let named = std::env::var_os(SETTINGS_VARIABLE).is_some_and(|value| !value.is_empty());
        if named && !self.settings.exists() {
            bail!(
                "there are no settings at {}; mend {SETTINGS_VARIABLE}, or make the file (it may be empty)",
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

/// The first default that exists with its text, else the first default with none.
fn find_settings(folder: &Path) -> Result<(PathBuf, String)> {
    for default in SETTINGS_DEFAULTS {
        let path = folder.join(default);
        if let Some(text) = read_settings(&path)? {
            return Ok((path, text));
        }
    }
    Ok((folder.join(SETTINGS_DEFAULTS[0]), String::new()))
}

/// The settings' text; none if there is no such file.
fn read_settings(path: &Path) -> Result<Option<String>> {
    let describe = || format!("the settings at {} can't be read; mend the file or its permissions", path.display());
    // A device or a pipe at this path would be read without end: its length, asked first, is 0 and it is no file.
    let length = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => bail!("{} is not a file; the settings are a TOML file", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(describe),
    };
    if length > SETTINGS_BYTES_MAX {
        bail!(
            "{} has {length} bytes; settings have at most {SETTINGS_BYTES_MAX}: is it the right file?",
            path.display()
        );
    }
    std::fs::read_to_string(path).map(Some).with_context(describe)
}

/// Reads the keys that name paths from the text of the settings at `path`. The others are the loader's affair, which complains about all of them at once.
pub fn parse_keys(path: &Path, text: &str) -> Result<Keys> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let (line, column) = error.span().map_or((1, 1), |span| place_of(text, span.start));
        let excerpt = text.lines().nth(line - 1).unwrap_or_default();
        anyhow::anyhow!(
            "{}:{line}:{column}: {}\n  {excerpt}\nuntil this is mended nobody knows where the folders are; `--batches`, `--runs` and `--state` say it for this once",
            path.display(),
            error.message()
        )
    })?;
    let key = |name: &str| match table.get(name) {
        None => Ok(None),
        Some(toml::Value::String(text)) if !text.is_empty() => Ok(Some(PathBuf::from(text))),
        Some(_) => Err(anyhow::anyhow!("{}: `{name}` is not a path; write {name} = \"/some/folder\"", path.display())),
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
        let paths = Paths::resolve_in(flags, folder.path(), variable).map_err(|error| format!("{error:#}"))?;
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
        let paths = Paths::resolve_in(&flags, Path::new("/work"), |_| None).unwrap();
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
        assert!(resolve(&flags, &[], None).unwrap_err().contains("there are no settings at /nowhere/batchd.toml"));
    }
}
