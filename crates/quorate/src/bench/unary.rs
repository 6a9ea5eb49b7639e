//! Clients that ask and wait for the answer: put, get, txn and a mixture.
//!
//! ```text
//!   closed loop   answered ──> the next request at once          N requests under way, always
//!   open loop     request k is due at k / rate, whoever is free sends it; its latency counts
//!                 from when it was due, so a server that stalls cannot hide what waited for it
//! ```
//!
//! A client has a connection of its own choice and keeps to it. If that is lost, its request has
//! failed (and counts as failed: nobody knows whether it was done), and the client goes on with
//! the next connection that works, until its own is back.

use std::collections::VecDeque;
use std::time::Duration;

use super::books::{Books, Series};
use super::http2::{Event, Stream};
use super::keys::Keys;
use super::latency::Nanoseconds;
use super::limits::Limits;
use super::links::{Links, Load};
use super::messages::{self, Message, paths};
use super::options::{Bench, Workload};

/// How often it is looked whether requests have been waiting too long.
const GLANCE: Nanoseconds = 100_000_000;

/// One client.
#[derive(Clone, Copy, Debug)]
struct Client {
    /// The link that it prefers.
    home: usize,
    /// What it waits for.
    waits: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    link: usize,
    stream: Stream,
    /// When the request was due.
    due: Nanoseconds,
    sent: Nanoseconds,
    is_read: bool,
    /// A read has found its key.
    has_found: bool,
}

/// A thread's share of the run.
#[derive(Debug)]
pub(crate) struct Unary {
    workload: Workload,
    serializable: bool,
    read_share: f64,
    /// Links below this one are others'.
    first_link: usize,
    limits: Limits,
    timeout: Nanoseconds,
    /// Between two requests of the schedule; 0: no schedule.
    interval: f64,
    /// How many requests are to be sent; none beyond `end`.
    total: u64,
    measured_from: Nanoseconds,
    end: Nanoseconds,
    began: Nanoseconds,
    /// When it had its turn.
    now: Nanoseconds,
    keys: Keys,
    random: fastrand::Rng,
    message: Message,
    clients: Vec<Client>,
    /// Clients that have nothing to do yet, or nowhere to go.
    idle: VecDeque<u32>,
    /// Clients that rest after an error, and until when.
    resting: VecDeque<(Nanoseconds, u32)>,
    /// Clients whose answer came in the events of this moment.
    answered: Vec<u32>,
    issued: u64,
    waiting: usize,
    next_glance: Nanoseconds,
    /// Since when no link has worked.
    stranded_since: Option<Nanoseconds>,
    books: Books,
    unsent: u64,
    not_found: u64,
}

impl Unary {
    /// Share number `share` of `shares`, on the links from number `first_link` on, from a moment
    /// `began` on.
    pub(crate) fn new(
        options: &Bench,
        limits: Limits,
        share: usize,
        shares: usize,
        links: &Links,
        first_link: usize,
        began: Nanoseconds,
    ) -> Unary {
        let part =
            |whole: u64| whole / shares as u64 + u64::from((share as u64) < whole % shares as u64);
        let clients = part(options.clients as u64) as usize;
        let nanoseconds = |duration: Duration| duration.as_nanos() as Nanoseconds;
        let length = options.duration.map(nanoseconds);
        let total = match (options.total, options.duration) {
            (Some(total), _) => part(total),
            (None, Some(_)) => u64::MAX,
            (None, None) => part(options.default_total()),
        };
        let warm_up = nanoseconds(options.warm_up);
        let seed = 7 + share as u64;
        let names: &[&str] = match options.workload {
            Workload::Mixed => &["put", "get"],
            Workload::Watch => &["put"],
            workload => &[workload.operation()],
        };
        Unary {
            workload: options.workload,
            serializable: options.serializable,
            read_share: f64::from(options.reads) / 100.0,
            first_link,
            limits,
            timeout: nanoseconds(options.timeout),
            interval: options.rate.map_or(0.0, |rate| 1e9 * shares as f64 / rate),
            total,
            measured_from: began + warm_up,
            end: length.map_or(Nanoseconds::MAX, |length| began + warm_up + length),
            began,
            now: began,
            keys: Keys::new(options, seed),
            random: fastrand::Rng::with_seed(seed),
            message: Message::default(),
            clients: (0..clients)
                .map(|client| Client {
                    home: first_link + client % (links.count() - first_link),
                    waits: None,
                })
                .collect(),
            idle: (0..clients as u32).collect(),
            resting: VecDeque::new(),
            answered: Vec::new(),
            issued: 0,
            waiting: 0,
            next_glance: began + GLANCE,
            stranded_since: None,
            books: Books {
                series: names.iter().map(|name| Series::new(name)).collect(),
                ..Books::default()
            },
            unsent: 0,
            not_found: 0,
        }
    }

