//! Where runs live: launching, finding, stopping and collecting them.
//!
//! [`Place`] is all that a daemon knows of it; nothing in it says "my child" or "my host". [`Local`] is this host:
//! shims, forked by a launcher, that outlive the daemon. What a run folder means is decided in [`classify`]; nothing
//! here decides whether a run starts, or what follows it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use crate::model::id::RunId;
use crate::model::launch::{Launch, Report};

mod act;
pub mod classify;
mod home;
mod hunt;
pub mod launcher;
mod link;
mod order;
mod probe;
mod runs;
mod serve;

pub use home::said;
pub use order::{Surroundings, TrustedOwners, clean_environment};

/// A place where runs live. Requests return at once; what comes of them is a [`Report`] with the run's id.
///
/// For each run that was launched or found, the last report is one of those that end it, exactly once.
pub trait Place {
    /// Begins a run. Its row is in the journal as `starting`.
    fn launch(&self, launch: Launch);
    /// Finds out what became of a run that an earlier daemon launched, and goes on with it from there: its row is in
    /// the journal as `starting` or `running`. A run that was never begun is begun; one whose script runs is reported
    /// as started, also if its row says so already, so that it is known when all have been found.
    fn find(&self, launch: Launch);
    /// Ends a run. Its stop is in the journal. For a run that has ended, nothing.
    fn stop(&self, run: RunId);
    /// Lets go of what only a living run needs: its end is in the journal.
    fn collect(&self, run: RunId);
}

/// This host.
#[derive(Clone, Debug)]
pub struct Local {
    requests: UnboundedSender<Request>,
}

/// A descriptor that the runtime tells of when it is ready.
fn watched(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor: it stays open, and the same, for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(Into::into)
}

/// What [`Local`] is asked.
#[derive(Debug)]
enum Request {
    Launch(Box<Launch>),
    Find(Box<Launch>),
    Stop(RunId),
    Collect(RunId),
    /// Answer, once all that was asked before has been done.
    Tell(oneshot::Sender<()>),
}

impl Local {
    /// Begins to serve, on the current tokio runtime, until this and all clones of it are dropped; then the launcher
    /// ends, and the shims go on. As long as there is a `shortage`, for the reason that it says, nothing is begun. An
    /// error if the pipe for notices can't be made.
    pub fn start(
        around: Surroundings,
        reports: UnboundedSender<(RunId, Report)>,
        shortage: watch::Receiver<Option<String>>,
    ) -> io::Result<Self> {
        let (requests, receiver): (_, UnboundedReceiver<Request>) = unbounded_channel();
        let server = serve::Server::new(around, reports, shortage)?;
        tokio::spawn(server.serve(receiver));
        Ok(Self { requests })
    }

    /// Returns once all that was asked before has been done. For the end: a daemon leaves no folder untidy that is
    /// over.
    pub async fn done(&self) {
        let (tell, told) = oneshot::channel();
        self.ask(Request::Tell(tell));
        // An error: nobody serves any more, and nothing is to be waited for.
        let _ = told.await;
    }

    fn ask(&self, request: Request) {
        // It is received as long as this exists, but for a runtime that is being shut down: then nobody waits for a
        // report.
        let _ = self.requests.send(request);
    }
}

impl Place for Local {
    fn launch(&self, launch: Launch) {
        self.ask(Request::Launch(Box::new(launch)));
    }

    fn find(&self, launch: Launch) {
        self.ask(Request::Find(Box::new(launch)));
    }

    fn stop(&self, run: RunId) {
        self.ask(Request::Stop(run));
    }

    fn collect(&self, run: RunId) {
        self.ask(Request::Collect(run));
    }
}
