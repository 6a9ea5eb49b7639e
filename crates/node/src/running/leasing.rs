//! Leases of a member at work: see [`crate::leases`] for the picture.

use std::time::Duration;

use base::Instant;
use state::LeaseId;

use super::{Moment, Running};
use crate::calls::{CallKind, Waiter};
use crate::interface::{CallId, Output};
use crate::leases::{self, LeaseCommand, LeaseOutcome, PROTOCOL};
use crate::replica::Outcome;
use crate::system::SystemCommand;

impl Running {
    /// A client renews a lease: done together with all others of this pass, or of the next few
    /// if the last ones have only just been sent.
    pub(super) fn renew(&mut self, moment: Moment, id: CallId, lease: LeaseId) {
        let deadline = moment.now + self.config.timing.request_timeout;
        self.calls.open(id, CallKind::Etcd, deadline);
        let limits = &self.config.limits.leases;
        let latest = match self.replica.reader().lease(lease) {
            Some(lease) => {
                let clock = self.leases.estimate(moment.now, limits);
                let left = lease.deadline.saturating_sub(clock);
                moment.now + left / limits.renewal_delay_divisor.max(1)
            }
            // Perhaps it only has not been granted here yet, and then much is left of it.
            None => moment.now + limits.renewal_gathering,
        };
        self.leases.gather(moment.now, (id, lease), latest, limits);
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
        let deadline = now + self.config.timing.request_timeout;
        let limits = self.config.limits.leases;
        let renewals = self.leases.take_renewals(now, &limits);
        for renewals in renewals.chunks(limits.renewals_per_command.max(1)) {
            let leases = renewals.iter().map(|(_, lease)| *lease).collect();
            let command = LeaseCommand::Renew(leases).encode();
            let waiter = Waiter::Renewals(renewals.to_vec());
            let added = self.calls.add_command(PROTOCOL, command, waiter, deadline);
            if added.is_err() {
                self.metrics.calls_refused += renewals.len() as u64;
                for (call, _) in renewals {
                    self.answer_etcd(*call, Err(etcd::Error::TooManyRequests), out);
                }
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
        let reader = self.replica.reader();
        let due = leases::due(reader, self.clock_at_least(), &self.config.limits.leases);
        if due.is_empty() {
            return;
        }
        let patience = self.config.timing.request_timeout;
        let command = LeaseCommand::Expire(due).encode();
        let deadline = now + patience;
        let added = self
            .calls
            .add_command(PROTOCOL, command, Waiter::Expiry, deadline);
        self.leases.expiring_until = Some(match added {
            Ok(()) => deadline,
            Err(_) => now + self.config.limits.resend_delay,
        });
    }

    /// The next moment at which a lease is over or the group's clock wants an entry.
    pub(super) fn lease_deadline(&self) -> Option<Instant> {
        let gathered = (!self.leases.renewals.is_empty()).then_some(self.leases.renewals_due);
        let ending = self.leads().then(|| self.ending_deadline()).flatten();
        gathered.into_iter().chain(ending).min()
    }

    /// The same on the leader, apart from renewals.
    fn ending_deadline(&self) -> Option<Instant> {
        let first = self.replica.reader().first_lease_deadline()?;
        let left = first.saturating_sub(self.clock_at_least());
        let expiry = match self.leases.expiring_until {
            Some(until) => until,
            None => self.last_pass + left,
        };
        // A longer time between two passes would not count in full as running time.
        let pass = self.last_pass + self.config.timing.election_timeout / 2;
        Some(expiry.min(self.leases.next_clock_entry).min(pass))
    }

    /// Renewals were executed, or nobody knows.
    pub(super) fn renewed(
        &mut self,
        renewals: Vec<(CallId, LeaseId)>,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        let error = match outcome {
            Outcome::Leases(Some(LeaseOutcome::Renewed(granted))) => {
                self.metrics.leases_renewed += granted.len() as u64;
                for ((call, lease), granted) in renewals.into_iter().zip(granted) {
                    let response = etcd::renewed(self.replica.reader(), lease, granted);
                    self.answer_etcd(call, Ok(response), out);
                }
                return;
            }
            // Renewing twice does no harm.
            Outcome::Unknown => {
                let open = renewals.into_iter();
                let open = open.filter(|(call, _)| self.calls.is_open(*call));
                self.leases.renew_again(self.last_pass, open);
                return;
            }
            Outcome::Etcd(Err(error)) => error,
            Outcome::Etcd(Ok(_)) | Outcome::System(_) | Outcome::Leases(_) => {
                etcd::Error::Internal("quorate: renewals were answered with something else")
            }
        };
        for (call, _) in renewals {
            self.answer_etcd(call, Err(error), out);
        }
    }

    /// An Expire command of this node was executed.
    pub(super) fn expired(&mut self, outcome: &Outcome) {
        self.leases.expiring_until = None;
        if let Outcome::Leases(Some(LeaseOutcome::Expired(count))) = outcome {
            self.metrics.leases_expired += count;
        }
    }
}
