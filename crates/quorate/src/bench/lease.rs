//! Leases: granted, each kept alive at its own moment of every interval, and revoked in the end.
//!
//! ```text
//!   grant all ──> keep alive: lease k of N is due at k/N of every interval ──> revoke all
//!   closed loop   open loop: what the server owes does not wait for its answers
//! ```

use std::collections::HashMap;

use super::books::{Books, Series};
use super::http2::{Event, Stream};
use super::latency::Nanoseconds;
use super::limits::Limits;
use super::links::{Links, Load};
use super::messages::{self, Message, paths};
use super::options::Bench;

/// How long leases are kept alive if nobody says.
const DEFAULT_LENGTH: Nanoseconds = 10_000_000_000;
/// How often it is looked whether anything still happens.
const GLANCE: Nanoseconds = 50_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Grant,
    KeepAlive,
    Revoke,
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: u64,
    /// When the keep-alive was due that is not answered yet.
    waits_since: Option<Nanoseconds>,
}

/// What a client waits for in the phases that are closed loops.
#[derive(Clone, Copy, Debug)]
struct Asked {
    since: Nanoseconds,
    id: u64,
}

/// A thread's leases.
#[derive(Debug)]
pub(crate) struct Leases {
    limits: Limits,
    timeout: Nanoseconds,
    ttl_seconds: u64,
    wanted: usize,
    interval: f64,
    length: Nanoseconds,
    measured_from: Nanoseconds,
    keep_alives_max: u64,
    phase: Phase,
    /// When the phase began.
    began: Nanoseconds,
    now: Nanoseconds,
    clients: Vec<Option<Asked>>,
    /// How many grants or revokes of this phase were sent.
    asked: usize,
    waiting: usize,
    leases: Vec<Lease>,
    by_id: HashMap<u64, usize>,
    /// Link and stream of each keep-alive stream, while it is open.
    streams: Vec<(usize, Option<Stream>)>,
    keep_alives: u64,
    last_answer: Nanoseconds,
    message: Message,
    books: Books,
}

/// Places of the series in the books.
const GRANT: usize = 0;
const KEEP_ALIVE: usize = 1;
const REVOKE: usize = 2;

impl Leases {
    pub(crate) fn new(options: &Bench, limits: Limits, links: &Links) -> Leases {
        let now = links.now();
        let nanoseconds = |duration: std::time::Duration| duration.as_nanos() as Nanoseconds;
        let length = options.duration.map(nanoseconds);
        let warm_up = nanoseconds(options.warm_up);
        let endless = if options.total.is_some() {
            Nanoseconds::MAX
        } else {
            DEFAULT_LENGTH
        };
        Leases {
            limits,
            timeout: nanoseconds(options.timeout),
            ttl_seconds: options.ttl.as_secs(),
            wanted: options.leases,
            interval: nanoseconds(options.interval) as f64,
            length: length.unwrap_or(endless).saturating_add(warm_up),
            measured_from: warm_up,
            keep_alives_max: options.total.unwrap_or(u64::MAX),
            phase: Phase::Grant,
            began: now,
            now,
            clients: vec![None; options.clients],
            asked: 0,
            waiting: 0,
            leases: Vec::with_capacity(options.leases),
            by_id: HashMap::with_capacity(options.leases),
            streams: (0..options.stream_count())
                .map(|stream| (stream % links.count(), None))
                .collect(),
            keep_alives: 0,
            last_answer: now,
            message: Message::default(),
            books: Books {
                series: ["grant", "keep-alive", "revoke"].map(Series::new).to_vec(),
                ..Books::default()
            },
        }
    }

