//! Which endpoint is asked, and what happens when it fails.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd::proto::etcdserverpb::TxnRequest;
use etcd::proto::etcdserverpb::request_op::Request as Operation;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Status};

use crate::endpoint::channel;
use crate::security::Signing;
use crate::{Error, Options, Security, Tls};

/// What sending something twice can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Read,
    /// Harm.
    Write,
}

/// A transaction of ranges alone is a read.
pub(crate) fn kind_of(txn: &TxnRequest) -> Kind {
    let mut operations = txn.success.iter().chain(&txn.failure);
    let only_ranges =
        operations.all(|operation| matches!(&operation.request, Some(Operation::RequestRange(_))));
    if only_ranges { Kind::Read } else { Kind::Write }
}

/// What a failed try means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It is the answer.
    Final,
    /// Certainly nothing was done: another try may go better.
    NotDone,
    /// Perhaps it was done.
    Unknown,
}

impl Failure {
    /// A status with a source was made on this side; one without was sent by a server.
    fn of(status: &Status) -> Failure {
        if was_never_begun(status) {
            return Failure::NotDone;
        }
        if status.source().is_some() {
            return Failure::Unknown;
        }
        // Said before anything is proposed. "no leader" is not among these: it is also what a
        // server says of a command that was proposed and never heard of again.
        if status.message() == etcd::Error::TooManyRequests.text() {
            return Failure::NotDone;
        }
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Failure::Unknown,
            _ => Failure::Final,
        }
    }
}

/// The request never left, or the server has said that it did not look at it.
fn was_never_begun(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let never_left = error.is::<ConnectError>()
            || error
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_canceled);
        if never_left || error.downcast_ref().is_some_and(was_sent_away) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A server that is about to stop serves the calls up to a certain one, and no later one (RFC
/// 9113, section 6.8); one that has too much to do refuses single ones (section 8.7). A call that
/// had been taken in ends otherwise: with an error of the connection.
fn was_sent_away(error: &h2::Error) -> bool {
    let told = |reason| error.is_remote() && error.reason() == Some(reason);
    error.is_go_away() && told(h2::Reason::NO_ERROR)
        || error.is_reset() && told(h2::Reason::REFUSED_STREAM)
}

/// The endpoints, and the one in use.
#[derive(Debug)]
pub(crate) struct Endpoints {
    channels: Vec<Channel>,
    current: AtomicUsize,
    options: Options,
    signing: Signing,
}

impl Endpoints {
    pub(crate) fn new<E: AsRef<str>>(
        endpoints: impl IntoIterator<Item = E>,
        options: Options,
        security: Security,
    ) -> Result<Endpoints, Error> {
        let tls = security.tls.map(Tls::config).transpose()?;
        let channel = |address: E| channel(address.as_ref(), &options, tls.as_ref());
        let channels = endpoints
            .into_iter()
            .map(channel)
            .collect::<Result<Vec<_>, _>>()?;
        if channels.is_empty() {
            return Err(Error::BadEndpoint("there must be at least one".into()));
        }
        Ok(Endpoints {
            channels,
            current: AtomicUsize::new(0),
            options,
            signing: Signing::new(security.user),
        })
    }

    pub(crate) fn signing(&self) -> &Signing {
        &self.signing
    }

    /// Whether there is a user who signs in.
    pub(crate) fn has_user(&self) -> bool {
        self.signing.user().is_some()
    }

    /// Whether signing in has been tried and has told what to show.
    pub(crate) fn is_signed_in(&self) -> bool {
        self.signing.is_signed_in()
    }

    /// The request with the token, if there is one.
    pub(crate) fn with_token<Message>(&self, message: Message) -> tonic::Request<Message> {
        self.signing.with_token(message)
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Sends a request until it is answered, may not be sent again, or the deadline has passed.
    pub(crate) async fn call<Request, Response, Answer>(
        &self,
        kind: Kind,
        request: Request,
        send: impl Fn(Channel, Request) -> Answer,
    ) -> Result<Response, Error>
    where
        Request: Clone,
        Answer: Future<Output = Result<tonic::Response<Response>, Status>>,
    {
        let deadline = Instant::now() + self.options.deadline;
        let mut pause = self.options.pause_min;
        let mut failed_in_round = 0;
        let mut perhaps_done = false;
        let may_repeat = kind == Kind::Read || self.options.retry_writes;
        loop {
            let index = self.current.load(Ordering::Relaxed);
            let until = deadline.min(Instant::now() + self.options.try_timeout);
            let answer = send(self.channels[index].clone(), request.clone());
            let (status, failure) = match timeout_at(until, answer).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => {
                    let failure = Failure::of(&status);
                    (status, failure)
                }
                Err(_) => {
                    let status = Status::deadline_exceeded("the endpoint did not answer in time");
                    (status, Failure::Unknown)
                }
            };
            if failure == Failure::Final {
                return Err(Error::Refused(Box::new(status)));
            }
            self.leave(index);
            perhaps_done |= kind == Kind::Write && failure == Failure::Unknown;
            if perhaps_done && !may_repeat {
                return Err(Error::OutcomeUnknown(Box::new(status)));
            }
            failed_in_round += 1;
            if failed_in_round == self.channels.len() {
                failed_in_round = 0;
                pause = self.rest(pause, deadline).await;
            }
            if Instant::now() >= deadline {
                let error = if perhaps_done {
                    Error::OutcomeUnknown
                } else {
                    Error::Unreachable
                };
                return Err(error(Box::new(status)));
            }
        }
    }

    /// Goes on to the next endpoint, unless another call has done so already.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.channels.len();
        let ordering = Ordering::Relaxed;
        // If the exchange fails, another call has left this endpoint: just as well.
        let _ = self
            .current
            .compare_exchange(index, next, ordering, ordering);
    }

    /// Waits, and says how long to wait next time.
    async fn rest(&self, pause: Duration, deadline: Instant) -> Duration {
        tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
        (pause * 2).min(self.options.pause_max)
    }
}
