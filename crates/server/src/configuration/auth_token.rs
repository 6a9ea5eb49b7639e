//! Which kind of token users get who sign in: etcd's `--auth-token`.
//!
//! ```text
//!   simple
//!   jwt,sign-method=RS256,priv-key=FILE[,pub-key=FILE][,ttl=5m]
//! ```

use std::path::PathBuf;
use std::time::Duration;

/// Which kind of token users get who sign in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuthToken {
    /// Signed by the cluster, good on every node, renewed by being used.
    #[default]
    Simple,
    /// JSON Web Tokens, signed with keys of the operator's own.
    Jwt(JwtOptions),
}

/// How JSON Web Tokens are signed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The name of the method, such as `RS256`.
    pub sign_method: String,
    /// The file of the public key, in PEM.
    pub public_key: Option<PathBuf>,
    /// The file of the private key, in PEM; for `HS...` the secret itself. Without it tokens are
    /// checked, but none are given out.
    pub private_key: Option<PathBuf>,
    /// How long a token is good.
    pub ttl: Duration,
}

/// The methods there are: those of etcd, but for ES512, which the library does not do.
pub(crate) const SIGN_METHODS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

impl AuthToken {
    /// Reads the text of the option.
    pub(super) fn parse(
        text: &str,
        duration: fn(&str) -> Result<Duration, String>,
    ) -> Result<AuthToken, String> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("simple") if parts.next().is_none() => return Ok(AuthToken::Simple),
            Some("jwt") => {}
            _ => return Err("expected simple, or jwt and its options".into()),
        }
        let mut options = JwtOptions {
            sign_method: String::new(),
            public_key: None,
            private_key: None,
            ttl: Duration::from_secs(300),
        };
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?}: expected NAME=VALUE"))?;
            if seen.contains(&name) {
                return Err(format!("{name} stands there twice"));
            }
            seen.push(name);
            match name {
                "sign-method" => value.clone_into(&mut options.sign_method),
                "pub-key" => options.public_key = Some(value.into()),
                "priv-key" => options.private_key = Some(value.into()),
                "ttl" => options.ttl = duration(value)?,
                _ => {
                    return Err(format!(
                        "{name:?}: expected sign-method, pub-key, priv-key or ttl"
                    ));
                }
            }
        }
        if !SIGN_METHODS.contains(&options.sign_method.as_str()) {
            let methods = SIGN_METHODS.join(", ");
            return Err(format!("expected sign-method to be one of {methods}"));
        }
        let is_secret = options.sign_method.starts_with("HS");
        if options.private_key.is_none() && (is_secret || options.public_key.is_none()) {
            return Err("expected priv-key, or for all methods but HS... pub-key at least".into());
        }
        Ok(AuthToken::Jwt(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AuthToken, String> {
        AuthToken::parse(text, |text| match text {
            "1m" => Ok(Duration::from_secs(60)),
            _ => Err("expected a duration".into()),
        })
    }

    #[test]
    fn what_etcd_takes_is_taken_and_what_is_wrong_is_said() {
        assert_eq!(parse("simple"), Ok(AuthToken::Simple));
        let jwt = parse("jwt,pub-key=/a,priv-key=/b,sign-method=RS256,ttl=1m");
        let expected = JwtOptions {
            sign_method: "RS256".into(),
            public_key: Some("/a".into()),
            private_key: Some("/b".into()),
            ttl: Duration::from_secs(60),
        };
        assert_eq!(jwt, Ok(AuthToken::Jwt(expected)));
        for wrong in [
            "",
            "simple,x=1",
            "jwt",
            "jwt,sign-method=RS256",
            "jwt,sign-method=HS256,pub-key=/a",
            "jwt,sign-method=none,priv-key=/a",
            "jwt,sign-method=RS256,priv-key=/a,priv-key=/b",
            "jwt,sign-method=RS256,priv-key=/a,ttl=x",
            "jwt,sign-method=RS256,priv-key=/a,other=1",
            "jwt,sign-method",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
