//! The journal's one writer: a thread, so that sockets and pipes are served while the disk is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// What the thread is asked.
enum Ask {
    /// To commit records, and who waits until they are committed.
    Commit(Vec<Record>, oneshot::Sender<Result<(), CommitError>>),
    /// Whether the journal answers.
    Pulse,
}

/// The way to the writer. Dropped with each [`Pulse`], it ends the thread when all that was sent is committed.
pub(super) struct Writer {
    asks: mpsc::Sender<Ask>,
    answers: Arc<AtomicU64>,
}

/// Whether the writer lives: for a watchdog.
pub(super) struct Pulse {
    asks: mpsc::Sender<Ask>,
    answers: Arc<AtomicU64>,
}

impl Pulse {
    /// How often the journal has answered, whatever it said: a disk that is full is no reason to end a daemon that waits
    /// for room, and one that does not answer is.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Has it answer once more. That writes nothing to the disk.
    pub(super) fn ask(&self) {
        // The thread has ended: the loop says so.
        let _ = self.asks.send(Ask::Pulse);
    }
}

impl Writer {
    /// Starts the thread. `stuck` is told whether the journal can't be written now.
    pub(super) fn start(journal: Journal, stuck: watch::Sender<bool>) -> Result<Self> {
        let (asks, receiver) = mpsc::channel::<Ask>();
        let answers = Arc::new(AtomicU64::new(0));
        let mut thread = Thread { journal, stuck, answers: answers.clone() };
        let serve = move || {
            for ask in receiver {
                match ask {
                    Ask::Commit(records, done) => {
                        // The daemon is ending if it does not listen; what was sent is committed all the same.
                        let _ = done.send(thread.commit(&records));
                    }
                    Ask::Pulse => thread.pulse(),
                }
            }
        };
        thread::Builder::new().name("journal".to_owned()).spawn(serve).context("can't start the journal's thread")?;
        Ok(Self { asks, answers })
    }

    /// Commits these records in one transaction; an error means that the daemon has to end.
    pub(super) async fn commit(&self, records: Vec<Record>) -> Result<()> {
        let (done, committed) = oneshot::channel();
        if self.asks.send(Ask::Commit(records, done)).is_err() {
            bail!("the journal's thread has ended");
        }
        committed.await.map_err(|_| anyhow!("the journal's thread has ended"))?.map_err(Into::into)
    }

    /// For a watchdog.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse { asks: self.asks.clone(), answers: self.answers.clone() }
    }
}

/// What the thread owns.
struct Thread {
    journal: Journal,
    stuck: watch::Sender<bool>,
    answers: Arc<AtomicU64>,
}

impl Thread {
    fn commit(&mut self, records: &[Record]) -> Result<(), CommitError> {
        let mut result = self.try_commit(records);
        let mut told = false;
        while let Err(CommitError::Retry(_)) = &result {
            if let (Err(problem), false) = (&result, told) {
                error!("{problem}");
                self.stuck.send_replace(true);
                told = true;
            }
            // Nothing else may be handled before this is committed, and nobody tells when there is room again.
            thread::sleep(RETRY_AFTER);
            result = self.try_commit(records);
        }
        if told && result.is_ok() {
            info!("the journal is written again");
            self.stuck.send_replace(false);
        }
        result
    }

    fn try_commit(&mut self, records: &[Record]) -> Result<(), CommitError> {
        let result = self.journal.commit(records);
        self.answers.fetch_add(1, Ordering::Relaxed);
        result
    }

    fn pulse(&mut self) {
        self.journal.pulse();
        self.answers.fetch_add(1, Ordering::Relaxed);
    }
}
