//! A map by the ids of runs.

use std::collections::BTreeMap;
use std::ops::Index;

use batchd::model::id::{BatchName, RunId};

/// Something for each run, batch by batch: a year has half a million, and most of the time of a search among all of them would
/// go into comparing names.
#[derive(Debug)]
pub(crate) struct ById<T>(BTreeMap<BatchName, BTreeMap<u64, T>>);

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[allow(dead_code, reason = "whoever has this module uses a part of it")]
impl<T> ById<T> {
    pub(crate) fn get(&self, id: &RunId) -> Option<&T> {
        self.0.get(&id.batch)?.get(&id.number)
    }

    pub(crate) fn get_mut(&mut self, id: &RunId) -> Option<&mut T> {
        self.0.get_mut(&id.batch)?.get_mut(&id.number)
    }

    pub(crate) fn contains_key(&self, id: &RunId) -> bool {
        self.get(id).is_some()
    }

    /// Gives what was there before.
    pub(crate) fn insert(&mut self, id: &RunId, value: T) -> Option<T> {
        self.of_batch(&id.batch).insert(id.number, value)
    }

    pub(crate) fn of_batch(&mut self, batch: &BatchName) -> &mut BTreeMap<u64, T> {
        if !self.0.contains_key(batch) {
            self.0.insert(batch.clone(), BTreeMap::new());
        }
        self.0.get_mut(batch).expect("it is there now")
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().flat_map(BTreeMap::values)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut().flat_map(BTreeMap::values_mut)
    }

    /// In the order of the ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RunId, &T)> {
        self.0.iter().flat_map(|(batch, of)| of.iter().map(|(number, value)| (batch.run(*number), value)))
    }

    /// Those of a batch from this number on.
    pub(crate) fn from(&self, batch: &BatchName, number: u64) -> impl Iterator<Item = &T> {
        self.0.get(batch).into_iter().flat_map(move |runs| runs.range(number..)).map(|(_, value)| value)
    }
}

impl<T> Index<&RunId> for ById<T> {
    type Output = T;

    fn index(&self, id: &RunId) -> &T {
        self.get(id).expect("such a run is there")
    }
}
