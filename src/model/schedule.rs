//! When a batch is due: [`Schedule`]. The one place where civil times become instants, and the rule for both
//! daylight-saving nights stands here.
//!
//! Time is cut into the zone's segments, each with one offset, in which civil time and instants run alike.
//! *Fixed* expressions (neither minute nor hour begins with `*`) are meant by the clock on the wall: what clocks skip
//! fires once, together, at the first instant after the gap; what they show again fires on the first pass only. To the
//! others elapsed time matters: they yield each instant at which clocks show a match, through both passes of a repeated
//! hour, and nothing for what is skipped. That is Debian cron's rule, without its limit of three hours and its reliance
//! on a clock that is watched. Every change of offset is treated alike, whether daylight saving is the reason or not.
//!
//! Knows neither the time it is nor what was already run.

use std::sync::Arc;
use std::time::Duration;

use chrono::NaiveDateTime;
use sha2::{Digest, Sha256};

use super::cron::Cron;
use super::id::BatchName;
use super::time::Instant;
use super::zone::{CYCLE_S, Meaning, OFFSET_S_MAX, Segment, Zone, civil_time};

/// More than the largest shift between two offsets: no civil time is shown again later than this after its first time.
const DAYS_S: i64 = 3 * 86_400;

/// The cron rules of one batch in its zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    expressions: Vec<Cron>,
    zone: Arc<Zone>,
}

/// One instant that a schedule yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// The instant.
    pub due_at: Instant,
    /// How a change of the clocks touches it.
    pub moved: Option<Moved>,
}

/// How a change of the clocks touches an occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Clocks skip its time: it is due at the first instant after the gap. With the first civil time that is so made up for.
    Skipped(NaiveDateTime),
    /// Clocks show its time twice: it is due on the first pass, and not again on the second.
    FirstPassOnly,
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
    pub fn next_after(&self, after: Instant) -> Option<Instant> {
        let from_s = after.as_s() + 1;
        let firsts = self.expressions.iter().filter_map(|cron| first_due(cron, &self.zone, from_s));
        firsts.min().map(|due| Instant::from_s(due.at_s))
    }

    /// The occurrences in `(after, until]`, in order of time.
    pub fn between(&self, after: Instant, until: Instant) -> impl Iterator<Item = Instant> {
        let instants = std::iter::successors(self.next_after(after), |last| self.next_after(*last));
        instants.take_while(move |due_at| *due_at <= until)
    }

    /// The last `most` occurrences in `(after, until]`, in order of time. The cost does not grow with the length of the interval.
    pub fn latest(&self, after: Instant, until: Instant, most: usize) -> Vec<Instant> {
        let mut found: Vec<Instant> = Vec::new();
        let mut until = until;
        // How far back an occurrence is looked for first. Schedules are regular: the last distance is the best guess.
        let mut stride = Duration::from_secs(60);
        while found.len() < most
            && let Some(due_at) = self.last_until(after, until, stride)
        {
            if let Some(later) = found.last() {
                stride = later.since(due_at);
            }
            found.push(due_at);
            until = due_at - Duration::from_millis(1);
        }
        found.reverse();
        found
    }

    /// The occurrences after `after`, in order of time, each with what a change of the clocks does to it.
    pub fn upcoming(&self, after: Instant) -> impl Iterator<Item = Occurrence> {
        let instants = std::iter::successors(self.next_after(after), |last| self.next_after(*last));
        instants.map(|due_at| Occurrence { due_at, moved: self.moved(due_at) })
    }

    /// The last occurrence in `(after, until]`, looked for first in the last `stride`, then ever farther back.
    fn last_until(&self, after: Instant, until: Instant, stride: Duration) -> Option<Instant> {
        let next_until = |from: Instant| self.next_after(from).filter(|due_at| *due_at <= until);
        let mut stride = stride;
        let mut found = loop {
            let from = (until - stride).max(after);
            match next_until(from) {
                Some(due_at) => break due_at,
                None if from == after => return None,
                None => stride *= 2,
            }
        };
        // There is one at `found`, and none after `none_after`: halve what is between.
        let mut none_after = until;
        while let Some(later) = next_until(found).filter(|later| *later <= none_after) {
            found = later;
            let middle = found + none_after.since(found) / 2;
            match next_until(middle) {
                Some(due_at) => found = due_at,
                None => none_after = middle,
            }
        }
        Some(found)
    }

    /// What a change of the clocks does to the occurrence at `due_at`.
    fn moved(&self, due_at: Instant) -> Option<Moved> {
        let at_s = due_at.as_s();
        let dues = self.expressions.iter().filter_map(|cron| Some((cron, first_due(cron, &self.zone, at_s)?)));
        let here: Vec<(&Cron, Due)> = dues.filter(|(_, due)| due.at_s == at_s).collect();
        if let Some(skipped_s) = here.iter().filter_map(|(_, due)| due.skipped_s).min() {
            return Some(Moved::Skipped(civil_time(skipped_s)));
        }
        let once = !here.is_empty() && here.iter().all(|(cron, _)| cron.is_fixed());
        let twice = matches!(self.zone.meaning(self.zone.civil(due_at)), Meaning::Ambiguous(_, _));
        (once && twice).then_some(Moved::FirstPassOnly)
    }
}

