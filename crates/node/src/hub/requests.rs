//! What clients ask for on a stream.

use base::Instant;
use base::mutant::{self, Mutant};
use etcd::proto::etcdserverpb::watch_request::RequestUnion;
use etcd::proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use etcd::watch::{NO_WATCH_ID, WatchCreate, WatchNews, WatchRefusal};

use super::Hub;
use super::groups::{Form, GroupKey};
use super::interface::HubOutput;
use super::roster::{Position, StreamIndex, Watcher};

impl Hub {
    /// A client asks for something. Everything published has been delivered.
    pub(super) fn request(
        &mut self,
        now: Instant,
        stream: StreamIndex,
        request: WatchRequest,
        out: &mut Vec<HubOutput>,
    ) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                if let Err(refusal) = self.create(now, stream, &create, out) {
                    self.answer(stream, NO_WATCH_ID, WatchNews::Refused(refusal), out);
                }
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                let watchers = &self.roster.stream(stream).watchers;
                // One that is not there is passed over in silence, as in etcd.
                if let Some(watcher) = watchers.get(cancel.watch_id) {
                    self.forget(watcher);
                    self.answer(stream, cancel.watch_id, WatchNews::Canceled, out);
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress(stream),
            None => {}
        }
    }

    fn create(
        &mut self,
        now: Instant,
        stream: StreamIndex,
        request: &WatchCreateRequest,
        out: &mut Vec<HubOutput>,
    ) -> Result<(), WatchRefusal> {
        let create = WatchCreate::check(request)?;
        let id = self.choose_id(stream, create.id)?;
        if self.roster.stream(stream).watchers.len() >= self.limits.stream_watchers {
            self.metrics.refused += 1;
            return Err(WatchRefusal::TooManyOnStream);
        }
        if self.roster.watcher_count() >= self.limits.watchers {
            self.metrics.refused += 1;
            return Err(WatchRefusal::TooManyOnNode);
        }
        self.answer(stream, id, WatchNews::Created, out);
        let told = self
            .told
            .expect("streams are open only once the node has spoken");
        let start = create.start_revision;
        if start.is_some_and(|start| start < told.compacted.0) {
            self.metrics.watchers_compacted += 1;
            self.answer(stream, id, WatchNews::Compacted(told.compacted.0), out);
            return Ok(());
        }
        let form = Form {
            previous: create.previous,
            no_put: create.no_put,
            no_delete: create.no_delete,
            fragment: create.fragment,
        };
        let interest = self.index.add(create.range);
        let next = self.delivered + 1;
        let position = match start {
            Some(start) if start >= next => Position::Future { start },
            // The turn in which it reads the ring will show whether it is behind that.
            Some(start) => Position::Lagging {
                next: start + i64::from(mutant::is_on(Mutant::LoseOnResume)),
            },
            None => Position::Lagging { next },
        };
        let watcher = self.roster.add(Watcher {
            stream,
            group: GroupKey { interest, form, id },
            progress_notify: create.progress_notify,
            position,
            last_event: Instant::default(),
        });
        if start.is_none() {
            self.go_live(watcher);
        }
        if create.progress_notify && self.roster.stream(stream).next_tick.is_none() {
            self.begin_ticking(now, stream);
        }
        Ok(())
    }

    /// The id that a watch gets: the client's choice, or the next that is free.
    fn choose_id(&mut self, stream: StreamIndex, chosen: Option<i64>) -> Result<i64, WatchRefusal> {
        let stream = self.roster.stream_mut(stream);
        match chosen {
            Some(id) if stream.watchers.contains(id) => Err(WatchRefusal::DuplicateId),
            Some(id) => Ok(id),
            None => {
                while stream.watchers.contains(stream.next_id) {
                    stream.next_id += 1;
                }
                let id = stream.next_id;
                stream.next_id += 1;
                Ok(id)
            }
        }
    }

    /// Without watchers there is nothing to tell; one that begins in the future would hear of
    /// revisions before its first. Both are passed over in silence, as in etcd.
    fn ask_progress(&mut self, index: StreamIndex) {
        let stream = self.roster.stream_mut(index);
        if stream.watchers.is_empty() || stream.future > 0 {
            return;
        }
        stream.progress_asked = true;
        if stream.not_live == 0 || mutant::is_on(Mutant::ProgressAhead) {
            self.roster.answerable.push(index);
        }
    }
}
