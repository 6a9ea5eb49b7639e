//! Large ranges in pieces: etcd 3.7's RangeStream.
//!
//! ```text
//!   RangeStream::new ─▶ next_request ─▶ (the node reads a piece) ─▶ answered ─▶ a message to send
//!                            ▲                                          │
//!                            └─────────── until there is none ◀─────────┘
//! ```
//!
//! The first piece is an ordinary read and says at which revision the stream stands; all others
//! read that revision from the same replica, from behind the last key on. So between two pieces a
//! number is held and nothing else: no snapshot, no memory, however slowly a client reads. If
//! history is compacted beyond that revision meanwhile, the stream ends with etcd's error.
//!
//! A piece ends where the node's budget for a small read ends, so that a large range never holds
//! up what else a replica has to do.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{
    RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader,
};
use crate::request::Request;

/// One piece of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct RangePiece {
    /// What is left to read, at the stream's revision.
    pub(crate) request: RangeRequest,
    /// The first piece counts the whole range, if that is cheap.
    pub(crate) is_first: bool,
}

/// A range that is read in pieces.
#[derive(Clone, Debug)]
pub struct RangeStream {
    request: RangeRequest,
    /// The first answer's header; the stream's last message carries it.
    header: Option<ResponseHeader>,
    /// How many keys the range has, if the first piece could tell.
    total: Option<i64>,
    /// Keys seen so far, delivered or not.
    seen: i64,
    delivered: i64,
    is_done: bool,
}

impl RangeStream {
    /// Checks a request; nothing is read yet.
    ///
    /// # Errors
    /// Those of a range, and etcd's own for what it does not stream: orders other than by
    /// ascending keys, and filters by revision.
    pub fn new(request: RangeRequest) -> Result<RangeStream, Error> {
        crate::plan::check_range(&request)?;
        let by_key = request.sort_target() == SortTarget::Key;
        match request.sort_order() {
            SortOrder::None => {}
            SortOrder::Ascend if by_key => {}
            _ => return Err(Error::StreamSorted),
        }
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if filters != [0; 4] {
            return Err(Error::StreamFiltered);
        }
        Ok(RangeStream {
            request,
            header: None,
            total: None,
            seen: 0,
            delivered: 0,
            is_done: false,
        })
    }

    /// Whether everything is read at once: there is nothing to read in pieces. A target without an
    /// order means what it means to a range, which has to see all keys before it gives the first;
    /// etcd sorts each piece by itself there, and loses its place.
    fn is_single(&self) -> bool {
        self.request.count_only
            || self.request.range_end.is_empty()
            || self.request.sort_target() != SortTarget::Key
    }

    /// All that the limit allows is delivered; what follows is only counted.
    fn is_full(&self) -> bool {
        self.request.limit > 0 && self.delivered >= self.request.limit
    }

    /// What to ask the node for next; `None` once the last message was given.
    #[must_use]
    pub fn next_request(&self) -> Option<Request> {
        if self.is_done {
            return None;
        }
        if self.is_single() {
            return Some(Request::Range(self.request.clone()));
        }
        let mut request = self.request.clone();
        if self.is_full() {
            (request.limit, request.keys_only) = (0, true);
        } else if request.limit > 0 {
            request.limit -= self.delivered;
        }
        let is_first = self.header.is_none();
        Some(Request::RangePiece(RangePiece { request, is_first }))
    }

    /// The node's answer to [`RangeStream::next_request`]: the message that follows from it, if
    /// one does.
    pub fn answered(&mut self, mut answer: RangeResponse) -> Option<RangeStreamResponse> {
        if self.is_single() {
            self.is_done = true;
            return message(answer);
        }
        let header = answer.header.take().unwrap_or_default();
        if self.header.is_none() {
            self.header = Some(header);
            self.total = (answer.count >= 0).then_some(answer.count);
            if self.request.revision <= 0 {
                self.request.revision = header.revision;
            }
        }
        self.seen += answer.kvs.len() as i64;
        if let Some(last) = answer.kvs.last() {
            self.request.key = after(&last.key);
        }
        if self.is_full() {
            answer.kvs.clear();
        }
        self.delivered += answer.kvs.len() as i64;
        let is_over = !answer.more;
        self.is_done = is_over || (self.is_full() && self.total.is_some());
        (answer.count, answer.more) = (0, false);
        if self.is_done {
            let count = self.total.unwrap_or(self.seen);
            answer.header = self.header;
            answer.count = count;
            answer.more = self.is_full() && count > self.delivered;
        } else if answer.kvs.is_empty() {
            return None;
        }
        message(answer)
    }
}

fn message(answer: RangeResponse) -> Option<RangeStreamResponse> {
    Some(RangeStreamResponse {
        range_response: Some(answer),
    })
}

/// The first key behind this one.
fn after(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
