//! Which file of a definition is its script, what runs it, and what is wrong with it: [`Script`].

use super::definition::Input;
use super::findings::Findings;
use super::line_ends::{NO_MARK, NO_RETURNS};
use super::policies::plain;
use super::reader::{At, Reader, Shape};
use super::{Diagnosis, syntax, values, words};
use crate::model::diagnostic::Diagnostic;
use crate::model::text::{quoted, shell_path};

/// The script's name unless the key `script` says otherwise; always its name in a zip.
pub(super) const SCRIPT_DEFAULT: &str = "script.sh";
/// What runs a script that does not say so itself.
const INTERPRETER_DEFAULT: &str = "bash";
/// Interpreters that take a carriage return at the end of a line for a part of the last word.
const SHELLS: [&str; 8] = ["bash", "sh", "dash", "zsh", "ksh", "mksh", "ash", "fish"];
/// The byte order mark in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The script and what runs it. Meaningless if there was a complaint.
pub(super) struct Script {
    /// Its path in the definition.
    pub(super) path: String,
    /// The program that gets it, with its arguments.
    pub(super) interpreter: Vec<String>,
    /// What is wrong in the script itself.
    pub(super) complaint: Option<Diagnostic>,
}

/// Reads `script` and `interpreter`, and looks at the script.
pub(super) fn read(reader: &mut Reader<'_, '_>, input: &Input<'_>, batches: &str) -> Script {
    let interpreter = interpreter(reader);
    let path = path(reader, input, batches);
    let mut script = Script { path: String::new(), interpreter: Vec::new(), complaint: None };
    let Some((path, file)) = path.and_then(|path| input.files.0.get(&path).map(|file| (path, file))) else {
        return script;
    };
    let on_disk = match input.zip {
        Some(_) => None,
        None => Some(shell_path(&format!("{batches}/{}/{path}", input.name))),
    };
    let has_interpreter = interpreter.is_some();
    let resolved = check_start(&file.bytes, on_disk.as_deref()).and_then(|()| match interpreter {
        Some(interpreter) => Ok(interpreter),
        None => shebang(&file.bytes, on_disk.as_deref()),
    });
    let checked = resolved.and_then(|interpreter| {
        check_line_ends(&file.bytes, &interpreter, on_disk.as_deref())?;
        check_language(&path, &file.bytes, has_interpreter)?;
        Ok(interpreter)
    });
    match checked {
        Ok(interpreter) => script.interpreter = interpreter,
        Err((offset, diagnosis)) => script.complaint = Some(in_script(input, &path, &file.bytes, offset, diagnosis)),
    }
    script.path = path;
    script
}

/// A complaint about the script, and the line it is about: the one with the byte at this offset; or the whole file.
type Complaint = (Option<usize>, Diagnosis);

fn in_script(input: &Input<'_>, path: &str, bytes: &[u8], offset: Option<usize>, diagnosis: Diagnosis) -> Diagnostic {
    let inside = input.zip.map(|zip| format!("{zip}/")).unwrap_or_default();
    let Diagnosis { what, hint } = diagnosis;
    let hint = hint.map(|hint| input.zip.map(|zip| format!("{hint}; then make `{zip}` again")).unwrap_or(hint));
    // The text up to the end of the line is enough to show it, and replacing what is not UTF-8 moves no line.
    let shown = offset.map_or(0, |offset| {
        bytes[offset..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| offset + at)
    });
    let text = String::from_utf8_lossy(&bytes[..shown]);
    let mut findings = Findings::new(Some(input.name.clone()), format!("{}/{inside}{path}", input.name), &text);
    match offset {
        Some(_) => {
            let line_start = text.rfind('\n').map_or(0, |at| at + 1);
            findings.at(line_start..text.len(), Diagnosis { what, hint });
        }
        None => findings.whole(Diagnosis { what, hint }),
    }
    findings.into_diagnostics().remove(0)
}

fn interpreter(reader: &mut Reader<'_, '_>) -> Option<Vec<String>> {
    let list = reader.list("interpreter", Shape::List, values::text)?;
    let is_empty = list.get_ref().first().is_none_or(|program| program.get_ref().trim().is_empty());
    if is_empty {
        let hint =
            "write for example `interpreter = [\"python3\", \"-u\"]`; without the key, the script's `#!` line decides";
        reader.findings.at(list.span(), Diagnosis::hinted("`interpreter` names no program", hint));
        return None;
    }
    Some(plain(list))
}

