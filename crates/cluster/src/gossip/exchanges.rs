//! Exchanges over a stream: joining, comparing all that is known, a ping where packets get lost,
//! and the goodbye.
//!
//! Two members that compare everything heal what packets have lost, and whole groups that had
//! taken each other for dead: each interval one dead member is asked too. Groups that came to be
//! while they were cut off from each other have never heard of each other: so is somebody at an
//! address to join through where nobody is known to be present.

use std::net::SocketAddr;
use std::time::Duration;

use base::mutant::{self, Mutant};
use base::{Instant, NodeId};
use bytes::Bytes;

use super::member::{Member, State};
use super::message::{self, Claim, Kind, Message, Profile, encode_head};
use super::{Event, ExchangeId, Gossip, Output, Refusal, StreamId, seal};

/// What an exchange that is under way is for.
#[derive(Debug)]
pub(super) enum Purpose {
    Join(SocketAddr),
    Sync,
    /// The answer counts as the ping's with this number.
    Ping(u32),
}

/// How long an attempt to join is waited for before the next.
const JOIN_AGAIN: Duration = Duration::from_secs(3);
/// Members from which comparing gets rarer.
const MANY: f64 = 32.0;

impl Gossip {
    fn exchange(
        &mut self,
        purpose: Purpose,
        to: SocketAddr,
        bytes: Vec<u8>,
        out: &mut Vec<Output>,
    ) {
        let exchange = ExchangeId(self.next_exchange);
        self.next_exchange += 1;
        self.exchanges.insert(exchange, purpose);
        out.push(Output::Exchange {
            exchange,
            to,
            bytes,
        });
    }

    pub(super) fn exchange_asked(
        &mut self,
        now: Instant,
        stream: StreamId,
        from: SocketAddr,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let bytes = match message.kind {
            Kind::Sync => {
                self.merge(now, message, out);
                self.everything()
            }
            Kind::Ping { sequence, target } if target == self.me => {
                let wall = self.wall;
                // Whoever asks may be anybody: there is no news for it.
                self.bare(Kind::Ack { sequence, wall })
            }
            _ => {
                let reason = Refusal::OutOfPlace;
                out.push(Output::Event(Event::Refused { from, reason }));
                return;
            }
        };
        out.push(Output::Answer { stream, bytes });
    }

    pub(super) fn exchange_done(
        &mut self,
        now: Instant,
        exchange: ExchangeId,
        answer: Option<Bytes>,
        out: &mut Vec<Output>,
    ) {
        let Some(purpose) = self.exchanges.remove(&exchange) else {
            return;
        };
        let from = match &purpose {
            Purpose::Join(address) => *address,
            Purpose::Sync | Purpose::Ping(_) => self.address,
        };
        let message = answer.and_then(|bytes| self.opened(from, &bytes, out));
        match (purpose, message) {
            (Purpose::Join(_) | Purpose::Sync, Some(message)) if message.kind == Kind::Sync => {
                self.merge(now, message, out);
            }
            (Purpose::Join(address), _) => out.push(Output::Event(Event::JoinFailed(address))),
            (Purpose::Ping(asked), Some(message)) => {
                if let Kind::Ack { sequence, .. } = message.kind
                    && sequence == asked
                {
                    self.acknowledged(sequence, out);
                }
            }
            (Purpose::Sync | Purpose::Ping(_), _) => {}
        }
    }

    pub(super) fn ping_by_stream(
        &mut self,
        target: NodeId,
        to: SocketAddr,
        sequence: u32,
        out: &mut Vec<Output>,
    ) {
        let bytes = self.sealed(Kind::Ping { sequence, target }, None);
        self.exchange(Purpose::Ping(sequence), to, bytes, out);
    }

    /// Nobody else is present.
    pub(super) fn wants_to_join(&self) -> bool {
        !self.seeds.is_empty() && self.roster.present() <= 1 && self.leaving_until.is_none()
    }

    pub(super) fn join(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.wants_to_join() || now < self.next_join {
            return;
        }
        self.next_join = now + self.around(JOIN_AGAIN);
        let own = self.address;
        for seed in self.seeds.clone() {
            if seed != own {
                let bytes = self.everything();
                self.exchange(Purpose::Join(seed), seed, bytes, out);
            }
        }
    }

    /// Compares with somebody, and now and then with somebody who is thought to be dead.
    pub(super) fn sync(&mut self, now: Instant, out: &mut Vec<Output>) {
        if now < self.sync_at() {
            return;
        }
        self.last_sync = now;
        let interval = self.sync_interval();
        self.next_sync = now + self.around(interval);
        self.forget(now);
        let me = self.me;
        let other = |member: &Member| member.state == State::Alive && member.node != me;
        let mut chosen = self.roster.draw(1, &mut self.random, other);
        let forsakes = mutant::is_on(Mutant::ForsakeTheDead);
        let dead = |member: &Member| member.state == State::Dead && !forsakes;
        chosen.extend(self.roster.draw(1, &mut self.random, dead));
        for node in chosen {
            let to = self
                .roster
                .get(node)
                .expect("drawn from the roster")
                .address;
            let bytes = self.everything();
            self.exchange(Purpose::Sync, to, bytes, out);
        }
        if let Some(to) = self.unknown_seed() {
            let bytes = self.everything();
            self.exchange(Purpose::Sync, to, bytes, out);
        }
    }

