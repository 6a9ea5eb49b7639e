//! Who is let in.
//!
//! ```text
//! JoinRequest ─▶ read round ─▶ added, by name or address? ──no──▶ NotYet: it asks again
//!                                   │ yes
//!                                   ▼
//!                  Claim (replicated: the first folder wins) ─▶ Welcome, or refused for good
//! ```
//!
//! A member that lags behind knows of no member added since, and would turn away a node that has
//! every right to come in; hence the read round.

use base::NodeId;
use consensus::Member;

use super::{Group, Moment};
use crate::calls::{Admittance, Join, Waiter};
use crate::formation::other_kind;
use crate::interface::{ConnectionId, Output};
use crate::system::{self, SystemCommand};
use crate::wire::{Frame, JoinReply, Welcome};

impl Group {
    /// A node asks to be let in under a name that an operator has added.
    pub fn join_request(&mut self, moment: Moment, join: Join) {
        // A witness would not see what comes of a claim. The others are asked as well.
        if !self.is_witness() {
            self.calls.add_join(moment.now, join);
        }
    }

    /// The membership is as current as the request: claims the place, or says why not.
    pub(super) fn answer_join(&mut self, join: Join, out: &mut Vec<Output>) {
        let Join {
            connection,
            name,
            address,
            is_witness,
            claimant,
            deadline,
        } = join;
        let membership = self.replica.membership();
        let members = &membership.members;
        let named = members.iter().find(|(_, member)| member.name == name);
        // As etcd's clients add members: without a name, which it brings along.
        let unnamed = || {
            let is_its = |member: &Member| member.name.is_empty() && member.peer_address == address;
            members.iter().find(|(_, member)| is_its(member))
        };
        let reply = match named.or_else(unnamed) {
            None => JoinReply::NotYet(self.nobody_added(&name)),
            Some((id, _)) if self.genesis.members.contains_key(id) => JoinReply::Refused(format!(
                "the member {name} belongs to the cluster since it formed, and its data folder \
                 held its vote; run `quorate member remove {name}`, then `quorate member add \
                 {name} HOST:PORT`, and start this node again"
            )),
            Some((id, _)) if membership.is_witness(*id) != is_witness => {
                JoinReply::Refused(other_kind(&name, is_witness))
            }
            // It asks again before long, and is answered once the first claim is decided.
            Some((id, _)) if self.calls.is_claimed(*id) => return,
            Some((id, _)) => {
                let member = *id;
                let command = SystemCommand::Claim { member, claimant }.encode();
                let waiter = Waiter::Joiner { connection, member };
                let added = self.calls.add_command(
                    system::PROTOCOL,
                    command,
                    waiter,
                    deadline,
                    Admittance::Reserved,
                );
                // Without room for it now, there may be when it asks again.
                self.metrics.calls_refused += u64::from(added.is_err());
                return;
            }
        };
        let body = Frame::JoinReply(reply).encode();
        out.push(Output::Frame { connection, body });
    }

    fn nobody_added(&self, name: &str) -> String {
        format!(
            "no member called {name} has been added to cluster {}; run `quorate member add {name} \
             HOST:PORT` against a node of the cluster",
            self.cluster
        )
    }

    /// A claim has been executed.
    pub(super) fn answer_claim(
        &self,
        connection: ConnectionId,
        member: NodeId,
        result: Result<(), String>,
        out: &mut Vec<Output>,
    ) {
        let still_member = self.replica.membership().members.contains_key(&member);
        let reply = match result {
            Err(reason) => JoinReply::Refused(reason),
            Ok(()) if !still_member => {
                JoinReply::NotYet("the member has just been removed again".to_owned())
            }
            Ok(()) => JoinReply::Welcome(Welcome {
                cluster: self.cluster,
                node: member,
                genesis: self.genesis.clone(),
                engine: self.engine.kind(),
            }),
        };
        let body = Frame::JoinReply(reply).encode();
        out.push(Output::Frame { connection, body });
    }
}