    /// How many operations have ended, and how many of them badly.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.books.operations, self.books.errors.total())
    }

    /// What there is to say when all is done.
    pub(crate) fn finish(mut self, links: &Links) -> Books {
        self.books.take_losses(links);
        let mut note = |name, count| {
            if count > 0 {
                self.books.counts.insert(name, count);
            }
        };
        note("reads that found no key", self.not_found);
        note("requests due and never sent", self.unsent);
        self.books
    }

    /// When the next request is due, if there is one to send at this moment.
    fn next_due(&self, now: Nanoseconds) -> Option<Nanoseconds> {
        if self.issued >= self.total || now >= self.end || self.books.aborted.is_some() {
            return None;
        }
        let due = self.scheduled(self.issued).unwrap_or(now);
        (due <= now).then_some(due)
    }

    /// When a request of the schedule is due; `None` without a schedule.
    fn scheduled(&self, number: u64) -> Option<Nanoseconds> {
        (self.interval > 0.0).then(|| self.began + (number as f64 * self.interval) as Nanoseconds)
    }

    /// Nothing more will be sent.
    fn is_all_sent(&self, now: Nanoseconds) -> bool {
        self.issued >= self.total || now >= self.end || self.books.aborted.is_some()
    }

    /// Gives a free client its next request, or lets it wait for one.
    fn employ(&mut self, links: &mut Links, client: u32, now: Nanoseconds) {
        let link = self
            .next_due(now)
            .and_then(|due| Some((due, self.link_for(links, client)?)));
        match link {
            Some((due, link)) => self.send(links, client, link, due, now),
            None => self.idle.push_back(client),
        }
    }

    /// The client's own link, or the next one that works.
    fn link_for(&mut self, links: &Links, client: u32) -> Option<usize> {
        let home = self.clients[client as usize].home;
        if links.has_room(home) {
            return Some(home);
        }
        let count = links.count() - self.first_link;
        (1..count)
            .map(|step| self.first_link + (home - self.first_link + step) % count)
            .find(|link| links.has_room(*link))
    }

    fn send(
        &mut self,
        links: &mut Links,
        client: u32,
        link: usize,
        due: Nanoseconds,
        now: Nanoseconds,
    ) {
        let is_read = match self.workload {
            Workload::Get => true,
            Workload::Mixed => self.random.f64() < self.read_share,
            _ => false,
        };
        if self.workload == Workload::Watch {
            self.keys.stamp(due);
        }
        let (key, value) = self.keys.pick(self.issued);
        let message = self.message.begin();
        let path = if is_read {
            messages::range(message, key, self.serializable);
            paths::RANGE
        } else if self.workload == Workload::Txn {
            messages::txn(message, key, value);
            paths::TXN
        } else {
            messages::put(message, key, value);
            paths::PUT
        };
        let stream = links.open(link, client, path, message.end(), true);
        self.clients[client as usize].waits = Some(Waiting {
            link,
            stream,
            due,
            sent: now,
            is_read,
            has_found: false,
        });
        self.issued += 1;
        self.waiting += 1;
    }

    /// A client's request has ended.
    fn ended(&mut self, client: u32, outcome: Result<(), &str>, now: Nanoseconds) {
        let Some(waiting) = self.clients[client as usize].waits.take() else {
            return;
        };
        self.waiting -= 1;
        match outcome {
            Ok(()) => {
                self.books.operations += 1;
                let is_counted = waiting.due >= self.measured_from;
                if is_counted {
                    let series = usize::from(waiting.is_read && self.workload == Workload::Mixed);
                    self.books.series[series].record(waiting.due, now);
                }
                self.not_found += u64::from(waiting.is_read && !waiting.has_found);
                self.answered.push(client);
            }
            Err(text) => {
                self.books.errors.count(text, 1, self.limits.error_texts);
                let rest = self.limits.rest.as_nanos() as Nanoseconds;
                self.resting.push_back((now + rest, client));
            }
        }
    }

    /// Gives up what has waited too long, and the whole run if no link works.
    fn glance(&mut self, links: &mut Links, now: Nanoseconds) {
        self.next_glance = now + GLANCE;
        let late = format!("no answer within {:?}", Duration::from_nanos(self.timeout));
        for client in 0..self.clients.len() {
            if let Some(waiting) = self.clients[client].waits
                && now.saturating_sub(waiting.sent) > self.timeout
            {
                links.cancel(waiting.link, waiting.stream);
                self.ended(client as u32, Err(&late), now);
            }
        }
        let works =
            self.waiting > 0 || (self.first_link..links.count()).any(|link| links.has_room(link));
        if works {
            self.stranded_since = None;
        } else if now - *self.stranded_since.get_or_insert(now) > self.timeout {
            self.books.aborted = Some("no endpoint can be reached any more".to_owned());
        }
    }
}

