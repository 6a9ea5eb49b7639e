//! Keys and values: bytes that a history shows as text.
//!
//! Each character of the string is one byte, U+0000 to U+00FF. Text stays readable in the file and
//! in explanations, any byte can be said, and there is one way only to write a key.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

fn to_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect()),
    }
}

fn from_text(text: &str) -> Result<Bytes, char> {
    if text.is_ascii() {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    let bytes: Result<Vec<u8>, char> = text
        .chars()
        .map(|character| u8::try_from(u32::from(character)).map_err(|_| character))
        .collect();
    bytes.map(Bytes::from)
}

/// The order of two texts. Most that are compared differ in their first bytes: to compare those as
/// numbers costs less than to call what compares long texts.
#[inline]
fn compare(one: &[u8], other: &[u8]) -> Ordering {
    if let (Some(left), Some(right)) = (one.first_chunk(), other.first_chunk()) {
        let (left, right) = (u32::from_be_bytes(*left), u32::from_be_bytes(*right));
        if left != right {
            return left.cmp(&right);
        }
    }
    one.cmp(other)
}

struct OctetsVisitor;

impl Visitor<'_> for OctetsVisitor {
    type Value = Bytes;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string whose characters are bytes (U+0000 to U+00FF)")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        from_text(text).map_err(|character| {
            E::custom(format!("{character:?} is not a byte (U+0000 to U+00FF)"))
        })
    }
}

macro_rules! octets {
    ($(#[$comment:meta])* $name:ident) => {
        $(#[$comment])*
        #[derive(Clone, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub Bytes);

        impl $name {
            /// Whether there are no bytes.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &$name) -> Ordering {
                compare(&self.0, &other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &$name) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name(Bytes::copy_from_slice(text.as_bytes()))
            }
        }

        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> $name {
                $name(Bytes::from(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "\"{}\"", self.0.escape_ascii())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&to_text(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                deserializer.deserialize_str(OctetsVisitor).map($name)
            }
        }
    };
}

octets! {
    /// A key, or the end of a range of keys.
    Key
}

octets! {
    /// The value of a key.
    Value
}
