//! A table read key by key: [`Reader`]. Which keys are known is what was asked for, so the two can't differ.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Diagnosis;
use super::findings::Findings;
use super::words::unknown_key_hint;
use crate::model::text::{QUOTED_CHARACTERS_MAX, quoted};

/// The most entries of a list: more names than anybody writes, few enough that each can have its place.
pub const LIST_ENTRIES_MAX: usize = 1000;

/// Why a value is not what its key wants.
pub(super) enum Wrong {
    /// It is of another type.
    Type(Expected),
    /// It is of the right type, and wrong.
    Value(Diagnosis),
    /// A part of a string is wrong: these bytes of it.
    Part(Range<usize>, Diagnosis),
}

/// What type a key wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A string.
    Text,
    /// A string that is a duration.
    Duration,
    /// A string that is a number of bytes, or a whole number.
    Size,
    /// `true` or `false`.
    Flag,
    /// An integer.
    Whole,
    /// An integer or a float.
    Number,
    /// A list.
    List,
    /// A string or a list of strings.
    TextOrList,
    /// A table.
    Table,
}

/// Whether a list of one may be written without its brackets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[a, b]`.
    List,
    /// `a` or `[a, b]`.
    OneOrList,
}

/// A value and where it stands.
pub(super) type At<T> = Spanned<T>;

/// A table, the keys of it that were asked for so far, and where complaints go.
pub(super) struct Reader<'r, 't> {
    table: &'r DeTable<'t>,
    known: Vec<&'static str>,
    /// Where complaints go.
    pub(super) findings: &'r mut Findings<'t>,
}

impl<'r, 't> Reader<'r, 't> {
    /// Nothing of `table` is read yet.
    pub(super) fn new(table: &'r DeTable<'t>, findings: &'r mut Findings<'t>) -> Self {
        Self { table, known: Vec::new(), findings }
    }

