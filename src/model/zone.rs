//! A time zone as data: [`Zone`], from instants to civil times and back.
//!
//! A zone is a table of offsets and knows no rules: whoever builds one (see [`crate::zones`]) writes the rule of its
//! last years out for one whole Gregorian cycle, and [`Zone`] repeats that cycle for ever. Nothing in here knows where a
//! zone comes from, or what a schedule is.
//!
//! A civil time, what a clock on a wall shows, is a number too: the seconds since 1970-01-01T00:00:00 of that wall.

use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, SecondsFormat};
use sha2::{Digest, Sha256};

use super::time::Instant;

/// The Gregorian calendar repeats after 400 years, weekdays included: they are 146,097 days, a whole number of weeks.
pub const CYCLE_S: i64 = 146_097 * 86_400;

/// No offset is larger, in seconds, east or west. RFC 8536 section 3.2 wants less than 26 hours; real ones are within 16.
pub const OFFSET_S_MAX: i32 = 26 * 3600;

/// Farther from 1970 than any civil time of a writable [`Instant`], and far from overflow when offsets are added.
const FAR_S: i64 = 1 << 50;

/// A time zone: its offsets from UTC and the instants at which they change.
///
/// Data only: where it comes from, and which release of the time-zone database it is, is [`crate::zones`]' affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its IANA name.
    pub name: String,
    /// In force before the first transition.
    first_offset_s: i32,
    /// When the offset changes, in seconds since 1970, ascending. Apart from the offsets, which saves a third of the memory.
    transitions_s: Box<[i64]>,
    /// What it changes to; as long as `transitions_s`.
    offsets_s: Box<[i32]>,
    /// What the table says for `[repeats_from_s, repeats_from_s + CYCLE_S)` holds again in every later cycle.
    repeats_from_s: Option<i64>,
    /// Of the table: two zones with the same one mean the same instants.
    fingerprint: u64,
}

/// A stretch of time, `[start_s, end_s)` in seconds since 1970, with one offset. The next one may have the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start_s: i64,
    pub(super) end_s: i64,
    pub(super) offset_s: i32,
}

/// What a civil time means in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Clocks show it once.
    Unique(Instant),
    /// Clocks skip it; the first instant at which they show a later time.
    Gap(Instant),
    /// Clocks show it twice: at the first instant, and, after they were put back, at the second.
    Ambiguous(Instant, Instant),
}

impl Zone {
    /// A zone from its offset before all transitions and its transitions: (second since 1970, offset after it), ascending.
    ///
    /// With `repeats_from_s`, the transitions cover the cycle of [`CYCLE_S`] that begins there, and it is repeated for ever.
    /// Every offset must be within [`OFFSET_S_MAX`].
    pub fn new(
        name: impl Into<String>,
        first_offset_s: i32,
        transitions: impl IntoIterator<Item = (i64, i32)>,
        repeats_from_s: Option<i64>,
    ) -> Self {
        let (mut first_offset_s, mut last_offset_s) = (first_offset_s, first_offset_s);
        let (mut transitions_s, mut offsets_s) = (Vec::new(), Vec::new());
        for (at_s, offset_s) in transitions {
            assert!(offset_s.abs() <= OFFSET_S_MAX, "an offset of {offset_s} s");
            assert!(transitions_s.last().is_none_or(|last| *last < at_s), "transitions out of order");
            if at_s < Instant::MIN.as_s() - i64::from(OFFSET_S_MAX) {
                (first_offset_s, last_offset_s) = (offset_s, offset_s);
            } else if offset_s != last_offset_s {
                transitions_s.push(at_s);
                offsets_s.push(offset_s);
                last_offset_s = offset_s;
            }
        }
        let fingerprint = fingerprint(first_offset_s, &transitions_s, &offsets_s, repeats_from_s);
        let (transitions_s, offsets_s) = (transitions_s.into(), offsets_s.into());
        Self { name: name.into(), first_offset_s, transitions_s, offsets_s, repeats_from_s, fingerprint }
    }

    /// Coordinated universal time.
    pub fn utc() -> Arc<Self> {
        Arc::new(Self::new("UTC", 0, [], None))
    }

