//! Places for what a worker has under way, used again and again: each has a waker of its own, so
//! that what HTTP/2 has to say about one of ten thousand streams names that one, and nothing is
//! allocated for it per call.
//!
//! ```text
//!   key   generation ‥ | index u20          a key of an earlier use of the place finds nothing
//!   waker of place 7 ──wake──▶ woken: [7] ──notify──▶ the worker's turn
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use tokio::sync::Notify;

/// So many bits of a key say which place.
const INDEX_BITS: u32 = 20;
/// No more places than this can be told apart.
pub(super) const MOST: usize = 1 << INDEX_BITS;

/// Names one use of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(u64);

impl Key {
    /// So many low bits of [`Key::bits`] tell uses apart; they come again only after years.
    pub(super) const BITS: u32 = 56;

    fn new(index: usize, generation: u64) -> Key {
        let bits = generation << INDEX_BITS | index as u64;
        Key(bits & ((1 << Key::BITS) - 1))
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn from_bits(bits: u64) -> Key {
        Key(bits & ((1 << Key::BITS) - 1))
    }

    fn index(self) -> usize {
        (self.0 & (MOST as u64 - 1)) as usize
    }
}

/// Which places were woken since they were last looked at.
#[derive(Debug)]
struct Woken {
    // Wakers must be able to cross threads; these never do, so nobody ever waits for the lock.
    indexes: Mutex<Vec<usize>>,
    turn: Arc<Notify>,
}

#[derive(Debug)]
struct PlaceWaker {
    index: usize,
    is_woken: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for PlaceWaker {
    fn wake(self: Arc<PlaceWaker>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<PlaceWaker>) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            let mut indexes = self.woken.indexes.lock().expect("nobody panics holding it");
            indexes.push(self.index);
            drop(indexes);
            self.woken.turn.notify_one();
        }
    }
}

struct Place<T> {
    generation: u64,
    state: Arc<PlaceWaker>,
    waker: Waker,
    content: Option<T>,
}

/// Places of one kind of one worker.
pub(super) struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
}

impl<T> Slots<T> {
    /// No places yet; `turn` is notified when one is woken.
    pub(super) fn new(turn: &Arc<Notify>) -> Slots<T> {
        let woken = Woken {
            indexes: Mutex::new(Vec::new()),
            turn: Arc::clone(turn),
        };
        Slots {
            places: Vec::new(),
            free: Vec::new(),
            woken: Arc::new(woken),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Puts something into a free place. There may be [`MOST`] of them.
    pub(super) fn insert(&mut self, content: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        let place = &mut self.places[index];
        place.content = Some(content);
        Key::new(index, place.generation)
    }

    fn add_place(&mut self) -> usize {
        let index = self.places.len();
        assert!(index < MOST, "the callers bound what is under way");
        let state = Arc::new(PlaceWaker {
            index,
            is_woken: AtomicBool::new(false),
            woken: Arc::clone(&self.woken),
        });
        self.places.push(Place {
            generation: 0,
            waker: Waker::from(Arc::clone(&state)),
            state,
            content: None,
        });
        index
    }

    /// What is in a place, and its waker.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<(&mut T, &Waker)> {
        let place = self.places.get_mut(key.index())?;
        if Key::new(key.index(), place.generation) != key {
            return None;
        }
        let content = place.content.as_mut()?;
        Some((content, &place.waker))
    }

    /// Empties a place.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let place = &mut self.places[key.index()];
        place.generation += 1;
        self.free.push(key.index());
        place.content.take()
    }

    /// The places that are in use and were woken since this was last asked.
    pub(super) fn take_woken(&mut self, keys: &mut Vec<Key>) {
        let mut indexes = self.woken.indexes.lock().expect("nobody panics holding it");
        for index in indexes.drain(..) {
            let place = &self.places[index];
            place.state.is_woken.store(false, Ordering::Release);
            if place.content.is_some() {
                keys.push(Key::new(index, place.generation));
            }
        }
    }

    /// Every place in use.
    pub(super) fn keys(&self) -> Vec<Key> {
        let used = self.places.iter().enumerate();
        used.filter(|(_, place)| place.content.is_some())
            .map(|(index, place)| Key::new(index, place.generation))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_use_finds_nothing_and_wakes_nobody_else() {
        let turn = Arc::new(Notify::new());
        let mut slots = Slots::new(&turn);
        let first = slots.insert("first");
        let (_, waker) = slots.get_mut(first).unwrap();
        let waker = waker.clone();
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_ne!(first, second, "the place is the same, its use is not");
        assert!(slots.get_mut(first).is_none());
        assert_eq!(slots.remove(first), None);
        assert_eq!(Key::from_bits(second.bits()), second);
        // A late wake-up of the first use makes the second one be looked at, which does no harm.
        waker.wake_by_ref();
        waker.wake();
        let mut woken = Vec::new();
        slots.take_woken(&mut woken);
        assert_eq!(woken, [second], "once, however often it was woken");
        woken.clear();
        slots.take_woken(&mut woken);
        assert!(woken.is_empty());
        assert_eq!(slots.keys(), [second]);
        assert_eq!(slots.len(), 1);
    }
}