    /// How many operations have ended, and how many of them badly.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.books.operations, self.books.errors.total())
    }

    /// What there is to say when all is done.
    pub(crate) fn finish(mut self, links: &Links) -> Books {
        self.books.take_losses(links);
        let granted = self.by_id.len() as u64;
        self.books.counts.insert("leases", granted);
        self.books
    }

    fn error(&mut self, text: &str) {
        self.books.errors.count(text, 1, self.limits.error_texts);
    }

    /// Sends grants or revokes, one for each client that waits for nothing.
    fn ask(&mut self, links: &mut Links, now: Nanoseconds) {
        for client in 0..self.clients.len() {
            let id = match self.phase {
                Phase::Grant if self.asked < self.wanted => 0,
                Phase::Revoke if self.asked < self.leases.len() => self.leases[self.asked].id,
                _ => return,
            };
            let count = links.count();
            let link = (0..count)
                .map(|step| (client + step) % count)
                .find(|link| links.has_room(*link));
            let Some(link) = link else {
                return;
            };
            if self.clients[client].is_some() {
                continue;
            }
            let message = self.message.begin();
            let path = if self.phase == Phase::Grant {
                messages::grant(message, self.ttl_seconds);
                paths::LEASE_GRANT
            } else {
                messages::lease(message, id);
                paths::LEASE_REVOKE
            };
            links.open(link, client as u32, path, message.end(), true);
            self.clients[client] = Some(Asked { since: now, id });
            self.asked += 1;
            self.waiting += 1;
        }
    }

    /// A grant or a revoke has ended.
    fn answered(&mut self, client: usize, outcome: Result<(), &str>, now: Nanoseconds) {
        let Some(asked) = self.clients[client].take() else {
            return;
        };
        self.waiting -= 1;
        self.last_answer = now;
        if let Err(text) = outcome {
            return self.error(text);
        }
        self.books.operations += 1;
        let series = if self.phase == Phase::Grant {
            self.by_id.insert(asked.id, self.leases.len());
            self.leases.push(Lease {
                id: asked.id,
                waits_since: None,
            });
            GRANT
        } else {
            REVOKE
        };
        self.books.series[series].record(asked.since, now);
    }

    /// When the next keep-alive is due.
    fn due(&self) -> Nanoseconds {
        let step = self.interval / self.leases.len().max(1) as f64;
        self.began + (self.keep_alives as f64 * step) as Nanoseconds
    }

    fn is_kept_long_enough(&self, now: Nanoseconds) -> bool {
        now - self.began >= self.length || self.keep_alives >= self.keep_alives_max
    }

    /// Sends the keep-alives that are due.
    fn keep_alive(&mut self, links: &mut Links, now: Nanoseconds) {
        while !self.is_kept_long_enough(now) && self.due() <= now {
            let due = self.due();
            let number = (self.keep_alives % self.leases.len() as u64) as usize;
            self.keep_alives += 1;
            if self.leases[number].waits_since.is_some() {
                self.error("keep-alive not answered within the interval");
                self.leases[number].waits_since = None;
                continue;
            }
            let place = number % self.streams.len();
            let (link, stream) = self.streams[place];
            let message = self.message.begin();
            messages::lease(message, self.leases[number].id);
            match stream {
                Some(stream) => links.send(link, stream, message.end()),
                None if links.has_room(link) => {
                    let token = (self.clients.len() + place) as u32;
                    let path = paths::LEASE_KEEP_ALIVE;
                    let stream = links.open(link, token, path, message.end(), false);
                    self.streams[place].1 = Some(stream);
                }
                None => {
                    self.error("no connection for a keep-alive");
                    continue;
                }
            }
            self.leases[number].waits_since = Some(due);
        }
    }

    /// An answer on a keep-alive stream.
    fn kept(&mut self, message: &[u8], now: Nanoseconds) {
        let (id, seconds) = messages::leased(message);
        self.last_answer = now;
        let Some(lease) = self.by_id.get(&id).map(|number| &mut self.leases[*number]) else {
            return self.error("an answer for a lease that is not ours");
        };
        let Some(due) = lease.waits_since.take() else {
            return; // late, and counted as such
        };
        if seconds <= 0 {
            return self.error("lease expired although it was kept alive");
        }
        self.books.operations += 1;
        if due - self.began >= self.measured_from {
            self.books.series[KEEP_ALIVE].record(due, now);
        }
    }

    /// A keep-alive stream is gone, and with it the answers that it owed.
    fn stream_lost(&mut self, place: usize, reason: &str) {
        self.streams[place].1 = None;
        let count = self.streams.len();
        let mut lost = 0;
        for lease in self.leases.iter_mut().skip(place).step_by(count) {
            lost += u64::from(lease.waits_since.take().is_some());
        }
        if lost > 0 {
            let text = format!("keep-alive stream lost: {reason}");
            let texts_max = self.limits.error_texts;
            self.books.errors.count(&text, lost, texts_max);
        }
    }

    fn enter(&mut self, phase: Phase, links: &mut Links, now: Nanoseconds) {
        self.phase = phase;
        self.began = now;
        self.last_answer = now;
        self.asked = 0;
        if phase == Phase::Revoke {
            for (link, stream) in &mut self.streams {
                if let Some(stream) = stream.take() {
                    links.cancel(*link, stream);
                }
            }
        }
    }

    /// Goes on to the next phase when this one has nothing to wait for.
    fn advance(&mut self, links: &mut Links, now: Nanoseconds) {
        let is_silent = now.saturating_sub(self.last_answer) > self.timeout;
        match self.phase {
            Phase::Grant if self.asked == self.wanted && self.waiting == 0 => {
                let phase = if self.leases.is_empty() {
                    Phase::Over
                } else {
                    Phase::KeepAlive
                };
                self.enter(phase, links, now);
            }
            Phase::KeepAlive if self.is_kept_long_enough(now) => {
                let all_answered = self.leases.iter().all(|lease| lease.waits_since.is_none());
                if all_answered || is_silent {
                    self.enter(Phase::Revoke, links, now);
                }
            }
            Phase::Revoke if self.asked == self.leases.len() && self.waiting == 0 => {
                self.enter(Phase::Over, links, now);
            }
            Phase::Grant | Phase::Revoke if is_silent => {
                let text = format!("no answer within {} s", self.timeout / 1_000_000_000);
                self.books.aborted = Some(text);
                self.phase = Phase::Over;
            }
            _ => {}
        }
    }
}

