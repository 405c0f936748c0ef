//! What has a row although it is still to come, since the clock was set back: [`Ahead`].

use std::collections::{BTreeMap, BTreeSet};

use crate::model::time::Instant;

/// Occurrences of one batch that are later than its cursor and have a row. A month of minutes may be among them, so none is
/// looked for by walking through the others.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Those with a row of their own.
    alone: BTreeSet<Instant>,
    /// Rows for many: by the last instant the first. Few, since each comes with a thousand others.
    many: BTreeMap<Instant, Instant>,
}

impl Ahead {
    /// Adds a row: the first and the last instant that it stands for.
    pub(super) fn insert(&mut self, (from, to): (Instant, Instant)) {
        if from == to {
            self.alone.insert(to);
        } else {
            self.many.insert(to, from);
        }
    }

    /// Forgets what is not later than the cursor any more.
    pub(super) fn forget_until(&mut self, cursor: Instant) {
        let later = Instant::from_ms(cursor.as_ms() + 1);
        self.alone = self.alone.split_off(&later);
        self.many = self.many.split_off(&later);
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.many.is_empty()
    }

    /// The first and the last instant that a row stands for which stands for this one.
    pub(super) fn row_of(&self, instant: Instant) -> Option<(Instant, Instant)> {
        let mut many = self.many.range(instant..).map(|(to, from)| (*from, *to));
        many.find(|(from, _)| *from <= instant).or_else(|| self.alone.contains(&instant).then_some((instant, instant)))
    }

    /// All rows, by their last instant: the first and the last.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Instant, Instant)> {
        let mut rows: Vec<(Instant, Instant)> = self.alone.iter().map(|at| (*at, *at)).collect();
        rows.extend(self.many.iter().map(|(to, from)| (*from, *to)));
        rows.sort_by_key(|(_, to)| *to);
        rows.into_iter()
    }
}
