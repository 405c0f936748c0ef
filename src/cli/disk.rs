//! The definitions on the disk, checked as a daemon would, without one.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::Context;
use crate::folders::{Folders, Look, Surroundings, still_open, suddenly_empty};
use crate::load::Fitted;
use crate::model::definition::Definition;
use crate::model::diagnostic::Diagnostic;
use crate::model::graph::Graph;
use crate::model::id::BatchName;
use crate::model::text::shown;
use crate::store::env_file::{self, EnvFile};
use crate::store::read::BatchesDir;
use crate::store::trust::Trust;

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
    let (mut around, mut diagnostics) = Surroundings::read(&context.paths.settings, insecure)?;
    let dir = BatchesDir::open(folder)?;
    let parents = dir.check_parents(&around.trust)?;
    // The command for the folder of batches mends all that is in it: there is no need to name each file as well.
    let itself = folder.canonicalize().unwrap_or_default().display().to_string();
    if parents.iter().any(|diagnostic| diagnostic.file == shown(&itself)) {
        around.trust = Trust::insecure();
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
    let look = Look { only: None, in_force: previous, now: context.now, may_be_open: &|_, _| false };
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
    let mut fitted = folders.fit(&around, previous);
    diagnostics.append(&mut fitted.diagnostics);
    Ok(Fitted { diagnostics, ..fitted })
}

/// What is wrong with the `env_file`s of the batches in `graph`. An absolute one that is not there, or that only the daemon
/// may read, is passed over: the definitions may be meant for another host, and may be checked by another user.
pub(super) fn env_files(context: &Context, folder: &Path, graph: &Graph, insecure: bool) -> Result<Vec<Diagnostic>> {
    let (around, _) = Surroundings::read(&context.paths.settings, insecure)?;
    let trusted_owners = around.trusted_owners();
    let batches = std::path::absolute(folder)?;
    let mut diagnostics = Vec::new();
    for (batch, node) in graph.iter() {
        let execution = &node.definition().execution;
        let Some(file) = &execution.env_file else { continue };
        let (user, trusted_owners) = (execution.user.as_deref(), trusted_owners.as_deref());
        let Err(error) = env_file::read(&EnvFile { batches: &batches, batch, file, user, trusted_owners }) else {
            continue;
        };
        let elsewhere =
            file.starts_with('/') && matches!(error.kind, Some(ErrorKind::NotFound | ErrorKind::PermissionDenied));
        if !elsewhere {
            diagnostics.push(error.diagnostic(batch, &batches));
        }
    }
    Ok(diagnostics)
}
