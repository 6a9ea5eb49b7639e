//! What a node's admin listener says, and what may be asked of it.
//!
//! The listener speaks HTTP/1.1 with JSON bodies, over TCP or a Unix socket. One request is one
//! connection: the command line asks once and ends.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long an answer may take. Longer than the server itself waits for its node (30 s, unless
/// `request-timeout` is longer), so that its answer, which says more, comes first.
const ANSWER: Duration = Duration::from_secs(35);

/// How long the answer to a probe may take: whoever probes asks again.
const PROBE: Duration = Duration::from_secs(10);

/// Why a node could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens there.
    #[error(
        "cannot reach the admin listener at {address}: {cause}\n\
         Is the node running? Its admin address is the value of --listen-admin \
         (127.0.0.1:2390 unless set); name it with --admin."
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Somebody listens who does not speak HTTP, or the connection broke.
    #[error("{address} does not answer as an admin listener does: {cause}")]
    NotHttp {
        /// Where.
        address: String,
        /// What was wrong.
        cause: hyper::Error,
    },
    /// It took too long.
    #[error("{address} has not answered within {ANSWER:?}; is the process paused?")]
    Silent {
        /// Where.
        address: String,
    },
    /// The node answered with an error.
    #[error("{text}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// What the node says.
        text: String,
    },
    /// The answer is not what this version expects.
    #[error("{address} answered something else than expected: {cause}")]
    Foreign {
        /// Where.
        address: String,
        /// What is missing.
        cause: serde_json::Error,
    },
}

/// What a node sees of itself and its group. Fields that a later version adds are ignored.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its id, in hexadecimal.
    #[serde(default)]
    pub id: String,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// What it is doing at large: `recovering`, `forming`, `joining`, `serving`, `stopping`.
    pub phase: String,
    /// The leader's name, if known.
    pub leader: Option<String>,
    /// The current term.
    pub term: u64,
    /// The last slot of the log known to be chosen.
    pub chosen: u64,
    /// The last slot executed.
    pub applied: u64,
    /// The revision of the keyspace.
    pub revision: i64,
    /// Bytes held: live keys and history.
    pub held_bytes: u64,
    /// Bytes of live keys and values alone.
    #[serde(default)]
    pub live_bytes: u64,
    /// The quota that bounds `held_bytes`.
    pub quota_bytes: u64,
    /// The members of the group.
    pub members: Vec<Member>,
    /// How many voters elect a leader; 0: not said.
    #[serde(default)]
    pub elect: usize,
    /// How many voters commit a write; 0: not said.
    #[serde(default)]
    pub commit: usize,
    /// How many members that hold data must have a write; 0: not said.
    #[serde(default)]
    pub copies: usize,
    /// The asked node votes and holds no data.
    #[serde(default)]
    pub witness: bool,
    /// The level of the replicated state.
    #[serde(default)]
    pub level: u32,
    /// The digest of the state at `applied`, in hexadecimal.
    #[serde(default)]
    pub digest: String,
    /// The alarms that are raised.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// What gossip says; `None` if the node takes no part in it.
    #[serde(default)]
    pub gossip: Option<Gossip>,
}

/// What gossip says at one node: hints.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Gossip {
    /// How unhealthy the node thinks that it is itself: 0 is healthy.
    pub unhealthiness: u32,
    /// Everybody that gossip has heard of.
    pub members: Vec<Seen>,
}

/// A member as gossip sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `alive`, `suspect`, `dead` or `left`.
    pub state: String,
    /// For how long it has been in that state.
    pub for_seconds: u64,
    /// Where it takes packets.
    pub address: String,
    /// The version of its program.
    pub release: String,
    /// How busy it is, in thousandths of what it can do.
    pub load_thousandths: u32,
    /// Where it stands.
    pub zone: String,
    /// Likewise.
    pub rack: String,
    /// Likewise.
    pub host: String,
    /// How long a packet takes there and back.
    pub round_trip_microseconds: Option<u64>,
    /// By how much its clock is ahead of the asked node's.
    pub clock_ahead_milliseconds: Option<i64>,
}

/// One member, as the asked node sees it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Member {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    #[serde(default)]
    pub client_urls: Vec<String>,
    /// Has a vote.
    pub voter: bool,
    /// Votes, or is to vote, and holds no data.
    #[serde(default)]
    pub witness: bool,
    /// Slots it is behind; only the leader knows this of others.
    pub lag: Option<u64>,
    /// Where there are witnesses: whether a copy there is waited for; only the leader knows.
    #[serde(default)]
    pub counted_on: Option<bool>,
    /// Bytes held there, as it last said.
    pub data_bytes: Option<u64>,
}

/// Asks a node what it sees.
///
/// # Errors
/// It cannot be asked, or answers something else.
pub async fn status(address: &str) -> Result<Status, AdminError> {
    let text = request(address, Method::GET, "/status", None).await?;
    serde_json::from_str(&text).map_err(|cause| AdminError::Foreign {
        address: address.to_owned(),
        cause,
    })
}

/// Whether a path answers soon, and with success.
pub async fn succeeds(address: &str, path: &str) -> bool {
    let request = request(address, Method::GET, path, None);
    matches!(tokio::time::timeout(PROBE, request).await, Ok(Ok(_)))
}

/// Sends one request; the answer's body if it is a success.
///
/// # Errors
/// It cannot be asked, or it refuses.
pub async fn request(
    address: &str,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<String, AdminError> {
    let exchange = async {
        let unreachable = |cause| AdminError::Unreachable {
            address: address.to_owned(),
            cause,
        };
        match address.strip_prefix("unix:") {
            Some(socket) => {
                let stream = UnixStream::connect(Path::new(socket))
                    .await
                    .map_err(unreachable)?;
                exchange(stream, address, method, path, body).await
            }
            None => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                exchange(stream, address, method, path, body).await
            }
        }
    };
    tokio::time::timeout(ANSWER, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(AdminError::Silent {
                address: address.to_owned(),
            })
        })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: &str,
    method: Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<String, AdminError> {
    let not_http = |cause| AdminError::NotHttp {
        address: address.to_owned(),
        cause,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(not_http)?;
    // Ends with the exchange; an error of it shows as an error of the request as well.
    tokio::spawn(connection);
    let host = if address.starts_with("unix:") {
        "localhost"
    } else {
        address
    };
    let body = body.map_or_else(String::new, serde_json::Value::to_string);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("the parts of the request are valid");
    let answer = sender.send_request(request).await.map_err(not_http)?;
    let status = answer.status();
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(not_http)?
        .to_bytes();
    let text = String::from_utf8_lossy(&body).trim_end().to_owned();
    if status.is_success() {
        Ok(text)
    } else {
        Err(AdminError::Refused { status, text })
    }
}
