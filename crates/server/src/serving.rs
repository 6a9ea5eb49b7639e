//! Serving etcd's clients: worker threads that speak HTTP/2 themselves.
//!
//! ```text
//!                        ┌─────────── a worker's thread ──────────────┐
//!  acceptor ── socket ──▶│ connection ─ hot call ─▶ slots ──┐         │ calls of a
//!   round robin          │            ─ stream ───▶ streams ├▶ turn ─▶│ turn at once ──▶ node's
//!                        │            ─ other ────▶ router  ┘   ▲     │                  thread
//!                        └──────────────────────────────────────┼─────┘ answers of a
//!                                                 mailbox ──────┴────── pass at once ◀──
//! ```
//!
//! A call that is asked ten thousand times a second must not cost a task, a channel, a lock or a
//! wake-up of its own. So the connections of a worker share one thread and plain memory; a
//! connection's task takes in everything that one read brought; the worker's *turn* hands all of it
//! to the node at once; the node's answers of one pass come back at once, fill all their streams,
//! and each connection writes once.
//!
//! Where there are few cores, the node's own thread is the only worker: one that waits for another
//! gains nothing there, and costs two wake-ups a call. With more cores, clients have threads of
//! their own, and decoding and encoding go on beside the node.
//!
//! Only the calls that are asked that often are served here (see [`unary`], [`streams`]). All
//! others, and everything that is not HTTP/2, go to the router, which serves them with libraries
//! that know more and cost more.
//!
//! - [`worker`]: the thread, what it has under way, and its turn. [`mailbox`]: what the node has
//!   for it. [`slots`]: places for what is under way.
//! - [`connection`]: one connection, from its first bytes to its end. [`outgoing`]: its writes.
//!   [`socket`]: its kinds. [`visited`]: those that are read a few times a second only.
//! - [`unary`]: calls with one answer. [`streams`]: calls with many. [`routed`]: all others.
//! - [`demands`]: what metadata asks of whoever serves a call.
//! - [`prefixed`]: the keyspace that the keys of a request choose. [`relaying`]: calls in keyspaces
//!   that other nodes hold. [`intake`]: what comes on a stream that has to wait.
//! - [`watching`]: etcd's watches, on streams. [`renewing`]: its keep-alives. [`looking`]: what is
//!   found out before those are made a call.
//! - [`grpc`]: what stands around the messages.

mod connection;
pub(crate) mod demands;
mod grpc;
mod intake;
mod looking;
mod mailbox;
mod outgoing;
mod prefixed;
mod relaying;
mod renewing;
mod routed;
mod slots;
mod socket;
mod streams;
mod unary;
mod visited;
mod watching;
mod worker;

use std::sync::Arc;

use base::GroupId;
use node::hub::{HistoryResult, HubId, Publication};
use node::{Answer, CallId};

pub(crate) use connection::Accepted;
pub(crate) use grpc::{Deframer, Status, time_allowed};
pub(crate) use relaying::say_common_name;
pub(crate) use socket::{ClientStream, PeerConnection, Socket};
pub(crate) use worker::{Seat, Setting, WeakWorkers, Workers};

/// What the node tells all workers.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// What a group has executed, and where it stands.
    Published {
        group: GroupId,
        publication: Publication,
    },
    /// A group is no longer on this node, and what its streams are told.
    Gone { group: GroupId, error: etcd::Error },
}

/// Where the node's thread leaves what it has for the workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mailboxes(Vec<Arc<mailbox::Mailbox>>);

/// Who waits for a read of history.
#[derive(Debug)]
pub(crate) struct HistoryReader(Arc<mailbox::Mailbox>);

impl HistoryReader {
    pub(crate) fn tell(&self, group: GroupId, result: HistoryResult) {
        self.0.tell_history(group, result);
    }
}

/// What a pass has for one worker.
#[derive(Debug, Default)]
struct Pile {
    news: Vec<News>,
    answers: Vec<(CallId, Answer)>,
}

/// Sorts what a pass of the node brings by worker, and delivers it at the pass's end.
#[derive(Debug)]
pub(crate) struct Deliveries {
    mailboxes: Mailboxes,
    piles: Vec<Pile>,
}

impl Deliveries {
    pub(crate) fn new(mailboxes: Mailboxes) -> Deliveries {
        let piles = mailboxes.0.iter().map(|_| Pile::default()).collect();
        Deliveries { mailboxes, piles }
    }

    /// Gives an answer to the worker whose call it is; gives it back if it is nobody's here.
    pub(crate) fn answer(&mut self, id: CallId, answer: Answer) -> Option<Answer> {
        match worker::number_of(id).and_then(|number| self.piles.get_mut(number)) {
            Some(pile) => {
                pile.answers.push((id, answer));
                None
            }
            None => Some(answer),
        }
    }

    /// Tells all workers. Whatever is published in a pass reaches them before its answers.
    pub(crate) fn tell(&mut self, news: &News) {
        for pile in &mut self.piles {
            pile.news.push(news.clone());
        }
    }

    /// Where the result of a worker's read of history goes.
    pub(crate) fn reader(&self, hub: HubId) -> Option<HistoryReader> {
        let mailbox = self.mailboxes.0.get(hub.0 as usize)?;
        Some(HistoryReader(Arc::clone(mailbox)))
    }

    /// Has all connections told that the node is about to stop. Until it does, they are served.
    /// Returns how many workers will say that their clients know.
    pub(crate) fn leave(&self) -> usize {
        self.mailboxes.0.iter().for_each(|mailbox| mailbox.leave());
        self.mailboxes.0.len()
    }

    /// Hands over what the pass has brought.
    ///
    /// Every worker has the publications before any has an answer: whoever is answered by one
    /// worker may ask the next question of another.
    pub(crate) fn deliver(&mut self) {
        for (pile, mailbox) in self.piles.iter_mut().zip(&self.mailboxes.0) {
            if !pile.news.is_empty() {
                mailbox.publish(&mut pile.news);
            }
        }
        for (pile, mailbox) in self.piles.iter_mut().zip(&self.mailboxes.0) {
            if !pile.answers.is_empty() {
                mailbox.answer(&mut pile.answers);
            }
        }
    }
}

impl Drop for Deliveries {
    /// Nothing more will come, even if the node's thread has failed.
    fn drop(&mut self) {
        self.mailboxes.0.iter().for_each(|mailbox| mailbox.stop());
    }
}

/// Messages of gRPC, in pieces; see [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(pieces: impl Iterator<Item = bytes::Bytes>) {
    const LONGEST: usize = 1 << 16;
    let mut headers = http::HeaderMap::new();
    let mut deframer = Deframer::new(LONGEST);
    for piece in pieces {
        if let Ok(value) = http::HeaderValue::from_bytes(&piece) {
            for name in [
                "grpc-timeout",
                "grpc-encoding",
                "grpc-status",
                "grpc-message",
            ] {
                headers.insert(name, value.clone());
            }
            let _ = grpc::time_allowed(&headers);
            let _ = grpc::check_encoding(&headers);
            let _ = Status::from_headers(&headers);
        }
        deframer.push(piece);
        loop {
            match deframer.next() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
