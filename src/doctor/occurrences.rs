//! "Every occurrence that falls due is covered by exactly one journal row": the rows of one batch beside what the
//! [`Scanner`] finds, in the intervals in which the journal proves what was in force.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::periods::History;
use super::scan::Scanner;
use super::{RESTORE, Row, Violation};
use crate::model::id::RunId;
use crate::model::run::{Range, Trigger};
use crate::model::time::Instant;

/// So many violations of one kind are named for each batch; more say nothing new, and what has no row can be years.
pub const NAMED_MAX: usize = 20;

/// A row of trigger `schedule`, first attempt, that stands for what a schedule yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The run.
    pub run: RunId,
    /// The instant; of a row for many, the last one.
    pub due_at: Instant,
    /// What a row for many says of the others.
    pub range: Option<Range>,
}

/// The rows of one batch that each stand for many occurrences, and how many of those a schedule has yielded. An instant has
/// its row before it has one of its own: a clock that was corrected lets rows for many span what had been decided.
#[derive(Debug, Default)]
pub struct Many {
    /// Those that begin later than all that was asked for, the next one last.
    coming: Vec<(Range, Occurrence)>,
    /// By number, those that have begun and not ended, with what was found of each.
    open: BTreeMap<u64, (Range, Occurrence, u64)>,
}

/// An interval in which one schedule decided all.
pub struct Span<'a> {
    /// The expressions.
    pub cron: &'a [String],
    /// The offset of its zone.
    pub offset_s: &'a dyn Fn(Instant) -> i32,
    /// Later than this.
    pub after: Instant,
    /// Up to this.
    pub until: Instant,
}

impl Many {
    /// Those of `rows` that stand for many; of one batch, in any order.
    pub fn new(rows: impl IntoIterator<Item = Occurrence>) -> Self {
        let mut coming: Vec<(Range, Occurrence)> =
            rows.into_iter().filter_map(|row| Some((row.range.clone()?, row))).collect();
        coming.sort_by_key(|(range, _)| Reverse(range.from));
        Self { coming, open: BTreeMap::new() }
    }

    /// The number of the row that has stood for this instant first. Asked for in the order of time.
    fn covering(&mut self, due_at: Instant) -> Option<u64> {
        self.open_until(due_at);
        let mut open = self.open.iter();
        open.find(|(_, (_, row, _))| row.due_at >= due_at).map(|(number, _)| *number)
    }

    /// Counts an instant without a row of its own. Whether one of these stands for it.
    fn count(&mut self, due_at: Instant) -> bool {
        let Some(number) = self.covering(due_at) else { return false };
        if let Some((_, _, found)) = self.open.get_mut(&number) {
            *found += 1;
        }
        true
    }

    fn open_until(&mut self, due_at: Instant) {
        while let Some((range, row)) = self.coming.pop_if(|(range, _)| range.from <= due_at) {
            self.open.insert(row.run.number, (range, row, 0));
        }
    }

    /// `occurrence-count`: judges those that have ended in a span. One that began before it spans what is not proven.
    fn close(&mut self, span: &Span<'_>, violations: &mut Vec<Violation>) {
        self.open_until(span.until);
        let ended = self.open.extract_if(.., |_, (_, row, _)| row.due_at <= span.until);
        for (_, (Range { from, count, at_least }, row, found)) in ended {
            if from > span.after && count != found && !(at_least && found >= count) {
                let what = format!(
                    "{}: the row counts {count} occurrences from {from} to {}, but there were {found}",
                    row.run, row.due_at
                );
                violations.push(Violation::new("occurrence-count", what, RESTORE).of(&row.run));
            }
        }
    }
}

/// Compares one span with the rows in it, which come in the order of `due_at`. Those before it are passed over, those after
/// it left in `rows` for the next.
pub fn check(
    batch: &str,
    span: &Span<'_>,
    many: &mut Many,
    rows: &mut std::iter::Peekable<impl Iterator<Item = Occurrence>>,
    violations: &mut Vec<Violation>,
) {
    let Some(mut scanner) = Scanner::new(span.cron, span.offset_s, span.after) else { return };
    while rows.next_if(|row| row.due_at <= span.after).is_some() {}
    let mut found = Found { batch, named: [0; 2], many, violations };
    let mut due = scanner.next(span.until);
    let mut last: Option<Occurrence> = None;
    while let Some(row) = rows.next_if(|row| row.due_at <= span.until) {
        if let Some(last) = last.as_ref().filter(|last| last.due_at == row.due_at) {
            found.twice(&row, &last.run);
            continue;
        }
        while let Some(without) = due.filter(|due| *due < row.due_at) {
            found.without_own_row(without);
            due = scanner.next(span.until);
        }
        if row.range.is_none() {
            found.own_row(&row, due == Some(row.due_at));
            due = due.filter(|due| *due != row.due_at).or_else(|| scanner.next(span.until));
        }
        last = Some(row);
    }
    while let Some(without) = due.filter(|_| found.named[0] <= NAMED_MAX) {
        found.without_own_row(without);
        due = scanner.next(span.until);
    }
    many.close(span, violations);
}

struct Found<'v> {
    batch: &'v str,
    /// How many of each kind: missing, extra.
    named: [usize; 2],
    many: &'v mut Many,
    violations: &'v mut Vec<Violation>,
}

