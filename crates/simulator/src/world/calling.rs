//! What clients and the run itself ask of nodes, and how their answers come back.
//!
//! A call's number says who asks: with the highest bit set an operator or the run, else a client,
//! by its lowest bits: the keyspace, and which client there. Between a node and its client's
//! connection lies another thread, which takes its time.

use std::time::Duration;

use node::{Answer, Call, CallId, Input};

use super::event::{What, World as Happening};
use super::spaces::{Asker, DEFAULT, Stage};
use super::{World, describe};
use crate::clients::End;
use crate::invariants::Violation;
use crate::trace::Kind;

/// Calls of operators have this bit set, those of clients not.
const OPERATOR: u64 = 1 << 63;
/// Bits of a call's number that name the client.
const CLIENT_BITS: u32 = 8;

/// Who asked this, if it was a client.
fn asker(id: CallId) -> Option<Asker> {
    let client = id.0 & ((1 << CLIENT_BITS) - 1);
    (id.0 & OPERATOR == 0).then(|| Asker::of(client))
}

/// Who it is, in a trace.
fn named(asker: Option<Asker>) -> Kind {
    asker.map_or(Kind::Run, |asker| Kind::Client(asker.number() as usize))
}

impl World {
    pub(super) fn client_asks(&mut self, asker: Asker) {
        let Asker { space, client } = asker;
        let asks = &mut self.spaces[space];
        let is_over = asks.stage == Stage::Dropped;
        if !self.clients_ask || is_over || asks.clients.clients[client].pending.is_some() {
            return;
        }
        let host = asks.clients.choose_host(client, self.hosts.len());
        if self.hosts[host].node.is_none() || self.hosts[host].is_given_up {
            asks.clients.unreachable(client);
            self.next_question(asker);
            return;
        }
        let group = asks.group;
        let newest = self.revisions_of(space).newest();
        let request = self.spaces[space].clients.draw(self.now, client, newest);
        if let etcd::Request::LeaseRevoke(revoke) = &request
            && let Some(group) = group
        {
            let leases = &mut self.invariants.of_mut(group).leases;
            leases.revoking(state::LeaseId(revoke.id));
        }
        self.calls += 1;
        let id = CallId(self.calls << CLIENT_BITS | asker.number());
        let at = self.now.since(self.began);
        self.trace.line(at, named(Some(asker)), || {
            format!("asks n{}: {}", host + 1, describe::request(&request))
        });
        let call = Call::Etcd(request.clone());
        let call = self.spaces[space].within(call);
        self.spaces[space]
            .clients
            .asked(self.now, client, host, id, request, newest);
        let trip = Duration::from_micros(50);
        let call = Box::new(call);
        self.on_host(trip, host, What::Call { id, call });
        let clients = &mut self.spaces[space].clients;
        let patience = Duration::from_micros(clients.patience());
        if !std::mem::replace(&mut clients.clients[client].is_timed, true) {
            self.schedule(patience, Happening::Patience(asker));
        }
    }

    pub(super) fn next_question(&mut self, asker: Asker) {
        let clients = &mut self.spaces[asker.space].clients;
        let pause = clients.pause(self.now, asker.client);
        self.schedule(Duration::from_micros(pause), Happening::Client(asker));
    }

    /// Ends what a client has waited for too long. One look is planned for each client, and not one
    /// for each question: nearly all are answered long before.
    pub(super) fn look_at_patience(&mut self, asker: Asker) {
        let clients = &mut self.spaces[asker.space].clients;
        let patience = Duration::from_micros(clients.patience());
        let client = &mut clients.clients[asker.client];
        client.is_timed = false;
        let Some(pending) = &client.pending else {
            return;
        };
        let ends = pending.asked + patience;
        if self.now < ends {
            client.is_timed = true;
            return self.schedule_at(ends, Happening::Patience(asker));
        }
        let (host, id) = (pending.host, pending.call);
        self.client_ends(asker, End::Lost("the client's patience ended"));
        self.deliver(host, Input::Forget { id });
    }

    pub(super) fn client_ends(&mut self, asker: Asker, end: End) {
        let at = self.elapsed();
        if self.trace.keeps_lines()
            && let End::Lost(reason) = &end
        {
            self.trace
                .line(at, named(Some(asker)), || (*reason).to_owned());
        }
        let space = &mut self.spaces[asker.space];
        let revisions = match space.group {
            Some(group) => &mut self.invariants.of_mut(group).revisions,
            None => &mut self.nothing,
        };
        let ended = space
            .clients
            .ended(self.now, asker.client, end, revisions, &mut self.marks);
        match ended {
            Err(violation) => self.fail(violation),
            Ok(true) => self.next_question(asker),
            Ok(false) => {}
        }
    }

    /// An answer goes from a node to the connection it is for, which another thread serves.
    pub(super) fn hand_over_answer(&mut self, index: usize, id: CallId, mut answer: Answer) {
        let space = match asker(id) {
            Some(asker) => asker.space,
            None => self.asked_elsewhere.remove(&id).unwrap_or(DEFAULT),
        };
        self.answer_seen(index, space, &mut answer);
        match self.handing_over() {
            Duration::ZERO => self.answered(index, id, answer),
            late => self.on_host(late, index, What::Answer(id, Box::new(answer))),
        }
    }

    /// How long something takes from one machine of a node to another.
    pub(super) fn handing_over(&mut self) -> Duration {
        match self.scenario.machine.handing_over {
            0 => Duration::ZERO,
            most if self.is_calm => Duration::from_micros(most.min(50)),
            most => Duration::from_nanos(self.chaos.below(most * 1_000) + 1),
        }
    }

    pub(super) fn answered(&mut self, index: usize, id: CallId, answer: Answer) {
        let asker = asker(id);
        let at = self.elapsed();
        if self.trace.keeps_lines() {
            let text = describe::answer(&answer);
            self.trace.line(at, named(asker), || {
                format!("is told by n{}: {text}", index + 1)
            });
        }
        let Some(asker) = asker else {
            self.own_answers.insert(id, answer);
            return;
        };
        let clients = &self.spaces[asker.space].clients.clients;
        let waits = clients[asker.client].pending.as_ref();
        if waits.is_none_or(|pending| pending.call != id) {
            return;
        }
        match answer {
            Answer::Etcd(result) => self.client_ends(asker, End::Answered(result)),
            other => self.fail(Violation {
                invariant: "answers fit their questions",
                text: format!("{other:?}"),
            }),
        }
    }

    /// The calls under way at a host have no answer any more.
    pub(super) fn calls_lost(&mut self, host: usize) {
        for space in 0..self.spaces.len() {
            for client in 0..self.spaces[space].clients.clients.len() {
                let pending = self.spaces[space].clients.clients[client].pending.as_ref();
                if pending.is_some_and(|pending| pending.host == host) {
                    let asker = Asker { space, client };
                    self.client_ends(asker, End::Lost("the node is gone"));
                }
            }
        }
    }

    /// The run itself asks something of a node about a keyspace; the answer comes later.
    pub(crate) fn call_in(&mut self, space: usize, host: usize, call: Call) -> CallId {
        let call = self.spaces[space].within(call);
        let id = self.call(host, call);
        if space != DEFAULT {
            self.asked_elsewhere.insert(id, space);
        }
        id
    }

    /// The run itself asks something of a node; the answer comes later.
    pub(crate) fn call(&mut self, host: usize, call: Call) -> CallId {
        self.calls += 1;
        let id = CallId(OPERATOR | self.calls);
        let call = Box::new(call);
        self.on_host(Duration::from_micros(50), host, What::Call { id, call });
        id
    }
}
