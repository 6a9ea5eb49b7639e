//! Who asks: tokens and passwords, checked on the threads that serve clients.
//!
//! ```text
//!   token ─▶ cache of the thread ─▶ tokens seen on this node ─▶ signature ─▶ who is it?
//!            (no lock, no crypto)   (a lock)                    (crypto)
//! ```
//!
//! What a user may do is decided by the replicas ([`etcd::auth`]); here is only found out who a
//! caller is, by what this node was last told of users and roles. While authentication is off, all
//! this costs one look at a flag.
//!
//! **Simple tokens** are signed with a key that the whole cluster has, so that a token is good on
//! every node at once, needs no entry in the log, and survives a restart. A token names its user
//! and which password it was given out for, so that it ends with the user or the password, as in
//! etcd; other changes of users and roles leave it valid. It is good as long as it is used: a node
//! that sees it within the time allowed after it was given out, or after the node itself saw it
//! last, takes it.
//!
//! **JSON Web Tokens** are signed with keys of the operator's. They carry the revision of users and
//! roles, so every change of those ends them, as in etcd.
//!
//! - [`tokens`]: making and reading tokens. [`cache`]: what a thread remembers of them.
//! - [`passwords`]: hashing, elsewhere, and never more at a time than the node can do without.

mod cache;
mod passwords;
mod tokens;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use etcd::auth::{Access, Caller, Requirement, Status, TOKEN_KEY_BYTES};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::limits::AuthLimits;
use crate::node_loop::Clock;
use crate::tls::CommonName;

pub(crate) use cache::TokenCache;
pub(crate) use passwords::{PasswordError, Passwords};
pub(crate) use tokens::{Claims, TokenError, Tokens};

/// Where etcd's own clients put their token; others use `authorization`.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("token");

/// A request that came as JSON over HTTP; its connection's certificate says nothing about it.
const FROM_GATEWAY: &str = "grpcgateway-accept";

/// What simple tokens are signed with.
type TokenKey = [u8; TOKEN_KEY_BYTES];

/// Knows who a caller is. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Authority(Arc<Inner>);

struct Inner {
    is_enabled: AtomicBool,
    /// Grows whenever `access` changes.
    version: AtomicU64,
    access: RwLock<Arc<Access>>,
    tokens: Tokens,
    passwords: Passwords,
    seen: Mutex<HashMap<Box<[u8]>, Seen>>,
    /// For threads that have no cache of their own.
    shared_cache: Mutex<TokenCache>,
    limits: AuthLimits,
    clock: Clock,
}

/// A token that was found to be good on this node.
struct Seen {
    claims: Claims,
    last_used_ms: u64,
}

impl Authority {
    pub(crate) fn new(
        tokens: Tokens,
        bcrypt_cost: u32,
        limits: &AuthLimits,
        clock: Clock,
    ) -> Authority {
        Authority(Arc::new(Inner {
            is_enabled: AtomicBool::new(false),
            version: AtomicU64::new(0),
            access: RwLock::default(),
            tokens,
            passwords: Passwords::new(bcrypt_cost, limits),
            seen: Mutex::default(),
            shared_cache: Mutex::new(TokenCache::new(limits)),
            limits: limits.clone(),
            clock,
        }))
    }

    /// The node has told of users and roles.
    pub(crate) fn told(&self, access: Arc<Access>) {
        let inner = &self.0;
        let is_enabled = access.status().is_enabled;
        let mut now = inner.access.write().unwrap_or_else(PoisonError::into_inner);
        let is_rekeyed = now.token_key() != access.token_key();
        *now = access;
        drop(now);
        if is_rekeyed {
            self.seen().clear();
        }
        inner.version.fetch_add(1, Ordering::Release);
        inner.is_enabled.store(is_enabled, Ordering::Release);
    }

    /// Whether callers must sign in.
    pub(crate) fn is_enabled(&self) -> bool {
        self.0.is_enabled.load(Ordering::Acquire)
    }

