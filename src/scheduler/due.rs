//! Occurrences: what has fallen due is decided here, once, by the rules of the design's chapter 3.6.

use super::book::Counts;
use super::{CLOCK_BEHIND_MAX, Effect, ON_TIME_WITHIN, Phase, Scheduler};
use crate::model::cron::Expression;
use crate::model::definition::CatchUp;
use crate::model::graph::Node;
use crate::model::id::BatchName;
use crate::model::record::{DecidedAhead, REBOOT_UNKNOWN, Record};
use crate::model::run::{End, Follow, Given, Outcome, Range, Run, State, Trigger};
use crate::model::schedule::{Schedule, jitter_offset};
use crate::model::text::counted;
use crate::model::time::Instant;

/// So many occurrences that are decided in one event and do not run get a row each; the earlier ones of each batch share one.
/// More rows would help nobody: they say the same thing, and a host that was down for weeks would write millions of them in
/// one transaction. Each batch has as many for what does run.
pub const ROWS_AT_ONCE_MAX: usize = 1000;

/// Occurrences beyond the rows are counted up to here in one event: an expression with seconds yields 31 million a year.
pub const COUNTED_MAX: usize = 100_000;

/// The reason of what is missed.
const NOBODY: &str = "the daemon was not running";
const TOO_OLD: &str = "the daemon was not running, and the occurrence is older than catch_up_within";
const NO_CATCH_UP: &str = "the daemon was not running, and catch_up is \"none\"";
const LATEST_CAUGHT_UP: &str = "the daemon was not running; the latest occurrence is caught up instead";
const LATEST_ON_TIME: &str = "the daemon was not running; a later occurrence is on time";

/// What becomes of an occurrence.
enum Verdict {
    /// It is decided in time.
    OnTime,
    /// It runs late.
    CatchUp,
    /// It does not run.
    Not { outcome: Outcome, reason: String },
}

impl Scheduler {
    /// Decides everything that is due at `now`: occurrences, and queued runs whose time has come, in the order of time.
    pub(super) fn advance(&mut self, now: Instant) {
        self.notice_correction(now);
        while self.phase == Phase::Open {
            let due = self.due.first().filter(|(at, _)| *at <= now).cloned();
            let delayed = self.book.first_delayed(now).cloned();
            match (due, delayed) {
                (Some((at, name)), Some(run)) if run.start_at.is_none_or(|start_at| at <= start_at) => {
                    self.decide_due(now, &name);
                }
                (_, Some(run)) => self.time_has_come(now, run),
                (Some((_, name)), None) => self.decide_due(now, &name),
                (None, None) => break,
            }
        }
    }

    /// Finds the batch's next occurrence after its cursor. One that is not later stops this batch, never the daemon.
    pub(super) fn arm(&mut self, now: Instant, name: &BatchName) {
        self.disarm(name);
        let Some(schedule) = self.graph.get(name).and_then(|node| node.entry.schedule.clone()) else { return };
        let Some(cursor) = self.batches.get(name).and_then(|facts| facts.cursor) else { return };
        match schedule.next_after(cursor) {
            Some(next) if next <= cursor => {
                let text = format!(
                    "{name}: its schedule yields {next}, which is not after {cursor}; the batch is not scheduled until it is changed"
                );
                self.notes.push(Record::Event { at: now, text });
            }
            Some(next) => {
                self.due.insert((next, name.clone()));
                self.armed.insert(name.clone(), next);
            }
            None => {}
        }
    }

    /// Takes the batch's next occurrence out of what is waited for.
    pub(super) fn disarm(&mut self, name: &BatchName) {
        if let Some(at) = self.armed.remove(name) {
            self.due.remove(&(at, name.clone()));
        }
    }

    /// Moves a batch's cursor.
    pub(super) fn set_cursor(&mut self, name: &BatchName, cursor: Instant) {
        self.facts_mut(name).cursor = Some(cursor);
        self.cursor_latest = self.cursor_latest.max(cursor);
        if let Some(ahead) = self.ahead.get_mut(name) {
            ahead.forget_until(cursor);
            if ahead.is_empty() {
                self.ahead.remove(name);
            }
        }
    }

