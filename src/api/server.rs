//! The daemon's end: [`serve`].
//!
//! A handler decides nothing: it checks the form of a request, hands it to the daemon's loop, and writes down the answer.

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant as Monotonic, sleep, sleep_until, timeout, timeout_at};

use super::inputs::{self, InputError};
use super::{Act, ApiHandle, Problem, ProblemText, Reloaded, RunView, StoredInput, WAIT_MAX};
use crate::model::id::RunId;
use crate::model::input::InputId;
use crate::model::request::{Refusal, Reply, Request};
use crate::model::run::Input;
use crate::model::text::abridged;

/// The most connections at once: people and scripts of one host, each of which costs a descriptor and some kilobytes.
/// Others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// How many of them may wait for the end of a run: the others are left for acts.
const WAITS_MAX: usize = 448;
/// The most bytes of a request's body: more than a command line of arguments and variables comes to.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The most bytes of a request's head, which has nothing of interest but a path.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection that has not sent the head of its next request by then is closed.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long an input may take, the wait for its turn included: 64 MiB at 0.7 MiB/s, then.
const INPUT_TIME_MAX: Duration = Duration::from_secs(120);
/// How many inputs may arrive at once: each has a thread that writes it.
const INPUTS_AT_ONCE_MAX: usize = 4;
/// How long the next one waits for its turn: an input takes less than a second on a disk that is not busy.
const INPUT_TURN_TIME_MAX: Duration = Duration::from_secs(30);
/// How often the daemon looks for inputs that nobody needs any more.
const INPUTS_TIDIED_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long an act may take. It is one commit to the journal; longer means a disk that hangs.
const ACT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a reload may take: quiet periods, a lock of git (10 s), a batch that has vanished (5 s), thousands of files.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(120);
/// Those who wait for an end look at the journal at most this often, however fast it changes.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// The pause after a connection could not be accepted: for want of descriptors, and that takes others' ends to mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The user on the other end of a connection, as the kernel has it.
#[derive(Clone, Copy)]
struct Peer {
    uid: u32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)
    }
}

/// The input that came last on a connection, if any did. It is given up with the connection, unless a run has it by then.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Option<InputId>>>);

impl Sent {
    /// Notes another one, and gives the one before.
    fn replace(&self, input: Option<InputId>) -> Option<InputId> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), input)
    }
}

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    handle: ApiHandle,
    waits: Arc<Semaphore>,
    inputs: Arc<Semaphore>,
}

/// Serves until it is dropped; its connections end with it.
pub async fn serve(listener: UnixListener, handle: ApiHandle) {
    let mut connections = JoinSet::new();
    connections.spawn(tidy_inputs(handle.acts.clone()));
    let waits = Arc::new(Semaphore::new(WAITS_MAX));
    let router = router(Shared { handle: handle.clone(), waits, inputs: Arc::new(Semaphore::new(INPUTS_AT_ONCE_MAX)) });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut told = false;
    loop {
        // The semaphore is never closed, so this cannot fail.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                told = false;
                connections.spawn(serve_connection(stream, router.clone(), handle.acts.clone(), slot));
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "can't accept connections; trying again");
                }
                told = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Asks the loop at once and then every hour to remove inputs that nobody needs any more.
async fn tidy_inputs(acts: mpsc::Sender<Act>) {
    while acts.send(Act::TidyInputs).await.is_ok() {
        sleep(INPUTS_TIDIED_EVERY).await;
    }
}

