//! Unpacks zips in a throw-away child that may take little memory and time: [`unzip_in_child`], and the child's main
//! function. An archive that was made to hurt kills the child.
//!
//! Archive and answer are files in memory, not pipes: nobody can block on the other, and the kernel bounds the answer.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};

use super::zip::{Collector, ZIP_ENTRIES_MAX, ZIP_PATH_BYTES_MAX, ZipError, unzip};
use crate::model::files::{DEFINITION_BYTES_MAX, FileContent, Files, MODE_MASK};

/// The hidden verb that makes the binary the child.
pub const UNPACK_VERB: &str = "unpack";

/// The address space of the child: the program itself, an archive, and its files while they grow.
const CHILD_MEMORY_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The processor time of the child. 64 MiB inflate in half a second.
const CHILD_CPU_SECONDS_MAX: u64 = 10;
/// How long the child may take by the clock on the wall: more than its processor time, for a busy host.
const CHILD_SECONDS_MAX: i64 = 60;
/// The child's descriptors: stdin, stdout (twice) and stderr. It opens nothing.
const CHILD_FILES_MAX: u64 = 4;
/// The most bytes that the answer has beside the content of the files: for each a tag, lengths and the path.
const FRAMES_BYTES_MAX: u64 = (ZIP_ENTRIES_MAX * (16 + ZIP_PATH_BYTES_MAX)) as u64;
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = DEFINITION_BYTES_MAX + FRAMES_BYTES_MAX;

/// Before a file: then come its path's length (2 bytes), its mode (2), its length (4), path and bytes.
/// Numbers are big endian.
const TAG_FILE: u8 = b'f';
/// After the last file. An answer without it is not whole.
const TAG_END: u8 = b'.';
/// Instead of files: a [`ZipError`] as JSON, to the end.
const TAG_ERROR: u8 = b'!';

/// Unpacks the archive `bytes` in a child: `program`, this binary (`/proc/self/exe`), with [`UNPACK_VERB`]. Blocks until it
/// has ended, at most a minute.
pub fn unzip_in_child(program: &Path, bytes: &[u8]) -> Result<Files, ZipError> {
    if bytes.len() as u64 > DEFINITION_BYTES_MAX {
        return Err(ZipError::TooManyBytes);
    }
    let no_child = |error: io::Error| ZipError::NoChild(error.to_string());
    let mut archive = memory_file("batchd-zip").map_err(no_child)?;
    archive.write_all(bytes).and_then(|()| archive.rewind()).map_err(no_child)?;
    let mut answer = memory_file("batchd-unpacked").map_err(no_child)?;
    let child = Command::new(program)
        .arg(UNPACK_VERB)
        .env_clear()
        .stdin(archive)
        .stdout(answer.try_clone().map_err(no_child)?)
        .stderr(Stdio::null())
        .spawn()
        .map_err(no_child)?;
    let status = wait(child).map_err(no_child)?;
    if status.is_none_or(|status| !status.success()) {
        return Err(ZipError::ChildDied(
            status.map_or("no answer for a minute".to_owned(), |status| status.to_string()),
        ));
    }
    // The child shares the file's offset, and may have died writing or lied: its answer is as foreign as the archive.
    answer.seek(SeekFrom::Start(0)).map_err(no_child)?;
    decode(BufReader::new(answer).take(ANSWER_BYTES_MAX))
        .unwrap_or_else(|error| Err(ZipError::ChildDied(format!("its answer is not whole: {error}"))))
}

/// The child: reads an archive from stdin, writes its files or an error to stdout.
pub fn unpack_child_main() -> ExitCode {
    match limit_this_process().and_then(|()| unpack()) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads words of this child; its status says that there is no answer.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits until the child has ended, and kills it if that takes too long; then there is no status.
fn wait(mut child: Child) -> io::Result<Option<std::process::ExitStatus>> {
    let ended = wait_until_ended(&child);
    if !matches!(ended, Ok(true)) {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(ended?.then_some(status))
}

fn wait_until_ended(child: &Child) -> io::Result<bool> {
    let pid = Pid::from_child(child);
    let pidfd: OwnedFd = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec { tv_sec: CHILD_SECONDS_MAX, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

fn limit_this_process() -> io::Result<()> {
    let limit = |resource, maximum| setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) });
    limit(Resource::As, CHILD_MEMORY_BYTES_MAX)?;
    limit(Resource::Cpu, CHILD_CPU_SECONDS_MAX)?;
    limit(Resource::Fsize, ANSWER_BYTES_MAX)?;
    limit(Resource::Nofile, CHILD_FILES_MAX)?;
    limit(Resource::Core, 0)?;
    Ok(())
}

fn unpack() -> io::Result<()> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(DEFINITION_BYTES_MAX).read_to_end(&mut bytes)?;
    // Not `io::stdout`: it would look for line ends in what it writes.
    let mut answer = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    encode(&unzip(&bytes), &mut answer)
}