    /// A clock that is far behind what was decided was wrong then and is right now: cursors move to now, and what has a row
    /// although it is still to come is asked for, so that it is passed over.
    fn notice_correction(&mut self, now: Instant) {
        let limit = now + CLOCK_BEHIND_MAX;
        if self.phase != Phase::Open || self.cursor_latest <= limit {
            return;
        }
        let ahead: Vec<BatchName> = self
            .batches
            .values()
            .filter(|facts| facts.cursor.is_some_and(|c| c > limit))
            .map(|f| f.name.clone())
            .collect();
        let latest = self.cursor_latest;
        for name in &ahead {
            let before = self.batches.get(name).and_then(|facts| facts.cursor);
            self.set_cursor(name, now);
            self.arm(now, name);
            // What is due between the two instants was decided under the wrong clock, or is passed over: it proves nothing.
            if let Some(node) = self.graph.get(name).cloned() {
                self.note_period(now, name, Some(now), Some((&node, before)));
            }
        }
        self.cursor_latest = self.batches.values().filter_map(|facts| facts.cursor).max().unwrap_or(Instant::MIN);
        self.wait_anew(now);
        let text = format!(
            "the clock was set back to {now}, after occurrences up to {latest} were decided; {} from now",
            counted(ahead.len(), "batch continues", "batches continue")
        );
        self.notes.push(Record::Event { at: now, text });
        self.phase = Phase::ReadingAhead;
        self.acts.push(Effect::ReadAhead { after: now });
    }

    /// Runs that the wrong clock has made wait (a retry's delay, a jitter's offset) wait as long from now on: until the time
    /// that clock meant, a retry would keep its batch busy for hours or years.
    fn wait_anew(&mut self, now: Instant) {
        let later: Vec<Run> = self.book.delayed().filter(|run| run.queued_at > now).cloned().collect();
        for run in later {
            let start_at = run.start_at.map(|at| now + at.since(run.queued_at));
            self.book.put(Run { start_at, ..run });
        }
    }

    /// The answer to [`Effect::ReadAhead`]: scheduling goes on.
    pub(super) fn decided_ahead(&mut self, now: Instant, rows: Vec<DecidedAhead>) {
        if self.phase != Phase::ReadingAhead {
            return;
        }
        for DecidedAhead { batch, to, from } in rows {
            if self.batches.get(&batch).is_none_or(|facts| facts.cursor.is_none_or(|cursor| to <= cursor)) {
                continue;
            }
            self.ahead.entry(batch).or_default().insert((from, to));
        }
        self.phase = Phase::Open;
        self.advance(now);
    }

    /// Decides all occurrences of a batch after its cursor and up to `now`.
    fn decide_due(&mut self, now: Instant, name: &BatchName) {
        if let Some(node) = self.graph.get(name).cloned() {
            let until = now;
            match self.says_no_until(name, &node) {
                No::Forever(reason) => self.record_not(now, name, until, Outcome::Skipped, &reason),
                No::Until(end, reason) => {
                    // The occurrence at which a `disable` ends is not covered by it any more.
                    let covered = until.min(just_before(end));
                    self.record_not(now, name, covered, Outcome::Skipped, &reason);
                    self.decide_allowed(now, name, &node);
                }
                No::Nobody => self.decide_allowed(now, name, &node),
            }
        }
        self.arm(now, name);
    }

    /// Decides occurrences against which nobody said no: in time, caught up, or missed.
    fn decide_allowed(&mut self, now: Instant, name: &BatchName, node: &Node) {
        let late_until = just_before(now - ON_TIME_WITHIN);
        let cursor = self.batches.get(name).and_then(|facts| facts.cursor);
        let first = node.entry.schedule.as_ref().zip(cursor).and_then(|(schedule, cursor)| schedule.next_after(cursor));
        // Hardly ever is anything late: a daemon wakes for each occurrence.
        if first.is_some_and(|first| first <= late_until) {
            self.decide_late(now, name, node, late_until);
        }
        for due_at in self.take_occurrences(now, name, now, ROWS_AT_ONCE_MAX, (Outcome::Missed, NOBODY)) {
            self.decide_occurrence(now, node, due_at, Verdict::OnTime);
        }
    }

