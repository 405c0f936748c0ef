//! What earlier versions have left in the state folder, made what this version would have made of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::definitions::{self, definition_path};
use super::{FileError, modes, workspace};
use crate::model::id::{BatchName, DefinitionHash};

/// What was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upgraded {
    /// Workspaces that others could look into.
    pub closed: usize,
    /// Copies of an `env_file`, in stored definitions and workspaces.
    pub env_files_removed: usize,
}

/// Lets nobody but their users into workspaces, and removes the copies of `env_file`s that earlier versions kept. None if
/// this version has done it before: it then has noted modes, and the folder for them is made last.
///
/// `index` is the file of a definition that says, through `env_file_of`, where its `env_file` is. Workspaces of `busy`
/// batches keep theirs until the next deployment, since a run may be reading it.
pub fn upgrade(
    state: &Path,
    busy: &BTreeSet<BatchName>,
    index: &str,
    env_file_of: &dyn Fn(&[u8]) -> Option<String>,
) -> Result<Option<Upgraded>, FileError> {
    if modes::any(state) {
        return Ok(None);
    }
    let closed = workspace::close_all(state)?;
    let known: RefCell<BTreeMap<DefinitionHash, Option<String>>> = RefCell::default();
    let unwanted = |hash: DefinitionHash| {
        let read = || fs::read(definition_path(state, hash).join(index)).ok().and_then(|bytes| env_file_of(&bytes));
        known.borrow_mut().entry(hash).or_insert_with(read).clone()
    };
    let mut env_files_removed = workspace::remove_from_all(state, busy, &unwanted)?;
    env_files_removed += definitions::remove_from_all(state, index, env_file_of)?;
    modes::make_folder(state)?;
    Ok(Some(Upgraded { closed, env_files_removed }))
}
