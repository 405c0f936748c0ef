//! Instants and durations. No clock: an [`Instant`] comes from the one module that reads it, or from a file.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::text::quoted;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted. Written in RFC 3339, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(i64);

impl Instant {
    /// The last instant that can be written: 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);
    /// The first instant that can be written: 0000-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_167_219_200_000);

    /// From milliseconds since 1970; held to [`Self::MIN`] and [`Self::MAX`].
    pub const fn from_ms(ms: i64) -> Self {
        if ms < Self::MIN.0 {
            Self::MIN
        } else if ms > Self::MAX.0 {
            Self::MAX
        } else {
            Self(ms)
        }
    }

    /// From seconds since 1970; held as [`Self::from_ms`] does.
    pub const fn from_s(s: i64) -> Self {
        Self::from_ms(s.saturating_mul(1000))
    }

    /// Milliseconds since 1970.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn as_s(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Whether it is one that a schedule can yield; a boot of the host is never due at one.
    pub const fn is_whole_second(self) -> bool {
        self.0 % 1000 == 0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// Reads RFC 3339 with any offset.
    pub fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|t| Self::from_ms(t.timestamp_millis()))
    }

    /// The same instant for chrono.
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).expect("every Instant is within chrono's range: from_ms holds it there")
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self::from_ms(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self::from_ms(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_chrono().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom(format!("`{text}` is not an instant in RFC 3339")))
    }
}

/// The units of a duration as people write it, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest duration that a definition or a setting may hold: a hundred years, so that no sum with an instant overflows.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Reads a duration such as `90s`, `5m`, `2h`, `7d` or `500ms`; several parts may follow one another, as in `1h30m`.
///
/// The error says what is wrong and how it is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "a duration is a whole number and a unit, such as \"90s\", \"5m\", \"2h\" or \"7d\"";
    let total = parse_parts(text).map_err(|what| match meant_duration(text) {
        Some(meant) => format!("`{}` is not a duration; write \"{meant}\"", quoted(text)),
        None => format!("{what}; {FORM}"),
    })?;
    if total > DURATION_MAX { Err(format!("`{}` is more than a hundred years", quoted(text))) } else { Ok(total) }
}

/// As [`parse_duration`]; the error says what is wrong.
fn parse_parts(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("the duration is empty".to_owned());
    }
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        if digits == 0 {
            return Err(format!("`{}` is not a duration", quoted(text)));
        }
        if unit.is_empty() {
            return Err(format!("`{}` has no unit", quoted(text)));
        }
        let unit_ms = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
        let unit_ms = unit_ms.ok_or_else(|| format!("`{}` is not a unit of time", quoted(unit)))?;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms));
        total_ms =
            part.and_then(|ms| total_ms.checked_add(ms)).ok_or_else(|| format!("`{}` is too long", quoted(text)))?;
        rest = &rest[digits + letters..];
    }
    Ok(Duration::from_millis(total_ms))
}

/// What somebody meant who writes units as words, numbers with a fraction, or spaces: `1.5m` is `90s`, `5 minutes` is `5m`.
pub fn meant_duration(text: &str) -> Option<String> {
    const WORDS: [(&[&str], &str); 5] = [
        (&["day", "days"], "d"),
        (&["hr", "hrs", "hour", "hours"], "h"),
        (&["min", "mins", "minute", "minutes"], "m"),
        (&["sec", "secs", "second", "seconds"], "s"),
        (&["msec", "msecs", "millisecond", "milliseconds"], "ms"),
    ];
    let mut rest = text.trim();
    let mut total_ms = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let behind = rest[digits..].trim_start();
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let word = behind[..letters].to_ascii_lowercase();
        let unit =
            WORDS.iter().find(|(words, _)| words.contains(&word.as_str())).map_or(word.as_str(), |(_, unit)| unit);
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total_ms += rest[..digits].parse::<f64>().ok()? * *unit_ms as f64;
        rest = behind[letters..].trim_start();
    }
    let within = total_ms >= 1.0 && total_ms.fract() == 0.0 && total_ms <= DURATION_MAX.as_millis() as f64;
    let ms = total_ms as u64;
    let (name, unit_ms) = UNITS.iter().find(|(_, unit_ms)| within && ms.is_multiple_of(*unit_ms))?;
    Some(format!("{}{name}", ms / unit_ms))
}

/// Writes a duration as [`parse_duration`] reads it, in its largest units: `1h30m`, `90ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, ms) in UNITS {
        if rest >= ms {
            text.push_str(&format!("{}{name}", rest / ms));
            rest %= ms;
        }
    }
    text
}

/// Serde for durations as a whole number of milliseconds (fields end in `_ms` or are documented so).
pub mod duration_ms {
    use super::*;

    /// Writes whole milliseconds.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads whole milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// As [`duration_ms`], for a duration that may be absent.
pub mod duration_ms_option {
    use super::*;

    /// Writes whole milliseconds or null.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    /// Reads whole milliseconds or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, ms: u64| {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(parse_duration(&format_duration(Duration::from_millis(ms))), Ok(Duration::from_millis(ms)));
        };
        check("90s", 90_000);
        check("5m", 300_000);
        check("2h", 7_200_000);
        check("7d", 604_800_000);
        check("1h30m", 5_400_000);
        check("250ms", 250);
        check("0s", 0);
        for bad in ["", "5", "s", "5 s", "-1s", "1.5h", "5w", "99999999999999999999s", "200000d", "1ä"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
    }

    #[test]
    fn durations_that_are_meant() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(meant_duration(text).as_deref(), expected, "{text}");
            assert!(expected.is_none_or(|meant| parse_duration(meant).is_ok()), "{text}");
        };
        check("1.5m", Some("90s"));
        check("5 minutes", Some("5m"));
        check("1 hour 30 min", Some("90m"));
        check("1.5 Days", Some("36h"));
        check("0.5s", Some("500ms"));
        for not in ["", "soon", "5", "m", "1.2.3s", "5 weeks", "0.0001ms", "0s", "200000d", "-5m"] {
            check(not, None);
        }
        assert!(parse_duration("1.5m").unwrap_err().ends_with("; write \"90s\""));
    }

    #[test]
    fn instants() {
        let instant = Instant::parse("2026-03-29T02:30:00+02:00").unwrap();
        assert_eq!(instant.to_string(), "2026-03-29T00:30:00.000Z");
        assert_eq!(Instant::parse(&instant.to_string()), Some(instant));
        assert_eq!(Instant::MAX + DURATION_MAX, Instant::MAX);
        assert_eq!(Instant::MAX.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Instant::MIN.to_string(), "0000-01-01T00:00:00.000Z");
        assert_eq!(instant.since(instant + Duration::from_secs(1)), Duration::ZERO);
    }
}
