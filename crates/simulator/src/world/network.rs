//! Connections as TCP gives them, and what happens to them.
//!
//! ```text
//!  dialer's end ──frames in order──▶ acceptor's end          a cut link holds frames back; what is
//!               ◀─frames in order──                          held too long breaks the connection
//! ```
//!
//! Frames of one connection arrive in order or not at all; frames of two connections between the
//! same nodes may overtake each other. The engine's contract is weaker than that: its messages may
//! be lost, doubled, overtaken and repeated, so the network does that to them as well, and to
//! nothing else. A process that dies closes its connections; a machine that loses power does not.

use std::time::Duration;

use base::{Instant, NodeId, Random};
use bytes::Bytes;
use node::{ConnectionId, DialId, Input};

use super::World;
use super::event::{What, World as Event};
use super::host::address;
use crate::invariants::groups::Said;
use crate::marks::Mark;
use crate::scenario::{self, Shape, Who};
use crate::trace::Kind;

const MILLION: u64 = 1_000_000;
/// A frame between engines (see `node::wire`): the only kind whose loss or repetition is allowed.
const ENGINE: u8 = 8;
/// Old messages kept for coming again.
const REPLAYS_MAX: usize = 256;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) host: usize,
    life: u64,
    other: ConnectionId,
    other_host: usize,
    dial: Option<DialId>,
    is_open: bool,
    /// Its node has been told of it.
    is_up: bool,
    /// It is about to be closed: nothing more is sent.
    is_ending: bool,
    /// When the last frame from here arrives: frames do not overtake each other.
    busy_until: Instant,
    /// Frames that wait for a cut link.
    held: Vec<Bytes>,
    /// When the first frame from here arrives: who is there must be said before anything else.
    first: Option<Instant>,
}

/// An engine message that comes again later.
#[derive(Debug)]
pub(crate) struct Replay {
    from: (usize, NodeId),
    to: (usize, NodeId),
    body: Bytes,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) plan: scenario::Network,
    pub(crate) random: Random,
    ends: Vec<End>,
    /// Open ends by host, so that closing a host costs no search through the past.
    open: Vec<Vec<ConnectionId>>,
    /// By sender and receiver: how many faults cut this link.
    cuts: Vec<u32>,
    hosts: usize,
    /// What each fault cut.
    by_fault: Vec<(usize, Vec<(usize, usize)>)>,
    replays: Vec<Option<Replay>>,
}

impl Network {
    pub(crate) fn new(plan: scenario::Network, random: Random, hosts: usize) -> Network {
        Network {
            plan,
            random,
            ends: Vec::new(),
            open: vec![Vec::new(); hosts],
            cuts: vec![0; hosts * hosts],
            hosts,
            by_fault: Vec::new(),
            replays: Vec::new(),
        }
    }

    /// Who is at the other end of a connection, and in which life.
    fn other(&self, connection: ConnectionId) -> (usize, u64) {
        let other = self.end(self.end(connection).other);
        (other.host, other.life)
    }

    fn end(&self, id: ConnectionId) -> &End {
        &self.ends[id.0 as usize]
    }

    fn end_mut(&mut self, id: ConnectionId) -> &mut End {
        &mut self.ends[id.0 as usize]
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from * self.hosts + to] > 0
    }

    fn happens(&mut self, share: u64) -> bool {
        share > 0 && self.random.below(MILLION) < share
    }

    fn delay(&mut self) -> Duration {
        let jitter = self.random.below(self.plan.jitter * 1000 + 1);
        let mut delay = Duration::from_micros(self.plan.delay) + Duration::from_nanos(jitter);
        if self.happens(self.plan.tail_share) {
            delay += Duration::from_micros(self.random.below(self.plan.tail + 1));
        }
        delay
    }

    /// Whether an end is still open at a host of this life.
    pub(crate) fn is_open(&self, id: ConnectionId) -> bool {
        self.end(id).is_open
    }

    /// Faults are over: what is said arrives, soon and once.
    pub(crate) fn calm(&mut self) {
        self.plan.tail_share = 0;
        self.plan.break_share = 0;
        self.plan.duplicate_share = 0;
        self.plan.replay_share = 0;
        self.plan.reorder_share = 0;
        self.plan.loss_share = 0;
        self.replays.iter_mut().for_each(|replay| *replay = None);
    }
}

