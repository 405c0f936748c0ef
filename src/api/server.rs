//! The daemon's end: [`serve`].
//!
//! A handler decides nothing: it checks the form of a request, hands it to the daemon's loop, and writes down the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant as Monotonic, sleep, sleep_until, timeout, timeout_at};

use super::{Act, ApiHandle, Problem, ProblemText, Reloaded, RunView, WAIT_MAX};
use crate::model::id::RunId;
use crate::model::request::{Refusal, Reply, Request};
use crate::model::run::Input;

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

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    handle: ApiHandle,
    waits: Arc<Semaphore>,
}

/// Serves until it is dropped; its connections end with it.
pub async fn serve(listener: UnixListener, handle: ApiHandle) {
    let router = router(Shared { handle, waits: Arc::new(Semaphore::new(WAITS_MAX)) });
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut told = false;
    loop {
        // Nobody closes the semaphore; a permit always comes.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                told = false;
                connections.spawn(serve_connection(stream, router.clone(), slot));
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%error, "connections can't be accepted now; the daemon tries on");
                }
                told = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the requests of one connection.
async fn serve_connection(stream: UnixStream, router: Router, _slot: OwnedSemaphorePermit) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let router = router.layer(Extension(Peer { uid: credentials.uid() }));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // The other end hung up, or spoke no HTTP: there is nobody left to tell.
    let _ = connection.await;
}

