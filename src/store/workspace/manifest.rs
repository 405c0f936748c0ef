//! What was deployed into a workspace: kept beside it, where its script can't come.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::walk::FOLDER;
use super::super::{FileError, cannot, definitions};
use super::{Target, UNFINISHED, WorkspaceName};
use crate::model::files::{FileContent, Files};
use crate::model::id::DefinitionHash;
use crate::os;

/// The version of the format. A manifest of any other but [`WITHOUT_DIGESTS`] counts as none: all files are compared, none is
/// removed.
const VERSION: u32 = 2;
/// The version in which a file's content had to be looked up in the stored definition.
const WITHOUT_DIGESTS: u32 = 1;
/// Nobody but the daemon's user has any business with a manifest.
const MODE: u32 = 0o600;
/// So many bytes of a SHA-256 tell two versions of a file apart, also ones that were made to be taken for one another.
const DIGEST_BYTES: usize = 16;

/// The definition's files in a workspace.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    /// None: a shim died on the way, or none has finished yet. Then `files` are those that may be there.
    pub(super) definition: Option<DefinitionHash>,
    owner: Option<(u32, u32)>,
    /// The boot during which it was deployed.
    boot_id: String,
    /// How the note of the modes looked that it was deployed with.
    #[serde(default)]
    modes: Option<Stamp>,
    /// By their paths in the workspace.
    pub(super) files: BTreeMap<String, Trace>,
    /// What deployments have put beside the files: a script's version, or what stood in the way. All else of such a name is
    /// the script's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) put_beside: BTreeMap<String, Stamp>,
}

/// How a file looks from outside. Whatever is done to the file later changes the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    bytes: i64,
    changed_s: i64,
    changed_ns: i64,
}

impl Stamp {
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

    /// When the file was changed last: seconds, nanoseconds.
    pub(super) fn changed_at(&self) -> (i64, i64) {
        (self.changed_s, self.changed_ns)
    }

    /// Whether nobody has touched the file since. Its length is left out: a host that loses its power may cut it.
    fn is_untouched(&self, stat: &Stat) -> bool {
        let now = Self::of(stat);
        (now.inode, now.changed_at()) == (self.inode, self.changed_at())
    }
}

/// A version of a file's content.
pub(super) type ContentDigest = String;

/// The digest of a whole file.
pub(super) fn digest_of(bytes: &[u8]) -> ContentDigest {
    finish_digest(Sha256::new().chain_update(bytes))
}