    /// Decides what fell due up to `late_until`, too long ago to be in time: caught up, or missed.
    fn decide_late(&mut self, now: Instant, name: &BatchName, node: &Node, late_until: Instant) {
        let definition = node.definition().clone();
        if definition.catch_up == CatchUp::None {
            self.record_not(now, name, late_until, Outcome::Missed, NO_CATCH_UP);
        } else {
            let too_old_until = just_before(now - definition.catch_up_within).min(late_until);
            self.record_not(now, name, too_old_until, Outcome::Missed, TOO_OLD);
        }
        if definition.catch_up == CatchUp::Last
            && let Some(latest) = self.latest_undecided(name, now)
        {
            // The latest one runs: if that is in time, nothing is caught up beside it.
            let (until, reason) = match latest <= late_until {
                true => (just_before(latest), LATEST_CAUGHT_UP),
                false => (late_until, LATEST_ON_TIME),
            };
            self.record_not(now, name, until, Outcome::Missed, reason);
        }
        for due_at in self.take_occurrences(now, name, late_until, ROWS_AT_ONCE_MAX, (Outcome::Missed, NOBODY)) {
            self.decide_occurrence(now, node, due_at, Verdict::CatchUp);
        }
    }

    /// Records all occurrences up to `until` as not run.
    pub(super) fn record_not(
        &mut self,
        now: Instant,
        name: &BatchName,
        until: Instant,
        outcome: Outcome,
        reason: &str,
    ) {
        let Some(node) = self.graph.get(name).cloned() else { return };
        let most = ROWS_AT_ONCE_MAX.saturating_sub(self.written.not_run);
        for due_at in self.take_occurrences(now, name, until, most, (outcome, reason)) {
            self.written.not_run += 1;
            self.decide_occurrence(now, &node, due_at, Verdict::Not { outcome, reason: reason.to_owned() });
        }
    }

    /// Moves the cursor over all occurrences up to `until` and gives back the last `most` of them; those before are recorded
    /// in one row, with this outcome and reason. What was decided ahead of a corrected clock is left out.
    fn take_occurrences(
        &mut self,
        now: Instant,
        name: &BatchName,
        until: Instant,
        most: usize,
        rest: (Outcome, &str),
    ) -> Vec<Instant> {
        let Some(node) = self.graph.get(name).cloned() else { return Vec::new() };
        let Some(schedule) = node.entry.schedule.clone() else { return Vec::new() };
        let Some(cursor) = self.batches.get(name).and_then(|facts| facts.cursor) else { return Vec::new() };
        if schedule.next_after(cursor).is_none_or(|next| next > until) {
            return Vec::new();
        }
        let Some(last) = schedule.latest(cursor, until, 1).pop() else { return Vec::new() };
        let mut instants = schedule.latest(cursor, last, most);
        if instants.len() == most {
            let earlier_until = instants.first().map_or(last, |first| just_before(*first));
            self.record_range(now, &node, (cursor, earlier_until), rest);
        }
        instants.retain(|instant| !self.is_decided_ahead(name, *instant));
        self.set_cursor(name, last);
        instants
    }

    /// One row for all that a schedule has made due which can't be read any more: its zone is gone from this host, and nobody
    /// knows what and how many that was.
    pub(super) fn record_unreadable(&mut self, now: Instant, node: &Node) {
        let definition = node.definition();
        let is_unreadable = node.entry.schedule.is_none() && definition.cron.iter().any(|text| yields_times(text));
        let cursor = self.batches.get(&definition.name).and_then(|facts| facts.cursor);
        let Some(cursor) = cursor.filter(|cursor| is_unreadable && *cursor < now) else { return };
        let mut run = self.first_run(now, node, Trigger::Schedule, Follow::Everything);
        run.due_at = of_no_schedule(now);
        run.range = Some(Range { from: cursor, count: 0, at_least: true });
        let reason = format!(
            "the occurrences since {cursor} are unknown: the time zone {} can't be read",
            definition.timezone.as_deref().unwrap_or("of the system")
        );
        self.end(run, End { outcome: Outcome::Missed, reason: Some(reason), at: now, exit: None }, Counts::Yes);
    }

