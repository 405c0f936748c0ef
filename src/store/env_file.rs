//! An `env_file`: where it is, who may write it, and its variables. It is read when a run starts, and never kept.
//!
//! A relative one lies in the batch's folder, or in a folder that the batch includes; it is no part of the definition. An
//! error names the file and the number of a line, and never shows a line: it may be a secret.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::descent::{Descent, End};
use super::read::BatchesDir;
use super::trust::{Distrust, Role, Trust};
use super::users;
use super::walk::{FILE, FOLDER};
use super::writers::{self, Writers, writers_of};
use crate::model::definition::{VariableNameError, check_variable_name};
use crate::model::diagnostic::Diagnostic;
use crate::model::id::BatchName;
use crate::model::text::{shell_path, shown};
use crate::model::time::Instant;

/// The most bytes of an `env_file`: what execve(2) takes is less.
const ENV_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The most wrong lines that are named: a file with more is of another kind.
const MISTAKES_MAX: usize = 50;
/// What some editors put before the first line.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// What is said of a folder, a device, a pipe.
const NOT_A_FILE: &str = "the path is not a regular file";

/// Which file it is, and whose files are believed.
#[derive(Clone, Copy, Debug)]
pub struct EnvFile<'f> {
    /// The folder of all batches.
    pub batches: &'f Path,
    /// The batch.
    pub batch: &'f BatchName,
    /// The key `env_file`: absolute, or in the batch's folder.
    pub file: &'f str,
    /// The daemon's user.
    pub daemon_uid: u32,
    /// The key `user`, who may own an absolute one.
    pub user: Option<&'f str>,
    /// When it is read, for files of which the kernel doesn't say who writes them. None: they are taken as they are.
    pub now: Option<Instant>,
    /// Users, beside root and the daemon's, who may own a relative one. None: everybody may own any.
    pub trusted_owners: Option<&'f [String]>,
}

/// Why an `env_file` can't be used.
#[derive(Debug)]
pub struct EnvFileError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, if it is about one.
    pub line: Option<usize>,
    /// What is wrong: one sentence without a full stop.
    pub what: String,
    /// The other lines that are wrong, and why.
    pub others: Mistakes,
    /// What to do about it.
    pub hint: Option<String>,
    /// Somebody is writing the file, or may be: it is worth another try.
    pub is_unfinished: bool,
    /// What the system said, if it refused something.
    pub kind: Option<io::ErrorKind>,
}

impl fmt::Display for EnvFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "env_file {}", shown(&self.path.display().to_string()))?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for EnvFileError {}

impl EnvFileError {
    fn new(path: &Path, what: impl Into<String>) -> Self {
        let (line, others, hint, kind) = (None, Vec::new(), None, None);
        Self { path: path.to_owned(), line, what: what.into(), others, hint, is_unfinished: false, kind }
    }

    fn of_system(path: &Path, error: io::Error) -> Self {
        let what = format!("can't read the file: {error}");
        let hint = match error.kind() {
            io::ErrorKind::NotFound => Some("create the file, or change `env_file`".to_owned()),
            io::ErrorKind::PermissionDenied => Some("make the file readable by the daemon's user".to_owned()),
            _ => None,
        };
        Self { hint, kind: Some(error.kind()), ..Self::new(path, what) }
    }

    /// As complaints about the batch. A path below `batches` is shown from there, as in other complaints.
    pub fn diagnostics(&self, batch: &BatchName, batches: &Path) -> Vec<Diagnostic> {
        let file = self.path.strip_prefix(batches).unwrap_or(&self.path).display().to_string();
        let of_line = |line: Option<usize>, what: &str| {
            let file = line.map_or_else(|| file.clone(), |line| format!("{file}:{line}"));
            Diagnostic::of_file(Some(batch.clone()), shown(&file), what)
        };
        let first = Diagnostic { hint: self.hint.clone(), ..of_line(self.line, &self.what) };
        let others = self.others.iter().map(|(line, what)| of_line(Some(*line), what));
        std::iter::once(first).chain(others).collect()
    }
}

