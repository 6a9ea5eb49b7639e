//! Prefixes of keys that belong to keyspaces of their own, for clients that name none.
//!
//! ```text
//! key 'r' prefix   version u8 = 1 | name of the keyspace
//! ```
//!
//! The default keyspace lives in the state that holds this table. So its entries and the routes
//! are in one order, and each replica refuses alike what comes for a prefix that has been given
//! away. A route is refused while the default keyspace still has keys there: they would be hidden.
//!
//! No prefix begins another one. Which of two is meant then never depends on how long they are,
//! and taking one away never gives its keys to a third keyspace.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use state::{KeyRange, Reader, Space, Transaction};

use super::table::{DEFAULT, Keyspace, count_change, get_text, put_text, row_key};

const ROUTE_TAG: u8 = b'r';
const VERSION: u8 = 1;
/// How long a prefix may be. Every replica judges by it.
pub const PREFIX_BYTES_MAX: usize = 1024;
/// How many routes there are at most. Every replica judges by it.
pub const ROUTES_MAX: usize = 1024;

/// A prefix and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the keys begin with.
    pub prefix: Bytes,
    /// The keyspace's name.
    pub keyspace: String,
}

/// All routes, by prefix. Rows that this build cannot read are left out.
#[must_use]
pub fn routes(reader: &Reader) -> Vec<Route> {
    read_routes(reader.rows(Space::META)).collect()
}

fn read_routes(rows: impl Iterator<Item = (Bytes, Bytes)>) -> impl Iterator<Item = Route> {
    rows.filter_map(|(key, row)| {
        let prefix = key.strip_prefix(&[ROUTE_TAG])?;
        let mut row = &row[..];
        if row.try_get_u8().ok()? != VERSION {
            return None;
        }
        Some(Route {
            prefix: Bytes::copy_from_slice(prefix),
            keyspace: get_text(&mut row)?,
        })
    })
}

fn route_key(prefix: &[u8]) -> Vec<u8> {
    [&[ROUTE_TAG], prefix].concat()
}

/// A prefix as people read it.
#[must_use]
pub fn shown(prefix: &[u8]) -> String {
    prefix.escape_ascii().to_string()
}

/// Keys with a prefix belong to a keyspace from now on.
pub(super) fn route(
    mut transaction: Transaction<'_>,
    prefix: &[u8],
    name: &str,
) -> Result<String, String> {
    if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX {
        return Err(format!(
            "a prefix has 1 to {PREFIX_BYTES_MAX} bytes, not {}",
            prefix.len()
        ));
    }
    if name == DEFAULT {
        return Err(format!(
            "all keys are in {DEFAULT} that no route leads elsewhere; take the route away instead"
        ));
    }
    let keyspace = transaction.row(Space::META, &row_key(name));
    if keyspace
        .and_then(|row| Keyspace::decode(name, &row))
        .is_none()
    {
        return Err(format!("there is no keyspace called {name}"));
    }
    let others: Vec<Route> = read_routes(transaction.rows(Space::META)).collect();
    if others.len() >= ROUTES_MAX {
        return Err(format!(
            "there are {ROUTES_MAX} routes, as many as there can be"
        ));
    }
    let overlaps =
        |other: &&Route| other.prefix.starts_with(prefix) || prefix.starts_with(&other.prefix);
    if let Some(other) = others.iter().find(overlaps) {
        return Err(format!(
            "the prefix {} leads to {} already, and no prefix may begin another one",
            shown(&other.prefix),
            other.keyspace
        ));
    }
    let hidden = transaction.count(Space::ETCD, &keys_with(prefix));
    if hidden > 0 {
        return Err(format!(
            "{DEFAULT} holds {hidden} keys with the prefix {}, which nobody could reach any more; \
             copy them into {name} and delete them first",
            shown(prefix)
        ));
    }
    let mut row = BytesMut::with_capacity(name.len() + 3);
    row.put_u8(VERSION);
    put_text(&mut row, name);
    transaction.set_row(Space::META, &route_key(prefix), &row);
    count_change(&mut transaction);
    transaction.commit();
    Ok(format!(
        "keys with the prefix {} are in {name} from now on",
        shown(prefix)
    ))
}

/// Keys with a prefix belong to the default keyspace again.
pub(super) fn unroute(mut transaction: Transaction<'_>, prefix: &[u8]) -> Result<String, String> {
    let key = route_key(prefix);
    if transaction.row(Space::META, &key).is_none() {
        return Err(format!("no route has the prefix {}", shown(prefix)));
    }
    transaction.delete_row(Space::META, &key);
    count_change(&mut transaction);
    transaction.commit();
    Ok(format!(
        "keys with the prefix {} are in {DEFAULT} again",
        shown(prefix)
    ))
}

/// Why a keyspace cannot be dropped: a prefix leads to it.
pub(super) fn needs(transaction: &Transaction<'_>, name: &str) -> Option<String> {
    let mut routes = read_routes(transaction.rows(Space::META));
    let route = routes.find(|route| route.keyspace == name)?;
    Some(format!(
        "the prefix {} leads to {name}; take the route away first (`quorate keyspace unroute`)",
        shown(&route.prefix)
    ))
}

/// The keys that begin with `prefix`.
fn keys_with(prefix: &[u8]) -> KeyRange {
    let start = Bytes::copy_from_slice(prefix);
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        None => KeyRange::From { start },
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            KeyRange::Span {
                start,
                end: end.into(),
            }
        }
    }
}
