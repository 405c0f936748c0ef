//! Names and ids: [`BatchName`], [`RunId`], [`DefinitionHash`], [`JournalId`], [`Token`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::text::quoted;
use super::time::Instant;

/// The most characters that a batch's name may have: with the number of a run behind it, it stays a short file name.
pub const BATCH_NAME_CHARACTERS_MAX: usize = 63;

/// The greatest number that a run can have: the journal's integers are signed.
pub const RUN_NUMBER_MAX: u64 = i64::MAX as u64;

/// Letters outside of ASCII, as they are usually written without them.
const LETTERS: [(&str, &str); 15] = [
    ("ä", "ae"),
    ("ö", "oe"),
    ("ü", "ue"),
    ("ß", "ss"),
    ("æ", "ae"),
    ("ø", "oe"),
    ("àáâãå", "a"),
    ("çćč", "c"),
    ("èéêë", "e"),
    ("ìíîï", "i"),
    ("ñń", "n"),
    ("òóôõ", "o"),
    ("ùúû", "u"),
    ("śš", "s"),
    ("žźż", "z"),
];

/// The name of a batch, which is the name of its folder: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone)]
pub struct BatchName {
    /// The first bytes of the text, and zeroes behind a shorter one: as numbers they are in the order of the texts, since no
    /// name has a zero byte. The scheduler compares names all the time, and here most differ, in one comparison, without a
    /// look at the texts.
    head: u64,
    text: Arc<str>,
}

impl Ord for BatchName {
    /// As texts. Many that are compared are clones of one, which are told by their place in memory.
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| {
            if Arc::ptr_eq(&self.text, &other.text) { Ordering::Equal } else { self.text.cmp(&other.text) }
        })
    }
}

impl PartialEq for BatchName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for BatchName {}

impl Hash for BatchName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for BatchName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text is not a name or an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a batch's name.
    #[error(
        "`{}` is not a batch name; a name begins with a-z or 0-9, continues with a-z, 0-9, `_` or `-`, and has at most {BATCH_NAME_CHARACTERS_MAX} characters",
        quoted(.0)
    )]
    BatchName(String),
    /// Not a run's id.
    #[error("`{}` is not a run id; an id is a batch name, a dot and a number, such as `report.42`", quoted(.0))]
    RunId(String),
    /// Not a definition's hash.
    #[error("`{}` is not a definition hash; a hash has 64 hexadecimal digits", quoted(.0))]
    DefinitionHash(String),
}

impl BatchName {
    /// Checks the grammar of `text`.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if first && rest && text.len() <= BATCH_NAME_CHARACTERS_MAX {
            let mut head = [0; size_of::<u64>()];
            head.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
            Ok(Self { head: u64::from_be_bytes(head), text: text.into() })
        } else {
            Err(IdError::BatchName(text.to_owned()))
        }
    }

    /// The name that is nearest to what somebody wrote; none if too little of that can be in a name.
    pub fn suggestion(text: &str) -> Option<Self> {
        let mut name = String::new();
        let mut lost = 0;
        for c in text.chars().flat_map(char::to_lowercase).take(BATCH_NAME_CHARACTERS_MAX * 2) {
            match c {
                'a'..='z' | '0'..='9' | '_' => name.push(c),
                _ => match LETTERS.iter().find(|(letters, _)| letters.contains(c)) {
                    Some((_, plain)) => name.push_str(plain),
                    None => {
                        lost += usize::from(c.is_alphanumeric());
                        if !name.ends_with('-') {
                            name.push('-');
                        }
                    }
                },
            }
        }
        let name = name.trim_matches(['-', '_']);
        let name = name.get(..BATCH_NAME_CHARACTERS_MAX).unwrap_or(name);
        Self::new(name).ok().filter(|name| lost < name.text.len())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id of this batch's run `number`.
    pub fn run(&self, number: u64) -> RunId {
        RunId { batch: self.clone(), number }
    }
}

/// The id of a run: its batch and its number in it. Written `report.42`; numbers begin at 1 and never come back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    /// The batch that the run belongs to.
    pub batch: BatchName,
    /// Counted per batch, from 1.
    pub number: u64,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.batch, self.number)
    }
}

impl FromStr for RunId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::RunId(text.to_owned());
        let (batch, number) = text.split_once('.').ok_or_else(error)?;
        // Only the canonical form: two spellings of one id would be two folders.
        let canonical = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        let number = number.parse().ok().filter(|number| canonical && *number <= RUN_NUMBER_MAX).ok_or_else(error)?;
        Ok(Self { batch: BatchName::new(batch).map_err(|_| error())?, number })
    }
}

/// The SHA-256 of a batch folder's content, as [`super::files::Files::hash`] defines it. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionHash(pub [u8; 32]);

impl DefinitionHash {
    /// The first twelve digits: enough to tell definitions of one batch apart on a screen.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for DefinitionHash {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError::DefinitionHash(text.to_owned());
        let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() != 64 || !lower {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

/// The random name that a journal gets when it is made: run folders of another journal are never taken for its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JournalId(pub String);

/// What all files of one run carry, so that a folder left behind by another journal is never read as this run's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// The journal that the run is in.
    pub journal: JournalId,
    /// The run.
    pub run: RunId,
    /// When its row was made.
    pub queued_at: Instant,
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for BatchName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

/// Debug as the text itself, and serde as a string, for the three that are written as text.
macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

as_text!(BatchName, RunId, DefinitionHash);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_names() {
        let long = "a".repeat(BATCH_NAME_CHARACTERS_MAX);
        for good in ["a", "0", "report", "load-2_b", &long] {
            assert_eq!(BatchName::new(good).unwrap().as_str(), good);
        }
        let longer = "a".repeat(BATCH_NAME_CHARACTERS_MAX + 1);
        for bad in ["", "-a", "_common", "A", "a.b", "a/b", "..", "a b", "a\n", "ä", &longer] {
            assert!(BatchName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_in_the_order_of_their_texts() {
        let texts =
            ["a", "ab", "a-", "b", "load-customers", "load-customers-2", "load-orders", "load-cus", "load-cu", "z9"];
        for (one, other) in texts.iter().flat_map(|one| texts.iter().map(move |other| (one, other))) {
            let (a, b) = (BatchName::new(one).unwrap(), BatchName::new(other).unwrap());
            assert_eq!((a.cmp(&b), a == b), (one.cmp(other), one == other), "{one} {other}");
        }
    }

    #[test]
    fn run_ids() {
        let id: RunId = "report.42".parse().unwrap();
        assert_eq!((id.batch.as_str(), id.number), ("report", 42));
        assert_eq!(id.to_string(), "report.42");
        assert_eq!("report.9223372036854775807".parse::<RunId>().unwrap().number, RUN_NUMBER_MAX);
        for bad in [
            "report",
            "report.",
            ".1",
            "report.0",
            "report.01",
            "report.+1",
            "report.1.2",
            "../x.1",
            "report.9223372036854775808",
            "report.18446744073709551616",
        ] {
            assert!(bad.parse::<RunId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hashes() {
        let text = "00ff".repeat(16);
        assert_eq!(text.parse::<DefinitionHash>().unwrap().to_string(), text);
        assert!("00FF".repeat(16).parse::<DefinitionHash>().is_err());
        assert!("00".parse::<DefinitionHash>().is_err());
    }
}
