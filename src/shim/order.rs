//! What a shim is asked to do: an [`Order`], as the daemon writes it and the launcher passes it on unread.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::definition::Execution;
use crate::model::id::{DefinitionHash, Token};
use crate::model::launch::UpstreamEnd;
use crate::model::run::Given;
use crate::rundir::access::Access;

/// All that a shim needs to know. It reads nothing of the daemon's but what stands here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The daemon's number for this order: notifications carry it.
    pub serial: u64,
    /// What every file of the run carries.
    pub token: Token,
    /// The boot of the host.
    pub boot: String,
    /// The folder of all runs, absolute.
    pub runs: PathBuf,
    /// The daemon's own folder, absolute.
    pub state: PathBuf,
    /// The folder of all batches, absolute: an `env_file` may lie there.
    pub batches: PathBuf,
    /// Users, beside root and the daemon's, who may own files there. None: everybody.
    pub trusted_owners: Option<Vec<String>>,
    /// What is run.
    pub definition: DefinitionHash,
    /// Where: in a workspace of this definition alone, for runs that live beside each other; else in the batch's.
    pub own_workspace: bool,
    /// How.
    pub execution: Execution,
    /// Arguments and variables of this start.
    pub given: Given,
    /// Variables that the batch's own may override.
    pub base: Vec<(String, String)>,
    /// Variables that nothing overrides.
    pub facts: Vec<(String, String)>,
    /// Its upstreams, in the order of `after`.
    pub upstreams: Vec<UpstreamEnd>,
    /// Where stdin comes from.
    pub stdin: Stdin,
    /// Who may read what the run writes.
    #[serde(default)]
    pub access: Access,
}

/// Where a script's stdin comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// There is nothing to read.
    Empty,
    /// The outputs of all upstreams, one after the other.
    Upstreams,
    /// The output of one run.
    Run(UpstreamEnd),
    /// A file, by its absolute path.
    File(PathBuf),
}

/// What happened to the order of a serial: one message on the notification pipe. Only a hint: the files say what is
/// true, and a message may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// [`Order::serial`].
    pub serial: u64,
    /// What.
    pub news: News,
}

/// What a [`Notice`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// `started.json` is in place, and the script runs.
    Started,
    /// `exit.json` is in place.
    Ended,
    /// What the living run waits for has changed: see [`crate::rundir::RunDir::waits`].
    Waits,
    /// The shim could not let the script begin, because of this error of the system. It ends.
    Failed(u16),
}

/// The bit of a message that tells of a wait. Far above any serial, so that a daemon that does not know it ignores the
/// message.
const WAITS_BIT: u64 = 1 << 63;
/// The bit of a message that tells of a failure.
const FAILED_BIT: u64 = 1 << 62;
/// Where the error stands in such a message: above any serial.
const ERROR_AT: u32 = 44;
/// The greatest error number of the kernel is 4095.
const ERROR_BITS: u64 = 0xfff;

impl Notice {
    /// The bytes of a message; far fewer than pipe(7) writes in one piece.
    pub const BYTES: usize = 8;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let bits = match self.news {
            News::Started => 0,
            News::Ended => 1,
            News::Waits => WAITS_BIT,
            News::Failed(errno) => FAILED_BIT | (u64::from(errno) & ERROR_BITS) << ERROR_AT,
        };
        (self.serial << 1 | bits).to_le_bytes()
    }

    /// From bytes.
    pub fn decode(bytes: [u8; Self::BYTES]) -> Self {
        let number = u64::from_le_bytes(bytes);
        let news = match number & (WAITS_BIT | FAILED_BIT) {
            0 if number & 1 == 0 => News::Started,
            0 => News::Ended,
            FAILED_BIT => News::Failed((number >> ERROR_AT & ERROR_BITS) as u16),
            _ => News::Waits,
        };
        Self { serial: (number & ((1 << ERROR_AT) - 1)) >> 1, news }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices() {
        for (serial, news) in
            [(0, News::Ended), (1 << 40, News::Started), (1 << 40, News::Waits), (1 << 40, News::Failed(28))]
        {
            let notice = Notice { serial, news };
            assert_eq!(Notice::decode(notice.encode()), notice);
        }
    }
}
