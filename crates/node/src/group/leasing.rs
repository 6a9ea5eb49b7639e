//! Leases of a member at work: see [`crate::leases`] for the picture.

use std::time::Duration;

use base::Instant;
use etcd::auth::Caller;
use etcd::proto::etcdserverpb::ResponseHeader;
use state::{Lease, LeaseId};

use super::{Group, Moment};
use crate::calls::{Admittance, CallKind, Late, Renewals, Waiter, earlier};
use crate::interface::{Answer, CallId, Output, RenewedLeases};
use crate::leases::{self, LeaseCommand, LeaseOutcome, PROTOCOL, Parent};
use crate::replica::Outcome;
use crate::system::SystemCommand;

impl Group {
    /// A call renews leases. Those that are not its user's are left alone, and the others do not
    /// suffer from that: they may be those of other clients.
    pub(super) fn call_renew(
        &mut self,
        moment: Moment,
        id: CallId,
        caller: Option<&Caller>,
        (leases, known): (Vec<LeaseId>, Vec<(usize, etcd::Error)>),
        out: &mut Vec<Output>,
    ) {
        let refused = match self.replica.refused_renewals(caller, &leases) {
            Ok(refused) => refused,
            Err(error) => {
                let answer = Answer::LeasesRenewed(Err(error));
                return out.push(Output::Answer { id, answer });
            }
        };
        let refused = together(refused, known);
        let leases = without(leases, &refused);
        if leases.is_empty() {
            let renewed = self.renewed_leases(&[], &refused);
            let answer = Answer::LeasesRenewed(Ok(renewed));
            return out.push(Output::Answer { id, answer });
        }
        self.open(moment, id, CallKind::Renewals);
        self.calls.set_late(id, Late::ForLeader);
        self.renew(moment, id, leases, refused);
    }

    /// Whether somebody may renew a lease.
    pub(super) fn may_renew(
        &mut self,
        caller: Option<&Caller>,
        lease: LeaseId,
    ) -> Result<(), etcd::Error> {
        let refused = self.replica.refused_renewals(caller, &[lease])?;
        refused.first().map_or(Ok(()), |(_, error)| Err(*error))
    }

    /// Leases are renewed for an open call: done together with all others of this pass, or of the
    /// next few if the last ones have only just been sent.
    pub(super) fn renew(
        &mut self,
        moment: Moment,
        call: CallId,
        leases: Vec<LeaseId>,
        refused: Vec<(usize, etcd::Error)>,
    ) {
        let limits = &self.config.limits.leases;
        let latest = moment.now + self.longest_delay(moment.now, &leases);
        let renewals = Renewals {
            call,
            leases,
            refused,
        };
        self.leases.gather(moment.now, renewals, latest, limits);
    }

    /// For how long renewing these leases may be put off: for a small part of what is left of the
    /// one that ends first.
    fn longest_delay(&self, now: Instant, leases: &[LeaseId]) -> Duration {
        let limits = &self.config.limits.leases;
        let reader = self.replica.reader();
        let clock = self.leases.estimate(now, limits);
        let delay = |deadline: Duration| {
            deadline.saturating_sub(clock) / limits.renewal_delay_divisor.max(1)
        };
        // Nearly always, not even the lease that ends first of all is in a hurry. One that is
        // not known perhaps only has not been granted here yet, and then much is left of it.
        let all = reader.no_lease_due_before().map(delay);
        if all.is_none_or(|all| all >= limits.renewal_gathering) {
            return limits.renewal_gathering;
        }
        let known = leases.iter().filter_map(|lease| reader.lease(*lease));
        let least = known.map(|lease| delay(lease.deadline)).min();
        least.map_or(limits.renewal_gathering, |least| {
            least.min(limits.renewal_gathering)
        })
    }

    /// An id for a lease that does not exist, for a client that leaves the choice to us.
    pub(super) fn choose_lease_id(&mut self) -> i64 {
        loop {
            let id = (self.random.next_u64() >> 1) as i64;
            if id != 0 && self.replica.reader().lease(LeaseId(id)).is_none() {
                return id;
            }
        }
    }

