//! Pages of runs: [`Page`].

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use rusqlite::types::ToSql;
use rusqlite::{Connection, Result, params_from_iter};

use crate::journal::row::{COLUMNS, run_from_row};
use crate::model::id::{BatchName, RunId};
use crate::model::run::{Outcome, Run, StateWord, Trigger};
use crate::model::time::Instant;

/// The outcomes of a run that did not do its work.
const FAILED: [Outcome; 3] = [Outcome::Failed, Outcome::TimedOut, Outcome::Lost];

/// Which runs are asked for; what is none lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Runs of this batch.
    pub batch: Option<BatchName>,
    /// Runs of this chain.
    pub chain: Option<RunId>,
    /// Runs with this outcome.
    pub outcome: Option<Outcome>,
    /// Runs that failed, timed out or were lost.
    pub failed: bool,
    /// Runs that exist for this reason.
    pub trigger: Option<Trigger>,
    /// Runs in this state.
    pub state: Option<StateWord>,
    /// Runs whose row was made at this instant or later.
    pub since: Option<Instant>,
    /// Runs whose row was made before this instant.
    pub until: Option<Instant>,
}

/// Some runs, newest first: by `queued_at`, and those of the same instant by when their rows were made.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The runs.
    pub runs: Vec<Run>,
    /// For each run, the mark of a page that begins with it.
    pub marks: Vec<PageMark>,
    /// Where the next page begins; none: this is the last.
    pub next: Option<PageMark>,
}

/// Where a page begins. What is in its text is nobody's business but this module's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageMark {
    queued_at: Instant,
    seq: i64,
}

pub(super) fn page(connection: &Connection, filter: &Filter, from: Option<&PageMark>, size: u32) -> Result<Page> {
    // One more than fits tells whether there is a next page, and where it begins.
    let most = size + 1;
    let mut rows = if filter.failed {
        // An index has the rows of one outcome in the order of time: each gives its newest.
        let of_outcome = |outcome| {
            let filter = Filter { outcome: Some(outcome), failed: false, ..filter.clone() };
            rows(connection, &filter, from, most)
        };
        let failed = FAILED.into_iter().filter(|outcome| filter.outcome.is_none_or(|asked| asked == *outcome));
        let mut rows = failed.map(of_outcome).collect::<Result<Vec<_>>>()?.concat();
        rows.sort_by_key(|(_, mark)| Reverse((mark.queued_at, mark.seq)));
        rows.truncate(most as usize);
        rows
    } else {
        rows(connection, filter, from, most)?
    };
    let beyond = if rows.len() > size as usize { rows.pop() } else { None };
    let (runs, marks) = rows.into_iter().unzip();
    Ok(Page { runs, marks, next: beyond.map(|(_, mark)| mark) })
}

/// The first rows that a filter lets through, whatever its `failed`.
fn rows(connection: &Connection, filter: &Filter, from: Option<&PageMark>, most: u32) -> Result<Vec<(Run, PageMark)>> {
    let mut conditions = Conditions::new(filter, from);
    let mut statement = connection.prepare_cached(&conditions.page_sql())?;
    conditions.values.push(Box::new(most));
    let seq_column = statement.column_count() - 1;
    let row = |row: &rusqlite::Row<'_>| {
        let run = run_from_row(row)?;
        let mark = PageMark { queued_at: run.queued_at, seq: row.get(seq_column)? };
        Ok((run, mark))
    };
    statement.query_map(params_from_iter(conditions.values), row)?.collect()
}

