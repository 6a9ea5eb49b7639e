//! What a client's metadata demands of whoever serves its call, looked at before the call itself.
//!
//! - `hasleader: true`: an answer now, or none: where nobody leads, the client asks somebody else.
//!   A stream that was opened so ends when nobody has led for a while, which is its service's
//!   affair. This is about the default keyspace, which never sleeps: another one has its leader
//!   when somebody asks for something, so calls there are let in and wait for it.
//! - `client-api-version`: any text, but text.

use http::{HeaderMap, HeaderName, Request};

use super::grpc;
use crate::keyspace;

/// A client whose calls need a leader says so in this piece of metadata.
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
/// Which version of etcd's API a client was made for.
const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");

/// Whether a call is not to be served without a leader.
pub(crate) fn needs_leader(headers: &HeaderMap) -> bool {
    let value = headers.get(HAS_LEADER);
    value.is_some_and(|value| value.as_bytes() == b"true")
}

/// Checks a call; `is_led`: whether the default keyspace has a leader.
///
/// # Errors
/// As etcd's.
pub(super) fn check<B>(request: &Request<B>, is_led: impl Fn() -> bool) -> Result<(), etcd::Error> {
    let headers = request.headers();
    let version = headers.get(CLIENT_API_VERSION);
    let is_text = version.is_none_or(|version| std::str::from_utf8(version.as_bytes()).is_ok());
    if is_text && !needs_leader(headers) {
        return Ok(());
    }
    // What is not gRPC has no metadata.
    if grpc::check(request).is_err() {
        return Ok(());
    }
    if !is_text {
        return Err(etcd::Error::InvalidClientVersion);
    }
    let is_of_keyspace = keyspace::is_served_by_keyspace(request.uri().path());
    let is_of_other = is_of_keyspace && keyspace::named(headers).is_some();
    match is_of_other || is_led() {
        true => Ok(()),
        false => Err(etcd::Error::NoLeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(path: &str, headers: &[(&str, &[u8])]) -> Result<(), etcd::Error> {
        let mut request = Request::post(format!("http://node{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("it is a request");
        check(&request, || false)
    }

    #[test]
    fn who_demands_a_leader_gets_no_answer_without_one() {
        let grpc: (&str, &[u8]) = ("content-type", b"application/grpc");
        let put = "/etcdserverpb.KV/Put";
        let demand: (&str, &[u8]) = ("hasleader", b"true");
        let pods: (&str, &[u8]) = ("quorate-keyspace", b"pods");
        assert_eq!(checked(put, &[grpc]), Ok(()));
        assert_eq!(checked(put, &[grpc, ("hasleader", b"false")]), Ok(()));
        assert_eq!(
            checked(put, &[grpc, demand]),
            Err(etcd::Error::NoLeader),
            "before anything else is looked at"
        );
        assert_eq!(
            checked(put, &[grpc, demand, pods]),
            Ok(()),
            "another keyspace finds its leader when it is asked"
        );
        let list = "/etcdserverpb.Cluster/MemberList";
        assert_eq!(
            checked(list, &[grpc, demand, pods]),
            Err(etcd::Error::NoLeader),
            "members are those of the cluster"
        );
        assert_eq!(checked("/metrics", &[demand]), Ok(()), "it is not gRPC");
    }

    #[test]
    fn the_version_of_a_client_is_text() {
        let grpc: (&str, &[u8]) = ("content-type", b"application/grpc");
        let said = |value| {
            checked(
                "/etcdserverpb.KV/Put",
                &[grpc, ("client-api-version", value)],
            )
        };
        assert_eq!(said(b"3.7.1"), Ok(()));
        assert_eq!(said("d\u{fc}nn".as_bytes()), Ok(()));
        assert_eq!(said(b"\xff"), Err(etcd::Error::InvalidClientVersion));
    }
}