    /// What the node has told last.
    pub(crate) fn access(&self) -> Arc<Access> {
        let access = self.0.access.read();
        Arc::clone(&access.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// Who is at the other end; `None` if nobody has signed in, or nobody has to.
    ///
    /// # Errors
    /// The token is not valid, or no longer.
    pub(crate) fn caller(
        &self,
        token: Option<&[u8]>,
        common_name: Option<&CommonName>,
        cache: &mut TokenCache,
    ) -> Result<Option<Arc<Caller>>, etcd::Error> {
        if !self.is_enabled() {
            return Ok(None);
        }
        if let Some(token) = token {
            return self.caller_of_token(token, cache).map(Some);
        }
        Ok(common_name.map(|CommonName(name)| {
            Arc::new(Caller {
                user: name.to_string(),
                revision: self.status().revision,
            })
        }))
    }

    /// As [`Authority::caller`], for threads that have no cache of their own.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn caller_shared(
        &self,
        token: Option<&[u8]>,
        common_name: Option<&CommonName>,
    ) -> Result<Option<Arc<Caller>>, etcd::Error> {
        if !self.is_enabled() {
            return Ok(None);
        }
        let mut cache = lock(&self.0.shared_cache);
        self.caller(token, common_name, &mut cache)
    }

    /// Who a token belongs to.
    ///
    /// # Errors
    /// It is not valid, or no longer.
    fn caller_of_token(
        &self,
        token: &[u8],
        cache: &mut TokenCache,
    ) -> Result<Arc<Caller>, etcd::Error> {
        let version = self.0.version.load(Ordering::Acquire);
        let now_ms = self.0.clock.wall().0;
        if let Some(caller) = cache.find(token, version, now_ms) {
            return Ok(caller);
        }
        let (caller, end_ms) = self
            .check(token, now_ms)
            .ok_or(etcd::Error::InvalidAuthToken)?;
        let caller = Arc::new(caller);
        cache.insert(token, version, (now_ms, end_ms), &caller);
        Ok(caller)
    }

    /// Who a token belongs to, and when it expires.
    fn check(&self, token: &[u8], now_ms: u64) -> Option<(Caller, u64)> {
        let access = self.access();
        let known = self.use_again(token, now_ms);
        let claims = match known {
            Some(claims) => claims,
            None => {
                let key = access.token_key();
                let claims = self.0.tokens.read(token, key.as_ref())?;
                if claims.is_unused_since(now_ms, self.idle_ttl_ms()) {
                    return None;
                }
                self.remember(token, &claims, key, now_ms);
                claims
            }
        };
        match claims {
            Claims::Simple {
                user, generation, ..
            } => {
                let is_current = access.generation(&user) == Some(generation);
                let revision = access.status().revision;
                is_current.then_some((Caller { user, revision }, u64::MAX))
            }
            Claims::Jwt {
                user,
                revision,
                not_before_s,
                expires_s,
            } => {
                let is_valid = (not_before_s..expires_s).contains(&(now_ms / 1000));
                let end_ms = expires_s.saturating_mul(1000);
                is_valid.then_some((Caller { user, revision }, end_ms))
            }
        }
    }

    /// A token that was seen before, unless that is too long ago.
    fn use_again(&self, token: &[u8], now_ms: u64) -> Option<Claims> {
        let mut all = self.seen();
        let seen = all.get_mut(token)?;
        let idle_ms = now_ms.saturating_sub(seen.last_used_ms);
        if matches!(seen.claims, Claims::Simple { .. }) && idle_ms > self.idle_ttl_ms() {
            all.remove(token);
            return None;
        }
        seen.last_used_ms = now_ms;
        Some(seen.claims.clone())
    }

    /// Keeps a token that was checked with `key`, if that is the key still.
    fn remember(&self, token: &[u8], claims: &Claims, key: Option<TokenKey>, now_ms: u64) {
        let most = self.0.limits.tokens;
        let idle_ttl_ms = self.idle_ttl_ms();
        let mut all = self.seen();
        // A new key is known before the tokens of the old one are forgotten, which waits for the
        // lock held here: whatever passes this is forgotten then.
        if self.access().token_key() != key {
            return;
        }
        if all.len() >= most {
            all.retain(|_, seen| now_ms.saturating_sub(seen.last_used_ms) <= idle_ttl_ms);
        }
        // With too many in use at once, some are checked each time and not renewed by use.
        if all.len() < most {
            let seen = Seen {
                claims: claims.clone(),
                last_used_ms: now_ms,
            };
            all.insert(token.into(), seen);
        }
    }

    /// What a cache may hide of a token's use is added.
    fn idle_ttl_ms(&self) -> u64 {
        let limits = &self.0.limits;
        milliseconds(limits.token_ttl.saturating_add(limits.cached))
    }

    /// A token for a user whose password was checked.
    ///
    /// # Errors
    /// This node can only check tokens.
    pub(crate) fn issue(
        &self,
        user: &str,
        generation: u64,
        revision: u64,
    ) -> Result<String, TokenError> {
        let now_ms = self.0.clock.wall().0;
        let key = self.access().token_key();
        self.0
            .tokens
            .issue(user, generation, revision, now_ms, key.as_ref())
    }

    /// Whether authentication is on, and the revision, as far as this node has told.
    pub(crate) fn status(&self) -> Status {
        self.access().status()
    }

    /// Checks what somebody may do before it is worth any work; the replicas check again.
    ///
    /// # Errors
    /// etcd's.
    pub(crate) fn expect_root(&self, caller: Option<&Caller>) -> Result<(), etcd::Error> {
        self.access().check(caller, Requirement::Root)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Seen>> {
        lock(&self.0.seen)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in there is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the certificate of a request's connection says about who asks.
pub(crate) fn common_name_of<'a>(
    headers: &HeaderMap,
    verified: Option<&'a CommonName>,
) -> Option<&'a CommonName> {
    verified.filter(|_| !headers.contains_key(FROM_GATEWAY))
}

/// The token that a request carries.
pub(crate) fn token_of(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(TOKEN).or_else(|| headers.get(AUTHORIZATION))?;
    let value = value.as_bytes();
    Some(value.strip_prefix(b"Bearer ").unwrap_or(value))
}

/// A token that somebody shows; see [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(token: &[u8]) {
    let _ = Tokens::Simple.read(token, Some(&[1; TOKEN_KEY_BYTES]));
}

#[cfg(test)]
mod tests;
