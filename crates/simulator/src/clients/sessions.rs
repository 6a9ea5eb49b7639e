//! Clients with leases: they renew in time, too late, or just then; vanish; and wait in line for a
//! lock or for a leadership, as the server's lock service does on behalf of its callers.
//!
//! ```text
//!   grant ─▶ renew · put with it · ask what is left · revoke · vanish: it must end by itself
//!              │
//!              └ lock: enter ─▶ look ahead ⇄ wait for the one ahead ─▶ check ─▶ hold ─▶ unlock
//!                campaign: the same                                 proclaim ⇄ lead ─▶ resign
//! ```
//!
//! In the history a lock is one operation, as it is to a caller of the service, and so is a
//! campaign; their steps are not recorded. Who gives up leaves the line, and who vanishes leaves it
//! to the lease.

use std::time::Duration;

use base::{Instant, Random};
use bytes::Bytes;
use checker::history::{
    Campaign, Key, LeaseId, Lock, Locked, Proclaimed, Request as Asked, Response as Told, Value,
};
use etcd::candidacy::{self, Candidate, Candidates};
use etcd::proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest,
};
use etcd::{Request, Response};

use super::recording::Recording;
use crate::marks::{Mark, Marks};
use crate::scenario::{Fault, Scenario};
use crate::world::host::ELECTION_TIMEOUTS;

/// Locks that clients compete for, and elections.
const LOCKS: u64 = 2;
/// After so many looks at who is ahead, a client may give up.
const PATIENT_LOOKS: u32 = 20;
/// How far around the end of a lease its client renews it, if it likes to live dangerously.
const BRINK: Duration = Duration::from_millis(40);
/// The longest time that clients ask for, in seconds.
pub const TTL_MAX: u64 = 5;

/// What a request of a client is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A request of its own: an operation of the history.
    #[default]
    Whole,
    /// A step on the way to a lock; the history has the lock.
    Step,
    /// Gives a lock back: a deletion, and an unlock in the history.
    Unlock,
    /// Says something as leader: a transaction, and a proclamation in the history.
    Proclaim,
    /// Steps back: a transaction, and a resignation in the history.
    Resign,
    /// Asks who leads: a read, and that question in the history.
    Leader,
    /// Asks for all leases.
    List,
}

/// What a client that waits in line does next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Enter,
    Look,
    Wait(Bytes),
    Check,
    Hold,
    Leave,
}

/// A client in line for a lock or a leadership, or holding it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    name: Bytes,
    /// What it says of itself as a candidate; `None` if it is in line for a lock.
    value: Option<Bytes>,
    candidate: Candidate,
    created: i64,
    step: Step,
    looks: u32,
    /// The operation in the history.
    operation: Option<u64>,
}

/// A lease and who has it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    lease: i64,
    /// When it was granted or last renewed, as its client knows for certain, and for how long.
    until: Instant,
    ttl: Duration,
    line: Option<Line>,
}

/// The session of one client, if it has one.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    session: Option<Session>,
    /// When the client means to renew, and does nothing until then.
    sleeps_until: Option<Instant>,
}

impl Sessions {
    /// Until when the client waits on purpose.
    pub(super) fn sleeps_until(&self) -> Option<Instant> {
        self.sleeps_until
    }

    /// What must come next, whatever the client would like: a renewal that it has slept for, or
    /// the next step of a lock.
    pub(super) fn must(&mut self, random: &mut Random) -> Option<(Request, Purpose)> {
        let session = self.session.as_mut()?;
        if self.sleeps_until.take().is_some() {
            return Some((renew(session.lease), Purpose::Whole));
        }
        let line = session.line.as_mut()?;
        if line.step == Step::Hold {
            return None;
        }
        // Who waits keeps its lease alive, most of the time.
        if line.step != Step::Enter && random.below(4) == 0 {
            return Some((renew(session.lease), Purpose::Whole));
        }
        Some((line.request(), Purpose::Step))
    }