/// The script's path among the files; none if there is none, which is a complaint.
fn path(reader: &mut Reader<'_, '_>, input: &Input<'_>, batches: &str) -> Option<String> {
    let files = &input.files.0;
    let had_key = reader.key_span("script").is_some();
    let Some(written) = reader.value("script", values::contained_path) else {
        // A wrong `script` is a complaint already.
        return if had_key { None } else { default_path(reader, input, batches) };
    };
    let (span, name) = (written.span(), At::into_inner(written));
    if name.starts_with('/') {
        let hint = "copy the script into the batch's folder, and write its name there";
        reader.findings.at(
            span,
            Diagnosis::hinted(format!("`script` must be in the batch's folder, found `{}`", quoted(&name)), hint),
        );
        return None;
    }
    if input.zip == Some(name.as_str()) {
        return in_zip(reader, input, batches, &name);
    }
    if files.contains_key(&name) {
        return Some(name);
    }
    let hint = match words::nearest(&name, scripts(input)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("create the file, or name another file in the folder `{}`", input.name),
    };
    reader.findings.at(span, Diagnosis::hinted(format!("there is no file `{}` in the folder", quoted(&name)), hint));
    None
}

/// `script.sh`, else the only zip.
fn default_path(reader: &mut Reader<'_, '_>, input: &Input<'_>, batches: &str) -> Option<String> {
    let files = &input.files.0;
    if files.contains_key(SCRIPT_DEFAULT) {
        return Some(SCRIPT_DEFAULT.to_owned());
    }
    if let Some(zip) = input.zip {
        return in_zip(reader, input, batches, zip);
    }
    let inside = format!("{SCRIPT_DEFAULT}/");
    if files.keys().any(|path| path.starts_with(&inside)) {
        let hint = format!("put the script next to `batch.toml`, or name it: `script = \"{inside}...\"`");
        reader.findings.whole(Diagnosis::hinted(format!("`{SCRIPT_DEFAULT}` is a folder"), hint));
        return None;
    }
    let zips: Vec<&str> = files.keys().map(String::as_str).filter(|path| is_zip(path)).collect();
    let candidates: Vec<&str> = scripts(input).filter(|path| !path.contains('/')).collect();
    let diagnosis = match (zips.as_slice(), candidates.as_slice()) {
        ([first, second, ..], _) => Diagnosis::hinted(
            format!("the folder has no `{SCRIPT_DEFAULT}` and several zips: `{first}`, `{second}`"),
            format!("name one of them: `script = \"{first}\"`"),
        ),
        (_, [only]) => Diagnosis::hinted(format!("the folder has no `{SCRIPT_DEFAULT}`"), for_only(only)),
        _ => Diagnosis::hinted(
            format!("the folder has no `{SCRIPT_DEFAULT}`"),
            format!("add a `{SCRIPT_DEFAULT}`, or name another file in the folder: `script = \"...\"`"),
        ),
    };
    reader.findings.whole(diagnosis);
    None
}

fn in_zip(reader: &mut Reader<'_, '_>, input: &Input<'_>, batches: &str, zip: &str) -> Option<String> {
    if input.files.0.contains_key(SCRIPT_DEFAULT) {
        return Some(SCRIPT_DEFAULT.to_owned());
    }
    let inner = input.files.0.keys().find_map(|path| path.strip_suffix("/script.sh"));
    let hint = match inner {
        Some(folder) => {
            let batch = shell_path(&format!("{batches}/{}", input.name));
            let (zip, below) = (shell_path(zip), shell_path(folder));
            let up = format!("../{}", "../".repeat(folder.matches('/').count()));
            format!(
                "the script is in the folder `{}` of the zip; make the zip again from inside that folder: \
                 `(cd {batch} && unzip -q {zip} && rm {zip} && cd {below} && zip -qr {up}{zip} .)`",
                quoted(folder)
            )
        }
        None => format!("add a `{SCRIPT_DEFAULT}` at the root of the zip"),
    };
    reader.findings.whole(Diagnosis::hinted(format!("`{zip}` has no `{SCRIPT_DEFAULT}` at its root"), hint));
    None
}

fn is_zip(path: &str) -> bool {
    !path.contains('/') && path.to_ascii_lowercase().ends_with(".zip")
}