/// The variables of an `env_file`.
pub fn read(file: &EnvFile<'_>) -> Result<Vec<(String, String)>, EnvFileError> {
    let (path, open) = if file.file.starts_with('/') { open_absolute(file)? } else { open_relative(file)? };
    let mut bytes = Vec::new();
    let limit = ENV_FILE_BYTES_MAX;
    let file_read = File::from(open);
    let length = (&file_read).take(limit + 1).read_to_end(&mut bytes);
    let length = length.map_err(|error| EnvFileError::of_system(&path, error))?;
    if length as u64 > limit {
        return Err(EnvFileError::new(&path, format!("the file is longer than {limit} bytes")));
    }
    // After the bytes: whoever wrote some of them and is not done has the file open now.
    let is_unfinished = match (writers_of(&file_read), file.now) {
        (Writers::Unknown { .. }, None) => false,
        (writers, now) => writers.may_go_on(now.unwrap_or(Instant::from_ms(0))),
    };
    if is_unfinished {
        let hint = Some("close the file; to write slowly, write a copy and rename it".to_owned());
        return Err(EnvFileError { is_unfinished, hint, ..EnvFileError::new(&path, writers::still_open(&path)) });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        EnvFileError { line: Some(line), ..EnvFileError::new(&path, "the file is not UTF-8 text") }
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        let hint = format!("run `sed -i '1s/^\\xEF\\xBB\\xBF//' {}`", shell_path(&path.display().to_string()));
        let what = "the file begins with a byte order mark";
        return Err(EnvFileError { line: Some(1), hint: Some(hint), ..EnvFileError::new(&path, what) });
    }
    parse(&text).map_err(|mut wrong| {
        let (line, what) = wrong.remove(0);
        EnvFileError { line: Some(line), others: wrong, ..EnvFileError::new(&path, what) }
    })
}

/// An absolute one may belong to root, to the daemon's user and to the batch's. But the batch's user must not lead batchd to
/// a file of root's that this user can't read: what is reached through folders or links of this user has to be this user's.
fn open_absolute(file: &EnvFile<'_>) -> Result<(PathBuf, OwnedFd), EnvFileError> {
    let path = PathBuf::from(file.file);
    let of_system = |error: Errno| EnvFileError::of_system(&path, error.into());
    let user: Vec<String> = file.user.map(str::to_owned).into_iter().collect();
    let trust = trust(&path, file.daemon_uid, file.trusted_owners.map(|_| user.as_slice()))?;
    let distrusted = |place: &Path, distrust: Distrust| {
        let hint = distrust.command(place, false);
        EnvFileError { hint: Some(hint), ..EnvFileError::new(&path, said_of(&path, place, distrust)) }
    };
    let mut descent = Descent::from_root(&path).map_err(of_system)?;
    // The first place at which the user decides where the path leads.
    let mut turn = None;
    while let Some(step) = descent.next().map_err(of_system)? {
        if let Some(distrust) = trust.distrust(&step.stat, Role::Parent) {
            return Err(distrusted(&step.path, distrust));
        }
        if !trust.is_own(step.stat.st_uid) || (step.is_link() && step.is_in_shared_folder) {
            turn.get_or_insert(step.path);
        }
    }
    let end = descent.end().ok_or_else(|| EnvFileError::new(&path, NOT_A_FILE))?;
    if end.is_in_shared_folder {
        turn.get_or_insert(path.clone());
    }
    let open = open_end(&end).map_err(of_system)?;
    let stat = regular(&path, &open)?;
    if let Some(distrust) = trust.distrust(&stat, Role::Definition) {
        return Err(distrusted(&path, distrust));
    }
    if let (Some(user), Some(turn)) = (file.user.filter(|_| trust.believes_others()), turn)
        && trust.is_own(stat.st_uid)
    {
        let (owner, turn) = (users::shown(stat.st_uid), shown(&turn.display().to_string()));
        let what =
            format!("the file belongs to {owner}, but `{}` can change where the path leads, at {turn}", shown(user));
        let hint = "move the file to a folder that only root can write to, and change `env_file`".to_owned();
        return Err(EnvFileError { hint: Some(hint), ..EnvFileError::new(&path, what) });
    }
    Ok((path, open))
}

