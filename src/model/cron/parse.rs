//! From text to [`Cron`]. All that people get wrong in a cron expression gets its words here.

use std::ops::Range;

use crate::model::text::quoted;

use super::{Cron, CronError, Days, Expression, MonthDays, Weekdays};

#[cfg(test)]
mod tests;

/// Every value of all six fields, listed one by one, has fewer bytes; what is longer is no expression.
const EXPRESSION_BYTES_MAX: usize = 1024;

/// The forms with `@`, as crontab(5) has them, and the fields they stand for.
const FORMS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// For five fields that are wrong, and would be right as the first five of six.
const ONE_TOO_FEW: &str = "five fields begin with the minute; with seconds, add a sixth field";
/// For six fields that are wrong, while the first five would be right.
const ONE_TOO_MANY: &str = "six fields begin with the second; without seconds, remove the last field";

/// One of the six fields.
struct Field {
    name: &'static str,
    least: u32,
    /// The last value of `*`.
    most: u32,
    /// The largest number that may be written: for weekdays one more, as 7 is Sunday again.
    written_most: u32,
    /// The names of the values, from the least.
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", least: 0, most: 59, written_most: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", ..SECOND };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, written_most: 23, names: &[] };
const MONTH_DAY: Field = Field { name: "day of month", least: 1, most: 31, written_most: 31, names: &[] };
const MONTH: Field = Field { name: "month", least: 1, most: 12, written_most: 12, names: &MONTHS };
const WEEKDAY: Field = Field { name: "day of week", least: 0, most: 6, written_most: 7, names: &WEEKDAYS };

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A part of the text that knows where it stands.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Part<'a> {
    fn span(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    fn error(&self, what: impl Into<String>) -> CronError {
        CronError { span: self.span(), what: what.into(), hint: None }
    }

    fn error_with_hint(&self, what: impl Into<String>, hint: impl Into<String>) -> CronError {
        CronError { hint: Some(hint.into()), ..self.error(what) }
    }

    /// The parts of its text between separators.
    fn split(self, separator: fn(char) -> bool) -> impl Iterator<Item = Part<'a>> {
        let whole = self;
        self.text.split(separator).map(move |text| {
            let before = text.as_ptr() as usize - whole.text.as_ptr() as usize;
            Part { text, start: whole.start + before }
        })
    }

    fn split_once(self, separator: char) -> Option<(Part<'a>, Part<'a>)> {
        let (left, right) = self.text.split_once(separator)?;
        let right_start = self.start + left.len() + separator.len_utf8();
        Some((Part { text: left, start: self.start }, Part { text: right, start: right_start }))
    }

    /// Its text without a last character.
    fn strip_suffix(self, suffix: [char; 2]) -> Option<Part<'a>> {
        Some(Part { text: self.text.strip_suffix(suffix)?, start: self.start })
    }

    fn begins_with_star(&self) -> bool {
        self.text.starts_with('*')
    }
}

/// See [`Expression::parse`].
pub(super) fn expression(text: &str) -> Result<Expression, CronError> {
    let whole = Part { text, start: 0 };
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(whole.error(format!("this cron expression is longer than {EXPRESSION_BYTES_MAX} bytes")));
    }
    let words: Vec<Part> = whole.split(|c| c.is_ascii_whitespace()).filter(|word| !word.text.is_empty()).collect();
    let Some(first) = words.first() else {
        return Err(whole
            .error_with_hint("the cron expression is empty", "write five fields, such as `30 2 * * *`, or `@daily`"));
    };
    if first.text.starts_with('@') {
        return form(*first, &words);
    }
    if let Some((name, value)) = first.split_once('=') {
        return Err(assignment(*first, name, value));
    }
    let read = match words[..] {
        [minute, hour, month_day, month, weekday] => fields(None, [minute, hour, month_day, month, weekday]),
        [second, minute, hour, month_day, month, weekday] => {
            fields(Some(second), [minute, hour, month_day, month, weekday])
        }
        _ => Err(wrong_number(whole, &words)),
    };
    read.map_err(|error| foreign(whole, &words).unwrap_or_else(|| by_the_other_number(error, &words)))
}

