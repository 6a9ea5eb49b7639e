//! Both clusters, key by key.

use client::Client;
use client::etcd::proto::mvccpb::KeyValue;
use indicatif::ProgressBar;
use xxhash_rust::xxh3::Xxh3;

use super::Error;
use super::limits::Limits;
use super::pages::{self, Pages};

/// What was found.
#[derive(Debug)]
pub(super) struct Compared {
    /// How many keys the old cluster has.
    pub(super) keys: u64,
    /// Over keys, values and leases of each side, in key order; the old one's first.
    pub(super) digests: [u128; 2],
    /// Some of the differences, for a person.
    pub(super) shown: Vec<String>,
    /// How many there are.
    pub(super) differences: u64,
}

/// Compares the old cluster at a revision with the new one as it is.
pub(super) async fn compare(
    source: &Client,
    revision: i64,
    target: &Client,
    limits: Limits,
    bar: &ProgressBar,
) -> Result<Compared, Error> {
    let now = pages::revision(target).await;
    let now = now.map_err(|error| Error::target("read", error))?;
    let mut old = Side::new(Pages::new(source, revision, limits));
    let mut new = Side::new(Pages::new(target, now, limits));
    let (mut keys, mut differences, mut shown) = (0, 0, Vec::new());
    old.turn()
        .await
        .map_err(|error| Error::source("read", error))?;
    new.turn()
        .await
        .map_err(|error| Error::target("read", error))?;
    loop {
        let (is_old, is_new, difference) = match (&old.pair, &new.pair) {
            (None, None) => break,
            (Some(pair), None) => (true, false, Some((&pair.key, "is missing"))),
            (None, Some(pair)) => (false, true, Some((&pair.key, "should not be there"))),
            (Some(one), Some(other)) if one.key < other.key => {
                (true, false, Some((&one.key, "is missing")))
            }
            (Some(one), Some(other)) if other.key < one.key => {
                (false, true, Some((&other.key, "should not be there")))
            }
            (Some(one), Some(other)) => (true, true, difference(one, other)),
        };
        if let Some((key, what)) = difference {
            differences += 1;
            if shown.len() < limits.shown {
                shown.push(format!("the key \"{}\" {what}", key.escape_ascii()));
            }
        }
        if is_old {
            keys += 1;
            bar.set_position(keys);
            old.turn()
                .await
                .map_err(|error| Error::source("read", error))?;
        }
        if is_new {
            new.turn()
                .await
                .map_err(|error| Error::target("read", error))?;
        }
    }
    Ok(Compared {
        keys,
        digests: [old.digest.digest128(), new.digest.digest128()],
        shown,
        differences,
    })
}

fn difference<'a>(one: &'a KeyValue, other: &KeyValue) -> Option<(&'a bytes::Bytes, &'static str)> {
    if one.value != other.value {
        Some((&one.key, "has another value"))
    } else if one.lease != other.lease {
        Some((&one.key, "hangs on another lease"))
    } else {
        None
    }
}

/// One of the two.
struct Side<'a> {
    pages: Pages<'a>,
    /// The pair that is looked at.
    pair: Option<KeyValue>,
    digest: Xxh3,
}

impl<'a> Side<'a> {
    fn new(pages: Pages<'a>) -> Side<'a> {
        Side {
            pages,
            pair: None,
            digest: Xxh3::new(),
        }
    }

    /// Goes on to the next pair.
    async fn turn(&mut self) -> Result<(), client::Error> {
        self.pair = self.pages.next().await?;
        if let Some(pair) = &self.pair {
            self.digest.update(&(pair.key.len() as u64).to_le_bytes());
            self.digest.update(&pair.key);
            self.digest.update(&(pair.value.len() as u64).to_le_bytes());
            self.digest.update(&pair.value);
            self.digest.update(&pair.lease.to_le_bytes());
        }
        Ok(())
    }
}
