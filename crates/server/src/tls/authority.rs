//! A private authority: certificates for the nodes and clients of one cluster, for those who have
//! nobody to make them.
//!
//! ```text
//!   authority ── issues ──▶ certificate and key of a node or a client
//!             ── signs ───▶ list of the certificates that are revoked
//! ```
//!
//! Keys are ECDSA on P-256: small, fast to sign with, and understood by everybody.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

/// Clocks of machines differ: what is made now is valid from a little before.
const GRACE: Duration = Duration::from_secs(3600);

/// Why a certificate or a list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// What was read is not what it should be.
    #[error("{what}: {problem}")]
    Unreadable {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The library refuses: most often a host that is neither a name nor an address.
    #[error("a certificate cannot be made: {0}")]
    Refused(#[from] rcgen::Error),
}

fn unreadable(what: &'static str) -> impl FnOnce(String) -> AuthorityError {
    move |problem| AuthorityError::Unreadable { what, problem }
}

/// A certificate and its private key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key; whoever has it is who the certificate says.
    pub key: String,
}

/// What a certificate is to say.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The common name: of a client, its user's name.
    pub name: &'a str,
    /// Names and addresses of a server; none for a client.
    pub hosts: &'a [String],
    /// How long it is valid.
    pub validity: Duration,
}

/// An authority with its key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, and what of it is to be kept.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(name: &str, validity: Duration) -> Result<(Authority, Issued), AuthorityError> {
        let mut params = parameters(name, &[], validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let issued = Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        let issuer = Issuer::new(params, key);
        Ok((Authority { issuer }, issued))
    }

    /// The one that was kept.
    ///
    /// # Errors
    /// It is not PEM, or not an authority.
    pub fn from_pem(kept: &Issued) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(&kept.key)
            .map_err(|error| unreadable("the authority's key")(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(&kept.certificate, key)
            .map_err(|error| unreadable("the authority's certificate")(error.to_string()))?;
        Ok(Authority { issuer })
    }

    /// Makes a certificate with a key of its own: for a server and a client if it has hosts,
    /// since nodes are both to each other, otherwise for a client alone.
    ///
    /// # Errors
    /// A host is neither a name nor an address.
    pub fn issue(&self, wish: &Wish<'_>) -> Result<Issued, AuthorityError> {
        let mut params = parameters(wish.name, wish.hosts, wish.validity)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !wish.hosts.is_empty() {
            let server = ExtendedKeyUsagePurpose::ServerAuth;
            params.extended_key_usages.push(server);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Signs a list of revoked certificates: those of an older list, and further ones. All PEM.
    ///
    /// # Errors
    /// Something that was given cannot be read.
    pub fn revoke(
        &self,
        older: Option<&str>,
        certificates: &[String],
        validity: Duration,
    ) -> Result<String, AuthorityError> {
        let now = SystemTime::now();
        let mut serials = Vec::new();
        if let Some(older) = older {
            serials = revoked_before(older)?;
        }
        for certificate in certificates {
            let serial = serial_of(certificate)?;
            if !serials.contains(&serial) {
                serials.push(serial);
            }
        }
        let revoked_certs = serials.into_iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now.into(),
            reason_code: Some(RevocationReason::Unspecified),
            invalidity_date: None,
        });
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = seconds.map_or(0, |since| since.as_secs());
        let params = CertificateRevocationListParams {
            this_update: (now - GRACE).into(),
            next_update: (now + validity).into(),
            crl_number: SerialNumber::from(seconds),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

fn parameters(
    name: &str,
    hosts: &[String],
    validity: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(hosts)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let now = SystemTime::now();
    params.not_before = (now - GRACE).into();
    params.not_after = (now + validity).into();
    Ok(params)
}

fn serial_of(certificate: &str) -> Result<Vec<u8>, AuthorityError> {
    let what = "the certificate to revoke";
    let der = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| unreadable(what)(error.to_string()))?;
    let (_, parsed) =
        X509Certificate::from_der(&der).map_err(|error| unreadable(what)(error.to_string()))?;
    Ok(parsed.raw_serial().to_vec())
}

fn revoked_before(list: &str) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let what = "the older list";
    let der = CertificateRevocationListDer::from_pem_slice(list.as_bytes())
        .map_err(|error| unreadable(what)(error.to_string()))?;
    let (_, parsed) = CertificateRevocationList::from_der(&der)
        .map_err(|error| unreadable(what)(error.to_string()))?;
    let serials = parsed.iter_revoked_certificates();
    Ok(serials
        .map(|revoked| revoked.raw_serial().to_vec())
        .collect())
}
