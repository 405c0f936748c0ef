//! The journal's one writer: a thread, so that sockets and pipes are served while the disk is waited for.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::{oneshot, watch};
use tracing::{error, info};

use crate::journal::{CommitError, Journal};
use crate::model::record::Record;

/// The wait before records that could not be committed are tried again: short enough that a start is not late for long
/// when there is room again, long enough to cost nothing.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Records, and who waits until they are committed.
type Commit = (Vec<Record>, oneshot::Sender<Result<(), CommitError>>);

/// The way to the writer. Dropped, it ends the thread when all that was sent is committed.
pub(super) struct Writer {
    commits: mpsc::Sender<Commit>,
}

impl Writer {
    /// Starts the thread. `stuck` is told whether the journal can't be written now.
    pub(super) fn start(mut journal: Journal, stuck: watch::Sender<bool>) -> Result<Self> {
        let (commits, receiver) = mpsc::channel::<Commit>();
        let serve = move || {
            for (records, done) in receiver {
                let mut result = journal.commit(&records);
                let mut told = false;
                while let Err(CommitError::Retry(_)) = &result {
                    if let (Err(problem), false) = (&result, told) {
                        error!("{problem}");
                        stuck.send_replace(true);
                        told = true;
                    }
                    // Nothing else may be handled before this is committed, and nobody tells when there is room again.
                    thread::sleep(RETRY_AFTER);
                    result = journal.commit(&records);
                }
                if told && result.is_ok() {
                    info!("the journal is written again");
                    stuck.send_replace(false);
                }
                // The daemon is ending if it does not listen; what was sent is committed all the same.
                let _ = done.send(result);
            }
        };
        thread::Builder::new().name("journal".to_owned()).spawn(serve).context("can't start the journal's thread")?;
        Ok(Self { commits })
    }

    /// Commits these records in one transaction; an error means that the daemon has to end.
    pub(super) async fn commit(&self, records: Vec<Record>) -> Result<()> {
        let (done, committed) = oneshot::channel();
        if self.commits.send((records, done)).is_err() {
            bail!("the journal's thread has ended");
        }
        committed.await.map_err(|_| anyhow!("the journal's thread has ended"))?.map_err(Into::into)
    }
}
