//! Which keyspace a request is about, and where that is.
//!
//! ```text
//!   metadata quorate-keyspace > host of the request > TLS server name > listener
//!     > the prefix of the keys > default
//!                                       │ name
//!                                       ▼
//!           what the node has told: here (its group) │ on other nodes │ nowhere │ not known yet
//! ```
//!
//! What is nearer to the request wins. The choice is made once, where the request comes in, and is
//! written into its headers: whatever serves it looks there, and so does another node that it is
//! relayed to. A client that knows nothing of keyspaces gets the default one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use base::GroupId;
use etcd::Astray;
use etcd::proto::etcdserverpb::WatchCreateRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use node::group::META;
use node::{Call, Directory, Holder};

/// The metadata that names the keyspace.
pub(crate) const KEYSPACE: HeaderName = HeaderName::from_static("quorate-keyspace");
/// The same in a request of HTTP with JSON.
const KEYSPACE_OF_JSON: HeaderName = HeaderName::from_static("grpc-metadata-quorate-keyspace");
/// Says that the keys have chosen the keyspace, and not the client.
pub(crate) const BY_PREFIX: HeaderName = HeaderName::from_static("quorate-by-prefix");
pub(crate) const DEFAULT: &str = "default";
/// Stands for a keyspace that cannot exist.
const NO_NAME: &str = "?";

/// The keyspace that a request names, unless that is the default one. What is not a name stands
/// for a keyspace that does not exist.
pub(crate) fn named(headers: &HeaderMap) -> Option<Arc<str>> {
    let name = headers.get(KEYSPACE)?;
    (name.as_bytes() != DEFAULT.as_bytes()).then(|| Arc::from(name.to_str().unwrap_or(NO_NAME)))
}

/// A call in a keyspace.
pub(crate) fn within(keyspace: Option<Arc<str>>, call: Call) -> Call {
    match keyspace {
        Some(keyspace) => Call::In {
            keyspace,
            call: Box::new(call),
        },
        None => call,
    }
}

/// Whether calls of this path are served for the keyspace that they name. Members and users are
/// those of the cluster.
pub(crate) fn is_served_by_keyspace(path: &str) -> bool {
    const SERVICES: [&str; 6] = [
        "/etcdserverpb.KV/",
        "/etcdserverpb.Watch/",
        "/etcdserverpb.Lease/",
        "/etcdserverpb.Maintenance/",
        "/v3lockpb.Lock/",
        "/v3electionpb.Election/",
    ];
    SERVICES.iter().any(|service| path.starts_with(service))
}

/// What chooses for the requests of a connection that name no keyspace themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// `NAME.domain` names the keyspace NAME.
    pub(crate) domain: Option<Arc<str>>,
    /// The keyspace of those who name none, by TLS server name or listener.
    pub(crate) otherwise: Option<Arc<str>>,
}

impl Choice {
    /// The same on a connection whose client has asked for a server of this name.
    pub(crate) fn with_server_name(&self, name: Option<&str>) -> Choice {
        let by_name = name.and_then(|name| self.by_host(name));
        Choice {
            domain: self.domain.clone(),
            otherwise: by_name.or_else(|| self.otherwise.clone()),
        }
    }

    /// Whether it may choose another keyspace than the default one.
    pub(crate) fn says_something(&self) -> bool {
        self.domain.is_some() || self.otherwise.is_some()
    }

    /// Writes into a request's headers which keyspace it is about, where it does not say so.
    pub(crate) fn apply(&self, uri: &Uri, headers: &mut HeaderMap) {
        if !self.says_something() {
            return;
        }
        let is_json = uri.path().starts_with("/v3/");
        let says_so = is_json && headers.contains_key(KEYSPACE_OF_JSON);
        if says_so || headers.contains_key(KEYSPACE) {
            return;
        }
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = uri.authority().map(http::uri::Authority::as_str).or(host);
        let chosen = host.and_then(|host| self.by_host(without_port(host)));
        if let Some(chosen) = chosen.or_else(|| self.otherwise.clone())
            && let Ok(chosen) = HeaderValue::from_str(&chosen)
        {
            headers.insert(KEYSPACE, chosen);
        }
    }

    /// The keyspace that a host name names, if it lies in the domain.
    fn by_host(&self, host: &str) -> Option<Arc<str>> {
        let domain = self.domain.as_deref()?;
        let length = host.len().checked_sub(domain.len())?;
        let (name, rest) = host.split_at_checked(length)?;
        if !rest.eq_ignore_ascii_case(domain) {
            return None;
        }
        let name = name.strip_suffix('.')?;
        Some(name.to_ascii_lowercase().into())
    }
}