    /// Sends renewals on their way, and on the leader what time has brought about. Renewals come
    /// first: a lease that is renewed with this pass does not end with it.
    pub(super) fn lease_pass(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.send_renewals(now, out);
        if !self.leads() {
            let clock = self.replica.reader().clock();
            let most = self.config.limits.leases.settled_while_following;
            self.replica.settle_leases(clock, most);
            return;
        }
        self.expire_leases(now);
        if self.replica.reader().lease_count() > 0 && self.leases.next_clock_entry <= now {
            self.leases.next_clock_entry = now + self.config.limits.leases.clock_interval;
            if self.proposals.is_empty() && self.queue.is_empty() {
                self.add_system_command(now, &SystemCommand::Nothing, Waiter::Nobody);
            }
        }
    }

    fn send_renewals(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.leases.renewals.is_empty() {
            return;
        }
        let latest = now + self.config.timing.request_timeout;
        let limits = self.config.limits.leases;
        for renewals in self.leases.take_renewals(now, &limits) {
            let leases = renewals.iter().flat_map(|each| &each.leases);
            let command = LeaseCommand::Renew(leases.copied().collect()).encode();
            let calls: Vec<CallId> = renewals.iter().map(|each| each.call).collect();
            // Whoever is told that it was not sent can count on that: it does not outlive them.
            let deadline = self.calls.first_deadline(&calls).unwrap_or(latest);
            let waiter = Waiter::Renewals(renewals);
            let reserved = Admittance::Reserved;
            let added = self
                .calls
                .add_command(PROTOCOL, command, waiter, deadline, reserved);
            if added.is_err() {
                self.metrics.calls_refused += calls.len() as u64;
                self.refuse_renewals(calls, etcd::Error::TooManyRequests, out);
            }
        }
    }

    fn refuse_renewals(
        &mut self,
        calls: impl IntoIterator<Item = CallId>,
        error: etcd::Error,
        out: &mut Vec<Output>,
    ) {
        for id in calls {
            if let Some(kind) = self.calls.close(id) {
                let answer = kind.failure(error);
                out.push(Output::Answer { id, answer });
            }
        }
    }

    /// The leader's own running time beyond what the executed entries say, at least: entries that
    /// are on their way are left out.
    fn clock_at_least(&self) -> Duration {
        let clock = self.replica.reader().clock();
        clock.saturating_add(self.running_time.whole())
    }

    fn expire_leases(&mut self, now: Instant) {
        if self.leases.expiring_until.is_some_and(|until| until > now) {
            return;
        }
        self.leases.expiring_until = None;
        self.leases.put_off.pass(now);
        let clock = self.clock_at_least();
        let most = leases::looked_at(&self.leases.put_off, &self.config.limits.leases);
        let is_settled = self.replica.settle_leases(clock, most);
        let (reader, limits) = (self.replica.reader(), &self.config.limits.leases);
        let put_off = &self.leases.put_off;
        let due = leases::due(reader, clock, put_off, limits);
        if due.is_empty() {
            // What is put off is due all the time: the next look waits, and misses no more by
            // that than an interval of the clock.
            // But what nobody has looked at yet is looked at with the next pass, which is soon.
            let look = put_off.next().filter(|_| is_settled);
            self.leases.expiring_until = look.map(|look| look.min(now + limits.clock_interval));
            return;
        }
        let patience = self.config.timing.request_timeout;
        let command = LeaseCommand::Expire(due.clone()).encode();
        self.leases.expiring = due;
        let deadline = now + patience;
        let (waiter, reserved) = (Waiter::Expiry, Admittance::Reserved);
        let added = self
            .calls
            .add_command(PROTOCOL, command, waiter, deadline, reserved);
        self.leases.expiring_until = Some(match added {
            Ok(()) => deadline,
            Err(_) => now + self.config.limits.resend_delay,
        });
    }

    /// The next moment at which a lease is over or the group's clock wants an entry.
    pub(super) fn lease_deadline(&self) -> Option<Instant> {
        let gathered = (!self.leases.renewals.is_empty()).then_some(self.leases.renewals_due);
        if !self.leads() {
            return gathered;
        }
        let ending = self.ending_deadline();
        let parents = self.parents_deadline();
        earlier(gathered, earlier(ending, parents))
    }

