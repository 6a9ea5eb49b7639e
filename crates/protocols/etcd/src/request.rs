//! What a client may ask of the keyspace, and the answers: one variant per call of etcd's KV
//! service, so that the compiler finds every place that must know a new one.

use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};

/// A request of etcd's KV service.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Read keys.
    Range(RangeRequest),
    /// Write a key.
    Put(PutRequest),
    /// Delete keys.
    DeleteRange(DeleteRangeRequest),
    /// Compare, then do one of two lists of operations.
    Txn(TxnRequest),
    /// Forget history.
    Compact(CompactionRequest),
}

/// The answer to a [`Request`], of the same variant.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// What was read.
    Range(RangeResponse),
    /// The key was written.
    Put(PutResponse),
    /// The keys were deleted.
    DeleteRange(DeleteRangeResponse),
    /// What was done.
    Txn(TxnResponse),
    /// The history is out of reach.
    Compact(CompactionResponse),
}

impl Response {
    /// The header. This crate sets its `revision`; the rest says who answered, which the node
    /// fills in.
    pub fn header_mut(&mut self) -> &mut ResponseHeader {
        let header = match self {
            Response::Range(response) => &mut response.header,
            Response::Put(response) => &mut response.header,
            Response::DeleteRange(response) => &mut response.header,
            Response::Txn(response) => &mut response.header,
            Response::Compact(response) => &mut response.header,
        };
        header.get_or_insert_default()
    }
}

/// A header that carries the revision only.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}
