//! What earlier versions have left in the state folder, made what this version would have made of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::definitions::{self, definition_path};
use super::{FileError, cannot, workspace};
use crate::model::id::{BatchName, DefinitionHash};

/// The file in `state/` that says that nothing of an earlier version is left to be made private.
const MARK: &str = "made-private";
/// Nobody else has any business with it.
const MARK_MODE: u32 = 0o600;

/// What was changed, and what could not be.
#[derive(Debug, Default)]
pub struct Upgraded {
    /// Workspaces that others could look into.
    pub closed: usize,
    /// Copies of an `env_file`, in stored definitions and workspaces.
    pub env_files_removed: usize,
    /// Workspaces of batches that run: they keep their copies until the next deployment, or the next upgrade.
    pub left: usize,
    /// What failed. All else was done nevertheless.
    pub problems: Vec<FileError>,
}

/// Lets nobody but their users into workspaces, and removes the copies of `env_file`s that earlier versions kept. None if
/// this version has done all of it before, as its mark says: what failed, or was left, is tried again at the next start.
///
/// `index` is the file of a definition that says, through `env_file_of`, where its `env_file` is. Workspaces of `busy`
/// batches are left, since a run may be reading the file.
pub fn upgrade(
    state: &Path,
    busy: &BTreeSet<BatchName>,
    index: &str,
    env_file_of: &dyn Fn(&[u8]) -> Option<String>,
) -> Option<Upgraded> {
    let mark = state.join(MARK);
    if mark.exists() {
        return None;
    }
    let mut upgraded = Upgraded::default();
    workspace::close_all(state, &mut upgraded);
    let known: RefCell<BTreeMap<DefinitionHash, Option<String>>> = RefCell::default();
    let unwanted = |hash: DefinitionHash| {
        let read = || fs::read(definition_path(state, hash).join(index)).ok().and_then(|bytes| env_file_of(&bytes));
        known.borrow_mut().entry(hash).or_insert_with(read).clone()
    };
    workspace::remove_from_all(state, busy, &unwanted, &mut upgraded);
    definitions::remove_from_all(state, index, env_file_of, &mut upgraded);
    if upgraded.left == 0 && upgraded.problems.is_empty() {
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(MARK_MODE).open(&mark);
        upgraded.problems.extend(made.map_err(cannot("write", &mark)).err());
    }
    Some(upgraded)
}

impl Upgraded {
    /// Takes what a step gave; an error is remembered.
    pub(super) fn take<T>(&mut self, result: Result<T, FileError>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }
}
