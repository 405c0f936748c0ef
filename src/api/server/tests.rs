//! Both ends of the socket, with a journal of one run behind it.

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
        let state = folder.path().to_owned();
        let handle = ApiHandle { acts: acts_in, changes: changes_out, runs: journal.clone(), state };
        let server = tokio::spawn(serve(socket::listen(folder.path(), None).unwrap(), handle));
        Self { folder, acts, changes, journal, server }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The next act that a client asks for.
    async fn asked(&mut self) -> Act {
        loop {
            match self.acts.recv().await.unwrap() {
                Act::TidyInputs => {}
                Act::AdmitInput { reply, .. } => reply.send(true).unwrap(),
                act => return act,
            }
        }
    }

    /// Answers the next act with `answer`, and gives what it was and who asked.
    async fn answer(&mut self, answer: Reply) -> (Request, String) {
        match self.asked().await {
            Act::Operate { request, by, reply } => {
                reply.send(answer).unwrap();
                (request, by)
            }
            other => panic!("{other:?}"),
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
    check(&start(None, Some(Input::Stored(InputId::of_random(1)))), [false; 3]);
    check(&start(Some("BASH_ENV"), None), [false, false, true]);
    check(&start(None, Some(Input::File("/etc/shadow".to_owned()))), [false, false, true]);
    check(&enable(), [false; 3]);
}

#[tokio::test]
async fn a_refusal_is_an_answer() {
    let mut door = Door::open();
    let state = door.state();
    let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().act(&enable()).await.unwrap() });
    let refused =
        Reply::Refused { refusal: Refusal::Unknown, what: "no batch `report`".to_owned(), hint: Some("x".to_owned()) };
    door.answer(refused.clone()).await;
    assert_eq!(asked.await.unwrap(), refused);
}

#[tokio::test]
async fn a_reload_gives_the_diagnostics() {
    let mut door = Door::open();
    let state = door.state();
    let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().reload().await.unwrap() });
    let reloaded = Reloaded { diagnostics: vec![Diagnostic::of_file(None, "a/batch.toml", "unknown key `x`")] };
    match door.asked().await {
        Act::Reload { reply, .. } => reply.send(reloaded.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
    assert_eq!(asked.await.unwrap(), reloaded);
}

#[tokio::test]
async fn a_daemon_that_drops_an_act_says_that_it_is_ending() {
    let mut door = Door::open();
    let state = door.state();
    let asked = tokio::spawn(async move { Client::connect(&state).await.unwrap().act(&enable()).await });
    drop(door.asked().await);
    let error = asked.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the daemon is shutting down"), "{error}");
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
    check(&get("/v2/runs"), "404", "does not know this path").await;
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

#[tokio::test]
async fn an_input_that_was_sent_is_stored_and_given_up_with_its_connection() {
    let mut door = Door::open();
    let state = door.state();
    let (sent, stored) = tokio::sync::oneshot::channel();
    let asked = tokio::spawn(async move {
        let mut client = Client::connect(&state).await.unwrap();
        let input = client.store_input(b"a\0b".to_vec()).await.unwrap();
        sent.send(input.clone()).unwrap();
        let given = Given { input: Some(Input::Stored(input)), ..Given::default() };
        let batch = "report".parse().unwrap();
        client.act(&Request::Start { batch, follow: Follow::Chain, given, queue: false, force: false }).await.unwrap()
    });
    let refused = Reply::Refused { refusal: Refusal::Busy, what: "busy".to_owned(), hint: None };
    let (request, _) = door.answer(refused.clone()).await;
    let input = stored.await.unwrap();
    assert_eq!(std::fs::read(input.path(&door.state())).unwrap(), b"a\0b");
    assert!(matches!(request, Request::Start { given, .. } if given.stored_input() == Some(&input)));
    assert_eq!(asked.await.unwrap(), refused);
    // The daemon's loop knows whether a run has it.
    assert!(matches!(door.asked().await, Act::GiveUpInput { input: of } if of == input));
}

/// A request with an input of so many bytes, of which none has come.
fn announced(bytes: usize) -> String {
    format!("POST /v1/inputs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n")
}

async fn answer_to(stream: &mut UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Door {
    async fn connected(&self, said: &str) -> UnixStream {
        let mut stream = socket::connect(&self.state()).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream
    }

    /// Lets the next input in.
    async fn admit(&mut self) {
        loop {
            match self.acts.recv().await.unwrap() {
                Act::AdmitInput { reply, .. } => return reply.send(true).unwrap(),
                Act::TidyInputs | Act::GiveUpInput { .. } => {}
                act => panic!("{act:?}"),
            }
        }
    }
}

#[tokio::test]
async fn no_more_inputs_arrive_at_once_than_there_are_threads_for() {
    let mut door = Door::open();
    let mut arriving = Vec::new();
    for _ in 0..INPUTS_AT_ONCE_MAX {
        arriving.push(door.connected(&announced(1)).await);
        door.admit().await;
    }
    let mut next = door.connected(&announced(1)).await;
    // Who came later is answered: so the daemon has seen the next one, too.
    let mut later = door.connected("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer_to(&mut later).await.starts_with("HTTP/1.1 404"));
    assert!(door.acts.try_recv().is_err(), "one more than {INPUTS_AT_ONCE_MAX} is let in");
    arriving[0].write_all(b"x").await.unwrap();
    door.admit().await;
    for stream in &mut arriving[1..] {
        stream.write_all(b"x").await.unwrap();
    }
    next.write_all(b"x").await.unwrap();
    for stream in arriving.iter_mut().chain([&mut next]) {
        let answer = answer_to(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn who_finds_no_room_hears_it_after_all_was_sent() {
    let mut door = Door::open();
    let state = door.state();
    let bytes = vec![b'x'; 8 * 1024 * 1024];
    let sent = tokio::spawn(async move { Client::connect(&state).await.unwrap().store_input(bytes).await });
    match door.acts.recv().await.unwrap() {
        Act::TidyInputs => match door.acts.recv().await.unwrap() {
            Act::AdmitInput { reply, .. } => reply.send(false).unwrap(),
            act => panic!("{act:?}"),
        },
        act => panic!("{act:?}"),
    }
    let error = sent.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("runs that have not ended") && error.contains("--input FILE"), "{error}");
    assert!(!door.folder.path().join("inputs").exists());
}