/// The files that may be meant as scripts.
fn scripts<'i>(input: &Input<'i>) -> impl Iterator<Item = &'i str> {
    input.files.0.keys().map(String::as_str).filter(|path| *path != "batch.toml" && !path.starts_with('_'))
}

/// What no interpreter can read.
fn check_start(bytes: &[u8], on_disk: Option<&str>) -> Result<(), Complaint> {
    let (what, hint) = if bytes.trim_ascii().is_empty() {
        ("the script is empty", "write the commands to run; `true` does nothing and succeeds".to_owned())
    } else if bytes.starts_with(BOM) {
        let hint = match on_disk {
            Some(path) => format!("the mark hides the `#!` line; remove it: `{NO_MARK} {path}`"),
            None => "the mark hides the `#!` line; save the script as UTF-8 without it".to_owned(),
        };
        ("the script begins with a byte order mark", hint)
    } else if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let hint = on_disk.map_or_else(|| "save it as UTF-8".to_owned(), |path| syntax::to_utf8("UTF-16", path));
        ("the script is UTF-16, not UTF-8", hint)
    } else if bytes.starts_with(b"\x7fELF") {
        let hint = "rename the program, and add a `script.sh` that runs it: `exec ./program \"$@\"`";
        ("the script is a compiled program, not text", hint.to_owned())
    } else {
        return Ok(());
    };
    Err((bytes.starts_with(BOM).then_some(0), Diagnosis::hinted(what, hint)))
}

/// What the `#!` line says, split as execve(2) on Linux does: the program, and all that follows as one argument. Of
/// `#!/usr/bin/env NAME`, the name.
fn shebang(bytes: &[u8], on_disk: Option<&str>) -> Result<Vec<String>, Complaint> {
    let Some(rest) = bytes.strip_prefix(b"#!") else { return Ok(vec![INTERPRETER_DEFAULT.to_owned()]) };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let complaint = |what: String, hint: String| Err((Some(0), Diagnosis::hinted(what, hint)));
    if line.ends_with(b"\r") {
        return Err((
            Some(0),
            crlf("the `#!` line has a Windows line end (CRLF), so the system can't find the program", on_disk),
        ));
    }
    let Ok(line) = std::str::from_utf8(line) else {
        return complaint("the `#!` line is not UTF-8".to_owned(), "write for example `#!/bin/bash`".to_owned());
    };
    let blank = [' ', '\t'];
    let line = line.trim_matches(blank);
    let (program, argument) = line.split_once(blank).unwrap_or((line, ""));
    let argument = argument.trim_start_matches(blank);
    if program.is_empty() || line.contains('\0') {
        return complaint("the `#!` line names no program".to_owned(), "write for example `#!/bin/bash`".to_owned());
    }
    if !program.starts_with('/') {
        let name = program.rsplit('/').next().unwrap_or(program);
        let what = format!("the program in a `#!` line needs an absolute path, found `{}`", quoted(program));
        return complaint(what, format!("write `#!/usr/bin/env {}`", quoted(name)));
    }
    if program.ends_with("/env") && argument.contains(blank) && !argument.starts_with('-') && !argument.contains('=') {
        let what = format!("the system passes `{}` to `env` as one word", quoted(argument));
        return complaint(what, format!("write `#!{program} -S {}`", quoted(argument)));
    }
    // env looks for the program in PATH, as a run does, and a run that doesn't find it names the PATH.
    let is_name = |word: &str| !word.is_empty() && !word.starts_with('-') && !word.contains(['=', '/', ' ', '\t']);
    if program.ends_with("/env") && is_name(argument) {
        return Ok(vec![argument.to_owned()]);
    }
    let argument = Some(argument).filter(|argument| !argument.is_empty());
    Ok([program].into_iter().chain(argument).map(str::to_owned).collect())
}

/// A shell takes the carriage return for a part of the line; other interpreters mind only the `#!` line.
fn check_line_ends(bytes: &[u8], interpreter: &[String], on_disk: Option<&str>) -> Result<(), Complaint> {
    if !interpreter.iter().any(|word| names_shell(word)) {
        return Ok(());
    }
    match bytes.windows(2).position(|pair| pair == b"\r\n") {
        None => Ok(()),
        Some(first) => Err((
            Some(first),
            crlf("the line has a Windows line end (CRLF); shells read the carriage return as text", on_disk),
        )),
    }
}