fn router(shared: Shared) -> Router {
    let acts = Router::new()
        .route("/v1/acts", post(operate))
        .layer(middleware::from_fn(|request, next| within(ACT_TIME_MAX, request, next)));
    let reload = Router::new()
        .route("/v1/reload", post(reload))
        .layer(middleware::from_fn(|request, next| within(RELOAD_TIME_MAX, request, next)));
    // An end has its own limit of time.
    let ends = Router::new().route("/v1/runs/{id}/end", get(end));
    acts.merge(reload)
        .merge(ends)
        .fallback(async || {
            let hint = "batchd and its daemon may be of different versions; restart the daemon";
            Answer::<()>::Problem(StatusCode::NOT_FOUND, Problem::new("there is nothing at this path", hint))
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// Cuts off what takes too long, a body that trickles in included.
async fn within(limit: Duration, request: HttpRequest, next: Next) -> Response {
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let what = format!("the daemon has not answered within {} s", limit.as_secs());
            let hint = "it may still do it: look with `batchd runs`, and at the daemon's log for a disk that hangs";
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

/// Why the user may not ask for this. A member of `socket_group` decides when a script runs, not what: a variable such as
/// `BASH_ENV` or `LD_PRELOAD` is code, and a file is opened with the rights of the daemon.
fn forbidden(request: &Request, uid: u32, daemon_uid: u32) -> Option<Problem> {
    let Request::Start { given, .. } = request else { return None };
    if uid == 0 || uid == daemon_uid {
        return None;
    }
    let hint = "members of `socket_group` start batches as they are defined: ask the daemon's user, or let the batch take arguments (`start BATCH -- ARGS`)";
    if !given.env.is_empty() {
        return Some(Problem::new("only root and the daemon's user may set variables of a run", hint));
    }
    if matches!(given.input, Some(Input::File(_))) {
        let hint = "take the output of a run, `--input RUN`, or ask the daemon's user";
        return Some(Problem::new("only root and the daemon's user may give a file as input", hint));
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
        let what = format!("{WAITS_MAX} others are waiting for the ends of runs already");
        let problem = Problem::new(what, "look with `batchd show`, or wait for fewer runs at once");
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
        Self::Problem(StatusCode::BAD_REQUEST, Problem::new(error.to_string(), "`batchd runs` lists the ids"))
    }

    fn no_run(id: &RunId) -> Self {
        Self::Problem(
            StatusCode::NOT_FOUND,
            Problem::new(format!("there is no run {id}"), "`batchd runs` lists the runs"),
        )
    }

    fn unreadable(error: &anyhow::Error) -> Self {
        let what = format!("the journal can't be read: {error:#}");
        Self::Problem(StatusCode::INTERNAL_SERVER_ERROR, Problem::new(what, "look at the daemon's log"))
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
    let hint = "send one act as JSON, with `content-type: application/json`";
    Answer::Problem(rejection.status(), Problem::new(rejection.body_text(), hint))
}

fn ending<T>() -> Answer<T> {
    let hint = "what it had not done by then it will not do; start it again, and look with `batchd runs`";
    Answer::Problem(StatusCode::SERVICE_UNAVAILABLE, Problem::new("the daemon is ending", hint))
}

/// The status that says roughly what the refusal says exactly.
fn status_of(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Unknown => StatusCode::NOT_FOUND,
        Refusal::Busy | Refusal::Disabled | Refusal::Held | Refusal::State => StatusCode::CONFLICT,
        Refusal::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::api::client::{Client, ClientError};
    use crate::api::view::tests::{ended, queued};
    use crate::api::{Runs, socket};
    use crate::model::diagnostic::Diagnostic;
    use crate::model::run::{Follow, Given, Outcome, Run};

    /// A journal of one run.
    struct OneRun(Mutex<Run>);

    impl Runs for OneRun {
        fn last_attempt(&self, id: &RunId) -> anyhow::Result<Option<Run>> {
            Ok(Some(self.0.lock().unwrap().clone()).filter(|run| run.id == *id))
        }
    }

    /// A served socket, and the daemon's side of it.
    struct Door {
        folder: tempfile::TempDir,
        acts: mpsc::Receiver<Act>,
        changes: watch::Sender<u64>,
        journal: Arc<OneRun>,
        server: tokio::task::JoinHandle<()>,
    }

    impl Door {
        fn open() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (acts_in, acts) = mpsc::channel(1);
            let (changes, changes_out) = watch::channel(0);
            let journal = Arc::new(OneRun(Mutex::new(queued("report.1"))));
            let handle = ApiHandle { acts: acts_in, changes: changes_out, runs: journal.clone() };
            let server = tokio::spawn(serve(socket::listen(folder.path(), None).unwrap(), handle));
            Self { folder, acts, changes, journal, server }
        }

        fn state(&self) -> PathBuf {
            self.folder.path().to_owned()
        }

        /// Answers the next act with `answer`, and gives what it was and who asked.
        async fn answer(&mut self, answer: Reply) -> (Request, String) {
            match self.acts.recv().await.unwrap() {
                Act::Operate { request, by, reply } => {
                    reply.send(answer).unwrap();
                    (request, by)
                }
                Act::Reload { .. } => panic!("a reload instead of an act"),
            }
        }
    }

    fn enable() -> Request {
        Request::Enable { batch: "report".parse().unwrap() }
    }

    #[tokio::test]
    async fn an_act_reaches_the_loop_with_the_uid_and_its_answer_comes_back() {
        let mut door = Door::open();
        let state = door.state();
        let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().act(&enable()).await.unwrap() });
        let done = Reply::Enabled { batch: "report".parse().unwrap(), enabled: true, was_disabled: None };
        let (request, by) = door.answer(done.clone()).await;
        assert_eq!(request, enable());
        assert_eq!(by, format!("uid {}", rustix::process::getuid().as_raw()));
        assert_eq!(asked.await.unwrap(), done);
    }

    #[test]
    fn who_is_not_the_daemons_user_brings_no_code_and_no_file() {
        let start = |variable: Option<&str>, input: Option<Input>| Request::Start {
            batch: "report".parse().unwrap(),
            follow: Follow::Chain,
            given: Given {
                args: vec!["--full".to_owned()],
                env: variable.map(|name| (name.to_owned(), "/tmp/evil".to_owned())).into_iter().collect(),
                input,
            },
            queue: false,
            force: false,
        };
        let check = |request: &Request, expected: [bool; 3]| {
            let found = [0, 100, 1000].map(|uid| forbidden(request, uid, 100).is_some());
            assert_eq!(found, expected, "{request:?} by root, the daemon's user and another");
        };
        check(&start(None, None), [false; 3]);
        check(&start(None, Some(Input::Run("load.1".parse().unwrap()))), [false; 3]);
        check(&start(Some("BASH_ENV"), None), [false, false, true]);
        check(&start(None, Some(Input::File("/etc/shadow".to_owned()))), [false, false, true]);
        check(&enable(), [false; 3]);
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let mut door = Door::open();
        let state = door.state();
        let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().act(&enable()).await.unwrap() });
        let refused = Reply::Refused {
            refusal: Refusal::Unknown,
            what: "no batch `report`".to_owned(),
            hint: Some("x".to_owned()),
        };
        door.answer(refused.clone()).await;
        assert_eq!(asked.await.unwrap(), refused);
    }

    #[tokio::test]
    async fn a_reload_gives_the_diagnostics() {
        let mut door = Door::open();
        let state = door.state();
        let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().reload().await.unwrap() });
        let reloaded = Reloaded { diagnostics: vec![Diagnostic::of_file(None, "a/batch.toml", "unknown key `x`")] };
        match door.acts.recv().await.unwrap() {
            Act::Reload { reply, .. } => reply.send(reloaded.clone()).unwrap(),
            Act::Operate { .. } => panic!("an act instead of a reload"),
        }
        assert_eq!(asked.await.unwrap(), reloaded);
    }

    #[tokio::test]
    async fn a_daemon_that_drops_an_act_says_that_it_is_ending() {
        let mut door = Door::open();
        let state = door.state();
        let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().act(&enable()).await });
        drop(door.acts.recv().await.unwrap());
        let error = asked.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("the daemon is ending"), "{error}");
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_run() {
        let door = Door::open();
        let state = door.state();
        let waiting = tokio::spawn(async move {
            Client::connect(&state).await.unwrap().wait(&"report.1".parse().unwrap()).await.unwrap()
        });
        *door.journal.0.lock().unwrap() = ended("report.1", Outcome::Cancelled, None);
        door.changes.send_modify(|count| *count += 1);
        assert_eq!(waiting.await.unwrap().outcome, Some(Outcome::Cancelled));
    }

    /// On a clock that goes on as soon as nobody has anything else to do.
    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_not_all_is_hung_up_on() {
        let door = Door::open();
        let head = "POST /v1/acts HTTP/1.1\r\nhost: x\r\n";
        let half_a_body = format!("{head}content-type: application/json\r\ncontent-length: 9\r\n\r\n{{");
        for said in ["", "P", head, &half_a_body, "GET /v1/runs/report.2/end HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let mut stream = socket::connect(&door.state()).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let before = Monotonic::now();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            let after = before.elapsed();
            assert!(after >= HEAD_TIME_MAX && after <= HEAD_TIME_MAX + ACT_TIME_MAX, "{said:?} after {after:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_as_json() {
        let door = Door::open();
        let check = async |request: &str, status: &str, what: &str| {
            let mut stream = socket::connect(door.folder.path()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            let problem: Problem = serde_json::from_str(body).unwrap();
            assert!(problem.error.what.contains(what) && problem.error.hint.is_some(), "{request}: {body}");
        };
        let post = |length: usize, body: &str| {
            let head = "POST /v1/acts HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
            format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}")
        };
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        check(&get("/v2/runs"), "404", "nothing at this path").await;
        check(&get("/v1/runs/report/end"), "400", "`report` is not a run id").await;
        check(&get("/v1/runs/report.9/end"), "404", "there is no run report.9").await;
        check(&post(2, "{}"), "422", "missing field `act`").await;
        check(&post(1, "{"), "400", "").await;
        check(&post(BODY_BYTES_MAX + 1, &" ".repeat(BODY_BYTES_MAX + 1)), "413", "").await;
    }

    #[tokio::test]
    async fn without_a_daemon_the_message_says_how_to_start_one() {
        let folder = tempfile::tempdir().unwrap();
        let check = |error: ClientError| {
            assert!(matches!(error, ClientError::NoDaemon { .. }));
            assert!(error.to_string().contains("batchd daemon"), "{error}");
        };
        check(Client::connect(folder.path()).await.err().unwrap());
        let door = Door::open();
        door.server.abort();
        assert!(door.server.await.unwrap_err().is_cancelled());
        check(Client::connect(door.folder.path()).await.err().unwrap());
    }
}
