//! What was deployed into a workspace: kept beside it, where its script can't come.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Stat};
use serde::{Deserialize, Serialize};

use super::super::{FileError, cannot};
use super::{Owner, UNFINISHED, WorkspaceName};
use crate::model::id::DefinitionHash;
use crate::os;

/// The version of the format. A manifest of another version counts as none: all files are compared, none is removed.
const VERSION: u32 = 1;

/// The definition's files in a workspace.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// None: a shim died on the way, or none has finished yet. Then `files` are those that may be there.
    definition: Option<DefinitionHash>,
    owner: Option<(u32, u32)>,
    /// The boot during which it was deployed.
    boot_id: String,
    /// By their paths in the workspace.
    pub(super) files: BTreeMap<String, Trace>,
}

/// What a file looked like right after it was deployed. Whatever is done to the file later changes the time.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trace {
    inode: u64,
    bytes: i64,
    changed_s: i64,
    changed_ns: i64,
}

impl Trace {
    /// Of this stat, which must have been taken before the file was read, or after it was put in place.
    #[allow(clippy::unnecessary_cast, reason = "these fields have other types on 32-bit systems; all values fit")]
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino as u64,
            bytes: stat.st_size as i64,
            changed_s: stat.st_ctime as i64,
            changed_ns: stat.st_ctime_nsec as i64,
        }
    }
}

impl Manifest {
    /// Without files.
    pub(super) fn new(definition: DefinitionHash, owner: Option<Owner>, boot_id: &str) -> Self {
        Self {
            version: VERSION,
            definition: Some(definition),
            owner: owner.map(|owner| (owner.uid, owner.gid)),
            boot_id: boot_id.to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// Of a deployment that has not finished: all files that may be there.
    pub(super) fn unfinished(files: impl Iterator<Item = String>) -> Self {
        Self { version: VERSION, files: files.map(|path| (path, Trace::default())).collect(), ..Self::default() }
    }

    /// The one of a workspace, if it can be read. One that can't counts as none: then every file is compared.
    pub(super) fn read(workspaces: &Path, name: &WorkspaceName) -> Option<Self> {
        let bytes = fs::read(path(workspaces, name)).ok()?;
        serde_json::from_slice::<Self>(&bytes).ok().filter(|manifest| manifest.version == VERSION)
    }

    /// Writes it beside and renames it into place.
    pub(super) fn write(&self, workspaces: &Path, name: &WorkspaceName) -> Result<(), FileError> {
        let path = path(workspaces, name);
        let beside = PathBuf::from(format!("{}{UNFINISHED}{}", path.display(), os::process_name()));
        let bytes = serde_json::to_vec(self).map_err(cannot("write", &beside))?;
        let written = fs::write(&beside, bytes).map_err(cannot("write", &beside));
        if written.is_err() {
            // The next process has another name, and would write another one beside it.
            let _ = fs::remove_file(&beside);
        }
        written?;
        fs::rename(&beside, &path).map_err(cannot("rename", &beside))
    }

    /// True if this was deployed, for this owner and during this boot.
    pub(super) fn is_of(&self, definition: DefinitionHash, owner: Option<Owner>, boot_id: &str) -> bool {
        self.definition == Some(definition)
            && self.owner == owner.map(|owner| (owner.uid, owner.gid))
            && self.boot_id == boot_id
    }

    /// True if all files in `workspace` look as they did when they were deployed.
    pub(super) fn holds_in(&self, workspace: &Path) -> bool {
        self.files.iter().all(|(path, trace)| {
            rustix::fs::statat(CWD, workspace.join(path), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| Trace::of(&stat) == *trace)
        })
    }
}

fn path(workspaces: &Path, name: &WorkspaceName) -> PathBuf {
    workspaces.join(format!(".{}.json", name.0))
}
