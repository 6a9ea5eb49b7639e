//! Which keyspace a request is about: gRPC metadata says so.
//!
//! A client that knows nothing of keyspaces gets the default one. Any client of etcd's can name
//! another: `quorate-keyspace: NAME` in the metadata of its calls, which every client library lets
//! its user set for a whole connection.

use std::sync::Arc;

use http::HeaderMap;
use node::Call;

/// The metadata that names the keyspace.
pub(crate) const KEYSPACE: &str = "quorate-keyspace";
const DEFAULT: &[u8] = b"default";

/// The keyspace that a request names, unless that is the default one. What is not a name stands
/// for a keyspace that does not exist.
pub(crate) fn named(headers: &HeaderMap) -> Option<Arc<str>> {
    let name = headers.get(KEYSPACE)?;
    (name.as_bytes() != DEFAULT).then(|| Arc::from(name.to_str().unwrap_or("?")))
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn metadata_names_a_keyspace() {
        let headers = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).expect("it is a value");
            let mut headers = HeaderMap::new();
            headers.insert(KEYSPACE, value);
            headers
        };
        assert_eq!(named(&HeaderMap::new()), None);
        assert_eq!(named(&headers(b"default")), None);
        assert_eq!(named(&headers(b"pods")).as_deref(), Some("pods"));
        assert_eq!(named(&headers(b"p\xe4ds")).as_deref(), Some("?"));
    }
}
