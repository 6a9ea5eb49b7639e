//! Leases: never early, never late, and their keys go with them.
//!
//! ```text
//! renewal asked ├──────── ttl ────────▶ deadline: not before, by the client's clock
//!               └─ answered ├── ttl ──────▶ + bound: gone by then, if nobody renewed
//! ```
//!
//! **The clock rule.** A renewal (or the grant) takes effect between its two lines, so the lease
//! lives at least until *invocation* + ttl, and at most until *answer* + ttl. The cluster's own
//! clock may run faster or slower than true time by `clock_drift_ppm`; what clock jumps may take
//! away is `lease_early_ns`, what a cluster without leader may add is `lease_late_ns`, counted from
//! the later of deadline and `calm`. Times in a history are those of the clients (in a simulation:
//! true time).
//!
//! The end of a lease is seen in an answer (no such lease, or a list without it), in the deletion
//! of its keys at a revision that nothing else explains, or told by an observer. A lease whose
//! number was granted more than once is judged only where an answer falls wholly between a renewal
//! and its deadline.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{
    EventKind, Failure, Initial, KeyValue, LeaseId, Led, Request, Response, Revision, Time,
};
use crate::linearizability::revisions::{Filler, Timeline};
use crate::order::Order;
use crate::report::{Counts, Findings, Rule};
use crate::run::{End, Moment, Operation, Run, moments};

/// A grant or keep-alive that took effect, or may have.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    operation: usize,
    invoked: Moment,
    /// `None`: unknown.
    ended: Option<Moment>,
    ttl: i64,
}

/// Something that shows that a lease was there, or not, at some moment between two.
#[derive(Clone, Debug)]
struct Sight {
    /// The operation that shows it, if it is one.
    operation: Option<usize>,
    from: Moment,
    to: Moment,
    text: String,
}

#[derive(Debug, Default)]
struct Lease {
    grants: u64,
    granted_ttl: i64,
    renewals: Vec<Renewal>,
    /// When revocations that were not refused began.
    revoked: Vec<Moment>,
    alive: Vec<Sight>,
    gone: Vec<Sight>,
}

/// All that is known of the leases of a run.
#[derive(Debug)]
pub(crate) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
}

impl Leases {
    pub(crate) fn new(run: &Run<'_>, order: &Order, timeline: Option<&Timeline>) -> Leases {
        let mut leases = Leases {
            leases: BTreeMap::new(),
        };
        for (index, operation) in run.operations.iter().enumerate() {
            leases.operation(index, operation);
        }
        // A keep-alive with unknown result renews for what was granted.
        for lease in leases.leases.values_mut() {
            for renewal in &mut lease.renewals {
                if renewal.ended.is_none() {
                    renewal.ttl = renewal.ttl.max(lease.granted_ttl);
                }
            }
        }
        for operation in &run.operations {
            leases.listed(operation);
        }
        for (moment, event) in moments(run.history) {
            if let EventKind::LeaseExpired { lease } = event {
                let text = format!("the cluster ended it (line {})", moment.line);
                leases.gone(*lease, None, moment, moment, text);
            }
        }
        if let Some(timeline) = timeline {
            leases.vanished_keys(run, order, timeline);
        }
        leases
    }

    fn entry(&mut self, lease: LeaseId) -> &mut Lease {
        self.leases.entry(lease).or_default()
    }

    fn gone(
        &mut self,
        lease: LeaseId,
        operation: Option<usize>,
        from: Moment,
        to: Moment,
        text: String,
    ) {
        self.entry(lease).gone.push(Sight {
            operation,
            from,
            to,
            text,
        });
    }

    fn alive(&mut self, lease: LeaseId, index: usize, operation: &Operation<'_>, to: Moment) {
        let text = format!("{} found it alive", operation.describe());
        self.entry(lease).alive.push(Sight {
            operation: Some(index),
            from: operation.invoked,
            to,
            text,
        });
    }

    fn operation(&mut self, index: usize, operation: &Operation<'_>) {
        let invoked = operation.invoked;
        match operation.end {
            End::Ok {
                moment, response, ..
            } => self.answered(index, operation, moment, response),
            End::Fail { moment, failure } => {
                let lease = match operation.request {
                    Request::Put(put) => put.lease,
                    Request::LeaseRevoke(revoke) => revoke.lease,
                    Request::LeaseKeepAlive(name) => name.lease,
                    Request::LeaseTimeToLive(question) => question.lease,
                    _ => return,
                };
                if *failure == Failure::LeaseNotFound && lease != LeaseId(0) {
                    let text = format!("{} found no such lease", operation.describe());
                    self.gone(lease, Some(index), invoked, moment, text);
                }
            }
            End::Unknown => match operation.request {
                Request::LeaseGrant(grant) if grant.lease != LeaseId(0) => {
                    let lease = self.entry(grant.lease);
                    lease.grants += 1;
                    lease.granted_ttl = lease.granted_ttl.max(grant.ttl);
                    lease
                        .renewals
                        .push(renewal(index, invoked, None, grant.ttl));
                }
                Request::LeaseKeepAlive(name) => {
                    self.entry(name.lease)
                        .renewals
                        .push(renewal(index, invoked, None, 0));
                }
                Request::LeaseRevoke(revoke) => self.entry(revoke.lease).revoked.push(invoked),
                _ => {}
            },
        }
    }