/// Answers the requests of one connection.
async fn serve_connection(stream: UnixStream, router: Router, acts: mpsc::Sender<Act>, _slot: OwnedSemaphorePermit) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let sent = Sent::default();
    let router = router.layer(Extension(Peer { uid: credentials.uid() })).layer(Extension(sent.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // The other end hung up, or spoke no HTTP: there is nobody left to tell.
    let _ = connection.await;
    give_up(&acts, sent.replace(None)).await;
}

fn router(shared: Shared) -> Router {
    let acts = Router::new()
        .route("/v1/acts", post(operate))
        .layer(middleware::from_fn(|request, next| within(ACT_TIME_MAX, request, next)));
    let reload = Router::new()
        .route("/v1/reload", post(reload))
        .layer(middleware::from_fn(|request, next| within(RELOAD_TIME_MAX, request, next)));
    let inputs = Router::new()
        .route("/v1/inputs", post(store_input))
        // It has a limit of its own, which does not need all of it in memory.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(|request, next| within(INPUT_TIME_MAX, request, next)));
    // An end has its own limit of time.
    let ends = Router::new().route("/v1/runs/{id}/end", get(end));
    acts.merge(reload)
        .merge(inputs)
        .merge(ends)
        .fallback(async || {
            let hint = "this batchd and the daemon may have different versions; restart the daemon";
            Answer::<()>::Problem(StatusCode::NOT_FOUND, Problem::new("the daemon does not know this path", hint))
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// Cuts off what takes too long, a body that trickles in included.
async fn within(limit: Duration, request: HttpRequest, next: Next) -> Response {
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let what = format!("the daemon did not answer within {} s", limit.as_secs());
            let hint = "the request may still take effect: look at `batchd runs`, and in the daemon's log";
            Answer::<()>::Problem(StatusCode::SERVICE_UNAVAILABLE, Problem::new(what, hint)).into_response()
        }
    }
}

async fn operate(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    body: Result<Json<Request>, JsonRejection>,
) -> Answer<Reply> {
    let request = match body {
        Ok(Json(request)) => request,
        Err(rejection) => return malformed(&rejection),
    };
    if let Some(problem) = forbidden(&request, peer.uid, rustix::process::geteuid().as_raw()) {
        return Answer::Problem(StatusCode::FORBIDDEN, problem);
    }
    if let Some(what) = request.reason_too_long() {
        let hint =
            Some("write it in a few sentences; put the rest where others find it, and name the place".to_owned());
        let problem = Problem { error: ProblemText { what, hint, refusal: Some(Refusal::Invalid) } };
        return Answer::Problem(status_of(Refusal::Invalid), problem);
    }
    let by = peer.to_string();
    let (reply, answer) = oneshot::channel();
    if shared.handle.acts.send(Act::Operate { request, by, reply }).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(Reply::Refused { refusal, what, hint }) => {
            Answer::Problem(status_of(refusal), Problem { error: ProblemText { what, hint, refusal: Some(refusal) } })
        }
        Ok(reply) => Answer::Is(reply),
        Err(_) => ending(),
    }
}

/// Gives up an input that was sent, unless a run has it: the loop knows.
async fn give_up(acts: &mpsc::Sender<Act>, input: Option<InputId>) {
    if let Some(input) = input {
        // An error: the daemon is ending.
        let _ = acts.send(Act::GiveUpInput { input }).await;
    }
}

async fn store_input(
    State(shared): State<Shared>,
    Extension(sent): Extension<Sent>,
    body: Body,
) -> Answer<StoredInput> {
    let stored = match admitted(&shared, &sent).await {
        Ok((id, turn)) => inputs::store(&shared.handle.state, id, body, turn).await,
        Err(error) => {
            inputs::discard(body).await;
            Err(error)
        }
    };
    let error = match stored {
        Ok(input) => return Answer::Is(StoredInput { input }),
        Err(error) => error,
    };
    let (status, hint) = match &error {
        InputError::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "write the input to a file; root and the daemon's user can name the file: `--input FILE`",
        ),
        InputError::Full => (
            StatusCode::INSUFFICIENT_STORAGE,
            "wait until one of these runs has ended (`batchd list` shows them); root and the daemon's user can name a file instead: `--input FILE`",
        ),
        InputError::Busy | InputError::Incomplete | InputError::Slow => (StatusCode::SERVICE_UNAVAILABLE, "try again"),
        InputError::Ending => return ending(),
        InputError::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "free some space there, and try again"),
        InputError::Disk(_) => (StatusCode::INSUFFICIENT_STORAGE, "check the disk of the state folder"),
    };
    Answer::Problem(status, Problem::new(error.to_string(), hint))
}

/// The name for the next input of a connection, once it is its turn and there is room. It replaces the one before.
async fn admitted(shared: &Shared, sent: &Sent) -> Result<(InputId, OwnedSemaphorePermit), InputError> {
    let turn = timeout(INPUT_TURN_TIME_MAX, shared.inputs.clone().acquire_owned()).await;
    let turn = turn.map_err(|_| InputError::Busy)?.map_err(|_| InputError::Ending)?;
    let input = inputs::random_id()?;
    give_up(&shared.handle.acts, sent.replace(Some(input.clone()))).await;
    let (reply, answer) = oneshot::channel();
    // If the daemon is ending, the act is dropped, and with it the reply.
    let _ = shared.handle.acts.send(Act::AdmitInput { input: input.clone(), reply }).await;
    match answer.await {
        Ok(true) => Ok((input, turn)),
        Ok(false) => Err(InputError::Full),
        Err(_) => Err(InputError::Ending),
    }
}

