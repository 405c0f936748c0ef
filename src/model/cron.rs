//! Cron expressions: [`Expression`] and [`Cron`].
//!
//! Knows the calendar and which civil times match. Knows no zone: what becomes of a civil time that clocks skip or
//! repeat is [`super::schedule`]'s affair.

mod parse;

use std::ops::Range;

use chrono::{Datelike, NaiveDate};

use super::zone::civil_time;

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 3600;
const DAY_S: i64 = 86_400;

/// The calendar repeats after 400 years: what matches no day in so many months never does.
const CYCLE_MONTHS: usize = 400 * 12;

/// One entry of `cron`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// `@reboot`: once after each boot of the host.
    Reboot,
    /// Times in a zone.
    Times(Cron),
}

/// A parsed cron expression: a set of civil times. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Bit n is second n; so on for the other fields.
    seconds: u64,
    minutes: u64,
    hours: u32,
    /// Bits 1 to 12.
    months: u16,
    month_days: MonthDays,
    weekdays: Weekdays,
    days: Days,
    fixed: bool,
}

/// What the day-of-month field matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MonthDays {
    /// Bits 1 to 31: these days.
    days: u32,
    /// Bit n: n days before the last of the month; bit 0 is `L`.
    before_last: u32,
    /// Bits 1 to 31: the workday nearest to this day, `15W`.
    nearest_workday: u32,
    /// `LW`: the last workday of the month.
    last_workday: bool,
}

/// What the day-of-week field matches. Each is a set of weekdays: bit 0 is Sunday.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Weekdays {
    every: u8,
    /// Only the first, second, ... of the month: `1#2`.
    nth: [u8; 5],
    /// Only the last of the month: `5L`.
    last: u8,
}

/// How the two day fields go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Days {
    /// A day must match both: one of the fields begins with `*`.
    Both,
    /// A day must match either.
    Either,
}

/// Why a text is not a cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronError {
    /// The bytes of the text that are wrong.
    pub span: Range<usize>,
    /// What is wrong, naming the field: one sentence without a full stop.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Expression {
    /// Reads 5 fields as crontab(5), 6 with seconds first, or an `@` form. An expression that never fires is an error.
    ///
    /// Beyond crontab(5): ranges may pass the end of a field (`22-4`, `FRI-MON`, `NOV-FEB`), and steps may follow a single
    /// value (`5/15` is every 15 from 5 to the field's end). `L` `L-3` `LW` `15W` are days of the month, `5L` and `5#3`
    /// the last and the third Friday. `15W` is the workday, Monday to Friday, nearest to the 15th in the same month.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        parse::expression(text)
    }
}

impl Cron {
    /// Whether neither the minute nor the hour field begins with `*`: the times are meant by the clock, not by elapsed time.
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The first civil time, in seconds, that matches and is not before `from_s`; none if there is none in a calendar's cycle.
    pub(super) fn next_from(&self, from_s: i64) -> Option<i64> {
        let today = from_s.div_euclid(DAY_S);
        let mut month = Month::of_day(today);
        let day = (today - month.first_day + 1) as u32;
        let days = self.days_of(&month);
        if days & 1 << day != 0
            && let Some(time_s) = self.next_time(from_s.rem_euclid(DAY_S))
        {
            return Some(today * DAY_S + time_s);
        }
        let mut later = days & above(day);
        for _ in 0..=CYCLE_MONTHS {
            if later != 0 {
                let next_day = month.first_day + i64::from(later.trailing_zeros()) - 1;
                return Some(next_day * DAY_S + self.first_time());
            }
            month = month.next();
            later = self.days_of(&month);
        }
        None
    }

    /// Whether any day ever matches.
    fn ever_fires(&self) -> bool {
        let months = std::iter::successors(Some(Month::of_day(0)), |month| Some(month.next()));
        months.take(CYCLE_MONTHS).any(|month| self.days_of(&month) != 0)
    }

    /// The days of `month` that match: bits 1 to 31.
    fn days_of(&self, month: &Month) -> u32 {
        if self.months & 1 << month.number == 0 {
            return 0;
        }
        let by_number = self.month_days.of(month);
        let by_weekday = self.weekdays.of(month);
        match self.days {
            Days::Both => by_number & by_weekday,
            Days::Either => by_number | by_weekday,
        }
    }

