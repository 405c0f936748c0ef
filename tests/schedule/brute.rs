//! The scanner: what is due, found by walking through all minutes. It shares no code with the evaluator: fields are
//! matched on their text, the calendar is counted day by day, and offsets come from `tz-rs` alone.

use std::collections::HashSet;

use tz::TimeZone;

/// The minutes of a decade in a zone, in order, as pieces in which clocks run evenly: cut at midnights, at changes of the
/// offset, and where what clocks show begins or ends to be something that they have shown before.
pub(crate) struct Walk {
    pub(crate) pieces: Vec<Piece>,
    /// The real minutes at which the offset changes.
    pub(crate) changes: Vec<i64>,
}

pub(crate) struct Piece {
    /// The real minute, since 1970, at which it begins.
    pub(crate) minute: i64,
    /// What clocks show then, in minutes since 1970.
    pub(crate) civil_minute: i64,
    pub(crate) minutes: i64,
    /// Clocks have shown these minutes before.
    pub(crate) repeated: bool,
    /// The civil minutes that clocks have jumped over to get here and had never shown.
    pub(crate) skipped: Vec<i64>,
}

impl Walk {
    /// Walks from one real minute to another.
    pub(crate) fn new(zone: &TimeZone, from_minute: i64, to_minute: i64) -> Self {
        let mut walk = Self { pieces: Vec::new(), changes: Vec::new() };
        // What clocks have shown in the last four days; no change puts them back by more.
        let mut shown = HashSet::new();
        let mut last_civil: Option<i64> = None;
        let offsets = minute_offsets(zone, from_minute, to_minute);
        for (index, offset) in offsets.iter().enumerate() {
            let minute = from_minute + index as i64;
            let civil = minute + offset;
            if index > 0 && offsets[index - 1] != *offset {
                walk.changes.push(minute);
            }
            let jumped = last_civil.filter(|last| *last + 1 != civil);
            let skipped: Vec<i64> =
                jumped.map_or(Vec::new(), |last| (last + 1..civil).filter(|c| !shown.contains(c)).collect());
            let repeated = !shown.insert(civil);
            shown.remove(&(civil - 4 * 1440));
            let goes_on = walk.pieces.last().is_some_and(|piece| piece.repeated == repeated);
            match walk.pieces.last_mut() {
                Some(piece) if goes_on && jumped.is_none() && civil % 1440 != 0 => piece.minutes += 1,
                _ => walk.pieces.push(Piece { minute, civil_minute: civil, minutes: 1, repeated, skipped }),
            }
            last_civil = Some(civil);
        }
        walk
    }
}

/// The offset of each minute, in minutes. Looked up every quarter of an hour, and each minute where two of these differ.
fn minute_offsets(zone: &TimeZone, from_minute: i64, to_minute: i64) -> Vec<i64> {
    let offset = |minute: i64| {
        let seconds = zone.find_local_time_type(minute * 60).unwrap().ut_offset();
        assert_eq!(seconds % 60, 0, "an offset with seconds");
        i64::from(seconds / 60)
    };
    let mut offsets = Vec::new();
    for quarter in (from_minute..to_minute).step_by(15) {
        let (first, next) = (offset(quarter), offset(quarter + 15));
        offsets.extend((quarter..quarter + 15).map(|minute| if first == next { first } else { offset(minute) }));
    }
    offsets
}

