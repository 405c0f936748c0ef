//! Zone files: of what is accepted, every instant has a civil time that means that instant again, and schedules in it go
//! forward.
//!
//! Input: eight bytes, an instant in milliseconds; then the file.

use std::sync::Arc;

use batchd::model::cron::Expression;
use batchd::model::schedule::Schedule;
use batchd::model::time::Instant;
use batchd::model::zone::{Meaning, OFFSET_S_MAX};
use batchd::zones::tzif;

/// Every kind: one that follows real time, a fixed time of night, and one that seldom comes.
const EXPRESSIONS: [&str; 3] = ["*/7 * * * *", "30 2 * * *", "0 0 29 2 *"];
/// Enough to pass through some changes.
const OCCURRENCES: usize = 8;

pub(crate) fn check(input: &[u8]) {
    let Some((instant, bytes)) = input.split_first_chunk::<8>() else { return };
    let Ok(zone) = tzif::parse("Fuzzed/Zone", bytes) else { return };
    let zone = Arc::new(zone);
    let from = Instant::from_ms(i64::from_le_bytes(*instant));
    for at in [from, Instant::from_s(0), Instant::from_s(2_000_000_000), Instant::MIN, Instant::MAX] {
        let at = Instant::from_s(at.as_s());
        assert!(zone.offset_s(at).abs() <= OFFSET_S_MAX);
        let means = match zone.meaning(zone.civil(at)) {
            Meaning::Unique(only) => only == at,
            Meaning::Ambiguous(first, second) => first <= at && at <= second,
            // Its clocks show it, since they just have.
            Meaning::Gap(_) => false,
        };
        assert!(means || at == Instant::MIN || at == Instant::MAX, "{at} in {zone:?}");
        assert!(!zone.local(at).is_empty());
    }
    for text in EXPRESSIONS {
        let Ok(Expression::Times(cron)) = Expression::parse(text) else { unreachable!("{text} is an expression") };
        let schedule = Schedule::new(vec![cron], Arc::clone(&zone));
        let mut last = from;
        for _ in 0..OCCURRENCES {
            let Some(due_at) = schedule.next_after(last) else { break };
            assert!(due_at > last, "{text}: {due_at} is not after {last}");
            last = due_at;
        }
    }
}
