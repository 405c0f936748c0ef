//! The definitions on the disk, checked as a daemon would, without one.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Error, Result, bail};

use super::{Context, facts};
use crate::folders::{Folders, Look, Surroundings, settings_still_open, still_open, suddenly_empty};
use crate::load::Fitted;
use crate::model::definition::Definition;
use crate::model::diagnostic::Diagnostic;
use crate::model::graph::Graph;
use crate::model::id::BatchName;
use crate::model::text::shown;
use crate::store::FileError;
use crate::store::env_file::{self, EnvFile};
use crate::store::read::{BatchesDir, BatchesDirError};
use crate::store::trust::Trust;
use crate::store::users::{is_hidden, own_uid};
use crate::store::writers::Writers;

/// How often folders that change while they are read are read again.
const TRIES: usize = 20;

/// Reads and checks the definitions in `folder`, with those of `previous` as the last good ones. The result has all errors,
/// also those of the settings and of what is no batch.
pub(super) fn fit(
    context: &Context,
    folder: &Path,
    previous: &BTreeMap<BatchName, Arc<Definition>>,
    insecure: bool,
) -> Result<Fitted> {
    let judge = if insecure { Judge::Nobody } else { Judge::of(context, folder) };
    let (mut around, mut diagnostics) = Surroundings::read(&context.paths.settings, judge.daemon_uid())?;
    if let Judge::Unknown(why) = judge {
        let what = format!("{why}, so it was not checked who can write the definitions");
        diagnostics.push(Diagnostic::of_file(None, shown(&folder.display().to_string()), what).as_remark());
    }
    if around.settings_writers == Writers::Some {
        diagnostics.push(settings_still_open(&around.settings.file));
    }
    let dir = BatchesDir::open(folder)?;
    let parents = dir.check_parents(&around.trust)?;
    // The command for the folder of batches mends all that is in it: there is no need to name each file as well.
    let itself = folder.canonicalize().unwrap_or_default().display().to_string();
    if parents.iter().any(|diagnostic| diagnostic.file == shown(&itself)) {
        around.trust = Trust::insecure();
    }
    let by_another = judge.is_another();
    if by_another {
        around.trust = around.trust.asked_by_another();
    }
    diagnostics.extend(parents);
    let listing = dir.list()?;
    if listing.batches.is_empty() && !previous.is_empty() {
        diagnostics.push(suddenly_empty(folder, &listing));
    }
    diagnostics.extend(listing.diagnostics);
    let mut folders = Folders::default();
    let mut tries = 0;
    // Nothing is put in force here: where the kernel doesn't say whether a file has a writer, its content is judged.
    let look = Look { only: None, in_force: previous, now: context.now, may_be_open: &|_, _, _| false };
    let open = loop {
        let looked = folders.look(&around, &dir, &listing.batches, &look);
        if looked.restless.is_empty() {
            break looked.open;
        }
        tries += 1;
        if tries == TRIES {
            bail!("{} changes while it is read; try again", folder.display());
        }
    };
    for (batch, file) in open {
        folders.complain(&batch, still_open(folder, &batch, &file));
    }
    let known = if by_another { with_unread(context, &folders, previous) } else { previous.clone() };
    let mut fitted = folders.fit(&around, &known);
    diagnostics.append(&mut fitted.diagnostics);
    Ok(Fitted { diagnostics, ..fitted })
}

/// What is wrong with the `env_file`s of the batches in `graph`. An absolute one that is not there, or that only the daemon
/// may read, is passed over: the definitions may be meant for another host, and may be checked by another user.
pub(super) fn env_files(context: &Context, folder: &Path, graph: &Graph, insecure: bool) -> Result<Vec<Diagnostic>> {
    let judge = if insecure { Judge::Nobody } else { Judge::of(context, folder) };
    let (around, _) = Surroundings::read(&context.paths.settings, judge.daemon_uid())?;
    let daemon_uid = judge.daemon_uid().unwrap_or_else(own_uid);
    let trusted_owners = around.trusted_owners();
    let batches = std::path::absolute(folder)?;
    let mut diagnostics = Vec::new();
    for (batch, node) in graph.iter() {
        let execution = &node.definition().execution;
        let Some(file) = &execution.env_file else { continue };
        let (user, trusted_owners) = (execution.user.as_deref(), trusted_owners.as_deref());
        let Err(error) =
            env_file::read(&EnvFile { batches: &batches, batch, file, daemon_uid, user, now: None, trusted_owners })
        else {
            continue;
        };
        let is_unreadable = error.kind == Some(ErrorKind::PermissionDenied);
        let is_elsewhere = file.starts_with('/') && (is_unreadable || error.kind == Some(ErrorKind::NotFound));
        let is_unknown = is_elsewhere || (is_unreadable && judge.is_another());
        if !is_unknown {
            diagnostics.extend(error.diagnostics(batch, &batches));
        }
    }
    Ok(diagnostics)
}