impl Load for Leases {
    fn event(&mut self, _link: usize, event: Event<'_>, now: Nanoseconds) {
        let clients = self.clients.len();
        match event {
            Event::Message(token, message) => match (token as usize).checked_sub(clients) {
                Some(_) => self.kept(message, now),
                None => {
                    let (id, _) = messages::leased(message);
                    if let (Phase::Grant, Some(asked)) =
                        (self.phase, &mut self.clients[token as usize])
                    {
                        asked.id = id;
                    }
                }
            },
            Event::End(token, outcome) => match (token as usize).checked_sub(clients) {
                Some(place) => {
                    let reason = outcome.err().unwrap_or_else(|| "no error".to_owned());
                    self.stream_lost(place, &reason);
                }
                None => {
                    let outcome = outcome.as_ref().copied().map_err(String::as_str);
                    self.answered(token as usize, outcome, now);
                }
            },
            Event::Open | Event::Draining => {}
        }
    }

    fn lost(&mut self, _link: usize, tokens: &[u32], reason: &str, now: Nanoseconds) {
        let text = format!("connection lost: {reason}");
        for token in tokens {
            match (*token as usize).checked_sub(self.clients.len()) {
                Some(place) => self.stream_lost(place, reason),
                None => self.answered(*token as usize, Err(&text), now),
            }
        }
    }

    fn after_events(&mut self, links: &mut Links, _link: usize, now: Nanoseconds) {
        if self.phase != Phase::KeepAlive {
            self.ask(links, now);
        }
    }

    fn turn(&mut self, links: &mut Links, now: Nanoseconds) {
        self.now = now;
        self.advance(links, now);
        match self.phase {
            Phase::KeepAlive => self.keep_alive(links, now),
            _ => self.ask(links, now),
        }
    }

    fn deadline(&self) -> Nanoseconds {
        let glance = self.now + GLANCE;
        if self.phase == Phase::KeepAlive && !self.is_kept_long_enough(self.now) {
            return self.due().min(glance);
        }
        glance
    }

    fn is_measuring(&self) -> bool {
        self.phase == Phase::KeepAlive
            && self.now - self.began >= self.measured_from
            && !self.is_kept_long_enough(self.now)
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Over
    }
}