impl World {
    /// A node wants a connection.
    pub(crate) fn dial(&mut self, host: usize, dial: DialId) {
        let Some(wanted) = self.hosts[host].dials.get(&dial) else {
            return;
        };
        let mut open = self.network.open[host].iter();
        if open.any(|id| self.network.end(*id).dial == Some(dial)) {
            return;
        }
        let target = (0..self.hosts.len()).find(|each| address(*each) == *wanted);
        let reachable = target.filter(|target| {
            self.hosts[*target].node.is_some()
                && !self.network.is_cut(host, *target)
                && !self.network.is_cut(*target, host)
        });
        let Some(target) = reachable else {
            let pause = Duration::from_micros(50_000 + self.network.random.below(200_000));
            self.on_host(pause, host, What::Dial(dial));
            return;
        };
        let near = ConnectionId(self.network.ends.len() as u64);
        let far = ConnectionId(near.0 + 1);
        for (own, other, at, to, dial) in [
            (near, far, host, target, Some(dial)),
            (far, near, target, host, None),
        ] {
            self.network.ends.push(End {
                host: at,
                life: self.hosts[at].life,
                other,
                other_host: to,
                dial,
                is_open: true,
                is_up: false,
                is_ending: false,
                busy_until: self.now,
                held: Vec::new(),
                first: None,
            });
            self.network.open[at].push(own);
        }
        let trip = self.network.delay();
        for (id, delay, dial) in [(far, trip, None), (near, trip * 2, Some(dial))] {
            let at = self.now + delay;
            let (host, other) = (self.network.end(id).host, self.network.end(id).other);
            // Nothing from the other end arrives before the connection itself.
            let busy = &mut self.network.end_mut(other).busy_until;
            *busy = (*busy).max(at + Duration::from_nanos(1));
            let what = What::Connected {
                connection: id,
                dial,
            };
            self.on_host_at(at, host, what);
        }
    }

    /// A connection is up at this end, unless it is over already.
    pub(crate) fn connected(&mut self, connection: ConnectionId, dial: Option<DialId>) {
        let end = self.network.end_mut(connection);
        if end.is_open {
            end.is_up = true;
            let host = end.host;
            self.deliver(host, Input::Connected { connection, dial });
        }
    }

    /// A node sends a frame.
    pub(crate) fn send(&mut self, connection: ConnectionId, body: Bytes) {
        self.send_looked_at(connection, body, None);
    }

    /// A node sends a frame; what it says may be known already.
    pub(crate) fn send_looked_at(
        &mut self,
        connection: ConnectionId,
        body: Bytes,
        said: Option<Said>,
    ) {
        let end = self.network.end(connection);
        if !end.is_open || end.is_ending {
            return;
        }
        let (from, to) = (end.host, end.other_host);
        let is_engine = body.first() == Some(&ENGINE);
        let is_heard = self.hearer(connection).is_some();
        if is_engine && is_heard && self.observe_frame((from, to), &body, said) {
            return;
        }
        if self.network.is_cut(from, to) {
            if self.network.end(connection).held.is_empty() {
                let timeout = Duration::from_micros(self.network.plan.timeout);
                self.on_host(timeout, from, What::TimedOut(connection));
            }
            self.network.end_mut(connection).held.push(body);
            return;
        }
        if self.network.happens(self.network.plan.break_share) {
            self.break_connection(connection);
            return;
        }
        if is_engine {
            self.torment(connection, &body);
            if self.network.happens(self.network.plan.loss_share) {
                return;
            }
            if self.network.happens(self.network.plan.reorder_share) {
                let late = self.network.delay() * 3;
                self.arrive(connection, self.now + late, body);
                return;
            }
        }
        self.transmit(connection, body);
    }

    /// Which host hears what is sent over a connection: nobody if the process that it led to is
    /// gone. Whoever has come after that one on its host, perhaps as another node, is not meant.
    pub(crate) fn hearer(&self, connection: ConnectionId) -> Option<usize> {
        let (host, life) = self.network.other(connection);
        (self.hosts[host].life == life).then_some(host)
    }

    fn transmit(&mut self, connection: ConnectionId, body: Bytes) {
        let delay = self.network.delay();
        let now = self.now;
        let end = self.network.end_mut(connection);
        end.busy_until = end.busy_until.max(now + delay);
        let at = end.busy_until;
        end.first.get_or_insert(at);
        self.arrive(connection, at, body);
    }

    fn arrive(&mut self, connection: ConnectionId, at: Instant, body: Bytes) {
        let end = self.network.end(connection);
        let (from, to, other) = (end.host, end.other_host, end.other);
        let at = at.max(end.first.unwrap_or(at) + Duration::from_nanos(1));
        let arrives = at.since(self.began);
        self.trace_frame(from, to, arrives, &body);
        let what = What::Frame {
            connection: other,
            body,
        };
        self.on_host_at(at, to, what);
    }

