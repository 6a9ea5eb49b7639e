//! Leases.

use etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use futures_util::stream;
use tonic::transport::Channel;
use tonic::{Request, Response};

use crate::failover::Kind;
use crate::stubs::lease_client::LeaseClient;
use crate::{Client, Error, call};

impl Client {
    /// Grants a lease.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease_grant(
        &self,
        request: LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, Error> {
        call!(self, Kind::Write, LeaseClient, lease_grant, request)
    }

    /// Ends a lease, and with it its keys.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Error> {
        let request = LeaseRevokeRequest { id };
        call!(self, Kind::Write, LeaseClient, lease_revoke, request)
    }

    /// What is left of a lease; a `ttl` of -1: there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`].
    pub async fn lease_time_to_live(&self, id: i64) -> Result<LeaseTimeToLiveResponse, Error> {
        let request = LeaseTimeToLiveRequest { id, keys: false };
        call!(self, Kind::Read, LeaseClient, lease_time_to_live, request)
    }

    /// All leases.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`].
    pub async fn leases(&self) -> Result<LeaseLeasesResponse, Error> {
        let request = LeaseLeasesRequest {};
        call!(self, Kind::Read, LeaseClient, lease_leases, request)
    }

    /// Renews leases, each once; the answers. A `ttl` of 0: there is no such lease.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unreachable`]. Renewing twice does no harm, so it is tried
    /// again as a read is.
    pub async fn keep_alive(&self, ids: Vec<i64>) -> Result<Vec<LeaseKeepAliveResponse>, Error> {
        let send = |channel: Channel, request: Request<Vec<i64>>| async move {
            let (metadata, extensions, ids) = request.into_parts();
            let mut answers = Vec::with_capacity(ids.len());
            let renewals = ids.into_iter().map(|id| LeaseKeepAliveRequest { id });
            let renewals = Request::from_parts(metadata, extensions, stream::iter(renewals));
            let stream = LeaseClient::new(channel).lease_keep_alive(renewals).await?;
            let mut stream = stream.into_inner();
            while let Some(answer) = stream.message().await? {
                answers.push(answer);
            }
            Ok(Response::new(answers))
        };
        self.signed(Kind::Read, ids, send).await
    }
}
