//! Tokens: what they say, and by what they are believed.

use std::fmt;
use std::io;
use std::path::Path;

use etcd::auth::TOKEN_KEY_BYTES;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::milliseconds;
use crate::configuration::{AuthToken, JwtOptions};

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claims {
    /// A token of the cluster's own.
    Simple {
        user: String,
        /// Which password of the user it was given out for.
        generation: u64,
        issued_ms: u64,
    },
    /// A token signed with the operator's keys.
    Jwt {
        user: String,
        revision: u64,
        not_before_s: u64,
        expires_s: u64,
    },
}

impl Claims {
    /// Whether it was given out too long ago for a node that has never seen it.
    pub(super) fn is_unused_since(&self, now_ms: u64, ttl_ms: u64) -> bool {
        match self {
            Claims::Simple { issued_ms, .. } => now_ms.saturating_sub(*issued_ms) > ttl_ms,
            Claims::Jwt { .. } => false,
        }
    }
}

/// Why a token was not given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// This node has only a public key.
    VerifyOnly,
    /// Authentication was turned off in this moment.
    NoKey,
    /// The library has refused its own key: a bug.
    Failed,
}

/// What a simple token says, under short names: it travels with every request.
#[derive(Serialize, Deserialize)]
struct SimpleClaims {
    /// The user.
    u: String,
    /// The generation of the password.
    g: u64,
    /// When it was given out, in milliseconds since 1970.
    t: u64,
}

/// What the JSON Web Tokens say that are given out, as etcd's do.
#[derive(Serialize)]
struct JwtClaims {
    username: String,
    revision: u64,
    exp: u64,
}

/// Makes and reads tokens.
pub(crate) enum Tokens {
    Simple,
    Jwt(Box<Jwt>),
}

/// The operator's keys.
pub(crate) struct Jwt {
    algorithm: Algorithm,
    signing: Option<EncodingKey>,
    verifying: DecodingKey,
    ttl_ms: u64,
}

/// Why keys cannot be used, a sentence.
#[derive(Debug)]
pub(crate) struct KeyError(String);