/// A relative one may belong to whoever may own definitions.
fn open_relative(file: &EnvFile<'_>) -> Result<(PathBuf, OwnedFd), EnvFileError> {
    let beside = file.batches.join(file.batch.as_str()).join(file.file);
    let trust = trust(&beside, file.daemon_uid, file.trusted_owners)?;
    let dir = BatchesDir::open(file.batches).map_err(|error| EnvFileError::new(&beside, error.to_string()))?;
    let parents = dir.check_parents(&trust).map_err(|error| EnvFileError::new(&beside, error.to_string()))?;
    if let Some(complaint) = parents.into_iter().next() {
        return Err(EnvFileError { hint: complaint.hint.clone(), ..EnvFileError::new(&beside, complaint.headline()) });
    }
    let found = open_beneath(&trust, file.batches, file.batch.as_str(), file.file);
    match (&found, file.file.split_once('/')) {
        // It may lie in a folder that the batch includes.
        (Err(error), Some((include, below)))
            if include.starts_with('_') && error.kind == Some(io::ErrorKind::NotFound) =>
        {
            open_beneath(&trust, file.batches, include, below)
        }
        _ => found,
    }
}

/// Opens `file` in `folder` of `batches`: no link leads out of the folder, and all on the way is trusted. Whoever owns
/// something there decides what runs with the daemon's rights, and could as well read any file by that.
fn open_beneath(trust: &Trust, batches: &Path, folder: &str, file: &str) -> Result<(PathBuf, OwnedFd), EnvFileError> {
    let top_path = batches.join(folder);
    let path = top_path.join(file);
    let of_system = |error: Errno| match error {
        Errno::XDEV => {
            let hint = "put the file itself there, or give `env_file` as an absolute path".to_owned();
            EnvFileError { hint: Some(hint), ..EnvFileError::new(&path, "a link leads out of the batch's folder") }
        }
        error => EnvFileError::of_system(&path, error.into()),
    };
    let distrusted = |place: &Path, distrust: Distrust| {
        let hint = distrust.hint(place, false);
        EnvFileError { hint: Some(hint), ..EnvFileError::new(&path, said_of(&path, place, distrust)) }
    };
    let top = rustix::fs::openat(CWD, &top_path, FOLDER, Mode::empty()).map_err(of_system)?;
    let mut descent = Descent::beneath(top, &top_path, Path::new(file)).map_err(of_system)?;
    while let Some(step) = descent.next().map_err(of_system)? {
        if let Some(distrust) = trust.distrust(&step.stat, Role::Definition) {
            return Err(distrusted(&step.path, distrust));
        }
    }
    let end = descent.end().ok_or_else(|| EnvFileError::new(&path, NOT_A_FILE))?;
    let open = open_end(&end).map_err(of_system)?;
    match trust.distrust(&regular(&path, &open)?, Role::Definition) {
        Some(distrust) => Err(distrusted(&path, distrust)),
        None => Ok((path, open)),
    }
}

fn trust(path: &Path, daemon_uid: u32, owners: Option<&[String]>) -> Result<Trust, EnvFileError> {
    match owners {
        Some(owners) => Trust::new(daemon_uid, owners).map_err(|error| EnvFileError::new(path, error.to_string())),
        None => Ok(Trust::insecure()),
    }
}

/// Opens the file at the end of a path. It is not looked at again by its name: what was opened is what is checked.
fn open_end(end: &End) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(&end.folder, &end.name, FILE | OFlags::NOFOLLOW, Mode::empty())
}