/// The digest of what was put into `hasher`.
pub(super) fn finish_digest(hasher: Sha256) -> ContentDigest {
    hasher.finalize()[..DIGEST_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One file that was deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trace {
    /// How it looked right afterwards.
    #[serde(flatten)]
    stamp: Stamp,
    /// The permission bits that it got.
    #[serde(default)]
    pub(super) mode: u32,
    /// The content that it got. None: it was never deployed, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<ContentDigest>,
    /// The content that a deployment which did not finish may have given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun: Option<ContentDigest>,
    /// It is always the definition's: the script, an executable, an included file.
    #[serde(default)]
    pub(super) fixed: bool,
}

impl Trace {
    /// Of a file that was just found or put in place as `wanted`.
    pub(super) fn of(stat: &Stat, wanted: &Wanted<'_>) -> Self {
        let digest = Some(wanted.digest.clone());
        Self { stamp: Stamp::of(stat), mode: wanted.file.mode, digest, begun: None, fixed: wanted.fixed }
    }

    /// Whether nobody has touched the file since it was deployed.
    pub(super) fn is_untouched(&self, stat: &Stat) -> bool {
        self.stamp.is_untouched(stat)
    }

    /// Whether this content is one that was deployed, if only by a deployment that did not finish.
    pub(super) fn has_deployed(&self, digest: Option<&ContentDigest>) -> bool {
        digest.is_some() && (self.digest.as_ref() == digest || self.begun.as_ref() == digest)
    }

    /// Whether a deployment has finished that had this file.
    pub(super) fn was_deployed(&self) -> bool {
        self.digest.is_some()
    }
}

/// A file as it should be.
pub(super) struct Wanted<'f> {
    /// Content and mode.
    pub(super) file: &'f FileContent,
    /// Of its content.
    pub(super) digest: ContentDigest,
    /// It is always the definition's.
    pub(super) fixed: bool,
}

impl<'f> Wanted<'f> {
    /// The file at `path` of the definition that is deployed.
    pub(super) fn new(path: &str, file: &'f FileContent, target: &Target<'_>) -> Self {
        let folder = path.split_once('/').map(|(folder, _)| folder);
        let is_included = folder.is_some_and(|folder| target.include.iter().any(|included| included == folder));
        let fixed = path == target.script || file.is_executable() || is_included;
        Self { file, digest: digest_of(&file.bytes), fixed }
    }
}

impl Manifest {
    /// Without files.
    pub(super) fn new(target: &Target<'_>, modes: Option<&Stat>) -> Self {
        Self {
            version: VERSION,
            definition: Some(target.definition),
            owner: target.owner.map(|owner| (owner.uid, owner.gid)),
            boot_id: target.boot_id.to_owned(),
            modes: modes.map(Stamp::of),
            files: BTreeMap::new(),
            put_beside: BTreeMap::new(),
        }
    }

    /// Of a deployment of `wanted` over `last` that has not finished: all files that may be there, in either version. None
    /// if that tells nothing that `last` does not.
    pub(super) fn unfinished(last: &Self, wanted: &BTreeMap<&str, Wanted<'_>>) -> Option<Self> {
        let deployed = |path: &str| last.files.get(path).and_then(|trace| trace.digest.as_ref());
        if wanted.iter().all(|(path, file)| deployed(path) == Some(&file.digest)) {
            return None;
        }
        let mut files = last.files.clone();
        for (path, file) in wanted {
            let trace = files.entry((*path).to_owned()).or_default();
            trace.begun = Some(file.digest.clone());
        }
        Some(Self { version: VERSION, files, put_beside: last.put_beside.clone(), ..Self::default() })
    }

    /// The one of a workspace, if it can be read. One that can't counts as none: then every file is compared.
    pub(super) fn read(workspaces: &Path, name: &WorkspaceName) -> Option<Self> {
        let bytes = fs::read(path(workspaces, name)).ok()?;
        let manifest = serde_json::from_slice::<Self>(&bytes).ok()?;
        (manifest.version == VERSION || manifest.version == WITHOUT_DIGESTS).then_some(manifest)
    }

    /// Of a manifest without digests, one with those of the stored definition, as far as they can be known.
    pub(super) fn with_digests(mut self, state: &Path) -> Self {
        if self.version == WITHOUT_DIGESTS {
            let stored = self.definition.and_then(|definition| definitions::read_back(state, definition).ok());
            let stored: Files = stored.unwrap_or_default();
            for (path, trace) in &mut self.files {
                trace.digest = stored.0.get(path).map(|file| digest_of(&file.bytes));
            }
        }
        self
    }

    /// Whether an earlier version wrote it, which let others read the workspace.
    pub(super) fn is_of_earlier_version(&self) -> bool {
        self.version != VERSION
    }

    /// Writes it beside and renames it into place.
    pub(super) fn write(&self, workspaces: &Path, name: &WorkspaceName) -> Result<(), FileError> {
        let path = path(workspaces, name);
        let beside = PathBuf::from(format!("{}{UNFINISHED}{}", path.display(), os::process_name()));
        let bytes = serde_json::to_vec(self).map_err(cannot("write", &beside))?;
        // It tells the names of files, and digests that a short secret could be guessed from.
        let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&beside);
        let written = open().and_then(|mut file| file.write_all(&bytes)).map_err(cannot("write", &beside));
        if written.is_err() {
            // The next process has another name, and would write another one beside it.
            let _ = fs::remove_file(&beside);
        }
        written?;
        fs::rename(&beside, &path).map_err(cannot("rename", &beside))
    }

    /// True if this was deployed: for this owner, during this boot, with modes of this note.
    pub(super) fn is_of(&self, target: &Target<'_>, modes: Option<&Stat>) -> bool {
        self.version == VERSION
            && self.definition == Some(target.definition)
            && self.owner == target.owner.map(|owner| (owner.uid, owner.gid))
            && self.boot_id == target.boot_id
            && self.modes == modes.map(Stamp::of)
    }

    /// True if nothing is to be done in `workspace`: the files that are always the definition's look as they did when they
    /// were deployed, and the others, which the script may change, are there.
    pub(super) fn holds_in(&self, workspace: &Path) -> bool {
        self.files.iter().all(|(path, trace)| {
            let stat = rustix::fs::statat(CWD, workspace.join(path), AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| Stamp::of(&stat) == trace.stamp) || (!trace.fixed && is_file_in(workspace, path))
        })
    }
}

/// Whether there is a regular file at `path`, which no link leads to.
fn is_file_in(workspace: &Path, path: &str) -> bool {
    let Ok(folder) = rustix::fs::openat(CWD, workspace, FOLDER, Mode::empty()) else { return false };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve);
    let stat = file.and_then(|file| rustix::fs::fstat(&file));
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn path(workspaces: &Path, name: &WorkspaceName) -> PathBuf {
    workspaces.join(format!(".{}.json", name.0))
}