    fn answered(
        &mut self,
        index: usize,
        operation: &Operation<'_>,
        moment: Moment,
        response: &Response,
    ) {
        let invoked = operation.invoked;
        match (operation.request, response) {
            (Request::LeaseGrant(_), Response::LeaseGrant(granted)) => {
                let lease = self.entry(granted.lease);
                lease.grants += 1;
                lease.granted_ttl = lease.granted_ttl.max(granted.ttl);
                lease
                    .renewals
                    .push(renewal(index, invoked, Some(moment), granted.ttl));
            }
            (Request::LeaseKeepAlive(name), Response::LeaseKeepAlive(kept)) => {
                if kept.ttl <= 0 {
                    let text = format!("{} found no such lease", operation.describe());
                    self.gone(name.lease, Some(index), invoked, moment, text);
                } else {
                    self.alive(name.lease, index, operation, moment);
                    self.entry(name.lease).renewals.push(renewal(
                        index,
                        invoked,
                        Some(moment),
                        kept.ttl,
                    ));
                }
            }
            (Request::LeaseTimeToLive(question), Response::LeaseTimeToLive(answer)) => {
                if answer.ttl < 0 {
                    let text = format!("{} found no such lease", operation.describe());
                    self.gone(question.lease, Some(index), invoked, moment, text);
                } else {
                    self.alive(question.lease, index, operation, moment);
                }
            }
            (Request::LeaseRevoke(revoke), _) => self.entry(revoke.lease).revoked.push(invoked),
            (Request::Range(range), Response::Range(result))
                if !range.serializable && range.revision == Revision(0) =>
            {
                for lease in leases_of(&result.key_values) {
                    self.alive(lease, index, operation, moment);
                }
            }
            (Request::Put(put), _) if put.lease != LeaseId(0) => {
                self.alive(put.lease, index, operation, moment);
            }
            (_, Response::LeaseList(list)) => {
                for lease in &list.leases {
                    self.alive(*lease, index, operation, moment);
                }
            }
            (_, Response::Leader(Led { leader })) => {
                for lease in leases_of(leader.as_slice()) {
                    self.alive(lease, index, operation, moment);
                }
            }
            _ => {}
        }
    }

    /// A list of all leases shows of each that was granted whether it was there.
    fn listed(&mut self, operation: &Operation<'_>) {
        let Some((to, _, Response::LeaseList(list))) = operation.answer() else {
            return;
        };
        let from = operation.invoked;
        for (id, lease) in &mut self.leases {
            let was_there = lease
                .renewals
                .iter()
                .any(|renewal| renewal.ended.is_some_and(|ended| ended.line < from.line));
            if was_there && !list.leases.contains(id) {
                let text = format!("{} did not find it", operation.describe());
                lease.gone.push(Sight {
                    operation: None,
                    from,
                    to,
                    text,
                });
            }
        }
    }