    /// The first time of day, in seconds after midnight, that matches and is not before `from_s`.
    fn next_time(&self, from_s: i64) -> Option<i64> {
        let (hour, minute, second) = (from_s / HOUR_S, from_s % HOUR_S / MINUTE_S, from_s % MINUTE_S);
        let hours = u64::from(self.hours);
        if hours & 1 << hour != 0 {
            if self.minutes & 1 << minute != 0
                && let Some(second) = first_from(self.seconds, second)
            {
                return Some(hour * HOUR_S + minute * MINUTE_S + second);
            }
            if let Some(minute) = first_from(self.minutes, minute + 1) {
                return Some(hour * HOUR_S + minute * MINUTE_S + first(self.seconds));
            }
        }
        let hour = first_from(hours, hour + 1)?;
        Some(hour * HOUR_S + first(self.minutes) * MINUTE_S + first(self.seconds))
    }

    fn first_time(&self) -> i64 {
        first(self.hours.into()) * HOUR_S + first(self.minutes) * MINUTE_S + first(self.seconds)
    }
}

impl MonthDays {
    /// The days of `month` that match: bits 1 to 31.
    fn of(&self, month: &Month) -> u32 {
        let mut days = self.days;
        for before in bits(self.before_last) {
            days |= (1 << month.length) >> before;
        }
        for day in bits(self.nearest_workday).filter(|day| *day <= month.length) {
            days |= 1 << month.nearest_workday(day);
        }
        if self.last_workday {
            days |= 1 << month.nearest_workday(month.length);
        }
        days & month.mask()
    }
}

impl Weekdays {
    /// The days of `month` that match: bits 1 to 31.
    fn of(&self, month: &Month) -> u32 {
        let mut days = month.days_on(self.every);
        for (week, weekdays) in self.nth.iter().enumerate().filter(|(_, weekdays)| **weekdays != 0) {
            let first_week = 0b1111_1110_u32;
            days |= month.days_on(*weekdays) & first_week << (7 * week);
        }
        if self.last != 0 {
            days |= month.days_on(self.last) & above(month.length - 7);
        }
        days
    }
}

/// One month of one year.
#[derive(Clone, Copy, Debug)]
struct Month {
    year: i32,
    /// From 1.
    number: u32,
    /// In days since 1970-01-01.
    first_day: i64,
    /// In days.
    length: u32,
}

impl Month {
    /// The month that holds the `day`-th day since 1970-01-01.
    fn of_day(day: i64) -> Self {
        let date = civil_time(day * DAY_S).date();
        let (year, number) = (date.year(), date.month());
        Self { year, number, first_day: day - i64::from(date.day0()), length: length(year, number) }
    }

    fn next(&self) -> Self {
        let (year, number) = if self.number == 12 { (self.year + 1, 1) } else { (self.year, self.number + 1) };
        Self { year, number, first_day: self.first_day + i64::from(self.length), length: length(year, number) }
    }

    /// The bits of all its days.
    fn mask(&self) -> u32 {
        above(0) & !above(self.length)
    }

    /// The weekday of `day`, 0 for Sunday.
    fn weekday(&self, day: u32) -> u32 {
        // 1970-01-01 was a Thursday.
        (self.first_day + i64::from(day) + 3).rem_euclid(7) as u32
    }

    /// The days that fall on one of `weekdays`.
    fn days_on(&self, weekdays: u8) -> u32 {
        // Bit 1 is the Sunday on or before the first; the set repeats every 7 bits.
        const SUNDAYS: u64 = 1 << 1 | 1 << 8 | 1 << 15 | 1 << 22 | 1 << 29 | 1 << 36;
        let repeated = u64::from(weekdays) * SUNDAYS;
        let from_first = repeated >> self.weekday(1);
        from_first as u32 & self.mask()
    }

    /// The day from Monday to Friday that is nearest to `day`, in the same month.
    fn nearest_workday(&self, day: u32) -> u32 {
        match self.weekday(day) {
            0 if day == self.length => day - 2,
            0 => day + 1,
            6 if day == 1 => 3,
            6 => day - 1,
            _ => day,
        }
    }
}

fn length(year: i32, month: u32) -> u32 {
    match month {
        2 if NaiveDate::from_ymd_opt(year, 1, 1).is_some_and(|date| date.leap_year()) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The bits above `bit`.
fn above(bit: u32) -> u32 {
    (u64::from(u32::MAX) << (bit + 1)) as u32
}

/// The numbers of the bits that are set, ascending.
fn bits(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(bit)
    })
}

/// The lowest bit that is set. No field is empty.
fn first(mask: u64) -> i64 {
    i64::from(mask.trailing_zeros())
}