/// What stands behind WHERE, with its values.
struct Conditions {
    text: String,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    /// Where an index holds only some rows, its own condition is said too: SQLite does not infer it from a value.
    fn new(filter: &Filter, from: Option<&PageMark>) -> Self {
        let mut all = Self { text: "TRUE".to_owned(), values: Vec::new() };
        all.and("batch = ?", filter.batch.clone());
        all.and("chain = ?", filter.chain.clone());
        match filter.outcome {
            None | Some(Outcome::Succeeded) => all.and("outcome = ?", filter.outcome),
            Some(_) => all.and("outcome <> 'succeeded' AND outcome = ?", filter.outcome),
        }
        match filter.trigger {
            None | Some(Trigger::Schedule | Trigger::Upstream) => all.and("trigger = ?", filter.trigger),
            Some(_) => all.and("trigger NOT IN ('schedule', 'upstream') AND trigger = ?", filter.trigger),
        }
        match filter.state {
            None | Some(StateWord::Ended) => all.and("state = ?", filter.state),
            Some(_) => all.and("state <> 'ended' AND state = ?", filter.state),
        }
        all.and("queued_at >= ?", filter.since);
        all.and("queued_at < ?", filter.until);
        // An index knows the first part; the second decides within its last instant.
        all.and("queued_at <= ?", from.map(|from| from.queued_at));
        if let Some(from) = from {
            all.text.push_str(" AND (queued_at < ? OR seq <= ?)");
            all.values.extend([Box::new(from.queued_at) as Box<dyn ToSql>, Box::new(from.seq)]);
        }
        all
    }

    /// The statement for a page; its last value is how many rows it gives at most.
    fn page_sql(&self) -> String {
        format!("SELECT {}, seq FROM run WHERE {} ORDER BY queued_at DESC, seq DESC LIMIT ?", *COLUMNS, self.text)
    }

    /// One more condition, if there is a value for it.
    fn and<T: ToSql + 'static>(&mut self, condition: &str, value: Option<T>) {
        if let Some(value) = value {
            self.text.push_str(" AND ");
            self.text.push_str(condition);
            self.values.push(Box::new(value));
        }
    }
}

impl fmt::Display for PageMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.queued_at.as_ms(), self.seq)
    }
}

impl FromStr for PageMark {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.rsplit_once('-').and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
        let (ms, seq) = parts.ok_or_else(|| format!("`{text}` is not a page mark; copy it from the previous page"))?;
        Ok(Self { queued_at: Instant::from_ms(ms), seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;
    use crate::journal::query::Reader;

    /// How SQLite carries out the statement for a page.
    fn plan(connection: &Connection, filter: &Filter, from: Option<&PageMark>) -> String {
        let sql = format!("EXPLAIN QUERY PLAN {}", Conditions::new(filter, from).page_sql());
        let mut statement = connection.prepare(&sql).unwrap();
        let values = vec![1; statement.parameter_count()];
        let lines = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn pages_come_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let _journal = Journal::open(&path).unwrap();
        let reader = Reader::open(&path).unwrap();
        let check = |filter: Filter, index: &str| {
            for from in [None, Some("5-5".parse().unwrap())] {
                let plan = plan(&reader.connection, &filter, from.as_ref());
                assert!(plan.contains(&format!("INDEX {index} ")) || plan.ends_with(index), "{filter:?}: {plan}");
                // Only what is few is sorted.
                assert!(
                    !plan.contains("TEMP B-TREE") || ["run_chain", "run_live"].contains(&index),
                    "{filter:?}: {plan}"
                );
            }
        };
        let all = Filter::default;
        let batch = Some(BatchName::new("a").unwrap());
        check(all(), "run_queued");
        check(Filter { since: Some(Instant::MIN), ..all() }, "run_queued");
        check(Filter { batch: batch.clone(), ..all() }, "run_batch_queued");
        check(Filter { batch: batch.clone(), since: Some(Instant::MIN), ..all() }, "run_batch_queued");
        check(Filter { chain: Some("a.1".parse().unwrap()), ..all() }, "run_chain");
        check(Filter { outcome: Some(Outcome::Succeeded), ..all() }, "run_queued");
        check(Filter { outcome: Some(Outcome::Lost), ..all() }, "run_unsuccessful");
        check(Filter { trigger: Some(Trigger::Upstream), ..all() }, "run_queued");
        check(Filter { trigger: Some(Trigger::Manual), ..all() }, "run_unusual");
        check(Filter { state: Some(StateWord::Ended), ..all() }, "run_queued");
    }
}