    /// Whether an instant after the cursor has a row, alone or with others.
    fn is_decided_ahead(&self, name: &BatchName, instant: Instant) -> bool {
        self.row_ahead(name, instant).is_some()
    }

    /// The first and the last instant that the row of an instant after the cursor stands for, if it has one.
    fn row_ahead(&self, name: &BatchName, instant: Instant) -> Option<(Instant, Instant)> {
        self.ahead.get(name)?.row_of(instant)
    }

    /// The latest occurrence after the cursor and up to `until` that has no row.
    fn latest_undecided(&self, name: &BatchName, until: Instant) -> Option<Instant> {
        let schedule = self.graph.get(name)?.entry.schedule.as_ref()?;
        let cursor = self.batches.get(name)?.cursor?;
        let mut latest = schedule.latest(cursor, until, 1).pop()?;
        while let Some((from, _)) = self.row_ahead(name, latest) {
            latest = schedule.latest(cursor, just_before(from), 1).pop()?;
        }
        Some(latest)
    }

    /// The first occurrence later than `after` that has no row; `to` has none.
    fn first_undecided(&self, name: &BatchName, schedule: &Schedule, after: Instant, to: Instant) -> Instant {
        let mut next = schedule.next_after(after);
        while let Some(first) = next.filter(|first| *first < to) {
            let Some((_, decided_to)) = self.row_ahead(name, first) else { return first };
            next = schedule.next_after(decided_to);
        }
        to
    }

    /// One row for all occurrences in `(after, until]` that have none, if there are any.
    fn record_range(
        &mut self,
        now: Instant,
        node: &Node,
        (after, until): (Instant, Instant),
        (outcome, reason): (Outcome, &str),
    ) {
        let (Some(schedule), name) = (node.entry.schedule.as_ref(), &node.definition().name) else { return };
        let Some(to) = self.latest_undecided(name, until) else { return };
        let undecided = |due_at: &Instant| !self.is_decided_ahead(name, *due_at);
        let from = self.first_undecided(name, schedule, after, to);
        // That there is one is known without counting.
        let most = COUNTED_MAX.saturating_sub(self.written.counted).max(1);
        let looked_at = schedule.between(just_before(from), to).take(most);
        let (looked_at, count) =
            looked_at.fold((0, 0), |(all, count), due_at| (all + 1, count + u64::from(undecided(&due_at))));
        self.written.counted += looked_at;
        let range = Range { from, count, at_least: looked_at == most };
        let mut run = self.first_run(now, node, Trigger::Schedule, Follow::Everything);
        (run.due_at, run.range) = (to, Some(range));
        self.end(run, End { outcome, reason: Some(reason.to_owned()), at: now, exit: None }, Counts::Yes);
    }

    /// Makes the row of one occurrence.
    fn decide_occurrence(&mut self, now: Instant, node: &Node, due_at: Instant, verdict: Verdict) {
        let definition = node.definition();
        let mut run = self.first_run(now, node, Trigger::Schedule, Follow::Everything);
        run.due_at = due_at;
        match verdict {
            Verdict::Not { outcome, reason } => {
                self.end(run, End { outcome, reason: Some(reason), at: now, exit: None }, Counts::Yes);
            }
            Verdict::OnTime | Verdict::CatchUp => {
                run.caught_up = matches!(verdict, Verdict::CatchUp);
                let start_at = due_at + jitter_offset(&definition.name, definition.jitter);
                if start_at > now {
                    run.start_at = Some(start_at);
                    self.book.put(run);
                } else {
                    self.admit(now, run);
                }
            }
        }
    }

