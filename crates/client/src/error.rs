//! How a call can fail, told apart by what a caller has to do about it.

use std::fmt;

use tonic::{Code, Status};

/// Why a call failed.
#[derive(Clone, Debug)]
pub enum Error {
    /// A server has answered with an error. Nothing was done.
    Refused(Box<Status>),
    /// The write was sent, and what became of it is not known: it may have been done, it may
    /// even be done later.
    OutcomeUnknown(Box<Status>),
    /// No endpoint could serve the call before the deadline. Nothing was done.
    Unreachable(Box<Status>),
    /// An endpoint that is no address, or none at all.
    BadEndpoint(String),
    /// What cannot be the name of a keyspace.
    BadKeyspace(String),
}

impl Error {
    /// Whether the server has answered with this error of etcd's.
    pub fn is(&self, error: etcd::Error) -> bool {
        matches!(self, Error::Refused(status) if status.message() == error.text())
    }

    /// The status code behind it; `InvalidArgument` for a bad endpoint.
    pub fn code(&self) -> Code {
        match self {
            Error::Refused(status) | Error::OutcomeUnknown(status) | Error::Unreachable(status) => {
                status.code()
            }
            Error::BadEndpoint(_) | Error::BadKeyspace(_) => Code::InvalidArgument,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(status) => formatter.write_str(status.message()),
            Error::OutcomeUnknown(status) => {
                let reason = reason(status);
                write!(formatter, "it is not known whether this was done: {reason}")
            }
            Error::Unreachable(status) => {
                write!(formatter, "no endpoint could answer: {}", reason(status))
            }
            Error::BadEndpoint(what) => write!(formatter, "not an endpoint: {what}"),
            Error::BadKeyspace(name) => write!(formatter, "not the name of a keyspace: {name:?}"),
        }
    }
}

impl std::error::Error for Error {}

/// What a status says, and what brought it about on this side of the connection, if anything did.
#[must_use]
pub fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let said = error.to_string();
        // Many say what caused them themselves.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