    /// An engine's message may come twice, or again much later.
    fn torment(&mut self, connection: ConnectionId, body: &Bytes) {
        if self.network.happens(self.network.plan.duplicate_share) {
            let late = self.network.delay() * 2;
            self.arrive(connection, self.now + late, body.clone());
        }
        if self.network.happens(self.network.plan.replay_share)
            && self.network.replays.len() < REPLAYS_MAX
        {
            let end = self.network.end(connection);
            let (from, to) = (end.host, end.other_host);
            let ids = self.hosts[from].id().zip(self.hosts[to].id());
            if let Some((from_id, to_id)) = ids {
                self.network.replays.push(Some(Replay {
                    from: (from, from_id),
                    to: (to, to_id),
                    body: body.clone(),
                }));
                let index = self.network.replays.len() - 1;
                let late = Duration::from_micros(self.network.random.below(5 * MILLION));
                self.schedule(late, Event::Replay(index));
            }
        }
    }

    /// An old message comes again, if both nodes are still who they were.
    pub(crate) fn replay(&mut self, index: usize) {
        let Some(replay) = self.network.replays[index].take() else {
            return;
        };
        let same = |(host, id): (usize, NodeId)| self.hosts[host].id() == Some(id);
        if !same(replay.from) || !same(replay.to) {
            return;
        }
        let now = self.now;
        let ids = &self.network.open[replay.from.0];
        let connection = ids.iter().copied().find(|id| {
            let end = self.network.end(*id);
            end.other_host == replay.to.0 && end.first.is_some() && end.busy_until < now
        });
        if let Some(connection) = connection
            && !self.network.is_cut(replay.from.0, replay.to.0)
        {
            self.marks.reach(Mark::FrameReplayed);
            self.transmit(connection, replay.body);
        }
    }

    /// A frame has arrived at this end; whether anybody is there to take it.
    pub(crate) fn is_heard(&self, connection: ConnectionId, host: usize) -> bool {
        let end = self.network.end(connection);
        end.is_open && end.life == self.hosts[host].life
    }

    /// A connection with frames that do not get through is given up.
    pub(crate) fn timed_out(&mut self, connection: ConnectionId) {
        let end = self.network.end(connection);
        if end.is_open && !end.held.is_empty() {
            let other = end.other;
            self.close_end(connection, Duration::ZERO, false);
            let timeout = Duration::from_micros(self.network.plan.timeout);
            self.close_end(other, timeout, false);
        }
    }

    /// One end learns, after a while, that the connection is over.
    fn close_end(&mut self, id: ConnectionId, after: Duration, by_peer: bool) {
        let end = self.network.end_mut(id);
        end.is_ending = true;
        if end.is_open {
            let end = self.network.end(id);
            let host = end.host;
            let what = What::Closed {
                connection: id,
                by_peer,
            };
            let at = match by_peer {
                // What was sent before comes first.
                true => (self.now + after).max(self.network.end(end.other).busy_until),
                false => self.now + after,
            };
            self.on_host_at(at, host, what);
        }
    }

    /// An end is closed; its node hears of it and, if it dialed, dials again.
    pub(crate) fn closed(&mut self, id: ConnectionId, by_peer: bool) {
        let Some((host, dial)) = self.shut(id) else {
            return;
        };
        if self.network.end(id).is_up {
            let input = Input::Disconnected {
                connection: id,
                by_peer,
            };
            self.deliver(host, input);
        }
        if let Some(dial) = dial {
            let pause = Duration::from_micros(5_000 + self.network.random.below(50_000));
            self.on_host(pause, host, What::Dial(dial));
        }
    }

    fn shut(&mut self, id: ConnectionId) -> Option<(usize, Option<DialId>)> {
        let end = self.network.end_mut(id);
        if !std::mem::replace(&mut end.is_open, false) {
            return None;
        }
        end.held = Vec::new();
        let (host, dial) = (end.host, end.dial);
        self.network.open[host].retain(|open| *open != id);
        Some((host, dial))
    }

