//! The second opinion on schedules: what is due, found by walking through all minutes of an interval.
//!
//! It shares no code with [`crate::model::cron`] and [`crate::model::schedule`]: fields are matched on their text, the
//! calendar is counted day by day, and of a zone it knows the offset at an instant, no more. What it gives up for that is
//! speed: a minute costs one look into a table, and a year half a million of them.

use std::collections::VecDeque;

use crate::model::time::Instant;

const DAY_MINUTES: i64 = 1440;

/// No change of the clocks puts them back by more: what they have shown longer ago they do not show again.
const SHOWN_MINUTES: i64 = 2 * DAY_MINUTES;

/// An expression, as tables of what its fields' texts match.
#[derive(Debug)]
struct Fields {
    seconds: Vec<i64>,
    /// Whether each minute of a day matches.
    minutes: Vec<bool>,
    fixed: bool,
    months: [bool; 13],
    month_days: Vec<String>,
    weekdays: Vec<String>,
    both: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The forms that stand for fields.
const SHORT: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// Walks through the minutes behind an instant, and knows what is due in each.
pub struct Scanner<'a> {
    fields: Vec<Fields>,
    /// The offset from UTC at an instant, in seconds.
    offset_s: &'a dyn Fn(Instant) -> i32,
    /// The next real minute, since 1970.
    minute: i64,
    after_s: i64,
    /// What clocks have shown of late: stretches of civil minutes, from and to; each but the last with the minute of its end.
    shown: VecDeque<(i64, i64, i64)>,
    /// The day of which `day_matches` tells, and the offset of the quarter of an hour at hand.
    day: Option<Day>,
    quarter: Option<(i64, i64, bool)>,
    due: VecDeque<i64>,
}

/// A day, and which of the expressions match it.
struct Day {
    number: i64,
    matches: Vec<bool>,
}

impl<'a> Scanner<'a> {
    /// What is due behind `after`, by these expressions; none if one of them can't be read: its batch was never in force.
    pub fn new(cron: &[String], offset_s: &'a dyn Fn(Instant) -> i32, after: Instant) -> Option<Self> {
        let fields = cron.iter().filter(|text| text.trim() != "@reboot").map(|text| Fields::new(text));
        let fields = fields.collect::<Option<Vec<_>>>()?;
        let first = after.as_s().div_euclid(60);
        let mut scanner = Self {
            fields,
            offset_s,
            minute: first - SHOWN_MINUTES,
            after_s: after.as_s(),
            shown: VecDeque::new(),
            day: None,
            quarter: None,
            due: VecDeque::new(),
        };
        // Before the interval only what clocks have shown is of interest.
        while scanner.minute < first {
            scanner.step(false);
        }
        Some(scanner)
    }

    /// The next instant that is due, if there is one up to `until`.
    pub fn next(&mut self, until: Instant) -> Option<Instant> {
        while self.due.is_empty() && self.minute * 60 <= until.as_s() && !self.fields.is_empty() {
            self.step(true);
        }
        let due = self.due.front().copied().filter(|due| *due <= until.as_s())?;
        self.due.pop_front();
        Some(Instant::from_s(due))
    }

    /// Walks through one minute.
    fn step(&mut self, look: bool) {
        let minute = self.minute;
        self.minute += 1;
        let civil = minute + self.offset_minutes(minute);
        let (skipped, repeated) = self.show(minute, civil);
        if !look {
            return;
        }
        let mut due: Vec<i64> = Vec::new();
        for index in 0..self.fields.len() {
            if self.fields[index].fixed && skipped.iter().any(|civil| self.matches(index, *civil)) {
                due.push(minute * 60);
            }
            if !(self.fields[index].fixed && repeated) && self.matches(index, civil) {
                due.extend(self.fields[index].seconds.iter().map(|second| minute * 60 + second));
            }
        }
        due.sort_unstable();
        due.dedup();
        let after_s = self.after_s;
        self.due.extend(due.into_iter().filter(|due| *due > after_s));
    }

    /// Clocks show this civil minute. Those that they have jumped over to get here and had not shown of late, and whether
    /// they have shown this one before.
    fn show(&mut self, minute: i64, civil: i64) -> (Vec<i64>, bool) {
        if let Some((_, to, end)) = self.shown.back_mut().filter(|(_, to, _)| *to + 1 == civil) {
            (*to, *end) = (civil, minute);
            // Since it began, nothing else has been shown; what was shown before may come again.
            let repeated = self.shown.len() > 1 && self.was_shown(civil, 1);
            while self.shown.front().is_some_and(|(_, _, end)| *end < minute - SHOWN_MINUTES) {
                self.shown.pop_front();
            }
            return (Vec::new(), repeated);
        }
        let last = self.shown.back().map(|(_, to, _)| *to);
        let jumped = last.map_or(0..0, |last| last + 1..civil);
        let skipped = jumped.filter(|civil| !self.was_shown(*civil, 0)).collect();
        let repeated = self.was_shown(civil, 0);
        self.shown.push_back((civil, civil, minute));
        (skipped, repeated)
    }

