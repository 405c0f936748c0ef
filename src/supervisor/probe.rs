//! Gathers what [`super::classify`] asks for from a run folder, and keeps what was read on the way.

use std::io;
use std::path::Path;

use super::classify::{Claimed, Facts, Folder, Found, Row};
use crate::model::id::Token;
use crate::rundir::records::{Claim, Damage, Ending, ExitRecord, Record, Started};
use crate::rundir::{Lock, Owner, RunDir, STDERR, STDOUT};
use crate::shim::tree;

/// What is known of a run without looking at its folder.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) row: Row,
    pub(super) same_boot: bool,
    pub(super) boot: &'a str,
}

/// A run folder as it was found.
pub(super) struct Probed {
    pub(super) facts: Facts,
    pub(super) run: Option<RunDir>,
    pub(super) claim: Option<Claim>,
    pub(super) started: Option<Started>,
    pub(super) exit: Option<ExitRecord>,
    /// What is damaged, in words.
    pub(super) damage: Option<String>,
}

/// Looks at the folder `path` of the run with `token`; `lock` is its lock, if the caller holds it. An error is the
/// system's (no descriptor left), not the folder's.
pub(super) fn probe(path: &Path, token: &Token, known: Known<'_>, lock: Option<&Lock>) -> io::Result<Probed> {
    let Known { row, same_boot, boot } = known;
    let nothing = Facts {
        row,
        same_boot,
        folder: Folder::Missing,
        exit: Found::Absent,
        logs_match: false,
        locked: false,
        claim: Claimed::No,
        started: Found::Absent,
    };
    let mut probed = Probed { facts: nothing, run: None, claim: None, started: None, exit: None, damage: None };
    let run = match RunDir::open(path) {
        Ok(run) => run,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(probed),
        // If it is not there either, the way to it is what is wrong.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) && path.symlink_metadata().is_ok() =>
        {
            probed.facts.folder = Folder::Foreign;
            probed.damage = Some("something that is not a folder has its name".to_owned());
            return Ok(probed);
        }
        Err(error) => return Err(error),
    };
    if run.owner(token)? == Owner::Foreign {
        probed.facts.folder = Folder::Foreign;
        probed.damage = Some("the folder belongs to another run or another journal".to_owned());
        return Ok(probed);
    }
    probed.facts.folder = Folder::Ours;
    // The lock first: a shim that lets go of it behind this look has written all that it ever will before it.
    probed.facts.locked = lock.is_none() && run.is_locked()?;
    probed.read(&run, token, boot)?;
    probed.run = Some(run);
    Ok(probed)
}

impl Probed {
    fn read(&mut self, run: &RunDir, token: &Token, boot: &str) -> io::Result<()> {
        self.claim = self.record(run, token)?.1;
        self.facts.claim = match &self.claim {
            None => Claimed::No,
            Some(Claim { shim: None, .. }) => Claimed::ByStop,
            Some(Claim { shim: Some(shim), .. }) if tree::open(shim, boot).is_some() => Claimed::ByLiving,
            Some(Claim { shim: Some(_), .. }) => Claimed::ByDead,
        };
        (self.facts.started, self.started) = self.record(run, token)?;
        (self.facts.exit, self.exit) = self.record(run, token)?;
        if let Some(ExitRecord { end: Ending::Exited { exit, .. }, .. }) = &self.exit {
            let lengths = [(STDOUT, exit.stdout_bytes), (STDERR, exit.stderr_bytes)];
            self.facts.logs_match = lengths.iter().all(|(name, length)| run.length(name) == Some(*length));
        } else {
            self.facts.logs_match = true;
        }
        Ok(())
    }

    fn record<R: Record>(&mut self, run: &RunDir, token: &Token) -> io::Result<(Found, Option<R>)> {
        match run.read::<R>(token) {
            Ok(None) => Ok((Found::Absent, None)),
            Ok(Some(record)) => Ok((Found::Valid, Some(record))),
            Err(Damage::Unreadable { error, .. }) => Err(error),
            Err(damage @ (Damage::Content { .. } | Damage::Version { .. } | Damage::Token { .. })) => {
                self.damage = Some(damage.to_string());
                Ok((Found::Damaged, None))
            }
        }
    }
}
