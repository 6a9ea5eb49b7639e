//! What etcd would say about going back a version. Nothing here becomes older by it: the wish is
//! kept and shown, as etcd does until the members have been exchanged.
//!
//! ```text
//! row "downgrade" of Space::SYSTEM:   the version to go back to, "3.6.0"; no row: none
//! ```

use state::{Reader, Space, Transaction};

use crate::error::Error;
use crate::proto::etcdserverpb::DowngradeInfo;

pub(super) const ROW: &[u8] = b"downgrade";

/// A version as clusters have one: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl ClusterVersion {
    /// Reads `3.6` or `3.6.0`; what stands behind the minor number does not count.
    ///
    /// # Errors
    /// [`Error::WrongDowngradeFormat`] for anything else.
    pub fn parse(text: &str) -> Result<ClusterVersion, Error> {
        let mut parts = text.splitn(3, '.');
        let mut number = || -> Option<u32> {
            let part = parts.next()?;
            let digits = !part.is_empty() && part.chars().all(|digit| digit.is_ascii_digit());
            digits.then(|| part.parse().ok())?
        };
        let (major, minor) = (number(), number());
        let patch = parts.next();
        let patch_is_number = patch.is_none_or(|patch| {
            let digits = patch.split(['-', '+']).next().unwrap_or_default();
            !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit())
        });
        match (major, minor) {
            (Some(major), Some(minor)) if patch_is_number => Ok(ClusterVersion { major, minor }),
            _ => Err(Error::WrongDowngradeFormat),
        }
    }

    /// Whether this is the version before `of`.
    #[must_use]
    pub fn precedes(self, of: ClusterVersion) -> bool {
        self.major == of.major && self.minor.checked_add(1) == Some(of.minor)
    }
}

impl std::fmt::Display for ClusterVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// The downgrade under way, as a status shows it.
#[must_use]
pub fn info(reader: &Reader) -> DowngradeInfo {
    let row = reader.row(Space::SYSTEM, ROW);
    DowngradeInfo {
        enabled: row.is_some(),
        target_version: row.map_or_else(String::new, |row| {
            String::from_utf8_lossy(&row).into_owned()
        }),
    }
}

/// Whether a cluster of version `own` may go back to `target` now.
///
/// # Errors
/// If it is not the version before, or one is under way.
pub fn validate(reader: &Reader, own: ClusterVersion, target: ClusterVersion) -> Result<(), Error> {
    if !target.precedes(own) {
        return Err(Error::InvalidDowngradeTarget);
    }
    if info(reader).enabled {
        return Err(Error::DowngradeInProgress);
    }
    Ok(())
}

pub(super) fn enable(
    transaction: &mut Transaction<'_>,
    own: ClusterVersion,
    target: ClusterVersion,
) -> Result<(), Error> {
    validate(transaction.base(), own, target)?;
    let text = format!("{target}.0");
    transaction.set_row(Space::SYSTEM, ROW, text.as_bytes());
    Ok(())
}

/// That nothing is under way is no error to etcd either: it knows one, and keeps it to its log.
pub(super) fn cancel(transaction: &mut Transaction<'_>) {
    if info(transaction.base()).enabled {
        transaction.delete_row(Space::SYSTEM, ROW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_two_numbers_or_three() {
        let version = |major, minor| Ok(ClusterVersion { major, minor });
        assert_eq!(ClusterVersion::parse("3.6"), version(3, 6));
        assert_eq!(ClusterVersion::parse("3.6.0"), version(3, 6));
        assert_eq!(ClusterVersion::parse("3.6.1-rc.0"), version(3, 6));
        for text in ["", "3", "3.", ".6", "a.b", "3.6.x", "+3.6", "3.6."] {
            let wrong = Err(Error::WrongDowngradeFormat);
            assert_eq!(ClusterVersion::parse(text), wrong, "{text}");
        }
    }

    /// A client's version of 2^32 - 1 once ended the node that compared it.
    #[test]
    fn the_largest_number_is_before_nothing() {
        let version = |minor| ClusterVersion { major: 3, minor };
        assert!(version(6).precedes(version(7)));
        assert!(!version(u32::MAX).precedes(version(7)));
        assert!(!version(u32::MAX).precedes(version(0)));
    }
}
