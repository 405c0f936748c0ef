//! When a batch is due: [`Schedule`].

use std::sync::Arc;

use super::time::Instant;
use super::zone::Zone;

/// The cron rules of one batch in its zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    zone: Arc<Zone>,
}

impl Schedule {
    /// The first instant after `after` that an expression yields. Strictly later; none if there is none before the year 10000.
    pub fn next_after(&self, _after: Instant) -> Option<Instant> {
        let _ = &self.zone;
        unimplemented!("filled with the schedule")
    }
}
