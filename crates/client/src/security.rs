//! Whom a client trusts, what it shows, and as whom it signs in.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use etcd::proto::etcdserverpb::AuthenticateRequest;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::failover::Kind;
use crate::stubs::auth_client::AuthClient;
use crate::{Client, Error};

/// Errors that a new token may cure.
const STALE: [etcd::Error; 3] = [
    etcd::Error::InvalidAuthToken,
    etcd::Error::UserEmpty,
    etcd::Error::AuthOldRevision,
];

/// What stands between a client and a cluster that lets in not everybody.
#[derive(Clone, Default)]
pub struct Security {
    /// Connections are encrypted, and with whom.
    pub tls: Option<Tls>,
    /// Name and password of the user to sign in as. Where authentication is off, nobody does.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for Security {
    /// Passwords and keys stay out of logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Security")
            .field("tls", &self.tls.is_some())
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}

/// Certificates, as PEM.
#[derive(Clone)]
pub struct Tls {
    /// Authorities that vouch for the servers.
    pub authorities: Vec<u8>,
    /// The certificate to show, and its private key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tls")
    }
}

impl Tls {
    pub(crate) fn config(self) -> Result<ClientTlsConfig, Error> {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authorities));
        Ok(match self.own {
            None => config,
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        })
    }
}

/// The user, and what the server has given it to show.
#[derive(Debug)]
pub(crate) struct Signing {
    user: Option<(String, String)>,
    shown: RwLock<Shown>,
}

/// What signing in has led to.
#[derive(Clone, Debug)]
enum Shown {
    NotTried,
    /// Authentication is off: nothing to show.
    Nothing,
    Token(MetadataValue<Ascii>),
}

impl Signing {
    pub(crate) fn new(user: Option<(String, String)>) -> Signing {
        Signing {
            user,
            shown: RwLock::new(Shown::NotTried),
        }
    }

    pub(crate) fn user(&self) -> Option<&(String, String)> {
        self.user.as_ref()
    }

    fn shown(&self) -> Shown {
        let shown = self.shown.read();
        shown.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, shown: Shown) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    pub(crate) fn is_signed_in(&self) -> bool {
        !matches!(self.shown(), Shown::NotTried)
    }

    pub(crate) fn with_token<Message>(&self, message: Message) -> tonic::Request<Message> {
        let mut request = tonic::Request::new(message);
        if let Shown::Token(token) = self.shown() {
            request.metadata_mut().insert("authorization", token);
        }
        request
    }
}

/// Whether a server refuses something because of the token alone, so that signing in again may cure
/// it: by the text of its status, or the reason of a watch that it cancels, which ends with that.
#[must_use]
pub fn is_about_the_token(reason: &str) -> bool {
    STALE.iter().any(|stale| reason.ends_with(stale.text()))
}

impl Client {
    /// Gets a token for the client's user; without one, or where authentication is off, does
    /// nothing.
    ///
    /// # Errors
    /// The user is not let in, or see [`Error`].
    pub async fn sign_in(&self) -> Result<(), Error> {
        let Some((name, password)) = self.endpoints.signing().user() else {
            return Ok(());
        };
        let request = AuthenticateRequest {
            name: name.clone(),
            password: password.clone(),
        };
        let send = |channel: Channel, request: AuthenticateRequest| async move {
            AuthClient::new(channel).authenticate(request).await
        };
        let shown = match self.endpoints.call(Kind::Read, request, send).await {
            Ok(answer) => {
                let token = MetadataValue::try_from(answer.token);
                let not_text = |_| Error::BadEndpoint("it gives tokens that are no text".into());
                Shown::Token(token.map_err(not_text)?)
            }
            Err(error) if error.is(etcd::Error::AuthNotEnabled) => Shown::Nothing,
            Err(error) => return Err(error),
        };
        self.endpoints.signing().show(shown);
        Ok(())
    }

    /// Whether the server has given the client's user a token.
    #[must_use]
    pub fn has_token(&self) -> bool {
        matches!(self.endpoints.signing().shown(), Shown::Token(_))
    }

    /// The token that the server has given the client's user, for who makes requests by other
    /// means.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        match self.endpoints.signing().shown() {
            Shown::Token(token) => token.to_str().ok().map(str::to_owned),
            Shown::NotTried | Shown::Nothing => None,
        }
    }
}
