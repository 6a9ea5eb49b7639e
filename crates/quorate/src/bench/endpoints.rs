//! Which servers are driven.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use super::socket::Trust;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// What its name meant when the run began.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A server that speaks etcd's protocol.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `host:port`, as it was given; the name of a Unix socket's file.
    pub(crate) name: String,
    pub(crate) address: Address,
    /// With whom to speak TLS, if that is to be spoken.
    pub(crate) trust: Option<Trust>,
    /// What its cluster has given the user to show, if somebody is to sign in.
    pub(crate) token: Option<Arc<str>>,
}

impl Endpoint {
    /// `host:port`, `http://host:port`, `https://host:port`, `unix:/path` or `unixs:/path`; as with
    /// etcd's clients, `unix://name` begins a path too.
    ///
    /// # Errors
    /// It is none of them, the name means nothing, or nobody says whom to trust.
    pub(crate) fn parse(text: &str, trust: Option<&Trust>) -> Result<Endpoint, String> {
        let is_secured = text.starts_with("https://") || text.starts_with("unixs:");
        if is_secured && trust.is_none() {
            return Err(format!("{text}: needs --cacert: whom to trust?"));
        }
        let socket = text.strip_prefix("unix:");
        if let Some(path) = socket.or_else(|| text.strip_prefix("unixs:")) {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| format!("endpoint {text:?} names no socket"))?;
            return Ok(Endpoint {
                name: name.to_owned(),
                trust: trust.filter(|_| is_secured).cloned(),
                address: Address::Unix(path),
                token: None,
            });
        }
        let bare = text.strip_prefix("https://");
        let name = bare
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let name = name.strip_suffix('/').unwrap_or(name);
        let addresses = name.to_socket_addrs();
        let mut addresses =
            addresses.map_err(|error| format!("endpoint {text:?} is not HOST:PORT: {error}"))?;
        let address = addresses
            .next()
            .ok_or_else(|| format!("endpoint {text:?} has no address"))?;
        Ok(Endpoint {
            name: name.to_owned(),
            address: Address::Tcp(address),
            trust: trust.filter(|_| !text.starts_with("http://")).cloned(),
            token: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme() {
        for text in [
            "127.0.0.1:2379",
            "http://127.0.0.1:2379",
            "http://127.0.0.1:2379/",
        ] {
            let endpoint = Endpoint::parse(text, None).unwrap();
            assert_eq!(endpoint.name, "127.0.0.1:2379");
            let address = "127.0.0.1:2379".parse().unwrap();
            assert_eq!(endpoint.address, Address::Tcp(address));
        }
        for text in ["unix:/run/q", "unix:///run/q"] {
            let endpoint = Endpoint::parse(text, None).unwrap();
            assert_eq!(endpoint.name, "q");
            assert_eq!(endpoint.address, Address::Unix("/run/q".into()));
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in [
            "",
            "127.0.0.1",
            "127.0.0.1:etcd?",
            "https://127.0.0.1:2379",
            "unixs:/run/q",
            "unix:",
        ] {
            let error = Endpoint::parse(text, None).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
