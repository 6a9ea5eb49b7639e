//! Watchers, and clients that write what they watch.
//!
//! ```text
//!   links 0 .. W        streams, each with its share of the watchers
//!   W .. W + S          stalled watchers: their links are not read once their watch is open
//!   from W + S on       the writers, a `Unary` of puts whose values hold when they were sent
//! ```
//!
//! First all watches are opened, then the writers begin. An event's latency counts from when its
//! put was sent (or due, in an open loop) to when the event was read.

use super::books::{Books, Errors, Series};
use super::http2::{Event, Stream};
use super::keys::{Keys, stamped};
use super::latency::Nanoseconds;
use super::limits::Limits;
use super::links::{Links, Load};
use super::messages::{self, Message, paths};
use super::options::Bench;
use super::unary::Unary;

/// How often it is looked whether streams are to be opened again, and whether all is over.
const GLANCE: Nanoseconds = 50_000_000;

/// A stream of watches.
#[derive(Clone, Copy, Debug)]
struct WatchStream {
    link: usize,
    is_open: bool,
    first_watcher: usize,
    watchers: usize,
}

/// Watchers and writers.
#[derive(Debug)]
pub(crate) struct Watch {
    options: Bench,
    limits: Limits,
    streams: Vec<WatchStream>,
    /// The first token that names a stream; those below are the writers'.
    first_token: u32,
    stalled_from: usize,
    stalled_links: std::ops::Range<usize>,
    writers: Option<Unary>,
    keys: Keys,
    message: Message,
    created: usize,
    began: Nanoseconds,
    now: Nanoseconds,
    next_glance: Nanoseconds,
    last_event: Nanoseconds,
    events: Series,
    received: u64,
    errors: Errors,
    aborted: Option<String>,
    created_after: Nanoseconds,
    is_over: bool,
}

/// How many links the writers have.
pub(crate) fn writer_links(options: &Bench) -> usize {
    options.clients.min(100)
}

impl Watch {
    /// For links as the picture above shows them.
    pub(crate) fn new(options: &Bench, limits: Limits, links: &Links) -> Watch {
        let count = options.stream_count();
        let watch_links = options.connection_count();
        let mut streams: Vec<WatchStream> = Vec::with_capacity(count + options.stalled);
        let mut first_watcher = 0;
        for stream in 0..count {
            let more = usize::from(stream < options.watchers % count);
            let watchers = options.watchers / count + more;
            streams.push(WatchStream {
                link: stream % watch_links,
                is_open: false,
                first_watcher,
                watchers,
            });
            first_watcher += watchers;
        }
        let stalled_links = watch_links..watch_links + options.stalled;
        streams.extend(stalled_links.clone().map(|link| WatchStream {
            link,
            is_open: false,
            first_watcher: 0,
            watchers: 1,
        }));
        let now = links.now();
        Watch {
            options: options.clone(),
            limits,
            streams,
            first_token: options.clients as u32,
            stalled_from: count,
            stalled_links,
            writers: None,
            keys: Keys::new(options, 0),
            message: Message::default(),
            created: 0,
            began: now,
            now,
            next_glance: now,
            last_event: now,
            events: Series::new("event"),
            received: 0,
            errors: Errors::default(),
            aborted: None,
            created_after: 0,
            is_over: false,
        }
    }

