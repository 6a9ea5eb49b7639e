//! The tokens that a thread has seen lately, so that most requests cost one look-up and no lock.

use std::collections::HashMap;
use std::sync::Arc;

use etcd::auth::Caller;

use super::milliseconds;
use crate::limits::AuthLimits;

/// What is known of a token.
struct Known {
    caller: Arc<Caller>,
    /// It is looked at again from then on.
    until_ms: u64,
}

/// A thread's memory of tokens. Any change of users and roles empties it.
pub(crate) struct TokenCache {
    version: u64,
    known: HashMap<Box<[u8]>, Known>,
    most: usize,
    kept_ms: u64,
}

impl TokenCache {
    pub(crate) fn new(limits: &AuthLimits) -> TokenCache {
        TokenCache {
            version: 0,
            known: HashMap::new(),
            most: limits.cached_tokens,
            kept_ms: milliseconds(limits.cached),
        }
    }

    /// Who a token belongs to, if that was found out a moment ago.
    pub(super) fn find(&mut self, token: &[u8], version: u64, now_ms: u64) -> Option<Arc<Caller>> {
        if self.version != version {
            self.version = version;
            self.known.clear();
        }
        let known = self.known.get(token)?;
        (now_ms < known.until_ms).then(|| Arc::clone(&known.caller))
    }

    /// Remembers a token for a while, and not beyond its end.
    pub(super) fn insert(
        &mut self,
        token: &[u8],
        version: u64,
        (now_ms, end_ms): (u64, u64),
        caller: &Arc<Caller>,
    ) {
        if self.version != version {
            return;
        }
        if self.known.len() >= self.most {
            self.known.retain(|_, known| now_ms < known.until_ms);
        }
        if self.known.len() < self.most {
            let known = Known {
                caller: Arc::clone(caller),
                until_ms: now_ms.saturating_add(self.kept_ms).min(end_ms),
            };
            self.known.insert(token.into(), known);
        }
    }
}
