//! etcd's Cluster service: what clients may ask about members, and what can be said about such a
//! request without knowing the members.
//!
//! A member is an id and a place where its peers reach it; whether a change may be made now is
//! known to the leader alone, which also makes it (`node`).

use crate::error::Error;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberPromoteRequest, MemberPromoteResponse,
    MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    ResponseHeader,
};

/// A change of the members.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterRequest {
    /// Add one.
    Add(MemberAddRequest),
    /// Remove one.
    Remove(MemberRemoveRequest),
    /// One is reached elsewhere now.
    Update(MemberUpdateRequest),
    /// Give a learner a vote.
    Promote(MemberPromoteRequest),
}

/// The answer to a [`ClusterRequest`], of the same variant: the members as they are now.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterResponse {
    /// It was added.
    Add(MemberAddResponse),
    /// It was removed.
    Remove(MemberRemoveResponse),
    /// It was changed.
    Update(MemberUpdateResponse),
    /// It has a vote.
    Promote(MemberPromoteResponse),
}

impl ClusterRequest {
    /// The answer, once the change is made. `added`: the id of a new member.
    #[must_use]
    pub fn answer(
        &self,
        header: ResponseHeader,
        members: Vec<Member>,
        added: u64,
    ) -> ClusterResponse {
        let header = Some(header);
        match self {
            ClusterRequest::Add(_) => ClusterResponse::Add(MemberAddResponse {
                header,
                member: members.iter().find(|each| each.id == added).cloned(),
                members,
            }),
            ClusterRequest::Remove(_) => {
                ClusterResponse::Remove(MemberRemoveResponse { header, members })
            }
            ClusterRequest::Update(_) => {
                ClusterResponse::Update(MemberUpdateResponse { header, members })
            }
            ClusterRequest::Promote(_) => {
                ClusterResponse::Promote(MemberPromoteResponse { header, members })
            }
        }
    }
}

/// The `host:port` that peer URLs name. Of several they must all name the same: a member is reached
/// at one address here.
///
/// # Errors
/// [`Error::InvalidMemberUrls`] for what is no `http://host:port` or `https://host:port`.
pub fn peer_address(urls: &[String]) -> Result<String, Error> {
    let mut addresses = urls.iter().map(|url| address_of(url));
    let first = addresses.next().flatten().ok_or(Error::InvalidMemberUrls)?;
    match addresses.all(|address| address == Some(first)) {
        true => Ok(first.to_owned()),
        false => Err(Error::InvalidMemberUrls),
    }
}

/// etcd demands a scheme, a host, a port, and nothing behind them.
fn address_of(url: &str) -> Option<&str> {
    let rest = url
        .trim()
        .strip_prefix("http://")
        .or_else(|| url.trim().strip_prefix("https://"))?;
    let (host, port) = rest.rsplit_once(':')?;
    let is_address = !host.is_empty()
        && !host.contains(['/', '?', '#', '@'])
        && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_address.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_url_is_a_scheme_a_host_and_a_port() {
        let address = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            peer_address(&urls)
        };
        assert_eq!(
            address(&["http://10.0.0.1:2380"]),
            Ok("10.0.0.1:2380".into())
        );
        assert_eq!(address(&["https://[::1]:2380"]), Ok("[::1]:2380".into()));
        let twice = ["http://a:1", "https://a:1"];
        assert_eq!(address(&twice), Ok("a:1".into()), "one place, named twice");
        for urls in [
            &[] as &[&str],
            &[""],
            &["10.0.0.1:2380"],
            &["http://10.0.0.1"],
            &["http://:2380"],
            &["http://a:b"],
            &["http://a:0"],
            &["http://a:99999"],
            &["http://a:1/path"],
            &["unix://a:1"],
            &["http://a:1", "http://b:1"],
        ] {
            assert_eq!(address(urls), Err(Error::InvalidMemberUrls), "{urls:?}");
        }
    }
}
