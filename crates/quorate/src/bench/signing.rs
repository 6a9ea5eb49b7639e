//! Signing in, once before the load begins: every request then shows the token, as real clients do.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use client::{Client, Options, Security, Tls};

use super::options::Bench;

/// The token of the user that is to sign in; `None` without one, or where nobody has to.
///
/// # Errors
/// The user is not let in, or nobody answers: for a person.
pub(crate) fn sign_in(options: &Bench) -> Result<Option<Arc<str>>, String> {
    let Some((name, password)) = options
        .user
        .as_deref()
        .and_then(|user| user.split_once(':'))
    else {
        return Ok(None);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot sign in: {error}"))?;
    let security = Security {
        tls: tls(options)?,
        user: Some((name.to_owned(), password.to_owned())),
    };
    runtime.block_on(async {
        let client = Client::secured(&options.endpoints, Options::default(), security);
        let client = client.map_err(|error| error.to_string())?;
        let signed_in = client.sign_in().await;
        signed_in.map_err(|error| format!("cannot sign in as {name}: {error}"))?;
        Ok(client.token().map(Arc::from))
    })
}

fn tls(options: &Bench) -> Result<Option<Tls>, String> {
    let read = |path: &Path| {
        let bytes = fs::read(path);
        bytes.map_err(|error| format!("{}: {error}", path.display()))
    };
    let Some(authorities) = &options.cacert else {
        return Ok(None);
    };
    let own = match (&options.cert, &options.key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        _ => None,
    };
    Ok(Some(Tls {
        authorities: read(authorities)?,
        own,
    }))
}
