//! What is new goes to the live watchers: matched once, encoded once per form and id, pushed.
//!
//! The loop in [`send`] runs once for every event message that a hub gives out, and is the only
//! thing that does. It touches one small record per stream and clones one shared buffer.

use base::Instant;
use etcd::watch::{WatchNews, WatchRefusal};
use state::{Event, Space};

use super::Hub;
use super::groups::{Group, GroupKey, LiveWatcher};
use super::index::InterestIndex;
use super::interface::{HubMetrics, HubOutput};
use super::messages::{Message, compose, readdress};
use super::roster::{Position, Roster, StreamIndex, WatcherIndex};

impl Hub {
    /// Gives the live watchers what was published since the last time.
    pub(super) fn deliver(&mut self, now: Instant, out: &mut Vec<HubOutput>) {
        if self.delivered == self.ring.last() {
            return;
        }
        let Hub {
            limits,
            told: Some(told),
            ring,
            index,
            groups,
            roster,
            metrics,
            ..
        } = self
        else {
            return;
        };
        let header = told.header();
        let mut matched: Vec<(InterestIndex, &Event)> = Vec::new();
        for batch in ring.from(self.delivered + 1) {
            for event in batch.events.iter().filter(|each| each.space == Space::ETCD) {
                index.holding(&event.key_value.key, |found| matched.push((found, event)));
            }
        }
        // Keeps the order of revisions within each.
        matched.sort_by_key(|(interest, _)| *interest);
        let (mut events, mut messages) = (Vec::new(), Vec::new());
        let (mut emptied, mut too_large): (Vec<GroupKey>, Vec<WatcherIndex>) = Default::default();
        for of_one in matched.chunk_by(|one, other| one.0 == other.0) {
            events.clear();
            events.extend(of_one.iter().map(|(_, event)| *event));
            if let Some(alone) = groups.alone(of_one[0].0) {
                let watcher = roster.watcher_mut(alone);
                let (key, stream) = (watcher.group, watcher.stream);
                messages.clear();
                let complete = compose(&header, key.form, key.id, &events, limits, &mut messages);
                metrics.messages_encoded += messages.len() as u64;
                if !messages.is_empty() {
                    watcher.last_event = now;
                }
                match send(&messages, stream, roster, metrics, out) {
                    Err(Missed { next }) => {
                        groups.forget_alone(key.interest);
                        roster.place(alone, Position::Lagging { next });
                    }
                    Ok(()) if complete.is_err() => too_large.push(alone),
                    Ok(()) => {}
                }
                continue;
            }
            let mut form = None;
            let mut complete = Ok(());
            for (key, group) in groups.of(of_one[0].0) {
                let other_id = form == Some(key.form);
                let readdressed = other_id.then(|| readdress(&header, key.id, &messages));
                if !other_id {
                    messages.clear();
                    form = Some(key.form);
                    complete = compose(&header, key.form, key.id, &events, limits, &mut messages);
                }
                let messages = readdressed.as_ref().unwrap_or(&messages);
                metrics.messages_encoded += messages.len() as u64;
                if !messages.is_empty() {
                    group.last_event = now;
                    push(messages, group, roster, metrics, out);
                }
                if complete.is_err() {
                    too_large.extend(group.live.iter().map(|live| live.watcher));
                }
                if group.live.is_empty() {
                    emptied.push(*key);
                }
            }
        }
        groups.forget(&emptied);
        self.delivered = self.ring.last();
        for watcher in too_large {
            let news = WatchNews::Ended(WatchRefusal::RevisionTooLarge);
            self.end_watcher(watcher, news, out);
        }
        self.release_future();
        self.ring.trim(&self.limits);
    }

    /// Watchers whose first revision is there begin. Not before: until then they must hear of no
    /// progress, which would be of revisions before their first.
    pub(super) fn release_future(&mut self) {
        while let Some((start, watcher)) = self.roster.future.first().copied()
            && start <= self.delivered
        {
            let position = Position::Lagging { next: start };
            self.roster.place(watcher, position);
        }
    }

    /// A watcher has everything that was delivered.
    pub(super) fn go_live(&mut self, index: WatcherIndex) {
        let watcher = self.roster.watcher(index);
        let live = LiveWatcher {
            stream: watcher.stream,
            watcher: index,
        };
        let place = self.groups.add(watcher.group, live, &self.roster);
        self.roster.place(index, Position::Live { place });
    }
}

/// A stream has no credit left; the first revision that was not sent.
struct Missed {
    next: i64,
}

/// Gives a stream messages, as long as it has credit.
fn send(
    messages: &[Message],
    stream: StreamIndex,
    roster: &mut Roster,
    metrics: &mut HubMetrics,
    out: &mut Vec<HubOutput>,
) -> Result<(), Missed> {
    let flow = &mut roster.flows[stream.0 as usize];
    for message in messages {
        if flow.credit <= 0 && !message.continues {
            let next = message.first;
            return Err(Missed { next });
        }
        flow.credit -= message.bytes.len() as i64;
        metrics.messages += 1;
        metrics.events_delivered += u64::from(message.events);
        out.push(HubOutput::Message {
            stream: flow.id,
            bytes: message.bytes.clone(),
        });
    }
    Ok(())
}

/// Gives a group's watchers their messages. Who has no credit drops out and keeps a cursor.
fn push(
    messages: &[Message],
    group: &mut Group,
    roster: &mut Roster,
    metrics: &mut HubMetrics,
    out: &mut Vec<HubOutput>,
) {
    let live = &mut group.live;
    let mut place = 0;
    while let Some(&LiveWatcher { stream, watcher }) = live.get(place) {
        let Err(Missed { next }) = send(messages, stream, roster, metrics, out) else {
            place += 1;
            continue;
        };
        live.swap_remove(place);
        roster.place(watcher, Position::Lagging { next });
        if let Some(moved) = live.get(place) {
            let position = Position::Live {
                place: place as u32,
            };
            roster.watcher_mut(moved.watcher).position = position;
        }
    }
}
