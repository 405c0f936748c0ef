//! From the bytes of a TZif file (RFC 8536) to a [`Zone`].
//!
//! The crate `tz-rs` reads the format; the rule in a file's footer, which holds for all years to come, is written out
//! here for one cycle of the calendar.

use chrono::{Datelike, NaiveDate};
use tz::timezone::{AlternateTime, RuleDay, TimeZone, TransitionRule};

use crate::model::time::Instant;
use crate::model::zone::{CYCLE_S, OFFSET_S_MAX, Zone};

/// Reads a zone. The error says what is wrong with the file, without its name.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Zone, String> {
    let file = TimeZone::from_tz_data(bytes).map_err(|error| error.to_string())?;
    let file = file.as_ref();
    if !file.leap_seconds().is_empty() {
        return Err("it contains leap seconds, which batchd doesn't support".to_owned());
    }
    let types = file.local_time_types();
    let ruled = match file.extra_rule() {
        Some(TransitionRule::Alternate(rule)) => vec![rule.std(), rule.dst()],
        Some(TransitionRule::Fixed(only)) => vec![only],
        None => Vec::new(),
    };
    if types.iter().chain(ruled.iter().copied()).any(|kind| kind.ut_offset().abs() > OFFSET_S_MAX) {
        return Err("it has an offset of more than 26 hours".to_owned());
    }
    let explicit = file.transitions().iter();
    let mut transitions: Vec<(i64, i32)> =
        explicit.map(|t| (t.unix_leap_time(), types[t.local_time_type_index()].ut_offset())).collect();
    let rule_from_s = transitions.last().map_or(i64::MIN, |(at_s, _)| *at_s).max(Instant::MIN.as_s());
    let (first_offset_s, repeats_from_s) = match file.extra_rule() {
        Some(TransitionRule::Alternate(rule)) if rule_from_s < Instant::MAX.as_s() => {
            transitions.extend(cycle(rule, rule_from_s));
            (types[0].ut_offset(), Some(rule_from_s))
        }
        Some(TransitionRule::Fixed(only)) if transitions.is_empty() => (only.ut_offset(), None),
        Some(TransitionRule::Fixed(_) | TransitionRule::Alternate(_)) | None => (types[0].ut_offset(), None),
    };
    Ok(Zone::new(name, first_offset_s, transitions, repeats_from_s))
}

/// The transitions of `rule` in the cycle of the calendar that begins at `from_s`, without one at its very start.
fn cycle(rule: &AlternateTime, from_s: i64) -> Vec<(i64, i32)> {
    let (standard_s, daylight_s) = (rule.std().ut_offset(), rule.dst().ut_offset());
    let first_year = chrono::DateTime::from_timestamp_secs(from_s).map_or(0, |from| from.year());
    let mut transitions = Vec::new();
    // A rule's hour may lie in the neighbouring year: one year more on both sides.
    for year in first_year - 1..=first_year + 401 {
        let start_s = midnight_s(rule.dst_start(), year) + i64::from(rule.dst_start_time() - standard_s);
        let end_s = midnight_s(rule.dst_end(), year) + i64::from(rule.dst_end_time() - daylight_s);
        transitions.extend([(start_s, daylight_s, true), (end_s, standard_s, false)]);
    }
    // Daylight time all the year round is written as one that ends in the instant in which it begins again: the start counts.
    transitions.sort_by_key(|(at_s, _, starts)| (*at_s, !*starts));
    transitions.dedup_by_key(|(at_s, _, _)| *at_s);
    let within = transitions.into_iter().filter(|(at_s, _, _)| (from_s + 1..from_s + CYCLE_S).contains(at_s));
    within.map(|(at_s, offset_s, _)| (at_s, offset_s)).collect()
}

/// The midnight at which a rule's day begins in `year`, as a civil time in seconds.
fn midnight_s(day: &RuleDay, year: i32) -> i64 {
    let first_of = |month: u8| {
        let first = NaiveDate::from_ymd_opt(year, u32::from(month), 1);
        first.expect("tz-rs lets only the months 1 to 12 pass, and years here have at most five digits")
    };
    let (first, days) = match day {
        // Counted without 29 February: from 1 March on the days are those of a common year.
        RuleDay::Julian1WithoutLeap(day) if day.get() > 31 + 28 => (first_of(3), day.get() - (31 + 28) - 1),
        RuleDay::Julian1WithoutLeap(day) => (first_of(1), day.get() - 1),
        RuleDay::Julian0WithLeap(day) => (first_of(1), day.get()),
        RuleDay::MonthWeekDay(day) => {
            let first = first_of(day.month());
            let to_weekday = (7 + day.week_day() - first.weekday().num_days_from_sunday() as u8) % 7;
            let days = to_weekday + 7 * (day.week() - 1);
            // The fifth is the last, be it the fourth.
            (first, u16::from(if days < first.num_days_in_month() { days } else { days - 7 }))
        }
    };
    (i64::from(first.to_epoch_days()) + i64::from(days)) * 86_400
}
