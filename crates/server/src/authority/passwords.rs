//! Passwords: hashed and compared on threads of their own, a few at a time.
//!
//! bcrypt is slow so that guessing is. A client that signs in again and again, with whatever
//! password, must not take the processor from those who have signed in: only so many are looked at
//! at a time, a while later the rest are told "too many requests". New passwords, which only those
//! who may set them have hashed, wait for each other alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::AuthLimits;

/// bcrypt looks at so many bytes of a password, whatever they are.
const LONGEST: usize = 72;

/// Hashes and compares.
pub(crate) struct Passwords {
    /// Of those who compare.
    turns: Arc<Semaphore>,
    /// Of those who hash: whoever guesses passwords must not keep root from changing them.
    hashing_turns: Arc<Semaphore>,
    patience: Duration,
    cost: u32,
    /// The hash of nothing anybody knows, of the same cost as the others: comparing with it tells
    /// nobody by the time it takes that a user does not exist.
    nobody: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordError {
    /// Too many sign in at the moment.
    Busy,
    /// bcrypt takes [`LONGEST`] bytes; what comes after would not count.
    TooLong,
    /// A bug.
    Failed,
}

impl Passwords {
    pub(crate) fn new(cost: u32, limits: &AuthLimits) -> Passwords {
        Passwords {
            turns: Arc::new(Semaphore::new(limits.logins.max(1))),
            hashing_turns: Arc::new(Semaphore::new(1)),
            patience: limits.login_patience,
            cost,
            nobody: nobody(cost),
        }
    }

    /// The hash of a new password.
    pub(crate) async fn hash(&self, password: String) -> Result<Bytes, PasswordError> {
        if password.len() > LONGEST {
            return Err(PasswordError::TooLong);
        }
        let turn = self.turn(&self.hashing_turns).await?;
        let cost = self.cost;
        let hash = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            // What of this library refuses long passwords refuses those of 72 bytes, too.
            bcrypt::hash(password, cost)
        });
        match hash.await.map_err(|_| PasswordError::Failed)? {
            Ok(hash) => Ok(hash.into()),
            Err(_) => Err(PasswordError::Failed),
        }
    }

    /// Whether a password is the one of a hash; `None` stands for a user who has none.
    pub(crate) async fn matches(
        &self,
        password: String,
        hash: Option<Bytes>,
    ) -> Result<bool, PasswordError> {
        // It is nobody's, and the library would look at its beginning only.
        if password.len() > LONGEST {
            return Ok(false);
        }
        let turn = self.turn(&self.turns).await?;
        let has_password = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let compared = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let hash = std::str::from_utf8(&hash).unwrap_or_default();
            // Whatever is wrong with the hash, the password is not its.
            bcrypt::verify(password, hash).unwrap_or(false)
        });
        let is_equal = compared.await.map_err(|_| PasswordError::Failed)?;
        Ok(is_equal && has_password)
    }

    #[cfg(test)]
    pub(super) async fn turn_to_compare(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        self.turn(&self.turns).await
    }

    #[cfg(test)]
    pub(super) fn nobody(&self) -> Bytes {
        self.nobody.clone()
    }

    /// The turn is kept by the thread that works, even if nobody waits for it any more.
    async fn turn(&self, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, PasswordError> {
        let turn = Arc::clone(turns).acquire_owned();
        match timeout(self.patience, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(PasswordError::Busy),
        }
    }
}

/// A hash of this cost that no password is known for. It is put together, not computed: a start
/// must not wait for it.
fn nobody(cost: u32) -> Bytes {
    format!("$2b${cost:02}${}", ".".repeat(53)).into()
}
