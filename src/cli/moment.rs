//! Instants and spans of time as people write and read them.

use std::time::Duration;

use chrono::{Days, NaiveDate, NaiveDateTime, NaiveTime};

use crate::model::text::quoted;
use crate::model::time::{Instant, format_duration, parse_duration};
use crate::model::zone::{Meaning, Zone};

/// How people write a civil time, the shortest last.
const CIVIL_FORMS: [&str; 4] = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];

/// What [`parse`] accepts, for `--help` and for messages.
pub(super) const FORMS: &str = "`2h` (ago), `today`, `yesterday`, `2026-11-24` (its midnight), `2026-11-24 03:00`, or RFC 3339 such as `2026-11-24T03:00:00Z`";

/// Reads an instant of the past or a civil time in `zone`. If clocks show the time twice, the first is meant; if they skip
/// it, the end of the gap. The error lists the accepted forms.
pub(super) fn parse(text: &str, now: Instant, zone: &Zone) -> Result<Instant, String> {
    let text = text.trim();
    let today = zone.civil(now).date();
    let day = match text {
        "now" => return Ok(now),
        "today" => Some(today),
        "yesterday" => today.checked_sub_days(Days::new(1)),
        "tomorrow" => today.checked_add_days(Days::new(1)),
        _ => text.parse::<NaiveDate>().ok(),
    };
    if let Some(day) = day {
        return Ok(instant_of(day.and_time(NaiveTime::MIN), zone));
    }
    if let Some(instant) = Instant::parse(text) {
        return Ok(instant);
    }
    let civil = CIVIL_FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    if let Some(civil) = civil {
        return Ok(instant_of(civil, zone));
    }
    let ago = text.strip_suffix(" ago").unwrap_or(text);
    parse_duration(ago).map(|ago| now - ago).map_err(|_| format!("`{}` is not a time; write {FORMS}", quoted(text)))
}

fn instant_of(civil: NaiveDateTime, zone: &Zone) -> Instant {
    match zone.meaning(civil) {
        Meaning::Unique(at) | Meaning::Gap(at) | Meaning::Ambiguous(at, _) => at,
    }
}

