//! What is missing of a run's logs: removed, packed or truncated files, and what was dropped: [`losses`].

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::cli::show::bytes;
use crate::model::missing::{Cause, Missing};
use crate::model::run::Run;
use crate::model::text::shell_word;
use crate::rundir::times::{self, Stream};
use crate::rundir::{STDERR, STDOUT, open_file};

/// Programs that print packed files, by the ending that the file has got.
const UNPACKERS: [(&str, &str); 4] = [("gz", "zcat"), ("xz", "xzcat"), ("zst", "zstdcat"), ("bz2", "bzcat")];

/// Something of a log that can't be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// One sentence.
    pub(super) what: String,
    /// The log is not what the run has left: somebody removed or changed it, or it can't be read.
    pub(super) is_damage: bool,
}

/// What can't be shown of the wanted logs (stdout, stderr) of a run.
pub(super) fn losses(run: &Run, folder: &Path, wanted: [bool; 2]) -> Vec<Loss> {
    let grown = grown(folder);
    let exit = run.end().and_then(|end| end.exit.as_ref());
    let measured = [
        exit.map(|exit| (exit.stdout_bytes, exit.stdout_dropped_bytes)),
        exit.map(|exit| (exit.stderr_bytes, exit.stderr_dropped_bytes)),
    ];
    let mut losses = Vec::new();
    for stream in [Stream::Stdout, Stream::Stderr].into_iter().filter(|stream| wanted[*stream as usize]) {
        let (name, word) = match stream {
            Stream::Stdout => (STDOUT, "stdout"),
            Stream::Stderr => (STDERR, "stderr"),
        };
        // Without a record of the end, the times say how much there was at least.
        let (kept, dropped) = measured[stream as usize].unwrap_or((grown[stream as usize], 0));
        losses.extend(damage(folder, name, kept));
        let (missing, beyond) = exit.map(|exit| Missing::of(exit, name, dropped)).unwrap_or_default();
        for missing in missing {
            losses.push(Loss { what: missing.to_string(), is_damage: missing.cause != Cause::Unwritten });
        }
        if beyond > 0 {
            let what = format!("{} of {word} are not in the log (see `log_bytes_max`)", bytes(beyond));
            losses.push(Loss { what, is_damage: false });
        }
    }
    losses
}

/// Bytes of stdout and stderr by the times.
fn grown(folder: &Path) -> [u64; 2] {
    let mut grown = [0; 2];
    for growth in times::read(&times::load(folder)) {
        grown[growth.stream as usize] = growth.to_offset;
    }
    grown
}

/// How a log differs from the `expected` bytes that the run has left.
fn damage(folder: &Path, name: &str, expected: u64) -> Option<Loss> {
    let path = folder.join(name);
    let length = match open_file(&path).and_then(|file| file.metadata()) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let what = format!("{} is not readable for you", path.display());
            return Some(Loss { what, is_damage: true });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = match (moved(folder, name), expected) {
                (Some(command), _) => format!("{name} was packed or moved; to read it: `{command}`"),
                (None, 0) => return None,
                (None, _) => format!("{name} was removed; it had {}", bytes(expected)),
            };
            return Some(Loss { what, is_damage: true });
        }
        Err(error) => {
            let what = format!("can't read {}: {error}", path.display());
            return Some(Loss { what, is_damage: true });
        }
    };
    let command = moved(folder, name).map(|command| format!("; for the rest: `{command}`")).unwrap_or_default();
    let what = format!("{name} was truncated: it has {} of {}{command}", bytes(length), bytes(expected));
    (length < expected).then_some(Loss { what, is_damage: true })
}

/// The command that prints what another program has made of a log: `stdout.log.gz`, `stdout.log.1`.
fn moved(folder: &Path, name: &str) -> Option<String> {
    let prefix = format!("{name}.");
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|found| found.starts_with(&prefix));
    names.sort();
    let found = names.first()?;
    let ending = found.rsplit('.').next().unwrap_or_default();
    let unpacker = UNPACKERS.iter().find(|(known, _)| *known == ending).map_or("cat", |(_, program)| program);
    Some(format!("{unpacker} {}", shell_word(&folder.join(found).display().to_string())))
}