/// An offset of at least zero and less than `within` by which a batch's occurrences are moved, so that batches with the same
/// times do not all start at once. The same every time, from the name alone: the first eight bytes of the name's SHA-256, as a
/// big-endian number, modulo `within` in whole milliseconds.
pub fn jitter_offset(batch: &BatchName, within: Duration) -> Duration {
    let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let hash = Sha256::digest(batch.as_str());
    let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Duration::from_millis(number.checked_rem(within_ms).unwrap_or(0))
}

/// An instant that one expression yields. Ordered by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at_s: i64,
    /// The first civil time that clocks skip here and that matches.
    skipped_s: Option<i64>,
}

/// The first instant, not before `from_s`, that `cron` yields in `zone`; none if there is none before the year 10000.
///
/// A calendar's cycle after the zone's table has ended everything has been seen: what has not fired then never will.
fn first_due(cron: &Cron, zone: &Zone, from_s: i64) -> Option<Due> {
    let end_s = (zone.settled_from_s().max(from_s) + CYCLE_S + DAYS_S).min(Instant::MAX.as_s());
    let mut from_s = from_s;
    while from_s <= end_s {
        let segment = zone.segment(from_s);
        let found =
            if cron.is_fixed() { fixed_due(cron, zone, segment, from_s) } else { real_due(cron, segment, from_s) };
        if found.is_some() {
            return found.filter(|due| due.at_s <= end_s);
        }
        // What is due from the next segment on shows, or makes up for, a civil time that is within an offset of its instant.
        let match_s = cron.next_from(segment.end_s - i64::from(OFFSET_S_MAX))?;
        from_s = segment.end_s.max(match_s - i64::from(OFFSET_S_MAX));
    }
    None
}

/// The first instant in `segment` that a fixed expression yields, not before `from_s`.
fn fixed_due(cron: &Cron, zone: &Zone, segment: Segment, from_s: i64) -> Option<Due> {
    let offset_s = i64::from(segment.offset_s);
    let passed_s = passed_before(zone, segment);
    let opening_s = segment.start_s + offset_s;
    if from_s == segment.start_s && passed_s < opening_s {
        let skipped_s = cron.next_from(passed_s).filter(|civil_s| *civil_s < opening_s);
        if skipped_s.is_some() {
            return Some(Due { at_s: segment.start_s, skipped_s });
        }
    }
    let civil_s = cron.next_from((from_s + offset_s).max(passed_s))?;
    (civil_s < segment.end_s + offset_s).then(|| Due { at_s: civil_s - offset_s, skipped_s: None })
}

/// The first instant in `segment` that an expression which is not fixed yields, not before `from_s`.
fn real_due(cron: &Cron, segment: Segment, from_s: i64) -> Option<Due> {
    let offset_s = i64::from(segment.offset_s);
    let civil_s = cron.next_from(from_s + offset_s)?;
    (civil_s < segment.end_s + offset_s).then(|| Due { at_s: civil_s - offset_s, skipped_s: None })
}

/// The civil time up to which clocks had come at the most when `segment` begins; nothing is behind the zone's first segment.
fn passed_before(zone: &Zone, segment: Segment) -> i64 {
    let earlier = std::iter::successors(zone.segment_before(&segment), |earlier| zone.segment_before(earlier));
    let near = earlier.take_while(|earlier| earlier.end_s > segment.start_s - DAYS_S);
    near.map(|earlier| earlier.end_s + i64::from(earlier.offset_s)).max().unwrap_or(i64::MIN / 2)
}

#[cfg(test)]
mod tests {
    use super::super::cron::Expression;
    use super::*;

    const HOUR: i32 = 3600;

    fn instant(text: &str) -> Instant {
        Instant::parse(text).unwrap()
    }