/// The host of `host:port`; brackets of IPv6 stay.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Where a keyspace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// On this node, in this group.
    Here(GroupId),
    /// On these nodes alone.
    Elsewhere(Vec<Holder>),
}

/// Which keyspaces there are and where, as the node has told last; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Keyspaces(Arc<Known>);

#[derive(Default)]
struct Known {
    directory: RwLock<Option<Arc<Directory>>>,
    /// Some prefix leads to a keyspace; all that a call costs that names none where none does.
    has_routes: AtomicBool,
    /// This node holds no data.
    is_witness: AtomicBool,
    /// The default keyspace has a leader, as far as this node knows.
    is_led: AtomicBool,
}

impl Keyspaces {
    /// The node has told.
    pub(crate) fn told(&self, directory: Arc<Directory>) {
        let has_routes = !directory.routes.is_empty();
        self.0
            .is_witness
            .store(directory.is_witness, Ordering::Relaxed);
        let known = &self.0.directory;
        *known.write().unwrap_or_else(PoisonError::into_inner) = Some(directory);
        self.0.has_routes.store(has_routes, Ordering::Release);
    }

    /// The node has told whether the default keyspace has a leader.
    pub(crate) fn told_of_leader(&self, has_leader: bool) {
        self.0.is_led.store(has_leader, Ordering::Release);
    }

    /// Whether the default keyspace has a leader.
    pub(crate) fn is_led(&self) -> bool {
        self.0.is_led.load(Ordering::Acquire)
    }

    fn directory(&self) -> Option<Arc<Directory>> {
        let known = self.0.directory.read();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the keys of a request may choose its keyspace.
    pub(crate) fn has_routes(&self) -> bool {
        self.0.has_routes.load(Ordering::Acquire)
    }

    /// The keyspace that the keys of a request choose; `None` is the default one.
    ///
    /// # Errors
    /// It is about more than one.
    pub(crate) fn route(&self, request: &etcd::Request) -> Result<Option<Arc<str>>, Astray> {
        let Some(directory) = self.directory() else {
            return Ok(None);
        };
        Ok(directory.routes.of_request(request)?.map(Arc::clone))
    }

    /// The same of a watch.
    ///
    /// # Errors
    /// It is about more than one.
    pub(crate) fn route_watch(
        &self,
        create: &WatchCreateRequest,
    ) -> Result<Option<Arc<str>>, Astray> {
        let Some(directory) = self.directory() else {
            return Ok(None);
        };
        Ok(directory.routes.of_watch(create)?.map(Arc::clone))
    }

    /// The keyspaces that prefixes of keys lead to, each once.
    pub(crate) fn routed(&self) -> Vec<Arc<str>> {
        let directory = self.directory();
        let routed = directory.map(|directory| directory.routes.keyspaces());
        routed.unwrap_or_default().into_iter().collect()
    }

    /// Whether this node holds no data: it has told so before it serves anybody.
    pub(crate) fn is_of_witness(&self) -> bool {
        self.0.is_witness.load(Ordering::Relaxed)
    }

    /// Where a keyspace is; `None` stands for the default one.
    ///
    /// # Errors
    /// There is none of this name; or this node does not know yet which there are.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Found, etcd::Error> {
        let Some(name) = name else {
            return Ok(Found::Here(META));
        };
        let known = &self.0.directory;
        let known = known.read().unwrap_or_else(PoisonError::into_inner);
        let directory = known.as_ref().ok_or(etcd::Error::NoLeader)?;
        let residence = directory.keyspaces.get(name);
        let residence = residence.ok_or(etcd::Error::KeyspaceNotFound)?;
        Ok(match residence.is_here {
            true => Found::Here(residence.group),
            false => Found::Elsewhere(residence.holders.clone()),
        })
    }

    /// The other nodes that hold a keyspace which is on this node as well.
    pub(crate) fn others(&self, name: &str) -> Vec<Holder> {
        let known = self.directory();
        let residence = known.as_ref().and_then(|known| known.keyspaces.get(name));
        residence.map_or_else(Vec::new, |residence| residence.holders.clone())
    }

    /// The group of a keyspace that is on this node.
    ///
    /// # Errors
    /// As above; or it is on other nodes.
    pub(crate) fn group(&self, name: Option<&str>) -> Result<GroupId, etcd::Error> {
        match self.find(name)? {
            Found::Here(group) => Ok(group),
            Found::Elsewhere(_) => Err(etcd::Error::KeyspaceElsewhere),
        }
    }
}

#[cfg(test)]
mod tests {
    use base::NodeId;
    use node::Residence;

    use super::*;

    fn headers(name: &'static str, value: &[u8]) -> HeaderMap {
        let value = HeaderValue::from_bytes(value).expect("it is a value");
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        headers
    }

