//! What the verbs that act have in common: the conversation with the daemon.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::{Context, screen, show};
use crate::api::client::Client;
use crate::api::{Reloaded, RunView};
use crate::model::id::{BatchName, RunId};
use crate::model::request::{Reply, Request};

/// The daemon, for code that waits for each answer.
pub(super) struct Daemon {
    runtime: Runtime,
    client: Client,
}

impl Daemon {
    /// Connects to the daemon of this state folder.
    pub(super) fn connect(context: &Context) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the system gives no event queue; are too many files open?")?;
        let client = runtime.block_on(Client::connect(&context.paths.state))?;
        Ok(Self { runtime, client })
    }

    /// Asks for an act. A refusal is an error here.
    pub(super) fn act(&mut self, request: &Request) -> Result<Reply> {
        match self.runtime.block_on(self.client.act(request))? {
            Reply::Refused { refusal, what, hint } => Err(Complaint::refusal(refusal, what, hint)),
            reply => Ok(reply),
        }
    }

    /// Has what is on the disk now decided.
    pub(super) fn reload(&mut self) -> Result<Reloaded> {
        Ok(self.runtime.block_on(self.client.reload())?)
    }

    /// Waits for the end of the last attempt that begins with `run`.
    pub(super) fn wait(&mut self, run: &RunId) -> Result<RunView> {
        let end = self.runtime.block_on(self.client.wait(run));
        end.with_context(|| format!("{run} is not followed any more; see how it went with `batchd show {run}`"))
    }
}

/// Asks for an act that makes no run, and shows the answer.
pub(super) fn act(context: &mut Context, json: Json, request: &Request) -> Result<Exit> {
    let reply = Daemon::connect(context)?.act(request)?;
    let out = &mut context.screen;
    match reply {
        reply if json.json => out.json(&reply)?,
        Reply::Done { text } => writeln!(out, "{text}")?,
        Reply::Stopping { runs } if runs.is_empty() => writeln!(out, "there is nothing to stop")?,
        Reply::Stopping { runs } => runs.iter().try_for_each(|run| writeln!(out, "{run} is being stopped"))?,
        Reply::Queued { .. } | Reply::Refused { .. } => bail!("the daemon did something else; look with `batchd runs`"),
    }
    Ok(Exit::Success)
}

/// What came of an act that makes a run, for programs.
#[derive(Debug, Serialize)]
struct Made {
    run: RunId,
    /// It waits because its batch is busy.
    waits: bool,
    follows: Vec<BatchName>,
    does_not_follow: Vec<NotFollowing>,
    /// With `--wait`: its last attempt.
    end: Option<RunView>,
}

#[derive(Debug, Serialize)]
struct NotFollowing {
    batch: BatchName,
    why: String,
}

/// Asks for an act that makes a run, shows what was made, and follows it to its end if that is asked for.
///
/// The id goes to stdout, where a script can take it; what people want to know beside it goes to stderr.
pub(super) fn make_run(context: &mut Context, json: Json, request: &Request, wait: bool) -> Result<Exit> {
    let mut daemon = Daemon::connect(context)?;
    let Reply::Queued { run, waits, follows, does_not_follow } = daemon.act(request)? else {
        bail!("the daemon did something else; look with `batchd runs`");
    };
    let does_not_follow = does_not_follow.into_iter().map(|(batch, why)| NotFollowing { batch, why }).collect();
    let mut made = Made { run, waits, follows, does_not_follow, end: None };
    if !json.json {
        writeln!(context.screen, "{}", made.run)?;
        context.screen.flush()?;
        screen::aside(&prospects(&made))?;
    }
    if wait {
        made.end = Some(daemon.wait(&made.run)?);
    }
    if json.json {
        context.screen.json(&made)?;
    } else if let Some(end) = &made.end {
        screen::aside(&format!("{}\n", show::ending(end)))?;
    }
    Ok(made.end.as_ref().map_or(Exit::Success, Exit::of_run))
}

/// What will happen now, and what will not.
fn prospects(made: &Made) -> String {
    let mut text = String::new();
    if made.waits {
        text.push_str(&format!("it waits: {} is busy\n", made.run.batch));
    }
    if !made.follows.is_empty() {
        let follows: Vec<&str> = made.follows.iter().map(BatchName::as_str).collect();
        text.push_str(&format!("if it succeeds, this follows: {}\n", follows.join(", ")));
    }
    for NotFollowing { batch, why } in &made.does_not_follow {
        text.push_str(&format!("{batch} will not follow: {why}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_said() {
        let name = |text: &str| BatchName::new(text).unwrap();
        let made = |waits, follows: &[&str], not: &[(&str, &str)]| Made {
            run: "load.3".parse().unwrap(),
            waits,
            follows: follows.iter().map(|text| name(text)).collect(),
            does_not_follow: not
                .iter()
                .map(|(batch, why)| NotFollowing { batch: name(batch), why: (*why).to_owned() })
                .collect(),
            end: None,
        };
        assert_eq!(prospects(&made(false, &[], &[])), "");
        let expected = "it waits: load is busy\nif it succeeds, this follows: transform, report\njoin will not follow: its upstream b is not in this chain\n";
        let all = made(true, &["transform", "report"], &[("join", "its upstream b is not in this chain")]);
        assert_eq!(prospects(&all), expected);
    }
}