    /// Whether clocks have shown this civil minute of late, the last `without` stretches left out.
    fn was_shown(&self, civil: i64, without: usize) -> bool {
        self.shown.iter().rev().skip(without).any(|(from, to, _)| (*from..=*to).contains(&civil))
    }

    /// Whether an expression matches a minute that clocks show.
    fn matches(&mut self, index: usize, civil: i64) -> bool {
        let number = civil.div_euclid(DAY_MINUTES);
        let day = match self.day.take().filter(|day| day.number == number) {
            Some(day) => day,
            None => {
                let date = Date::of(number);
                Day { number, matches: self.fields.iter().map(|fields| fields.matches_day(&date)).collect() }
            }
        };
        let matches = day.matches[index] && self.fields[index].minutes[civil.rem_euclid(DAY_MINUTES) as usize];
        self.day = Some(day);
        matches
    }

    /// The offset of a minute, in minutes. Looked up each quarter of an hour, and each minute of one in which it changes.
    fn offset_minutes(&mut self, minute: i64) -> i64 {
        let quarter = minute.div_euclid(15);
        let offset = |minute: i64| i64::from((self.offset_s)(Instant::from_s(minute * 60))).div_euclid(60);
        let (_, first, same) = match self.quarter.filter(|(number, _, _)| *number == quarter) {
            Some(known) => known,
            None => {
                let (first, next) = (offset(quarter * 15), offset(quarter * 15 + 15));
                (quarter, first, first == next)
            }
        };
        let found = if same { first } else { offset(minute) };
        self.quarter = Some((quarter, first, same));
        found
    }
}

/// A day of the calendar.
struct Date {
    month: usize,
    day: i64,
    /// Sunday is 0.
    weekday: i64,
    /// Of its month.
    length: i64,
}

