//! Watchers of all keys of the recording, which go on wherever a connection was lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use checker::history::{
    ClientId, EventKind, Key, Revision, WatchCreate, WatchId, WatchMessage, WatchRevision,
};
use client::Client;
use client::etcd::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};

use super::Shared;
use super::translation::{below, event, revision};

/// Before a watch is asked for again.
const REST: Duration = Duration::from_millis(50);

/// So many watches a watcher may try to make, each with a number of its own.
const WATCHES: u64 = 1_000_000;

/// Watches until it is aborted.
pub(super) async fn watch(shared: Arc<Shared>, client: Client, number: u64, prefix: String) {
    let mut watch = WatchId(number * WATCHES);
    let (key, range_end) = below(&prefix);
    // The first revision that has not been seen; 0 before anything has.
    let mut next = 0;
    loop {
        shared.tell(if next > 0 {
            EventKind::WatchResume {
                watch,
                start_revision: Revision(next),
            }
        } else {
            // One that was never made cannot be gone on with.
            watch.0 += 1;
            EventKind::WatchCreate(WatchCreate {
                watch,
                client: ClientId(number),
                key: Key::from(key.clone()),
                range_end: Key::from(range_end.clone()),
                prev_kv: true,
                ..WatchCreate::default()
            })
        });
        let request = WatchCreateRequest {
            key: key.clone().into(),
            range_end: range_end.clone().into(),
            start_revision: next as i64,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        if let Ok(mut stream) = client.watch(request).await {
            while let Ok(Some(message)) = stream.message().await {
                if !take(&shared, watch, &message, &mut next) {
                    break;
                }
            }
        }
        shared.tell(EventKind::WatchLost { watch });
        shared.counts.lost.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(REST).await;
    }
}

/// Writes a message down; false if the watch is over with it.
fn take(shared: &Shared, watch: WatchId, message: &WatchResponse, next: &mut u64) -> bool {
    let at = revision(message.header.as_ref());
    if message.canceled {
        shared.tell(EventKind::WatchCancelled {
            watch,
            compact_revision: Revision(message.compact_revision as u64),
            reason: message.cancel_reason.clone(),
        });
        return false;
    }
    let told = WatchRevision {
        watch,
        revision: at,
    };
    if message.created {
        shared.tell(EventKind::WatchCreated(told));
        // A watch from now on: what comes has a later revision.
        if *next == 0 {
            *next = at.0 + 1;
        }
        return true;
    }
    if message.events.is_empty() {
        shared.tell(EventKind::WatchProgress(told));
        *next = (*next).max(at.0 + 1);
        return true;
    }
    let count = message.events.len() as u64;
    shared.counts.events.fetch_add(count, Ordering::Relaxed);
    let last = message.events.last().and_then(|event| event.kv.as_ref());
    *next = last.map_or(*next, |pair| pair.mod_revision as u64 + 1);
    shared.tell(EventKind::WatchMessage(WatchMessage {
        watch,
        revision: at,
        fragment: message.fragment,
        events: message.events.iter().map(event).collect(),
    }));
    true
}
