//! The variables of a script: what it gets, in which order one overrides another, and how an `env_file` is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

use super::order::Order;
use super::user::User;
use crate::model::definition::{VariableNameError, check_variable_name};

/// The most bytes of an `env_file`: what execve(2) takes is less.
const ENV_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// All variables of the script, later sources overriding earlier ones: the clean base, the user's own, the batch's `env`,
/// its `env_file`, those of `start --env`, and batchd's facts.
///
/// The error is a sentence that says what to do.
pub(super) fn variables(
    order: &Order,
    user: Option<&User>,
    workspace: &Path,
    inputs: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, String> {
    let mut all: BTreeMap<String, String> = order.base.iter().cloned().collect();
    if let Some(user) = user {
        all.extend(user.variables());
    }
    all.extend(order.execution.env.clone());
    if let Some(file) = &order.execution.env_file {
        all.extend(read_file(workspace, file, user.is_some())?);
    }
    all.extend(order.given.env.clone());
    all.extend(order.facts.iter().cloned());
    all.extend(inputs);
    Ok(all)
}

/// The variables of `file`, which is absolute or in the workspace. `others`: the workspace is another user's than ours.
fn read_file(workspace: &Path, file: &str, others: bool) -> Result<Vec<(String, String)>, String> {
    let path = workspace.join(file);
    let place = path.display();
    let opened = if others && !file.starts_with('/') { open_beneath(workspace, file) } else { open(&path) };
    let file = opened.and_then(regular).map_err(|error| match error.raw_os_error() {
        Some(libc::EXDEV) => format!(
            "env_file {place} leads out of the workspace, where its user may plant links; name the file by its absolute path"
        ),
        _ => format!("env_file {place} can't be opened ({error}); make it, or change `env_file`"),
    })?;
    let mut text = String::new();
    let count = file.take(ENV_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let count = count.map_err(|error| format!("env_file {place} can't be read as UTF-8 text ({error})"))?;
    if count as u64 > ENV_FILE_BYTES_MAX {
        return Err(format!("env_file {place} has more than {ENV_FILE_BYTES_MAX} bytes; make it shorter"));
    }
    parse(&text).map_err(|(line, what)| format!("env_file {place}, line {line}: {what}"))
}

/// Not blocking: a FIFO in its place must not keep the shim.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OPEN, Mode::empty())?)
}

/// Opens a file of a workspace with the rights of the shim: what its user put there must not lead to what that user could
/// not read.
fn open_beneath(workspace: &Path, file: &str) -> io::Result<OwnedFd> {
    let folder = openat(CWD, workspace, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(openat2(&folder, file, OPEN, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)?)
}

fn regular(file: OwnedFd) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(File::from(file)),
        _ => Err(io::Error::other("it is no regular file")),
    }
}

/// Reads `KEY=VALUE` lines: blank lines and lines that begin with `#` are passed over, `export ` before a key too. A value
/// in single quotes is taken as it is; in double quotes `\` takes away the meaning of `"`, `\`, `$` and `` ` `` and `\n`
/// is a line end; without quotes blanks around it are cut off. No variable is ever expanded. The error has the line's
/// number and never any of its content: it may be a secret.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |what| (index + 1, what);
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (key, value) = line.split_once('=').ok_or(at("no `=`; a line is KEY=VALUE"))?;
        match check_variable_name(key) {
            // Of a name of batchd's own, its own value counts: it comes later.
            Ok(()) | Err(VariableNameError::Reserved(_)) => {}
            Err(VariableNameError::TooLong(_)) => return Err(at("the name before `=` is longer than 128 bytes")),
            Err(VariableNameError::Malformed(_)) => {
                return Err(at("the name before `=` is not one of letters, digits and `_` that begins with no digit"));
            }
        }
        variables.push((key.to_owned(), unquote(value.trim()).map_err(at)?));
    }
    Ok(variables)
}

fn unquote(value: &str) -> Result<String, &'static str> {
    const OPEN: &str = "a quote is not closed, or something follows it";
    if value.contains('\0') {
        return Err("a value can't hold a zero byte");
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
mod tests {
    use super::*;
    use crate::model::definition::VARIABLE_NAME_BYTES_MAX;

    #[test]
    fn env_files() {
        let check = |text: &str, expected: Result<&[(&str, &str)], usize>| {
            let expected =
                expected.map(|pairs| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
            assert_eq!(parse(text).map_err(|(line, _)| line), expected, "{text:?}");
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
        check(&format!("{}=b", "\0".repeat(VARIABLE_NAME_BYTES_MAX + 1)), Err(1));
        check(&format!("{}=b", "A".repeat(VARIABLE_NAME_BYTES_MAX + 1)), Err(1));
    }
}
