//! Long rows of equal skipped or missed runs as one line: [`Lines`].

use crate::api::RunView;
use crate::journal::query::PageMark;
use crate::model::run::Outcome;

/// As many equal rows become one line: two are read as fast as their range.
const ROWS_MIN: u64 = 3;

/// One row, or several equal ones.
pub(in crate::cli) struct Line {
    /// The newest.
    pub(super) newest: RunView,
    /// The oldest, if there are several.
    pub(super) oldest: Option<RunView>,
    /// How many occurrences the rows stand for.
    pub(super) occurrences: u64,
    /// The row after the newest, as long as there may be only two.
    second: Option<(RunView, PageMark)>,
    rows: u64,
}

/// Rows, newest first, as they become lines.
pub(super) struct Lines {
    folds: bool,
    most: usize,
    lines: Vec<Line>,
}

impl Line {
    /// A line for each run.
    pub(in crate::cli) fn each(runs: impl IntoIterator<Item = RunView>) -> Vec<Self> {
        runs.into_iter().map(Self::of).collect()
    }

    fn of(run: RunView) -> Self {
        let occurrences = run.range.as_ref().map_or(1, |range| range.count);
        Self { newest: run, oldest: None, occurrences, second: None, rows: 1 }
    }

    fn is_folded(&self) -> bool {
        self.rows >= ROWS_MIN
    }

    /// How many lines this takes on the screen.
    fn height(&self) -> usize {
        if self.is_folded() { 1 } else { self.rows as usize }
    }

    /// Whether this older run says the same.
    fn continues_with(&self, older: &RunView) -> bool {
        let last = self.oldest.as_ref().or(self.second.as_ref().map(|(run, _)| run)).unwrap_or(&self.newest);
        let says = |run: &RunView| (run.outcome, run.trigger, run.reason.clone(), run.remark.clone());
        matches!(older.outcome, Some(Outcome::Skipped | Outcome::Missed))
            && older.batch == last.batch
            && older.number + 1 == last.number
            && says(older) == says(&self.newest)
    }

    fn push(&mut self, older: RunView, mark: PageMark) {
        self.rows += 1;
        self.occurrences += older.range.as_ref().map_or(1, |range| range.count);
        if self.is_folded() {
            self.second = None;
            self.oldest = Some(older);
        } else {
            self.second = Some((older, mark));
        }
    }
}

impl Lines {
    /// At most so many lines.
    pub(super) fn new(folds: bool, most: usize) -> Self {
        Self { folds, most, lines: Vec::new() }
    }

    /// Takes the next older run, which begins the page of this mark. False: all lines are there, and it is left over.
    pub(super) fn push(&mut self, run: RunView, mark: &PageMark) -> bool {
        if let Some(last) = self.lines.last_mut().filter(|last| self.folds && last.continues_with(&run)) {
            last.push(run, mark.clone());
            return true;
        }
        if self.height() >= self.most {
            return false;
        }
        self.lines.push(Line::of(run));
        true
    }

    fn height(&self) -> usize {
        self.lines.iter().map(Line::height).sum()
    }

    /// The lines, and the mark of the first row that did not fit although it was taken.
    pub(super) fn finish(self) -> (Vec<Line>, Option<PageMark>) {
        let mut left_over = None;
        let too_high = self.height() > self.most;
        let mut lines = Vec::new();
        for mut line in self.lines {
            let Some((run, mark)) = line.second.take() else {
                lines.push(line);
                continue;
            };
            lines.extend([line.newest, run].map(Line::of));
            left_over = Some(mark);
        }
        // Only the second row of the last line can be beyond the end.
        if too_high {
            lines.pop();
            return (lines, left_over);
        }
        (lines, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view_tests::ended;

    fn view(id: &str, outcome: Outcome) -> RunView {
        RunView::from(&ended(id, outcome, None))
    }

    fn mark(number: u64) -> PageMark {
        format!("{number}-{number}").parse().unwrap()
    }

    /// What `most` lines show of runs of `m` (newest first), by number of the newest and the oldest and occurrences; and
    /// the mark of what is left over.
    fn folded(runs: &[(u64, Outcome)], most: usize, folds: bool) -> (Vec<(u64, u64, u64)>, Option<String>) {
        let mut lines = Lines::new(folds, most);
        let mut rest = None;
        for (number, outcome) in runs {
            if !lines.push(view(&format!("m.{number}"), *outcome), &mark(*number)) {
                rest = Some(mark(*number));
                break;
            }
        }
        let (lines, beyond) = lines.finish();
        let shown = lines.iter().map(|line| {
            let oldest = line.oldest.as_ref().unwrap_or(&line.newest);
            (line.newest.number, oldest.number, line.occurrences)
        });
        (shown.collect(), beyond.or(rest).map(|mark| mark.to_string()))
    }

    #[test]
    fn b_equal_rows_become_one_line() {
        use Outcome::{Failed, Missed, Skipped, Succeeded};
        let runs = [
            (9, Succeeded),
            (8, Missed),
            (7, Missed),
            (6, Missed),
            (5, Skipped),
            (4, Skipped),
            (3, Failed),
            (2, Failed),
        ];
        let all = [(9, 9, 1), (8, 6, 3), (5, 5, 1), (4, 4, 1), (3, 3, 1), (2, 2, 1)];
        assert_eq!(folded(&runs, 20, true), (all.to_vec(), None));
        assert_eq!(folded(&runs, 2, true), (all[..2].to_vec(), Some("5-5".to_owned())));
        // The second of two equal rows does not fit any more: the next page begins with it.
        assert_eq!(folded(&runs, 3, true), (all[..3].to_vec(), Some("4-4".to_owned())));
        assert_eq!(folded(&runs, 4, true), (all[..4].to_vec(), Some("3-3".to_owned())));
        assert_eq!(folded(&runs, 20, false).0.len(), runs.len());
        // A gap in the numbers is no row.
        assert_eq!(folded(&[(9, Missed), (8, Missed), (6, Missed)], 20, true).0.len(), 3);
        // Forty rows of one line are one line.
        let many: Vec<_> = (1..=40).rev().map(|number| (number, Missed)).collect();
        assert_eq!(folded(&many, 1, true), (vec![(40, 1, 40)], None));
    }
}
