//! Each act of the scheduler to the edge that carries it out.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tracing::error;

use super::Daemon;
use crate::clock;
use crate::model::definition::Definition;
use crate::model::id::{DefinitionHash, Token};
use crate::model::launch::{Alert, Launch, Report, UpstreamEnd};
use crate::model::run::{Input, Outcome, Run};
use crate::model::time::Instant;
use crate::rundir::crash::{CrashPoint, crash_point};
use crate::scheduler::{Effect, Event};
use crate::store::definitions;
use crate::supervisor::Place as _;

/// The stored definitions, and which of them have been checked against their hash.
pub(super) struct Definitions {
    state: PathBuf,
    verified: BTreeSet<DefinitionHash>,
}

impl Definitions {
    pub(super) fn new(state: PathBuf) -> Self {
        Self { state, verified: BTreeSet::new() }
    }

    /// Checks a definition against its hash at its first use by this daemon (design 3.4); what is wrong with it.
    fn verify(&mut self, hash: DefinitionHash) -> Result<(), String> {
        if !self.verified.contains(&hash) {
            definitions::verify(&self.state, hash).map_err(|error| error.to_string())?;
            self.verified.insert(hash);
        }
        Ok(())
    }
}

impl Daemon {
    /// Carries out one act. Its records are committed.
    pub(super) fn carry_out_act(&mut self, act: Effect) -> Result<()> {
        match act {
            Effect::Record(_) => {}
            Effect::Start { .. } if self.starts_nothing => {}
            Effect::Start { run, definition } => self.start(*run, definition)?,
            Effect::Stop { run } => self.place.stop(run),
            Effect::Settle { run } => self.place.collect(run),
            Effect::Reply { id, reply } => {
                if let Some(waiting) = self.replies.remove(&id) {
                    // Who asked may be gone.
                    let _ = waiting.send(reply);
                }
            }
            Effect::ReadAhead { after } => self.pending.push(Event::DecidedAhead(self.reader.decided_after(after)?)),
        }
        Ok(())
    }

    fn start(&mut self, run: Run, definition: Arc<Definition>) -> Result<()> {
        if let Err(reason) = self.definitions.verify(definition.hash) {
            error!(run = %run.id, "{reason}");
            let report = Report::CouldNotRun { at: clock::now(), reason };
            self.pending.push(Event::Report { run: run.id, report });
            return Ok(());
        }
        let launch = self.launch(run, Some(definition))?;
        self.place.launch(launch);
        Ok(())
    }

    /// All that it takes to launch a run, or to find one.
    pub(super) fn launch(&self, run: Run, definition: Option<Arc<Definition>>) -> Result<Launch> {
        let upstreams: Vec<UpstreamEnd> = run
            .upstreams
            .iter()
            .map(|id| self.reader.upstream_end(id))
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        let given_input = match &run.given.input {
            Some(Input::Run(id)) => self.reader.upstream_end(id)?,
            Some(Input::File(_) | Input::Stored(_)) | None => None,
        };
        let token = Token { journal: self.journal.clone(), run: run.id.clone(), queued_at: run.queued_at };
        let due_at_local = self.local(definition.as_deref(), run.due_at);
        let alert = self.alert(definition.as_deref(), upstreams.first())?;
        Ok(Launch { token, run, definition, due_at_local, upstreams, given_input, alert })
    }

    /// How the batch of an upstream that failed has been doing, for a run of `definition`.
    fn alert(&self, definition: Option<&Definition>, upstream: Option<&UpstreamEnd>) -> Result<Option<Alert>> {
        let is_failure =
            |end: &&UpstreamEnd| matches!(end.outcome, Outcome::Failed | Outcome::TimedOut | Outcome::Lost);
        let Some(failed) = upstream.filter(is_failure) else { return Ok(None) };
        let streak = self.reader.streak(&failed.run)?;
        let last_success_at = streak.last_success.map(|at| self.local(definition, at));
        Ok(Some(Alert { failures_in_a_row: streak.failures, last_success_at }))
    }

    /// An instant in a batch's zone, the system's if it names none or is not known.
    fn local(&self, definition: Option<&Definition>, instant: Instant) -> String {
        let named =
            definition.and_then(|definition| definition.timezone.as_ref()).and_then(|name| self.zones.get(name).ok());
        named.unwrap_or_else(|| self.zones.system().zone.clone()).local(instant)
    }
}

/// Named instants around a commit (see [`crate::rundir::crash`]): before it.
pub(super) fn crash_points_before(acts: &[Effect]) {
    if acts.iter().any(|act| matches!(act, Effect::Start { .. })) {
        crash_point(CrashPoint::DaemonBeforeStartingCommitted);
    }
}

/// As [`crash_points_before`]: behind it.
pub(super) fn crash_points_after(acts: &[Effect]) {
    if acts.iter().any(|act| matches!(act, Effect::Start { .. })) {
        crash_point(CrashPoint::DaemonStartingCommitted);
    }
    if acts.iter().any(|act| matches!(act, Effect::Settle { .. })) {
        crash_point(CrashPoint::DaemonEndCommitted);
    }
}
