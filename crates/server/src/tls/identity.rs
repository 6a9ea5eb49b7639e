//! What a verified certificate says of its owner.

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
    /// That of a chain's first certificate, if it has one.
    pub(super) fn of(chain: Option<&[CertificateDer<'static>]>) -> Option<CommonName> {
        let leaf = chain?.first()?;
        // It was verified, so it can be read; what cannot be read names nobody.
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let name = certificate.subject().iter_common_name().next()?;
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