    /// Whether a list shows a lease that nobody can have made: it was not there before the run,
    /// and every grant was asked for by number, or answered.
    fn invented(&self, run: &Run<'_>, findings: &mut Findings) {
        let is_of_client = |operation: &Operation<'_>| match operation.request {
            Request::LeaseGrant(grant) => grant.lease != LeaseId(0) || !operation.is_unknown(),
            _ => true,
        };
        let are_all_known =
            run.header.initial == Initial::default() && run.operations.iter().all(is_of_client);
        for operation in &run.operations {
            let Some((_, _, Response::LeaseList(list))) = operation.answer() else {
                continue;
            };
            let granted = |id: &LeaseId| self.leases.get(id).is_some_and(|lease| lease.grants > 0);
            let stranger = list.leases.iter().find(|id| !granted(id));
            if let Some(lease) = stranger.filter(|_| are_all_known) {
                let text = format!(
                    "{} shows lease {lease}, which nobody was granted",
                    operation.describe()
                );
                findings.add(Rule::LeaseAnswer, text, operation.lines());
            }
        }
    }

    /// Revisions that only the end of a lease explains.
    fn vanished_keys(&mut self, run: &Run<'_>, order: &Order, timeline: &Timeline) {
        for (revision, filler) in &timeline.fillers {
            let Filler::Expiry(lease) = filler else {
                continue;
            };
            if !timeline.ended_leases.contains(revision) {
                continue;
            }
            let line = order.seen_line(*revision);
            let at = usize::try_from(line)
                .ok()
                .and_then(|line| run.history.events.get(line.checked_sub(2)?))
                .map(|event| event.at);
            if let Some(at) = at {
                let moment = Moment { line, at };
                let text = format!(
                    "revision {revision}, seen by line {line}, deleted its keys, and no request did"
                );
                // Since when nobody can say: the keys were attached at the revision before.
                self.gone(*lease, None, moment, moment, text);
            }
        }
    }

    pub(crate) fn judge(&self, run: &Run<'_>, counts: &mut Counts, findings: &mut Findings) {
        counts.leases = self
            .leases
            .values()
            .filter(|lease| lease.grants > 0)
            .count() as u64;
        for operation in &run.operations {
            answer(operation, findings);
        }
        self.invented(run, findings);
        for (id, lease) in &self.leases {
            if *id == LeaseId(0) || lease.grants == 0 {
                continue;
            }
            lease.never_early(*id, run, findings);
            lease.never_late(*id, run, findings);
            lease.keys_go_too(*id, run, findings);
        }
    }

    /// Until when the lease certainly lives, counted from what its client knows at a moment.
    pub(crate) fn certain_until(&self, run: &Run<'_>, lease: LeaseId) -> Option<(Time, u64)> {
        let lease = self.leases.get(&lease)?;
        if lease.grants != 1 {
            return None;
        }
        let until = lease
            .renewals
            .iter()
            .filter(|renewal| renewal.ended.is_some())
            .map(|renewal| early_deadline(run, renewal))
            .max()?;
        let revoked = lease.revoked.iter().map(|moment| moment.line).min();
        Some((until, revoked.unwrap_or(u64::MAX)))
    }
}

fn renewal(operation: usize, invoked: Moment, ended: Option<Moment>, ttl: i64) -> Renewal {
    Renewal {
        operation,
        invoked,
        ended,
        ttl,
    }
}

fn leases_of(kvs: &[KeyValue]) -> Vec<LeaseId> {
    let mut leases: Vec<LeaseId> = kvs
        .iter()
        .map(|kv| kv.lease)
        .filter(|lease| *lease != LeaseId(0))
        .collect();
    leases.sort_unstable();
    leases.dedup();
    leases
}

fn nanoseconds(ttl: i64) -> u64 {
    u64::try_from(ttl)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
}

fn drift(run: &Run<'_>, ttl: u64) -> u64 {
    let parts = u128::from(ttl) * u128::from(run.header.bounds.clock_drift_ppm) / 1_000_000;
    u64::try_from(parts).unwrap_or(u64::MAX)
}

/// The lease lives at least until then.
fn early_deadline(run: &Run<'_>, renewal: &Renewal) -> Time {
    let ttl = nanoseconds(renewal.ttl);
    let lived = ttl
        .saturating_sub(drift(run, ttl))
        .saturating_sub(run.header.bounds.lease_early_ns);
    Time(renewal.invoked.at.0.saturating_add(lived))
}

impl Lease {
    fn never_early(&self, id: LeaseId, run: &Run<'_>, findings: &mut Findings) {
        for gone in &self.gone {
            let revoked = self.revoked.iter().any(|moment| moment.line < gone.to.line);
            if revoked {
                continue;
            }
            // Known to have been there before the sight begins.
            let existed = self.renewals.iter().any(|renewal| {
                renewal
                    .ended
                    .is_some_and(|ended| ended.line < gone.from.line)
            });
            let longest = self
                .renewals
                .iter()
                .filter(|renewal| {
                    renewal.ended.is_some_and(|ended| {
                        (existed && self.grants == 1) || ended.line < gone.from.line
                    })
                })
                .max_by_key(|renewal| early_deadline(run, renewal));
            let Some(renewal) = longest else {
                continue;
            };
            let deadline = early_deadline(run, renewal);
            if gone.to.at < deadline {
                let by = &run.operations[renewal.operation];
                let text = format!(
                    "lease {id} was gone at {} (line {}): {}. But {}, asked at {} and \
                     acknowledged, keeps it for {} s: not before {deadline}",
                    gone.to.at,
                    gone.to.line,
                    gone.text,
                    by.describe(),
                    renewal.invoked.at,
                    renewal.ttl,
                );
                let mut lines = by.lines();
                lines.extend([gone.from.line, gone.to.line]);
                lines.dedup();
                findings.add(Rule::LeaseEarly, text, lines);
                return;
            }
        }
    }

