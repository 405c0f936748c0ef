//! Values of TOML to values of batchd, one kind each. Every function here is given the key's name only to speak of it.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::Diagnosis;
use super::reader::{Expected, Wrong};
use crate::model::files::{FILE_NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::model::id::BatchName;
use crate::model::text::quoted;
use crate::model::time::{format_duration, meant_duration, parse_duration};

/// The word that stands for the absence of a timeout or a pool, so that a batch can do without the settings' default.
pub(super) const NONE: &str = "none";

/// The most bytes of output that can be asked for, 1 PiB: sums of them fit into the journal's integers.
pub(super) const LOG_BYTES_LARGEST: u64 = 1 << 50;

/// The longest name of a user or group that Linux and its directories (`name@realm`) use.
const ACCOUNT_BYTES_MAX: usize = 256;

/// A number with more digits than this is too large for all that it could be.
const DIGITS_MAX: usize = 20;
/// The most names that a hint lists.
const NAMES_LISTED_MAX: usize = 8;

/// Units of a size, in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

fn wrong<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Value(Diagnosis::hinted(what, hint)))
}

/// A string. NUL is in none: it can't be in an argument, a path or a variable.
pub(super) fn text(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = value.as_str().ok_or(Wrong::Type(Expected::Text))?;
    if text.contains('\0') {
        return wrong(
            format!("`{key}` contains a NUL character"),
            "remove it; arguments, paths and variables can't contain NUL",
        );
    }
    Ok(text.to_owned())
}

/// A string that is not empty.
pub(super) fn filled_text(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(key, value)?;
    if text.trim().is_empty() {
        wrong(format!("`{key}` has an empty string"), "write a value, or remove the string")
    } else {
        Ok(text)
    }
}

/// A string of one line, which may be empty.
pub(super) fn line(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = text(key, value)?;
    if text.trim_end().contains(char::is_control) {
        return wrong(
            format!("`{key}` has more than one line"),
            "keep one line, and write the rest as a comment (`# ...`)",
        );
    }
    Ok(text.trim_end().to_owned())
}

/// `true` or `false`.
pub(super) fn flag(_key: &str, value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or(Wrong::Type(Expected::Flag))
}

/// A whole number within `range`.
pub(super) fn whole(range: RangeInclusive<i64>) -> impl Fn(&str, &DeValue<'_>) -> Result<i64, Wrong> {
    move |key, value| {
        let integer = value.as_integer().ok_or(Wrong::Type(Expected::Whole))?;
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let hint = format!("write a whole number from {} to {}", range.start(), range.end());
            Wrong::Value(Diagnosis::hinted(
                format!("{} is out of range for `{key}`", quoted(&integer.to_string())),
                hint,
            ))
        })
    }
}

/// A number, with or without a fraction, from 1 to `most`.
pub(super) fn factor(most: f64) -> impl Fn(&str, &DeValue<'_>) -> Result<f64, Wrong> {
    move |key, value| {
        let number: Option<f64> = match value {
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|number| number as f64)
            }
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                return Err(Wrong::Type(Expected::Number));
            }
        };
        match number.filter(|number| (1.0..=most).contains(number)) {
            Some(number) => Ok(number),
            None => wrong(
                format!("`{key}` must be a number from 1 to {most}"),
                format!("`{key} = 1.0` keeps the same delay, `{key} = 2.0` doubles it each time"),
            ),
        }
    }
}

/// A duration, zero included.
pub(super) fn duration(key: &str, value: &DeValue<'_>) -> Result<Duration, Wrong> {
    let text = value.as_str().ok_or(Wrong::Type(Expected::Duration))?;
    parse_duration(text).or_else(|error| {
        let (what, hint) = error.split_once("; ").unwrap_or((&error, "write at most a hundred years"));
        let hint = match (text.trim(), meant_duration(text)) {
            (text, _) if !text.is_empty() && text.len() < DIGITS_MAX && text.bytes().all(|b| b.is_ascii_digit()) => {
                format!("add a unit: `{key} = \"{text}s\"` or `{key} = \"{text}m\"`")
            }
            (_, Some(meant)) => format!("write `{key} = \"{meant}\"`"),
            (_, None) => hint.to_owned(),
        };
        wrong(format!("`{key}`: {what}"), hint)
    })
}