    /// The same on the leader, apart from renewals.
    fn ending_deadline(&self) -> Option<Instant> {
        let first = self.replica.reader().no_lease_due_before()?;
        let left = first.saturating_sub(self.clock_at_least());
        let expiry = match self.leases.expiring_until {
            Some(until) => until,
            None => self.last_pass + left,
        };
        // A longer time between two passes would not count in full as running time.
        let pass = self.last_pass + self.config.timing.election_timeout / 2;
        Some(expiry.min(self.leases.next_clock_entry).min(pass))
    }

    /// A call tells what is known of leases of the first group. Nothing is proposed for what stands
    /// here already: a lease that has ended meanwhile is not there for whoever comes next.
    pub(super) fn call_follow_parents(
        &mut self,
        moment: Moment,
        id: CallId,
        parents: Vec<Parent>,
        out: &mut Vec<Output>,
    ) {
        let reader = self.replica.reader();
        let is_tied = |parent: &Parent| match parent {
            Parent::Lives(tie) => {
                let lease = reader.lease(tie.id);
                lease.is_some_and(|lease| lease.parent == Some(tie.parent))
            }
            Parent::Over { .. } => false,
        };
        if parents.iter().all(is_tied) {
            let answer = Answer::ParentsFollowed(Ok(()));
            return out.push(Output::Answer { id, answer });
        }
        self.open(moment, id, CallKind::FollowParents);
        let ends_only = parents
            .iter()
            .all(|each| matches!(each, Parent::Over { .. }));
        let admittance = match ends_only {
            true => Admittance::Reserved,
            false => Admittance::Ordinary,
        };
        let waiter = Waiter::Call {
            call: id,
            until_compacted: false,
        };
        if !self.propose_following(moment.now, parents, waiter, admittance) {
            self.metrics.calls_refused += 1;
            self.fail(id, etcd::Error::TooManyRequests, out);
        }
    }

    fn propose_following(
        &mut self,
        now: Instant,
        parents: Vec<Parent>,
        waiter: Waiter,
        admittance: Admittance,
    ) -> bool {
        let command = LeaseCommand::Follow(parents).encode();
        let deadline = now + self.config.timing.request_timeout;
        let added = self
            .calls
            .add_command(PROTOCOL, command, waiter, deadline, admittance);
        added.is_ok()
    }

    /// On the leader: tied leases whose parents are to be looked for now.
    pub(crate) fn leases_to_look_after(&mut self, now: Instant) -> Vec<Lease> {
        if self.parents_deadline().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let limits = &self.config.limits.leases;
        let most = limits.parents_per_look.max(1);
        self.leases.next_parents = now + limits.parents_interval;
        let tied = self.replica.reader().tied_leases(self.leases.looked_after);
        let tied: Vec<Lease> = tied.take(most).collect();
        // From the beginning again behind the last one.
        let last = tied.last().filter(|_| tied.len() == most);
        self.leases.looked_after = last.map(|last| last.id);
        tied
    }

    /// On the leader: these leases have lost their parents. If nothing comes of it, the next look
    /// finds them again.
    pub(crate) fn end_orphans(&mut self, now: Instant, orphans: Vec<Parent>) {
        let most = self.config.limits.leases.expiries_per_command.max(1);
        for orphans in orphans.chunks(most) {
            let (orphans, waiter) = (orphans.to_vec(), Waiter::Nobody);
            self.propose_following(now, orphans, waiter, Admittance::Reserved);
        }
    }

    fn parents_deadline(&self) -> Option<Instant> {
        let has_tied = self.replica.reader().has_tied_leases();
        (self.leads() && has_tied).then_some(self.leases.next_parents)
    }