/// An `@` form.
fn form(first: Part, words: &[Part]) -> Result<Expression, CronError> {
    let lower = first.text.to_ascii_lowercase();
    let stands_for = FORMS.iter().find(|(name, _)| *name == lower);
    if lower != "@reboot" && stands_for.is_none() {
        let hint = match &*lower {
            "@every" => "write it as fields: every 5 minutes is `*/5 * * * *`".to_owned(),
            _ => {
                let names: Vec<&str> = FORMS.iter().map(|(name, _)| *name).collect();
                format!("the forms are {} and @reboot", names.join(", "))
            }
        };
        return Err(first.error_with_hint(format!("unknown form `{}`", quoted(first.text)), hint));
    }
    if let Some(second) = words.get(1) {
        let hint = "write only the time here; the script has the commands";
        return Err(
            second.error_with_hint(format!("unexpected `{}` after `{}`", quoted(second.text), first.text), hint)
        );
    }
    // The forms in the table are expressions without a form, so this goes no deeper.
    stands_for.map_or(Ok(Expression::Reboot), |(_, fields)| expression(fields))
}

/// `CRON_TZ=Europe/Berlin 0 5 * * *` and its like.
fn assignment(first: Part, name: Part, value: Part) -> CronError {
    let what = format!("`{}` is not part of a cron expression", quoted(first.text));
    match name.text {
        "TZ" | "CRON_TZ" => {
            first.error_with_hint(what, format!("write `timezone = \"{}\"` on a line of its own", quoted(value.text)))
        }
        "OnCalendar" => first.error_with_hint(what, "batchd reads cron notation: `@daily`, or `30 2 * * *` for 02:30"),
        _ => first.error_with_hint(what, "set variables in `env`"),
    }
}

/// A wrong expression that would be right with one field more, or less, says so: with or without seconds is easily mistaken.
fn by_the_other_number(error: CronError, words: &[Part]) -> CronError {
    let any = Part { text: "*", start: 0 };
    let (other, hint) = match *words {
        [second, minute, hour, month_day, month] => {
            (fields(Some(second), [minute, hour, month_day, month, any]), ONE_TOO_FEW)
        }
        [minute, hour, month_day, month, weekday, _] => {
            (fields(None, [minute, hour, month_day, month, weekday]), ONE_TOO_MANY)
        }
        _ => return error,
    };
    match (other, &error.hint) {
        (Err(_), _) => error,
        (Ok(_), None) => CronError { hint: Some(hint.to_owned()), ..error },
        (Ok(_), Some(before)) => CronError { hint: Some(format!("{before}; {hint}")), ..error },
    }
}

/// What crontabs and systemd timers have in this place.
fn foreign(whole: Part, words: &[Part]) -> Option<CronError> {
    let first = words.first()?;
    let spans = |from: usize, to: usize| words[from].start..words[to].span().end;
    if let [minute, hour, month_day, month, weekday, command, ..] = *words {
        let times = fields(None, [minute, hour, month_day, month, weekday]).is_ok();
        let is_command = command.text.contains('/') && !command.text.starts_with('*')
            || command.text.len() > 3 && command.text.chars().all(|c| c.is_ascii_alphabetic() || "-_.".contains(c));
        if times && is_command {
            let last = words.len() - 1;
            let time = [minute, hour, month_day, month, weekday].map(|word| word.text).join(" ");
            let what = format!("`{}` is not part of the time", quoted(&whole.text[spans(5, last)]));
            let hint =
                format!("write `cron = \"{}\"`, and put the command of the crontab line in the script", quoted(&time));
            return Some(CronError { span: spans(5, last), what, hint: Some(hint) });
        }
    }
    let word = WORDS.iter().find(|(word, _)| words.len() == 1 && *word == first.text);
    let hint = if let Some((_, form)) = word {
        format!("write `{form}`")
    } else if whole.text.contains(':') {
        match on_calendar(words) {
            Some(cron) => format!("this is systemd's OnCalendar; write `cron = \"{cron}\"`"),
            None => "this is systemd's OnCalendar; write minute, hour, day of month, month and day of week".to_owned(),
        }
    } else {
        return None;
    };
    let span = spans(0, words.len() - 1);
    let what = format!("`{}` is not a cron expression", quoted(&whole.text[span.clone()]));
    Some(CronError { span, what, hint: Some(hint) })
}

/// systemd's words for whole expressions.
const WORDS: [(&str, &str); 10] = [
    ("minutely", "* * * * *"),
    ("hourly", "@hourly"),
    ("daily", "@daily"),
    ("weekly", "@weekly"),
    ("monthly", "@monthly"),
    ("yearly", "@yearly"),
    ("annually", "@annually"),
    ("quarterly", "0 0 1 1,4,7,10 *"),
    ("semiannually", "0 0 1 1,7 *"),
    ("reboot", "@reboot"),
];