    /// Of its data, without its name: another release of the time-zone database may give the same name another one.
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }

    /// The offset at an instant, in seconds east of UTC.
    pub fn offset_s(&self, at: Instant) -> i32 {
        self.segment(at.as_s()).offset_s
    }

    /// What a clock shows at an instant.
    pub fn civil(&self, at: Instant) -> NaiveDateTime {
        civil_time(at.as_s() + i64::from(self.offset_s(at)))
    }

    /// When a clock shows `civil`, to the second.
    pub fn meaning(&self, civil: NaiveDateTime) -> Meaning {
        let civil_s = civil.and_utc().timestamp();
        let (mut first, mut second, mut skipped) = (None, None, None);
        let mut segment = self.segment(civil_s - i64::from(OFFSET_S_MAX));
        // Only a segment that comes within the largest offset of the civil time can show it.
        loop {
            let at_s = civil_s - i64::from(segment.offset_s);
            if at_s < segment.start_s && first.is_none() {
                // Clocks that are put back right after they were put forward still show it.
                skipped = skipped.or(Some(segment.start_s));
            }
            if (segment.start_s..segment.end_s).contains(&at_s) {
                first = first.or(Some(at_s));
                second = Some(at_s);
            }
            if segment.end_s > civil_s + i64::from(OFFSET_S_MAX) {
                break;
            }
            segment = self.segment(segment.end_s);
        }
        match (first.map(Instant::from_s), second.map(Instant::from_s), skipped.map(Instant::from_s)) {
            (Some(first), Some(second), _) if first != second => Meaning::Ambiguous(first, second),
            (Some(only), _, _) => Meaning::Unique(only),
            (None, _, Some(first_later)) => Meaning::Gap(first_later),
            // Clocks begin before every civil time and end after it, so they show it or pass over it.
            (None, _, None) => unreachable!("the civil time {civil} is neither shown nor skipped in {}", self.name),
        }
    }

    /// The instant as this zone writes it, in RFC 3339 with its offset: `2026-03-29T03:00:00+02:00`, milliseconds if there are any.
    ///
    /// RFC 3339 has no seconds in an offset, which zones had until 1972: such an instant is written with the offset's whole minutes.
    pub fn local(&self, at: Instant) -> String {
        let minutes = self.offset_s(at) / 60;
        let offset = chrono::FixedOffset::east_opt(minutes * 60).unwrap_or_else(|| chrono::Offset::fix(&chrono::Utc));
        at.to_chrono().with_timezone(&offset).to_rfc3339_opts(SecondsFormat::AutoSi, false)
    }

    /// The second from which on the table repeats with the calendar, or says nothing new.
    pub(super) fn settled_from_s(&self) -> i64 {
        self.repeats_from_s.or(self.transitions_s.last().copied()).unwrap_or(-FAR_S)
    }

    /// The segment before `segment`, if there is one.
    pub(super) fn segment_before(&self, segment: &Segment) -> Option<Segment> {
        (segment.start_s > -FAR_S).then(|| self.segment(segment.start_s - 1))
    }

    /// The segment that holds the second `at_s`.
    pub(super) fn segment(&self, at_s: i64) -> Segment {
        let (cycle_start_s, cycle_end_s, shift_s) = match self.repeats_from_s {
            Some(from_s) if at_s >= from_s => (from_s, from_s + CYCLE_S, (at_s - from_s).div_euclid(CYCLE_S) * CYCLE_S),
            Some(from_s) => (-FAR_S, from_s, 0),
            None => (-FAR_S, FAR_S, 0),
        };
        let after = self.transitions_s.partition_point(|transition_s| *transition_s <= at_s - shift_s);
        let start_s = if after == 0 { -FAR_S } else { self.transitions_s[after - 1] };
        let end_s = self.transitions_s.get(after).copied().unwrap_or(FAR_S);
        Segment {
            start_s: start_s.max(cycle_start_s) + shift_s,
            end_s: end_s.min(cycle_end_s) + shift_s,
            offset_s: if after == 0 { self.first_offset_s } else { self.offsets_s[after - 1] },
        }
    }
}

/// The first eight bytes of the SHA-256 of a zone's table.
fn fingerprint(first_offset_s: i32, transitions_s: &[i64], offsets_s: &[i32], repeats_from_s: Option<i64>) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(first_offset_s.to_be_bytes());
    hasher.update(repeats_from_s.unwrap_or(i64::MIN).to_be_bytes());
    for (at_s, offset_s) in transitions_s.iter().zip(offsets_s) {
        hasher.update(at_s.to_be_bytes());
        hasher.update(offset_s.to_be_bytes());
    }
    hasher.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The civil time that is `civil_s` seconds after 1970-01-01T00:00:00.
