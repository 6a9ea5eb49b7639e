//! What the node's thread has for one worker: everything of a pass at once, one wake-up.

use std::sync::{Arc, Mutex};

use base::GroupId;
use node::hub::HistoryResult;
use node::{Answer, CallId};
use tokio::sync::Notify;

use super::News;

/// What has come since the worker last looked.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// To be taken in before the answers: whoever was answered must find its own writes published.
    pub(super) news: Vec<News>,
    /// To calls of this worker.
    pub(super) answers: Vec<(CallId, Answer)>,
    /// Reads of history that have ended, for the watches.
    pub(super) histories: Vec<(GroupId, HistoryResult)>,
    /// The node is about to stop.
    pub(super) leaving: bool,
    /// The node does nothing any more.
    pub(super) stopped: bool,
}

/// One worker's mailbox.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    delivery: Mutex<Delivery>,
    /// Wakes the worker's turn; its own connections do so too.
    pub(super) turn: Arc<Notify>,
}

impl Mailbox {
    /// Adds news to what waits and wakes the worker; the vector is empty afterwards.
    pub(super) fn publish(&self, news: &mut Vec<News>) {
        let mut delivery = self.delivery.lock().expect("nobody panics holding it");
        delivery.news.append(news);
        drop(delivery);
        self.turn.notify_one();
    }

    /// Adds answers to what waits and wakes the worker; the vector is empty afterwards.
    pub(super) fn answer(&self, answers: &mut Vec<(CallId, Answer)>) {
        let mut delivery = self.delivery.lock().expect("nobody panics holding it");
        if delivery.answers.is_empty() {
            std::mem::swap(&mut delivery.answers, answers);
        } else {
            delivery.answers.append(answers);
        }
        drop(delivery);
        self.turn.notify_one();
    }

    /// Adds the result of a read of history.
    pub(super) fn tell_history(&self, group: GroupId, result: HistoryResult) {
        let mut delivery = self.delivery.lock().expect("nobody panics holding it");
        delivery.histories.push((group, result));
        drop(delivery);
        self.turn.notify_one();
    }

    /// Leaves it as a bug would that happens while it is open.
    #[cfg(test)]
    pub(super) fn fail_holding_it(&self) -> ! {
        let _delivery = self.delivery.lock();
        panic!("a test fails here");
    }

    /// The node serves on for a little while; who is connected is to go elsewhere.
    pub(super) fn leave(&self) {
        let mut delivery = self.delivery.lock().expect("nobody panics holding it");
        delivery.leaving = true;
        drop(delivery);
        self.turn.notify_one();
    }

    /// Nothing more will come.
    pub(super) fn stop(&self) {
        let mut delivery = self.delivery.lock().expect("nobody panics holding it");
        delivery.stopped = true;
        drop(delivery);
        self.turn.notify_one();
    }

    /// Takes what waits. `delivery` is empty, and gives its memory back.
    pub(super) fn take(&self, delivery: &mut Delivery) {
        let mut waiting = self.delivery.lock().expect("nobody panics holding it");
        std::mem::swap(&mut *waiting, delivery);
        waiting.stopped = delivery.stopped;
    }
}
