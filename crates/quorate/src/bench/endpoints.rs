//! Which servers are driven.

use std::net::{SocketAddr, ToSocketAddrs};

use super::socket::Trust;

/// A server that speaks etcd's protocol.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `host:port`, as it was given.
    pub(crate) name: String,
    /// What the name meant when the run began.
    pub(crate) address: SocketAddr,
    /// With whom to speak TLS, if that is to be spoken.
    pub(crate) trust: Option<Trust>,
}

impl Endpoint {
    /// `host:port`, `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// It is none of them, the name means nothing, or nobody says whom to trust.
    pub(crate) fn parse(text: &str, trust: Option<&Trust>) -> Result<Endpoint, String> {
        if text.starts_with("https://") && trust.is_none() {
            return Err(format!("{text}: needs --cacert: whom to trust?"));
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
            address,
            trust: trust.filter(|_| !text.starts_with("http://")).cloned(),
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
            assert_eq!(endpoint.address, "127.0.0.1:2379".parse().unwrap());
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for text in ["", "127.0.0.1", "127.0.0.1:etcd?", "https://127.0.0.1:2379"] {
            let error = Endpoint::parse(text, None).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
