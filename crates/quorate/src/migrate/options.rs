//! What can be typed behind `quorate migrate`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use client::{Client, Options, Security};

use super::Error;
use crate::access::{read, security, split_user};

const EXAMPLES: &str = "\
Examples:
  Copy an etcd, follow it until Enter is pressed (or SIGUSR1 comes), compare both sides:
    quorate migrate --from etcd://10.0.0.1:2379,10.0.0.2:2379 --to 10.0.1.1:2379 --follow

  With TLS and users on both sides:
    quorate migrate --from etcd://10.0.0.1:2379 --from-cacert ca.pem --from-user root:secret \\
      --to 10.0.1.1:2379 --to-cacert new-ca.pem --passwords passwords.txt

Before pressing Enter, stop whatever writes to the old cluster: it is over only when the old one has
stood still while both were compared. A migration that was broken off is begun anew, with
--overwrite. The old cluster is only read.";

/// Where from, where to, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Migrate {
    /// The cluster to copy: etcd, or Quorate
    #[arg(long, value_name = "etcd://HOST:PORT,...")]
    pub(crate) from: String,
    /// The cluster to copy to
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) to: Vec<String>,
    /// Go on copying what changes, until told to cut over: Enter, or SIGUSR1
    #[arg(long)]
    pub(crate) follow: bool,
    /// Remove everything that the new cluster holds first
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Authorities that vouch for the old cluster, PEM; connections to it then speak TLS
    #[arg(long, value_name = "FILE")]
    from_cacert: Option<PathBuf>,
    /// The certificate to show to the old cluster, PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "from_key",
        requires = "from_cacert"
    )]
    from_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "from_cert")]
    from_key: Option<PathBuf>,
    /// The user to sign in as at the old cluster, who must have the role root
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "QUORATE_FROM_USER",
        hide_env_values = true
    )]
    from_user: Option<String>,
    /// Authorities that vouch for the new cluster, PEM; connections to it then speak TLS
    #[arg(long, value_name = "FILE")]
    to_cacert: Option<PathBuf>,
    /// The certificate to show to the new cluster, PEM
    #[arg(long, value_name = "FILE", requires = "to_key", requires = "to_cacert")]
    to_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "to_cert")]
    to_key: Option<PathBuf>,
    /// The user to sign in as at the new cluster, who must have the role root
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "QUORATE_TO_USER",
        hide_env_values = true
    )]
    to_user: Option<String>,
    /// Passwords of users, a line each: NAME:PASSWORD. etcd tells nobody's, so that users who are
    /// not named here get one that nobody knows
    #[arg(long, value_name = "FILE")]
    passwords: Option<PathBuf>,
    /// A folder for what waits to be written, about as large as the old cluster's live data
    /// [default: the system's for temporary files]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) spool_dir: Option<PathBuf>,
}

/// The passwords that are known, by user.
pub(crate) type Passwords = BTreeMap<String, String>;

impl Migrate {
    /// A client of the old cluster.
    pub(crate) fn source(&self) -> Result<Client, Error> {
        let addresses = self.from.strip_prefix("etcd://").ok_or(Error::Usage(
            "--from: expected etcd://HOST:PORT,...".to_owned(),
        ))?;
        let own = self.from_cert.as_deref().zip(self.from_key.as_deref());
        let security = security(self.from_cacert.as_deref(), own, self.from_user.as_deref());
        let addresses: Vec<&str> = addresses.split(',').map(str::trim).collect();
        client(&addresses, security.map_err(Error::Usage)?)
    }

    /// A client of the new cluster. Writes are sent again whatever became of them: each of ours
    /// says what a key is to be, and those of users know when they have been done before.
    pub(crate) fn target(&self) -> Result<Client, Error> {
        let own = self.to_cert.as_deref().zip(self.to_key.as_deref());
        let security = security(self.to_cacert.as_deref(), own, self.to_user.as_deref());
        let addresses: Vec<&str> = self.to.iter().map(|address| address.trim()).collect();
        client(&addresses, security.map_err(Error::Usage)?)
    }

    /// The passwords that are known: those of the file, and those of the users who sign in. Whoever
    /// signs in at the new cluster keeps the password while that goes on.
    pub(crate) fn known_passwords(&self) -> Result<Passwords, Error> {
        let mut known = Passwords::new();
        known.extend(self.from_user.as_deref().and_then(split_user));
        if let Some(path) = &self.passwords {
            let text = String::from_utf8(read(path).map_err(Error::Usage)?);
            let text = text.map_err(|_| Error::Usage(format!("{}: no text", path.display())))?;
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let user = split_user(line).ok_or_else(|| {
                    Error::Usage(format!("{}: expected NAME:PASSWORD lines", path.display()))
                })?;
                known.extend([user]);
            }
        }
        known.extend(self.to_user.as_deref().and_then(split_user));
        Ok(known)
    }
}

fn client(addresses: &[&str], security: Security) -> Result<Client, Error> {
    let options = Options {
        retry_writes: true,
        ..Options::default()
    };
    Client::secured(addresses, options, security).map_err(|error| Error::Usage(error.to_string()))
}