/// Why the user may not ask for this. A member of `socket_group` decides when a script runs, not what: a variable such as
/// `BASH_ENV` or `LD_PRELOAD` is code, and a file is opened with the rights of the daemon.
fn forbidden(request: &Request, uid: u32, daemon_uid: u32) -> Option<Problem> {
    let Request::Start { given, .. } = request else { return None };
    if uid == 0 || uid == daemon_uid {
        return None;
    }
    let hint = "pass arguments to the script instead (`batchd start BATCH -- ARGS`), or ask the daemon's user";
    if !given.env.is_empty() {
        return Some(Problem::new("only root and the daemon's user can set variables of a run", hint));
    }
    if matches!(given.input, Some(Input::File(_))) {
        let hint = "send the file instead: `batchd start BATCH --input - < FILE`";
        return Some(Problem::new("only root and the daemon's user can name a file as input", hint));
    }
    None
}

async fn reload(State(shared): State<Shared>, Extension(peer): Extension<Peer>) -> Answer<Reloaded> {
    let by = peer.to_string();
    let (reply, answer) = oneshot::channel();
    if shared.handle.acts.send(Act::Reload { by, reply }).await.is_err() {
        return ending();
    }
    answer.await.map_or_else(|_| ending(), Answer::Is)
}

async fn end(State(mut shared): State<Shared>, Path(id): Path<String>) -> Answer<RunView> {
    let id: RunId = match id.parse() {
        Ok(id) => id,
        Err(error) => return Answer::bad_id(&error),
    };
    let Ok(_permit) = shared.waits.try_acquire() else {
        let what = format!("{WAITS_MAX} clients are waiting for runs already");
        let problem = Problem::new(what, "wait for fewer runs at once, or look at the run with `batchd show`");
        return Answer::Problem(StatusCode::SERVICE_UNAVAILABLE, problem);
    };
    let deadline = Monotonic::now() + WAIT_MAX;
    loop {
        let looked_at = Monotonic::now();
        // Marked before the look: a commit between the look and the wait is not slept through.
        shared.handle.changes.mark_unchanged();
        let (runs, wanted) = (shared.handle.runs.clone(), id.clone());
        match tokio::task::spawn_blocking(move || runs.last_attempt(&wanted)).await {
            Ok(Ok(Some(run))) if run.end().is_some() => return Answer::Is(RunView::from(&run)),
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Answer::no_run(&id),
            Ok(Err(error)) => return Answer::unreadable(&error),
            Err(_) => return ending(),
        }
        match timeout_at(deadline, shared.handle.changes.changed()).await {
            Ok(Ok(())) => sleep_until(looked_at + LOOK_INTERVAL_MIN).await,
            Ok(Err(_)) => return ending(),
            Err(_) => return Answer::NotYet,
        }
    }
}

/// What a handler answers.
enum Answer<T> {
    Is(T),
    NotYet,
    Problem(StatusCode, Problem),
}

impl<T> Answer<T> {
    fn bad_id(error: &crate::model::id::IdError) -> Self {
        Self::Problem(StatusCode::BAD_REQUEST, Problem::new(error.to_string(), "list the runs: `batchd runs`"))
    }

    fn no_run(id: &RunId) -> Self {
        Self::Problem(
            StatusCode::NOT_FOUND,
            Problem::new(format!("there is no run {id}"), "list the runs: `batchd runs`"),
        )
    }

    fn unreadable(error: &anyhow::Error) -> Self {
        let what = format!("can't read the journal: {error:#}");
        Self::Problem(StatusCode::INTERNAL_SERVER_ERROR, Problem::new(what, "look in the daemon's log"))
    }
}

impl<T: serde::Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match self {
            Self::Is(fact) => Json(fact).into_response(),
            Self::NotYet => StatusCode::NO_CONTENT.into_response(),
            Self::Problem(status, problem) => (status, Json(problem)).into_response(),
        }
    }
}

fn malformed<T>(rejection: &JsonRejection) -> Answer<T> {
    let hint = "send one request as JSON, with `content-type: application/json`";
    Answer::Problem(rejection.status(), Problem::new(abridged(&rejection.body_text()), hint))
}

fn ending<T>() -> Answer<T> {
    let hint = "look at `batchd runs` whether the request took effect; start the daemon, and try again";
    Answer::Problem(StatusCode::SERVICE_UNAVAILABLE, Problem::new("the daemon is shutting down", hint))
}

/// The status that says roughly what the refusal says exactly.
fn status_of(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Unknown => StatusCode::NOT_FOUND,
        Refusal::Busy | Refusal::Disabled | Refusal::Held | Refusal::State => StatusCode::CONFLICT,
        Refusal::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
