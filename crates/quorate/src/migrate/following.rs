//! What changes in the old cluster while its keys are copied: one watch of all keys, read ahead.
//!
//! The watch begins at once and does not wait for what is being written: an old cluster compacts,
//! often every five minutes, and copying may take longer than that.

use std::sync::Arc;
use std::time::Duration;

use client::etcd::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use client::etcd::proto::mvccpb::Event;
use client::etcd::proto::mvccpb::event::EventType;
use client::{Client, Watch};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;
use super::changes::{Change, Put};
use super::limits::Limits;

/// So often a stream may end without having brought anything.
const BARREN: u32 = 20;

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
    let mut barren = 0;
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
        let status = pass_on(&mut stream, &mut next, limits, &room, sender).await?;
        barren = if next > before { 0 } else { barren + 1 };
        if barren == BARREN {
            return Err(Error::Watch(status));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the stream ends; why it did.
async fn pass_on(
    stream: &mut Watch,
    next: &mut i64,
    limits: Limits,
    room: &Arc<Semaphore>,
    sender: &Sender,
) -> Result<String, Error> {
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok("the stream has ended".to_owned()),
            Err(status) => return Ok(status.message().to_owned()),
        };
        if message.canceled {
            return Err(refused(message));
        }
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
                return Ok("nobody listens".to_owned());
            }
            *next = revision + 1;
        }
    }
}

fn refused(message: WatchResponse) -> Error {
    match message.compact_revision {
        0 => Error::Watch(message.cancel_reason),
        _ => Error::Compacted,
    }
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
