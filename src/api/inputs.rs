//! Inputs that operators send along with a `start`: each a file in `state/inputs` that only the daemon's user can read.
//!
//! The daemon's loop decides which inputs are taken and how long they are kept; in here they are only received.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Bytes;
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::model::input::{INPUT_BYTES_MAX, INPUTS, INPUTS_BYTES_MAX, INPUTS_MAX, InputId};
use crate::os::make_durable_folder;

/// Pieces that were received and not yet written: the socket and the disk work at the same time.
const PIECES_AHEAD: usize = 4;
/// How long the next piece may take to come: who sends an input has all of it in memory.
const PIECE_TIME_MAX: Duration = Duration::from_secs(10);
/// What an input leaves free on the disk, which is the journal's, too: twice what the journal wants to see free before it
/// goes on after it had no space.
const DISK_FREE_MIN: u64 = 32 * 1024 * 1024;

/// Why an input was not stored.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It has more than [`INPUT_BYTES_MAX`] bytes.
    #[error("the input is larger than {} MiB", INPUT_BYTES_MAX / (1024 * 1024))]
    TooLarge,
    /// With it, there would be more than [`INPUTS_BYTES_MAX`] bytes or [`INPUTS_MAX`] inputs, and runs need all of them.
    #[error(
        "there is no room for the input: the inputs of runs that have not ended take all of it ({} MiB, or {INPUTS_MAX} inputs)",
        INPUTS_BYTES_MAX / (1024 * 1024)
    )]
    Full,
    /// As many as may arrive at once are arriving.
    #[error("the daemon is busy with other inputs")]
    Busy,
    /// The daemon is ending.
    #[error("the daemon is shutting down")]
    Ending,
    /// The client went away.
    #[error("the input ended before all of it was received")]
    Incomplete,
    /// The client is there, and sends nothing.
    #[error("the next part of the input did not come within {} s", PIECE_TIME_MAX.as_secs())]
    Slow,
    /// The disk is full, or would be nearly.
    #[error(
        "the disk of the state folder has no space for the input: {} MiB must stay free",
        DISK_FREE_MIN / (1024 * 1024)
    )]
    NoSpace,
    /// The disk said no.
    #[error("can't store the input: {0}")]
    Disk(io::Error),
}

impl From<io::Error> for InputError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Disk(error),
        }
    }
}

/// What is to be done with a file that is being received.
enum Piece {
    Bytes(Bytes),
    /// All of it has come.
    End,
}

/// Receives an input, and returns once it is on the disk. `turn` is held until nobody writes any more, which may be later
/// than the end of this: a disk that hangs keeps its thread.
pub(super) async fn store(
    state: &Path,
    id: InputId,
    body: Body,
    turn: impl Send + 'static,
) -> Result<InputId, InputError> {
    let (pieces, inlet) = mpsc::channel(PIECES_AHEAD);
    // What has no length may be as long as it is allowed to be.
    let length = body.size_hint().upper().unwrap_or(INPUT_BYTES_MAX).min(INPUT_BYTES_MAX);
    let state = state.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        write(&state, id, length, inlet)
    });
    let received = receive(body, Some(pieces)).await;
    let written = writing.await.unwrap_or(Err(InputError::Incomplete));
    received.and(written)
}

/// Receives what is not taken: a client that still sends may not see the answer.
pub(super) async fn discard(body: Body) {
    // Who sends too much or too slowly has to do without it.
    let _ = receive(body, None).await;
}

/// Hands on what comes, as long as somebody takes it, up to its end. The writer removes what has no end.
async fn receive(body: Body, mut pieces: Option<mpsc::Sender<Piece>>) -> Result<(), InputError> {
    let limit = usize::try_from(INPUT_BYTES_MAX).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, limit);
    while let Some(frame) = timeout(PIECE_TIME_MAX, body.frame()).await.map_err(|_| InputError::Slow)? {
        let frame = frame.map_err(|error| {
            let is_too_large = error.downcast_ref::<LengthLimitError>().is_some();
            if is_too_large { InputError::TooLarge } else { InputError::Incomplete }
        })?;
        if let Ok(bytes) = frame.into_data()
            && let Some(writer) = &pieces
            && writer.send(Piece::Bytes(bytes)).await.is_err()
        {
            // The writer knows why it stopped.
            pieces = None;
        }
    }
    if let Some(writer) = pieces {
        let _ = writer.send(Piece::End).await;
    }
    Ok(())
}

