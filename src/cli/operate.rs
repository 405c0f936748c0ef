//! What the verbs that act have in common: the conversation with the daemon.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::{Context, facts, moment, screen, show, who};
use crate::api::client::{Client, ClientError};
use crate::api::{Reloaded, RunView};
use crate::checkup;
use crate::model::id::{BatchName, RunId};
use crate::model::record::Disabled;
use crate::model::request::{Prospects, Refusal, Reply, Request};
use crate::model::time::Instant;
use crate::model::zone::Zone;

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
        match runtime.block_on(Client::connect(&context.paths.state)) {
            Ok(client) => Ok(Self { runtime, client }),
            Err(ClientError::NoDaemon { state }) if checkup::daemon_lives(&state) => Err(Complaint::failure(
                format!("a daemon lives on {}, and its socket is not there", state.display()),
                "if it has just been started, try again; else somebody removed the socket: restart the daemon, scripts go on",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for an act. A refusal is an error here; of a name that is not known, the nearest is told.
    pub(super) fn act(&mut self, context: &Context, request: &Request) -> Result<Reply> {
        match self.runtime.block_on(self.client.act(request))? {
            Reply::Refused { refusal: refusal @ Refusal::Unknown, what, hint } => {
                Err(facts::unknown(context, request).unwrap_or_else(|| Complaint::refusal(refusal, what, hint)))
            }
            Reply::Refused { refusal, what, hint } => Err(Complaint::refusal(refusal, who::named(&what), hint)),
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
    let reply = Daemon::connect(context)?.act(context, request)?;
    let (now, zone) = (context.now, context.zones.system().zone.clone());
    let out = &mut context.screen;
    match reply {
        reply if json.json => out.json(&reply)?,
        Reply::Disabled { batch, disabled, goes_on, .. } => {
            writeln!(out, "{}", disabling(&batch, &disabled, &goes_on, &zone))?
        }
        Reply::Enabled { batch, enabled, was_disabled } => {
            writeln!(out, "{}", enabling(&batch, enabled, was_disabled.as_ref(), now))?;
        }
        Reply::Stopping { runs } if runs.is_empty() => writeln!(out, "there is nothing to stop")?,
        Reply::Stopping { runs } => runs.iter().try_for_each(|run| writeln!(out, "{run} is being stopped"))?,
        Reply::Queued { .. } | Reply::Skipped { .. } | Reply::Refused { .. } => {
            bail!("the daemon did something else; look with `batchd runs`")
        }
    }
    Ok(Exit::Success)
}

/// What a `disable` has done.
fn disabling(batch: &BatchName, disabled: &Disabled, goes_on: &[RunId], zone: &Zone) -> String {
    let until = disabled.until.map_or(String::new(), |until| format!(" until {}", moment::full(until, zone)));
    let goes_on = match goes_on {
        [] => String::new(),
        [run] => format!("; {run} goes on: `batchd stop {run}` ends it"),
        runs => format!("; {} go on: `batchd stop RUN` ends one", list(runs)),
    };
    format!("{batch} is disabled{until}{goes_on}")
}

/// What an `enable` has done, and what it can't do.
fn enabling(batch: &BatchName, enabled: bool, was_disabled: Option<&Disabled>, now: Instant) -> String {
    if !enabled {
        return format!("{batch} is still disabled: take the line `enabled = false` out of {batch}/batch.toml");
    }
    match was_disabled.filter(|disabled| disabled.holds_at(now)) {
        Some(_) => format!("{batch} is enabled; what fell due meanwhile stays skipped"),
        None => format!("{batch} was enabled already"),
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// What came of an act that makes a run, for programs.
#[derive(Debug, Serialize)]
struct Made {
    run: RunId,
    /// It waits because its batch is busy.
    waits: bool,
    follows: Vec<BatchName>,
    follows_once: Vec<FollowingOnce>,
    does_not_follow: Vec<NotFollowing>,
    /// Why it was skipped at once, if it was.
    skipped: Option<String>,
    /// With `--wait`: its last attempt.
    end: Option<RunView>,
}

/// It follows once the others have ended anew, too.
#[derive(Debug, Serialize)]
struct FollowingOnce {
    batch: BatchName,
    ended: Vec<BatchName>,
}

#[derive(Debug, Serialize)]
struct NotFollowing {
    batch: BatchName,
    why: String,
}

impl Made {
    fn of(reply: Reply) -> Result<Self> {
        match reply {
            Reply::Queued { run, waits, prospects } => Ok(Self::new(run, waits, prospects)),
            Reply::Skipped { run, reason } => {
                Ok(Self { skipped: Some(reason), ..Self::new(run, false, Prospects::default()) })
            }
            Reply::Stopping { .. } | Reply::Disabled { .. } | Reply::Enabled { .. } | Reply::Refused { .. } => {
                bail!("the daemon did something else; look with `batchd runs`")
            }
        }
    }

    fn new(run: RunId, waits: bool, prospects: Prospects) -> Self {
        let once = |(batch, ended)| FollowingOnce { batch, ended };
        let not = |(batch, why)| NotFollowing { batch, why };
        Self {
            run,
            waits,
            follows: prospects.follows,
            follows_once: prospects.follows_once.into_iter().map(once).collect(),
            does_not_follow: prospects.does_not_follow.into_iter().map(not).collect(),
            skipped: None,
            end: None,
        }
    }
}

/// Asks for an act that makes a run, shows what was made, and follows it to its end if that is asked for.
///
/// The id goes to stdout, where a script can take it; what people want to know beside it goes to stderr.
pub(super) fn make_run(context: &mut Context, json: Json, request: &Request, wait: bool) -> Result<Exit> {
    let mut daemon = Daemon::connect(context)?;
    let mut made = Made::of(daemon.act(context, request)?)?;
    if !json.json {
        writeln!(context.screen, "{}", made.run)?;
        context.screen.flush()?;
        screen::aside(&what_comes_of(&made))?;
    }
    if wait {
        made.end = Some(daemon.wait(&made.run)?);
    }
    if json.json {
        context.screen.json(&made)?;
    } else if let Some(end) = &made.end {
        screen::aside(&format!("{}\n", show::ending(end)))?;
    }
    let at_once = if made.skipped.is_some() { Exit::Failure } else { Exit::Success };
    Ok(made.end.as_ref().map_or(at_once, Exit::of_run))
}

/// What will happen now, and what will not.
fn what_comes_of(made: &Made) -> String {
    let mut text = String::new();
    if let Some(reason) = &made.skipped {
        text.push_str(&format!("it was skipped: {reason}\n"));
    }
    if made.waits {
        text.push_str(&format!("it waits: {} is busy\n", made.run.batch));
    }
    if !made.follows.is_empty() {
        text.push_str(&format!("if it succeeds, this follows: {}\n", list(&made.follows)));
    }
    for FollowingOnce { batch, ended } in &made.follows_once {
        text.push_str(&format!("{batch} follows once there is a new end of {}, too\n", list(ended)));
    }
    for NotFollowing { batch, why } in &made.does_not_follow {
        text.push_str(&format!("{batch} will not follow: {}\n", who::named(why)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_said() {
        let name = |text: &str| BatchName::new(text).unwrap();
        let made = |waits, prospects| Made::new("load.3".parse().unwrap(), waits, prospects);
        assert_eq!(what_comes_of(&made(false, Prospects::default())), "");
        let expected = "\
it waits: load is busy
if it succeeds, this follows: transform, report
sums follows once there is a new end of b, c, too
join will not follow: its upstream b is not in this chain
";
        let all = Prospects {
            follows: vec![name("transform"), name("report")],
            follows_once: vec![(name("sums"), vec![name("b"), name("c")])],
            does_not_follow: vec![(name("join"), "its upstream b is not in this chain".to_owned())],
        };
        assert_eq!(what_comes_of(&made(true, all)), expected);
    }

    #[test]
    fn what_a_switch_has_done_is_said() {
        let batch = BatchName::new("load").unwrap();
        let runs: Vec<RunId> = ["load.3", "load.4"].iter().map(|text| text.parse().unwrap()).collect();
        let until = |until| Disabled { until, reason: None, by: "uid 0".to_owned(), at: Instant::from_s(0) };
        let hour = Instant::from_s(3600);
        let check = |until_at, runs: &[RunId], expected: &str| {
            assert_eq!(disabling(&batch, &until(until_at), runs, &Zone::utc()), expected);
        };
        check(None, &[], "load is disabled");
        check(
            Some(hour),
            &runs[..1],
            "load is disabled until Thu 1970-01-01 01:00:00 +00:00; load.3 goes on: `batchd stop load.3` ends it",
        );
        check(None, &runs, "load is disabled; load.3, load.4 go on: `batchd stop RUN` ends one");
        let check = |enabled, was: Option<Disabled>, expected: &str| {
            let text = enabling(&batch, enabled, was.as_ref(), hour);
            assert!(text.contains(expected), "{text}");
        };
        check(true, Some(until(None)), "is enabled; what fell due");
        check(true, Some(until(Some(hour))), "was enabled already");
        check(true, None, "was enabled already");
        check(false, Some(until(None)), "out of load/batch.toml");
    }
}
