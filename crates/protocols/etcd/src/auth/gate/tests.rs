//! Which ranges permissions cover: a table of what etcd promises, and all small cases against a
//! model that asks for every key.

use proptest::prelude::*;

use super::super::rows::{PermissionRef, encode_role};
use super::*;

fn role(permissions: &[(Kind, &[u8], &[u8])]) -> Bytes {
    let permissions: Vec<PermissionRef<'_>> = permissions
        .iter()
        .map(|(kind, key, range_end)| PermissionRef {
            kind: *kind,
            key,
            range_end,
        })
        .collect();
    encode_role(&permissions).into()
}

#[test]
fn ranges_are_covered_by_one_permission_or_by_all_together() {
    use Kind::{Both, Read, Write};
    type Permission = (Kind, &'static [u8], &'static [u8]);
    type Wanted = (&'static [u8], &'static [u8]);
    let cases: &[(&[Permission], Kind, Wanted, bool)] = &[
        (&[], Read, (b"a", b""), false),
        (&[(Read, b"a", b"")], Read, (b"a", b""), true),
        (&[(Write, b"a", b"")], Read, (b"a", b""), false),
        (&[(Both, b"a", b"")], Write, (b"a", b""), true),
        (&[(Read, b"a", b"")], Read, (b"b", b""), false),
        // A single key is not all that begin with it, nor all behind it.
        (&[(Read, b"a", b"")], Read, (b"a", b"b"), false),
        (&[(Read, b"a", b"")], Read, (b"a", b"\0"), false),
        (&[(Read, b"a", b"")], Read, (b"a", b"a\0"), true),
        (&[(Read, b"a", b"c")], Read, (b"a", b"c"), true),
        (&[(Read, b"a", b"c")], Read, (b"c", b""), false),
        (&[(Read, b"a", b"c")], Read, (b"b", b"d"), false),
        (&[(Read, b"a", b"c")], Read, (b"b", b"\0"), false),
        (&[(Read, b"b", b"\0")], Read, (b"b", b"\0"), true),
        (&[(Read, b"b", b"\0")], Read, (b"a", b"\0"), false),
        (&[(Read, b"\0", b"\0")], Read, (b"\0", b"\0"), true),
        // Together, without a gap.
        (
            &[(Read, b"a", b"c"), (Both, b"c", b"e")],
            Read,
            (b"a", b"e"),
            true,
        ),
        (
            &[(Read, b"a", b"c"), (Both, b"d", b"e")],
            Read,
            (b"a", b"e"),
            false,
        ),
        (
            &[(Read, b"a", b"c"), (Write, b"c", b"e")],
            Read,
            (b"a", b"e"),
            false,
        ),
        (
            &[(Read, b"a", b"c"), (Both, b"c", b"\0")],
            Read,
            (b"a", b"\0"),
            true,
        ),
        (
            &[(Read, b"a", b""), (Read, b"a\0", b"c")],
            Read,
            (b"a", b"c"),
            true,
        ),
        // One that lies within another does not shorten it.
        (
            &[(Read, b"a", b"z"), (Read, b"b", b"c")],
            Read,
            (b"a", b"z"),
            true,
        ),
        // A range without keys is as its first key.
        (&[(Read, b"a", b"c")], Read, (b"b", b"a"), true),
        (&[(Read, b"a", b"c")], Read, (b"x", b"a"), false),
    ];
    for (permissions, wanted, (key, range_end), expected) in cases {
        let roles = [role(permissions)];
        let span = KeySpan::new(key, range_end);
        let covered = covers(&roles, &span, *wanted);
        assert_eq!(covered, *expected, "{permissions:?} {wanted:?} {span:?}");
        // Spread over roles, it is the same.
        let roles: Vec<Bytes> = permissions.iter().map(|each| role(&[*each])).collect();
        assert_eq!(covers(&roles, &span, *wanted), *expected, "over roles");
    }
}

/// Keys of one or two of these, so that all there is between them is looked at.
fn keys() -> Vec<Vec<u8>> {
    let letters = [0u8, 1, 2];
    let mut keys: Vec<Vec<u8>> = letters.iter().map(|letter| vec![*letter]).collect();
    for first in letters {
        keys.extend(letters.iter().map(|second| vec![first, *second]));
    }
    keys
}

fn holds(key: &[u8], range_end: &[u8], candidate: &[u8]) -> bool {
    match range_end {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate < end,
    }
}

proptest! {
    /// Where permissions cover a range, they hold each of its keys; where they hold each of the
    /// keys that can be made of three letters, and all behind the last, they cover it, unless
    /// something longer lies between.
    #[test]
    fn what_is_covered_is_held_key_by_key(
        spans in prop::collection::vec((0usize..12, 0usize..14), 0..5),
        wanted in (0usize..12, 0usize..14),
    ) {
        let keys = keys();
        let span = |(key, end): &(usize, usize)| {
            let end = match end {
                12 => Vec::new(),
                13 => vec![0],
                end => keys[*end].clone(),
            };
            (keys[*key].clone(), end)
        };
        let permissions: Vec<(Vec<u8>, Vec<u8>)> = spans.iter().map(span).collect();
        let permissions: Vec<(Kind, &[u8], &[u8])> = permissions
            .iter()
            .filter(|(key, end)| !KeySpan::new(key, end).is_empty())
            .map(|(key, end)| (Kind::Read, key.as_slice(), end.as_slice()))
            .collect();
        let (key, range_end) = span(&wanted);
        let wanted = KeySpan::new(&key, &range_end);
        prop_assume!(!wanted.is_empty());
        let covered = covers(&[role(&permissions)], &wanted, Kind::Read);
        // Each key and the first one behind it, which tells points from ranges.
        let probes = keys.iter().flat_map(|key| [key.clone(), [key, &[0][..]].concat(), vec![9]]);
        let mut probes: Vec<Vec<u8>> = probes.collect();
        probes.extend(keys.iter().map(|key| [key, &[0, 0, 7][..]].concat()));
        let all_held = probes
            .iter()
            .filter(|probe| holds(&key, &range_end, probe))
            .all(|probe| permissions.iter().any(|(_, key, end)| holds(key, end, probe)));
        prop_assert_eq!(covered, all_held, "{:?} by {:?}", wanted, permissions);
    }
}