/// An expression, as tables of what its fields' texts match.
pub(crate) struct Fields {
    pub(crate) seconds: Vec<i64>,
    /// The minutes of a day.
    pub(crate) minutes: Vec<i64>,
    pub(crate) fixed: bool,
    months: [bool; 13],
    month_days: Vec<String>,
    weekdays: Vec<String>,
    both: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Fields {
    pub(crate) fn new(expression: &str) -> Self {
        let lower = expression.to_ascii_lowercase();
        let mut texts: Vec<&str> = lower.split_whitespace().collect();
        if texts.len() == 5 {
            texts.insert(0, "0");
        }
        let [second, minute, hour, month_day, month, weekday] = texts[..] else { panic!("{expression}") };
        let values = |text: &str, size: i64| -> Vec<i64> {
            (0..size).filter(|value| text.split(',').any(|item| is_in(item, *value, 0, size - 1, &[]))).collect()
        };
        let in_hour = values(minute, 60);
        let minutes = values(hour, 24).iter().flat_map(|hour| in_hour.iter().map(move |m| hour * 60 + m)).collect();
        let owned = |text: &str| text.split(',').map(str::to_owned).collect();
        let mut months = [false; 13];
        for (number, matches) in months.iter_mut().enumerate().skip(1) {
            *matches = month.split(',').any(|item| is_in(item, number as i64, 1, 12, &MONTHS));
        }
        Self {
            seconds: values(second, 60),
            minutes,
            fixed: !minute.starts_with('*') && !hour.starts_with('*'),
            months,
            month_days: owned(month_day),
            weekdays: owned(weekday),
            both: month_day.starts_with('*') || weekday.starts_with('*'),
        }
    }

    /// For each day from 1970-01-01 on, whether it matches, up to the day `to_day`.
    pub(crate) fn days(&self, to_day: usize) -> Vec<bool> {
        let (mut year, mut month, mut day, mut weekday) = (1970, 1, 1, 4);
        let mut days = Vec::new();
        while days.len() < to_day {
            let length = length(year, month);
            days.push(self.months[month] && self.matches_day(day, weekday, length));
            (weekday, day) = ((weekday + 1) % 7, day + 1);
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        days
    }

    fn matches_day(&self, day: i64, weekday: i64, length: i64) -> bool {
        let by_day = self.month_days.iter().any(|item| is_month_day(item, day, weekday, length));
        let by_weekday = self.weekdays.iter().any(|item| is_weekday(item, day, weekday, length));
        if self.both { by_day && by_weekday } else { by_day || by_weekday }
    }

    /// What is due in a piece: instants in seconds, each with whether it makes up for what was skipped.
    pub(crate) fn due_in(&self, piece: &Piece, days: &[bool]) -> Vec<(i64, bool)> {
        let mut due = Vec::new();
        let matches = |civil: i64| {
            days[civil.div_euclid(1440) as usize] && self.minutes.binary_search(&civil.rem_euclid(1440)).is_ok()
        };
        if self.fixed && piece.skipped.iter().any(|civil| matches(*civil)) {
            due.push((piece.minute * 60, true));
        }
        if self.fixed && piece.repeated || !days[piece.civil_minute.div_euclid(1440) as usize] {
            return due;
        }
        let first = piece.civil_minute.rem_euclid(1440);
        let from = self.minutes.partition_point(|minute| *minute < first);
        for minute in self.minutes[from..].iter().take_while(|minute| **minute < first + piece.minutes) {
            for second in &self.seconds {
                let at_s = (piece.minute + minute - first) * 60 + second;
                if due.last().is_none_or(|(last, _)| *last < at_s) {
                    due.push((at_s, false));
                }
            }
        }
        due
    }
}

/// Whether `value` is in `item`: `*`, `a`, `a-b`, with or without `/step`. Found by counting from the start to the end.
fn is_in(item: &str, value: i64, least: i64, most: i64, names: &[&str]) -> bool {
    let number = |text: &str| {
        let named = names.iter().position(|name| *name == text).map(|position| position as i64 + least);
        named.unwrap_or_else(|| text.parse().unwrap())
    };
    let (ends, step) = item.split_once('/').map_or((item, 1), |(ends, step)| (ends, step.parse().unwrap()));
    let (from, to) = match (ends, ends.split_once('-')) {
        ("*", _) => (least, most),
        (_, Some((from, to))) => (number(from), number(to)),
        (_, None) if item.contains('/') => (number(ends), most),
        (_, None) => (number(ends), number(ends)),
    };
    let (mut at, mut count) = (from, 0);
    loop {
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
}

fn is_month_day(item: &str, day: i64, weekday: i64, length: i64) -> bool {
    if item == "l" {
        return day == length;
    }
    if let Some(before) = item.strip_prefix("l-") {
        return day == length - before.parse::<i64>().unwrap();
    }
    let wanted = if item == "lw" { Some(length) } else { item.strip_suffix('w').map(|text| text.parse().unwrap()) };
    match wanted {
        None => is_in(item, day, 1, 31, &[]),
        Some(wanted) if wanted > length => false,
        // Of all workdays of this month the nearest one; at equal distance there is none, as a weekend has two days.
        Some(wanted) => {
            let weekday_of = |other: i64| (weekday + other - day).rem_euclid(7);
            let workdays = (1..=length).filter(|other| (1..=5).contains(&weekday_of(*other)));
            workdays.min_by_key(|other| (other - wanted).abs()) == Some(day)
        }
    }
}

fn is_weekday(item: &str, day: i64, weekday: i64, length: i64) -> bool {
    if let Some((item, nth)) = item.split_once('#') {
        return is_in(item, weekday, 0, 6, &WEEKDAYS) && (day - 1) / 7 + 1 == nth.parse::<i64>().unwrap();
    }
    if let Some(item) = item.strip_suffix('l') {
        return is_in(item, weekday, 0, 6, &WEEKDAYS) && day + 7 > length;
    }
    is_in(item, weekday, 0, 6, &WEEKDAYS)
}

fn length(year: i64, month: usize) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
}
