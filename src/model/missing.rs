//! Output of a script that is in no log, and why: a remark of the run, for people and for commands.
//!
//! The numbers of an end have one count per stream for all that is missing, since an input is incomplete whatever the
//! cause. Commands read the remark back to tell what `log_bytes_max` has cut from what is missing for another reason.

use std::fmt;
use std::str::FromStr;

use super::run::Exit;
use super::text::counted;

/// Why a part of a stream is not in its log, if not for `log_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another program cut the file.
    Truncated,
    /// Another program removed the file.
    Removed,
    /// The run had to end while the file could not be written.
    Unwritten,
}

/// What is missing in one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The name of the file.
    pub log: String,
    /// Why.
    pub cause: Cause,
    /// How much.
    pub bytes: u64,
}

impl Cause {
    const ALL: [Self; 3] = [Self::Truncated, Self::Removed, Self::Unwritten];

    fn sentence(self) -> &'static str {
        match self {
            Self::Truncated => "another program truncated the file while the run wrote to it",
            Self::Removed => "another program removed the file while the run wrote to it",
            Self::Unwritten => "the file could not be written before the run had to end",
        }
    }
}

impl Missing {
    /// What is missing in `log` for other reasons than its limit, by the remarks of a run; and how many of the `dropped`
    /// bytes were beyond the limit.
    pub fn of(exit: &Exit, log: &str, dropped: u64) -> (Vec<Self>, u64) {
        let all = exit.remarks.iter().filter_map(|remark| remark.parse().ok());
        let missing: Vec<Self> = all.filter(|missing: &Self| missing.log == log).collect();
        let beyond = missing.iter().fold(dropped, |rest, missing| rest.saturating_sub(missing.bytes));
        (missing, beyond)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let are = if self.bytes == 1 { "is" } else { "are" };
        let bytes = counted(self.bytes, "byte", "bytes");
        write!(f, "{bytes} of {} {are} missing: {}", self.log, self.cause.sentence())
    }
}

impl FromStr for Missing {
    type Err = ();

    /// An error: it is another remark.
    fn from_str(remark: &str) -> Result<Self, ()> {
        let (missing, why) = remark.split_once(" missing: ").ok_or(())?;
        let cause = Cause::ALL.into_iter().find(|cause| cause.sentence() == why).ok_or(())?;
        let mut words = missing.split(' ');
        let bytes = words.next().and_then(|number| number.parse().ok()).ok_or(())?;
        let log = words.nth(2).ok_or(())?.to_owned();
        Ok(Self { log, cause, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_read_back() {
        for (cause, bytes) in Cause::ALL.into_iter().zip([1, 7, 1 << 40]) {
            let missing = Missing { log: "stdout.log".to_owned(), cause, bytes };
            assert_eq!(missing.to_string().parse(), Ok(missing));
        }
        let one = "1 byte of stdout.log is missing: another program truncated the file while the run wrote to it";
        let remarks = ["restored `a b`, 7 bytes are missing: who knows", one].map(str::to_owned).to_vec();
        let exit = Exit { remarks, ..Exit::default() };
        let expected = Missing { log: "stdout.log".to_owned(), cause: Cause::Truncated, bytes: 1 };
        assert_eq!(Missing::of(&exit, "stdout.log", 5), (vec![expected], 4));
        assert_eq!(Missing::of(&exit, "stderr.log", 5), (vec![], 5));
    }
}
