//! What is read from the files: one configuration for connections that come, one for those that
//! this node makes.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::identity::SerialNumber;
use super::{Side, TlsRules, TlsSettings};

/// A version of TLS; older ones are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Something is wrong with the settings of TLS, or with a file that they name.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {place}: {problem}")]
pub struct TlsError {
    place: String,
    problem: String,
}

impl TlsError {
    fn at(path: &Path, problem: impl fmt::Display) -> TlsError {
        TlsError {
            place: path.display().to_string(),
            problem: problem.to_string(),
        }
    }

    fn of(place: &str, problem: impl fmt::Display) -> TlsError {
        TlsError {
            place: place.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// Sound configurations of the library.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// What all lists of revoked certificates name.
    pub(super) revoked: HashSet<SerialNumber>,
}

/// A certificate with those between it and its authority, and its key.
type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Material {
    pub(super) fn read(
        side: Side,
        settings: &TlsSettings,
        rules: &TlsRules,
        own_hosts: &[String],
    ) -> Result<Material, TlsError> {
        let provider = Arc::new(provider(rules)?);
        let versions = versions(rules)?;
        let (chain, key) = own(settings, own_hosts)?;
        let roots = settings.trusted_ca_file.as_deref().map(roots).transpose()?;
        let lists = settings.crl_file.as_deref().map(lists).transpose()?;
        let (lists, revoked) = lists.unwrap_or_default();
        let trust = Trust {
            roots: roots.map(Arc::new),
            lists,
            provider,
        };
        let server = trust.server(settings, &versions, (chain.clone(), key.clone_key()), side)?;
        let client = trust.client(settings, &versions, (chain, key))?;
        Ok(Material {
            server: Arc::new(server),
            client: Arc::new(client),
            revoked,
        })
    }
}

/// Whom to trust, and with which algorithms.
struct Trust {
    roots: Option<Arc<RootCertStore>>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// For connections that come.
    fn server(
        &self,
        settings: &TlsSettings,
        versions: &[&'static SupportedProtocolVersion],
        (chain, key): Own,
        side: Side,
    ) -> Result<ServerConfig, TlsError> {
        let problem = |error| TlsError::of("certificate", error);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::of("cipher-suites", error))?;
        let builder = match &self.roots {
            Some(roots) if settings.asks_for_certificates() => {
                let provider = Arc::clone(&self.provider);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider)
                        .with_crls(self.lists.clone())
                        // A certificate of an authority without a list is not revoked. This sees
                        // that a list is the authority's; that none of the certificates that are
                        // shown is on any list is looked at when all of them are known.
                        .only_check_end_entity_revocation()
                        .allow_unknown_revocation_status()
                        .build()
                        .map_err(|error| TlsError::of("trusted-ca-file", error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(problem)?;
        if side == Side::Clients {
            server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        Ok(server)
    }

    /// For connections that this node makes.
    fn client(
        &self,
        settings: &TlsSettings,
        versions: &[&'static SupportedProtocolVersion],
        (chain, key): Own,
    ) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::of("cipher-suites", error))?;
        let builder = match &self.roots {
            Some(roots) => {
                let provider = Arc::clone(&self.provider);
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider)
                        .with_crls(self.lists.clone())
                        .only_check_end_entity_revocation()
                        .allow_unknown_revocation_status()
                        .build()
                        .map_err(|error| TlsError::of("trusted-ca-file", error))?;
                builder.with_webpki_verifier(verifier)
            }
            None if settings.auto => {
                let provider = Arc::clone(&self.provider);
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            }
            None => builder.with_root_certificates(RootCertStore::empty()),
        };
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| TlsError::of("certificate", error))
    }
}

fn provider(rules: &TlsRules) -> Result<CryptoProvider, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    if rules.cipher_suites.is_empty() {
        return Ok(provider);
    }
    let known = provider.cipher_suites.clone();
    provider.cipher_suites = Vec::new();
    for name in &rules.cipher_suites {
        let suite = known.iter().find(|suite| suite_name(suite) == *name);
        let suite = suite.ok_or_else(|| {
            let names: Vec<String> = known.iter().map(suite_name).collect();
            let problem = format!(
                "{name} is not offered; expected some of {}",
                names.join(", ")
            );
            TlsError::of("cipher-suites", problem)
        })?;
        provider.cipher_suites.push(*suite);
    }
    // As in etcd, the choice is about TLS 1.2: all suites of 1.3 are good.
    for suite in known {
        if suite.tls13().is_some() && !provider.cipher_suites.contains(&suite) {
            provider.cipher_suites.push(suite);
        }
    }
    Ok(provider)
}

/// The name in the registry, which the library writes with a mark of the version for 1.3.
fn suite_name(suite: &rustls::SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}

fn versions(rules: &TlsRules) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let all = [
        (TlsVersion::Tls12, &rustls::version::TLS12),
        (TlsVersion::Tls13, &rustls::version::TLS13),
    ];
    let versions: Vec<_> = all
        .into_iter()
        .filter(|(version, _)| (rules.lowest..=rules.highest).contains(version))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        let problem = "expected a version that is not lower than tls-min-version";
        return Err(TlsError::of("tls-max-version", problem));
    }
    Ok(versions)
}

fn own(settings: &TlsSettings, own_hosts: &[String]) -> Result<Own, TlsError> {
    match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_slice(&bytes(key)?)
                .map_err(|error| TlsError::at(key, format!("holds no private key: {error}")))?;
            Ok((chain, key))
        }
        _ => own_making(own_hosts),
    }
}

/// A certificate that signs itself.
fn own_making(own_hosts: &[String]) -> Result<Own, TlsError> {
    let problem = |error| TlsError::of("a certificate cannot be made", error);
    let made = rcgen::generate_simple_self_signed(own_hosts).map_err(problem)?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| TlsError::of("a key cannot be made", error))?;
    Ok((vec![made.cert.der().clone()], key))
}

fn bytes(path: &PathBuf) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::at(path, format!("cannot be read: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = bytes(&path.to_owned())?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| TlsError::at(path, format!("is not PEM: {error}")))?;
    if all.is_empty() {
        return Err(TlsError::at(path, "holds no certificate (expected PEM)"));
    }
    Ok(all)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::at(path, format!("holds no authority: {error}")))?;
    }
    Ok(roots)
}

/// Lists, and the numbers that they name.
type Lists = (
    Vec<CertificateRevocationListDer<'static>>,
    HashSet<SerialNumber>,
);

fn lists(path: &Path) -> Result<Lists, TlsError> {
    let problem =
        |error: &dyn fmt::Display| TlsError::at(path, format!("holds no revocation list: {error}"));
    let text = bytes(&path.to_owned())?;
    let lists = if text.starts_with(b"-----") {
        let lists = CertificateRevocationListDer::pem_slice_iter(&text);
        lists
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| problem(&error))?
    } else {
        vec![CertificateRevocationListDer::from(text)]
    };
    let mut revoked = HashSet::new();
    for list in &lists {
        let parsed = CertificateRevocationList::from_der(list);
        let (_, parsed) = parsed.map_err(|error| problem(&error))?;
        let all = parsed.iter_revoked_certificates();
        revoked.extend(all.map(|one| SerialNumber::new(one.raw_serial())));
    }
    Ok((lists, revoked))
}

/// Accepts any certificate: encryption without knowing with whom, which is what certificates of
/// one's own making are good for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