    /// By when it must be gone, if nothing renewed it after the moment but what is not `but`.
    fn late_deadline(&self, run: &Run<'_>, by: Moment, but: Option<usize>) -> Option<Time> {
        let bounds = &run.header.bounds;
        let calm = run.calm.map_or(Time(0), |moment| moment.at);
        let mut latest = None;
        for renewal in &self.renewals {
            if renewal.invoked.line > by.line || Some(renewal.operation) == but {
                continue;
            }
            let effect = match renewal.ended {
                Some(ended) => ended.at,
                None if bounds.unknown_ns == 0 => return None,
                None => Time(
                    renewal
                        .invoked
                        .at
                        .max(calm)
                        .0
                        .saturating_add(bounds.unknown_ns),
                ),
            };
            let ttl = nanoseconds(renewal.ttl);
            let until = effect.0.saturating_add(ttl).saturating_add(drift(run, ttl));
            latest = latest.max(Some(Time(until)));
        }
        let until = latest?.max(calm);
        Some(Time(until.0.saturating_add(bounds.lease_late_ns)))
    }

    fn never_late(&self, id: LeaseId, run: &Run<'_>, findings: &mut Findings) {
        if run.header.bounds.lease_late_ns == 0 {
            return;
        }
        // A lease that an observer saw end late counts as well.
        let told = self.gone.iter().filter(|gone| {
            gone.operation.is_none() && gone.from == gone.to && gone.text.starts_with("the cluster")
        });
        for sight in self.alive.iter().chain(told) {
            let Some(deadline) = self.late_deadline(run, sight.to, sight.operation) else {
                continue;
            };
            if sight.from.at > deadline {
                let text = format!(
                    "lease {id} must be gone by {deadline}, but at {} (line {}): {}",
                    sight.from.at, sight.from.line, sight.text
                );
                findings.add(Rule::LeaseLate, text, vec![sight.from.line, sight.to.line]);
                return;
            }
        }
    }

    /// Once it is gone, nobody finds it, or a key of it, again.
    fn keys_go_too(&self, id: LeaseId, run: &Run<'_>, findings: &mut Findings) {
        if self.grants != 1 {
            return;
        }
        let granted = self
            .renewals
            .iter()
            .filter_map(|renewal| renewal.ended)
            .map(|ended| ended.line)
            .min();
        let acknowledged = run.operations.iter().filter_map(|operation| {
            let Request::LeaseRevoke(revoke) = operation.request else {
                return None;
            };
            let (moment, ..) = operation.answer().filter(|_| revoke.lease == id)?;
            Some((moment.line, operation.describe()))
        });
        let gone = self
            .gone
            .iter()
            .filter(|gone| granted.is_some_and(|line| line < gone.from.line))
            .map(|gone| (gone.to.line, gone.text.clone()));
        let Some((line, how)) = gone.chain(acknowledged).min() else {
            return;
        };
        if let Some(alive) = self.alive.iter().find(|alive| alive.from.line > line) {
            let text = format!(
                "lease {id} was gone (line {line}: {how}), and yet later {} (line {})",
                alive.text, alive.to.line
            );
            let lines = vec![line, alive.from.line, alive.to.line];
            findings.add(Rule::LeaseKeys, text, lines);
        }
    }
}

/// Judges what one answer about a lease says by itself.
fn answer(operation: &Operation<'_>, findings: &mut Findings) {
    let Some((_, _, response)) = operation.answer() else {
        return;
    };
    let wrong = match (operation.request, response) {
        (Request::LeaseGrant(asked), Response::LeaseGrant(granted)) => {
            if granted.lease == LeaseId(0) {
                Some("no lease has number 0".to_owned())
            } else if asked.lease != LeaseId(0) && asked.lease != granted.lease {
                Some(format!("it was given lease {}", granted.lease))
            } else if granted.ttl < asked.ttl {
                Some(format!("it was granted {} s only", granted.ttl))
            } else {
                None
            }
        }
        (Request::LeaseTimeToLive(_), Response::LeaseTimeToLive(answer)) => (answer.ttl
            > answer.granted_ttl)
            .then(|| format!("{} s are left of {} s", answer.ttl, answer.granted_ttl)),
        (_, Response::LeaseList(list)) => {
            let distinct: BTreeSet<&LeaseId> = list.leases.iter().collect();
            (distinct.len() < list.leases.len()).then(|| "it shows a lease twice".to_owned())
        }
        _ => None,
    };
    if let Some(wrong) = wrong {
        let text = format!("{}: {wrong}", operation.describe());
        findings.add(Rule::LeaseAnswer, text, operation.lines());
    }
}