impl Found<'_> {
    /// `occurrence-missing`
    fn without_own_row(&mut self, due_at: Instant) {
        if self.many.count(due_at) {
            return;
        }
        self.named[0] += 1;
        if self.named[0] <= NAMED_MAX {
            let batch = self.batch;
            let what = format!("{batch} was due at {due_at}, but there is no row");
            self.violations.push(Violation::new("occurrence-missing", what, RESTORE).row(format!("period {batch}")));
        }
    }

    /// `occurrence-extra`, and `occurrence-twice` where a row for many had stood for it before.
    fn own_row(&mut self, row: &Occurrence, is_due: bool) {
        if !is_due {
            self.named[1] += 1;
            if self.named[1] <= NAMED_MAX {
                let what = format!("{}: nothing was due at {}", row.run, row.due_at);
                self.violations.push(Violation::new("occurrence-extra", what, RESTORE).of(&row.run));
            }
        } else if let Some(number) = self.many.covering(row.due_at).filter(|number| *number < row.run.number) {
            self.twice(row, &row.run.batch.run(number));
        }
    }

    /// `occurrence-twice`
    fn twice(&mut self, row: &Occurrence, other: &RunId) {
        let what = format!("{}: {} has another row", row.run, row.due_at);
        self.violations.push(Violation::new("occurrence-twice", what, RESTORE).of(&row.run).row(other.to_string()));
    }
}

/// `occurrence-extra` of a boot: what is due at no whole second is a boot's, of a batch with `@reboot`.
pub fn boot(row: &Row, history: &History) -> Option<Violation> {
    let run = &row.run;
    if run.trigger != Trigger::Schedule || run.attempt != 1 || run.due_at.is_whole_second() {
        return None;
    }
    let period = history.through(&run.id.batch, row.made_in?, row.made_in?)?;
    let what = format!("{}: nothing was due at {}", run.id, run.due_at);
    let has_it = period.definition.cron.iter().any(|text| text.trim() == "@reboot");
    (!has_it).then(|| Violation::new("occurrence-extra", what, RESTORE).of(&run.id))
}

/// `cursor-behind`: behind the last span, no row is later than the batch's cursor, or what the corrected clock had decided.
pub fn ahead(
    cursor: Option<Instant>,
    periods: &[super::Period],
    rows: &mut impl Iterator<Item = Occurrence>,
) -> Option<Violation> {
    let of_periods = periods.iter().flat_map(|period| [period.decides_after, period.decided_until]);
    periods.last()?;
    let decided = of_periods.max().flatten().max(cursor)?;
    let row = rows.find(|row| row.due_at > decided)?;
    let what = format!(
        "{}: the run was due at {}, but the cursor of its batch is at {decided}; the occurrence would be decided again",
        row.run, row.due_at
    );
    Some(Violation::new("cursor-behind", what, RESTORE).of(&row.run).row(format!("batch {}", row.run.batch)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::BatchName;

    /// A row of an hourly batch: its number, the hour of the day, and for how many from which hour on.
    fn row(number: u64, hour: i64, range: Option<(i64, u64)>) -> Occurrence {
        let run = BatchName::new("tick").unwrap().run(number);
        let range = range.map(|(from, count)| Range { from: at(from), count, at_least: false });
        Occurrence { run, due_at: at(hour), range }
    }

    fn at(hour: i64) -> Instant {
        Instant::from_s(hour * 3600)
    }

    /// What is found in spans of hours, each later than the first and up to the second.
    fn found(spans: &[(i64, i64)], rows: &[Occurrence]) -> Vec<(&'static str, Option<String>)> {
        let mut many = Many::new(rows.iter().cloned());
        let mut rows = rows.to_vec();
        rows.sort_by_key(|row| row.due_at);
        let mut rows = rows.into_iter().peekable();
        let mut violations = Vec::new();
        for (after, until) in spans {
            let cron = ["0 * * * *".to_owned()];
            let span = Span { cron: &cron, offset_s: &|_| 0, after: at(*after), until: at(*until) };
            check("tick", &span, &mut many, &mut rows, &mut violations);
        }
        violations.into_iter().map(|one| (one.invariant, one.run.map(|run| run.to_string()))).collect()
    }

    #[test]
    fn a_row_for_many_spans_those_that_have_their_own() {
        let rows = [row(1, 3, None), row(2, 4, None), row(3, 9, Some((1, 7)))];
        assert_eq!(found(&[(0, 9)], &rows), []);
        let miscounted = [row(1, 3, None), row(2, 4, None), row(3, 9, Some((1, 9)))];
        assert_eq!(found(&[(0, 9)], &miscounted), [("occurrence-count", Some("tick.3".to_owned()))]);
    }

    #[test]
    fn two_rows_for_many_overlap_where_the_first_stands_for_all() {
        let rows = [row(1, 6, Some((3, 4))), row(2, 9, Some((1, 5)))];
        assert_eq!(found(&[(0, 9)], &rows), []);
    }

    #[test]
    fn a_row_for_many_that_begins_in_what_is_not_proven_is_not_counted() {
        let rows = [row(1, 1, None), row(2, 4, None), row(3, 9, Some((2, 5)))];
        assert_eq!(found(&[(0, 1), (5, 9)], &rows), []);
    }

    #[test]
    fn what_a_row_for_many_stands_for_does_not_come_again() {
        let rows = [row(1, 9, Some((1, 9))), row(2, 4, None)];
        let twice = ("occurrence-twice", Some("tick.2".to_owned()));
        assert_eq!(found(&[(0, 9)], &rows), [twice, ("occurrence-count", Some("tick.1".to_owned()))]);
    }

    #[test]
    fn what_no_row_stands_for_is_missing() {
        assert_eq!(
            found(&[(0, 4)], &[row(1, 1, None), row(2, 3, Some((3, 1)))]),
            [("occurrence-missing", None), ("occurrence-missing", None)]
        );
    }
}