    /// A node closes a connection in good order.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        if self.network.is_open(connection) {
            let (from, to, other) = {
                let end = self.network.end(connection);
                (end.host, end.other_host, end.other)
            };
            let delay = self.network.delay();
            let is_cut = self.network.is_cut(from, to);
            self.close_end(connection, Duration::ZERO, false);
            match is_cut {
                false => self.close_end(other, delay, true),
                true => {
                    let timeout = Duration::from_micros(self.network.plan.timeout);
                    self.close_end(other, timeout, false);
                }
            }
        }
    }

    /// A connection is reset: both ends learn of it, what was on its way is lost.
    fn break_connection(&mut self, connection: ConnectionId) {
        let other = self.network.end(connection).other;
        let late = self.network.delay();
        let seen_as_theirs = self.network.random.below(2) == 0;
        // What is in flight is not waited for: it arrives at an end that is closed by then.
        self.network.end_mut(connection).busy_until = self.now;
        self.network.end_mut(other).busy_until = self.now;
        self.close_end(connection, Duration::ZERO, seen_as_theirs);
        self.close_end(other, late, !seen_as_theirs);
    }

    /// All connections of a host break.
    pub(crate) fn break_connections(&mut self, host: usize) {
        for connection in self.network.open[host].clone() {
            self.break_connection(connection);
        }
    }

    /// A hang-up: the node does not want this connection any more.
    pub(crate) fn hang_up(&mut self, host: usize, dial: DialId) {
        self.hosts[host].dials.remove(&dial);
        for connection in self.network.open[host].clone() {
            if self.network.end(connection).dial == Some(dial) {
                self.disconnect(connection);
            }
        }
    }

    /// The process on a host is gone. With its machine (`in_silence`), nobody is told.
    pub(crate) fn lose_connections(&mut self, host: usize, in_silence: bool) {
        for connection in self.network.open[host].clone() {
            let end = self.network.end(connection);
            let (other, to) = (end.other, end.other_host);
            self.shut(connection);
            let (after, by_peer) = match in_silence || self.network.is_cut(host, to) {
                true => (Duration::from_micros(self.network.plan.timeout), false),
                false => (self.network.delay(), true),
            };
            self.close_end(other, after, by_peer);
        }
    }

    /// Cuts the links of a shape, for the fault of this number.
    pub(crate) fn cut(&mut self, fault: usize, shape: Shape) {
        let pairs = self.pairs(shape);
        self.cut_links(fault, pairs);
    }

    /// Cuts links, each from one host to another, for the fault of this number.
    pub(crate) fn cut_links(&mut self, fault: usize, pairs: Vec<(usize, usize)>) {
        for (from, to) in &pairs {
            self.network.cuts[from * self.network.hosts + to] += 1;
        }
        self.network.by_fault.push((fault, pairs));
    }

    /// The links that a fault cut are whole again: what was held arrives.
    pub(crate) fn heal(&mut self, fault: usize) {
        let Some(at) = self
            .network
            .by_fault
            .iter()
            .position(|(by, _)| *by == fault)
        else {
            return;
        };
        let (_, pairs) = self.network.by_fault.swap_remove(at);
        for (from, to) in pairs {
            let cuts = &mut self.network.cuts[from * self.network.hosts + to];
            *cuts -= 1;
            if *cuts == 0 {
                self.release(from, to);
            }
        }
    }

    fn release(&mut self, from: usize, to: usize) {
        for connection in self.network.open[from].clone() {
            if self.network.end(connection).other_host == to {
                for body in std::mem::take(&mut self.network.end_mut(connection).held) {
                    self.transmit(connection, body);
                }
            }
        }
    }

    /// All links are whole again.
    pub(crate) fn heal_everything(&mut self) {
        let faults: Vec<usize> = self
            .network
            .by_fault
            .iter()
            .map(|(fault, _)| *fault)
            .collect();
        faults.into_iter().for_each(|fault| self.heal(fault));
    }

    fn pairs(&self, shape: Shape) -> Vec<(usize, usize)> {
        let count = self.hosts.len();
        let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let all = all.filter(|(from, to)| from != to);
        let one = |who: Who| self.whom(who).first().copied().unwrap_or(0);
        let leader = self.leader().unwrap_or(0);
        match shape {
            Shape::Isolated(who) => {
                let host = one(who);
                all.filter(|(from, to)| *from == host || *to == host)
                    .collect()
            }
            Shape::Mute(who) => {
                let host = one(who);
                all.filter(|(from, _)| *from == host).collect()
            }
            Shape::Deaf(who) => {
                let host = one(who);
                all.filter(|(_, to)| *to == host).collect()
            }
            Shape::Link(a, b) => {
                let (a, b) = (one(a), one(b));
                all.filter(|pair| *pair == (a, b) || *pair == (b, a))
                    .collect()
            }
            Shape::OneWay(a, b) => {
                let pair = (one(a), one(b));
                all.filter(|each| *each == pair).collect()
            }
            Shape::Split(mask) => {
                let side = |host: usize| mask >> host & 1;
                all.filter(|(from, to)| side(*from) != side(*to)).collect()
            }
            Shape::QuorumLoss => {
                let hub = (leader + 1) % count;
                all.filter(|(from, to)| *from != hub && *to != hub)
                    .collect()
            }
            Shape::ConstrainedElection => {
                let hub = (leader + 1) % count;
                let to_leader = |a: usize, b: usize| a == leader || b == leader;
                all.filter(|(from, to)| to_leader(*from, *to) || (*from != hub && *to != hub))
                    .collect()
            }
            Shape::Chained => all.filter(|(from, to)| from.abs_diff(*to) != 1).collect(),
        }
    }

    fn trace_frame(&mut self, from: usize, to: usize, arrives: Duration, body: &Bytes) {
        self.trace
            .mix(arrives.as_nanos() as u64 ^ (body.len() as u64) << 40);
        if self.trace.keeps_lines() {
            let at = self.elapsed();
            let text = super::describe::frame(body);
            self.trace
                .line(at, Kind::Frame { from, to, arrives }, || text);
        }
    }
}
