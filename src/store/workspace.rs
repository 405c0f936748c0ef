//! Brings a definition into a workspace.

use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::model::id::DefinitionHash;

/// Whom a workspace belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A workspace that is up to date.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Where it is.
    pub path: PathBuf,
}

/// Why a workspace could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorkspaceError(#[from] pub io::Error);

/// Copies the definition's files.
pub fn deploy(
    state: &Path,
    definition: DefinitionHash,
    workspace: &str,
    owner: Option<Owner>,
) -> Result<Deployed, WorkspaceError> {
    let path = state.join("workspaces").join(workspace);
    std::fs::create_dir_all(&path)?;
    for entry in std::fs::read_dir(state.join("definitions").join(definition.to_string()))? {
        let entry = entry?;
        let target = path.join(entry.file_name());
        std::fs::copy(entry.path(), &target)?;
        if let Some(owner) = owner {
            chown(&target, Some(owner.uid), Some(owner.gid))?;
        }
    }
    if let Some(owner) = owner {
        chown(&path, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(Deployed { path })
}
