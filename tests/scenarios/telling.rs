//! Effects as lines of a story.

use batchd::model::record::Record;
use batchd::model::request::{Prospects, Reply};
use batchd::model::run::{Run, State, Trigger};
use batchd::model::time::Instant;
use batchd::scheduler::Effect;

use crate::journal::FakeJournal;

/// So many rows that say the same get a line each; more are one line.
const SAME_MAX: usize = 4;

/// What the effects of one event say. `before` is the journal without them.
pub(crate) fn lines(before: &FakeJournal, effects: &[Effect], now: Instant) -> Vec<String> {
    let runs = effects.iter().filter_map(|effect| match effect {
        Effect::Record(Record::Run(run)) => Some(run.as_ref()),
        _ => None,
    });
    let runs: Vec<&Run> = runs.collect();
    let edges = effects.iter().filter_map(|effect| edge(before, effect));
    let same = |left: &&Run, right: &&Run| {
        let is_waiting = |run: &Run| run.state == State::Queued && run.start_at.is_none() && !run.joining;
        let is_row = |run: &Run| {
            (run.end().is_some() || is_waiting(run)) && run.range.is_none() && before.runs.get(&run.id).is_none()
        };
        let says = |run: &Run| (run.id.batch.clone(), run.caught_up, word(run), reason(run));
        is_row(left) && is_row(right) && says(left) == says(right)
    };
    let mut lines: Vec<String> = edges.collect();
    for group in runs.chunk_by(same) {
        match group {
            [first, .., last] if group.len() > SAME_MAX => lines.push(format!(
                "{} to {} {}, due {} to {}{}",
                first.id,
                last.id,
                word(first),
                instant(first.due_at, now),
                instant(last.due_at, now),
                reason(first)
            )),
            _ => lines.extend(group.iter().map(|run| row(before, effects, run, now))),
        }
    }
    lines.extend(effects.iter().filter_map(act));
    lines
}

/// An instant, without what goes without saying.
pub(crate) fn instant(at: Instant, now: Instant) -> String {
    let text = at.to_string();
    let (day, time) = text.split_once('T').unwrap_or((&text, ""));
    let time = time.trim_end_matches('Z').trim_end_matches(".000");
    let time = time.strip_suffix(":00").filter(|time| time.len() == 5).unwrap_or(time);
    if now.to_string().starts_with(day) { time.to_owned() } else { format!("{day} {time}") }
}

/// The cursors of joins across chains, where they move.
fn edge(before: &FakeJournal, effect: &Effect) -> Option<String> {
    match effect {
        Effect::Record(Record::Edge(edge)) => {
            let old = before.edges.get(&(edge.downstream.clone(), edge.upstream.clone()));
            let moved = old.is_none_or(|old| old.cursor != edge.cursor);
            moved.then(|| format!("{}: cursor of {} at {}", edge.downstream, edge.upstream, edge.cursor))
        }
        Effect::Record(Record::EdgeRemoved { downstream, upstream }) => {
            Some(format!("{downstream}: no cursor of {upstream} any more"))
        }
        Effect::Record(Record::Event { text, .. }) => Some(format!("event: {text}")),
        _ => None,
    }
}

fn row(before: &FakeJournal, effects: &[Effect], run: &Run, now: Instant) -> String {
    let id = &run.id;
    let old = before.runs.get(id);
    let launched = effects.iter().find_map(|effect| match effect {
        Effect::Start { run, definition } if run.id == *id => Some(definition),
        _ => None,
    });
    let mut line = match &run.state {
        State::Queued if run.joining => format!("{id} waits for its upstreams"),
        State::Queued => match run.start_at {
            Some(at) => format!("{id} queued until {}", instant(at, now)),
            None => format!("{id} queued"),
        },
        State::Starting if launched.is_some() && run.remark.is_none() => format!("start {id}"),
        State::Starting => format!("{id} starting{}", run.remark.as_ref().map_or(String::new(), |r| format!(": {r}"))),
        State::Running => format!("{id} runs"),
        State::Ended(end) => format!("{id} {}", end.outcome),
    };
    if let Some(definition) = launched.filter(|definition| !definition.description.is_empty()) {
        line += &format!(" as \"{}\"", definition.description);
    }
    if old.is_none() {
        line += &born(run, now);
    } else if old.is_some_and(|old| old.upstreams != run.upstreams) {
        line += &after(run);
    }
    if old.is_some_and(|old| old.priority != run.priority) {
        line += &format!(" priority {}", run.priority);
    }
    line + &reason(run)
}

