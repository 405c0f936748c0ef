//! Cron expressions: what is accepted yields instants that are strictly later each time, in zones with every kind of change.
//!
//! Input: eight bytes, an instant in milliseconds; then the expression.

use std::sync::{Arc, LazyLock};

use batchd::model::cron::Expression;
use batchd::model::schedule::Schedule;
use batchd::model::time::Instant;
use batchd::model::zone::Zone;
use batchd::zones::Zones;

/// Enough to pass through a change of the clocks and out of it again.
const OCCURRENCES: usize = 20;

static ZONES: LazyLock<Vec<Arc<Zone>>> = LazyLock::new(|| {
    let zones = Zones::new(None, None);
    let names =
        ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "America/Sao_Paulo"];
    names.iter().map(|name| zones.get(name).expect("a zone of every database")).collect()
});

pub(crate) fn check(input: &[u8]) {
    let Some((instant, text)) = input.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let cron = match Expression::parse(text) {
        Ok(Expression::Times(cron)) => cron,
        Ok(Expression::Reboot) => return,
        Err(error) => {
            assert!(text.get(error.span.clone()).is_some(), "the span {:?} is no part of {text:?}", error.span);
            return;
        }
    };
    let from = Instant::from_ms(i64::from_le_bytes(*instant));
    for zone in ZONES.iter() {
        let schedule = Schedule::new(vec![cron.clone()], Arc::clone(zone));
        let mut last = from;
        for _ in 0..OCCURRENCES {
            let Some(due_at) = schedule.next_after(last) else { break };
            assert!(due_at > last, "{text:?} in {}: {due_at} is not after {last}", zone.name);
            last = due_at;
        }
        let latest = schedule.latest(from, last, 1);
        assert_eq!(latest.first().copied(), (last > from).then_some(last), "{text:?} in {}", zone.name);
    }
}