/// A duration, not zero, at most `longest`.
pub(super) fn duration_within(longest: Duration) -> impl Fn(&str, &DeValue<'_>) -> Result<Duration, Wrong> {
    move |key, value| {
        let duration = duration(key, value)?;
        if duration > longest {
            let longest = format_duration(longest);
            return wrong(
                format!("`{key}` is longer than {longest}"),
                format!("write at most `{key} = \"{longest}\"`"),
            );
        }
        Ok(duration)
    }
}

/// A duration that is not zero, or `"none"`.
pub(super) fn timeout(key: &str, value: &DeValue<'_>) -> Result<Option<Duration>, Wrong> {
    if value.as_str() == Some(NONE) {
        return Ok(None);
    }
    match duration(key, value)? {
        Duration::ZERO => wrong(
            format!("`{key}` is zero, so every run would time out at once"),
            format!("for no timeout remove `{key}`, or write `{key} = \"none\"` to override a default in the settings"),
        ),
        duration => Ok(Some(duration)),
    }
}

/// A number of bytes: `"100MiB"`, `"1GB"`, or a plain number.
pub(super) fn size(key: &str, value: &DeValue<'_>) -> Result<u64, Wrong> {
    let plain = value.as_integer().map(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
    let bytes = match (plain, value.as_str()) {
        (Some(plain), _) => plain,
        (None, Some(text)) => parse_size(key, text)?,
        (None, None) => return Err(Wrong::Type(Expected::Size)),
    };
    match bytes.filter(|bytes| *bytes <= LOG_BYTES_LARGEST) {
        Some(bytes) => Ok(bytes),
        None => wrong(
            format!("`{key}` must be from 0 to {LOG_BYTES_LARGEST} bytes"),
            format!("write for example `{key} = \"1GiB\"`"),
        ),
    }
}

/// None: too many to count.
fn parse_size(key: &str, text: &str) -> Result<Option<u64>, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let unit_bytes = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
    match unit_bytes.filter(|_| digits > 0) {
        Some(unit_bytes) => Ok(number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes))),
        None => {
            let letter = unit.chars().next().map(|c| c.to_ascii_uppercase()).filter(|c| "KMGT".contains(*c));
            let hint = match letter.filter(|_| digits > 0) {
                Some(letter) if digits < DIGITS_MAX => format!("write `{key} = \"{number}{letter}iB\"`"),
                Some(_) | None => {
                    format!("write a number and a unit (B, KB, MB, GB, KiB, MiB, GiB, TiB): `{key} = \"100MiB\"`")
                }
            };
            wrong(format!("`{}` is not a size", quoted(text)), hint)
        }
    }
}

/// The name of a batch.
pub(super) fn batch(key: &str, value: &DeValue<'_>) -> Result<BatchName, Wrong> {
    let text = text(key, value)?;
    BatchName::new(&text).or_else(|error| {
        let words: Vec<&str> = text.split([',', ' ']).filter(|word| !word.is_empty()).collect();
        let hint =
            if (2..=NAMES_LISTED_MAX).contains(&words.len()) && words.iter().all(|word| BatchName::new(word).is_ok()) {
                let names: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("write several names as a list: `{key} = [{}]`", names.join(", "))
            } else {
                "a batch has the name of its folder in `batches.d`".to_owned()
            };
        wrong(error.to_string(), hint)
    })
}

/// The name of a user or a group.
pub(super) fn account(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = filled_text(key, value)?;
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return wrong(
            format!("`{key}` must be a name, found the number `{}`", quoted(&text)),
            format!("write the name; `getent passwd {0}` or `getent group {0}` shows it", quoted(&text)),
        );
    }
    if text.contains(odd) || text.starts_with('-') || text.len() > ACCOUNT_BYTES_MAX {
        return wrong(
            format!("`{}` can't be the name of a user or group", quoted(&text)),
            "write a name as `getent passwd` or `getent group` shows it",
        );
    }
    Ok(text)
}