/// The lowest bit that is set, not below `from`, which is at most 60.
fn first_from(mask: u64, from: i64) -> Option<i64> {
    let rest = mask >> from << from;
    (rest != 0).then(|| first(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str) -> Cron {
        match Expression::parse(text) {
            Ok(Expression::Times(cron)) => cron,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// The first matches from a civil time on.
    fn check(expression: &str, from: &str, expected: &[&str]) {
        let cron = cron(expression);
        let from: chrono::NaiveDateTime = from.parse().unwrap();
        let mut from_s = from.and_utc().timestamp();
        for expected in expected {
            let found_s = cron.next_from(from_s).unwrap();
            assert_eq!(civil_time(found_s).format("%Y-%m-%dT%H:%M:%S").to_string(), *expected, "{expression}");
            from_s = found_s + 1;
        }
    }

    #[test]
    fn times_of_day() {
        check("30 2 * * *", "2026-01-01T02:30:00", &["2026-01-01T02:30:00", "2026-01-02T02:30:00"]);
        check("30 2 * * *", "2026-01-01T02:30:01", &["2026-01-02T02:30:00"]);
        check("59 23 31 12 *", "2026-12-31T23:59:01", &["2027-12-31T23:59:00"]);
        check("*/20 22-1/3 * * *", "2026-01-01T23:00:00", &["2026-01-02T01:00:00", "2026-01-02T01:20:00"]);
        check("10,50 30 * * * *", "2026-01-01T00:30:11", &["2026-01-01T00:30:50", "2026-01-01T01:30:10"]);
        check("59 59 23 * * *", "2026-01-01T23:59:59", &["2026-01-01T23:59:59", "2026-01-02T23:59:59"]);
    }

    #[test]
    fn days() {
        check("0 0 29 2 *", "2096-03-01T00:00:00", &["2104-02-29T00:00:00"]);
        check(
            "0 0 13 * 5",
            "2026-01-01T00:00:00",
            &["2026-01-02T00:00:00", "2026-01-09T00:00:00", "2026-01-13T00:00:00"],
        );
        check("0 0 */13 * 5", "2026-01-01T00:00:00", &["2026-02-27T00:00:00", "2026-03-27T00:00:00"]);
        check("0 0 29 2 */2", "2026-01-01T00:00:00", &["2028-02-29T00:00:00", "2032-02-29T00:00:00"]);
        check(
            "0 0 L * *",
            "2028-02-01T00:00:00",
            &["2028-02-29T00:00:00", "2028-03-31T00:00:00", "2028-04-30T00:00:00"],
        );
        check("0 0 L-28 2 *", "2026-01-01T00:00:00", &["2028-02-01T00:00:00", "2032-02-01T00:00:00"]);
        check("0 0 * * 5L", "2026-01-01T00:00:00", &["2026-01-30T00:00:00", "2026-02-27T00:00:00"]);
        check("0 0 * * 0#5", "2026-01-01T00:00:00", &["2026-03-29T00:00:00", "2026-05-31T00:00:00"]);
        check("0 0 * * MON#1,3#2", "2026-01-01T00:00:00", &["2026-01-05T00:00:00", "2026-01-14T00:00:00"]);
    }

    #[test]
    fn nearest_workdays() {
        // 2026: 1 February is a Sunday, 1 August a Saturday, 31 May a Sunday, 31 January a Saturday.
        check("0 0 1W 2 *", "2026-01-01T00:00:00", &["2026-02-02T00:00:00"]);
        check("0 0 1W 8 *", "2026-01-01T00:00:00", &["2026-08-03T00:00:00"]);
        check("0 0 31W 5 *", "2026-01-01T00:00:00", &["2026-05-29T00:00:00"]);
        check(
            "0 0 LW * *",
            "2026-01-01T00:00:00",
            &["2026-01-30T00:00:00", "2026-02-27T00:00:00", "2026-03-31T00:00:00"],
        );
        check("0 0 31W * *", "2026-02-01T00:00:00", &["2026-03-31T00:00:00", "2026-05-29T00:00:00"]);
        check("0 0 15W 8 *", "2026-01-01T00:00:00", &["2026-08-14T00:00:00"]);
    }

    #[test]
    fn fixed() {
        for text in ["0 0 * * *", "0-59 2 * * *", "* 30 2 * * *", "@daily"] {
            assert!(cron(text).is_fixed(), "{text}");
        }
        for text in ["0 * * * *", "*/5 2 * * *", "*,5 2 * * *", "0 */2 * * *", "0 * 3 * * *", "@hourly"] {
            assert!(!cron(text).is_fixed(), "{text}");
        }
    }
}