    /// How many writes have ended, and how many failures there were.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let (operations, errors) = self.writers.as_ref().map_or((0, 0), Unary::progress);
        (operations, errors + self.errors.total())
    }

    /// What there is to say when all is done.
    pub(crate) fn finish(mut self, links: &Links) -> Books {
        let writes = self.progress().0;
        let missing = self.expected().saturating_sub(self.received);
        let mut books = match self.writers.take() {
            Some(writers) => writers.finish(links),
            None => Books::default(),
        };
        books.take_losses(links);
        books.series.insert(0, self.events);
        books.operations = writes + self.received;
        books.counts.insert("watchers", self.created as u64);
        let microseconds = self.created_after / 1_000;
        books
            .counts
            .insert("microseconds to open all watches", microseconds);
        if missing > 0 {
            books.counts.insert("events that did not come", missing);
        }
        for (text, count) in self.errors.by_text() {
            books.errors.count(text, *count, self.limits.error_texts);
        }
        books.aborted = books.aborted.or(self.aborted);
        books
    }

    /// How many events the writes that were answered make, as far as that can be known.
    fn expected(&self) -> u64 {
        if self.options.one_key_each {
            return 0;
        }
        self.progress().0 * self.options.watchers as u64
    }

    fn watcher_total(&self) -> usize {
        self.options.watchers + self.options.stalled
    }

    /// Opens the streams that are not open and asks for their watches.
    fn open_streams(&mut self, links: &mut Links) {
        for number in 0..self.streams.len() {
            let stream = self.streams[number];
            if stream.is_open || !links.has_room(stream.link) {
                continue;
            }
            let token = self.first_token + number as u32;
            let mut opened: Option<Stream> = None;
            for watcher in stream.first_watcher..stream.first_watcher + stream.watchers {
                let message = self.message.begin();
                if self.options.one_key_each {
                    let key = self.keys.key(watcher as u64 % self.options.keys);
                    messages::create_watch(message, key, &[]);
                } else {
                    let prefix = self.keys.prefix();
                    let end = messages::end_of_prefix(prefix);
                    messages::create_watch(message, prefix, &end);
                }
                let bytes = message.end();
                match opened {
                    Some(stream_id) => links.send(stream.link, stream_id, bytes),
                    None => {
                        let path = paths::WATCH;
                        opened = Some(links.open(stream.link, token, path, bytes, false));
                    }
                }
            }
            self.streams[number].is_open = true;
        }
    }

    fn stream_event(&mut self, number: usize, event: &Event<'_>, now: Nanoseconds) {
        match event {
            Event::Message(_, message) => {
                let is_counted = number < self.stalled_from;
                let events = &mut self.events;
                let received = &mut self.received;
                let read = messages::watched(message, |value| {
                    if let (true, Some(sent)) = (is_counted, stamped(value)) {
                        events.record(sent, now);
                        *received += 1;
                    }
                });
                self.last_event = now;
                if let Some(reason) = read.canceled {
                    let text = format!("watch canceled: {reason}");
                    self.errors.count(&text, 1, self.limits.error_texts);
                    if self.writers.is_none() {
                        self.aborted = Some(text);
                        self.is_over = true;
                    }
                } else if read.is_created {
                    self.created += 1;
                    self.created_after = now - self.began;
                }
            }
            Event::End(_, outcome) => {
                let reason = outcome.as_ref().err().map_or("no error", String::as_str);
                self.stream_lost(number, reason);
                if self.writers.is_none() {
                    // A server that ends streams while it works will not do better the next time.
                    self.aborted = Some(format!("a watch cannot be opened: {reason}"));
                    self.is_over = true;
                }
            }
            Event::Open | Event::Draining => {}
        }
    }

    /// A stream is gone: its watches are opened again as soon as that is possible.
    fn stream_lost(&mut self, number: usize, reason: &str) {
        let stream = &mut self.streams[number];
        stream.is_open = false;
        if number < self.stalled_from || self.writers.is_none() {
            self.created = self.created.saturating_sub(stream.watchers);
            let text = format!("watch stream lost: {reason}");
            self.errors.count(&text, 1, self.limits.error_texts);
        }
    }

    /// Whether all has happened that can be waited for.
    fn look_for_the_end(&mut self, now: Nanoseconds) {
        let patience = self.options.timeout.as_nanos() as Nanoseconds;
        let quiet = now.saturating_sub(self.last_event);
        match &self.writers {
            None if quiet > patience => {
                let total = self.watcher_total();
                let reason = format!("only {} of {total} watches were opened", self.created);
                self.aborted = Some(reason);
                self.is_over = true;
            }
            Some(writers) if writers.is_done() => {
                let all_here = !self.options.one_key_each && self.received >= self.expected();
                let patience = if self.options.one_key_each {
                    self.limits.quiet
                } else {
                    self.limits.events_patience
                };
                self.is_over = all_here || quiet > patience.as_nanos() as Nanoseconds;
            }
            _ => {}
        }
    }
}

impl Load for Watch {
    fn event(&mut self, link: usize, event: Event<'_>, now: Nanoseconds) {
        let token = match &event {
            Event::Message(token, _) | Event::End(token, _) => *token,
            Event::Open | Event::Draining => return,
        };
        if let Some(number) = token.checked_sub(self.first_token) {
            self.stream_event(number as usize, &event, now);
        } else if let Some(writers) = &mut self.writers {
            writers.event(link, event, now);
        }
    }

    fn lost(&mut self, link: usize, tokens: &[u32], reason: &str, now: Nanoseconds) {
        let (streams, writers): (Vec<u32>, Vec<u32>) =
            tokens.iter().partition(|token| **token >= self.first_token);
        for token in streams {
            self.stream_lost((token - self.first_token) as usize, reason);
        }
        if let Some(load) = &mut self.writers {
            load.lost(link, &writers, reason, now);
        }
    }

    fn after_events(&mut self, links: &mut Links, link: usize, now: Nanoseconds) {
        if let Some(writers) = &mut self.writers {
            writers.after_events(links, link, now);
        }
    }

    fn turn(&mut self, links: &mut Links, now: Nanoseconds) {
        self.now = now;
        if now >= self.next_glance {
            self.next_glance = now + GLANCE;
            self.open_streams(links);
        }
        if self.writers.is_none() && self.created == self.watcher_total() {
            for link in self.stalled_links.clone() {
                links.stall(link);
            }
            let first = self.stalled_links.end;
            self.writers = Some(Unary::new(
                &self.options,
                self.limits,
                0,
                1,
                links,
                first,
                now,
            ));
        }
        if let Some(writers) = &mut self.writers {
            writers.turn(links, now);
        }
        self.look_for_the_end(now);
    }

    fn deadline(&self) -> Nanoseconds {
        let writers = self.writers.as_ref().filter(|writers| !writers.is_done());
        let deadline = writers.map_or(Nanoseconds::MAX, Load::deadline);
        deadline.min(self.next_glance)
    }

    fn is_measuring(&self) -> bool {
        self.writers.as_ref().is_some_and(Load::is_measuring)
    }

    fn is_done(&self) -> bool {
        self.is_over
    }
}