/// Writes the pieces into a new file, which gets its name when it is whole and on the disk: the run's row will be, too.
fn write(state: &Path, id: InputId, length: u64, mut pieces: mpsc::Receiver<Piece>) -> Result<InputId, InputError> {
    let folder = state.join(INPUTS);
    make_durable_folder(&folder, 0o700)?;
    let unfinished = Unfinished(id.unfinished_path(state));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.0)?;
    reserve(&file, length)?;
    let mut written = 0;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => {
                file.write_all(&bytes)?;
                written += bytes.len() as u64;
            }
            Some(Piece::End) => break,
            None => return Err(InputError::Incomplete),
        }
    }
    // What was reserved behind its end is given back.
    file.set_len(written)?;
    file.sync_all()?;
    fs::rename(&unfinished.0, id.path(state))?;
    File::open(&folder)?.sync_all()?;
    Ok(id)
}

/// Sets the room for an input aside before its first byte is taken. So several that arrive at once can't fill the disk
/// together, on which the journal is.
fn reserve(file: impl AsFd, bytes: u64) -> Result<(), InputError> {
    // A file system that can't set room aside still says what is free.
    if let Err(Errno::NOSPC | Errno::DQUOT) = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
        return Err(InputError::NoSpace);
    }
    let stat = fstatvfs(&file).map_err(io::Error::from)?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < DISK_FREE_MIN {
        return Err(InputError::NoSpace);
    }
    Ok(())
}

/// A file that goes away unless it gets its name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It has its name now, or was never made; what can't be removed is removed when the inputs are tidied.
        let _ = fs::remove_file(&self.0);
    }
}

/// A name for an input, which nobody guesses.
pub(super) fn random_id() -> io::Result<InputId> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(InputId::of_random(u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::pin::Pin;
    use std::task::{self, Poll};

    use axum::body::HttpBody;
    use hyper::body::Frame;

    use super::*;

    fn names(state: &Path) -> Vec<String> {
        let Ok(folder) = fs::read_dir(state.join(INPUTS)) else { return Vec::new() };
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn stored(state: &Path, bytes: impl Into<Body>) -> Result<InputId, InputError> {
        store(state, random_id().unwrap(), bytes.into(), ()).await
    }

    #[tokio::test]
    async fn an_input_is_whole_and_private() {
        let state = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let id = stored(state.path(), bytes.clone()).await.unwrap();
        assert_eq!(fs::read(id.path(state.path())).unwrap(), bytes);
        assert_eq!(names(state.path()), [id.to_string()]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state.path().join(INPUTS)), mode(&id.path(state.path()))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn nothing_is_left_of_one_that_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let long = vec![b'x'; usize::try_from(INPUT_BYTES_MAX).unwrap() + 1];
        let refused = stored(state.path(), long).await;
        assert!(matches!(refused, Err(InputError::TooLarge)), "{refused:?}");
        assert_eq!(names(state.path()), [""; 0]);
    }

    /// A body that sends a byte, and then nothing.
    struct Stalled(Option<Bytes>);

    impl HttpBody for Stalled {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut task::Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_sending_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        let received = receive(Body::new(Stalled(Some(Bytes::from("x")))), None).await;
        assert!(matches!(received, Err(InputError::Slow)), "{received:?}");
        assert_eq!(begun.elapsed().as_secs(), PIECE_TIME_MAX.as_secs());
    }

    #[tokio::test]
    async fn a_disk_that_would_be_full_takes_no_input() {
        // A disk of its own: whoever tries to set aside all that is free disturbs everybody on the disk.
        if !crate::root::is_root() {
            return;
        }
        let disk = tempfile::tempdir().unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).arg(disk.path()).status();
            assert!(status.unwrap().success(), "{program}");
        };
        run("mount", &["-t", "tmpfs", "-o", "size=40m", "tmpfs"]);
        let file = File::create(disk.path().join("input")).unwrap();
        let answers = [4096, 64 << 20, 10 << 20].map(|bytes| reserve(&file, bytes));
        let length = file.metadata().unwrap().len();
        drop(file);
        run("umount", &["-l"]);
        assert!(matches!(answers, [Ok(()), Err(InputError::NoSpace), Err(InputError::NoSpace)]), "{answers:?}");
        assert_eq!(length, 0, "it is as long as what was written");
    }
}