/// The five fields of `Mon..Fri 02:30`, `*-*-* 02:30:00` and `02:30`, as systemd.time(7) has them.
fn on_calendar(words: &[Part]) -> Option<String> {
    let (time, before) = words.split_last()?;
    let mut parts = time.text.split(':');
    let (hour, minute) = (parts.next()?, parts.next()?);
    if parts.next().is_some_and(|second| !second.trim_matches('0').is_empty()) {
        return None;
    }
    let plain = |text: &str| match text.parse::<u32>() {
        Ok(number) => number.to_string(),
        Err(_) => text.to_owned(),
    };
    let weekday = match before {
        [] => "*".to_owned(),
        [date] if date.text == "*-*-*" => "*".to_owned(),
        [days] | [days, Part { text: "*-*-*", .. }] => days.text.replace("..", "-").to_ascii_uppercase(),
        _ => return None,
    };
    let cron = format!("{} {} * * {weekday}", plain(minute), plain(hour));
    expression(&cron).is_ok().then_some(cron)
}

fn wrong_number(whole: Part, words: &[Part]) -> CronError {
    let span = words[0].start..words[words.len() - 1].span().end;
    let what = match words.len() {
        1 => "found 1 field; a cron expression has 5, or 6 with seconds first".to_owned(),
        n => format!("found {n} fields; a cron expression has 5, or 6 with seconds first"),
    };
    let year = words.len() == 7 && words[6].text.starts_with(|c: char| c == '*' || c.is_ascii_digit());
    let hint = if words.len() < 5 {
        "write minute, hour, day of month, month and day of week, separated by spaces"
    } else if year {
        "there is no year field; remove the last field"
    } else {
        "write only the time here; the script has the commands"
    };
    CronError { span, ..whole.error_with_hint(what, hint) }
}

/// An expression from its fields: minute, hour, day of month, month, day of week.
fn fields(second: Option<Part>, parts: [Part; 5]) -> Result<Expression, CronError> {
    let [minute, hour, month_day, month, weekday] = parts;
    let either = !month_day.begins_with_star() && !weekday.begins_with_star();
    let cron = Cron {
        seconds: second.map_or(Ok(1), |second| set(&SECOND, second))?,
        minutes: set(&MINUTE, minute)?,
        hours: set(&HOUR, hour)? as u32,
        month_days: month_days(month_day)?,
        months: set(&MONTH, month)? as u16,
        weekdays: weekdays(weekday)?,
        days: if either { Days::Either } else { Days::Both },
        fixed: !minute.begins_with_star() && !hour.begins_with_star(),
    };
    if cron.ever_fires() {
        return Ok(Expression::Times(cron));
    }
    let what = format!(
        "never matches: day of month `{}`, month `{}`, day of week `{}`",
        quoted(month_day.text),
        quoted(month.text),
        quoted(weekday.text)
    );
    let hint = "months have at most 31 days, February 29; if one day field begins with `*`, both must match";
    Err(CronError { span: month_day.start..weekday.span().end, what, hint: Some(hint.to_owned()) })
}

/// A field that is a list of ranges, as a set: bit n is the value n.
fn set(field: &Field, part: Part) -> Result<u64, CronError> {
    let items = part.split(|c| c == ',');
    items.map(|item| range(field, item)).try_fold(0, |set, bits| Ok(set | bits?))
}

fn month_days(part: Part) -> Result<MonthDays, CronError> {
    let mut month_days = MonthDays::default();
    for item in part.split(|c| c == ',') {
        let upper = item.text.to_ascii_uppercase();
        if upper == "L" {
            month_days.before_last |= 1;
        } else if upper == "LW" || upper == "WL" {
            month_days.last_workday = true;
        } else if upper.starts_with("L-") {
            month_days.before_last |= 1 << days_before_last(item)?;
        } else if let Some(day) = item.strip_suffix(['W', 'w']) {
            month_days.nearest_workday |= 1 << value(&MONTH_DAY, day)?;
        } else {
            month_days.days |= range(&MONTH_DAY, item)? as u32;
        }
    }
    Ok(month_days)
}

/// The 3 of `L-3`.
fn days_before_last(item: Part) -> Result<u32, CronError> {
    let number = item.text[2..].parse::<u32>().ok().filter(|number| (1..=30).contains(number));
    let what = || format!("{}: `{}` needs a number from 1 to 30 after `L-`", MONTH_DAY.name, quoted(item.text));
    number.ok_or_else(|| item.error_with_hint(what(), "`L-3` is the third day before the last of the month"))
}