impl Load for Unary {
    fn event(&mut self, _link: usize, event: Event<'_>, now: Nanoseconds) {
        match event {
            Event::Message(client, message) => {
                if let Some(waiting) = &mut self.clients[client as usize].waits {
                    waiting.has_found = waiting.is_read && messages::has_key(message);
                }
            }
            Event::End(client, outcome) => {
                self.ended(
                    client,
                    outcome.as_ref().copied().map_err(String::as_str),
                    now,
                );
            }
            Event::Open | Event::Draining => {}
        }
    }

    fn lost(&mut self, _link: usize, tokens: &[u32], reason: &str, now: Nanoseconds) {
        let text = format!("connection lost: {reason}");
        for client in tokens {
            self.ended(*client, Err(&text), now);
        }
    }

    fn after_events(&mut self, links: &mut Links, _link: usize, now: Nanoseconds) {
        let mut answered = std::mem::take(&mut self.answered);
        for client in answered.drain(..) {
            self.employ(links, client, now);
        }
        self.answered = answered;
    }

    fn turn(&mut self, links: &mut Links, now: Nanoseconds) {
        self.now = now;
        while let Some((until, client)) = self.resting.front().copied()
            && until <= now
        {
            self.resting.pop_front();
            self.employ(links, client, now);
        }
        for _ in 0..self.idle.len() {
            if self.next_due(now).is_none() {
                break;
            }
            if let Some(client) = self.idle.pop_front() {
                self.employ(links, client, now);
            }
        }
        if now >= self.next_glance {
            self.glance(links, now);
        }
        if self.is_all_sent(now) && self.waiting == 0 && self.interval > 0.0 {
            let due = (self.end.min(now) - self.began) as f64 / self.interval;
            self.unsent = (due as u64).min(self.total).saturating_sub(self.issued);
        }
    }

    fn deadline(&self) -> Nanoseconds {
        let mut deadline = self.next_glance;
        if self.end > self.now {
            deadline = deadline.min(self.end);
        }
        if let Some((until, _)) = self.resting.front() {
            deadline = deadline.min(*until);
        }
        let can_send = !self.idle.is_empty() && self.issued < self.total;
        match self.scheduled(self.issued) {
            Some(due) if can_send => deadline.min(due),
            _ => deadline,
        }
    }

    fn is_measuring(&self) -> bool {
        self.now >= self.measured_from && !self.is_done()
    }

    fn is_done(&self) -> bool {
        self.waiting == 0 && self.is_all_sent(self.now)
    }
}
