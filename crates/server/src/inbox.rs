//! What reaches the node's thread: one queue, taken as a whole, one wake-up however much waits.
//!
//! ```text
//!   workers, disks, peers ── send ──▶ [ event, event, … ] ── take ──▶ a pass of the node
//!                                          └─ wakes the thread if it sleeps
//! ```
//!
//! A channel would be asked for one event at a time, and its sender would wake the reader by a
//! call of the operating system whenever it is parked. Here a pass takes everything under one
//! lock, and the thread waits for its sockets and for this queue in one place.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

struct Waiting<T> {
    events: Vec<T>,
    is_closed: bool,
    /// The reader has been woken since it took events last.
    is_woken: bool,
    /// The reader does not want to be woken for what can wait.
    is_patient: bool,
}

struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    filled: Notify,
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().expect("nobody panics holding it")
    }
}

/// Fills the queue. Clones share it.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sender")
    }
}

/// Nobody takes events any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl<T> Sender<T> {
    /// Adds an event. How much may wait is bounded by what brings events forth: calls by their
    /// turns, frames by their connections' credit, completions by their requests.
    pub(crate) fn send(&self, event: T) -> Result<(), Closed> {
        self.add(event, true)
    }

    /// Adds an event that can wait until something else wakes the reader, if the reader
    /// [says so](Receiver::rest).
    pub(crate) fn send_patiently(&self, event: T) -> Result<(), Closed> {
        self.add(event, false)
    }

    fn add(&self, event: T, is_urgent: bool) -> Result<(), Closed> {
        let mut waiting = self.0.waiting();
        if waiting.is_closed {
            return Err(Closed);
        }
        waiting.events.push(event);
        // Whoever was first has woken the reader already.
        let wakes = !waiting.is_woken && (is_urgent || !waiting.is_patient);
        waiting.is_woken |= wakes;
        drop(waiting);
        if wakes {
            self.0.filled.notify_one();
        }
        Ok(())
    }
}

/// Empties the queue.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// A queue with nothing in it.
pub(crate) fn inbox<T>() -> (Sender<T>, Receiver<T>) {
    let waiting = Waiting {
        events: Vec::new(),
        is_closed: false,
        is_woken: false,
        is_patient: false,
    };
    let shared = Arc::new(Shared {
        waiting: Mutex::new(waiting),
        filled: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Receiver<T> {
    /// Takes everything that waits; `events` is empty and gives its memory back.
    pub(crate) fn take(&self, events: &mut Vec<T>) {
        assert!(events.is_empty(), "what was taken before is dealt with");
        let mut waiting = self.0.waiting();
        waiting.is_woken = false;
        std::mem::swap(&mut waiting.events, events);
    }

    /// Says, before the reader waits, whether it wants to be woken for what can wait. Returns
    /// whether it may wait: not if there is something by now that it wants to know of.
    pub(crate) fn rest(&self, is_patient: bool) -> bool {
        let mut waiting = self.0.waiting();
        waiting.is_patient = is_patient;
        // Whoever was woken finds that out by waiting.
        is_patient || waiting.is_woken || waiting.events.is_empty()
    }

    /// Waits until there may be something.
    pub(crate) async fn filled(&self) {
        self.0.filled.notified().await;
    }
}

impl<T> Drop for Receiver<T> {
    /// What waits is dropped, so that whoever waits for an answer to it hears so.
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.is_closed = true;
        let events = std::mem::take(&mut waiting.events);
        drop(waiting);
        drop(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_taken_at_once_in_order_and_nothing_after_the_end() {
        let (sender, receiver) = inbox();
        let other = sender.clone();
        (1..=3).for_each(|number| sender.send(number).unwrap());
        other.send(4).unwrap();
        let mut events = Vec::new();
        receiver.take(&mut events);
        assert_eq!(events, [1, 2, 3, 4]);
        events.clear();
        receiver.take(&mut events);
        assert!(events.is_empty());
        drop(receiver);
        assert_eq!(sender.send(5), Err(Closed));
    }

    #[test]
    fn what_can_wait_wakes_only_who_is_not_patient_and_is_never_forgotten() {
        use std::task::{Context, Poll, Waker};
        let (sender, receiver) = inbox();
        let is_woken = |receiver: &Receiver<i32>| {
            let filled = std::pin::pin!(receiver.filled());
            filled.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
        };
        assert!(receiver.rest(true));
        sender.send_patiently(1).unwrap();
        assert!(!is_woken(&receiver));
        // Something has happened meanwhile: now it wants to know.
        assert!(!receiver.rest(false), "one is there");
        let mut events = Vec::new();
        receiver.take(&mut events);
        assert_eq!(std::mem::take(&mut events), [1]);
        assert!(receiver.rest(false));
        sender.send_patiently(2).unwrap();
        assert!(is_woken(&receiver));
        receiver.take(&mut events);
        assert_eq!(std::mem::take(&mut events), [2]);
        assert!(receiver.rest(true));
        sender.send_patiently(3).unwrap();
        sender.send(4).unwrap();
        assert!(is_woken(&receiver), "not for the first, but for the second");
        receiver.take(&mut events);
        assert_eq!(events, [3, 4]);
    }

    #[test]
    fn whoever_waits_is_woken_by_what_comes_before_and_after() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (sender, receiver) = inbox();
        sender.send(1).unwrap();
        runtime.block_on(receiver.filled());
        let mut events = Vec::new();
        receiver.take(&mut events);
        let thread = std::thread::spawn(move || sender.send(2));
        runtime.block_on(receiver.filled());
        assert_eq!(thread.join().unwrap(), Ok(()));
        assert_eq!(events, [1]);
    }
}
