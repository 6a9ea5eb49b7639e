//! Which servers are driven.

use std::net::{SocketAddr, ToSocketAddrs};

/// A server that speaks etcd's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host:port`, as it was given.
    pub(crate) name: String,
    /// What the name meant when the run began.
    pub(crate) address: SocketAddr,
}

impl Endpoint {
    /// `host:port` or `http://host:port`.
    ///
    /// # Errors
    /// It is neither, or the name means nothing.
    pub(crate) fn parse(text: &str) -> Result<Endpoint, String> {
        if text.starts_with("https://") {
            return Err(format!("{text}: encrypted connections are not measured"));
        }
        let name = text.strip_prefix("http://").unwrap_or(text);
        let name = name.strip_suffix('/').unwrap_or(name);
        let addresses = name.to_socket_addrs();
        let mut addresses =
            addresses.map_err(|error| format!("endpoint {text:?} is not HOST:PORT: {error}"))?;
        let address = addresses
            .next()
            .ok_or_else(|| format!("endpoint {text:?} has no address"))?;
        Ok(Endpoint {
            name: name.to_owned(),
            address,
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
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.name, "127.0.0.1:2379");
            assert_eq!(endpoint.address, "127.0.0.1:2379".parse().unwrap());
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in ["", "127.0.0.1", "127.0.0.1:etcd?", "https://127.0.0.1:2379"] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