    /// Draws something to do with leases.
    pub(super) fn draw_lease(
        &mut self,
        now: Instant,
        number: u64,
        put: (Bytes, Bytes),
        random: &mut Random,
    ) -> (Request, Purpose) {
        let Some(session) = &self.session else {
            return (grant(number, random), Purpose::Whole);
        };
        let lease = session.lease;
        let request = match random.below(20) {
            0..8 => {
                let (key, value) = put;
                Request::Put(PutRequest {
                    key,
                    value,
                    lease,
                    ..PutRequest::default()
                })
            }
            8..12 => renew(lease),
            12 => return (Request::LeaseLeases, Purpose::List),
            13..15 => Request::LeaseTimeToLive(LeaseTimeToLiveRequest {
                id: lease,
                keys: true,
            }),
            15 => Request::LeaseRevoke(LeaseRevokeRequest { id: lease }),
            16 | 17 if session.line.is_none() => {
                let early = Duration::from_nanos(random.below(2 * BRINK.as_nanos() as u64));
                let brink = (session.until + early)
                    .0
                    .saturating_sub(BRINK.as_nanos() as u64);
                self.sleeps_until = Some(Instant(brink.max(now.0)));
                renew(lease)
            }
            _ => {
                // It vanishes; somebody else comes in its place.
                self.session = None;
                grant(number, random)
            }
        };
        (request, Purpose::Whole)
    }

    /// Draws something to do with locks: gets in line, or gives back.
    pub(super) fn draw_lock(&mut self, number: u64, random: &mut Random) -> (Request, Purpose) {
        let Some(session) = &mut self.session else {
            return (grant(number, random), Purpose::Whole);
        };
        if let Some(line) = session.line.take() {
            return line.give_back();
        }
        let name = Bytes::from(format!("lock{}", random.below(LOCKS)));
        session.get_in_line(name, None)
    }

    /// Draws something to do with elections: a candidacy, something that leaders do, or a question.
    pub(super) fn draw_election(&mut self, number: u64, random: &mut Random) -> (Request, Purpose) {
        let name = Bytes::from(format!("election{}", random.below(LOCKS)));
        if random.below(4) == 0 {
            let first = Candidates::new(&name).first();
            return (Request::Range(first), Purpose::Leader);
        }
        let Some(session) = &mut self.session else {
            return (grant(number, random), Purpose::Whole);
        };
        let value = Bytes::from(format!("e{number}"));
        match session.line.take() {
            None => session.get_in_line(name, Some(value)),
            Some(line) if line.value.is_some() && random.below(3) > 0 => {
                let key = line.candidate.key().clone();
                let (fence, lease) = (line.created, session.lease);
                session.line = Some(line);
                let proclaim = candidacy::announce(key, fence, lease, value);
                (Request::Txn(proclaim), Purpose::Proclaim)
            }
            Some(line) => line.give_back(),
        }
    }

    /// A step is asked for: the history learns of the lock with the first.
    pub(super) fn begins(&mut self, now: Instant, client: usize, recording: &mut Recording) {
        let Some(session) = &mut self.session else {
            return;
        };
        if let Some(line) = &mut session.line
            && line.operation.is_none()
        {
            let (name, lease) = (Key(line.name.clone()), LeaseId(session.lease));
            let request = match &line.value {
                None => Asked::Lock(Lock { name, lease }),
                Some(value) => Asked::Campaign(Campaign {
                    name,
                    lease,
                    value: Value(value.clone()),
                }),
            };
            line.operation = Some(recording.begins(now, client, request));
        }
    }

    /// An answer about what it leads: who does not any more has lost it.
    pub(super) fn told(&mut self, now: Instant, told: &Told, recording: &mut Recording) {
        if let Told::Proclaim(Proclaimed { leads: false }) = told {
            self.lost(now, "another leads", recording);
        }
    }