/// What is said of a new row.
fn born(run: &Run, now: Instant) -> String {
    let mut text = format!(" by {}", run.trigger);
    match (&run.previous, run.trigger) {
        (Some(previous), Trigger::Retry) => text += &format!(" of {previous}, attempt {}", run.attempt),
        (Some(previous), _) => text += &format!(" of {previous}"),
        (None, _) => {}
    }
    text += &after(run);
    if run.chain != run.id {
        text += &format!(" in {}", run.chain);
    }
    if run.pass > 1 {
        text += &format!(" pass {}", run.pass);
    }
    if run.due_at != now {
        text += &format!(", due {}", instant(run.due_at, now));
    }
    if let Some(range) = &run.range {
        let at_least = if range.at_least { "at least " } else { "" };
        text += &format!(" for {at_least}{} since {}", range.count, instant(range.from, now));
    }
    if run.caught_up {
        text += ", caught up";
    }
    text
}

fn after(run: &Run) -> String {
    let ids: Vec<String> = run.upstreams.iter().map(ToString::to_string).collect();
    if ids.is_empty() { String::new() } else { format!(" after {}", ids.join(" + ")) }
}

fn reason(run: &Run) -> String {
    let reason = run.end().and_then(|end| end.reason.as_ref());
    reason.map_or(String::new(), |reason| format!(": {reason}"))
}

fn word(run: &Run) -> &'static str {
    run.outcome().map_or_else(|| run.state.word().word(), |outcome| outcome.word())
}

/// Stops and replies; a start is told with its row.
fn act(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Stop { run } => Some(format!("stop {run}")),
        Effect::Reply { reply, .. } => Some(format!("reply: {}", reply_text(reply))),
        Effect::ReadAhead { .. } => Some("read what is decided ahead".to_owned()),
        Effect::Record(_) | Effect::Start { .. } | Effect::Settle { .. } => None,
    }
}

fn reply_text(reply: &Reply) -> String {
    let list = |names: Vec<String>| names.join(", ");
    match reply {
        Reply::Queued { run, waits, prospects: Prospects { follows, follows_once, does_not_follow } } => {
            let mut text = format!("{run} queued");
            if *waits {
                text += ", waits";
            }
            if !follows.is_empty() {
                text += &format!("; follows {}", list(follows.iter().map(ToString::to_string).collect()));
            }
            for (name, others) in follows_once {
                text += &format!("; {name} once {}", list(others.iter().map(ToString::to_string).collect()));
            }
            for (name, why) in does_not_follow {
                text += &format!("; not {name}: {why}");
            }
            text
        }
        Reply::Skipped { run, reason } => format!("{run} skipped: {reason}"),
        Reply::Stopping { runs } => format!("stopping {}", list(runs.iter().map(ToString::to_string).collect())),
        Reply::Disabled { batch, disabled, replaces, goes_on } => {
            let mut text = format!("{batch} is disabled");
            if let Some(until) = disabled.until {
                text += &format!(" until {until}");
            }
            if let Some(replaced) = replaces {
                let until = replaced.until.map_or("enabled".to_owned(), |until| until.to_string());
                text += &format!(", in place of until {until}");
            }
            if !goes_on.is_empty() {
                text += &format!("; goes on: {}", list(goes_on.iter().map(ToString::to_string).collect()));
            }
            text
        }
        Reply::Enabled { batch, enabled: false, .. } => format!("{batch} stays disabled by its file"),
        Reply::Enabled { batch, was_disabled: Some(_), .. } => format!("{batch} is enabled"),
        Reply::Enabled { batch, was_disabled: None, .. } => format!("{batch} was enabled already"),
        Reply::Refused { what, .. } => format!("refused: {what}"),
    }
}
