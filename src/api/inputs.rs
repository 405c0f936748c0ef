//! Inputs that operators send along with a `start`: each a file in `state/inputs` that only the daemon's user can read.
//!
//! The daemon's loop decides how long an input is kept; in here it is only received.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use axum::body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::model::input::{INPUT_BYTES_MAX, INPUTS, InputId};

/// The most bytes of all stored inputs together: so many failed runs can be repeated, and no more disk is taken.
pub const INPUTS_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The ending of a file that is still being received.
pub const UNFINISHED: &str = ".new";
/// Pieces that were received and not yet written: the socket and the disk work at the same time.
const PIECES_AHEAD: usize = 4;

/// Why an input was not stored.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It has more than [`INPUT_BYTES_MAX`] bytes.
    #[error("the input is larger than {} MiB", INPUT_BYTES_MAX / (1024 * 1024))]
    TooLarge,
    /// With it, all inputs would have more than [`INPUTS_BYTES_MAX`] bytes.
    #[error("the stored inputs of earlier runs take {} MiB already", INPUTS_BYTES_MAX / (1024 * 1024))]
    Full,
    /// The client went away.
    #[error("the input ended before all of it was received")]
    Incomplete,
    /// The disk said no.
    #[error("can't store the input: {0}")]
    Disk(#[from] io::Error),
}

/// What is to be done with a file that is being received.
enum Piece {
    Bytes(Bytes),
    /// All of it has come.
    End,
}

/// Receives an input, and gives its id once it is on the disk.
pub(super) async fn store(state: &Path, body: Body) -> Result<InputId, InputError> {
    let folder = state.join(INPUTS);
    let (pieces, inlet) = mpsc::channel(PIECES_AHEAD);
    let writing = tokio::task::spawn_blocking(move || write(&folder, inlet));
    let received = receive(body, &pieces).await;
    // Without an end, the writer removes what it has.
    drop(pieces);
    let written = writing.await.unwrap_or(Err(InputError::Incomplete));
    match received {
        Err(Stopped::Client(error)) => Err(error),
        // The writer knows why it stopped.
        Ok(()) | Err(Stopped::Writer) => written,
    }
}

/// Why not all of an input was handed to the writer.
enum Stopped {
    Client(InputError),
    Writer,
}

async fn receive(body: Body, pieces: &mpsc::Sender<Piece>) -> Result<(), Stopped> {
    let limit = usize::try_from(INPUT_BYTES_MAX).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, limit);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let too_large = error.downcast_ref::<LengthLimitError>().is_some();
            Stopped::Client(if too_large { InputError::TooLarge } else { InputError::Incomplete })
        })?;
        if let Ok(bytes) = frame.into_data() {
            pieces.send(Piece::Bytes(bytes)).await.map_err(|_| Stopped::Writer)?;
        }
    }
    pieces.send(Piece::End).await.map_err(|_| Stopped::Writer)
}

/// Writes the pieces into a new file, which gets its name when it is whole and on the disk: the run's row will be, too.
fn write(folder: &Path, mut pieces: mpsc::Receiver<Piece>) -> Result<InputId, InputError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    if bytes_in(folder)? >= INPUTS_BYTES_MAX {
        return Err(InputError::Full);
    }
    let id = random_id()?;
    let unfinished = Unfinished(folder.join(format!("{id}{UNFINISHED}")));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.0)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => file.write_all(&bytes)?,
            Some(Piece::End) => break,
            None => return Err(InputError::Incomplete),
        }
    }
    file.sync_all()?;
    fs::rename(&unfinished.0, folder.join(id.to_string()))?;
    File::open(folder)?.sync_all()?;
    Ok(id)
}

/// A file that goes away unless it gets its name.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It has its name now, or was never made; what can't be removed is removed when the inputs are tidied.
        let _ = fs::remove_file(&self.0);
    }
}

fn bytes_in(folder: &Path) -> io::Result<u64> {
    // One may go away meanwhile.
    let length = |entry: io::Result<fs::DirEntry>| entry.ok()?.metadata().ok().map(|metadata| metadata.len());
    Ok(fs::read_dir(folder)?.filter_map(length).sum())
}

fn random_id() -> io::Result<InputId> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(InputId::of_random(u128::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(state: &Path) -> Vec<String> {
        let Ok(folder) = fs::read_dir(state.join(INPUTS)) else { return Vec::new() };
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn an_input_is_whole_and_private() {
        let state = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let id = store(state.path(), Body::from(bytes.clone())).await.unwrap();
        assert_eq!(fs::read(id.path(state.path())).unwrap(), bytes);
        assert_eq!(names(state.path()), [id.to_string()]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state.path().join(INPUTS)), mode(&id.path(state.path()))), (0o700, 0o600));
    }

    #[tokio::test]
    async fn nothing_is_left_of_one_that_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let long = vec![b'x'; usize::try_from(INPUT_BYTES_MAX).unwrap() + 1];
        let refused = store(state.path(), Body::from(long)).await;
        assert!(matches!(refused, Err(InputError::TooLarge)), "{refused:?}");
        assert_eq!(names(state.path()), [""; 0]);
        let folder = state.path().join(INPUTS);
        fs::create_dir_all(&folder).unwrap();
        File::create(folder.join("sparse")).unwrap().set_len(INPUTS_BYTES_MAX).unwrap();
        let refused = store(state.path(), Body::from("x")).await;
        assert!(matches!(refused, Err(InputError::Full)), "{refused:?}");
        assert_eq!(names(state.path()), ["sparse"]);
    }
}
