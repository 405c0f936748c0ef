//! An input that an operator sent along with a `start`: [`InputId`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The folder of these inputs, below the state folder.
pub const INPUTS: &str = "inputs";
/// The most bytes of one input: the command line holds it in memory. A file has no limit: `start --input FILE`.
pub const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most bytes of all inputs together: so many failed runs can be repeated, and no more disk is taken.
pub const INPUTS_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The most inputs: the daemon's loop looks at all of them before it takes another, which takes a millisecond.
pub const INPUTS_MAX: usize = 1000;
/// The ending of a file that is still being received.
pub const UNFINISHED: &str = ".new";
/// The hexadecimal digits of an id: 128 random bits, so nobody guesses the input of somebody else.
const DIGITS: usize = 32;

/// The name of a stored input, which is the name of its file: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InputId(String);

impl InputId {
    /// The id made of these random bits.
    pub fn of_random(bits: u128) -> Self {
        Self(format!("{bits:0width$x}", width = DIGITS))
    }

    /// Where the input is, in this state folder.
    pub fn path(&self, state: &Path) -> PathBuf {
        state.join(INPUTS).join(&self.0)
    }

    /// Where it is while it is being received.
    pub fn unfinished_path(&self, state: &Path) -> PathBuf {
        state.join(INPUTS).join(format!("{self}{UNFINISHED}"))
    }
}

impl fmt::Display for InputId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for InputId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // It becomes a path, so nothing but digits is let through.
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == DIGITS && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("the id of a stored input has {DIGITS} hexadecimal digits"))
    }
}

impl TryFrom<String> for InputId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<InputId> for String {
    fn from(id: InputId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_digits_and_nothing_else() {
        let id = InputId::of_random(255);
        assert_eq!(id.path(Path::new("/s")), Path::new("/s/inputs/000000000000000000000000000000ff"));
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(serde_json::from_str::<InputId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for bad in ["", "../../etc/passwd", "000000000000000000000000000000fF", "../0000000000000000000000000000"] {
            assert!(bad.parse::<InputId>().is_err(), "{bad}");
        }
    }
}