/// How what was opened as the `env_file` looks.
fn regular(path: &Path, open: &OwnedFd) -> Result<Stat, EnvFileError> {
    let stat = rustix::fs::fstat(open).map_err(|error| EnvFileError::of_system(path, error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        _ => Err(EnvFileError::new(path, NOT_A_FILE)),
    }
}

/// What is wrong with who can write to `place`, which is the file at `path` or is on the way to it.
fn said_of(path: &Path, place: &Path, distrust: Distrust) -> String {
    let what = distrust.what("this");
    if place == path { what } else { format!("{}: {what}", shown(&place.display().to_string())) }
}

/// The path beside the script of an `env_file` that is in the batch's folder or in one that the batch includes, whether it
/// is written as a relative path or as an absolute one.
pub fn beside_script(file: &str, batches: &Path, batch: &BatchName) -> Option<String> {
    if !file.starts_with('/') {
        return Some(file.to_owned());
    }
    let places = [Some(batches.to_owned()), batches.canonicalize().ok()];
    let inside = places.iter().flatten().find_map(|batches| Path::new(file).strip_prefix(batches).ok())?;
    inside.strip_prefix(batch.as_str()).unwrap_or(inside).to_str().map(str::to_owned)
}

/// Wrong lines, by their numbers from 1, and what is wrong with each.
pub type Mistakes = Vec<(usize, &'static str)>;

/// Reads `KEY=VALUE` lines: blank lines and lines that begin with `#` are passed over, `export ` before a key too. A value
/// in single quotes is taken as it is; in double quotes `\` takes away the meaning of `"`, `\`, `$` and `` ` `` and `\n`
/// is a line end; without quotes blanks around it are cut off. No variable is ever expanded. The error has the numbers of the
/// wrong lines, at least one, and never any of their content: it may be a secret.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, Mistakes> {
    let (mut variables, mut wrong) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match variable(line) {
            Ok(variable) => variables.push(variable),
            Err(what) if wrong.len() < MISTAKES_MAX => wrong.push((index + 1, what)),
            Err(_) => break,
        }
    }
    if wrong.is_empty() { Ok(variables) } else { Err(wrong) }
}

fn variable(line: &str) -> Result<(String, String), &'static str> {
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (key, value) = line.split_once('=').ok_or("the line has no `=`; write KEY=VALUE")?;
    match check_variable_name(key) {
        // Of a name of batchd's own, its own value counts: it comes later.
        Ok(()) | Err(VariableNameError::Reserved(_)) => {}
        Err(VariableNameError::TooLong(_)) => return Err("the name before `=` is longer than 128 bytes"),
        Err(VariableNameError::Malformed(_)) => {
            return Err("the name before `=` may contain only letters, digits and `_`, and can't begin with a digit");
        }
    }
    Ok((key.to_owned(), unquote(value.trim())?))
}

fn unquote(value: &str) -> Result<String, &'static str> {
    const OPEN: &str = "a quote is not closed, or something follows it";
    if value.contains('\0') {
        return Err("a value can't contain a NUL byte");
    }
    if let Some(rest) = value.strip_prefix('\'') {
        let inner = rest.strip_suffix('\'').ok_or(OPEN)?;
        return if inner.contains('\'') { Err(OPEN) } else { Ok(inner.to_owned()) };
    }
    let Some(rest) = value.strip_prefix('"') else { return Ok(value.to_owned()) };
    let mut plain = String::new();
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return if characters.as_str().is_empty() { Ok(plain) } else { Err(OPEN) },
            '\\' => match characters.next().ok_or(OPEN)? {
                'n' => plain.push('\n'),
                escaped @ ('"' | '\\' | '$' | '`') => plain.push(escaped),
                other => plain.extend(['\\', other]),
            },
            other => plain.push(other),
        }
    }
    Err(OPEN)
}

#[cfg(test)]
mod tests;