/// Whose trust counts: that of the daemon, whoever asks.
#[derive(Clone, Copy)]
enum Judge {
    /// Everybody's files are believed: `--insecure-permissions`.
    Nobody,
    /// This user: the daemon's, or its future one.
    User(u32),
    /// The daemon's user, or the owners of files, can't be known: why.
    Unknown(&'static str),
}

impl Judge {
    /// Of the definitions in `folder`. The journal belongs to the daemon's user. Before a daemon has run, and for a folder
    /// that is not the daemon's, whoever asks is taken for its future user.
    fn of(context: &Context, folder: &Path) -> Self {
        const HIDDEN: &str = "this user namespace hides the owners of files";
        let place = |path: &Path| path.canonicalize().ok();
        let is_the_daemons = place(folder) == place(&context.paths.batches);
        let owner = is_the_daemons.then(|| std::fs::metadata(context.paths.journal()));
        let uid = match owner {
            None => own_uid(),
            Some(Ok(journal)) => journal.uid(),
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => own_uid(),
            Some(Err(_)) => return Self::Unknown("the daemon's user can't be found out"),
        };
        let root = std::fs::metadata("/").map_or(0, |root| root.uid());
        if is_hidden(uid) || is_hidden(root) { Self::Unknown(HIDDEN) } else { Self::User(uid) }
    }

    fn daemon_uid(self) -> Option<u32> {
        match self {
            Self::User(uid) => Some(uid),
            Self::Nobody | Self::Unknown(_) => None,
        }
    }

    /// Whether whoever asks is, or may be, another user than the daemon's.
    fn is_another(self) -> bool {
        match self {
            Self::Nobody => false,
            Self::User(uid) => uid != own_uid(),
            Self::Unknown(_) => true,
        }
    }
}

/// `previous`, and of the batches that this user can't read what the journal says is in force: what other batches say of
/// them is judged by that.
fn with_unread(
    context: &Context,
    folders: &Folders,
    previous: &BTreeMap<BatchName, Arc<Definition>>,
) -> BTreeMap<BatchName, Arc<Definition>> {
    let mut known = previous.clone();
    let Ok(Some(journal)) = facts::open_journal(context) else { return known };
    for name in folders.unread() {
        let in_force = journal.in_force(name).ok().flatten().and_then(|in_force| in_force.definition);
        known.extend(in_force.map(|definition| (name.clone(), definition)));
    }
    known
}

/// Why the definitions can't be checked: an error, unless only whoever asks can't read them.
pub(super) fn complaint(context: &Context, error: &Error) -> Diagnostic {
    let batches = &context.paths.batches;
    let of_folder = error.downcast_ref().map(|error| match error {
        BatchesDirError::Io(error) => Some(error),
        BatchesDirError::Missing(_) | BatchesDirError::NotAFolder(_) => None,
    });
    let of_file: Option<&FileError> = of_folder.unwrap_or_else(|| error.downcast_ref());
    let denied = of_file.filter(|error| error.source.kind() == ErrorKind::PermissionDenied).map(|error| &error.path);
    match denied.filter(|_| Judge::of(context, batches).is_another()) {
        Some(path) => {
            let what = "this is not readable for you, so the definitions were not checked";
            Diagnostic::of_file(None, shown(&path.display().to_string()), what).as_remark()
        }
        None => Diagnostic::of_file(None, shown(&batches.display().to_string()), format!("{error:#}")),
    }
}