impl fmt::Display for KeyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Tokens {
    /// Reads the keys that are needed.
    ///
    /// # Errors
    /// A file cannot be read, is no key for the method, or the keys do not belong together.
    pub(crate) fn open(
        kind: &AuthToken,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Tokens, KeyError> {
        match kind {
            AuthToken::Simple => Ok(Tokens::Simple),
            AuthToken::Jwt(options) => Ok(Tokens::Jwt(Box::new(Jwt::open(options, read)?))),
        }
    }

    /// What a token says, if its signature is right.
    pub(super) fn read(&self, token: &[u8], key: Option<&[u8; TOKEN_KEY_BYTES]>) -> Option<Claims> {
        let validation = |algorithm| {
            let mut validation = Validation::new(algorithm);
            // Times are looked at by whoever asks, with its own clock.
            validation.validate_exp = false;
            validation.required_spec_claims.clear();
            // Whom a token is meant for does not matter to etcd.
            validation.validate_aud = false;
            validation
        };
        match self {
            Tokens::Simple => {
                let key = DecodingKey::from_secret(key?);
                let validation = validation(Algorithm::HS256);
                let read = jsonwebtoken::decode::<SimpleClaims>(token, &key, &validation);
                let SimpleClaims { u, g, t } = read.ok()?.claims;
                Some(Claims::Simple {
                    user: u,
                    generation: g,
                    issued_ms: t,
                })
            }
            Tokens::Jwt(jwt) => {
                let validation = validation(jwt.algorithm);
                let read = jsonwebtoken::decode::<Object>(token, &jwt.verifying, &validation);
                jwt_claims(&read.ok()?.claims)
            }
        }
    }

    /// A token for a user.
    pub(super) fn issue(
        &self,
        user: &str,
        generation: u64,
        revision: u64,
        now_ms: u64,
        key: Option<&[u8; TOKEN_KEY_BYTES]>,
    ) -> Result<String, TokenError> {
        let user = user.to_owned();
        let token = match self {
            Tokens::Simple => {
                let key = EncodingKey::from_secret(key.ok_or(TokenError::NoKey)?);
                let claims = SimpleClaims {
                    u: user,
                    g: generation,
                    t: now_ms,
                };
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            }
            Tokens::Jwt(jwt) => {
                let key = jwt.signing.as_ref().ok_or(TokenError::VerifyOnly)?;
                let claims = JwtClaims {
                    username: user,
                    revision,
                    exp: now_ms.saturating_add(jwt.ttl_ms) / 1000,
                };
                jsonwebtoken::encode(&Header::new(jwt.algorithm), &claims, key)
            }
        };
        token.map_err(|_| TokenError::Failed)
    }
}

impl Jwt {
    fn open(
        options: &JwtOptions,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Jwt, KeyError> {
        let algorithm: Algorithm = options
            .sign_method
            .parse()
            .map_err(|_| KeyError(format!("{} is no known method", options.sign_method)))?;
        let read = |path: &Path| {
            let failed = |error| KeyError(format!("cannot read {}: {error}", path.display()));
            read(path).map_err(failed)
        };
        let wrong = |path: &Path| {
            let (path, method) = (path.display().to_string(), options.sign_method.clone());
            move |error| KeyError(format!("{path} is no key for {method}: {error}"))
        };
        let signing = match &options.private_key {
            Some(path) => {
                let text = read(path)?;
                Some(signing_key(algorithm, &text).map_err(wrong(path))?)
            }
            None => None,
        };
        let derived = |path: &Path, key: &EncodingKey| {
            let jwk = Jwk::from_encoding_key(key, algorithm).map_err(wrong(path))?;
            DecodingKey::from_jwk(&jwk).map_err(wrong(path))
        };
        let verifying = match (&options.public_key, &options.private_key, &signing) {
            (Some(path), _, _) if !is_secret(algorithm) => {
                verifying_key(algorithm, &read(path)?).map_err(wrong(path))?
            }
            (_, Some(path), Some(key)) => derived(path, key)?,
            _ => return Err(KeyError("a key is missing".into())),
        };
        let jwt = Jwt {
            algorithm,
            signing,
            verifying,
            ttl_ms: milliseconds(options.ttl),
        };
        jwt.try_out()
    }

    /// Finds out now, rather than at the first user, whether the keys belong together.
    fn try_out(self) -> Result<Jwt, KeyError> {
        let tokens = Tokens::Jwt(Box::new(self));
        match tokens.issue("", 0, 0, 0, None) {
            Ok(token) if tokens.read(token.as_bytes(), None).is_none() => {
                return Err(KeyError(
                    "the public key does not belong to the private key".into(),
                ));
            }
            Ok(_) | Err(TokenError::VerifyOnly) => {}
            Err(_) => return Err(KeyError("the private key cannot sign".into())),
        }
        match tokens {
            Tokens::Jwt(jwt) => Ok(*jwt),
            Tokens::Simple => Err(KeyError("no key was given".into())),
        }
    }
}

type Object = serde_json::Map<String, Value>;

/// What etcd reads in a token that somebody has signed; `None` if it would refuse it. All numbers
/// are floating point there.
fn jwt_claims(claims: &Object) -> Option<Claims> {
    Some(Claims::Jwt {
        user: claims.get("username")?.as_str()?.to_owned(),
        revision: claims.get("revision")?.as_f64()? as u64,
        not_before_s: seconds(claims.get("nbf"), 0)?,
        expires_s: seconds(claims.get("exp"), u64::MAX)?,
    })
}

/// A time, rounded down, as the library reads it that etcd uses: zero is no time, and what is later
/// than its clock can say is refused.
fn seconds(claim: Option<&Value>, absent: u64) -> Option<u64> {
    let Some(claim) = claim else {
        return Some(absent);
    };
    match claim.as_f64()? {
        0.0 => Some(absent),
        // Before 1970 is 1970: all of it is over.
        time => (time < i64::MAX as f64).then_some(time as u64),
    }
}

fn is_secret(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    )
}

fn signing_key(
    algorithm: Algorithm,
    text: &[u8],
) -> Result<EncodingKey, jsonwebtoken::errors::Error> {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            Ok(EncodingKey::from_secret(text))
        }
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(text),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(text),
        _ => EncodingKey::from_rsa_pem(text),
    }
}

fn verifying_key(
    algorithm: Algorithm,
    text: &[u8],
) -> Result<DecodingKey, jsonwebtoken::errors::Error> {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            Ok(DecodingKey::from_secret(text))
        }
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(text),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(text),
        _ => DecodingKey::from_rsa_pem(text),
    }
}