pub(super) fn civil_time(civil_s: i64) -> NaiveDateTime {
    let time = DateTime::from_timestamp_secs(civil_s);
    time.expect("civil times lie within days of an Instant, and chrono's years reach 250,000 farther").naive_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i32 = 3600;

    fn instant(text: &str) -> Instant {
        Instant::parse(text).unwrap()
    }

    fn second(text: &str) -> i64 {
        instant(text).as_s()
    }

    /// +01:00; +02:00 in the summer of 2026; and both changes again in every cycle.
    fn summer_of_2026() -> Zone {
        let from_s = second("2026-01-01T00:00:00Z");
        let transitions = [(second("2026-03-29T01:00:00Z"), 2 * HOUR), (second("2026-10-25T01:00:00Z"), HOUR)];
        Zone::new("Test/Summer", HOUR, transitions, Some(from_s))
    }

    #[test]
    fn offsets() {
        let zone = summer_of_2026();
        let check = |text: &str, hours: i32| assert_eq!(zone.offset_s(instant(text)), hours * HOUR, "{text}");
        check("0000-01-01T00:00:00Z", 1);
        check("2026-03-29T00:59:59.999Z", 1);
        check("2026-03-29T01:00:00Z", 2);
        check("2026-10-25T00:59:59Z", 2);
        check("2026-10-25T01:00:00Z", 1);
        check("2425-12-31T23:59:59Z", 1);
        check("2426-03-29T00:59:59Z", 1);
        check("2426-03-29T01:00:00Z", 2);
        check("9626-10-25T00:59:59Z", 2);
        check("9999-12-31T23:59:59.999Z", 1);
    }

    #[test]
    fn what_changes_nothing_is_not_kept() {
        let zone = Zone::new("Test/Same", HOUR, [(-1 << 59, 0), (0, 0), (10, HOUR), (20, HOUR), (30, 0)], None);
        assert_eq!((zone.first_offset_s, &*zone.transitions_s, &*zone.offsets_s), (0, &[10, 30][..], &[HOUR, 0][..]));
    }

    #[test]
    fn meanings() {
        let zone = summer_of_2026();
        let check = |civil: &str, expected: Meaning| {
            assert_eq!(zone.meaning(civil.parse().unwrap()), expected, "{civil}");
        };
        let at = instant;
        check("2026-03-29T01:59:59", Meaning::Unique(at("2026-03-29T00:59:59Z")));
        check("2026-03-29T02:00:00", Meaning::Gap(at("2026-03-29T01:00:00Z")));
        check("2026-03-29T02:59:59", Meaning::Gap(at("2026-03-29T01:00:00Z")));
        check("2026-03-29T03:00:00", Meaning::Unique(at("2026-03-29T01:00:00Z")));
        check("2026-10-25T02:30:00", Meaning::Ambiguous(at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z")));
        check("2026-10-25T03:00:00", Meaning::Unique(at("2026-10-25T02:00:00Z")));
        check("2426-03-29T02:30:00", Meaning::Gap(at("2426-03-29T01:00:00Z")));
        check("2426-01-01T00:30:00", Meaning::Unique(at("2425-12-31T23:30:00Z")));
    }

    /// No country has done so; a file may say it.
    #[test]
    fn clocks_that_are_put_back_behind_where_they_were_put_forward() {
        let zone = Zone::new("Test/There-and-back", -22 * HOUR, [(0, 0), (7200, -22 * HOUR)], None);
        let check = |civil_s: i64, expected: Meaning| assert_eq!(zone.meaning(civil_time(civil_s)), expected);
        let at = Instant::from_s;
        let back = 7200 - i64::from(22 * HOUR);
        check(back - 7200 - 1, Meaning::Unique(at(-1)));
        check(back - 7200, Meaning::Gap(at(0)));
        check(back, Meaning::Unique(at(7200)));
        check(-1, Meaning::Unique(at(i64::from(22 * HOUR) - 1)));
        check(0, Meaning::Ambiguous(at(0), at(i64::from(22 * HOUR))));
    }

    #[test]
    fn texts() {
        let zone = summer_of_2026();
        let check = |text: &str, expected: &str| assert_eq!(zone.local(instant(text)), expected);
        check("2026-03-29T00:30:00Z", "2026-03-29T01:30:00+01:00");
        check("2026-03-29T01:00:00.250Z", "2026-03-29T03:00:00.250+02:00");
        assert_eq!(Zone::utc().local(instant("2026-03-29T01:00:00Z")), "2026-03-29T01:00:00+00:00");
        let odd = Zone::new("Test/Odd", -(4 * HOUR + 56 * 60 + 2), [], None);
        assert_eq!(odd.local(instant("1800-01-01T12:00:00Z")), "1800-01-01T07:04:00-04:56");
        assert_eq!(odd.civil(instant("1800-01-01T12:00:00Z")).to_string(), "1800-01-01 07:03:58");
    }
}
