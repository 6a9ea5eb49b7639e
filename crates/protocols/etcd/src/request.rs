//! What a client may ask of the keyspace, its leases and its users, and the answers: one variant
//! per call of etcd's KV and Lease services, so that the compiler finds every place that must know
//! a new one.

use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
    TxnRequest, TxnResponse,
};

use crate::auth::{AuthRequest, AuthResponse};
use crate::range_stream::RangePiece;

/// A request of etcd's KV, Lease or Auth service.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Read keys.
    Range(RangeRequest),
    /// Read one piece of a large range, for a [`crate::RangeStream`]; answered as a range.
    RangePiece(RangePiece),
    /// Write a key.
    Put(PutRequest),
    /// Delete keys.
    DeleteRange(DeleteRangeRequest),
    /// Compare, then do one of two lists of operations.
    Txn(TxnRequest),
    /// Forget history.
    Compact(CompactionRequest),
    /// Grant a lease. Whoever proposes it has chosen the id, if the client did not.
    LeaseGrant(LeaseGrantRequest),
    /// End a lease.
    LeaseRevoke(LeaseRevokeRequest),
    /// Renew a lease: one message of a stream.
    LeaseKeepAlive(LeaseKeepAliveRequest),
    /// Tell what is left of a lease.
    LeaseTimeToLive(LeaseTimeToLiveRequest),
    /// Name all leases.
    LeaseLeases,
    /// Ask about users and roles, or change them.
    Auth(AuthRequest),
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
    /// The lease is granted.
    LeaseGrant(LeaseGrantResponse),
    /// The lease has ended.
    LeaseRevoke(LeaseRevokeResponse),
    /// The lease is renewed, or does not exist.
    LeaseKeepAlive(LeaseKeepAliveResponse),
    /// What is left of the lease.
    LeaseTimeToLive(LeaseTimeToLiveResponse),
    /// All leases.
    LeaseLeases(LeaseLeasesResponse),
    /// What was asked about users and roles.
    Auth(AuthResponse),
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
            Response::LeaseGrant(response) => &mut response.header,
            Response::LeaseRevoke(response) => &mut response.header,
            Response::LeaseKeepAlive(response) => &mut response.header,
            Response::LeaseTimeToLive(response) => &mut response.header,
            Response::LeaseLeases(response) => &mut response.header,
            Response::Auth(response) => &mut response.header,
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
