//! When a batch is due: [`Schedule`].

use std::sync::Arc;

use super::cron::Cron;
use super::time::Instant;
use super::zone::Zone;

/// The cron rules of one batch in its zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    expressions: Vec<Cron>,
    zone: Arc<Zone>,
}

impl Schedule {
    /// The rules of `expressions`, meant in `zone`.
    pub fn new(expressions: Vec<Cron>, zone: Arc<Zone>) -> Self {
        Self { expressions, zone }
    }

    /// The zone in which the rules are meant.
    pub fn zone(&self) -> &Arc<Zone> {
        &self.zone
    }

    /// The first instant after `after` that an expression yields. Strictly later; none if there is none before the year 10000.
    pub fn next_after(&self, _after: Instant) -> Option<Instant> {
        let _ = &self.expressions;
        unimplemented!("filled with the schedule")
    }

    /// How many occurrences there are in `(after, until]`, counted up to `most`.
    pub fn count(&self, _after: Instant, _until: Instant, _most: u64) -> u64 {
        unimplemented!("filled with the schedule")
    }

    /// The last `most` occurrences in `(after, until]`, in order of time. The cost does not grow with the length of the interval.
    pub fn latest(&self, _after: Instant, _until: Instant, _most: usize) -> Vec<Instant> {
        unimplemented!("filled with the schedule")
    }
}
