//! The Unix socket: `state/socket/batchd.sock`. Whoever can reach into its folder may operate batchd; the socket itself is
//! open to all who get that far.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// The folder, below the state.
const FOLDER: &str = "socket";
/// The socket in it.
const NAME: &str = "batchd.sock";
/// The most bytes that an address has room for, with the zero behind it (unix(7), `sun_path`).
const ADDRESS_BYTES_MAX: usize = 108;

/// The socket's path below this state folder.
pub fn path(state: &Path) -> PathBuf {
    state.join(FOLDER).join(NAME)
}

/// Makes the folder, open to the daemon's user and, with a group, to its members, and listens in it.
///
/// A socket that is there already is replaced: only whoever holds `daemon.lock` may call this. At no moment can a stranger
/// connect: the folder is closed before there is a socket, and opened to the group when all is in place.
pub fn listen(state: &Path, group_id: Option<u32>) -> Result<UnixListener> {
    let folder = state.join(FOLDER);
    let describe = |what: &str| format!("{what} {}; check the permissions of the state folder", folder.display());
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| describe("can't create the folder"));
        }
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o700))
        .with_context(|| describe("can't set the mode of the folder"))?;
    match fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| describe("can't remove the old socket in"));
        }
        Ok(()) | Err(_) => {}
    }
    let address = Address::of(&folder).with_context(|| describe("can't open the folder"))?;
    let listener = UnixListener::bind(&address.path).with_context(|| describe("can't listen in"))?;
    fs::set_permissions(folder.join(NAME), Permissions::from_mode(0o666))
        .with_context(|| describe("can't set the mode of the socket in"))?;
    if let Some(group) = group_id {
        std::os::unix::fs::chown(&folder, None, Some(group)).with_context(|| {
            describe(
                "can't set the group of the folder to `socket_group` (the daemon's user must be root or a member):",
            )
        })?;
        fs::set_permissions(&folder, Permissions::from_mode(0o750))
            .with_context(|| describe("can't set the mode of the folder"))?;
    }
    Ok(listener)
}

/// Connects to the socket below this state folder.
pub async fn connect(state: &Path) -> io::Result<UnixStream> {
    let address = Address::of(&state.join(FOLDER))?;
    UnixStream::connect(&address.path).await
}

/// How the socket is named to the kernel: by its path, or, where that is too long, through a descriptor of its folder.
struct Address {
    path: PathBuf,
    /// What the path leads through.
    _folder: Option<File>,
}

impl Address {
    fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        if path.as_os_str().len() < ADDRESS_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = File::from(rustix::fs::open(folder, flags, Mode::empty())?);
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()));
        Ok(Self { path, _folder: Some(folder) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn only_its_user_gets_in_and_a_stale_socket_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        let first = listen(state.path(), None).unwrap();
        assert_eq!(mode(&state.path().join(FOLDER)), 0o700);
        drop(first);
        let refused = connect(state.path()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _second = listen(state.path(), None).unwrap();
        connect(state.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_group_gets_in_when_it_is_named() {
        let state = tempfile::tempdir().unwrap();
        let group = rustix::process::getgid().as_raw();
        let _listener = listen(state.path(), Some(group)).unwrap();
        assert_eq!(mode(&state.path().join(FOLDER)), 0o750);
    }

    #[tokio::test]
    async fn a_long_path_is_no_obstacle() {
        let state = tempfile::tempdir().unwrap();
        let deep = state.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let _listener = listen(&deep, None).unwrap();
        assert!(path(&deep).exists());
        connect(&deep).await.unwrap();
    }
}
