//! What spreads: pieces of news about members, each sent a bounded number of times, new ones first
//! (SWIM, section 4.1: infection-style dissemination).
//!
//! There is one piece about each member: a newer one replaces it. They ride on packets that are
//! sent anyway, and on packets of their own a few times a second.

use std::collections::{BTreeMap, BTreeSet};

use base::NodeId;
use bytes::Bytes;

/// The news that this member still passes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    pieces: BTreeMap<NodeId, Piece>,
    /// By how often they have been sent, then by age, newest first.
    order: BTreeSet<(u32, u64, NodeId)>,
    /// Counts down, so that what came last is first among equals.
    next: u64,
}

#[derive(Clone, Debug)]
struct Piece {
    encoded: Bytes,
    key: (u32, u64, NodeId),
}

impl News {
    /// There is something new about `about`.
    pub(crate) fn add(&mut self, about: NodeId, encoded: Bytes) {
        self.remove(about);
        self.next = self.next.wrapping_sub(1);
        let key = (0, self.next, about);
        self.order.insert(key);
        self.pieces.insert(about, Piece { encoded, key });
    }

    pub(crate) fn remove(&mut self, about: NodeId) {
        if let Some(piece) = self.pieces.remove(&about) {
            self.order.remove(&piece.key);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// How many times the news about `about` has been sent; nothing if there is none any more.
    pub(crate) fn sent(&self, about: NodeId) -> Option<u32> {
        self.pieces.get(&about).map(|piece| piece.key.0)
    }

    /// Appends what fits into `room` bytes, the least sent first, and counts it. A piece that has
    /// been sent `enough` times is dropped. `first` goes before all others. Returns how many.
    pub(crate) fn take(
        &mut self,
        room: usize,
        enough: u32,
        first: Option<NodeId>,
        into: &mut Vec<u8>,
    ) -> u16 {
        let until = into.len() + room;
        let mut taken = Vec::new();
        let first = first.and_then(|about| self.pieces.get(&about).map(|piece| piece.key));
        let others = self.order.iter().copied().filter(|key| Some(*key) != first);
        // Looking on for something small behind something large must end.
        let mut misses = 0;
        let mut never = Vec::new();
        for key in first.into_iter().chain(others) {
            let encoded = &self.pieces[&key.2].encoded;
            if encoded.len() > room {
                never.push(key.2);
                continue;
            }
            if into.len() + encoded.len() > until {
                misses += 1;
                if misses > 4 {
                    break;
                }
                continue;
            }
            into.extend_from_slice(encoded);
            taken.push(key);
            if taken.len() == usize::from(u16::MAX) {
                break;
            }
        }
        // What no packet holds would stand before all others for ever.
        for about in never {
            self.remove(about);
        }
        for key in &taken {
            self.order.remove(key);
            let next = (key.0 + 1, key.1, key.2);
            if next.0 >= enough {
                self.pieces.remove(&key.2);
            } else {
                self.order.insert(next);
                let piece = self
                    .pieces
                    .get_mut(&key.2)
                    .expect("a piece in the order exists");
                piece.key = next;
            }
        }
        u16::try_from(taken.len()).expect("counted above")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_least_sent_goes_first_and_enough_is_enough() {
        let mut news = News::default();
        news.add(NodeId(1), piece("one "));
        let mut sent = Vec::new();
        assert_eq!(news.take(100, 2, None, &mut sent), 1);
        news.add(NodeId(2), piece("two "));
        assert_eq!(news.take(4, 2, None, &mut sent), 1);
        assert_eq!(sent, b"one two ");
        assert_eq!(news.take(100, 2, Some(NodeId(1)), &mut sent), 2);
        assert_eq!(sent, b"one two one two ");
        assert!(news.is_empty());
    }

    #[test]
    fn what_fits_no_packet_holds_up_nothing() {
        let mut news = News::default();
        news.add(NodeId(9), piece("small"));
        for about in 1..9 {
            news.add(NodeId(about), piece("far too large"));
        }
        let mut sent = Vec::new();
        assert_eq!(news.take(6, 5, None, &mut sent), 1);
        assert_eq!(sent, b"small");
        assert_eq!(news.len(), 1, "and is not tried again");
    }

    #[test]
    fn newer_news_about_a_member_replaces_older() {
        let mut news = News::default();
        news.add(NodeId(1), piece("old"));
        news.add(NodeId(1), piece("new"));
        let mut sent = Vec::new();
        assert_eq!(news.take(100, 5, None, &mut sent), 1);
        assert_eq!(sent, b"new");
        assert_eq!(news.sent(NodeId(1)), Some(1));
        news.remove(NodeId(1));
        assert!(news.is_empty());
    }
}