    /// `@reboot`: at the first start of a daemon after a boot in which the batch has not run yet. A batch that gets it while
    /// the daemon runs waits for the next boot.
    pub(super) fn decide_reboot(&mut self, now: Instant, name: &BatchName, at_start: bool) {
        let Some(node) = self.graph.get(name).filter(|node| node.entry.reboot).cloned() else { return };
        let boot = self.boot.of_reboot();
        let decided = self.facts_mut(name).reboot_boot.replace(boot.clone());
        if !at_start || decided.is_some_and(|decided| decided == boot || decided == REBOOT_UNKNOWN) {
            return;
        }
        let verdict = match self.says_no_until(name, &node) {
            No::Forever(reason) => Verdict::Not { outcome: Outcome::Skipped, reason },
            No::Until(end, reason) if now < end => Verdict::Not { outcome: Outcome::Skipped, reason },
            No::Until(..) | No::Nobody => Verdict::OnTime,
        };
        self.decide_occurrence(now, &node, of_no_schedule(now), verdict);
    }

    /// Why nothing may start this batch at `now`, if so.
    pub(super) fn says_no(&self, now: Instant, name: &BatchName, node: &Node) -> Option<String> {
        match self.says_no_until(name, node) {
            No::Forever(reason) => Some(reason),
            No::Until(end, reason) => (now < end).then_some(reason),
            No::Nobody => None,
        }
    }

    fn says_no_until(&self, name: &BatchName, node: &Node) -> No {
        if node.entry.held {
            return No::Forever("held because of an error in its definition (see `batchd check`)".to_owned());
        }
        if !node.definition().enabled {
            return No::Forever("disabled: `enabled = false` in its batch.toml".to_owned());
        }
        let Some(disabled) = self.batches.get(name).and_then(|facts| facts.disabled.as_ref()) else {
            return No::Nobody;
        };
        let why = disabled.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        let reason = format!("disabled by {}{why}", disabled.by);
        match disabled.until {
            Some(until) => No::Until(until, reason),
            None => No::Forever(reason),
        }
    }

    /// A queued run's time has come.
    fn time_has_come(&mut self, now: Instant, mut run: Run) {
        run.start_at = None;
        if run.trigger == Trigger::Retry {
            // It has kept the batch busy all the while: overlap was decided for its first attempt.
            self.book.put(run);
        } else {
            self.admit(now, run);
        }
    }

    /// A run that begins a chain: not yet in the book.
    pub(super) fn first_run(&mut self, now: Instant, node: &Node, trigger: Trigger, follow: Follow) -> Run {
        let definition = node.definition();
        let facts = self.facts_mut(&definition.name);
        let id = definition.name.run(facts.next_number);
        facts.next_number += 1;
        Run {
            chain: id.clone(),
            id,
            pass: 1,
            follow,
            trigger,
            attempt: 1,
            previous: None,
            state: State::Queued,
            due_at: now,
            start_at: None,
            joining: false,
            queued_at: now,
            queue_position: self.book.next_queue_position(),
            caught_up: false,
            priority: definition.priority,
            pool: definition.pool.clone(),
            upstreams: Vec::new(),
            definition: None,
            boot: None,
            starting_at: None,
            started_at: None,
            started_by: None,
            remark: None,
            stop: None,
            given: Given::default(),
            range: None,
        }
    }
}

/// What one event has written of occurrences that do not run, so that no event writes more than a transaction should hold.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Rows of their own.
    not_run: usize,
    /// Occurrences that were counted for rows that stand for many.
    counted: usize,
}

/// The latest instant up to `now` that no schedule yields: those are whole seconds.
fn of_no_schedule(now: Instant) -> Instant {
    if now.is_whole_second() { just_before(now) } else { now }
}

fn yields_times(cron: &str) -> bool {
    matches!(Expression::parse(cron), Ok(Expression::Times(_)))
}

/// The last instant before this one.
fn just_before(instant: Instant) -> Instant {
    Instant::from_ms(instant.as_ms() - 1)
}

/// Whether, why and until when nothing may start a batch.
enum No {
    /// Nobody says no.
    Nobody,
    /// Until this instant, for this reason.
    Until(Instant, String),
    /// With no end known, for this reason.
    Forever(String),
}