fn weekdays(part: Part) -> Result<Weekdays, CronError> {
    let mut weekdays = Weekdays::default();
    for item in part.split(|c| c == ',') {
        if let Some((weekday, nth)) = item.split_once('#') {
            let nth = match nth.text {
                "1" | "2" | "3" | "4" | "5" => usize::from(nth.text.as_bytes()[0] - b'1'),
                _ => {
                    let what =
                        format!("{}: `{}` needs a number from 1 to 5 after `#`", WEEKDAY.name, quoted(item.text));
                    return Err(item.error_with_hint(what, "`5#3` is the third Friday of the month, `5L` the last"));
                }
            };
            weekdays.nth[nth] |= 1 << (value(&WEEKDAY, weekday)? % 7);
        } else if let Some(weekday) = item.strip_suffix(['L', 'l']).filter(|weekday| !weekday.text.is_empty()) {
            weekdays.last |= 1 << (value(&WEEKDAY, weekday)? % 7);
        } else {
            weekdays.every |= range(&WEEKDAY, item)? as u8;
        }
    }
    Ok(weekdays)
}

/// `*`, `a`, `a-b`, each with or without `/step`, as a set. A range whose end is before its start passes the field's end.
fn range(field: &Field, item: Part) -> Result<u64, CronError> {
    if item.text.is_empty() {
        return Err(item.error(format!("{}: a value is missing at a comma", field.name)));
    }
    let (ends, step) = match item.split_once('/') {
        Some((ends, step)) => (ends, Some(self::step(field, step)?)),
        None => (item, None),
    };
    let size = field.most - field.least + 1;
    let (from, to) = if ends.text == "*" {
        (field.least, field.most)
    } else if let Some((from, to)) = ends.split_once('-') {
        (value(field, from)?, value(field, to)?)
    } else {
        let from = value(field, ends)?;
        (from, if step.is_some() { field.most.max(from) } else { from })
    };
    let length = if from <= to { to - from } else { to + size - from };
    let values =
        (0..=length).step_by(step.unwrap_or(1) as usize).map(|n| field.least + (from - field.least + n) % size);
    Ok(values.fold(0, |set, value| set | 1 << value))
}

fn step(field: &Field, part: Part) -> Result<u32, CronError> {
    let most = field.most - field.least;
    let number = part.text.parse::<u32>().ok().filter(|_| is_digits(part.text));
    match number {
        Some(step) if (1..=most).contains(&step) => Ok(step),
        Some(0) => Err(part.error_with_hint(format!("{}: the step is 0", field.name), "write a step of 1 or more")),
        _ if is_digits(part.text) => {
            let what = format!("{}: a step of {} is longer than the field", field.name, quoted(part.text));
            let hint = format!("write at most {most} here; steps count within one field, from {}", field.least);
            Err(part.error_with_hint(what, hint))
        }
        _ => Err(part.error_with_hint(
            format!("{}: `{}` is not a step", field.name, quoted(part.text)),
            "write a whole number, as in `*/5`",
        )),
    }
}

/// One value: a number, or a name where the field has names.
fn value(field: &Field, part: Part) -> Result<u32, CronError> {
    if is_digits(part.text) {
        let number = part.text.parse::<u32>().ok();
        let within = number.filter(|number| (field.least..=field.written_most).contains(number));
        let what = || format!("{}: {} is out of range", field.name, quoted(part.text));
        return within.ok_or_else(|| part.error_with_hint(what(), range_of(field)));
    }
    match field.names.iter().position(|name| name.eq_ignore_ascii_case(part.text)) {
        // A field has at most twelve names.
        Some(position) => Ok(field.least + position as u32),
        None => Err(not_a_value(field, part)),
    }
}

fn not_a_value(field: &Field, part: Part) -> CronError {
    let what = match part.text {
        "" => format!("{}: a value is missing", field.name),
        text => format!("{}: `{}` is not a value", field.name, quoted(text)),
    };
    let upper = part.text.to_ascii_uppercase();
    let hint = if upper.contains('?') {
        "write `*` for any value".to_owned()
    } else if upper == "H" || upper.starts_with("H(") || upper.contains('~') {
        "to spread batches over time, use `jitter`".to_owned()
    } else if upper == "L" && field.name == WEEKDAY.name {
        "write `5L` for the last Friday of the month, `6` for Saturday; `L` alone belongs in day of month".to_owned()
    } else if upper.ends_with(['L', 'W']) && upper.len() < 3 {
        "`L` and `W` belong in day of month (`L`, `L-3`, `15W`, `LW`) or, as `5L`, in day of week, and in no range"
            .to_owned()
    } else if upper.contains('#') {
        "`5#3`, the third Friday, belongs in day of week, and in no range".to_owned()
    } else {
        range_of(field)
    };
    part.error_with_hint(what, hint)
}

/// What may stand in a field, for hints.
fn range_of(field: &Field) -> String {
    let names = match field.names {
        [first, .., last] => format!(", or {first} to {last}"),
        _ => String::new(),
    };
    let sunday = if field.written_most > field.most { " (0 and 7 are Sunday)" } else { "" };
    format!("{} is {} to {}{names}{sunday}", field.name, field.least, field.written_most)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
