//! Which keys a request is about: etcd's pair of key and range end, told apart once.

/// Which keys a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeySpan<'a> {
    /// This key alone.
    Single(&'a [u8]),
    /// From the first key up to the second, which is not part of it. Empty if the second does not
    /// come after the first, which etcd allows.
    Span(&'a [u8], &'a [u8]),
    /// This key and all after it.
    From(&'a [u8]),
}

impl<'a> KeySpan<'a> {
    /// By etcd's rules: no range end means a single key, one zero byte means everything from the
    /// key on.
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => KeySpan::Single(key),
            [0] => KeySpan::From(key),
            end => KeySpan::Span(key, end),
        }
    }

    /// The first key that can lie in it.
    pub(crate) fn start(&self) -> &'a [u8] {
        match self {
            KeySpan::Single(start) | KeySpan::Span(start, _) | KeySpan::From(start) => start,
        }
    }

    /// No key can lie in it.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, KeySpan::Span(start, end) if start >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_rules_of_range_end() {
        assert_eq!(KeySpan::new(b"a", b""), KeySpan::Single(b"a"));
        assert_eq!(KeySpan::new(b"a", b"\0"), KeySpan::From(b"a"));
        assert_eq!(KeySpan::new(b"\0", b"\0"), KeySpan::From(b"\0"));
        assert_eq!(KeySpan::new(b"a", b"b"), KeySpan::Span(b"a", b"b"));
        assert_eq!(KeySpan::new(b"a", b"\0\0"), KeySpan::Span(b"a", b"\0\0"));
        assert!(KeySpan::new(b"b", b"a").is_empty());
        assert!(KeySpan::new(b"a", b"a").is_empty());
        assert!(!KeySpan::new(b"a", b"a\0").is_empty());
        assert!(!KeySpan::new(b"a", b"\0").is_empty());
    }
}