    /// The value of `key` as `convert` understands it; none if it is not there, or wrong, which is a complaint.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        convert: impl Fn(&str, &DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<At<T>> {
        let value = self.raw(key)?;
        converted(self.findings, Slot::Key(key), value, convert)
    }

    /// The entries of the list `key`, each as `convert` understands it; wrong ones are complaints and left out.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        shape: Shape,
        convert: impl Fn(&str, &DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<At<Vec<At<T>>>> {
        let value = self.raw(key)?;
        let span = value.span();
        let (entries, slot) = match (value.get_ref(), shape) {
            (DeValue::Array(entries), _) => (entries.iter().collect(), Slot::EntryOf(key)),
            (DeValue::String(_), Shape::OneOrList) => (vec![value], Slot::Key(key)),
            (_, shape) => {
                let expected = if shape == Shape::List { Expected::List } else { Expected::TextOrList };
                let diagnosis = wrong_type(self.findings.text(), Slot::Key(key), value, expected);
                self.findings.at(span, diagnosis);
                return None;
            }
        };
        if entries.len() > LIST_ENTRIES_MAX {
            let what = format!("`{key}` has {} entries, more than the {LIST_ENTRIES_MAX} allowed", entries.len());
            self.findings.at(span, Diagnosis::new(what));
            return None;
        }
        let list = entries.into_iter().filter_map(|entry| converted(self.findings, slot, entry, &convert)).collect();
        Some(Spanned::new(span, list))
    }

    /// The entries of the table `key`, in the order of their names, each checked and converted with its own name.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        check_name: impl Fn(&str) -> Result<(), Diagnosis>,
        convert: impl Fn(&str, &DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Vec<(String, At<T>)>> {
        let span = self.key_span(key);
        let table = self.inner(key)?;
        if let Some(span) = span.filter(|_| table.len() > LIST_ENTRIES_MAX) {
            let what = format!("`{key}` has {} entries, more than the {LIST_ENTRIES_MAX} allowed", table.len());
            self.findings.at(span, Diagnosis::new(what));
            return None;
        }
        let mut entries = Vec::new();
        for (name, value) in table {
            if let Err(diagnosis) = check_name(name.get_ref()) {
                self.findings.at(name.span(), diagnosis);
            } else if let Some(value) = converted(self.findings, Slot::Key(name.get_ref()), value, &convert) {
                entries.push((name.get_ref().to_string(), value));
            }
        }
        Some(entries)
    }

    /// What `read` makes of the table `key`, in which every key must be known; `place` and `elsewhere` as for
    /// [`Self::finish`].
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        place: &str,
        elsewhere: &[&str],
        read: impl FnOnce(&mut Reader<'_, 't>) -> T,
    ) -> Option<T> {
        let mut reader = Reader::new(self.inner(key)?, self.findings);
        let result = read(&mut reader);
        reader.finish(place, elsewhere);
        Some(result)
    }

    /// The table `key` itself.
    fn inner(&mut self, key: &'static str) -> Option<&'r DeTable<'t>> {
        let value = self.raw(key)?;
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        let diagnosis = wrong_type(self.findings.text(), Slot::Key(key), value, Expected::Table);
        self.findings.at(value.span(), diagnosis);
        None
    }

    /// Where `key` itself stands, if it is there.
    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.table.get_key_value(key).map(|(key, _)| key.span())
    }

    /// Complains about every key that nobody asked for. `place` is what they stand in; those in `elsewhere` belong into
    /// a `batch.toml`.
    pub(super) fn finish(mut self, place: &str, elsewhere: &[&str]) {
        self.keys_among_variables();
        for (key, value) in self.table {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let raw = self.findings.text().get(value.span()).unwrap_or_default();
            let diagnosis = if elsewhere.contains(&name) {
                let hint = "move it to the `batch.toml` of each batch";
                Diagnosis::hinted(format!("`{name}` is not allowed in {place}"), hint)
            } else {
                Diagnosis::hinted(
                    format!("unknown key `{}` in {place}", quoted(name)),
                    unknown_key_hint(name, raw, &self.known, value.get_ref().is_table()),
                )
            };
            self.findings.at(key.span(), diagnosis);
        }
    }

    /// Complains about keys below an `[env]` line: TOML makes variables of them, and without a word they would be lost.
    fn keys_among_variables(&mut self) {
        let Some(value) = self.table.get("env") else { return };
        let is_section = self.findings.text().get(value.span()).is_some_and(|header| header.starts_with('['));
        for (key, _) in value.get_ref().as_table().into_iter().flatten().filter(|_| is_section) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                let what = format!("`{name}` is below `[env]`, so it sets a variable");
                let hint = format!(
                    "move it above the line `[env]`; if you mean a variable, write `env.{name} = \"...\"` above that line"
                );
                self.findings.at(key.span(), Diagnosis::hinted(what, hint));
            }
        }
    }

    fn raw(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.get(key)
    }
}

/// Where a value stands.
#[derive(Clone, Copy)]
enum Slot<'k> {
    /// Behind this key.
    Key(&'k str),
    /// In the list behind this key.
    EntryOf(&'k str),
}

impl<'k> Slot<'k> {
    fn key(self) -> &'k str {
        match self {
            Self::Key(key) | Self::EntryOf(key) => key,
        }
    }

    /// How a value is written here.
    fn with(self, value: &str) -> String {
        match self {
            Self::Key(key) => format!("`{key} = {value}`"),
            Self::EntryOf(_) => format!("`{value}`"),
        }
    }
}

