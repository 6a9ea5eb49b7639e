//! Probes: one member each interval, by ping, by others and by stream; and pings for others.

use std::net::SocketAddr;
use std::time::Duration;

use base::{Instant, NodeId, WallTime};

use super::member::{Measured, Member, State};
use super::message::Kind;
use super::{Event, Gossip, Output, Refusal, part_of};

/// The probe that is under way.
#[derive(Debug)]
pub(super) struct Probe {
    target: NodeId,
    pub(super) sequence: u32,
    begun: Instant,
    is_answered: bool,
    /// When others are asked to try, unless they have been.
    help_at: Option<Instant>,
    /// When the interval is over: an answer must have come by then.
    until: Instant,
    /// How many were asked, and how many of them said that they got no answer either.
    asked: u32,
    refused: u32,
}

impl Probe {
    pub(super) fn deadline(&self) -> Instant {
        match (self.is_answered, self.help_at) {
            (false, Some(help_at)) => help_at,
            _ => self.until,
        }
    }
}

/// A ping for somebody else.
#[derive(Debug)]
pub(super) struct Relay {
    origin: SocketAddr,
    sequence: u32,
    /// When the origin is told that there was no answer, unless it has been.
    refuse_at: Option<Instant>,
    /// When a late answer is of no use any more.
    until: Instant,
}

impl Relay {
    pub(super) fn deadline(&self) -> Instant {
        self.refuse_at.unwrap_or(self.until)
    }
}

impl Gossip {
    /// Goes on with the probe under way, or begins the next.
    pub(super) fn probe(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Some(probe) = &mut self.probe {
            if let Some(help_at) = probe.help_at
                && !probe.is_answered
                && help_at <= now
            {
                probe.help_at = None;
                self.ask_for_help(out);
            }
            self.end_probe(now, out);
        }
        if self.probe.is_none() && self.next_probe <= now {
            self.begin_probe(now, out);
        }
    }

    fn begin_probe(&mut self, now: Instant, out: &mut Vec<Output>) {
        let until = now + self.awareness.stretch(self.config.probe_interval);
        self.next_probe = until;
        let Some(target) = self.roster.next_to_probe(self.me, &mut self.random) else {
            return;
        };
        let sequence = self.next_sequence();
        self.probe = Some(Probe {
            target,
            sequence,
            begun: now,
            is_answered: false,
            help_at: Some(now + self.awareness.stretch(self.config.probe_timeout)),
            until,
            asked: 0,
            refused: 0,
        });
        self.ping(target, sequence, out);
    }

    fn ping(&mut self, target: NodeId, sequence: u32, out: &mut Vec<Output>) {
        let member = self
            .roster
            .get(target)
            .expect("who is probed is in the roster");
        let to = member.address;
        // The buddy system: a suspect hears of it with the probe, and can deny it at once.
        let is_suspect = member.state == State::Suspect;
        let first = (is_suspect && self.config.lifeguard_messages).then_some(target);
        if first.is_some() && self.news.sent(target).is_none() {
            let incarnation = member.incarnation;
            let by = self.me;
            self.tell(&super::Claim::Suspect {
                node: target,
                incarnation,
                by,
            });
        }
        let bytes = self.sealed(Kind::Ping { sequence, target }, first);
        out.push(Output::Packet { to, bytes });
    }

    /// Others try, and a stream: where only small things get through, or only packets are lost.
    fn ask_for_help(&mut self, out: &mut Vec<Output>) {
        let probe = self.probe.as_mut().expect("a probe is under way");
        let (target, sequence, me) = (probe.target, probe.sequence, self.me);
        let Some(address) = self.roster.get(target).map(|member| member.address) else {
            return;
        };
        let helps = |member: &Member| {
            member.state == State::Alive && member.node != me && member.node != target
        };
        let count = self.config.indirect_probes;
        let helpers = self.roster.draw(count, &mut self.random, helps);
        probe.asked = u32::try_from(helpers.len()).expect("a few helpers");
        for helper in helpers {
            let to = self
                .roster
                .get(helper)
                .expect("drawn from the roster")
                .address;
            let kind = Kind::PingRequest { sequence, target };
            let bytes = self.sealed(kind, None);
            out.push(Output::Packet { to, bytes });
        }
        self.ping_by_stream(target, address, sequence, out);
    }

    fn end_probe(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(probe) = self.probe.take_if(|probe| probe.until <= now) else {
            return;
        };
        if probe.is_answered {
            return;
        }
        // Helpers that say nothing at all speak against this member, not against the target.
        let silent = match self.config.lifeguard_messages && probe.asked > 0 {
            true => probe.asked - probe.refused,
            false => 1,
        };
        self.awareness.worse(silent);
        if let Some(member) = self.roster.get(probe.target) {
            let incarnation = member.incarnation;
            self.suspect(now, probe.target, incarnation, self.me, out);
        }
    }

