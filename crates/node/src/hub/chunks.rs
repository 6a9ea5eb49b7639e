//! A list that grows without being moved.
//!
//! ```text
//!   0 ──▶ [1024] [1024] [1024] [ 17  ]
//! ```
//!
//! There may be a million watchers, and what is kept of each counts. A vector takes up to twice
//! what it holds, and three times while it grows; and what it leaves behind when it moves is a hole
//! that the allocator keeps. Here only the last piece has room, and a short list is a short vector.

use std::ops::{Index, IndexMut};

/// Items of a piece that is full.
const PIECE: usize = 1024;

/// A list in pieces.
#[derive(Debug)]
pub(super) struct Chunks<Item>(Vec<Vec<Item>>);

impl<Item> Default for Chunks<Item> {
    fn default() -> Chunks<Item> {
        Chunks(Vec::new())
    }
}

impl<Item> Chunks<Item> {
    pub(super) fn len(&self) -> usize {
        let before = self.0.len().saturating_sub(1) * PIECE;
        before + self.0.last().map_or(0, Vec::len)
    }

    pub(super) fn push(&mut self, item: Item) {
        match self.0.last_mut() {
            Some(last) if last.len() < PIECE => last.push(item),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(item);
                self.0.push(piece);
            }
            // Many lists stay short.
            None => self.0.push(vec![item]),
        }
    }

    pub(super) fn get(&self, at: usize) -> Option<&Item> {
        self.0.get(at / PIECE)?.get(at % PIECE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.0.iter().flatten()
    }
}

impl<Item> Index<usize> for Chunks<Item> {
    type Output = Item;

    fn index(&self, at: usize) -> &Item {
        &self.0[at / PIECE][at % PIECE]
    }
}

impl<Item> IndexMut<usize> for Chunks<Item> {
    fn index_mut(&mut self, at: usize) -> &mut Item {
        &mut self.0[at / PIECE][at % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_a_vector_holds() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.len(), 0);
        for item in 0..3 * PIECE + 7 {
            assert_eq!(chunks.len(), item);
            chunks.push(item);
            assert_eq!(chunks[item], item);
        }
        for at in [0, PIECE - 1, PIECE, 2 * PIECE, 3 * PIECE + 6] {
            chunks[at] += 1;
        }
        let sum: usize = chunks.iter().sum();
        let count = 3 * PIECE + 7;
        assert_eq!(sum, count * (count - 1) / 2 + 5);
        assert_eq!(chunks[PIECE], PIECE + 1);
        assert_eq!(chunks.get(count - 1), Some(&count));
        assert_eq!(chunks.get(count), None);
    }

    #[test]
    fn a_short_list_is_a_short_vector() {
        let mut chunks = Chunks::default();
        chunks.push(1u8);
        assert!(chunks.0[0].capacity() <= 8);
    }
}