/// An octal file mode creation mask in quotes.
pub(super) fn umask(key: &str, value: &DeValue<'_>) -> Result<u32, Wrong> {
    let text = match value {
        DeValue::Integer(integer) => {
            return wrong(
                format!("`{key}` must be a string, found a whole number"),
                format!(
                    "write the mask in octal and in quotes: `{key} = \"{}\"`",
                    quoted(&format!("{:0>3}", integer.as_str()))
                ),
            );
        }
        value => text(key, value)?,
    };
    let mask = u32::from_str_radix(&text, 8).ok().filter(|mask| (3..=4).contains(&text.len()) && *mask <= 0o777);
    match mask {
        Some(mask) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(mask),
        Some(_) | None => wrong(
            format!("`{}` is not a file mode mask", quoted(&text)),
            format!("write three octal digits, for example `{key} = \"022\"`"),
        ),
    }
}

/// The mode of run folders, in octal. Nobody but the owner may change what is in them.
pub(super) fn runs_mode(key: &str, value: &DeValue<'_>) -> Result<u32, Wrong> {
    let hint = format!("write `{key} = \"0755\"` to let everybody read logs, or `{key} = \"0750\"` for one group");
    let text = match value {
        DeValue::Integer(_) => return wrong(format!("`{key}` must be a string, found a whole number"), hint),
        value => text(key, value)?,
    };
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match u32::from_str_radix(&text, 8).ok().filter(|_| is_octal) {
        Some(mode) if mode & 0o7722 == 0o700 => Ok(mode),
        Some(_) | None => wrong(format!("`{}` is not a mode for run folders", quoted(&text)), hint),
    }
}

/// A path that the system takes.
pub(super) fn path(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let path = filled_text(key, value)?;
    if path.len() <= PATH_BYTES_MAX && path.split('/').all(|name| name.len() <= FILE_NAME_BYTES_MAX) {
        return Ok(path);
    }
    let hint = format!("a path has at most {PATH_BYTES_MAX} bytes, and each name in it at most {FILE_NAME_BYTES_MAX}");
    wrong(format!("`{key}` has a path that is too long: `{}`", quoted(&path)), hint)
}

/// An absolute path.
pub(super) fn absolute_path(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let path = path(key, value)?;
    if path.starts_with('/') {
        return Ok(path);
    }
    let hint = if path.starts_with('~') {
        "`~` is not expanded; write the path out"
    } else {
        "remove the key to run the script in its workspace, where its files are"
    };
    wrong(format!("`{key}` must be an absolute path, found `{}`", quoted(&path)), hint)
}

/// A path that is absolute, or relative and stays below where it begins; `./` before it is taken away.
pub(super) fn contained_path(key: &str, value: &DeValue<'_>) -> Result<String, Wrong> {
    let path = path(key, value)?;
    if path.starts_with('~') {
        return wrong(format!("`~` is not expanded in `{key}`"), "write the path out");
    }
    if path.starts_with('/') {
        return Ok(path);
    }
    let relative = path.trim_start_matches("./");
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if relative.split('/').any(odd) {
        let hint = if key == "env_file" {
            "write an absolute path, or a file in the batch's folder, such as `report.env`"
        } else {
            "write the path of a file in the batch's folder, such as `bin/load.sh`"
        };
        return wrong(format!("`{}` leads out of the folder, or has empty parts", quoted(&path)), hint);
    }
    Ok(relative.to_owned())
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&str, &DeValue<'_>) -> Result<T, Wrong> {
    move |key, value| {
        let text = value.as_str().ok_or(Wrong::Type(Expected::Text))?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*meaning);
        }
        let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let near = super::words::nearest(text, words.iter().map(|(word, _)| *word));
        let hint = near.map_or_else(String::new, |near| format!("did you mean \"{near}\"? "));
        wrong(format!("`{key}` can't be \"{}\"", quoted(text)), format!("{hint}write one of {}", all.join(", ")))
    }
}