/// What a clock in `zone` shows, to the second: `2026-11-24 03:00:00`.
pub(super) fn civil(at: Instant, zone: &Zone) -> String {
    zone.civil(at).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// The same with the weekday before it and the offset behind it: `Tue 2026-11-24 03:00:00 +01:00`.
pub(super) fn full(at: Instant, zone: &Zone) -> String {
    let minutes = zone.offset_s(at) / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    let civil = zone.civil(at).format("%a %Y-%m-%d %H:%M:%S");
    format!("{civil} {sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

/// How a screen shows instants.
#[derive(Clone, Copy)]
pub(super) struct Form<'z> {
    /// When the command was given.
    pub now: Instant,
    /// The reader's zone.
    pub zone: &'z Zone,
    /// The date of today is left out: on a terminal people know it, in a file nobody does.
    pub omits_today: bool,
}

impl Form<'_> {
    /// `03:00:00` today, `2026-11-23 03:00:00` on any other day.
    pub(super) fn text(&self, at: Instant) -> String {
        format!("{}{}", self.date(at), self.zone.civil(at).format("%H:%M:%S"))
    }

    /// From one instant to another: `20:11–20:22`, with date and seconds where they matter.
    pub(super) fn range(&self, from: Instant, to: Instant) -> String {
        let second = |at: Instant| at.as_s().rem_euclid(60);
        let form = if second(from) == 0 && second(to) == 0 { "%H:%M" } else { "%H:%M:%S" };
        let (from_civil, to_civil) = (self.zone.civil(from), self.zone.civil(to));
        let same_day = from_civil.date() == to_civil.date();
        // Behind another day, today has to be named, too.
        let to_date = if same_day { String::new() } else { to_civil.format("%Y-%m-%d ").to_string() };
        format!("{}{}–{to_date}{}", self.date(from), from_civil.format(form), to_civil.format(form))
    }

    fn date(&self, at: Instant) -> String {
        let day = self.zone.civil(at).date();
        let is_known = self.omits_today && day == self.zone.civil(self.now).date();
        if is_known { String::new() } else { day.format("%Y-%m-%d ").to_string() }
    }
}

/// A length of time, no more exact than people want it: `850ms`, `12s`, `3m20s`, `2h5m`, `3d4h`.
pub(super) fn span(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit_ms = match ms {
        0..1_000 => 1,
        1_000..3_600_000 => 1_000,
        3_600_000..86_400_000 => 60_000,
        _ => 3_600_000,
    };
    format_duration(Duration::from_millis(ms / unit_ms * unit_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-29: clocks in this zone go from 02:00 +01:00 to 03:00 +02:00 at 01:00 UTC, and back on 2026-10-25.
    fn zone() -> Zone {
        let at = |text| Instant::parse(text).unwrap().as_s();
        Zone::new("Test/Zone", 3600, [(at("2026-03-29T01:00:00Z"), 7200), (at("2026-10-25T01:00:00Z"), 3600)], None)
    }

    #[test]
    fn instants_that_people_write() {
        let now = Instant::parse("2026-11-24T12:00:00Z").unwrap();
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text, now, &zone()), Ok(Instant::parse(expected).unwrap()), "{text}");
        };
        check("now", "2026-11-24T12:00:00Z");
        check("2h", "2026-11-24T10:00:00Z");
        check("1d12h ago", "2026-11-23T00:00:00Z");
        check("today", "2026-11-23T23:00:00Z");
        check("yesterday", "2026-11-22T23:00:00Z");
        check("2026-07-01", "2026-06-30T22:00:00Z");
        check("2026-07-01 03:00", "2026-07-01T01:00:00Z");
        check("2026-07-01T03:00:30", "2026-07-01T01:00:30Z");
        check("2026-07-01T03:00:00-04:00", "2026-07-01T07:00:00Z");
        check("2026-03-29 02:30", "2026-03-29T01:00:00Z");
        check("2026-10-25 02:30", "2026-10-25T00:30:00Z");
        for bad in ["", "soon", "2026-13-01", "2026-07-01 25:00", "-2h", "2 hours"] {
            assert!(parse(bad, now, &zone()).unwrap_err().contains("yesterday"), "{bad:?}");
        }
    }

    #[test]
    fn instants_that_people_read() {
        let at = Instant::parse("2026-07-01T01:02:03.999Z").unwrap();
        assert_eq!(civil(at, &zone()), "2026-07-01 03:02:03");
        assert_eq!(full(at, &zone()), "Wed 2026-07-01 03:02:03 +02:00");
        let west = Zone::new("W", -12600, [], None);
        assert_eq!(full(at, &west), "Tue 2026-06-30 21:32:03 -03:30");
    }

    #[test]
    fn b_the_date_is_shown_of_other_days_only() {
        let (zone, at) = (zone(), |text: &str| Instant::parse(text).unwrap());
        let now = at("2026-11-24T12:00:00Z");
        let form = |omits_today| Form { now, zone: &zone, omits_today };
        // The day is that of the reader's clocks.
        assert_eq!(form(true).text(at("2026-11-23T23:00:07Z")), "00:00:07");
        assert_eq!(form(true).text(at("2026-11-23T22:59:59Z")), "2026-11-23 23:59:59");
        assert_eq!(form(false).text(now), "2026-11-24 13:00:00");
        let range = |omits, from, to| form(omits).range(at(from), at(to));
        assert_eq!(range(true, "2026-11-24T08:11:00Z", "2026-11-24T08:22:00Z"), "09:11–09:22");
        assert_eq!(range(true, "2026-11-24T08:11:00Z", "2026-11-24T08:22:01Z"), "09:11:00–09:22:01");
        assert_eq!(range(true, "2026-11-22T08:11:00Z", "2026-11-22T08:22:00Z"), "2026-11-22 09:11–09:22");
        let days = "2026-11-22 09:11–2026-11-24 09:22";
        for omits in [false, true] {
            assert_eq!(range(omits, "2026-11-22T08:11:00Z", "2026-11-24T08:22:00Z"), days);
        }
    }

    #[test]
    fn spans() {
        let check = |ms: u64, expected: &str| assert_eq!(span(Duration::from_millis(ms)), expected);
        check(0, "0s");
        check(850, "850ms");
        check(12_345, "12s");
        check(200_999, "3m20s");
        check(7_530_000, "2h5m");
        check(270_000_000, "3d3h");
    }
}