    /// An answer about the lease itself.
    pub(super) fn learn(
        &mut self,
        asked: Instant,
        now: Instant,
        response: &Response,
        recording: &mut Recording,
        marks: &mut Marks,
    ) {
        match response {
            Response::LeaseGrant(granted) => {
                let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
                self.session = Some(Session {
                    lease: granted.id,
                    until: asked + ttl,
                    ttl,
                    line: None,
                });
            }
            Response::LeaseKeepAlive(kept) if kept.ttl > 0 => {
                if let Some(session) = &mut self.session {
                    if session.until <= asked {
                        marks.reach(Mark::RenewedLate);
                    }
                    session.until = asked + session.ttl;
                }
            }
            Response::LeaseKeepAlive(_) => {
                marks.reach(Mark::LeaseGone);
                self.lost(now, "its lease is gone", recording);
            }
            Response::LeaseRevoke(_) => self.lost(now, "its lease was revoked", recording),
            _ => {}
        }
    }

    /// The client has no lease any more.
    pub(super) fn lost(&mut self, now: Instant, reason: &str, recording: &mut Recording) {
        self.sleeps_until = None;
        let line = self.session.take().and_then(|session| session.line);
        if let Some(Line {
            operation: Some(operation),
            step,
            ..
        }) = line
            && step != Step::Hold
        {
            recording.unknown(now, operation, reason);
        }
    }

    /// A step on the way to a lock has ended. `None`: nobody knows how.
    pub(super) fn stepped(
        &mut self,
        now: Instant,
        response: Option<&Response>,
        recording: &mut Recording,
        marks: &mut Marks,
        random: &mut Random,
    ) {
        let Some(line) = self.session.as_mut().and_then(|each| each.line.as_mut()) else {
            return;
        };
        let next = match (&line.step, response) {
            (Step::Enter, Some(Response::Txn(entered))) => {
                // A candidate of this lease that said something else of itself stands there still.
                let own = Candidate::entered(entered)
                    .filter(|own| line.value.is_none() || own.earlier_value.is_none());
                own.map(|own| {
                    line.created = own.revision;
                    Step::Look
                })
            }
            (Step::Look, Some(Response::Range(found))) => {
                line.looks += 1;
                Some(match candidacy::only(found) {
                    None => Step::Check,
                    Some(_) if line.looks > PATIENT_LOOKS && random.below(4) == 0 => Step::Leave,
                    Some(ahead) => {
                        if line.value.is_none() {
                            marks.reach(Mark::LockWaited);
                        }
                        Step::Wait(ahead.key.clone())
                    }
                })
            }
            (Step::Wait(key), Some(Response::Range(found))) => {
                line.looks += 1;
                Some(match found.kvs.is_empty() {
                    true => Step::Look,
                    false if line.looks > PATIENT_LOOKS && random.below(8) == 0 => Step::Leave,
                    false => Step::Wait(key.clone()),
                })
            }
            (Step::Check, Some(Response::Range(found))) => {
                let held = candidacy::only(found).map(|own| own.create_revision);
                (held == Some(line.created)).then_some(Step::Hold)
            }
            // Reads are tried again for as long as nobody can answer them.
            (Step::Look | Step::Wait(_) | Step::Check, None) => return,
            _ => None,
        };
        match next {
            Some(Step::Hold) => {
                let Some(Response::Range(own)) = response else {
                    return;
                };
                let revision = own.header.as_ref().map_or(0, |header| header.revision);
                let operation = line.operation.expect("a line that moves has begun");
                line.step = Step::Hold;
                let held = Locked {
                    key: Key(line.candidate.key().clone()),
                    fence: super::recording::revision(line.created),
                };
                let (mark, told) = match line.value {
                    None => (Mark::LockHeld, Told::Lock(held)),
                    Some(_) => (Mark::Elected, Told::Campaign(held)),
                };
                marks.reach(mark);
                recording.ends(now, operation, revision, told);
            }
            Some(next) => line.step = next,
            // It has left, or lost its place, or nobody knows: a place may still be there.
            None => self.lost(now, "the wait for the lock ended", recording),
        }
    }
}

