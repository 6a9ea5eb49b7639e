//! Whom a command trusts among servers, what it shows them, and as whom it signs in.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use client::{Security, Tls};

/// The flags of a command that reaches one cluster.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Authorities that vouch for the servers, PEM; connections then speak TLS
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The certificate to show, PEM
    #[arg(long, value_name = "FILE", requires = "key", requires = "cacert")]
    cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The user to sign in as
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "QUORATE_USER",
        hide_env_values = true
    )]
    user: Option<String>,
}

impl Access {
    /// What a client is made with.
    ///
    /// # Errors
    /// A file that cannot be read, or a user without a password; for a person.
    pub(crate) fn security(&self) -> Result<Security, String> {
        let own = self.cert.as_deref().zip(self.key.as_deref());
        security(self.cacert.as_deref(), own, self.user.as_deref())
    }
}

/// The same, of the values of flags with other names: authorities, certificate and private key,
/// user.
///
/// # Errors
/// The same.
pub(crate) fn security(
    authorities: Option<&Path>,
    own: Option<(&Path, &Path)>,
    user: Option<&str>,
) -> Result<Security, String> {
    let own = own.map(|(certificate, key)| Ok::<_, String>((read(certificate)?, read(key)?)));
    let own = own.transpose()?;
    let tls = authorities.map(|authorities| {
        let authorities = read(authorities)?;
        Ok::<_, String>(Tls { authorities, own })
    });
    let user = user.map(|user| split_user(user).ok_or("a user is given as NAME:PASSWORD"));
    Ok(Security {
        tls: tls.transpose()?,
        user: user.transpose()?,
    })
}

/// What a file holds.
///
/// # Errors
/// It cannot be read; for a person.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// A user's name and password.
pub(crate) fn split_user(text: &str) -> Option<(String, String)> {
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
