//! The other end: [`Client`].

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Problem, Reloaded, RunView, StoredInput, socket};
use crate::model::id::RunId;
use crate::model::input::InputId;
use crate::model::request::{Reply, Request};

/// The most bytes of an answer: the diagnostics of thousands of batches, and no more than fits in memory.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A daemon that is being restarted is back within this; whoever waits for a run waits that long for the daemon too.
const RECONNECT_TIME_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to reach a daemon that has gone.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A connection to the daemon.
pub struct Client {
    state: PathBuf,
    sender: SendRequest<Full<Bytes>>,
}

/// Why the daemon did not do it, in words for people.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon is running on {state}\n  hint: start one with `batchd daemon`, or name another state folder with --state"
    )]
    NoDaemon {
        /// Where it was looked for.
        state: PathBuf,
    },
    /// Somebody may listen, but not to us.
    #[error(
        "permission denied: only root, the daemon's user and members of `socket_group` can control the daemon on {state}"
    )]
    NotAllowed {
        /// Where it is.
        state: PathBuf,
    },
    /// The daemon went away before it had answered.
    #[error(
        "the daemon on {state} closed the connection before it answered ({cause})\n  hint: look at `batchd runs` whether the request took effect"
    )]
    Gone {
        /// Where it was.
        state: PathBuf,
        /// What the connection says.
        cause: String,
    },
    /// It said no, or what it said was not understood.
    #[error("{what}{}", hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default())]
    Problem {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Client {
    /// Connects to the daemon whose state this is.
    pub async fn connect(state: &Path) -> Result<Self, ClientError> {
        let state = state.to_owned();
        let stream = match socket::connect(&state).await {
            Ok(stream) => stream,
            Err(error) => return Err(unreachable_daemon(state, &error)),
        };
        match http1::handshake(TokioIo::new(stream)).await {
            Ok((sender, connection)) => {
                // Its errors come out of the sender too.
                tokio::spawn(connection);
                Ok(Self { state, sender })
            }
            Err(error) => Err(ClientError::Gone { state, cause: error.to_string() }),
        }
    }

    /// Asks for an act. A refusal is an answer, not an error.
    pub async fn act(&mut self, request: &Request) -> Result<Reply, ClientError> {
        match self.call(Method::POST, "/v1/acts", Some(request)).await? {
            Answer::Is(reply) => Ok(reply),
            Answer::Nothing => Err(not_understood("an empty answer")),
            Answer::Problem(Problem { error }) => match error.refusal {
                Some(refusal) => Ok(Reply::Refused { refusal, what: error.what, hint: error.hint }),
                None => Err(ClientError::Problem { what: error.what, hint: error.hint }),
            },
        }
    }

    /// Sends an input for a `start` that follows, and gives the name that the daemon has for it.
    pub async fn store_input(&mut self, input: Vec<u8>) -> Result<InputId, ClientError> {
        let answer = self.send(Method::POST, "/v1/inputs", "application/octet-stream", input.into()).await?;
        let stored: StoredInput = answer.or_problem()?.ok_or_else(|| not_understood("an empty answer"))?;
        Ok(stored.input)
    }

    /// Reloads the definitions, and gives what is wrong with them.
    pub async fn reload(&mut self) -> Result<Reloaded, ClientError> {
        self.call(Method::POST, "/v1/reload", None::<&()>)
            .await?
            .or_problem()?
            .ok_or_else(|| not_understood("an empty answer"))
    }

    /// Waits for the end of the last attempt that began with `run`, and gives that attempt.
    ///
    /// A daemon that is restarted meanwhile is waited for; `Gone` or `NoDaemon` if it does not come back.
    pub async fn wait(&mut self, run: &RunId) -> Result<RunView, ClientError> {
        loop {
            let path = format!("/v1/runs/{run}/end");
            match self.call(Method::GET, &path, None::<&()>).await {
                Ok(answer) => match answer.or_problem()? {
                    Some(view) => return Ok(view),
                    None => continue,
                },
                Err(ClientError::Gone { .. }) => *self = self.reconnect().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// A new connection, as soon as there is a daemon again.
    async fn reconnect(&self) -> Result<Self, ClientError> {
        let deadline = tokio::time::Instant::now() + RECONNECT_TIME_MAX;
        loop {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            match Self::connect(&self.state).await {
                Err(ClientError::NoDaemon { .. } | ClientError::Gone { .. })
                    if tokio::time::Instant::now() < deadline => {}
                result => return result,
            }
        }
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer<T>, ClientError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| not_understood(&error.to_string()))?;
        self.send(method, path, "application/json", body.unwrap_or_default().into()).await
    }

    async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Answer<T>, ClientError> {
        let gone = |error: hyper::Error| ClientError::Gone { state: self.state.clone(), cause: error.to_string() };
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "batchd")
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .map_err(|error| not_understood(&error.to_string()))?;
        self.sender.ready().await.map_err(gone)?;
        let response = self.sender.send_request(request).await.map_err(gone)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| ClientError::Gone { state: self.state.clone(), cause: error.to_string() })?;
        let bytes = body.to_bytes();
        let understood = if status == StatusCode::NO_CONTENT {
            Ok(Answer::Nothing)
        } else if status.is_success() {
            serde_json::from_slice(&bytes).map(Answer::Is)
        } else {
            serde_json::from_slice(&bytes).map(Answer::Problem)
        };
        understood.map_err(|error| not_understood(&format!("status {status}, {error}")))
    }
}

/// What came back.
enum Answer<T> {
    Is(T),
    Nothing,
    Problem(Problem),
}

impl<T> Answer<T> {
    fn or_problem(self) -> Result<Option<T>, ClientError> {
        match self {
            Self::Is(fact) => Ok(Some(fact)),
            Self::Nothing => Ok(None),
            Self::Problem(Problem { error }) => Err(ClientError::Problem { what: error.what, hint: error.hint }),
        }
    }
}

fn unreachable_daemon(state: PathBuf, error: &io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
            ClientError::NoDaemon { state }
        }
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { state },
        // Rare ones: no descriptors left, a queue that is full.
        _ => ClientError::Gone { state, cause: error.to_string() },
    }
}

fn not_understood(what: &str) -> ClientError {
    ClientError::Problem {
        what: format!("can't understand the daemon's answer: {what}"),
        hint: Some("this batchd and the daemon may have different versions; restart the daemon".to_owned()),
    }
}
