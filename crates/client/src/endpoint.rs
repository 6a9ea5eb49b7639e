//! What can be an endpoint, and the connection to it.
//!
//! ```text
//!   host:port   http://host:port   https://host:port   over TCP; with TLS if the client has it
//!   unix:/path  unix://path                            over a Unix socket, plain
//!   unixs:/path unixs://path                           the same with TLS
//! ```
//!
//! As with etcd's clients, what looks like a host in `unix://name` begins a path, and the socket's
//! file name, up to a colon, is what the server's certificate is compared with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::{Error, Options};

/// A connection that waits for an answer is probed this often; servers bear a probe per 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// ... and given up, so that a new one is made, if a probe is not answered for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The path of a Unix socket, and whether TLS is spoken over it; `None` for other endpoints.
fn socket(address: &str) -> Option<(PathBuf, bool)> {
    let (scheme, rest) = address.split_once(':')?;
    let is_secured = match scheme {
        "unix" => false,
        "unixs" => true,
        _ => return None,
    };
    let path = rest.strip_prefix("//").unwrap_or(rest);
    Some((PathBuf::from(path), is_secured))
}

/// The URI by which requests over a Unix socket name its server.
fn name_of(path: &Path, is_secured: bool) -> Option<Uri> {
    let scheme = if is_secured { "https" } else { "http" };
    let name = path.file_name()?.to_str()?;
    let named = format!("{scheme}://{name}").parse();
    // A file may have a name that no server could have.
    named
        .or_else(|_| format!("{scheme}://localhost").parse())
        .ok()
}

/// A connection that is made when it is first needed, and again whenever it is lost.
pub(crate) fn channel(
    address: &str,
    options: &Options,
    tls: Option<&ClientTlsConfig>,
) -> Result<Channel, Error> {
    let bad = || Error::BadEndpoint(address.to_owned());
    let Some((path, is_secured)) = socket(address) else {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let uri = if address.contains("://") {
            address.to_owned()
        } else {
            format!("{scheme}://{address}")
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|_| bad())?;
        if endpoint.uri().scheme_str() != Some(scheme) || endpoint.uri().port().is_none() {
            return Err(bad());
        }
        return Ok(prepared(endpoint, address, options, tls)?.connect_lazy());
    };
    let tls = tls.filter(|_| is_secured);
    if is_secured && tls.is_none() {
        return Err(bad());
    }
    let endpoint = Endpoint::from(name_of(&path, is_secured).ok_or_else(bad)?);
    let endpoint = prepared(endpoint, address, options, tls)?;
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn prepared(
    endpoint: Endpoint,
    address: &str,
    options: &Options,
    tls: Option<&ClientTlsConfig>,
) -> Result<Endpoint, Error> {
    let mut endpoint = endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    if let Some(tls) = tls {
        let secured = endpoint.tls_config(tls.clone());
        endpoint = secured.map_err(|error| Error::BadEndpoint(format!("{address}: {error}")))?;
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_from_addresses() {
        for (text, path, is_secured) in [
            ("unix:/run/q", "/run/q", false),
            ("unix:///run/q", "/run/q", false),
            ("unix://localhost:2379", "localhost:2379", false),
            ("unix:localhost:2379", "localhost:2379", false),
            ("unixs:///run/q", "/run/q", true),
            ("unixs://localhost:2379", "localhost:2379", true),
        ] {
            assert_eq!(
                socket(text),
                Some((PathBuf::from(path), is_secured)),
                "{text}"
            );
        }
        for text in [
            "127.0.0.1:2379",
            "http://a:1",
            "https://a:1",
            "unix",
            "unixx:/a",
            "",
        ] {
            assert_eq!(socket(text), None, "{text}");
        }
    }

    #[test]
    fn a_server_behind_a_socket_is_called_by_its_file() {
        let name = |path| name_of(Path::new(path), true).map(|uri| uri.to_string());
        assert_eq!(
            name("/run/a.example:1").as_deref(),
            Some("https://a.example:1/")
        );
        assert_eq!(name("/run/a b").as_deref(), Some("https://localhost/"));
        assert_eq!(name("/"), None);
        assert_eq!(name(""), None);
    }

    #[tokio::test]
    async fn what_cannot_be_reached_as_asked_is_no_endpoint() {
        for text in [
            "",
            "nowhere",
            "unix:",
            "unix:///",
            "unixs:///run/q",
            "https://a:1",
        ] {
            let refused = channel(text, &Options::default(), None);
            assert!(matches!(refused, Err(Error::BadEndpoint(_))), "{text}");
        }
    }
}