    /// One of the addresses to join through at which nobody is known to be present, or dead.
    fn unknown_seed(&mut self) -> Option<SocketAddr> {
        let known = |seed: &SocketAddr| {
            let mut at = self.roster.iter().filter(|one| one.address == *seed);
            *seed == self.address || at.any(|one| one.state != State::Left)
        };
        let unknown: Vec<SocketAddr> = self.seeds.iter().copied().filter(|at| !known(at)).collect();
        let count = unknown.len() as u64;
        (count > 0).then(|| unknown[self.random.below(count) as usize])
    }

    /// When to compare next: soon, if there is more to pass on than packets can carry.
    pub(super) fn sync_at(&self) -> Instant {
        if self.news.len() <= self.config.news_backlog {
            return self.next_sync;
        }
        let hurried = self.last_sync + self.config.hurried_sync_interval;
        self.next_sync.min(hurried)
    }

    /// In a large cluster each exchange is larger, so there are fewer.
    fn sync_interval(&self) -> Duration {
        let members = self.roster.present() as f64;
        let factor = if members <= MANY {
            1.0
        } else {
            (members / MANY).log2().ceil() + 1.0
        };
        self.config.sync_interval.mul_f64(factor)
    }

    fn forget(&mut self, now: Instant) {
        let after = self.config.forget_dead_after;
        let is_over = |member: &&Member| {
            !super::roster::is_present(member.state) && now.since(member.since) >= after
        };
        let over: Vec<NodeId> = self
            .roster
            .iter()
            .filter(is_over)
            .map(|gone| gone.node)
            .collect();
        for node in over {
            self.roster.forget(node);
            self.news.remove(node);
        }
    }

    /// All that this member knows, itself first, as far as it fits.
    pub(super) fn everything(&mut self) -> Vec<u8> {
        let mut claims = Vec::new();
        let mut count = 0u32;
        let around = message::HEAD_BYTES + seal::OVERHEAD_BYTES;
        let room = self.config.limits.sync_bytes.saturating_sub(around);
        let others = self.roster.iter().filter(|other| other.node != self.me);
        for member in self.roster.get(self.me).into_iter().chain(others) {
            let (node, incarnation, by) = (member.node, member.incarnation, self.me);
            let alive = || {
                Claim::Alive(Box::new(Profile {
                    node,
                    incarnation,
                    name: member.name.clone(),
                    address: member.address,
                    facts: member.facts.clone(),
                }))
            };
            let (one, other) = match member.state {
                State::Alive => (alive(), None),
                State::Suspect => (
                    alive(),
                    Some(Claim::Suspect {
                        node,
                        incarnation,
                        by,
                    }),
                ),
                State::Dead => (
                    Claim::Dead {
                        node,
                        incarnation,
                        by,
                    },
                    None,
                ),
                State::Left => (Claim::Left { node, incarnation }, None),
            };
            let fits_until = claims.len();
            let mut of_member = 0;
            for claim in std::iter::once(one).chain(other) {
                claim.encode(&mut claims);
                of_member += 1;
            }
            if claims.len() > room {
                claims.truncate(fits_until);
                break;
            }
            count += of_member;
        }
        let mut body = Vec::with_capacity(claims.len() + 64);
        encode_head(self.cluster, self.me, Kind::Sync, count, &mut body);
        body.extend_from_slice(&claims);
        self.sealer.seal(&body)
    }

    /// Takes over what another member knows. Whom it thinks dead is only suspected here: it may
    /// still deny it, and after a partition it does.
    fn merge(&mut self, now: Instant, message: Message, out: &mut Vec<Output>) {
        for claim in message.claims {
            let claim = match claim {
                Claim::Dead {
                    node, incarnation, ..
                } => Claim::Suspect {
                    node,
                    incarnation,
                    by: message.sender,
                },
                other => other,
            };
            self.claim(now, claim, out);
        }
    }

    /// Tells many at once, so that the process may end soon; they pass it on.
    pub(super) fn leave(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.leaving_until.is_some() {
            return;
        }
        self.leaving_until = Some(now + self.config.leave_patience);
        let (node, incarnation) = (self.me, self.incarnation);
        self.tell(&Claim::Left { node, incarnation });
        let other =
            |member: &Member| super::roster::is_present(member.state) && member.node != node;
        let told = self
            .roster
            .draw(self.config.goodbyes, &mut self.random, other);
        for other in told {
            let member = self.roster.get(other).expect("drawn from the roster");
            let to = member.address;
            // The first few of these count as enough: the goodbye is written into the others too.
            if self.news.sent(node).is_none() {
                self.tell(&Claim::Left { node, incarnation });
            }
            let bytes = self.sealed(Kind::News, Some(node));
            out.push(Output::Packet { to, bytes });
        }
    }

    pub(super) fn finish_leaving(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(until) = self.leaving_until else {
            return;
        };
        let has_been_told = self.news.sent(self.me).is_none() || self.roster.present() <= 1;
        if has_been_told || until <= now {
            self.has_left = true;
            out.push(Output::Left);
        }
    }
}