fn encode(unpacked: &Result<Files, ZipError>, answer: &mut impl Write) -> io::Result<()> {
    let files = match unpacked {
        Ok(files) => files,
        Err(error) => {
            answer.write_all(&[TAG_ERROR])?;
            return Ok(serde_json::to_writer(answer, error)?);
        }
    };
    for (path, file) in &files.0 {
        let too_long = |_| io::Error::other("a length that its frame can't hold");
        let path_length = u16::try_from(path.len()).map_err(too_long)?;
        let length = u32::try_from(file.bytes.len()).map_err(too_long)?;
        let mut frame = vec![TAG_FILE];
        frame.extend_from_slice(&path_length.to_be_bytes());
        let mode = u16::try_from(file.mode & MODE_MASK).map_err(too_long)?;
        frame.extend_from_slice(&mode.to_be_bytes());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(path.as_bytes());
        answer.write_all(&frame)?;
        answer.write_all(&file.bytes)?;
    }
    answer.write_all(&[TAG_END])
}

/// Reads an answer. An outer error: it is not whole. The files are held to all that an archive's must keep.
pub fn decode(mut answer: impl Read) -> io::Result<Result<Files, ZipError>> {
    let mut collector = Collector::default();
    loop {
        match read_array::<1>(&mut answer)?[0] {
            TAG_FILE => {}
            TAG_END => return Ok(collector.finish()),
            TAG_ERROR => return Ok(Err(serde_json::from_reader(answer)?)),
            tag => return Err(io::Error::other(format!("unknown tag {tag}"))),
        }
        let path_length = u16::from_be_bytes(read_array(&mut answer)?);
        let mode = u32::from(u16::from_be_bytes(read_array(&mut answer)?)) & MODE_MASK;
        let length = u32::from_be_bytes(read_array(&mut answer)?);
        let path = String::from_utf8(read_bytes(&mut answer, path_length.into())?).map_err(io::Error::other)?;
        let bytes = read_bytes(&mut answer, length.into())?;
        if let Err(error) = collector.add(path, FileContent { bytes, mode }) {
            return Ok(Err(error));
        }
    }
}

fn read_array<const N: usize>(answer: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    answer.read_exact(&mut array)?;
    Ok(array)
}

/// Reads exactly `length` bytes; the length reserves nothing before they come.
fn read_bytes(answer: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = answer.take(length).read_to_end(&mut bytes)?;
    if read as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(unpacked: &Result<Files, ZipError>) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(unpacked, &mut bytes).unwrap();
        bytes
    }

    fn files() -> Files {
        let file = |bytes: &[u8], mode| FileContent { bytes: bytes.to_vec(), mode };
        Files([("script.sh".to_owned(), file(b"echo", 0o750)), ("a/b".to_owned(), file(&[0; 100_000], 0o600))].into())
    }

    #[test]
    fn answers_come_back() {
        let errors = [ZipError::TooManyBytes, ZipError::NoScript { top_folder: Some("x".to_owned()) }];
        for unpacked in errors.into_iter().map(Err).chain([Ok(files())]) {
            assert_eq!(decode(answer(&unpacked).as_slice()).unwrap(), unpacked);
        }
    }

    #[test]
    fn an_answer_cut_anywhere_is_not_whole() {
        let whole = answer(&Ok(files()));
        for length in (0..200).chain(whole.len() - 200..whole.len()) {
            assert!(decode(&whole[..length]).is_err(), "{length} of {}", whole.len());
        }
    }

    #[test]
    fn an_answer_is_held_to_the_rules_of_an_archive() {
        let mut hostile = files();
        hostile.0.insert("../escaped".to_owned(), FileContent { bytes: Vec::new(), mode: 0o644 });
        assert!(matches!(decode(answer(&Ok(hostile)).as_slice()), Ok(Err(ZipError::BadPath { .. }))));
        // It claims a file of 4 GiB: nothing is reserved for it.
        assert!(decode([TAG_FILE, 0, 1, 0, 0, 255, 255, 255, 255, b'a'].as_slice()).is_err());
        assert!(decode([b'?'].as_slice()).is_err());
    }
}