impl Line {
    /// It is held: what is not goes on by itself.
    fn give_back(self) -> (Request, Purpose) {
        let key = self.candidate.key().clone();
        match self.value {
            None => {
                let unlock = DeleteRangeRequest {
                    key,
                    ..DeleteRangeRequest::default()
                };
                (Request::DeleteRange(unlock), Purpose::Unlock)
            }
            Some(_) => {
                let resign = candidacy::leave(key, self.created);
                (Request::Txn(resign), Purpose::Resign)
            }
        }
    }

    fn request(&self) -> Request {
        match &self.step {
            Step::Enter => {
                let value = self.value.clone().unwrap_or_default();
                Request::Txn(self.candidate.enter(value))
            }
            Step::Look => Request::Range(self.candidate.ahead(self.created)),
            Step::Wait(key) => super::range(key.clone(), false),
            Step::Check | Step::Hold => Request::Range(self.candidate.own()),
            Step::Leave => {
                let key = self.candidate.key().clone();
                Request::Txn(candidacy::leave(key, self.created))
            }
        }
    }
}

impl Session {
    fn get_in_line(&mut self, name: Bytes, value: Option<Bytes>) -> (Request, Purpose) {
        let candidate = Candidates::new(&name).candidate(self.lease);
        let line = Line {
            name,
            value,
            candidate,
            created: 0,
            step: Step::Enter,
            looks: 0,
            operation: None,
        };
        let request = line.request();
        self.line = Some(line);
        (request, Purpose::Step)
    }
}

fn grant(number: u64, random: &mut Random) -> Request {
    Request::LeaseGrant(LeaseGrantRequest {
        // A client may choose; never the same twice.
        id: match random.below(4) {
            0 => 0,
            _ => number as i64 + 1_000,
        },
        ttl: random.below(TTL_MAX) as i64 + 1,
    })
}

fn renew(lease: i64) -> Request {
    Request::LeaseKeepAlive(LeaseKeepAliveRequest { id: lease })
}

/// What leases of a run are held to, by what the run does to clocks.
#[must_use]
pub fn bounds(scenario: &Scenario) -> checker::history::Bounds {
    let counted_at_most = match scenario.flags_differ {
        true => Duration::from_millis(ELECTION_TIMEOUTS.into_iter().max().unwrap_or(0)),
        false => node::Timing::default().election_timeout,
    };
    let mut bounds = checker::history::Bounds {
        // Until somebody leads again and everything due has been ended.
        lease_late_ns: Duration::from_secs(60).as_nanos() as u64,
        ..checker::history::Bounds::default()
    };
    for planned in &scenario.faults {
        match planned.fault {
            Fault::ClockDrift { parts, .. } => {
                let faster = u32::try_from(parts.unsigned_abs()).unwrap_or(u32::MAX);
                bounds.clock_drift_ppm = bounds.clock_drift_ppm.max(faster);
            }
            Fault::ClockJump { by, .. } => {
                let jump = Duration::from_micros(by).min(counted_at_most);
                bounds.lease_early_ns += jump.as_nanos() as u64;
            }
            _ => {}
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Planned, Who};

    #[test]
    fn leases_are_held_to_what_a_run_does_to_clocks_and_to_nothing_else() {
        let mut scenario = crate::swarm::calm(1, 3, 1, 1_000, 1_000_000);
        let plain = bounds(&scenario);
        assert_eq!((plain.clock_drift_ppm, plain.lease_early_ns), (0, 0));
        let who = Who::Leader;
        for fault in [
            Fault::ClockDrift { who, parts: -3_000 },
            Fault::ClockDrift { who, parts: 2_000 },
            Fault::ClockJump { who, by: 100_000 },
            Fault::ClockJump {
                who,
                by: 60_000_000,
            },
        ] {
            scenario.faults.push(Planned { at: 1, fault });
        }
        let bent = bounds(&scenario);
        assert_eq!(bent.clock_drift_ppm, 3_000);
        // A jump counts for an election timeout of half a second at most.
        assert_eq!(bent.lease_early_ns, 600_000_000);
    }
}
