//! What the commands that act have in common: requests to the daemon and the answers.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::args::Json;
use super::exit::{Complaint, Exit};
use super::wait::{self, Manner};
use super::{Context, facts, moment, screen, who};
use crate::api::client::{Client, ClientError};
use crate::api::{Reloaded, RunView};
use crate::checkup;
use crate::model::id::{BatchName, RunId};
use crate::model::input::InputId;
use crate::model::record::Disabled;
use crate::model::request::{Prospects, Refusal, Reply, Request, RerunMode};
use crate::model::text::shell_word;
use crate::model::time::Instant;
use crate::model::zone::Zone;
use crate::paths::Paths;
use crate::store::users;

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
            .context("can't create an event queue; too many open files?")?;
        match runtime.block_on(Client::connect(&context.paths.state)) {
            Ok(client) => Ok(Self { runtime, client }),
            Err(ClientError::NoDaemon { state }) if checkup::daemon_lives(&state) => Err(Complaint::failure(
                format!("the daemon on {} is running, but its socket is missing", state.display()),
                "try again if the daemon is just starting; if the socket was removed, restart the daemon (runs continue)",
            )),
            Err(error @ ClientError::NotAllowed { .. }) => {
                let hint = as_daemon_user(&context.paths, std::env::args().skip(1));
                Err(Complaint::failure(error.to_string(), hint.unwrap_or_default()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request. A refusal is an error here; for an unknown name it proposes the nearest one.
    pub(super) fn act(&mut self, context: &Context, request: &Request) -> Result<Reply> {
        match self.runtime.block_on(self.client.act(request))? {
            Reply::Refused { refusal: refusal @ Refusal::Unknown, what, hint } => {
                Err(facts::unknown(context, request).unwrap_or_else(|| Complaint::refusal(refusal, what, hint)))
            }
            Reply::Refused { refusal, what, hint } => Err(Complaint::refusal(refusal, who::named(&what), hint)),
            reply => Ok(reply),
        }
    }

    /// Sends an input for a start that follows.
    pub(super) fn store_input(&mut self, input: Vec<u8>) -> Result<InputId> {
        Ok(self.runtime.block_on(self.client.store_input(input))?)
    }

    /// Reloads the definitions.
    pub(super) fn reload(&mut self) -> Result<Reloaded> {
        Ok(self.runtime.block_on(self.client.reload())?)
    }

    /// Waits for the end of the last attempt that begins with `run`; meanwhile calls `look` from time to time.
    pub(super) fn wait(&mut self, run: &RunId, mut look: impl FnMut()) -> Result<RunView> {
        let end = self.runtime.block_on(async {
            let end = self.client.wait(run);
            tokio::pin!(end);
            loop {
                tokio::select! {
                    end = &mut end => return end,
                    () = tokio::time::sleep(wait::LOOK_INTERVAL) => look(),
                }
            }
        });
        end.with_context(|| format!("can't wait for {run} any longer; see how it went with `batchd show {run}`"))
    }
}

/// The same command as the user who owns the state folder; none if nobody knows who that is. sudo drops the environment, so
/// the command names the state.
fn as_daemon_user(paths: &Paths, words: impl Iterator<Item = String>) -> Option<String> {
    let user = users::user_name(paths.state.metadata().ok()?.uid()).ok()??;
    let words: Vec<String> = words.map(|word| shell_word(&word)).collect();
    let names_state = words.iter().any(|word| word == "--state" || word.starts_with("--state="));
    let state =
        if names_state { String::new() } else { format!("--state {} ", shell_word(&paths.state.to_string_lossy())) };
    Some(format!("`sudo -u {} batchd {state}{}`", shell_word(&user), words.join(" ")))
}

/// Asks for an act that makes no run, and shows the answer.
pub(super) fn act(context: &mut Context, json: Json, request: &Request) -> Result<Exit> {
    let reply = Daemon::connect(context)?.act(context, request)?;
    let (now, zone) = (context.now, context.zones.system().zone.clone());
    let out = &mut context.screen;
    match reply {
        reply if json.json => out.json(&reply)?,
        Reply::Disabled { batch, disabled, replaces, goes_on } => {
            writeln!(out, "{}", disabling(&batch, &disabled, replaces.as_deref(), &goes_on, &zone))?
        }
        Reply::Enabled { batch, enabled, was_disabled } => {
            writeln!(out, "{}", enabling(&batch, enabled, was_disabled.as_ref(), now))?;
        }
        Reply::Stopping { runs } if runs.is_empty() => writeln!(out, "no run is active")?,
        Reply::Stopping { runs } => runs.iter().try_for_each(|run| writeln!(out, "stopping {run}"))?,
        Reply::Queued { .. } | Reply::Skipped { .. } | Reply::Refused { .. } => {
            bail!("unexpected answer of the daemon; look at `batchd runs`")
        }
    }
    Ok(Exit::Success)
}

/// What a `disable` has done.
fn disabling(
    batch: &BatchName,
    disabled: &Disabled,
    replaces: Option<&Disabled>,
    goes_on: &[RunId],
    zone: &Zone,
) -> String {
    let until = disabled.until.map(|until| format!(" until {}", moment::full(until, zone))).unwrap_or_default();
    let mut text = format!("{batch} is disabled{until}");
    if let Some(old) = replaces {
        let until = old.until.map_or("it is enabled".to_owned(), |until| moment::full(until, zone));
        let reason = old.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let (by, since) = (who::named(&old.by), moment::full(old.at, zone));
        text += &format!("\nthis replaces an earlier disable by {by} (since {since}, until {until}){reason}");
    }
    match goes_on {
        [] => {}
        [run] => text += &format!("\n{run} continues; to stop it: `batchd stop {run}`"),
        runs => text += &format!("\n{} continue; to stop one: `batchd stop {}`", list(runs), runs[0]),
    }
    text
}

/// What an `enable` has done, and what it can't do.
fn enabling(batch: &BatchName, enabled: bool, was_disabled: Option<&Disabled>, now: Instant) -> String {
    if !enabled {
        return format!("{batch} is still disabled; remove the line `enabled = false` from {batch}/batch.toml");
    }
    match was_disabled.filter(|disabled| disabled.holds_at(now)) {
        Some(_) => format!("{batch} is enabled; starts that were skipped meanwhile are not caught up"),
        None => format!("{batch} is enabled already"),
    }
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// A run that was made, for programs.
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

/// A batch that follows once the others have ended again.
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
                bail!("unexpected answer of the daemon; look at `batchd runs`")
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

/// What is done with a run that was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Then {
    /// Wait for its end.
    pub(super) wait: bool,
    /// Print its log, too.
    pub(super) follow: bool,
    pub(super) json: Json,
}

/// Sends a request that makes a run, shows the run, and waits for its end if that is asked for.
///
/// The id goes to stdout, where a script can take it, unless the log does; everything else goes to stderr.
pub(super) fn make_run(context: &mut Context, mut daemon: Daemon, request: &Request, then: Then) -> Result<Exit> {
    let mut made = Made::of(daemon.act(context, request)?)?;
    let manner = match (then.json.json, then.follow) {
        (true, _) => Manner::Quietly,
        (false, true) => Manner::Follow,
        (false, false) => Manner::Tell,
    };
    let is_mark = matches!(request, Request::Rerun { mode: RerunMode::MarkSucceeded, .. });
    match manner {
        Manner::Quietly => {}
        Manner::Follow => screen::aside(&format!("{}\n{}", made.run, what_comes_of(&made, is_mark)))?,
        Manner::Tell => {
            writeln!(context.screen, "{}", made.run)?;
            context.screen.flush()?;
            screen::aside(&what_comes_of(&made, is_mark))?;
        }
    }
    if then.wait || then.follow {
        made.end = Some(wait::for_end(&mut daemon, &made.run, manner, context)?);
    }
    if then.json.json {
        context.screen.json(&made)?;
    }
    let at_once = if made.skipped.is_some() { Exit::Failure } else { Exit::Success };
    Ok(made.end.as_ref().map_or(at_once, Exit::of_run))
}

/// What will happen now, and what will not. `is_mark`: the run has succeeded already.
fn what_comes_of(made: &Made, is_mark: bool) -> String {
    let mut text = String::new();
    if let Some(reason) = &made.skipped {
        text.push_str(&format!("{} was skipped: {reason}\n", made.run));
    }
    if made.waits {
        text.push_str(&format!("{} waits, because {} is busy\n", made.run, made.run.batch));
    }
    if !made.follows.is_empty() && is_mark {
        text.push_str(&format!("will follow: {}\n", list(&made.follows)));
    } else if !made.follows.is_empty() {
        text.push_str(&format!("will follow if {} succeeds: {}\n", made.run, list(&made.follows)));
    }
    for FollowingOnce { batch, ended } in &made.follows_once {
        text.push_str(&format!("{batch} will follow after the next end of {}\n", list(ended)));
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
        assert_eq!(what_comes_of(&made(false, Prospects::default()), false), "");
        let expected = "\
load.3 waits, because load is busy
will follow if load.3 succeeds: transform, report
sums will follow after the next end of b, c
join will not follow: its upstream b is not in this chain
";
        let all = Prospects {
            follows: vec![name("transform"), name("report")],
            follows_once: vec![(name("sums"), vec![name("b"), name("c")])],
            does_not_follow: vec![(name("join"), "its upstream b is not in this chain".to_owned())],
        };
        assert_eq!(what_comes_of(&made(true, all.clone()), false), expected);
        assert!(what_comes_of(&made(false, all), true).starts_with("will follow: transform, report\n"));
    }

    #[test]
    fn what_a_switch_has_done_is_said() {
        let batch = BatchName::new("load").unwrap();
        let runs: Vec<RunId> = ["load.3", "load.4"].iter().map(|text| text.parse().unwrap()).collect();
        let until = |until| Disabled { until, reason: None, by: "uid 0".to_owned(), at: Instant::from_s(0) };
        let hour = Instant::from_s(3600);
        let check = |until_at, runs: &[RunId], expected: &str| {
            assert_eq!(disabling(&batch, &until(until_at), None, runs, &Zone::utc()), expected);
        };
        check(None, &[], "load is disabled");
        let old = Disabled { reason: Some("moving".to_owned()), by: "uid 4294967294".to_owned(), ..until(Some(hour)) };
        assert_eq!(
            disabling(&batch, &until(None), Some(&old), &[], &Zone::utc()),
            "load is disabled\nthis replaces an earlier disable by uid 4294967294 (since Thu 1970-01-01 00:00:00 +00:00, until Thu 1970-01-01 01:00:00 +00:00): moving"
        );
        check(
            Some(hour),
            &runs[..1],
            "load is disabled until Thu 1970-01-01 01:00:00 +00:00\nload.3 continues; to stop it: `batchd stop load.3`",
        );
        check(None, &runs, "load is disabled\nload.3, load.4 continue; to stop one: `batchd stop load.3`");
        let check = |enabled, was: Option<Disabled>, expected: &str| {
            let text = enabling(&batch, enabled, was.as_ref(), hour);
            assert!(text.contains(expected), "{text}");
        };
        check(true, Some(until(None)), "is enabled; starts that were skipped");
        check(true, Some(until(Some(hour))), "is enabled already");
        check(true, None, "is enabled already");
        check(false, Some(until(None)), "from load/batch.toml");
    }
}
