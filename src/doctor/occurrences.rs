//! "Every occurrence that falls due is covered by exactly one journal row": the rows of one batch beside what the
//! [`Scanner`] finds, in the intervals in which the journal proves what was in force.

use super::scan::Scanner;
use super::{RESTORE, Violation};
use crate::model::id::RunId;
use crate::model::time::Instant;

/// So many violations of one kind are named for each batch; more say nothing new, and what has no row can be years.
pub const NAMED_MAX: usize = 20;

/// A row of trigger `schedule`, first attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The run.
    pub run: RunId,
    /// The instant; of a row for many, the last one.
    pub due_at: Instant,
    /// When its row was made.
    pub queued_at: Instant,
    /// The first instant, how many, and whether there may be more: of a row for many.
    pub range: Option<(Instant, u64, bool)>,
}

impl Occurrence {
    /// Whether it may be the row of a boot: due as it was made, or a millisecond earlier if that was a whole second.
    fn may_be_of_a_boot(&self) -> bool {
        [0, 1].contains(&(self.queued_at.as_ms() - self.due_at.as_ms()))
    }
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

/// Compares one span with the rows in it, which come in the order of `due_at`. Those before it are passed over, those after
/// it left in `rows` for the next.
pub fn check(
    batch: &str,
    span: &Span<'_>,
    rows: &mut std::iter::Peekable<impl Iterator<Item = Occurrence>>,
    violations: &mut Vec<Violation>,
) {
    let Some(mut scanner) = Scanner::new(span.cron, span.offset_s, span.after) else { return };
    while rows.next_if(|row| row.due_at <= span.after).is_some() {}
    let reboot = span.cron.iter().any(|text| text.trim() == "@reboot");
    let mut found = Found { named: [0; 2], violations };
    let mut due = scanner.next(span.until);
    let mut last: Option<Occurrence> = None;
    while let Some(row) = rows.next_if(|row| row.due_at <= span.until) {
        if last.as_ref().is_some_and(|last| last.due_at == row.due_at) {
            let what = format!("{}: {} has another row", row.run, row.due_at);
            let other = last.as_ref().map_or(String::new(), |last| last.run.to_string());
            found.violations.push(Violation::new("occurrence-twice", what, RESTORE).of(&row.run).row(other));
            continue;
        }
        let first = row.range.map_or(row.due_at, |(from, _, _)| from);
        while let Some(missing) = due.filter(|due| *due < first) {
            found.missing(batch, missing);
            due = scanner.next(span.until);
        }
        let mut covered = 0;
        while due.is_some_and(|due| due <= row.due_at) {
            covered += 1;
            due = scanner.next(span.until);
        }
        found.judge(&row, covered, reboot);
        last = Some(row);
    }
    while let Some(missing) = due {
        found.missing(batch, missing);
        due = scanner.next(span.until);
        if found.named[0] > NAMED_MAX {
            break;
        }
    }
}

struct Found<'v> {
    /// How many of each kind: missing, extra.
    named: [usize; 2],
    violations: &'v mut Vec<Violation>,
}

impl Found<'_> {
    fn missing(&mut self, batch: &str, due_at: Instant) {
        self.named[0] += 1;
        if self.named[0] <= NAMED_MAX {
            let what = format!("{batch} was due at {due_at}, and there is no row");
            self.violations.push(Violation::new("occurrence-missing", what, RESTORE).row(format!("period {batch}")));
        }
    }

    /// `covered` instants were due where the row says so.
    fn judge(&mut self, row: &Occurrence, covered: u64, reboot: bool) {
        let (name, what) = match row.range {
            Some((from, count, at_least)) if count != covered && !(at_least && covered >= count) => {
                let what =
                    format!("it counts {count} occurrences from {from} to {}, and there were {covered}", row.due_at);
                ("occurrence-count", what)
            }
            None if covered == 0 && !(reboot && row.may_be_of_a_boot()) => {
                self.named[1] += 1;
                ("occurrence-extra", format!("nothing was due at {}", row.due_at))
            }
            Some(_) | None => return,
        };
        if self.named[1] <= NAMED_MAX {
            self.violations.push(Violation::new(name, format!("{}: {what}", row.run), RESTORE).of(&row.run));
        }
    }
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
    let row = rows.find(|row| row.due_at > decided && !row.may_be_of_a_boot())?;
    let what = format!(
        "{}: it was due at {}, and the cursor of its batch is at {decided}: it would be decided again",
        row.run, row.due_at
    );
    Some(Violation::new("cursor-behind", what, RESTORE).of(&row.run).row(format!("batch {}", row.run.batch)))
}