    /// An answer to a probe of this member, or to one that it does for another.
    pub(super) fn acknowledged(&mut self, sequence: u32, out: &mut Vec<Output>) {
        if let Some(probe) = &mut self.probe
            && probe.sequence == sequence
        {
            if !probe.is_answered {
                probe.is_answered = true;
                self.awareness.better();
            }
        } else if let Some(relay) = self.relays.remove(&sequence) {
            let kind = Kind::Ack {
                sequence: relay.sequence,
                wall: self.wall,
            };
            let bytes = self.sealed(kind, None);
            out.push(Output::Packet {
                to: relay.origin,
                bytes,
            });
        }
    }

    /// An answer straight from whom this member has pinged shows how far away it is, and what its
    /// clock says.
    pub(super) fn measure(
        &mut self,
        now: Instant,
        sender: NodeId,
        sequence: u32,
        theirs: WallTime,
        out: &mut Vec<Output>,
    ) {
        let Some(probe) = &self.probe else {
            return;
        };
        if probe.sequence != sequence || probe.target != sender || probe.is_answered {
            return;
        }
        let taken = now.since(probe.begun);
        let half = i64::try_from(taken.as_millis() / 2).unwrap_or(i64::MAX);
        let ahead = theirs.0.wrapping_sub(self.wall.0).cast_signed();
        let clock_ahead_milliseconds = ahead.saturating_add(half);
        let tolerated = self.config.clock_tolerance + taken / 2;
        let apart = Duration::from_millis(clock_ahead_milliseconds.unsigned_abs());
        let Some(member) = self.roster.get_mut(sender) else {
            return;
        };
        let before = member.measured;
        let is_apart = apart > tolerated;
        let round_trip = before.map_or(taken, |before| (before.round_trip * 3 + taken) / 4);
        member.measured = Some(Measured {
            round_trip,
            clock_ahead_milliseconds,
            is_apart,
        });
        if is_apart && before.is_none_or(|before| !before.is_apart) {
            out.push(Output::Event(Event::ClockApart {
                node: sender,
                ahead_milliseconds: clock_ahead_milliseconds,
            }));
        }
    }

    pub(super) fn not_acknowledged(&mut self, sequence: u32) {
        if let Some(probe) = &mut self.probe
            && probe.sequence == sequence
        {
            probe.refused = (probe.refused + 1).min(probe.asked);
        }
    }

    /// Pings for `sender`, which is a member and is at `origin`: whoever is neither could have
    /// others attacked through this one.
    pub(super) fn ping_for(
        &mut self,
        now: Instant,
        (sender, origin): (NodeId, SocketAddr),
        sequence: u32,
        target: NodeId,
        out: &mut Vec<Output>,
    ) {
        if !self.roster.is_at(sender, origin) {
            return;
        }
        if self.relays.len() >= self.config.limits.relays {
            let (from, reason) = (origin, Refusal::TooManyRelays);
            out.push(Output::Event(Event::Refused { from, reason }));
            return;
        }
        // Where the roster says that it is, not where the packet would have it.
        let Some(to) = self.roster.get(target).map(|member| member.address) else {
            let bytes = self.bare(Kind::Nack { sequence });
            out.push(Output::Packet { to: origin, bytes });
            return;
        };
        let own = self.next_sequence();
        // A little earlier than the one who asked gives up.
        let refuse_at = now + self.config.probe_timeout.mul_f64(0.8);
        let relay = Relay {
            origin,
            sequence,
            refuse_at: self.config.lifeguard_messages.then_some(refuse_at),
            until: now + self.config.probe_interval,
        };
        self.relays.insert(own, relay);
        let kind = Kind::Ping {
            sequence: own,
            target,
        };
        let bytes = self.sealed(kind, None);
        out.push(Output::Packet { to, bytes });
    }

    /// Tells those who wait for somebody's answer that there is none.
    pub(super) fn relay(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut refusals = Vec::new();
        self.relays.retain(|_, relay| {
            if relay.refuse_at.take_if(|at| *at <= now).is_some() {
                refusals.push((relay.origin, relay.sequence));
            }
            relay.until > now
        });
        for (to, sequence) in refusals {
            let bytes = self.sealed(Kind::Nack { sequence }, None);
            out.push(Output::Packet { to, bytes });
        }
    }

    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// A moment within half an interval around it, so that members do not act in step.
    pub(super) fn around(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(0.75) + part_of(duration / 2, &mut self.random)
    }
}
