//! TLS, for clients and for peers: the one place that knows the library.
//!
//! ```text
//!   files ── read, checked ──▶ Material ── current ──▶ each new connection
//!     └─ looked at every second; if one has changed and all of them are sound, replaced
//! ```
//!
//! Connections that are open keep what they began with. A file that is damaged or half written
//! changes nothing: the last sound material stays in use, and the log says why. Resumption of
//! sessions belongs to the material, so that a certificate that was revoked cannot come back by it.
//!
//! - [`authority`]: making certificates, for those who have none.
//! - [`material`]: what is read from the files. [`stream`]: a connection that can change threads.
//! - [`identity`]: what a verified certificate says of its owner.

pub mod authority;
mod identity;
mod material;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) use identity::CommonName;
pub use material::{TlsError, TlsVersion};
pub(crate) use stream::{Movable, Secured};

use material::Material;

/// What one side, clients or peers, is told of TLS. All of it off: plain connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, with those between it and its authority; PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key; PEM.
    pub key_file: Option<PathBuf>,
    /// The authorities whose certificates are accepted; PEM. If it is set, the other side must
    /// have one.
    pub trusted_ca_file: Option<PathBuf>,
    /// The other side must have a certificate, and of a client its common name is a user's.
    pub client_cert_auth: bool,
    /// Certificates that are not accepted any more; PEM or DER.
    pub crl_file: Option<PathBuf>,
    /// A certificate of its own making, new at each start, which nobody can verify.
    pub auto: bool,
    /// If there are any: the other side's certificate has one of these common names.
    pub allowed_names: Vec<String>,
    /// If there are any: the other side's certificate is for one of these hosts.
    pub allowed_hosts: Vec<String>,
}

impl TlsSettings {
    /// Whether connections are encrypted at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.auto || self.cert_file.is_some()
    }

    /// Whether the other side must have a certificate. As in etcd, naming an authority is enough.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.is_on() && (self.client_cert_auth || self.trusted_ca_file.is_some())
    }
}

/// Which TLS is spoken, to clients and peers alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRules {
    /// The names of the suites, as in the registry of TLS; empty: the library's own choice.
    pub cipher_suites: Vec<String>,
    /// The lowest version.
    pub lowest: TlsVersion,
    /// The highest version.
    pub highest: TlsVersion,
}

impl Default for TlsRules {
    fn default() -> TlsRules {
        TlsRules {
            cipher_suites: Vec::new(),
            lowest: TlsVersion::Tls12,
            highest: TlsVersion::Tls13,
        }
    }
}

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Clients,
    Peers,
}

/// TLS of one side; always with sound material.
#[derive(Debug)]
pub(crate) struct Tls {
    side: Side,
    settings: TlsSettings,
    rules: TlsRules,
    /// What a certificate of its own making is for.
    own_hosts: Vec<String>,
    current: RwLock<Arc<Material>>,
}

/// What tells that a file has changed.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads all files. `None` if the settings say plain connections.
    pub(crate) fn new(
        side: Side,
        settings: &TlsSettings,
        rules: &TlsRules,
        own_hosts: &[String],
    ) -> Result<Option<Arc<Tls>>, TlsError> {
        if !settings.is_on() {
            return Ok(None);
        }
        let material = Material::read(side, settings, rules, own_hosts)?;
        Ok(Some(Arc::new(Tls {
            side,
            settings: settings.clone(),
            rules: rules.clone(),
            own_hosts: own_hosts.to_vec(),
            current: RwLock::new(Arc::new(material)),
        })))
    }

    /// Whether a client's certificate says which user it is. As in etcd, that is asked for by name:
    /// an authority alone, which may have many other uses, only says who is let in.
    pub(crate) fn names_clients(&self) -> bool {
        self.settings.client_cert_auth
    }

    fn current(&self) -> Arc<Material> {
        let current = self.current.read();
        Arc::clone(&current.expect("nobody panics while holding it"))
    }

    fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().server)
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current().client)
    }

    /// Speaks TLS with a client that has connected; to be bounded in time by the caller.
    pub(crate) async fn accept_client(&self, stream: Movable) -> std::io::Result<Secured> {
        let acceptor = TlsAcceptor::from(self.server());
        let stream = acceptor.accept(stream).await?;
        self.check(stream.get_ref().1.peer_certificates())?;
        Ok(Secured::new(stream))
    }

    /// Speaks TLS with a peer that has connected here.
    pub(crate) async fn accept_peer(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<tokio_rustls::TlsStream<TcpStream>> {
        let stream = TlsAcceptor::from(self.server()).accept(stream).await?;
        self.check(stream.get_ref().1.peer_certificates())?;
        Ok(stream.into())
    }

    /// Speaks TLS with a peer that this node has connected to, at `host:port`.
    pub(crate) async fn connect_peer(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> std::io::Result<tokio_rustls::TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let connector = TlsConnector::from(self.client());
        let stream = connector.connect(name, stream).await?;
        self.check(stream.get_ref().1.peer_certificates())?;
        Ok(stream.into())
    }

    /// What the settings demand of a certificate beyond being valid.
    fn check(
        &self,
        chain: Option<&[rustls::pki_types::CertificateDer<'static>]>,
    ) -> std::io::Result<()> {
        let TlsSettings {
            allowed_names,
            allowed_hosts,
            ..
        } = &self.settings;
        let problem = if identity::is_revoked(chain, &self.current().revoked) {
            "the certificate, or one that was shown with it, is revoked"
        } else if !identity::is_allowed(chain, allowed_names, allowed_hosts) {
            "the certificate is valid, but not for one of those that are allowed"
        } else {
            return Ok(());
        };
        Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            problem,
        ))
    }

    /// Reads the files again whenever one of them has changed, for ever.
    pub(crate) async fn keep_fresh(self: Arc<Tls>, interval: Duration) {
        let mut known = self.stamps();
        loop {
            tokio::time::sleep(interval).await;
            let tls = Arc::clone(&self);
            // Files may lie on something slow.
            let looked = tokio::task::spawn_blocking(move || tls.refresh(known)).await;
            match looked {
                Ok(stamps) => known = stamps,
                Err(_) => return,
            }
        }
    }

    /// Replaces the material if a file is not what it was.
    fn refresh(&self, known: Vec<Stamp>) -> Vec<Stamp> {
        let stamps = self.stamps();
        if stamps == known {
            return known;
        }
        let side = self.side;
        match Material::read(side, &self.settings, &self.rules, &self.own_hosts) {
            Ok(material) => {
                let mut current = self
                    .current
                    .write()
                    .expect("nobody panics while holding it");
                *current = Arc::new(material);
                tracing::info!(?side, "certificates have changed; new connections use them");
            }
            Err(error) => {
                tracing::warn!(?side, %error, "certificates have changed, and the old ones stay");
            }
        }
        stamps
    }

    fn stamps(&self) -> Vec<Stamp> {
        let TlsSettings {
            cert_file,
            key_file,
            trusted_ca_file,
            crl_file,
            ..
        } = &self.settings;
        let files = [cert_file, key_file, trusted_ca_file, crl_file];
        files
            .into_iter()
            .flatten()
            .map(|path| stamp(path))
            .collect()
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests;