fn crlf(what: &str, on_disk: Option<&str>) -> Diagnosis {
    let hint = match on_disk {
        Some(path) => format!("remove them: `{NO_RETURNS} {path}`; in git, write `*.sh text eol=lf` to .gitattributes"),
        None => "save the script with Unix line ends".to_owned(),
    };
    Diagnosis::hinted(what, hint)
}

fn names_shell(word: &str) -> bool {
    word.split([' ', '/']).any(|name| SHELLS.contains(&name))
}

/// Whether a file begins with a `#!` line that names a shell.
pub(super) fn is_shell_line(bytes: &[u8]) -> bool {
    let line = bytes.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    line.and_then(|line| std::str::from_utf8(line).ok()).is_some_and(|line| names_shell(line.trim_end()))
}

/// Languages by the end of a file's name: without a `#!` line, bash would run them.
const LANGUAGES: [(&str, &str); 7] = [
    (".py", "python3"),
    (".pl", "perl"),
    (".rb", "ruby"),
    (".js", "node"),
    (".php", "php"),
    (".R", "Rscript"),
    (".lua", "lua"),
];

fn language(path: &str) -> Option<&'static str> {
    LANGUAGES.iter().find(|(end, _)| path.ends_with(end)).map(|(_, program)| *program)
}

/// What the only file beside `batch.toml` needs to be the script.
fn for_only(only: &str) -> String {
    const ARCHIVES: [&str; 8] = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".7z", ".rar"];
    if ARCHIVES.iter().any(|end| only.to_ascii_lowercase().ends_with(end)) {
        return format!("only zips are unpacked; unpack `{only}` here, or make a zip of it");
    }
    match language(only) {
        Some(program) => format!("write `script = \"{only}\"` and `interpreter = [\"{program}\"]`"),
        None => format!("rename `{only}` to `{SCRIPT_DEFAULT}`, or write `script = \"{only}\"`"),
    }
}

/// A program in another language, which nothing says that it is.
fn check_language(path: &str, bytes: &[u8], has_interpreter: bool) -> Result<(), Complaint> {
    let Some(program) = language(path).filter(|_| !has_interpreter && !bytes.starts_with(b"#!")) else { return Ok(()) };
    let what = format!("`{path}` has no `#!` line, so bash would run it");
    Err((None, Diagnosis::hinted(what, format!("write `interpreter = [\"{program}\"]`"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shebangs() {
        let check = |script: &[u8], expected: Result<&[&str], &str>| match (shebang(script, None), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{script:?}"),
            (Err((_, diagnosis)), Err(expected)) => assert!(diagnosis.what.contains(expected), "{diagnosis:?}"),
            (found, expected) => panic!("{:?}: {found:?}, expected {expected:?}", String::from_utf8_lossy(script)),
        };
        check(b"echo", Ok(&["bash"]));
        check(b"", Ok(&["bash"]));
        check(b" #!/bin/sh", Ok(&["bash"]));
        check(b"#!/bin/sh\necho", Ok(&["/bin/sh"]));
        check(b"#! \t/bin/bash  -e -u \t\n", Ok(&["/bin/bash", "-e -u"]));
        check(b"#!/usr/bin/env python3", Ok(&["python3"]));
        check(b"#!/usr/bin/env -S bash -eu\n", Ok(&["/usr/bin/env", "-S bash -eu"]));
        check(b"#!/usr/bin/env bash -eu\n", Err("as one word"));
        check(b"#!/bin/sh\r\n", Err("Windows line end"));
        check(b"#!\n", Err("names no program"));
        check(b"#!python3\n", Err("absolute path, found `python3`"));
        check(b"#!/bin/\xff\n", Err("not UTF-8"));
    }

    #[test]
    fn only_shells_mind_line_ends_everywhere() {
        let check = |interpreter: &[&str], expected: bool| {
            let interpreter: Vec<String> = interpreter.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(check_line_ends(b"a\nb\r\nc", &interpreter, None).is_ok(), expected, "{interpreter:?}");
        };
        check(&["bash"], false);
        check(&["/usr/bin/env", "-S bash -eu"], false);
        check(&["/bin/sh"], false);
        check(&["/usr/bin/env", "python3"], true);
        check(&["/usr/bin/perl"], true);
    }
}