    fn cron(text: &str) -> Cron {
        match Expression::parse(text) {
            Ok(Expression::Times(cron)) => cron,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn schedule(expressions: &[&str], zone: &Arc<Zone>) -> Schedule {
        Schedule::new(expressions.iter().map(|text| cron(text)).collect(), Arc::clone(zone))
    }

    /// A zone with +01:00, and then other offsets in minutes from these instants on.
    fn zone(changes: &[(&str, i32)]) -> Arc<Zone> {
        let transitions = changes.iter().map(|(at, minutes)| (instant(at).as_s(), minutes * 60));
        Arc::new(Zone::new("Test/Zone", HOUR, transitions, None))
    }

    fn berlin() -> Arc<Zone> {
        zone(&[("2026-03-29T01:00:00Z", 120), ("2026-10-25T01:00:00Z", 60)])
    }

    /// What is due in the hours behind `from`, as the zone's clocks show it, with `*` where moved and `1` where first pass only.
    fn due_in(schedule: &Schedule, from: &str, hours: u64) -> String {
        let until = instant(from) + Duration::from_secs(hours * 3600);
        let due = schedule.upcoming(instant(from)).take_while(|occurrence| occurrence.due_at <= until);
        let texts: Vec<String> = due.map(|occurrence| text(schedule.zone(), occurrence)).collect();
        texts.join(" ")
    }

    fn text(zone: &Zone, occurrence: Occurrence) -> String {
        let mark = match occurrence.moved {
            None => String::new(),
            Some(Moved::Skipped(civil)) => format!("*{}", civil.format("%H:%M")),
            Some(Moved::FirstPassOnly) => "1".to_owned(),
        };
        let offset_h = f64::from(zone.offset_s(occurrence.due_at)) / 3600.0;
        format!("{}+{offset_h}{mark}", zone.civil(occurrence.due_at).format("%H:%M"))
    }

    #[test]
    fn c1_c2_the_night_in_spring() {
        let check = |expressions: &[&str], expected: &str| {
            assert_eq!(
                due_in(&schedule(expressions, &berlin()), "2026-03-29T00:29:59Z", 2),
                expected,
                "{expressions:?}"
            );
        };
        check(&["30 2 * * *"], "03:00+2*02:30");
        check(&["15,30,45 2 * * *"], "03:00+2*02:15");
        check(&["0,30 1-3 * * *"], "01:30+1 03:00+2*02:00 03:30+2");
        check(&["30 2 * * *", "0 3 * * *"], "03:00+2*02:30");
        check(&["0 3 * * *"], "03:00+2");
        check(&["*/15 * * * *"], "01:30+1 01:45+1 03:00+2 03:15+2 03:30+2 03:45+2 04:00+2 04:15+2");
        check(&["30 * * * *"], "01:30+1 03:30+2");
        check(&["*/20 2 * * *"], "");
    }

    #[test]
    fn c3_c4_the_night_in_autumn() {
        let check = |expressions: &[&str], expected: &str| {
            assert_eq!(
                due_in(&schedule(expressions, &berlin()), "2026-10-24T23:59:59Z", 3),
                expected,
                "{expressions:?}"
            );
        };
        check(&["30 2 * * *"], "02:30+21");
        check(&["0 3 * * *"], "03:00+1");
        check(&["0,30 2,3 * * *"], "02:00+21 02:30+21 03:00+1 03:30+1");
        check(&["30 * * * *"], "02:30+2 02:30+1 03:30+1");
        check(&["*/30 2 * * *"], "02:00+2 02:30+2 02:00+1 02:30+1");
        check(&["30 2 * * *", "30 * * * *"], "02:30+2 02:30+1 03:30+1");
    }

    #[test]
    fn c8_a_day_that_is_skipped() {
        // As in Apia at the end of 2011: from -10:00 to +14:00 at midnight.
        let zone = zone(&[("2026-01-01T00:00:00Z", -600), ("2026-05-08T10:00:00Z", 840)]);
        let check = |expression: &str, expected: &[&str]| {
            let schedule = schedule(&[expression], &zone);
            let due: Vec<String> = schedule
                .upcoming(instant("2026-05-08T05:00:00Z"))
                .take(expected.len())
                .map(|o| zone.local(o.due_at))
                .collect();
            assert_eq!(due, expected, "{expression}");
        };
        check(
            "0 5,12,20 * * *",
            &["2026-05-07T20:00:00-10:00", "2026-05-09T00:00:00+14:00", "2026-05-09T05:00:00+14:00"],
        );
        check("0 12 8 5 *", &["2026-05-09T00:00:00+14:00", "2027-05-08T12:00:00+14:00"]);
        check("0 */12 * * *", &["2026-05-09T00:00:00+14:00", "2026-05-09T12:00:00+14:00"]);
    }

    #[test]
    fn c7_clocks_put_back_twice_show_nothing_new() {
        // An hour forth and, within the shown hour, one back and one more: 01:30 to 02:00 comes thrice.
        let zone = zone(&[("2026-01-01T01:00:00Z", 0), ("2026-01-01T02:00:00Z", -60)]);
        assert_eq!(due_in(&schedule(&["30 1 * * *"], &zone), "2025-12-31T23:59:59Z", 6), "01:30+11");
        assert_eq!(due_in(&schedule(&["30 * * * *"], &zone), "2026-01-01T00:00:00Z", 3), "01:30+1 01:30+0 01:30+-1");
    }

    #[test]
    fn latest_and_between_agree_with_next_after() {
        let check = |expressions: &[&str], after: &str, until: &str| {
            let schedule = schedule(expressions, &berlin());
            let (after, until) = (instant(after), instant(until));
            let all: Vec<Instant> =
                schedule.upcoming(after).map(|o| o.due_at).take_while(|due_at| *due_at <= until).collect();
            assert_eq!(schedule.between(after, until).collect::<Vec<_>>(), all);
            for most in [0, 1, 2, 7, all.len(), all.len() + 1] {
                let expected = &all[all.len().saturating_sub(most)..];
                assert_eq!(schedule.latest(after, until, most), expected, "{expressions:?} {after} {until} {most}");
            }
        };
        let sets: [&[&str]; 5] =
            [&["30 2 * * *"], &["*/15 * * * *", "7 1 * * 1"], &["0 0 29 2 *"], &["* 2-4 1 * *"], &["*/30 2 * * *"]];
        for expressions in sets {
            check(expressions, "2026-03-20T00:00:00Z", "2026-04-10T00:00:00Z");
            check(expressions, "2026-10-25T00:10:00.250Z", "2026-10-25T02:30:00Z");
            check(expressions, "2026-05-01T00:00:00Z", "2026-05-01T00:00:00Z");
            check(expressions, "2026-05-02T00:00:00Z", "2026-05-01T00:00:00Z");
        }
        check(&["0 0 29 2 *"], "1800-01-01T00:00:00Z", "2500-01-01T00:00:00Z");
    }

    #[test]
    fn c22_the_end_of_time() {
        let schedule = schedule(&["* * * * *"], &Zone::utc());
        assert_eq!(schedule.next_after(instant("9999-12-31T23:58:30Z")), Some(instant("9999-12-31T23:59:00Z")));
        assert_eq!(schedule.next_after(instant("9999-12-31T23:59:00Z")), None);
        assert_eq!(schedule.next_after(Instant::MAX), None);
        assert_eq!(schedule.latest(Instant::MIN, Instant::MAX, 1), [instant("9999-12-31T23:59:00Z")]);
        assert_eq!(Schedule::new(Vec::new(), Zone::utc()).next_after(Instant::MIN), None);
    }

    #[test]
    fn c21_what_clocks_never_show_ends() {
        let changes = (2000..2100).flat_map(|year| {
            let at = |text: String| instant(&text).as_s();
            [(at(format!("{year}-03-01T01:00:00Z")), 2 * HOUR), (at(format!("{year}-10-01T01:00:00Z")), HOUR)]
        });
        let zone = Arc::new(Zone::new("Test/Always", HOUR, changes.collect::<Vec<_>>(), None));
        let schedule = schedule(&["* 2 1 3 *"], &zone);
        assert_eq!(schedule.next_after(instant("2000-01-01T00:00:00Z")), Some(instant("2100-03-01T01:00:00Z")));
    }

    #[test]
    fn jitter() {
        let check = |name: &str, within: u64, expected: u64| {
            let offset = jitter_offset(&BatchName::new(name).unwrap(), Duration::from_millis(within));
            assert_eq!(offset, Duration::from_millis(expected), "{name} {within}");
        };
        // `printf report | sha256sum` begins with 845e91831319e89c, which is 9538221052964497564.
        check("report", 0, 0);
        check("report", 1, 0);
        check("report", 600_000, 97_564);
        check("report", 3_600_000, 2_497_564);
        check("report", u64::MAX, 9_538_221_052_964_497_564);
    }
}