/// One value, converted; or a complaint and none.
fn converted<T>(
    findings: &mut Findings<'_>,
    slot: Slot<'_>,
    value: &Spanned<DeValue<'_>>,
    convert: impl Fn(&str, &DeValue<'_>) -> Result<T, Wrong>,
) -> Option<At<T>> {
    let span = value.span();
    let (span, diagnosis) = match convert(slot.key(), value.get_ref()) {
        Ok(converted) => return Some(Spanned::new(span, converted)),
        Err(Wrong::Type(expected)) => (span, wrong_type(findings.text(), slot, value, expected)),
        Err(Wrong::Value(diagnosis)) => (span, diagnosis),
        Err(Wrong::Part(part, diagnosis)) => (part_span(findings.text(), value, part).unwrap_or(span), diagnosis),
    };
    findings.at(span, diagnosis);
    None
}

/// Where the bytes `part` of a string stand in the text; none if escapes or line ends make that hard to say.
fn part_span(text: &str, value: &Spanned<DeValue<'_>>, part: Range<usize>) -> Option<Range<usize>> {
    let string = value.get_ref().as_str()?;
    let inside = value.span().start + 1;
    let as_written = text.get(inside..value.span().end.checked_sub(1)?)? == string;
    as_written.then(|| inside + part.start..inside + part.end)
}

/// `retries` must be a whole number, found a string.
fn wrong_type(text: &str, slot: Slot<'_>, value: &Spanned<DeValue<'_>>, expected: Expected) -> Diagnosis {
    let wanted = match expected {
        Expected::Text => "a string",
        Expected::Duration => "a duration",
        Expected::Size => "a size",
        Expected::Flag => "`true` or `false`",
        Expected::Whole => "a whole number",
        Expected::Number => "a number",
        Expected::List => "a list",
        Expected::TextOrList => "a string or a list of strings",
        Expected::Table => "a table",
    };
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    let subject = match slot {
        Slot::Key(key) => format!("`{key}`"),
        Slot::EntryOf(key) => format!("an entry of `{key}`"),
    };
    let raw = text.get(value.span()).unwrap_or_default();
    Diagnosis::hinted(
        format!("{subject} must be {wanted}, found {found}"),
        type_hint(raw, value.get_ref(), slot, expected),
    )
}

/// How the value would be written as what is wanted.
fn type_hint(raw: &str, value: &DeValue<'_>, slot: Slot<'_>, expected: Expected) -> String {
    let text = value.as_str();
    let is_simple = !matches!(value, DeValue::Array(_) | DeValue::Table(_))
        && !raw.contains('\n')
        && raw.len() <= QUOTED_CHARACTERS_MAX;
    match expected {
        Expected::Text | Expected::TextOrList if is_simple => format!("write {}", slot.with(&format!("\"{raw}\""))),
        Expected::Text | Expected::TextOrList => format!("write for example {}", slot.with("\"...\"")),
        Expected::Duration if value.is_integer() && is_simple => {
            let (seconds, minutes) = (slot.with(&format!("\"{raw}s\"")), slot.with(&format!("\"{raw}m\"")));
            format!("add a unit: {seconds} or {minutes}")
        }
        Expected::Duration => format!("write for example {}, `\"5m\"`, `\"2h\"` or `\"7d\"`", slot.with("\"90s\"")),
        Expected::Size => format!("write for example {}", slot.with("\"100MiB\"")),
        Expected::Flag => match text {
            Some("true" | "yes" | "on" | "1") => format!("write {}", slot.with("true")),
            Some("false" | "no" | "off" | "0") => format!("write {}", slot.with("false")),
            Some(_) | None => format!("write {} or {}", slot.with("true"), slot.with("false")),
        },
        Expected::Whole | Expected::Number => match text.filter(|text| text.trim().parse::<f64>().is_ok()) {
            Some(number) => format!("remove the quotes: {}", slot.with(&quoted(number.trim()))),
            None => format!("write for example {}", slot.with("3")),
        },
        Expected::List if is_simple => {
            let quoted = |word: &str| format!("\"{}\"", word.trim_matches(','));
            let entries = match text {
                Some(text) => text.split_whitespace().map(quoted).collect::<Vec<_>>().join(", "),
                None => raw.to_owned(),
            };
            format!("write {}", slot.with(&format!("[{entries}]")))
        }
        Expected::List => format!("write for example {}", slot.with("[\"...\"]")),
        Expected::Table => format!("add a line `[{}]` at the end of the file, and its entries below it", slot.key()),
    }
}