    #[test]
    fn metadata_names_a_keyspace() {
        let named_by = |value: &[u8]| named(&headers("quorate-keyspace", value));
        assert_eq!(named(&HeaderMap::new()), None);
        assert_eq!(named_by(b"default"), None);
        assert_eq!(named_by(b"pods").as_deref(), Some("pods"));
        assert_eq!(named_by(b"p\xe4ds").as_deref(), Some("?"));
    }

    #[test]
    fn what_is_nearer_to_the_request_wins() {
        let listener = Choice {
            domain: Some("quorate.example".into()),
            otherwise: Some("events".into()),
        };
        let chosen = |choice: &Choice, uri: &str, mut headers: HeaderMap| {
            choice.apply(&uri.parse().unwrap(), &mut headers);
            named(&headers).map(|name| name.to_string())
        };
        let path = "/etcdserverpb.KV/Put";
        let at = |host: &str| format!("http://{host}{path}");
        let none = HeaderMap::new;
        let said = || headers("quorate-keyspace", b"pods");
        assert_eq!(
            chosen(&Choice::default(), &at("pods.quorate.example"), none()),
            None
        );
        let by = |uri: &str, headers| chosen(&listener, uri, headers);
        assert_eq!(by(path, none()).as_deref(), Some("events"));
        assert_eq!(by(&at("10.0.0.1:2379"), none()).as_deref(), Some("events"));
        let orders = by(&at("Orders.Quorate.example:2379"), none());
        assert_eq!(orders.as_deref(), Some("orders"));
        let host = headers("host", b"orders.quorate.example:2379");
        assert_eq!(by(path, host).as_deref(), Some("orders"));
        assert_eq!(by(&at("default.quorate.example"), none()), None);
        assert_eq!(
            by(&at("orders.quorate.example"), said()).as_deref(),
            Some("pods")
        );
        // The domain itself and names that merely end alike say nothing.
        assert_eq!(
            by(&at("quorate.example"), none()).as_deref(),
            Some("events")
        );
        assert_eq!(
            by(&at("xquorate.example"), none()).as_deref(),
            Some("events")
        );
        // A name of two labels is no keyspace's, and is not taken for one of them.
        assert_eq!(
            by(&at("a.b.quorate.example"), none()).as_deref(),
            Some("a.b")
        );
        let secured = listener.with_server_name(Some("leases.quorate.example"));
        assert_eq!(chosen(&secured, path, none()).as_deref(), Some("leases"));
        let secured = listener.with_server_name(Some("n1.other.example"));
        assert_eq!(chosen(&secured, path, none()).as_deref(), Some("events"));
        let mut json = HeaderMap::new();
        listener.apply(&"/v3/kv/range".parse().unwrap(), &mut json);
        assert_eq!(json["quorate-keyspace"], "events");
    }

    #[test]
    fn a_keyspace_is_looked_up_in_what_the_node_has_told() {
        let keyspaces = Keyspaces::default();
        assert_eq!(keyspaces.group(None), Ok(META));
        assert_eq!(keyspaces.find(Some("pods")), Err(etcd::Error::NoLeader));
        let holder = Holder {
            node: NodeId(2),
            address: "n2:1".to_owned(),
        };
        let residence = |group, is_here| Residence {
            group: GroupId(group),
            is_here,
            holders: vec![holder.clone()],
        };
        let all = [
            ("pods".to_owned(), residence(1, true)),
            ("jobs".to_owned(), residence(2, false)),
        ];
        keyspaces.told(Arc::new(Directory {
            keyspaces: all.into(),
            ..Directory::default()
        }));
        assert_eq!(keyspaces.group(Some("pods")), Ok(GroupId(1)));
        assert_eq!(
            keyspaces.find(Some("jobs")),
            Ok(Found::Elsewhere(vec![holder]))
        );
        assert_eq!(
            keyspaces.group(Some("jobs")),
            Err(etcd::Error::KeyspaceElsewhere)
        );
        assert_eq!(
            keyspaces.group(Some("?")),
            Err(etcd::Error::KeyspaceNotFound)
        );
    }

    #[test]
    fn members_and_users_are_those_of_the_cluster() {
        assert!(is_served_by_keyspace("/etcdserverpb.Watch/Watch"));
        assert!(is_served_by_keyspace("/v3lockpb.Lock/Lock"));
        assert!(!is_served_by_keyspace("/etcdserverpb.Auth/Authenticate"));
        assert!(!is_served_by_keyspace("/etcdserverpb.Cluster/MemberList"));
        assert!(!is_served_by_keyspace("/grpc.health.v1.Health/Check"));
    }
}
