//! The journal's one writer: a thread, so that sockets and pipes are served while the disk is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::reserve::{RESERVE_BYTES, Reserve};
use crate::clock::{self, Monotonic};
use crate::journal::{CommitError, Journal};
use crate::model::record::Record;

/// The wait before records that could not be committed are tried again, and before a reserve that was given up is: nobody
/// tells when there is room. Short enough that a start is not late for long, long enough to cost nothing.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the thread is asked.
enum Ask {
    /// To commit records, and who waits until they are committed.
    Commit(Vec<Record>, oneshot::Sender<Result<(), CommitError>>),
    /// Whether the journal answers.
    Pulse,
}

/// Why nothing may start now, for the want of room for the journal; none: it may.
pub(super) type Shortage = watch::Sender<Option<String>>;

/// The daemon was told to end while its journal can't be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the daemon ends without committing its last records; nothing was done because of them, and the next daemon decides again"
)]
pub(super) struct Uncommitted;

/// The way to the writer. Dropped with each [`Pulse`], it ends the thread when all that was sent is committed.
pub(super) struct Writer {
    asks: mpsc::Sender<Ask>,
    answers: Arc<AtomicU64>,
    is_stuck: watch::Receiver<bool>,
    told_to_end: watch::Receiver<bool>,
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
    /// Starts the thread. `shortage` is told when the reserve is given up, and when it is whole again.
    pub(super) fn start(
        journal: Journal,
        reserve: Reserve,
        shortage: Shortage,
        told_to_end: watch::Receiver<bool>,
    ) -> Result<Self> {
        let (asks, receiver) = mpsc::channel::<Ask>();
        let answers = Arc::new(AtomicU64::new(0));
        let (stuck, is_stuck) = watch::channel(false);
        let mut pen = Pen { journal, reserve, shortage, stuck, mend_at: clock::monotonic(), answers: answers.clone() };
        let serve = move || pen.serve(&receiver);
        thread::Builder::new().name("journal".to_owned()).spawn(serve).context("can't start the journal's thread")?;
        Ok(Self { asks, answers, is_stuck, told_to_end })
    }

    /// Commits these records in one transaction; an error means that the daemon has to end.
    pub(super) async fn commit(&self, records: Vec<Record>) -> Result<()> {
        let (done, committed) = oneshot::channel();
        if self.asks.send(Ask::Commit(records, done)).is_err() {
            bail!("the journal's thread has ended");
        }
        tokio::select! {
            committed = committed => {
                committed.map_err(|_| anyhow!("the journal's thread has ended"))?.map_err(Into::into)
            }
            () = self.given_up() => Err(Uncommitted.into()),
        }
    }

    /// For a watchdog.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse { asks: self.asks.clone(), answers: self.answers.clone() }
    }

    /// Waits until somebody has told the daemon to end and the journal can't be written: then nobody waits for it.
    async fn given_up(&self) {
        let (mut told_to_end, mut is_stuck) = (self.told_to_end.clone(), self.is_stuck.clone());
        if told_to_end.wait_for(|told| *told).await.is_ok() && is_stuck.wait_for(|stuck| *stuck).await.is_ok() {
            return;
        }
        // One of the two threads has died: the loop finds that.
        std::future::pending().await
    }
}

/// What the thread works with.
struct Pen {
    journal: Journal,
    reserve: Reserve,
    shortage: Shortage,
    /// Whether nothing can be written now.
    stuck: watch::Sender<bool>,
    /// When the reserve is tried again, if it was given up.
    mend_at: Monotonic,
    /// How often the journal has answered.
    answers: Arc<AtomicU64>,
}

impl Pen {
    /// Serves until nobody can send records any more.
    fn serve(&mut self, asks: &mpsc::Receiver<Ask>) {
        loop {
            let received = if self.is_short() {
                asks.recv_timeout(self.mend_at.saturating_duration_since(clock::monotonic()))
            } else {
                asks.recv().map_err(Into::into)
            };
            match received {
                Ok(Ask::Pulse) => {
                    self.journal.pulse();
                    self.answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Ask::Commit(records, done)) => {
                    let result = self.write(&records);
                    // The daemon is ending if it does not listen; what was sent is committed all the same.
                    let _ = done.send(result);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => self.mend(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Commits records, however long that takes: nothing else may be handled before.
    fn write(&mut self, records: &[Record]) -> Result<(), CommitError> {
        let mut told = false;
        loop {
            let committed = self.journal.commit(records);
            self.answers.fetch_add(1, Ordering::Relaxed);
            let problem = match committed {
                Err(problem @ (CommitError::Full(_) | CommitError::Retry(_))) => problem,
                result => {
                    if told {
                        info!("the journal is writable again");
                        self.stuck.send_replace(false);
                    }
                    return result;
                }
            };
            if matches!(problem, CommitError::Full(_)) && self.reserve.give_up() {
                let reason = self.reserve.look().to_string();
                warn!(
                    "{reason}; the reserve of {} MiB is released, so that running batches can be recorded",
                    RESERVE_BYTES >> 20
                );
                self.mend_at = clock::monotonic() + RETRY_AFTER;
                self.shortage.send_replace(Some(reason));
                continue;
            }
            if !told {
                error!("{problem}");
                self.stuck.send_replace(true);
                told = true;
            }
            thread::sleep(RETRY_AFTER);
        }
    }

    fn is_short(&self) -> bool {
        self.shortage.borrow().is_some()
    }

    /// Makes the reserve again, if there is room for it.
    fn mend(&mut self) {
        self.mend_at = clock::monotonic() + RETRY_AFTER;
        let made = self.reserve.make().or_else(|short| {
            if !short.is_enough_with_frames() {
                return Err(short);
            }
            // What was recorded on the full disk has made the `-wal` file long, and the next commit may be far.
            self.journal.empty_wal();
            self.reserve.make()
        });
        let reason = made.err().map(|short| short.to_string());
        if reason.is_none() {
            info!("the journal has enough space again: waiting runs start");
        }
        self.shortage.send_if_modified(|known| std::mem::replace(known, reason.clone()) != reason);
    }
}
