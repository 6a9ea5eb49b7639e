//! What clients and the run itself ask of nodes, and how their answers come back.
//!
//! A call's number says who asks: with the highest bit set an operator or the run, else a client,
//! by its lowest bits. Between a node and its client's connection lies another thread, which takes
//! its time.

use std::time::Duration;

use node::{Answer, Call, CallId, Input};

use super::event::{What, World as Happening};
use super::{World, describe};
use crate::clients::End;
use crate::invariants::Violation;
use crate::trace::Kind;

/// Calls of operators have this bit set, those of clients not.
const OPERATOR: u64 = 1 << 63;
/// Bits of a call's number that name the client.
const CLIENT_BITS: u32 = 8;

impl World {
    pub(super) fn client_asks(&mut self, client: usize) {
        if !self.clients_ask || self.clients.clients[client].pending.is_some() {
            return;
        }
        let host = self.clients.choose_host(client, self.hosts.len());
        if self.hosts[host].node.is_none() || self.hosts[host].is_given_up {
            self.clients.unreachable(client);
            self.next_question(client);
            return;
        }
        let newest = self.invariants.revisions.newest();
        let request = self.clients.draw(self.now, client, newest);
        if let etcd::Request::LeaseRevoke(revoke) = &request {
            self.invariants.leases.revoking(state::LeaseId(revoke.id));
        }
        self.calls += 1;
        let id = CallId(self.calls << CLIENT_BITS | client as u64);
        let at = self.elapsed();
        self.trace.line(at, Kind::Client(client), || {
            format!("asks n{}: {}", host + 1, describe::request(&request))
        });
        let call = Box::new(Call::Etcd(request.clone()));
        self.clients
            .asked(self.now, client, host, id, request, newest);
        let trip = Duration::from_micros(50);
        self.on_host(trip, host, What::Call { id, call });
        let patience = Duration::from_micros(self.scenario.workload.patience);
        let turn = self.clients.clients[client].turn;
        self.schedule(patience, Happening::Patience { client, turn });
    }

    pub(super) fn next_question(&mut self, client: usize) {
        let pause = self.clients.pause(self.now, client);
        self.schedule(Duration::from_micros(pause), Happening::Client(client));
    }

    pub(super) fn patience_ends(&mut self, client: usize, turn: u64) {
        let waiting = &self.clients.clients[client];
        if waiting.turn != turn {
            return;
        }
        let Some(pending) = &waiting.pending else {
            return;
        };
        let (host, id) = (pending.host, pending.call);
        self.client_ends(client, End::Lost("the client's patience ended"));
        self.deliver(host, Input::Forget { id });
    }

    pub(super) fn client_ends(&mut self, client: usize, end: End) {
        let at = self.elapsed();
        if self.trace.keeps_lines()
            && let End::Lost(reason) = &end
        {
            self.trace
                .line(at, Kind::Client(client), || (*reason).to_owned());
        }
        let revisions = &mut self.invariants.revisions;
        let ended = self
            .clients
            .ended(self.now, client, end, revisions, &mut self.marks);
        match ended {
            Err(violation) => self.fail(violation),
            Ok(true) => self.next_question(client),
            Ok(false) => {}
        }
    }

    /// An answer goes from a node to the connection it is for, which another thread serves.
    pub(super) fn hand_over_answer(&mut self, index: usize, id: CallId, answer: Answer) {
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

    pub(super) fn answered(&mut self, index: usize, id: CallId, mut answer: Answer) {
        self.answer_seen(index, &mut answer);
        let at = self.elapsed();
        if self.trace.keeps_lines() {
            let text = describe::answer(&answer);
            let kind = match id.0 & OPERATOR {
                0 => Kind::Client((id.0 & ((1 << CLIENT_BITS) - 1)) as usize),
                _ => Kind::Run,
            };
            self.trace
                .line(at, kind, || format!("is told by n{}: {text}", index + 1));
        }
        if id.0 & OPERATOR != 0 {
            self.own_answers.insert(id, answer);
            return;
        }
        let client = (id.0 & ((1 << CLIENT_BITS) - 1)) as usize;
        let waits = self.clients.clients[client].pending.as_ref();
        if waits.is_none_or(|pending| pending.call != id) {
            return;
        }
        match answer {
            Answer::Etcd(result) => self.client_ends(client, End::Answered(result)),
            other => self.fail(Violation {
                invariant: "answers fit their questions",
                text: format!("{other:?}"),
            }),
        }
    }

    /// The calls under way at a host have no answer any more.
    pub(super) fn calls_lost(&mut self, host: usize) {
        for client in 0..self.clients.clients.len() {
            let pending = self.clients.clients[client].pending.as_ref();
            if pending.is_some_and(|pending| pending.host == host) {
                self.client_ends(client, End::Lost("the node is gone"));
            }
        }
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
