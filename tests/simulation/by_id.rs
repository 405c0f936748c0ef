//! A map by the ids of runs.

use std::collections::BTreeMap;
use std::ops::Index;

use batchd::model::id::{BatchName, RunId};

/// Something for each run, batch by batch, in the place of its number: a year has half a million, and in a tree of all of them
/// most of the time would go into comparing names and moving rows.
#[derive(Debug)]
pub(crate) struct ById<T>(BTreeMap<BatchName, Vec<Option<Box<T>>>>);

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[allow(dead_code, reason = "whoever has this module uses a part of it")]
impl<T> ById<T> {
    pub(crate) fn get(&self, id: &RunId) -> Option<&T> {
        self.0.get(&id.batch)?.get(place(id.number))?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: &RunId) -> Option<&mut T> {
        self.0.get_mut(&id.batch)?.get_mut(place(id.number))?.as_deref_mut()
    }

    pub(crate) fn contains_key(&self, id: &RunId) -> bool {
        self.get(id).is_some()
    }

    /// Gives what was there before.
    pub(crate) fn insert(&mut self, id: &RunId, value: T) -> Option<T> {
        self.place(id).replace(Box::new(value)).map(|before| *before)
    }

    /// Where something for this run is, or will be.
    pub(crate) fn place(&mut self, id: &RunId) -> &mut Option<Box<T>> {
        if !self.0.contains_key(&id.batch) {
            self.0.insert(id.batch.clone(), Vec::new());
        }
        let numbered = self.0.get_mut(&id.batch).expect("it is there now");
        let place = place(id.number);
        if numbered.len() <= place {
            numbered.resize_with(place + 1, || None);
        }
        &mut numbered[place]
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().flatten().flatten().map(Box::as_ref)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut().flatten().flatten().map(Box::as_mut)
    }

    /// In the order of the ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RunId, &T)> {
        let numbered = self.0.iter().flat_map(|(batch, of)| (0..).zip(of).map(move |(number, it)| (batch, number, it)));
        numbered.filter_map(|(batch, number, it)| Some((batch.run(number), it.as_deref()?)))
    }

    /// Those of a batch from this number on.
    pub(crate) fn from(&self, batch: &BatchName, number: u64) -> impl Iterator<Item = &T> {
        self.0.get(batch).into_iter().flatten().skip(place(number)).flatten().map(Box::as_ref)
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("no simulation has that many runs")
}

impl<T> Index<&RunId> for ById<T> {
    type Output = T;

    fn index(&self, id: &RunId) -> &T {
        self.get(id).expect("such a run is there")
    }
}