impl Date {
    /// Counts years and months from 1970 on, or back.
    fn of(number: i64) -> Self {
        let weekday = (number + 4).rem_euclid(7);
        let (mut year, mut rest) = (1970, number);
        while rest < 0 {
            year -= 1;
            rest += days_of(year);
        }
        while rest >= days_of(year) {
            rest -= days_of(year);
            year += 1;
        }
        let mut month = 1;
        while rest >= length(year, month) {
            rest -= length(year, month);
            month += 1;
        }
        Self { month, day: rest + 1, weekday, length: length(year, month) }
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn length(year: i64, month: usize) -> i64 {
    [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
}

impl Fields {
    fn new(expression: &str) -> Option<Self> {
        let lower = expression.trim().to_ascii_lowercase();
        let lower = SHORT.iter().find(|(short, _)| *short == lower).map_or(lower, |(_, long)| (*long).to_owned());
        let mut texts: Vec<&str> = lower.split_whitespace().collect();
        if texts.len() == 5 {
            texts.insert(0, "0");
        }
        let &[second, minute, hour, month_day, month, weekday] = texts.as_slice() else { return None };
        let values = |text: &str, size: i64| -> Vec<bool> {
            (0..size).map(|value| text.split(',').any(|item| is_in(item, value, 0, size - 1, &[]))).collect()
        };
        let (in_hour, hours) = (values(minute, 60), values(hour, 24));
        let mut months = [false; 13];
        for (number, matches) in months.iter_mut().enumerate().skip(1) {
            *matches = month.split(',').any(|item| is_in(item, number as i64, 1, 12, &MONTHS));
        }
        let owned = |text: &str| text.split(',').map(str::to_owned).collect();
        Some(Self {
            seconds: values(second, 60).iter().enumerate().filter(|(_, yes)| **yes).map(|(at, _)| at as i64).collect(),
            minutes: hours.iter().flat_map(|hour| in_hour.iter().map(move |minute| *hour && *minute)).collect(),
            fixed: !minute.starts_with('*') && !hour.starts_with('*'),
            months,
            month_days: owned(month_day),
            weekdays: owned(weekday),
            both: month_day.starts_with('*') || weekday.starts_with('*'),
        })
    }

    fn matches_day(&self, date: &Date) -> bool {
        let by_day = self.month_days.iter().any(|item| is_month_day(item, date));
        let by_weekday = self.weekdays.iter().any(|item| is_weekday(item, date));
        self.months[date.month] && if self.both { by_day && by_weekday } else { by_day || by_weekday }
    }
}

/// Whether `value` is in `item`: `*`, `a`, `a-b`, with or without `/step`. Found by counting from the start to the end.
fn is_in(item: &str, value: i64, least: i64, most: i64, names: &[&str]) -> bool {
    let number = |text: &str| {
        let named = names.iter().position(|name| *name == text).map(|position| position as i64 + least);
        named.or_else(|| text.parse().ok())
    };
    let (ends, step) = item.split_once('/').map_or((item, Some(1)), |(ends, step)| (ends, step.parse().ok()));
    let range = match (ends, ends.split_once('-')) {
        ("*", _) => Some((least, most)),
        (_, Some((from, to))) => number(from).zip(number(to)),
        (_, None) if item.contains('/') => number(ends).map(|from| (from, most)),
        (_, None) => number(ends).map(|only| (only, only)),
    };
    let (Some((from, to)), Some(step)) = (range, step.filter(|step| *step > 0)) else { return false };
    let (mut at, mut count) = (from, 0);
    // A field has at most 60 values: whatever is written, counting comes to an end.
    for _ in 0..=60 {
        // Sunday's other number.
        let same = at == value || (most == 6 && at == 7 && value == 0);
        if same && count % step == 0 {
            return true;
        }
        if at == to {
            return false;
        }
        // 7 is the last weekday only where it is written as the end of a range.
        let last = if most == 6 && to == 7 { 7 } else { most };
        at = if at >= last { if at == 7 { 1 } else { least } } else { at + 1 };
        count += 1;
    }
    false
}

fn is_month_day(item: &str, date: &Date) -> bool {
    if item == "l" {
        return date.day == date.length;
    }
    if let Some(before) = item.strip_prefix("l-") {
        return before.parse().is_ok_and(|before: i64| date.day == date.length - before);
    }
    let wanted =
        if item == "lw" { Some(date.length) } else { item.strip_suffix('w').and_then(|text| text.parse().ok()) };
    match wanted {
        None => is_in(item, date.day, 1, 31, &[]),
        Some(wanted) if wanted > date.length => false,
        // Of all workdays of this month the nearest one; at equal distance there is none, as a weekend has two days.
        Some(wanted) => {
            let weekday_of = |other: i64| (date.weekday + other - date.day).rem_euclid(7);
            let workdays = (1..=date.length).filter(|other| (1..=5).contains(&weekday_of(*other)));
            workdays.min_by_key(|other| (other - wanted).abs()) == Some(date.day)
        }
    }
}

fn is_weekday(item: &str, date: &Date) -> bool {
    if let Some((item, nth)) = item.split_once('#') {
        return is_in(item, date.weekday, 0, 6, &WEEKDAYS) && nth.parse() == Ok((date.day - 1) / 7 + 1);
    }
    if let Some(item) = item.strip_suffix('l') {
        return is_in(item, date.weekday, 0, 6, &WEEKDAYS) && date.day + 7 > date.length;
    }
    is_in(item, date.weekday, 0, 6, &WEEKDAYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cron::{Cron, Expression};
    use crate::model::schedule::Schedule;
    use crate::model::zone::Zone;
    use crate::zones::Zones;
    use std::sync::Arc;

    fn cron(text: &str) -> Cron {
        match Expression::parse(text) {
            Ok(Expression::Times(cron)) => cron,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// Both find the same from `from` on, for so many days.
    fn agree(zone: &Arc<Zone>, expressions: &[&str], from: &str, days: i64) {
        let from = Instant::parse(from).unwrap();
        let until = Instant::from_s(from.as_s() + days * 86_400);
        let schedule = Schedule::new(expressions.iter().map(|text| cron(text)).collect(), zone.clone());
        let expected: Vec<Instant> =
            schedule.upcoming(from).map(|o| o.due_at).take_while(|due_at| *due_at <= until).collect();
        let texts: Vec<String> = expressions.iter().map(|text| (*text).to_owned()).collect();
        let offset = |at: Instant| zone.offset_s(at);
        let mut scanner = Scanner::new(&texts, &offset, from).unwrap();
        let found: Vec<Instant> = std::iter::from_fn(|| scanner.next(until)).collect();
        assert_eq!(found, expected, "{expressions:?} in {} after {from}", zone.name);
    }

    #[test]
    fn it_agrees_with_the_evaluator_through_both_nights() {
        let zones = Zones::new(None, None);
        let sets: [&[&str]; 10] = [
            &["30 2 * * *"],
            &["*/15 * * * *", "7 1 * * 1"],
            &["0,30 1-3 * * *"],
            &["@hourly", "@weekly"],
            &["15,45 */20 2 * * *"],
            &["0 0 L * *", "30 1 15W * *", "0 12 LW * *"],
            &["0 6 * * FRI-MON", "0 7 * * 5#3", "0 8 * * 1L"],
            &["0 0 1,15 * 3"],
            &["0 22-2 * 3-4,10 *"],
            &["5/15 9 */10 * 1-5"],
        ];
        for name in ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "Asia/Kolkata", "UTC"] {
            let zone = zones.get(name).unwrap();
            for set in sets {
                agree(&zone, set, "2026-03-20T00:10:00.250Z", 40);
                agree(&zone, set, "2026-10-01T00:00:00Z", 40);
                // In the middle of the hour that clocks show twice.
                agree(&zone, set, "2026-10-25T01:10:00Z", 2);
            }
        }
        agree(&zones.get("Pacific/Apia").unwrap(), &["0 12 * * *", "*/30 * * * *"], "2011-12-25T00:00:00Z", 10);
    }
}
