//! What a verified certificate says of its owner.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The common name of the certificate that a client has shown and that was verified. Every request
/// of its connection carries it as an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommonName(pub(crate) Arc<str>);

impl CommonName {
    /// That of a chain's first certificate, if it has one. Of several the last one counts, as in
    /// etcd, so that both take the owner for the same user.
    pub(super) fn of(chain: Option<&[CertificateDer<'static>]>) -> Option<CommonName> {
        let leaf = chain?.first()?;
        // It was verified, so it can be read; what cannot be read names nobody.
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let name = certificate.subject().iter_common_name().last()?;
        Some(CommonName(name.as_str().ok()?.into()))
    }
}

/// Whether a chain's first certificate has one of the names, and is for one of the hosts; an empty
/// list allows all.
pub(super) fn is_allowed(
    chain: Option<&[CertificateDer<'static>]>,
    names: &[String],
    hosts: &[String],
) -> bool {
    let name_fits = names.is_empty()
        || CommonName::of(chain).is_some_and(|own| names.iter().any(|name| **name == *own.0));
    let host_fits = hosts.is_empty() || hosts.iter().any(|host| is_for(chain, host));
    name_fits && host_fits
}

fn is_for(chain: Option<&[CertificateDer<'static>]>, host: &str) -> bool {
    let leaf = chain.and_then(<[_]>::first);
    let parsed = leaf.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    let (Some(parsed), Ok(host)) = (parsed, ServerName::try_from(host)) else {
        return false;
    };
    verify_server_name(&parsed, &host).is_ok()
}

/// The number of a certificate, without zeros in front.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SerialNumber(Box<[u8]>);

impl SerialNumber {
    /// That of an encoded number.
    pub(super) fn new(bytes: &[u8]) -> SerialNumber {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        SerialNumber(bytes[zeros..].into())
    }
}

/// Whether one of the certificates that were shown has a number that is listed. As in etcd, it does
/// not matter who has issued the certificate, and who the list.
pub(super) fn is_revoked(
    chain: Option<&[CertificateDer<'static>]>,
    revoked: &HashSet<SerialNumber>,
) -> bool {
    let is_listed = |shown: &CertificateDer<'_>| match X509Certificate::from_der(shown) {
        Ok((_, shown)) => revoked.contains(&SerialNumber::new(shown.raw_serial())),
        // It might be.
        Err(_) => true,
    };
    !revoked.is_empty() && chain.unwrap_or_default().iter().any(is_listed)
}