    /// Renewals were executed, or nobody knows.
    pub(super) fn renewed(
        &mut self,
        renewals: Vec<Renewals>,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        let error = match outcome {
            Outcome::Leases(Some(LeaseOutcome::Renewed(granted))) => {
                self.metrics.leases_renewed += granted.len() as u64;
                let mut granted = granted.into_iter();
                for renewals in renewals {
                    let count = renewals.leases.len();
                    let granted: Vec<_> = granted.by_ref().take(count).collect();
                    self.answer_renewed(&renewals, &granted, out);
                }
                return;
            }
            // Renewing twice does no harm.
            Outcome::Unknown => {
                let open = renewals.into_iter();
                let open = open.filter(|each| self.calls.is_open(each.call));
                self.leases.renew_again(self.last_pass, open);
                return;
            }
            Outcome::Etcd(Err(error)) => error,
            Outcome::Etcd(Ok(_))
            | Outcome::System(_)
            | Outcome::Leases(_)
            | Outcome::Maintenance(_)
            | Outcome::Meta(_) => {
                etcd::Error::Internal("quorate: renewals were answered with something else")
            }
        };
        self.refuse_renewals(renewals.iter().map(|each| each.call), error, out);
    }

    fn answer_renewed(
        &mut self,
        renewals: &Renewals,
        granted: &[Option<Duration>],
        out: &mut Vec<Output>,
    ) {
        let id = renewals.call;
        match self.calls.close(id) {
            // The client no longer waits.
            None => {}
            Some(CallKind::Renewals) => {
                let renewed = self.renewed_leases(granted, &renewals.refused);
                let answer = Answer::LeasesRenewed(Ok(renewed));
                out.push(Output::Answer { id, answer });
            }
            Some(_) => {
                let reader = self.replica.reader();
                let response = etcd::renewed(reader, renewals.leases[0], granted[0]);
                let answer = self.header().filled(Ok(response));
                out.push(Output::Answer { id, answer });
            }
        }
    }

    fn renewed_leases(
        &self,
        granted: &[Option<Duration>],
        refused: &[(usize, etcd::Error)],
    ) -> RenewedLeases {
        let mut header = ResponseHeader {
            revision: self.replica.reader().revision().0,
            ..ResponseHeader::default()
        };
        self.header().fill(&mut header);
        let seconds = in_order(granted, refused);
        RenewedLeases { header, seconds }
    }

    /// An Expire command of this node was executed.
    pub(super) fn expired(&mut self, outcome: &Outcome) {
        self.leases.expiring_until = None;
        let expiring = std::mem::take(&mut self.leases.expiring);
        match outcome {
            Outcome::Leases(Some(LeaseOutcome::Expired(count))) => {
                self.metrics.leases_expired += count;
            }
            // It had been executed before, or another leads.
            Outcome::Unknown => {}
            // Those before the one that failed have ended.
            _ => {
                let (reader, limits) = (self.replica.reader(), &self.config.limits.leases);
                let remains = |(id, deadline): &(LeaseId, Duration)| {
                    let lease = reader.lease(*id);
                    lease.is_some_and(|lease| lease.deadline == *deadline)
                };
                if let Some((id, _)) = expiring.into_iter().find(remains) {
                    self.leases
                        .put_off
                        .failed(self.last_pass, id, reader, limits);
                }
            }
        }
    }
}

/// What is refused, by whomever, in the order of places.
fn together(
    mut refused: Vec<(usize, etcd::Error)>,
    others: Vec<(usize, etcd::Error)>,
) -> Vec<(usize, etcd::Error)> {
    refused.extend(others);
    refused.sort_by_key(|(place, _)| *place);
    refused.dedup_by_key(|(place, _)| *place);
    refused
}

/// The leases that are not refused.
fn without(leases: Vec<LeaseId>, refused: &[(usize, etcd::Error)]) -> Vec<LeaseId> {
    // Nearly always none is.
    if refused.is_empty() {
        return leases;
    }
    let mut refused = refused.iter().peekable();
    let leases = leases.into_iter().enumerate();
    let left = leases.filter(|(place, _)| refused.next_if(|(at, _)| at == place).is_none());
    left.map(|(_, lease)| lease).collect()
}

/// What came of each lease of a call, in its order.
fn in_order(
    granted: &[Option<Duration>],
    refused: &[(usize, etcd::Error)],
) -> Vec<Result<i64, etcd::Error>> {
    let count = granted.len() + refused.len();
    let (mut granted, mut refused) = (granted.iter(), refused.iter().peekable());
    let each = |place| match refused.next_if(|(at, _)| *at == place) {
        Some((_, error)) => Err(*error),
        None => Ok(etcd::seconds_renewed(granted.next().copied().flatten())),
    };
    (0..count).map(each).collect()
}
