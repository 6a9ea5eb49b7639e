//! What changes in the old cluster while its keys are copied: one watch of all keys, read ahead.
//!
//! The watch begins at once and does not wait for what is being written: an old cluster compacts,
//! often every five minutes, and copying may take longer than that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::etcd::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use client::etcd::proto::mvccpb::Event;
use client::etcd::proto::mvccpb::event::EventType;
use client::{Client, Watch};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;
use super::changes::{Change, Put};
use super::limits::Limits;

/// So often on end a stream may be in vain.
const VAIN_STREAMS: u32 = 20;

/// A stream was not in vain that has lived for so long: there may have been nothing to tell, and
/// something in between that ends what is idle.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// Between two streams.
const PAUSE: Duration = Duration::from_millis(250);

/// What one revision changed. Holds its place among what waits until it is dropped.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) revision: i64,
    pub(super) changes: Vec<Change>,
    _place: OwnedSemaphorePermit,
}

/// The revisions as they come, each once and in order.
pub(super) type Feed = UnboundedReceiver<Result<Revision, Error>>;

/// Begins with revision `first`. An error is the last that comes.
pub(super) fn follow(source: Client, first: i64, limits: Limits) -> Feed {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        if let Err(error) = watch(&source, first, limits, &sender).await {
            // Nobody listens any more: nobody minds.
            let _ = sender.send(Err(error));
        }
    });
    receiver
}

type Sender = UnboundedSender<Result<Revision, Error>>;

async fn watch(source: &Client, first: i64, limits: Limits, sender: &Sender) -> Result<(), Error> {
    let room = Arc::new(Semaphore::new(limits.waiting_bytes as usize));
    let mut next = first;
    let mut patience = Patience::default();
    loop {
        let request = WatchCreateRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            start_revision: next,
            ..WatchCreateRequest::default()
        };
        let before = next;
        let opened = source.watch(request).await;
        let mut stream = opened.map_err(|error| Error::source("watched", error))?;
        let ended = pass_on(&mut stream, &mut next, limits, &room, sender).await?;
        if sender.is_closed() {
            return Ok(());
        }
        // A member of etcd's that was started again knows no tokens of before.
        if may_be_about_the_token(&ended.why) {
            let signed_in = source.sign_in().await;
            signed_in.map_err(|error| Error::source("signed in to", error))?;
        }
        if patience.is_over(next > before, ended.lived) {
            return Err(Error::Watch(ended.why));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Counts streams that were in vain.
#[derive(Debug, Default)]
struct Patience(u32);

impl Patience {
    /// A stream has ended: whether there were too many like it, one after the other.
    fn is_over(&mut self, has_brought: bool, lived: Option<Duration>) -> bool {
        let was_in_vain = !has_brought && lived.is_none_or(|lived| lived < LONG_ENOUGH);
        self.0 = if was_in_vain { self.0 + 1 } else { 0 };
        self.0 == VAIN_STREAMS
    }
}

/// How a stream has ended.
#[derive(Debug)]
struct Ended {
    why: String,
    /// How long there was a watch, if there was one.
    lived: Option<Duration>,
}

/// Until the stream ends.
async fn pass_on(
    stream: &mut Watch,
    next: &mut i64,
    limits: Limits,
    room: &Arc<Semaphore>,
    sender: &Sender,
) -> Result<Ended, Error> {
    let mut made_at: Option<Instant> = None;
    let ended = |why: &str, made_at: Option<Instant>| Ended {
        why: why.to_owned(),
        lived: made_at.map(|at| at.elapsed()),
    };
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(ended("the stream has ended", made_at)),
            Err(status) => return Ok(ended(status.message(), made_at)),
        };
        if message.canceled {
            let why = refused(message)?;
            return Ok(ended(&why, made_at));
        }
        made_at.get_or_insert_with(Instant::now);
        let same = |one: &Event, other: &Event| revision_of(one) == revision_of(other);
        for events in message.events.chunk_by(same) {
            let revision = revision_of(&events[0]);
            let changes: Vec<Change> = events.iter().map(change).collect();
            let bytes: usize = changes.iter().map(Change::bytes).sum();
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let place = Arc::clone(room).acquire_many_owned(bytes.min(limits.waiting_bytes));
            let place = place.await.expect("the semaphore is never closed");
            let sent = sender.send(Ok(Revision {
                revision,
                changes,
                _place: place,
            }));
            if sent.is_err() {
                return Ok(ended("nobody listens", made_at));
            }
            *next = revision + 1;
        }
    }
}

/// Why there is no watch, if another one may go better.
fn refused(message: WatchResponse) -> Result<String, Error> {
    let reason = message.cancel_reason;
    match message.compact_revision {
        0 if may_be_about_the_token(&reason) => Ok(reason),
        0 => Err(Error::Watch(reason)),
        _ => Err(Error::Compacted),
    }
}

/// Whether a new token may help. Before 3.4.22 and 3.5.6, etcd says of a watch with a token that it
/// does not know that it is not permitted, and nothing else.
fn may_be_about_the_token(reason: &str) -> bool {
    client::is_about_the_token(reason) || reason.contains("etcdserver: permission denied")
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |pair| pair.mod_revision)
}

fn change(event: &Event) -> Change {
    let pair = event.kv.clone().unwrap_or_default();
    match event.r#type() {
        EventType::Delete => Change::Delete(pair.key),
        EventType::Put => Change::Put(Put {
            key: pair.key,
            value: pair.value,
            lease: pair.lease,
            is_new: pair.version == 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canceled(reason: &str, compact_revision: i64) -> WatchResponse {
        WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            compact_revision,
            ..WatchResponse::default()
        }
    }

    /// A member of etcd's that is started again has forgotten its tokens, and says so in the reason
    /// of a watch: the copy was broken off.
    #[test]
    fn a_token_that_has_ended_is_no_reason_to_give_up() {
        let ended = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        let old =
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        for reason in [ended, old, denied] {
            let outcome = refused(canceled(reason, 0));
            assert!(matches!(&outcome, Ok(why) if why == reason), "{outcome:?}");
        }
        let other = "etcdserver: no leader";
        let outcome = refused(canceled(other, 0));
        assert!(matches!(outcome, Err(Error::Watch(_))), "{outcome:?}");
        // Whoever is really not permitted is told so after some tries.
        let mut patience = Patience::default();
        assert_eq!(
            (1..).find(|_| patience.is_over(false, None)),
            Some(VAIN_STREAMS)
        );
        let outcome = refused(canceled("", 7));
        assert!(matches!(outcome, Err(Error::Compacted)), "{outcome:?}");
    }

    /// Nothing changed for hours behind a proxy that ends what is idle: twenty ends of streams in
    /// all broke the copy off.
    #[test]
    fn a_quiet_source_is_followed_for_as_long_as_it_takes() {
        let mut patience = Patience::default();
        let minute = Some(Duration::from_secs(60));
        assert!((0..1000).all(|_| !patience.is_over(false, minute)));
        // Such as are refused at once, or never made, are borne twenty times in a row.
        let lives = [None, Some(Duration::ZERO)];
        let lives = || lives.into_iter().cycle().take(19);
        assert!(lives().all(|lived| !patience.is_over(false, lived)));
        assert!(!patience.is_over(true, None), "it has brought something");
        assert!(lives().all(|lived| !patience.is_over(false, lived)));
        assert!(patience.is_over(false, None));
    }
}
